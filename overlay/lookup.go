package overlay

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/idloc/idloc/overlay/membership"
)

const (
	// replicas is how many servers keep a record under each of its keys,
	// and how many of the nearest must have answered for a complete walk.
	replicas = 8
	// depth is how many of the nearest a read asks before it believes that
	// there is no record: servers that have just come may lack it, and in an
	// overlay that grows fast most have. A record that is there is found by
	// the first few.
	depth = 4 * replicas
	// width is how many servers a walk asks at a time, wide how many when as
	// many as should have the record had none.
	width = 4
	wide  = 2 * width
	// askTimeout bounds one question to one server.
	askTimeout = 2 * time.Second
	// askPatience is how long a walk whose nearest servers have mostly
	// answered waits for the rest.
	askPatience = 400 * time.Millisecond
	// askAgain is the pause before a name is asked for again, when too few
	// servers have answered.
	askAgain = 200 * time.Millisecond
	// lookupTimeout bounds a walk.
	lookupTimeout = 8 * time.Second
	// settle is how long a read waits for better records once it has a good
	// one: replicas answer within each other's jitter.
	settle = 150 * time.Millisecond
	// candidatesMax bounds what liars can make a walk remember.
	candidatesMax = 256
)

// found is one record that a server gave.
type found struct {
	from  peer.ID
	value []byte
}

// walkResult is what a walk to the servers nearest a key has brought.
type walkResult struct {
	found    []found
	nearest  []peer.ID // servers that answered, nearest first, at most replicas
	answered int       // servers that answered
	failed   int       // servers among the nearest that did not answer
	untimely int       // servers that gave a record far out of its time
	late     error     // what was wrong with one of those
	self     bool      // this peer is one of those that answered
}

// complete says whether enough of the servers nearest the key have answered
// for "there is no record" to be believed: twice as many as have not. Some of
// those that answer may lie.
func (r walkResult) complete() bool { return len(r.nearest)+r.itself() >= max(1, 2*r.failed) }

func (r walkResult) itself() int {
	if r.self {
		return 1
	}
	return 0
}

// small says whether so few servers are known that each keeps every record.
func (d *database) small() bool {
	n := d.kad.RoutingTable().Size()
	return max(n, len(d.servers())) < replicas
}

// walk asks the servers nearest key for its value, learning nearer ones on
// the way, until the nearest have all answered. Kademlia as kad-dht has it,
// but ours, because kad-dht's own does not tell who gave a record, nor how
// many have answered that there is none. each, if not nil, is called for each
// valid record as it comes, one at a time; false ends the walk.
func (d *database) walk(ctx context.Context, key string, each func(found) bool) walkResult {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	depth := depth
	if each == nil {
		depth = replicas // for a put, or for whom to ask
	}
	w := &walker{d: d, key: key, target: kb.ConvertKey(key), each: each, depth: depth, seen: map[peer.ID]bool{}}
	if d.isServer() {
		w.askSelf(ctx)
	}
	w.offer(d.kad.RoutingTable().NearestPeers(w.target, max(depth, 2*replicas)))
	w.offer(d.servers())
	return w.run(ctx)
}

type candidate struct {
	peer  peer.ID
	dist  kb.ID
	state uint8
}

const (
	waiting uint8 = iota
	asking
	answered
	failed
)

// walker is one walk; its methods run on the walk's own goroutine.
type walker struct {
	d      *database
	key    string
	target kb.ID
	each   func(found) bool
	depth  int
	seen   map[peer.ID]bool
	list   []*candidate // by distance
	res    walkResult
	done   bool
	self   bool // this peer is a server and has answered itself
}

type reply struct {
	c      *candidate
	value  []byte
	closer []*peer.AddrInfo
	err    error
}

func distance(a, b kb.ID) kb.ID {
	out := make(kb.ID, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

// offer adds peers to the candidates.
func (w *walker) offer(peers []peer.ID) {
	for _, p := range peers {
		if w.seen[p] || p == w.d.host.ID() || len(w.seen) >= candidatesMax {
			continue
		}
		w.seen[p] = true
		c := &candidate{peer: p, dist: distance(kb.ConvertPeerID(p), w.target)}
		i, _ := slices.BinarySearchFunc(w.list, c, func(a, b *candidate) int { return bytes.Compare(a.dist, b.dist) })
		w.list = slices.Insert(w.list, i, c)
	}
}

// askSelf counts this peer's own part of the database as an answer.
func (w *walker) askSelf(ctx context.Context) {
	rec, err := w.d.local.Get(ctx, w.key)
	if err != nil {
		return
	}
	w.self, w.res.self = true, true
	w.res.answered++
	if rec != nil {
		w.take(w.d.host.ID(), rec.GetValue())
	}
}

// take checks a record and hands it on.
func (w *walker) take(from peer.ID, value []byte) {
	if w.done {
		return
	}
	if err := w.d.valid.Validate(w.key, value); err != nil {
		var out *membership.TimeError
		if errors.As(err, &out) && out.FarOff() {
			w.res.untimely++
			w.res.late = err
		}
		return
	}
	f := found{from, value}
	w.res.found = append(w.res.found, f)
	if w.each != nil && !w.each(f) {
		w.done = true
	}
}

func (w *walker) run(ctx context.Context) walkResult {
	ctx, cancel := context.WithCancel(ctx)
	replies := make(chan reply)
	quiet := time.NewTimer(askPatience)
	defer quiet.Stop()
	var asks sync.WaitGroup
	busy := 0
	for {
		for busy < w.width() && !w.done && ctx.Err() == nil {
			c := w.next()
			if c == nil {
				break
			}
			c.state = asking
			busy++
			asks.Go(func() {
				r := w.d.ask(ctx, c.peer, w.key)
				r.c = c
				replies <- r
			})
		}
		if busy == 0 {
			break
		}
		var r reply
		select {
		case r = <-replies:
		case <-quiet.C:
			// What has not answered by now is most likely dead. If those
			// that did outnumber it, the rest is not worth the wait.
			if !w.done && w.next() == nil && w.res.answered > busy+w.count(failed) {
				w.done = true
				cancel()
			}
			continue
		}
		quiet.Reset(askPatience)
		busy--
		if w.done {
			continue // the asks under way were cancelled; collect them
		}
		w.heard(r)
		if w.done {
			cancel()
		}
	}
	cancel()
	asks.Wait()
	for _, c := range w.list {
		switch {
		case c.state == asking && len(w.res.nearest) < replicas:
			w.res.failed++
		case c.state == answered && len(w.res.nearest) < replicas:
			w.res.nearest = append(w.res.nearest, c.peer)
		case c.state == failed && len(w.res.nearest) < replicas:
			w.res.failed++
		}
	}
	return w.res
}

// width is how many servers may be asked at a time now. Who looks for where to
// put a record finds it with few.
func (w *walker) width() int {
	if w.depth > replicas && w.res.answered >= replicas {
		return wide
	}
	return width
}

func (w *walker) count(state uint8) int {
	n := 0
	for _, c := range w.list {
		if c.state == state {
			n++
		}
	}
	return n
}

// next returns the nearest candidate to ask, or nil once the nearest depth
// that have not failed were asked.
func (w *walker) next() *candidate {
	n := 0
	for _, c := range w.list {
		switch c.state {
		case waiting:
			return c
		case failed:
			continue
		}
		if n++; n >= w.depth {
			return nil
		}
	}
	return nil
}

func (w *walker) heard(r reply) {
	if r.err != nil {
		r.c.state = failed
		return
	}
	r.c.state = answered
	w.res.answered++
	for _, ai := range r.closer {
		if ai.ID == w.d.host.ID() || len(ai.Addrs) == 0 {
			continue
		}
		// Hearsay must not displace what a connection taught.
		if w.d.host.Network().Connectedness(ai.ID) != network.Connected {
			w.d.host.Peerstore().AddAddrs(ai.ID, ai.Addrs[:min(len(ai.Addrs), 8)], peerstore.TempAddrTTL)
		}
		w.offer([]peer.ID{ai.ID})
	}
	if r.value != nil {
		w.take(r.c.peer, r.value)
	}
}

// ask puts one question to one server.
func (d *database) ask(parent context.Context, p peer.ID, key string) reply {
	ctx, cancel := context.WithTimeout(parent, askTimeout)
	defer cancel()
	rec, closer, err := d.rpc.GetValue(ctx, p, key)
	if err != nil {
		if parent.Err() == nil && d.host.Network().Connectedness(p) != network.Connected {
			d.kad.RoutingTable().RemovePeer(p)
		}
		return reply{err: err}
	}
	d.kad.RoutingTable().UpdateLastSuccessfulOutboundQueryAt(p, time.Now())
	return reply{value: rec.GetValue(), closer: closer}
}

var errNoServer = errors.New("no server of the database reached")

// put stores a record at the servers nearest its key and, if this peer is a
// server, in its own part. It returns how many servers other than this one
// have taken it.
func (d *database) put(ctx context.Context, key string, value []byte) (int, error) {
	rec := record.MakePutRecord(key, value)
	if err := d.valid.Validate(key, value); err != nil {
		return 0, err
	}
	// Kept even by a client: it may become a server later.
	_ = d.local.Put(ctx, key, rec)
	res := d.walk(ctx, key, nil)
	var mu sync.Mutex
	stored := 0
	var last error
	var wg sync.WaitGroup
	for _, p := range res.nearest {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			err := d.rpc.PutValue(ctx, p, rec)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				last = err
				return
			}
			stored++
			d.holds(p)
		})
	}
	wg.Wait()
	switch {
	case stored > 0:
		return stored, nil
	case last != nil:
		return 0, last
	}
	return 0, errNoServer
}
