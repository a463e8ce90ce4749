package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	msmux "github.com/multiformats/go-multistream"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// helloTimeout is how long a connection may live without a valid chain
	// (DESIGN §8).
	helloTimeout = 5 * time.Second
	// refusalGrace is how long a refused peer has to read why.
	refusalGrace = 500 * time.Millisecond
	refusalsMax  = 256
	dialledMax   = 16384
	// probeAge is how much older a second connection must be to be doubted;
	// two that were dialled at once are both good.
	probeAge = 500 * time.Millisecond
)

// ErrNotMember is wrapped by errors about a peer that has shown no valid
// membership chain.
var ErrNotMember = errors.New("not a member of this overlay")

// gate keeps strangers out. Every connection begins with one exchange of
// hellos (hello.go); until the peer's chain was verified no protocol of ours
// is served to it, and after helloTimeout the connection is closed. The gate
// is safe for concurrent use.
type gate struct {
	host  host.Host
	proto protocol.ID
	log   *slog.Logger

	verify  func(chain []byte, from peerid.ID) (*membership.Member, error)
	mine    func(peer.ID) hello // what we say to a peer now
	entered func(*door)         // a member's first valid hello; not under mu
	heard   func(*door, hello)  // every valid hello
	// left: a member's last connection is gone, trimmed or for good.
	left func(p peer.ID, m *membership.Member, trimmed bool)

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards the rest and the doors' fields
	closed bool
	doors  map[peer.ID]*door
	// dialled are peers that we have sent something to first: that they
	// reach us proves nothing.
	dialled map[peer.ID]bool
	reached bool // a member reached us unasked
	// refusals are why peers were refused of late, or refused us: who waits
	// for them may come when the connection is gone already.
	refusals map[peer.ID]refusal
	timers   map[network.Conn]*time.Timer
	// greeting are members that are told something new; true: once more.
	greeting map[peer.ID]bool
}

// refusal is the end of a hello.
type refusal struct {
	err  error
	when time.Time
}

// door is what the gate knows about one connected peer.
type door struct {
	peer   peer.ID
	id     peerid.ID
	open   chan struct{} // closed once the chain was verified
	gone   chan struct{} // closed with the last connection
	member *membership.Member
	chain  []byte
	flags  uint8
	remote ma.Multiaddr
	err    error // why it was refused, set before gone is closed
}

func newGate(h host.Host, proto protocol.ID, log *slog.Logger) *gate {
	g := &gate{
		host: h, proto: proto, log: log,
		doors:   map[peer.ID]*door{},
		dialled: map[peer.ID]bool{},
		timers:  map[network.Conn]*time.Timer{},

		refusals: map[peer.ID]refusal{},
		greeting: map[peer.ID]bool{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
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
		close(d.gone)
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
	id, err := fromLibp2p(p)
	if err != nil {
		return nil // its hello will be refused
	}
	d := &door{peer: p, id: id, open: make(chan struct{}), gone: make(chan struct{})}
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
		d.remote = c.RemoteMultiaddr()
	}
	g.timers[c] = time.AfterFunc(helloTimeout, func() { g.expire(c) })
	if c.Stat().Direction == network.DirOutbound {
		if len(g.dialled) >= dialledMax {
			clear(g.dialled)
		}
		g.dialled[c.RemotePeer()] = true
	}
	g.mu.Unlock()
	if c.Stat().Direction == network.DirOutbound {
		g.spawn(func() { g.greet(c) })
	}
}

// expire closes a connection whose peer has not come through the gate.
func (g *gate) expire(c network.Conn) {
	g.mu.Lock()
	delete(g.timers, c)
	d := g.doors[c.RemotePeer()]
	in := d != nil && d.member != nil
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
	close(d.gone)
	m := d.member
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
	if _, err := rw.Write(g.mine(c.RemotePeer()).append([]byte{helloWelcome})); err != nil {
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
		return err
	}
	return g.admit(c, h)
}

// serveHello answers a hello: a valid one with ours, any other with the
// reason, so that a peer with a wrong clock or an expired chain can tell its
// user. Our chain is shown to members only.
func (g *gate) serveHello(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(helloTimeout))
	c := s.Conn()
	h, err := readHello(s)
	if err == nil {
		err = g.admit(c, h)
	}
	if err == nil {
		if _, err = s.Write(g.mine(c.RemotePeer()).append([]byte{helloWelcome})); err == nil {
			_ = s.Close()
			return
		}
		_ = s.Reset()
		return
	}
	g.log.Debug("refusing a hello", "peer", c.RemotePeer(), "err", err)
	_, _ = s.Write(appendRefusal(nil, err.Error()))
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

// admit verifies a hello and opens the peer's door.
func (g *gate) admit(c network.Conn, h hello) error {
	p := c.RemotePeer()
	id, err := fromLibp2p(p)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrNotMember, err)
	}
	m, err := g.verify(h.chain, id)
	if err != nil {
		return err
	}
	g.mu.Lock()
	d := g.doorLocked(p)
	if d == nil {
		g.mu.Unlock()
		return network.ErrNoConn
	}
	first := d.member == nil
	d.member, d.chain, d.flags = m, h.chain, h.flags|d.flags&flagServer
	d.remote = c.RemoteMultiaddr()
	if c.Stat().Direction == network.DirInbound && !g.dialled[p] {
		g.reached = true
	}
	if t := g.timers[c]; t != nil {
		t.Stop()
		delete(g.timers, c)
	}
	delete(g.refusals, p)
	if first {
		close(d.open)
	}
	now := *d // what the callbacks see does not change under them
	g.mu.Unlock()
	if first {
		g.entered(&now)
	} else {
		g.probeOthers(c)
	}
	g.heard(&now, h)
	return nil
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
	if len(g.refusals) >= refusalsMax {
		clear(g.refusals)
	}
	g.refusals[p] = refusal{err, time.Now()}
	if d := g.doors[p]; d != nil && d.member == nil {
		delete(g.doors, p)
		d.err = err
		close(d.gone)
	}
}

// wait returns once p, a connected peer, has come through the gate.
func (g *gate) wait(ctx context.Context, p peer.ID) (*membership.Member, error) {
	g.mu.Lock()
	d := g.doorLocked(p)
	why, ok := g.refusals[p]
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
			return nil, fmt.Errorf("peer %s: connection closed before it was admitted: %w", p, ErrNotMember)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return d.member, nil
}

// connect makes sure that there is a connection to a member.
func (g *gate) connect(ctx context.Context, ai peer.AddrInfo) (*membership.Member, error) {
	if err := g.host.Connect(ctx, ai); err != nil {
		return nil, err
	}
	return g.wait(ctx, ai.ID)
}

// member returns the member behind p if it is connected and admitted.
func (g *gate) member(p peer.ID) (*membership.Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	if d == nil || d.member == nil {
		return nil, false
	}
	return d.member, true
}

// wasReached says whether a member's connection came in without our having
// dialled it before.
func (g *gate) wasReached() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reached
}

// markServer notes that a member serves the database, and says whether that
// is news.
func (g *gate) markServer(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	if d == nil || d.flags&flagServer != 0 {
		return false
	}
	d.flags |= flagServer
	return true
}

// members returns the admitted peers in no particular order.
func (g *gate) members() []*door {
	g.mu.Lock()
	defer g.mu.Unlock()
	copies := make([]door, 0, len(g.doors))
	out := make([]*door, 0, len(g.doors))
	for _, d := range g.doors {
		if d.member != nil {
			copies = append(copies, *d)
			out = append(out, &copies[len(copies)-1])
		}
	}
	return out
}

// expel closes every connection of members whose chain keep does not accept
// any more, and returns them.
func (g *gate) expel(keep func(d *door) bool) []*door {
	var out []*door
	for _, d := range g.members() {
		if keep(d) {
			continue
		}
		out = append(out, d)
		_ = g.host.Network().ClosePeer(d.peer)
	}
	return out
}

// greetAll says hello again everywhere: our chain has changed.
func (g *gate) greetAll() {
	for _, d := range g.members() {
		g.greetAgain(d.peer)
	}
}

// greetAgain says a new hello to a member, if it is connected; one after the
// other, so that the newest is the one that stays.
func (g *gate) greetAgain(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[p]
	_, busy := g.greeting[p]
	if d == nil || d.member == nil || g.closed {
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

// stream opens a stream to a connected member without dialling.
func (g *gate) stream(ctx context.Context, p peer.ID, pid protocol.ID) (network.Stream, error) {
	if _, err := g.wait(ctx, p); err != nil {
		return nil, err
	}
	return openStream(ctx, g.host, p, pid)
}

// openStream opens a stream on the newest connection to p, the one that proved
// alive last: after a crash of p the old one looks alive for half a minute. The
// protocol is negotiated with the first bytes written, which saves the round
// trip that identify would cost right after connecting.
func openStream(ctx context.Context, h host.Host, p peer.ID, pid protocol.ID) (network.Stream, error) {
	conns := h.Network().ConnsToPeer(p)
	slices.SortStableFunc(conns, func(a, b network.Conn) int { return b.Stat().Opened.Compare(a.Stat().Opened) })
	err := network.ErrNoConn
	for _, c := range conns {
		var s network.Stream
		if s, err = c.NewStream(ctx); err != nil {
			continue
		}
		if err = s.SetProtocol(pid); err != nil {
			_ = s.Reset()
			continue
		}
		return &lazyStream{Stream: s, rw: msmux.NewMSSelect(s, pid)}, nil
	}
	return nil, err
}

// lazyStream is a stream whose protocol is negotiated along with its first
// bytes. Reads and writes may each be used by one goroutine.
type lazyStream struct {
	network.Stream
	rw msmux.LazyConn
}

func (s *lazyStream) Read(b []byte) (int, error)  { return s.rw.Read(b) }
func (s *lazyStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

// CloseWrite negotiates too, for a question without words.
func (s *lazyStream) CloseWrite() error {
	if err := s.rw.Flush(); err != nil {
		return err
	}
	return s.Stream.CloseWrite()
}

// gateNotifiee is the gate as libp2p's network sees it.
type gateNotifiee gate

func (n *gateNotifiee) Listen(network.Network, ma.Multiaddr)      {}
func (n *gateNotifiee) ListenClose(network.Network, ma.Multiaddr) {}
func (n *gateNotifiee) Connected(_ network.Network, c network.Conn) {
	(*gate)(n).connected(c)
}
func (n *gateNotifiee) Disconnected(_ network.Network, c network.Conn) {
	(*gate)(n).disconnected(c)
}
