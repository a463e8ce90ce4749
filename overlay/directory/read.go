package directory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

// enough replicas with the same record of a confirmed member end a read at once. A
// provisional member claims a label by its own word alone: for it others are heard
// too, of which one may have what an issuer has confirmed.
const enough = 3

// reading is what the servers say about a label.
type reading struct {
	rec *naming.Record // the one that counts; nil: none was found
	via peerid.ID      // who gave it
	// complete says whether enough servers have said that there is none.
	complete bool
	// untimely is not nil if at least half of those that answered gave a record
	// that is far out of its time: rather than that so many keep what is stale,
	// this machine's clock is wrong. Or all were older than what was seen before.
	untimely error
}

// gathering collects what the walks to the keys of one label bring.
type gathering struct {
	n      *names
	label  string
	cancel context.CancelFunc // ends the walks
	wg     sync.WaitGroup     // of them

	mu       sync.Mutex // guards the rest
	met      int        // servers heard of
	all      []found
	old      error // a record that this reader has seen a newer one of
	settled  *time.Timer
	complete bool
	untimely error
}

// fetch reads the record of a label from all its keys.
func (n *names) fetch(ctx context.Context, label string) reading {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &gathering{n: n, label: label, cancel: cancel, complete: true}
	keys := naming.Keys(n.cfg.Overlay.ID, label)
	ask := keys[:]
	if n.db.small() {
		ask = keys[:1] // every server keeps every record
	}
	for _, key := range ask {
		g.wg.Go(func() { g.walk(ctx, key) })
	}
	g.wg.Wait()
	if len(g.all) == 0 && g.met >= replicas {
		for _, key := range keys[len(ask):] { // there are more servers than were known
			g.wg.Go(func() { g.walk(ctx, key) })
		}
		g.wg.Wait()
	}
	if g.settled != nil {
		g.settled.Stop()
	}
	return g.judge()
}

// walk asks the servers nearest one of the keys.
func (g *gathering) walk(ctx context.Context, key string) {
	res := g.n.db.walk(ctx, key, g.take)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.met = max(g.met, res.met)
	g.complete = g.complete && g.n.believes(res)
	if res.untimely > 0 && 2*res.untimely >= res.answered {
		g.untimely = res.late
	}
	if len(g.all) > 0 && g.certain(g.all[len(g.all)-1].value) {
		g.cancel() // the walks of the other keys may end
	}
}

// take takes a record, and says whether its walk is to go on.
func (g *gathering) take(f found) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, err := naming.Parse(f.value); err == nil && g.n.marks.Behind(r) {
		g.old = fmt.Errorf("%q: %w: %d", g.label, naming.ErrRolledBack, r.Seq)
		return true // no answer: not that of a server which is up to date
	}
	g.all = append(g.all, f)
	if g.settled == nil {
		g.settled = time.AfterFunc(settle, g.cancel)
	}
	return !g.certain(f.value)
}

// certain says whether no more need be asked than those who gave value. g.mu is
// held.
func (g *gathering) certain(value []byte) bool {
	if agreeing(g.all, value) < enough {
		return false
	}
	r, err := g.n.check.Open(naming.Key(g.n.cfg.Overlay.ID, g.label, 0), value)
	return err == nil && r.Member().Confirmed
}

// judge says which record counts, once the walks are over.
func (g *gathering) judge() reading {
	n := g.n
	values := n.claimed(g.label, len(g.all) == 0 && !g.complete)
	for _, f := range g.all {
		values = append(values, f.value)
	}
	if len(values) == 0 {
		return reading{complete: g.complete, untimely: cmp.Or(g.untimely, g.old)}
	}
	rec, err := n.check.SelectName(g.label, values)
	if err != nil {
		return reading{untimely: g.untimely}
	}
	a := reading{rec: rec, complete: g.complete}
	for _, f := range g.all {
		if r, err := naming.Parse(f.value); err == nil && r.Peer == rec.Peer && r.Seq == rec.Seq {
			a.via = fromPeer(f.from)
			n.claims.note(rec, f.value)
			break
		}
	}
	if a.via.IsZero() {
		a.via = rec.Peer // by its hello
	}
	return a
}

// agreeing counts the servers that gave a value.
func agreeing(all []found, value []byte) int {
	from := map[peer.ID]bool{}
	for _, f := range all {
		if bytes.Equal(f.value, value) {
			from[f.from] = true
		}
	}
	return len(from)
}
