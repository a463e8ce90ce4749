package directory

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	claimsMax = 1024
	// recordPatience is how long the database has to answer before a confirmed
	// record of a peer that is not connected does.
	recordPatience = 200 * time.Millisecond
)

var errOtherPeer = errors.New("name record of another peer")

// claims are the name records that this peer has seen, the newest of each peer:
// those that members show in their hellos, those that members tell of others,
// and those that the database gave. A record is its peer's own, signed, whoever
// brings it, so it is as good as the database's, except that a newer one may
// be there, or another peer's better claim. So
//
//   - that of a connected peer or of one with a live pipe answers at once if an
//     issuer has confirmed it, and the database is asked beside;
//   - any other confirmed one answers when the database is quiet for
//     recordPatience;
//   - one that nobody has confirmed answers only if the database cannot.
//
// It is safe for concurrent use.
type claims struct {
	mu     sync.Mutex // guards byPeer
	byPeer *simplelru.LRU[peerid.ID, claim]
}

// claim is a verified name record and its bytes. Neither is to be changed.
type claim struct {
	rec   *naming.Record
	value []byte
}

func newClaims() (*claims, error) {
	byPeer, err := simplelru.NewLRU[peerid.ID, claim](claimsMax, nil)
	return &claims{byPeer: byPeer}, err
}

// note keeps a verified record unless there is a newer one of its peer. It says
// whether what the record claims, or by what right, is news.
func (c *claims) note(r *naming.Record, value []byte) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, ok := c.byPeer.Peek(r.Peer)
	if ok && was.rec.Seq >= r.Seq {
		return false
	}
	c.byPeer.Add(r.Peer, claim{r, bytes.Clone(value)})
	return !ok || was.rec.Label != r.Label || was.rec.Tombstone != r.Tombstone || !bytes.Equal(was.rec.Chain, r.Chain)
}

// forget drops the record of a peer.
func (c *claims) forget(p peerid.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byPeer.Remove(p)
}

// of returns the record of a peer; nil if none is known. It is not to be
// changed.
func (c *claims) of(p peerid.ID) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, _ := c.byPeer.Get(p)
	return found.value
}

// to returns the records that claim a label.
func (c *claims) to(label string) map[peerid.ID][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[peerid.ID][]byte{}
	for _, p := range c.byPeer.Keys() {
		if found, _ := c.byPeer.Peek(p); found.rec.Label == label {
			out[p] = found.value
		}
	}
	return out
}

// Record returns the name record that a peer has shown, or that a member has told
// of it; nil if none is known. It is not to be changed.
func (d *Directory) Record(p peerid.ID) []byte { return d.names.claims.of(p) }

// Show takes the name record of a peer that it has shown itself or that a member
// has told, and says whether it is news. One that is not valid, or another peer's,
// changes nothing.
func (d *Directory) Show(p peerid.ID, value []byte) (news bool) { return d.names.show(p, value) }

func (n *names) show(p peerid.ID, value []byte) bool {
	if len(value) == 0 || bytes.Equal(n.claims.of(p), value) {
		return false
	}
	r, err := n.open(p, value)
	if err != nil {
		n.cfg.Log.Debug("name record not taken", "peer", p, "err", err)
		return false
	}
	news := n.claims.note(r, value)
	if news {
		n.setHint(p, contacts(r.Contact))
		n.outdate(r)
	}
	return news
}

func (n *names) open(p peerid.ID, value []byte) (*naming.Record, error) {
	r, err := naming.Parse(value)
	if err != nil {
		return nil, err
	}
	if r.Peer != p {
		return nil, errOtherPeer
	}
	return n.check.Open(naming.Key(n.cfg.Overlay.ID, r.Label, 0), value)
}

// here says whether a peer is connected or has a pipe that lives.
func (n *names) here(p peerid.ID) bool {
	_, ok := n.cfg.Mesh.Member(toPeer(p))
	return ok || n.cfg.Piped(p)
}

// confirmed answers from confirmed records: with hereOnly those of peers that
// are here. It leaves what is not to be believed, and who has given a name up,
// to the database.
func (n *names) confirmed(label string, hereOnly bool) (Found, bool) {
	var values [][]byte
	for p, v := range n.claims.to(label) {
		if !hereOnly || n.here(p) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return Found{}, false
	}
	r, err := n.check.SelectName(label, values)
	if err != nil || !r.Member().Confirmed || r.Tombstone || n.marks.Accept(r) != nil {
		return Found{}, false
	}
	return n.believe(r, r.Peer), true
}

// claimed are the records that claim a label, to be judged beside those of the
// database: all if it has nothing to say, else those that may answer without
// it.
func (n *names) claimed(label string, all bool) (values [][]byte) {
	for p, v := range n.claims.to(label) {
		if !all {
			r, err := n.open(p, v)
			if err != nil || !r.Member().Confirmed {
				continue
			}
		}
		values = append(values, v)
	}
	return values
}

func contacts(c naming.Contact) []peerid.ID {
	return append(append([]peerid.ID(nil), c.Members...), c.Relays...)
}
