package mesh

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/libp2p/go-libp2p/core/peer"
)

const twinsMax = 4096 // peers remembered

// twins finds peers of which two run, with one key: by a copied directory or image of a
// machine, or because the key was stolen. A peer's start number rises from process to
// process; so who is heard of with a lower one, after a higher one, runs beside that. It
// is safe for concurrent use.
type twins struct {
	mu sync.Mutex // guards the rest
	of *simplelru.LRU[peer.ID, runs]
}

// runs are the processes of one peer.
type runs struct {
	newest uint64
	since  time.Time // when it was first heard of
	met    time.Time // when two were
}

func newTwins() *twins {
	t := new(twins)
	t.of, _ = simplelru.NewLRU[peer.ID, runs](twinsMax, nil) // fails for a size of zero
	return t
}

// hear notes the start number in a hello of a peer. asked is when the hello was asked
// for; zero: it came by itself, and may be late. It says whether two are met, and were
// not within the last twinFor.
func (t *twins) hear(p peer.ID, start uint64, asked, now time.Time) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.of.Get(p)
	if asked.IsZero() {
		asked = now.Add(-lateHello)
	}
	switch {
	case !ok || start > r.newest:
		r.newest, r.since = start, now
	case start < r.newest && asked.After(r.since):
		news = r.met.IsZero() || now.Sub(r.met) >= twinFor
		r.met = now
	}
	t.of.Add(p, r)
	return news
}

// met says whether two of a peer were met of late.
func (t *twins) met(p peer.ID, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.of.Peek(p)
	return ok && !r.met.IsZero() && now.Sub(r.met) < twinFor
}

// hearStart notes which process of a peer has said a hello, and what it says of ours.
func (g *gate) hearStart(p peer.ID, h Hello, asked time.Time) {
	if g.twins.hear(p, h.Start, asked, time.Now()) {
		g.log.Warn("two nodes run with one key, by a copied directory or image of a machine, or by a stolen key: what is sent to that member reaches either; revoke it, and let one of the two join again",
			"peer", p)
		g.greetAgain(p) // that it hears so
	}
	if h.Twin {
		g.log.Warn("a member says that another node runs with this node's key, by a copied directory or image of a machine, or by a stolen key: stop one of the two; if nobody has made it, have this node revoked",
			"says", p)
	}
}
