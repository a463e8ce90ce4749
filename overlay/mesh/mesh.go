package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// Config is what a Mesh needs of its surroundings. All functions may be called
// from any goroutine, and none while a lock of the Mesh is held.
type Config struct {
	Key     ed25519.PrivateKey // this peer's identity
	Port    *socket.Port       // stays the caller's
	Prefix  protocol.ID        // begins the protocol IDs of the overlay
	Log     *slog.Logger
	Hearsay *hearsay.Gate // which addresses may be dialled

	// Carriers lead to members where UDP does not; nil: there are none. UDPSilent says
	// whether nothing comes back over UDP here: then they need not wait for it.
	Carriers  *carrier.Set
	UDPSilent func() bool
	// Network names the network that this host is in, of which State remembers that this
	// was so; nil: it is not remembered.
	Network func() string
	State   *state.Dir
	// Pipes are this peer's pipes: their addresses are tried too, and their sockets
	// dialled from.
	Pipes Pipes
	// Known are the members that this peer knows from before. They are saved by it.
	Known *Known
	// Verify says who a chain makes a member now, Current whether one that has
	// shown a membership still is one, and by which.
	Verify func(chain []byte, from peerid.ID) (*membership.Member, error)
	// Charter is told, before Verify, what a peer has shown of who rules the overlay.
	Charter func(from peerid.ID, charter []byte)
	Current func(shown *membership.Member) (*membership.Member, bool)
	// Readmit is what somebody is answered that has shown a chain and is refused for a
	// reason; the error is why it is refused all the same. Readmitted takes such an answer.
	// Lapsed says why this peer is no member itself now, and lets nobody in; nil if it is.
	Readmit    func(ctx context.Context, chain []byte, from peerid.ID, why error) ([]byte, error)
	Readmitted func(answer []byte) error
	Lapsed     func() error
	// Hello is what this peer says of itself now. Keep is added to it.
	Hello func() Hello
	// YoungFor is for how long a server that has only just begun may lack records.
	YoungFor time.Duration

	// Entered is told of a member's first valid hello, Heard of every one, after
	// Entered, and Left when a member's last connection is gone: trimmed, which
	// says nothing about the member, or for good.
	Entered func(Neighbor)
	Heard   func(Neighbor, Hello)
	Left    func(p peer.ID, m *membership.Member, trimmed bool)
	// Clock is told what time a peer that is, was or will be a member says it is.
	Clock func(p peerid.ID, seconds uint64)
	// Answers is told of an address at which somebody answers over QUIC, Probed what
	// a failed dial tells of one.
	Answers func(netip.AddrPort)
	Probed  func(nat.Probe)
	// ClockWrong says whether this machine's clock is known to be wrong.
	ClockWrong func() bool
	// Stretch returns a timeout as it is on this machine now (package lag); nil: as it is.
	Stretch func(time.Duration) time.Duration
	// Alone is told once why no member is reached, when that has lasted.
	Alone func(why string)

	// Serving says whether this peer keeps a part of the database, EnoughServers is
	// how many servers a peer looks for, and Account to whom this one is charged besides.
	Serving       func() bool
	EnoughServers int
	Account       func() account.Account
	// Record returns a member's name record, if one is known; Show takes one that
	// somebody tells, and says whether it is news.
	Record func(peerid.ID) []byte
	Show   func(of peerid.ID, record []byte) (news bool)
	// Allow says whether a member may have one more request answered that costs
	// something.
	Allow func(peerid.ID) bool
	// Pulse is called every UpkeepEvery, for what others keep up. Decide is called
	// after each upkeep, and says whether it wants to be asked again soon.
	Pulse  func()
	Decide func() (soon bool)
}

// Mesh is this peer's connections to the members of one overlay. It is safe for
// concurrent use.
type Mesh struct {
	cfg       Config
	self      peerid.ID
	host      host.Host
	metrics   *prometheus.Registry // libp2p's
	made      time.Time
	gate      *gate
	keep      *keeper
	known     *Known
	blocked   *Blocked
	tries     attempts
	backs     dialBacks
	suspects  *suspects
	udpFailed atomic.Int64  // when a pipe has last moved to a carrier, in ns since 1970
	met       *rate.Limiter // of notices about members that have come in

	ctx     context.Context // ends with Leave
	leave   context.CancelFunc
	wake    chan struct{}
	arrived chan struct{} // of saveSoon
	stirred bell          // who waits for a member may look again

	tryingServers atomic.Bool
	serverTurn    int // of Run
	serverless    int // of Run: rounds in a row that found no server connected
}

// New makes a Mesh that listens, and says nothing before Start.
func New(cfg Config) (*Mesh, error) {
	metrics := prometheus.NewRegistry()
	m := &Mesh{
		cfg: cfg, metrics: metrics, known: cfg.Known, made: time.Now(), met: rate.NewLimiter(metRate, metBurst),
		wake: make(chan struct{}, 1), arrived: make(chan struct{}, 1),
	}
	var damaged error
	if m.blocked, damaged = LoadBlocked(cfg.State, time.Now, cfg.Log); damaged != nil {
		cfg.Log.Warn("saved state is damaged and begun anew", "name", BlockedFile, "err", damaged)
	}
	h, err := newHost(cfg.Key, cfg.Port, cfg.Pipes.Source, dialGate{cfg.Hearsay}, carrierDialer{cfg.Carriers, m.udpSilent}, metrics)
	if err != nil {
		return nil, err
	}
	self, err := p2p.PeerID(h.ID())
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	m.self, m.host = self, h
	m.ctx, m.leave = context.WithCancel(context.Background())
	m.suspects = m.newSuspects()
	m.gate = newGate(h, cfg, m.hello)
	m.gate.entered, m.gate.heard, m.gate.left = m.entered, m.heard, m.left
	m.keep = newKeeper(h.ConnManager(), m.gate.greetAgain)
	return m, nil
}

// hello is what this peer says first on each connection to p.
func (m *Mesh) hello(p peer.ID) Hello {
	h := m.cfg.Hello()
	h.Keep = m.keep.needs(p)
	h.Twin = m.gate.twins.met(p, time.Now())
	return h
}

// Start greets whoever is connected. What is served must be set before.
func (m *Mesh) Start() {
	m.Serve(peersProtocol, m.answerPeers)
	m.Serve(metProtocol, m.answerMet)
	m.Serve(dialBackProtocol, m.answerDialBack)
	m.Serve(seenProtocol, m.answerSeen)
	m.gate.start()
}

// entered is called when a member has come through the gate.
func (m *Mesh) entered(n Neighbor) {
	m.cfg.Entered(n)
	m.note(n) // it may be all that is left of it in a second
	if m.tries.reached() {
		m.cfg.Log.Info("a member is reached again", "peer", n.ID)
	}
	m.stirred.ring()
	m.saveSoon()
	m.Wake()
}

// heard is called for each valid hello, also later ones.
func (m *Mesh) heard(n Neighbor, h Hello) {
	m.host.Peerstore().AddAddrs(n.Peer, append(m.Told(n.Peer, h.Addrs), n.Remote), helloAddrTTL)
	m.keep.heard(n.Peer, n.Member.Account(), h.Keep)
	if m.cfg.Show(n.ID, h.Record) {
		m.introduce(n)
	}
	m.cfg.Heard(n, h)
}

// left is called when a member's last connection is gone.
func (m *Mesh) left(p peer.ID, was *membership.Member, trimmed bool) {
	if _, ok := m.gate.member(p); !ok {
		m.keep.left(p)
	}
	m.cfg.Left(p, was, trimmed)
	m.Wake()
}

// Leave ends what this peer does by itself: it dials and asks nobody any more. Who
// asks it is answered until Stop.
func (m *Mesh) Leave() { m.leave() }

// Stop stops greeting and answering, and waits for what is under way. The
// connections stay until Close.
func (m *Mesh) Stop() {
	m.leave()
	m.gate.close()
}

// Close closes the connections and what listens.
func (m *Mesh) Close() error {
	m.leave()
	return m.host.Close()
}

// Known are the members that this peer remembers.
func (m *Mesh) Known() *Known { return m.known }

// Host is libp2p's host under the mesh. Its streams are not only members'.
func (m *Mesh) Host() host.Host { return m.host }

// Go runs f unless the mesh was stopped; Stop waits for it.
func (m *Mesh) Go(f func()) { m.gate.spawn(f) }

// Ask puts a request to a connected member and returns its answer. It does not
// dial: network.ErrNoConn says that there is no connection. See Protocol for
// whose the bytes are.
func (m *Mesh) Ask(ctx context.Context, p peer.ID, pr Protocol, request []byte) ([]byte, error) {
	s, err := m.gate.stream(ctx, p, pr.ID(m.cfg.Prefix))
	if err != nil {
		return nil, err
	}
	return pr.Exchange(ctx, s, request)
}

// Serve has the requests of members answered, and nobody else's.
func (m *Mesh) Serve(pr Protocol, answer Handler) {
	m.gate.handle(pr.ID(m.cfg.Prefix), func(s network.Stream, from *membership.Member) {
		if err := pr.Serve(m.gate.ctx, s, from, answer); err != nil {
			m.cfg.Log.Debug("a request is not answered", "protocol", pr.Name, "peer", from.Peer, "err", err)
		}
	})
}

// Stream opens a stream to a peer that is connected and was admitted, or is about
// to be. It is for a protocol that has its own messages; others use Ask.
func (m *Mesh) Stream(ctx context.Context, p peer.ID, pid protocol.ID) (network.Stream, error) {
	return m.gate.stream(ctx, p, pid)
}

// HandleStreams serves such a protocol to members only. The stream is reset when
// the mesh is stopped.
func (m *Mesh) HandleStreams(pid protocol.ID, f func(network.Stream, *membership.Member)) {
	m.gate.handle(pid, f)
}

// Admitted waits until the peer behind a stream is through the gate, as long as
// the gate gives it, and says whether it is.
func (m *Mesh) Admitted(s network.Stream) bool { return m.gate.admitted(s) }

// Connect makes sure that there is a connection to a member. It dials, and is content with
// a connection by which the member comes in itself meanwhile.
func (m *Mesh) Connect(ctx context.Context, ai peer.AddrInfo) (*membership.Member, error) {
	if err := m.dialUnlessIn(ctx, ai); err != nil {
		return nil, err
	}
	in, err := m.gate.wait(ctx, ai.ID)
	if errors.Is(err, network.ErrNoConn) { // there was one
		err = fmt.Errorf("peer %s: %w", ai.ID, errUnanswered)
	}
	return in, err
}

// dialUnlessIn is Dial until the member comes in, by whatever connection.
func (m *Mesh) dialUnlessIn(ctx context.Context, ai peer.AddrInfo) error {
	arrival := m.Arrival()
	if m.host.Network().Connectedness(ai.ID) == network.Connected {
		return nil
	}
	until, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() {
		for {
			select {
			case <-arrival:
			case <-until.Done():
				return
			}
			arrival = m.Arrival()
			if _, in := m.Member(ai.ID); in {
				end()
			}
		}
	})
	err := m.Dial(until, ai)
	if err == nil || until.Err() == nil || ctx.Err() != nil {
		return err
	}
	if _, in := m.Member(ai.ID); !in { // it came, and is gone again
		return fmt.Errorf("peer %s: %w", ai.ID, errUnanswered)
	}
	return nil
}

// Dial makes sure that there is a connection, not that a member is at its end.
func (m *Mesh) Dial(ctx context.Context, ai peer.AddrInfo) error {
	if m.host.Network().Connectedness(ai.ID) == network.Connected {
		return nil
	}
	m.host.Peerstore().AddAddrs(ai.ID, append(m.Ways(ai.ID), ai.Addrs...), peerstore.TempAddrTTL)
	_, err := m.host.Network().DialPeer(ctx, ai.ID)
	return err
}

// Wait returns once a connected peer has come through the gate.
func (m *Mesh) Wait(ctx context.Context, p peer.ID) (*membership.Member, error) {
	return m.gate.wait(ctx, p)
}

// Member returns the member behind p if it is connected, was admitted, and is one
// now.
func (m *Mesh) Member(p peer.ID) (*membership.Member, bool) { return m.gate.member(p) }

// Members returns the connected members, in no particular order.
func (m *Mesh) Members() []Neighbor { return m.gate.members() }

// Latest returns a context that ends when p has come in by another connection
// than it has: whoever waits for an answer on that may wait in vain.
func (m *Mesh) Latest(p peer.ID) context.Context { return m.gate.newest(p) }

// Arrival returns what is closed when a member is connected that was not, or when something
// else has changed for those who wait for one.
func (m *Mesh) Arrival() <-chan struct{} { return m.stirred.wait() }

// Young says whether a member is a server that has only just begun.
func (m *Mesh) Young(p peer.ID) bool { return m.gate.young(p) }

// IsServer says whether a connected member keeps a part of the database.
func (m *Mesh) IsServer(p peer.ID) bool { return m.gate.isServer(p) }

// Expel closes every connection of those that are no members any more.
func (m *Mesh) Expel() { m.gate.expel() }

// Strangers is how many connections there are that came in and whose other end has
// not shown its membership yet.
func (m *Mesh) Strangers() int { return m.host.Network().ResourceManager().(*limits).strangers() }

// Greet says hello to all members again: what it says has changed.
func (m *Mesh) Greet() { m.gate.greetAll() }

// Forgive forgets why peers were refused: the reason may be gone.
func (m *Mesh) Forgive() { m.gate.forgive() }

// Reached tells how this peer was reached from elsewhere, unasked.
func (m *Mesh) Reached() Reach { return m.gate.reachedFrom() }

// ForgetReached forgets what was found out about that with local addresses that
// are gone, which are as netip.AddrPort writes them.
func (m *Mesh) ForgetReached(gone map[string]bool) {
	m.gate.moved(gone)
	if len(gone) > 0 {
		m.backs.set(DialBack{})
	}
}

// HangUp closes the connections from addresses that are gone: nobody answers
// on them, and QUIC would find that out in half a minute. It waits for that.
func (m *Mesh) HangUp(gone map[string]bool) {
	var wg sync.WaitGroup
	for _, c := range m.host.Network().Conns() {
		if at, ok := p2p.AddrPort(c.LocalMultiaddr()); ok && gone[at.String()] {
			wg.Go(func() { _ = c.Close() })
		}
	}
	wg.Wait()
}

// KeepNearest replaces the servers nearest this peer's ID, KeepNamed the members
// that its contact record names: the connections to both are not trimmed, and the
// members are told so.
func (m *Mesh) KeepNearest(ps []peer.ID) { m.keep.set(&m.keep.near, ps) }

// KeepNamed is described at KeepNearest.
func (m *Mesh) KeepNamed(ids []peerid.ID) {
	ps := make([]peer.ID, len(ids))
	for i, id := range ids {
		ps[i] = p2p.ID(id)
	}
	m.keep.set(&m.keep.named, ps)
}

// Nearest returns the servers of the last KeepNearest.
func (m *Mesh) Nearest() []peer.ID { return m.keep.nearest() }
