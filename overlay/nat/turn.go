package nat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v3"
	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/socket"
)

const (
	turnTimeout   = 10 * time.Second // of one attempt to get an address
	turnRetry     = time.Second      // between attempts, doubled up to turnRetryMax
	turnRetryMax  = 2 * time.Minute
	turnKeepalive = 20 * time.Second // below the NAT's timeout (RFC 4787 REQ-5)
	turnRTO       = 200 * time.Millisecond
	// turnPeers bounds the addresses that one allocation has permissions
	// for: all are refreshed in one message, which must fit into a datagram.
	turnPeers = 64
	// turnDatagram is the largest UDP payload worth trying through a server:
	// what a Send indication leaves of Ethernet's 1500 bytes.
	turnDatagram = 1400
)

var (
	errTURNFull    = errors.New("the TURN allocation has as many peers as it can take")
	errNoPermit    = errors.New("no permission of the TURN server for that address")
	errTURNMoved   = errors.New("the local address of the TURN client is gone")
	errNoTURNRoute = errors.New("no local address reaches the TURN server")
)

// silent keeps pion's log away from standard error: what matters of it is in the
// errors.
var silent = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}

// AllocationsConfig configures Allocations. It is read once.
type AllocationsConfig struct {
	Servers []ICEServer   // of which those are asked that are TURN servers
	Sockets *socket.Port  // the shared port; required
	Net     transport.Net // nil is the kernel's
	Logger  *slog.Logger  // nil is silent
	// STUN takes the STUN messages that come to a lent address, Data all else
	// that may be a pipe's: a first byte from 128 to 191. b is borrowed. Both are
	// called on the allocation's read goroutine.
	STUN, Data func(a *Allocation, from netip.AddrPort, b []byte)
	// Changed is called when an address has come or gone.
	Changed func()
	// Ended is called when an address has gone, before Changed.
	Ended func(a *Allocation)
}

// Allocations keeps one allocation at each TURN server (RFC 8656), each on a
// socket of its own: the one exception to the one port (DESIGN §14.9). The
// addresses are there before an offer needs them and outlive its agents. It is
// safe for concurrent use.
type Allocations struct {
	servers []*turnServer
}

// turnServer is one server and the address that it lends, if it does.
type turnServer struct {
	ICEServer
	cfg   *AllocationsConfig
	roots *x509.CertPool // whom TLS trusts; nil: whom the system does

	kick chan struct{} // capacity 1: the local addresses have changed

	mu      sync.Mutex // guards what follows
	current *Allocation
	err     error // why there is none
}

// TURNStatus is what a node tells of one of its TURN servers.
type TURNStatus struct {
	Server  string         // URL without credentials
	Address netip.AddrPort // lent by the server; zero: none now
	Err     error          // why there is none
}

// NewAllocations makes Allocations that has no address yet.
func NewAllocations(cfg AllocationsConfig) *Allocations {
	cfg.Logger = logpace.New(cfg.Logger)
	t := &Allocations{}
	for _, s := range cfg.Servers {
		if s.TURN {
			t.servers = append(t.servers, &turnServer{ICEServer: s, cfg: &cfg, kick: make(chan struct{}, 1)})
		}
	}
	return t
}

// Run keeps the allocations until ctx ends and everything of them is gone.
func (t *Allocations) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range t.servers {
		wg.Go(func() { s.run(ctx) })
	}
	wg.Wait()
}

// Current are the addresses that there are now.
func (t *Allocations) Current() []*Allocation {
	var out []*Allocation
	for _, s := range t.servers {
		s.mu.Lock()
		if s.current != nil {
			out = append(out, s.current)
		}
		s.mu.Unlock()
	}
	return out
}

// NetworkChanged tells that local addresses have changed.
func (t *Allocations) NetworkChanged() {
	for _, s := range t.servers {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// Status says of each server what there is now.
func (t *Allocations) Status() []TURNStatus {
	var out []TURNStatus
	for _, s := range t.servers {
		s.mu.Lock()
		st := TURNStatus{Server: s.String(), Err: s.err}
		if s.current != nil {
			st.Address = s.current.at
		}
		s.mu.Unlock()
		out = append(out, st)
	}
	return out
}

// run gets an address, keeps it while the server answers, and gets another
// one when it does not.
func (s *turnServer) run(ctx context.Context) {
	wait := turnRetry
	for ctx.Err() == nil {
		a, err := s.allocate(ctx)
		if err == nil {
			wait = turnRetry
			s.set(a, nil)
			s.cfg.Logger.Info("TURN address", "server", s.String(), "addr", a.at)
			err = a.serve(ctx, s.kick)
			s.cfg.Ended(a)
		}
		s.set(nil, err)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Logger.Warn("no TURN address", "server", s.String(), "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, turnRetryMax)
		case <-s.kick:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (s *turnServer) set(a *Allocation, err error) {
	s.mu.Lock()
	changed := (s.current == nil) != (a == nil)
	s.current, s.err = a, err
	s.mu.Unlock()
	if changed {
		s.cfg.Changed()
	}
}

// allocate asks the server for an address.
func (s *turnServer) allocate(ctx context.Context) (*Allocation, error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	addrs, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	err = errNoTURNRoute
	for _, at := range addrs {
		c := s.cfg.Sockets.ConnFor(at.Addr())
		if c == nil {
			continue
		}
		var a *Allocation
		if a, err = s.allocateFrom(ctx, c, at); err == nil {
			return a, nil
		}
	}
	return nil, err
}

func (s *turnServer) allocateFrom(ctx context.Context, c *socket.Conn, at netip.AddrPort) (*Allocation, error) {
	at = netip.AddrPortFrom(s.cfg.Sockets.OnWire(at.Addr()), at.Port()) // from a socket of its own, which translates nothing
	base, err := s.dial(ctx, c.Under().LocalAddr().Addr(), at)
	if err != nil {
		return nil, err
	}
	l := &Allocation{server: s, conn: c, base: base, to: at, permitted: map[netip.Addr]bool{}, lost: make(chan struct{})}
	l.client, err = turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: at.String(), Username: s.User, Password: s.Password, RTO: turnRTO,
		Conn: base, Net: anyFamily{}, LoggerFactory: silent,
	})
	if err != nil {
		return nil, errors.Join(err, base.Close())
	}
	l.wg.Go(l.readServer)
	stop := context.AfterFunc(ctx, l.client.Close)
	l.relayed, err = l.client.Allocate()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		var ok bool
		if l.at, ok = udpAddrPort(l.relayed.LocalAddr()); !ok {
			err = fmt.Errorf("the server lends %v", l.relayed.LocalAddr())
		}
	}
	if err != nil {
		l.close()
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, err
	}
	return l, nil
}

// dial makes the client's socket, on the local address given.
func (s *turnServer) dial(ctx context.Context, local netip.Addr, at netip.AddrPort) (net.PacketConn, error) {
	if !s.TCP {
		from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		if s.cfg.Net != nil {
			return s.cfg.Net.ListenUDP("udp", from)
		}
		return net.ListenUDP("udp", from)
	}
	d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	var c net.Conn
	var err error
	if s.cfg.Net != nil {
		c, err = s.cfg.Net.CreateDialer(d).Dial("tcp", at.String())
	} else {
		c, err = d.DialContext(ctx, "tcp", at.String())
	}
	if err != nil {
		return nil, err
	}
	if s.TLS {
		t := tls.Client(c, &tls.Config{ServerName: s.Host, RootCAs: s.roots})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c = t
	}
	return turn.NewSTUNConn(c), nil
}

// anyFamily reads the address of a server, of either family: pion's own
// network knows IPv4 servers only. Nothing else of it is asked.
type anyFamily struct{ transport.Net }

func (anyFamily) ResolveUDPAddr(_, address string) (*net.UDPAddr, error) {
	a, err := netip.ParseAddrPort(address)
	return net.UDPAddrFromAddrPort(a), err
}
