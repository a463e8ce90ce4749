package mesh

import (
	"context"
	"errors"
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
	msmux "github.com/multiformats/go-multistream"

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
	verify   func(chain []byte, from peerid.ID) (*membership.Member, error)
	current  func(shown *membership.Member) (*membership.Member, bool)
	entered  func(Neighbor)
	heard    func(Neighbor, Hello)
	left     func(p peer.ID, m *membership.Member, trimmed bool)
	clock    func(peerid.ID, uint64)
	answers  func(netip.AddrPort)
	youngFor time.Duration
	mine     func(peer.ID) Hello // what we say to a peer now

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pace   *pace
	twins  *twins

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
		verify: cfg.Verify, current: cfg.Current, entered: cfg.Entered, heard: cfg.Heard, left: cfg.Left,
		clock: cfg.Clock, answers: cfg.Answers, youngFor: cfg.YoungFor, mine: mine,

		pace:   newPace(),
		twins:  newTwins(),
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
	g.timers[c] = time.AfterFunc(helloTimeout, func() { g.expire(c) })
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

// greet says hello on a connection that we opened and reads the answer.
func (g *gate) greet(c network.Conn) {
	ctx, cancel := context.WithTimeout(g.ctx, helloTimeout)
	defer cancel()
	err := g.greetOn(ctx, c)
	if err != nil && g.ctx.Err() == nil && !c.IsClosed() {
		g.log.Debug("hello failed", "peer", c.RemotePeer(), "err", err)
		g.refuse(c.RemotePeer(), err)
		_ = c.Close()
	}
}

func (g *gate) greetOn(ctx context.Context, c network.Conn) error {
	asked := time.Now()
	s, err := c.NewStream(ctx)
	if err != nil {
		return fmt.Errorf("hello stream: %w", err)
	}
	defer s.Reset() // nothing is left to say when it returns
	if err := s.SetProtocol(g.proto); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	rw := msmux.NewMSSelect(s, g.proto)
	if _, err := rw.Write(g.mine(c.RemotePeer()).appendTo([]byte{helloWelcome})); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	// A peer that has answered already asks for no more, and then this fails:
	// the answer tells.
	_ = s.CloseWrite()
	h, err := readHello(rw)
	if err != nil {
		err = fmt.Errorf("hello: %w", err)
		// Before the stream ends: the peer closes the connection then, and
		// those who wait would not learn the reason.
		g.refuse(c.RemotePeer(), err)
		var no *RefusedError
		if errors.As(err, &no) {
			if id, err := p2p.PeerID(c.RemotePeer()); err == nil {
				g.clock(id, no.seconds)
			}
		}
		return err
	}
	return g.admit(c, h, asked)
}

// serveHello answers a hello: a valid one with ours, any other with the
// reason, so that a peer with a wrong clock or an expired chain can tell its
// user. Our chain is shown to members only.
func (g *gate) serveHello(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(helloTimeout))
	c := s.Conn()
	h, err := readHello(s)
	if err == nil {
		err = g.admit(c, h, time.Time{})
	}
	if err == nil {
		if _, err = s.Write(g.mine(c.RemotePeer()).appendTo([]byte{helloWelcome})); err == nil {
			_ = s.Close()
			return
		}
		_ = s.Reset()
		return
	}
	g.log.Debug("refusing a hello", "peer", c.RemotePeer(), "err", err)
	_, _ = s.Write((&RefusedError{err.Error(), refusedForGood(err), errors.Is(err, membership.ErrUsed), g.mine(c.RemotePeer()).Seconds}).appendTo(nil))
	_ = s.CloseWrite()
	// The peer closes the connection when it has read the reason; closing it
	// from here at once would overtake that. Do not wait for long.
	g.mu.Lock()
	d := g.doorLocked(c.RemotePeer())
	g.mu.Unlock()
	if d != nil {
		t := time.NewTimer(refusalGrace)
		defer t.Stop()
		select {
		case <-d.gone:
		case <-t.C:
		case <-g.ctx.Done():
		}
	}
	_ = s.Reset()
	_ = c.Close()
}

// admit verifies a hello and opens the peer's door. asked is when this peer has asked for
// the hello; zero if it did not.
func (g *gate) admit(c network.Conn, h Hello, asked time.Time) error {
	p := c.RemotePeer()
	id, err := p2p.PeerID(p)
	if err != nil {
		return fmt.Errorf("%w: %v", membership.ErrNotMember, err)
	}
	m, err := g.verify(h.Chain, id)
	if err == nil || errors.As(err, new(*membership.TimeError)) {
		g.clock(id, h.Seconds) // it is a member, or was, or will be one
	}
	if err != nil {
		return err
	}
	countMember(c, c.Stat().Direction != network.DirInbound || g.pace.connects(m))
	g.mu.Lock()
	d := g.doorLocked(p)
	if d == nil {
		g.mu.Unlock()
		return network.ErrNoConn
	}
	first := d.Member == nil
	d.Member, d.Chain, d.Roles = m, h.Chain, h.Roles
	d.Remote = c.RemoteMultiaddr()
	if h.Young {
		d.youngUntil = time.Now().Add(g.youngFor)
	}
	d.replace(c)
	if c.Stat().Direction == network.DirInbound && !g.dialled.Contains(p) {
		g.reach.note(c)
	}
	if t := g.timers[c]; t != nil {
		t.Stop()
		delete(g.timers, c)
	}
	g.refusals.Remove(p)
	if first {
		close(d.open)
	}
	now := d.Neighbor
	g.mu.Unlock()
	if first {
		g.entered(now)
	} else {
		g.probeOthers(c)
	}
	g.hearStart(p, h, asked)
	g.heard(now, h)
	return nil
}

// refusedForGood says whether a peer that is refused for err need not come again.
func refusedForGood(err error) bool {
	return errors.Is(err, membership.ErrNotMember) && !errors.As(err, new(*membership.TimeError)) && !errors.Is(err, membership.ErrContested)
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
		g.mu.Lock()
		if g.closed {
			g.mu.Unlock()
			_ = s.Reset()
			return
		}
		g.wg.Add(1)
		g.mu.Unlock()
		defer g.wg.Done()
		stop := context.AfterFunc(g.ctx, func() { _ = s.Reset() })
		defer stop()
		f(s, m)
	})
}
