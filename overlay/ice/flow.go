package ice

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
	"github.com/idloc/idloc/overlay/nat"
)

const (
	flowGather     = 500 * time.Millisecond // for mapped addresses, by the time of the offer
	maxUndelivered = 16                     // datagrams that wait for the pair
)

// FlowConfig configures FlowSockets. It is read once.
type FlowConfig struct {
	Pacer       *Pacer                  // of the node's checks; nil: one of its own
	Gate        ServerGate              // of questions to STUN servers; nil lets everything pass
	STUNServers func() []netip.AddrPort // whom to ask how the sockets look from outside; required
	Addrs       []netip.Addr            // local ones, a socket on each
	Net         transport.Net           // nil is the kernel's
	Logger      *slog.Logger            // nil is silent
}

// FlowSockets are sockets that one UDP flow has for itself, and ICE on them (a
// flow with null encapsulation, draft §4.3). What comes in is a connectivity
// check if it is a STUN message that our fragment and password, or, as an answer, the
// peer's password make ours; all else is the application's, STUN of its own included. It
// is safe for concurrent use.
type FlowSockets struct {
	demux *Demux
	port  *socket.Port
	agent *Agent // nil until made; guarded by ready

	ready   chan struct{} // closed when agent is set
	receive atomic.Pointer[func([]byte)]
	remote  atomic.Pointer[flowRemote]
	closing sync.Once

	mu          sync.Mutex // guards undelivered
	undelivered []undeliveredDatagram
}

// undeliveredDatagram came before this side had the pair in use: the
// controlling side has it first, and sends.
type undeliveredDatagram struct {
	conn *socket.Conn
	from netip.AddrPort
	b    []byte
}

// flowRemote is what is known of the other end.
type flowRemote struct {
	Credentials
	conn *socket.Conn // of the nominated pair; nil before
	at   netip.AddrPort
}

// NewFlowSockets opens the sockets and asks servers how they look from outside,
// for half a second at most.
func NewFlowSockets(ctx context.Context, cfg FlowConfig) (*FlowSockets, error) {
	u := &FlowSockets{demux: NewDemux(DemuxConfig{Pacer: cfg.Pacer, Servers: cfg.Gate}), ready: make(chan struct{})}
	var err error
	if u.port, err = socket.Listen(socket.Config{Net: cfg.Net, Addrs: cfg.Addrs, Logger: cfg.Logger, OnAny: u.input}); err != nil {
		return nil, err
	}
	mapped := nat.NewMappedAddrs(nat.MappedConfig{Asker: u.demux, Conns: u.port.Conns, Servers: cfg.STUNServers})
	gather, cancel := context.WithTimeout(ctx, flowGather)
	var wg sync.WaitGroup
	enough := mapped.Remeasure()
	wg.Go(func() { mapped.Measure(gather) })
	<-enough
	cancel()
	wg.Wait()
	if u.agent, err = NewAgent(Config{Demux: u.demux, Conns: u.port.Conns(), Mapped: mapped.Of, Net: cfg.Net}); err != nil {
		_ = u.port.Close()
		return nil, err
	}
	close(u.ready)
	return u, nil
}

// Credentials are what the peer needs to check with these sockets.
func (u *FlowSockets) Credentials() Credentials { return u.agent.Credentials() }

// Candidates are what the peer should be shown; the slice must not be changed.
func (u *FlowSockets) Candidates() []wire.Candidate { return u.agent.Candidates() }

// Close closes the sockets. It is idempotent, and must not be called from what
// Receive was given.
func (u *FlowSockets) Close() {
	u.closing.Do(func() {
		u.agent.Close()
		_ = u.port.Close()
	})
}

// Retire ends the agent; from then on the peer's checks are answered by the
// sockets themselves.
func (u *FlowSockets) Retire() { u.agent.Close() }

// Run checks the pairs with the remote candidates, which must have been filtered,
// and returns the one that the controlling side has nominated. Only then Send and
// Check may be called. It is called once.
func (u *FlowSockets) Run(ctx context.Context, controlling bool, remote Credentials, candidates []wire.Candidate) (Pair, error) {
	u.remote.Store(&flowRemote{Credentials: remote})
	if len(candidates) == 0 {
		return Pair{}, ErrNoPair
	}
	p, err := u.agent.Nominate(ctx, controlling, remote, candidates)
	if err != nil {
		return Pair{}, err
	}
	u.remote.Store(&flowRemote{Credentials: remote, conn: p.Local, at: p.Remote})
	return p, nil
}

// Send sends a datagram of the application's over the pair; b is borrowed. One
// that is too long is syscall.EMSGSIZE; any other failure is a loss.
func (u *FlowSockets) Send(b []byte) error {
	r := u.remote.Load()
	if err := r.conn.WriteTo(b, r.at); errors.Is(err, socket.ErrMessageTooLong) {
		return syscall.EMSGSIZE
	}
	return nil
}

// input takes what has come in on a socket: datagrams of seg bytes each.
func (u *FlowSockets) input(c *socket.Conn, from netip.AddrPort, b []byte, seg int) {
	for first := true; first || len(b) > 0; first = false { // one datagram at least, perhaps an empty one
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if u.check(c, from, d) {
			continue
		}
		if u.receive.Load() == nil && u.store(c, from, d) {
			continue
		}
		u.deliver(c, from, d)
	}
}

// deliver passes a datagram on if it came from the nominated address.
func (u *FlowSockets) deliver(c *socket.Conn, from netip.AddrPort, d []byte) {
	if r := u.remote.Load(); r != nil && r.conn == c && r.at == from {
		(*u.receive.Load())(d)
	}
}

// store keeps a datagram until there is who receives it; false: there is.
func (u *FlowSockets) store(c *socket.Conn, from netip.AddrPort, d []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.receive.Load() != nil {
		return false
	}
	if len(u.undelivered) < maxUndelivered {
		u.undelivered = append(u.undelivered, undeliveredDatagram{c, from, slices.Clone(d)})
	}
	return true
}

// Receive has f called with what comes over the pair from now on, and with what has
// come already. f borrows the datagram; it is called on the sockets' read
// goroutines.
func (u *FlowSockets) Receive(f func([]byte)) {
	u.mu.Lock()
	u.receive.Store(&f)
	stored := u.undelivered
	u.undelivered = nil
	u.mu.Unlock()
	for _, d := range stored {
		u.deliver(d.conn, d.from, d.b)
	}
}

// check takes d if it is a connectivity check of ours.
func (u *FlowSockets) check(c *socket.Conn, from netip.AddrPort, d []byte) bool {
	kind, id := stun.Classify(d)
	switch kind {
	case stun.Request:
		select {
		case <-u.ready:
		default:
			return false
		}
		local := u.agent.Credentials()
		if string(stun.Username(d)) != local.Ufrag || !stun.Verified(d, local.Pwd) {
			return false
		}
		u.request(c, from, d, id)
		return true
	case stun.Response:
		// One that has the peer's password is an answer to a check of ours, also when it is
		// so late that nobody waits for it any more. A server has none.
		r := u.remote.Load()
		if ours := r != nil && stun.Verified(d, r.Pwd) || r == nil && u.demux.Awaits(id); !ours {
			return false
		}
		u.demux.Handle(c, from, d)
		return true
	}
	return false
}

// request answers a check of the peer's, by the agent as long as it is there.
func (u *FlowSockets) request(c *socket.Conn, from netip.AddrPort, d []byte, id stun.TransactionID) {
	select {
	case <-u.agent.Closed():
	default:
		u.demux.Handle(c, from, d)
		return
	}
	b, err := stun.Success(id, from, u.agent.Credentials().Pwd)
	if err == nil {
		_ = c.WriteTo(b, from)
	}
}

// Check sends a check over the pair (RFC 7675); answered is called when the peer
// answers it, until forget is called.
func (u *FlowSockets) Check(answered func()) (forget func()) {
	r := u.remote.Load()
	b, id, err := stun.Check{Local: u.agent.Credentials().Ufrag, Remote: r.Credentials}.Message()
	if err != nil {
		return func() {}
	}
	forget = u.demux.Await(id, func(from netip.AddrPort) {
		if from == r.at {
			answered()
		}
	})
	_ = r.conn.WriteTo(b, r.at)
	return forget
}
