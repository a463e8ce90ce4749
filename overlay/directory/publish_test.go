package directory

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// recordCount is how many this peer has in the database: its name's under each key, and
// its contacts'.
const recordCount = naming.Replicas + 1

// published is a member that has put its records at servers it knows, and goes on.
func published(t *testing.T, servers int) (*overlay, *node, []peer.ID) {
	t.Helper()
	o := newOverlay(t)
	var ids []peer.ID
	for range servers {
		p, _ := o.add()
		ids = append(ids, p)
	}
	n := o.node(o.member("mars"))
	n.know()
	n.Publish(t.Context())
	go n.Run()
	settleRounds(t)
	return o, n, ids
}

// settleRounds lets all rounds end that are due now.
func settleRounds(t *testing.T) {
	time.Sleep(3 * publishPause)
	synctest.Wait()
}

// heard is that a server says hello.
func (n *node) heard(p peer.ID) {
	n.o.mu.Lock()
	s := n.o.servers[p]
	young, run := s.young, s.run
	n.o.mu.Unlock()
	n.Heard(p, true, young, run)
}

// lacks says whether a server lacks one of the records.
func (n *node) lacks(p peer.ID) bool {
	n.o.mu.Lock()
	defer n.o.mu.Unlock()
	for _, r := range n.publisher.records() {
		if n.o.servers[p].records[r.key] == nil {
			return true
		}
	}
	return false
}

// TestContactsOfOneToken is the attack: keys of one token become the servers nearest a
// member. They are not all that its record names, and are where there are no others.
func TestContactsOfOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("mars"))
		named := func() (hostile, all int) {
			n.publisher.mu.Lock()
			defer n.publisher.mu.Unlock()
			for _, id := range n.publisher.contactsLocked() {
				all++
				if n.roster.members[id].Invitation == (membership.Key{1}) {
					hostile++
				}
			}
			return hostile, all
		}
		var servers []peer.ID
		for range 64 {
			p, _ := o.add()
			servers = append(servers, p)
			n.roster.members[fromPeer(p)] = &membership.Member{Peer: fromPeer(p), Invitation: membership.Key{1}}
		}
		if hostile, all := named(); hostile != naming.MaxMembers || all != hostile {
			t.Errorf("where there are no others, %d of %d", hostile, all)
		}
		far := kb.SortClosestPeers(servers, kb.ConvertPeerID(toPeer(n.cfg.Self)))[len(servers)-1]
		n.roster.members[fromPeer(far)].Invitation = membership.Key{2}
		if hostile, all := named(); hostile != perAccount || all != naming.MaxMembers {
			t.Errorf("beside one other, %d of %d", hostile, all)
		}
	})
}

// TestBeginsAnewAllTheTime is the attack: a server says in each hello that it has just
// begun anew, so that others give it their records each time. They do once in a while.
func TestBeginsAnewAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, ids := published(t, 1)
		o.counts()
		anew := 0
		const hellos = 1000
		for range hellos {
			o.mu.Lock()
			o.servers[ids[0]].run++
			run := o.servers[ids[0]].run
			o.mu.Unlock()
			if n.runs.note(ids[0], false, run) {
				anew++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if most := int(hellos*10*time.Millisecond/anewEvery) + 1; anew > most || anew == 0 {
			t.Errorf("%d of %d hellos are believed, want %d at most", anew, hellos, most)
		}
		time.Sleep(anewEvery)
		if !n.runs.note(ids[0], false, o.servers[ids[0]].run+1) {
			t.Error("later one is not")
		}
		n.Stop()
	})
}

// TestRequests counts what comings and goings of others cost: nothing where the
// servers have what they should, one request for each record that one lacks, and no
// walk.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = naming.MaxMembers + 1 // more than the contact record names
		o, n, ids := published(t, many)
		want := func(what string, asks, gives int) {
			t.Helper()
			settleRounds(t)
			if a, g := o.counts(); a != asks || g != gives {
				t.Errorf("%s: %d questions and %d puts, want %d and %d", what, a, g, asks, gives)
			}
		}
		want("at first", recordCount*many, recordCount*many)

		for range 10 {
			for _, p := range ids {
				n.heard(p)
			}
		}
		want("all servers say hello, ten times", 0, 0)

		p, s := o.add()
		n.Entered()
		n.heard(p)
		want("a server comes", 0, recordCount)
		if n.lacks(p) {
			t.Error("a server that has come lacks records")
		}

		o.mu.Lock()
		s.young, s.records = true, map[string][]byte{}
		s.run++
		o.mu.Unlock()
		for range 10 {
			n.heard(p)
			settleRounds(t)
		}
		want("it has begun anew, and says so ten times", 0, recordCount)

		o.mu.Lock()
		s.young, s.records = false, map[string][]byte{}
		s.run++
		o.mu.Unlock()
		n.heard(p)
		want("it has begun anew, and is heard of late", 0, recordCount)
		if n.lacks(p) {
			t.Error("a server that has begun anew lacks records")
		}

		o.mu.Lock()
		s.away = true
		o.mu.Unlock()
		n.Left(p, false)
		want("it goes, and is asked whether it does", 1, 0)

		o.mu.Lock()
		s.away = false
		o.mu.Unlock()
		n.Entered()
		n.heard(p)
		want("and comes back", 0, recordCount)

		n.Left(p, true)
		n.heard(p)
		want("its connection is trimmed, and made again", 0, 0)
		n.Stop()
	})
}

// TestManyAtOnce: what comes together is put together, and the contact record, which
// names those that have come, once more.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, _ := published(t, 1)
		o.counts()
		const more = 5
		for range more {
			p, _ := o.add()
			n.Entered()
			n.heard(p)
		}
		settleRounds(t)
		if a, g := o.counts(); a != 0 || g != naming.Replicas*more+more+1 {
			t.Errorf("%d servers come at once: %d questions, %d puts", more, a, g)
		}
		n.Stop()
	})
}

// TestNobodyThere: while no server is connected nothing is sent, whatever changes;
// when one is, all is put.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		p, s := o.add()
		s.away = true
		n := o.node(o.member("mars"))
		n.know()
		n.Publish(t.Context())
		go n.Run()
		for range 10 {
			n.Changed()
			n.ContactsChanged()
			settleRounds(t)
		}
		time.Sleep(2 * publishEvery)
		if a, g := o.counts(); a+g > 0 {
			t.Errorf("nobody is there: %d questions, %d puts", a, g)
		}
		o.mu.Lock()
		s.away = false
		o.mu.Unlock()
		n.Entered()
		n.heard(p)
		settleRounds(t)
		if n.lacks(p) {
			t.Error("a server has come, and lacks records")
		}
		n.Stop()
	})
}

// TestPlaced: who has come in waits until whoever asks for it finds it: until a server
// has its name, or it is the only server itself.
func TestPlaced(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*server)
		after  func(*node, peer.ID, *server) // a minute later
	}{
		"a server that takes nothing at first": {
			func(s *server) { s.deaf = true },
			func(_ *node, _ peer.ID, s *server) { s.deaf = false },
		},
		"one that is too busy to answer": {
			func(s *server) { s.late = -1 },
			func(_ *node, _ peer.ID, s *server) { s.late = 0 },
		},
		"one that is not connected": {
			func(s *server) { s.away = true },
			func(n *node, p peer.ID, s *server) {
				s.away = false
				go func() { n.Entered(); n.heard(p) }()
			},
		},
		"no other": {
			func(s *server) { s.away = true },
			func(n *node, _ peer.ID, _ *server) { go n.Serve() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				p, s := o.add()
				c.before(s)
				n := o.node(o.member("mars"))
				n.know()
				var said atomic.Int32
				n.cfg.Events = func(e event.Event) {
					if e.Kind == event.NamePublished {
						said.Add(1)
					}
				}
				go n.Run()
				time.AfterFunc(time.Minute, func() {
					o.mu.Lock()
					defer o.mu.Unlock()
					c.after(n, p, s)
				})
				start := time.Now()
				n.Publish(t.Context())
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute/2)
				if n.Placed(ctx) {
					t.Errorf("after %v", time.Since(start))
				}
				cancel()
				if !n.Placed(t.Context()) || time.Since(start) < time.Minute || time.Since(start) > 4*publishRetryMax {
					t.Errorf("after %v", time.Since(start))
				}
				if !n.db.isServer() && n.publisher.names[0].taken() == 0 || said.Load() != 1 {
					t.Errorf("%d have it, which is said %d times", n.publisher.names[0].taken(), said.Load())
				}
				n.Stop()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, n, _ := published(t, 3)
		if start := time.Now(); !n.Placed(t.Context()) || time.Since(start) > 0 {
			t.Error("waited for what is there")
		}
		n.Stop()
	})
}

// TestHoldersGone: what a server had that is gone is given to the next nearest,
// without a walk.
func TestHoldersGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, _ := published(t, 3*replicas)
		o.counts()
		r := n.publisher.names[0]
		all := o.sorted(r.key)
		id := map[*server]peer.ID{}
		for p, s := range o.servers {
			id[s] = p
		}
		for i, s := range all[:replicas] {
			o.mu.Lock()
			s.away = true
			o.mu.Unlock()
			n.Left(id[s], false)
			settleRounds(t)
			if all[replicas+i].records[r.key] == nil {
				t.Errorf("%d holders gone: the next nearest has not got the record", i+1)
			}
		}
		// Each that has gone is asked whether it has.
		if asks, _ := o.counts(); asks != replicas {
			t.Errorf("%d questions for %d that have gone", asks, replicas)
		}
		n.Stop()
	})
}

// TestDeafServer: a server that takes no record is tried a few times, and again
// when it says that it has begun anew; the records count as put if others take them.
func TestDeafServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, ids := published(t, 3)
		o.counts()
		p, s := o.add()
		s.deaf = true
		n.heard(p)
		time.Sleep(10 * time.Minute)
		if a, g := o.counts(); a != 0 || g < recordCount || g > recordCount*givesMax+2*len(ids) {
			t.Errorf("%d questions, %d puts", a, g)
		}
		s.deaf = false
		s.run++
		n.heard(p)
		settleRounds(t)
		if n.lacks(p) {
			t.Error("it hears again, and was given nothing")
		}
		n.Stop()
	})
}

// TestRepublish: once in a while the servers are looked for anew.
func TestRepublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, _ := published(t, 3)
		o.counts()
		p, _ := o.add() // nobody says so
		if _, err := n.db.table.TryAddPeer(p, true, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(publishEvery + time.Minute)
		synctest.Wait()
		if n.lacks(p) {
			t.Error("a server that was there for an hour lacks records")
		}
		// The contact record at half an hour and at an hour, the name's at the hour;
		// what had come was given the name at the first of these.
		if a, g := o.counts(); a != (recordCount+1)*4 || g != (recordCount+1)*4+naming.Replicas {
			t.Errorf("%d questions, %d puts", a, g)
		}
		n.Stop()
	})
}

// TestWithdraw: the tombstone is put, and nothing after it; a server that takes it
// only later is asked again; where there is no server and there was one once, it
// fails.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, ids := published(t, 2)
		if err := n.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
		check := &naming.Validator{Overlay: o.ov, Now: time.Now, Revoked: n.roster.Revocations}
		for _, p := range ids {
			key := n.publisher.names[0].key
			if r, err := check.Open(key, o.servers[p].records[key]); err != nil || !r.Tombstone {
				t.Errorf("no tombstone: %v, %v", r, err)
			}
		}
		o.counts()
		n.Changed()
		settleRounds(t)
		if a, g := o.counts(); a+g > 0 {
			t.Errorf("after the end: %d questions, %d puts", a, g)
		}
		n.Stop()

		o, n, ids = published(t, 1)
		s := o.servers[ids[0]]
		s.deaf = true
		time.AfterFunc(3*publishRetry/2, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			s.deaf = false
		})
		if err := n.Withdraw(t.Context()); err != nil {
			t.Errorf("the server took it at the second or third time: %v", err)
		}
		n.Stop()

		o, n, ids = published(t, 1)
		o.servers[ids[0]].deaf = true
		if err := n.Withdraw(t.Context()); err == nil || !strings.Contains(err.Error(), "tombstone") {
			t.Errorf("a server that takes nothing: %v", err)
		}
		n.Stop()

		o, n, ids = published(t, 1)
		o.servers[ids[0]].away = true
		if err := n.Withdraw(t.Context()); err == nil {
			t.Error("nobody was told, and that is no error")
		}
		n.Stop()
	})
}

// TestWithdrawDuringRound: who gives up its name does not wait for a round of puts
// that goes on, at servers that say nothing, but takes its place.
func TestWithdrawDuringRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n, ids := published(t, 2)
		o.mu.Lock()
		for _, p := range ids {
			o.servers[p].late = -1
		}
		o.mu.Unlock()
		n.Changed()
		time.Sleep(2 * publishSettle)
		synctest.Wait() // a round has begun
		o.mu.Lock()
		o.servers[ids[0]].late = 0
		o.mu.Unlock()
		const patience = 3 * time.Second // a server that says nothing is waited for once
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		start := time.Now()
		err := n.Withdraw(ctx)
		if took := time.Since(start); err != nil || took > patience {
			t.Errorf("after %v of %v: %v", took, patience, err)
		}
		n.Stop()
	})
}
