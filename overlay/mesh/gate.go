package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

const (
	refusalsMax = 256
	dialledMax  = 16384
)

// errUnanswered says that a connection has ended before its peer had said who it
// is. That says nothing about its membership: it may go away by itself.
var errUnanswered error = unansweredError{}

type unansweredError struct{}

func (unansweredError) Error() string {
	return "the connection was closed before the peer had answered: it is busy or unreachable"
}
func (unansweredError) Temporary() bool { return true }
func (unansweredError) Timeout() bool   { return false }

// gate keeps strangers out. Every connection begins with one exchange of
// hellos (hello.go); until the peer's chain was verified no protocol of ours
// is served to it, and after helloTimeout the connection is closed. The gate
// is safe for concurrent use.
type gate struct {
	host  host.Host
	proto protocol.ID // of the hellos
	log   *slog.Logger

	// See Config for these.
	verify     func(chain []byte, from peerid.ID) (*membership.Member, error)
	charter    func(from peerid.ID, charter []byte) // nil: nobody asks
	current    func(shown *membership.Member) (*membership.Member, bool)
	readmit    func(ctx context.Context, chain []byte, from peerid.ID, why error) ([]byte, error)
	readmitted func(answer []byte) error
	lapsed     func() error
	entered    func(Neighbor)
	heard      func(Neighbor, Hello)
	left       func(p peer.ID, m *membership.Member, trimmed bool)
	clock      func(peerid.ID, uint64)
	answers    func(netip.AddrPort)
	youngFor   time.Duration
	stretch    func(time.Duration) time.Duration
	mine       func(peer.ID) Hello // what we say to a peer now

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pace   *pace
	twins  *twins
	// crowdedAt and connsShare stand in limits.go.
	crowdedAt, connsShare int

	mu     sync.Mutex // guards the rest and the doors' fields
	closed bool
	doors  map[peer.ID]*door
	// dialled are peers that we have sent something to first: that they
	// reach us proves nothing.
	dialled *simplelru.LRU[peer.ID, struct{}]
	reach   Reach // the newest member that reached us unasked
	// refusals are why peers were refused of late, or refused us: who waits
	// for them may come when the connection is gone already.
	refusals *simplelru.LRU[peer.ID, refusal]
	timers   map[network.Conn]*time.Timer
	// greeting are members that are told something new; true: once more.
	greeting map[peer.ID]bool
}

// refusal is the end of a hello.
type refusal struct {
	err  error
	when time.Time
}

func newGate(h host.Host, cfg Config, mine func(peer.ID) Hello) *gate {
	g := &gate{
		host: h, proto: cfg.Prefix + "/hello/1", log: logpace.New(cfg.Log),
		verify: cfg.Verify, charter: cfg.Charter, current: cfg.Current, entered: cfg.Entered, heard: cfg.Heard, left: cfg.Left,
		readmit: cfg.Readmit, readmitted: cfg.Readmitted, lapsed: cfg.Lapsed,
		clock: cfg.Clock, answers: cfg.Answers, youngFor: cfg.YoungFor, stretch: cfg.Stretch, mine: mine,

		pace:  newPace(),
		twins: newTwins(),

		crowdedAt: crowdedAt, connsShare: connsShare,

		doors:  map[peer.ID]*door{},
		timers: map[network.Conn]*time.Timer{},

		greeting: map[peer.ID]bool{},
	}
	g.dialled, _ = simplelru.NewLRU[peer.ID, struct{}](dialledMax, nil) // fails for a size of zero
	g.refusals, _ = simplelru.NewLRU[peer.ID, refusal](refusalsMax, nil)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	h.Network().SetStreamHandler(g.serveStream)
	return g
}

// patience is how long this machine now waits for the answer to a hello of its own.
func (g *gate) patience() time.Duration {
	if g.stretch == nil {
		return helloTimeout
	}
	return g.stretch(helloTimeout)
}

// start begins to greet. The callbacks must be set.
func (g *gate) start() {
	g.host.SetStreamHandler(g.proto, g.serveHello)
	g.host.Network().Notify((*gateNotifiee)(g))
	for _, c := range g.host.Network().Conns() {
		g.connected(c)
	}
}

// close stops the gate and waits for the hellos under way.
func (g *gate) close() {
	g.host.Network().StopNotify((*gateNotifiee)(g))
	g.host.RemoveStreamHandler(g.proto)
	g.mu.Lock()
	g.closed = true
	for c, t := range g.timers {
		t.Stop()
		delete(g.timers, c)
	}
	for p, d := range g.doors {
		d.end()
		delete(g.doors, p)
	}
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}

// spawn runs f unless the gate is closed; close waits for it.
func (g *gate) spawn(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Go(f)
	}
}

// doorLocked returns p's door, making one while p is connected.
func (g *gate) doorLocked(p peer.ID) *door {
	if d := g.doors[p]; d != nil || g.closed {
		return d
	}
	if g.host.Network().Connectedness(p) != network.Connected {
		return nil
	}
	id, err := p2p.PeerID(p)
	if err != nil {
		return nil // its hello will be refused
	}
	d := &door{Neighbor: Neighbor{Peer: p, ID: id}, open: make(chan struct{}), gone: make(chan struct{})}
	g.doors[p] = d
	return d
}

func (g *gate) connected(c network.Conn) {
	g.mu.Lock()
	if g.closed || c.IsClosed() || g.timers[c] != nil {
		g.mu.Unlock()
		return
	}
	if d := g.doorLocked(c.RemotePeer()); d != nil {
		d.Remote = c.RemoteMultiaddr()
	}
	within := helloTimeout // a stranger's, however busy this machine is: it may be who keeps it busy
	if c.Stat().Direction == network.DirOutbound {
		within = g.patience()
	}
	g.timers[c] = time.AfterFunc(within, func() { g.expire(c) })
	if c.Stat().Direction == network.DirOutbound {
		g.dialled.Add(c.RemotePeer(), struct{}{})
	}
	g.mu.Unlock()
	if c.Stat().Direction == network.DirOutbound {
		if at, ok := p2p.AddrPort(c.RemoteMultiaddr()); ok {
			g.answers(at)
		}
		g.spawn(func() { g.greet(c) })
	}
}

// crowdsLocked says whether a connection of a member that comes in would be one too many of
// those who came as it did. One that is in stays. mu is held.
func (g *gate) crowdsLocked(c network.Conn, m *membership.Member) bool {
	if g.timers[c] == nil || c.Stat().Direction != network.DirInbound || len(g.doors)*connsOfOne < g.crowdedAt {
		return false
	}
	all, of := 0, account.Counts{}
	for p, d := range g.doors {
		if d.Member == nil {
			continue
		}
		for _, other := range g.host.Network().ConnsToPeer(p) {
			if other != c && other.Stat().Direction == network.DirInbound {
				all++
				of.Add(d.Member.Account())
			}
		}
	}
	return all >= g.crowdedAt && of.Full(m.Account(), g.connsShare)
}

// greeted says whether a connection is a member's, and has had its hello.
func (g *gate) greeted(c network.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[c.RemotePeer()]
	return d != nil && d.Member != nil && g.timers[c] == nil
}

// expire closes a connection whose peer has not come through the gate.
func (g *gate) expire(c network.Conn) {
	g.mu.Lock()
	delete(g.timers, c)
	d := g.doors[c.RemotePeer()]
	in := d != nil && d.Member != nil
	g.mu.Unlock()
	if !in {
		g.log.Debug("closing a connection without membership", "peer", c.RemotePeer())
		_ = c.Close()
	}
}

func (g *gate) disconnected(c network.Conn) {
	g.mu.Lock()
	if t := g.timers[c]; t != nil {
		t.Stop()
		delete(g.timers, c)
	}
	p := c.RemotePeer()
	d := g.doors[p]
	if d == nil || len(g.host.Network().ConnsToPeer(p)) > 0 {
		g.mu.Unlock()
		return
	}
	delete(g.doors, p)
	d.end()
	m := d.Member
	g.mu.Unlock()
	if m != nil {
		g.left(p, m, trimmed(c))
	}
}

// forgive forgets why peers were refused: the reason may be gone.
func (g *gate) forgive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusals.Purge()
}

// young says whether a member is a server that has only just begun.
func (g *gate) young(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	return d != nil && time.Now().Before(d.youngUntil)
}

// newest returns a context that ends when p has come in by another connection
// than it has: whoever waits for an answer on that may wait in vain.
func (g *gate) newest(p peer.ID) context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	if d == nil {
		return context.Background()
	}
	if d.latest == nil {
		d.latest, d.endLatest = context.WithCancel(g.ctx)
	}
	return d.latest
}

// probeOthers says hello on the older connections to the peer of c: the dead
// ones are closed by it.
func (g *gate) probeOthers(c network.Conn) {
	for _, old := range g.host.Network().ConnsToPeer(c.RemotePeer()) {
		if old != c && old.Stat().Opened.Add(probeAge).Before(c.Stat().Opened) {
			g.spawn(func() { g.greet(old) })
		}
	}
}

// refuse makes those who wait for p fail at once with err.
func (g *gate) refuse(p peer.ID, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusals.Add(p, refusal{err, time.Now()})
	if d := g.doors[p]; d != nil && d.Member == nil {
		delete(g.doors, p)
		d.err = err
		d.end()
	}
}

// wait returns once p, a connected peer, has come through the gate.
func (g *gate) wait(ctx context.Context, p peer.ID) (*membership.Member, error) {
	g.mu.Lock()
	d := g.doorLocked(p)
	why, ok := g.refusals.Get(p)
	g.mu.Unlock()
	if d == nil {
		if ok && time.Since(why.when) < helloTimeout {
			return nil, fmt.Errorf("peer %s: %w", p, why.err)
		}
		return nil, network.ErrNoConn
	}
	select {
	case <-d.open:
	default:
		select {
		case <-d.open:
		case <-d.gone:
			if d.err != nil {
				return nil, fmt.Errorf("peer %s: %w", p, d.err)
			}
			return nil, fmt.Errorf("peer %s: %w", p, errUnanswered)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	shown := d.Member
	g.mu.Unlock()
	m, ok := g.current(shown)
	if !ok {
		return nil, fmt.Errorf("peer %s: %w any more", p, membership.ErrNotMember)
	}
	return m, nil
}

// member returns the member behind p if it is connected and admitted, and a
// member now.
func (g *gate) member(p peer.ID) (*membership.Member, bool) {
	g.mu.Lock()
	d := g.doors[p]
	var shown *membership.Member
	if d != nil {
		shown = d.Member
	}
	g.mu.Unlock()
	if shown == nil {
		return nil, false
	}
	return g.current(shown)
}

// isServer says whether p is admitted and keeps a part of the database.
func (g *gate) isServer(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	return d != nil && d.Member != nil && d.Server
}

// members returns the admitted peers that are members now, in no particular order.
func (g *gate) members() []Neighbor {
	out := g.shown()
	kept := out[:0]
	for _, n := range out {
		if m, ok := g.current(n.Member); ok {
			n.Member = m
			kept = append(kept, n)
		}
	}
	return kept
}

// shown returns the peers that were admitted.
func (g *gate) shown() []Neighbor {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Neighbor, 0, len(g.doors))
	for _, d := range g.doors {
		if d.Member != nil {
			out = append(out, d.Neighbor)
		}
	}
	return out
}

// expel closes every connection of those that are no members any more.
func (g *gate) expel() {
	for _, n := range g.shown() {
		if _, ok := g.current(n.Member); !ok {
			_ = g.host.Network().ClosePeer(n.Peer)
		}
	}
}

// greetAll says hello again everywhere: our chain has changed.
func (g *gate) greetAll() {
	for _, d := range g.members() {
		g.greetAgain(d.Peer)
	}
}

// greetAgain says a new hello to a member, if it is connected; one after the
// other, so that the newest is the one that stays.
func (g *gate) greetAgain(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	_, busy := g.greeting[p]
	if d == nil || d.Member == nil || g.closed {
		return // or says the new one anyway, once it is
	}
	if g.greeting[p] = busy; busy {
		return
	}
	g.wg.Go(func() {
		for again := true; again; {
			for _, c := range g.host.Network().ConnsToPeer(p) {
				g.greet(c)
				break
			}
			g.mu.Lock()
			if again = g.greeting[p] && g.ctx.Err() == nil; again {
				g.greeting[p] = false
			} else {
				delete(g.greeting, p)
			}
			g.mu.Unlock()
		}
	})
}

// admitted waits until the peer behind s is through the gate, as long as the
// gate gives it.
func (g *gate) admitted(s network.Stream) bool {
	ctx, cancel := context.WithTimeout(g.ctx, helloTimeout)
	defer cancel()
	_, err := g.wait(ctx, s.Conn().RemotePeer())
	return err == nil
}

// handle serves pid to members only. The handler has the admitted member.
func (g *gate) handle(pid protocol.ID, f func(network.Stream, *membership.Member)) {
	g.host.SetStreamHandler(pid, func(s network.Stream) {
		if !g.admitted(s) {
			_ = s.Reset()
			return
		}
		m, ok := g.member(s.Conn().RemotePeer())
		if !ok {
			_ = s.Reset()
			return
		}
		end, ok := g.begin(s)
		if !ok {
			return
		}
		defer end()
		f(s, m)
	})
}

// begin says whether a stream is served still; else it is reset. close resets it, and
// waits until end was called.
func (g *gate) begin(s network.Stream) (end func(), ok bool) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		_ = s.Reset()
		return nil, false
	}
	g.wg.Add(1)
	g.mu.Unlock()
	stop := context.AfterFunc(g.ctx, func() { _ = s.Reset() })
	return func() { stop(); g.wg.Done() }, true
}
