package directory

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// TestTableKeepsWhoAnswers is the attack: 200 members say that they are servers, to have one
// forget those that it has. Who does not answer takes nobody's place. Who does takes that of
// one that does not answer any more, and else only that of one whose account has more of the
// bucket.
func TestTableKeepsWhoAnswers(t *testing.T) {
	own := func(n int) membership.Key { return membership.Key{1, byte(n)} }
	for _, c := range []struct {
		what   string
		there  server                     // as each of the servers is when the newcomers come
		many   int                        // of them
		of     func(n int) membership.Key // the invitation of one; nil: one of all
		comes  server                     // a newcomer
		pause  time.Duration              // between two
		tokens int                        // that those came by
		stay   int                        // of the servers
	}{
		{"newcomers that say nothing, and servers that are connected", server{}, bucketSize, own, server{late: -1}, time.Second, 200, bucketSize},
		{"newcomers that say nothing, and servers that are not connected", server{apart: true}, bucketSize, own, server{late: -1}, time.Second, 200, bucketSize},
		{"newcomers that answer, and servers that are connected", server{}, bucketSize, own, server{}, time.Second, 200, bucketSize},
		{"newcomers that answer, and servers that are not connected", server{apart: true}, bucketSize, own, server{}, time.Second, 200, bucketSize},
		{"newcomers that answer, and servers that are gone", server{away: true}, bucketSize, own, server{}, time.Second, 200, 0},
		{"newcomers that answer at once, where there is room for one", server{}, bucketSize - 1, own, server{late: time.Second}, 0, 200, bucketSize - 1},
		{"newcomers of four tokens that say nothing, and servers of one", server{}, bucketSize, nil, server{late: -1}, time.Second, 4, bucketSize},
		{"newcomers of four tokens that answer, and servers of one", server{}, bucketSize, nil, server{}, time.Second, 4, bucketSize / 5},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				n := o.node(o.member("earth"))
				defer n.cancel()
				self := kb.ConvertPeerID(toPeer(n.cfg.Self))
				made := 0
				add := func(of membership.Key, s *server) peer.ID { // of one bucket
					for {
						made++
						id := peerid.ID(sha256.Sum256(fmt.Append(nil, "server ", made)))
						if p := toPeer(id); kb.CommonPrefixLen(self, kb.ConvertPeerID(p)) == 0 {
							n.roster.Note(&membership.Member{Peer: id, Invitation: of})
							o.mu.Lock()
							o.servers[p] = s
							o.mu.Unlock()
							return p
						}
					}
				}
				var there []peer.ID
				for i := range c.many {
					of := membership.Key{1}
					if c.of != nil {
						of = c.of(i)
					}
					s := &server{}
					p := add(of, s)
					n.db.tryServer(p)
					o.mu.Lock()
					*s = c.there
					o.mu.Unlock()
					there = append(there, p)
				}
				time.Sleep(answersFor)
				for i := range 200 {
					comes := c.comes
					n.db.consider(add(membership.Key{2, byte(i % c.tokens)}, &comes))
					if time.Sleep(c.pause); c.pause > 0 {
						synctest.Wait()
					}
				}
				time.Sleep(2 * tryTimeout)
				synctest.Wait()
				stay := 0
				for _, p := range there {
					if n.db.knows(p) {
						stay++
					}
				}
				if stay != c.stay || n.db.table.Size() != bucketSize {
					t.Errorf("%d of %d are left in a table of %d, want %d", stay, c.many, n.db.table.Size(), c.stay)
				}
				if n.db.mu.Lock(); len(n.db.asking) > 0 {
					t.Errorf("%d are asked still", len(n.db.asking))
				}
				n.db.mu.Unlock()
			})
		})
	}
}
