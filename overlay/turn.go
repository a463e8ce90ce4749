package overlay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/transport/v3"
	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/internal/pipe"
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

// turnServers keeps one allocation at each TURN server (RFC 8656), each on a
// socket of its own: the one exception to the one port (DESIGN §14.9). The
// addresses are there before an offer needs them and outlive its agents. It is
// safe for concurrent use.
type turnServers struct {
	servers []*turnServer
}

// turnServer is one server and the address that it lends, if it does.
type turnServer struct {
	ICEServer
	sockets *socket.Port
	net     transport.Net
	log     *slog.Logger
	stun    func(l *turnLink, from netip.AddrPort, b []byte)
	pipes   *pipe.Endpoint
	changed func()         // the address has come or gone
	roots   *x509.CertPool // whom TLS trusts; nil: whom the system does

	kick chan struct{} // capacity 1: the local addresses have changed

	mu   sync.Mutex // guards what follows
	link *turnLink
	err  error // why there is no link
}

// TURNStatus is what a node tells of one of its TURN servers.
type TURNStatus struct {
	Server  string         // URL without credentials
	Address netip.AddrPort // lent by the server; zero: none now
	Err     error          // why there is none
}

func newTURNServers(o *Overlay, servers []ICEServer) *turnServers {
	t := &turnServers{}
	for _, s := range servers {
		if s.TURN && o.cfg.Paths != PathDirectOnly {
			t.servers = append(t.servers, &turnServer{
				ICEServer: s, sockets: o.cfg.Socket, net: o.cfg.Net, log: o.log, pipes: o.pipes,
				stun: o.demux.handleTURN, changed: o.candidatesChanged, kick: make(chan struct{}, 1),
			})
		}
	}
	return t
}

// run keeps the allocations until ctx ends and everything of them is gone.
func (t *turnServers) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range t.servers {
		wg.Go(func() { s.run(ctx) })
	}
	wg.Wait()
}

// links are the addresses that there are now.
func (t *turnServers) links() []*turnLink {
	var out []*turnLink
	for _, s := range t.servers {
		s.mu.Lock()
		if s.link != nil {
			out = append(out, s.link)
		}
		s.mu.Unlock()
	}
	return out
}

// moved tells that local addresses have changed.
func (t *turnServers) moved() {
	for _, s := range t.servers {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

func (t *turnServers) status() []TURNStatus {
	var out []TURNStatus
	for _, s := range t.servers {
		s.mu.Lock()
		st := TURNStatus{Server: s.String(), Err: s.err}
		if s.link != nil {
			st.Address = s.link.at
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
		link, err := s.allocate(ctx)
		if err == nil {
			wait = turnRetry
			s.set(link, nil)
			s.log.Info("TURN address", "server", s.String(), "addr", link.at)
			err = link.serve(ctx, s.kick)
			s.pipes.RemoveLocal(link)
		}
		s.set(nil, err)
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("no TURN address", "server", s.String(), "err", err)
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

func (s *turnServer) set(l *turnLink, err error) {
	s.mu.Lock()
	told := (s.link == nil) != (l == nil)
	s.link, s.err = l, err
	s.mu.Unlock()
	if told {
		s.changed()
	}
}

// allocate asks the server for an address.
func (s *turnServer) allocate(ctx context.Context) (*turnLink, error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	addrs, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	err = errNoTURNRoute
	for _, at := range addrs {
		c := s.sockets.ConnFor(at.Addr())
		if c == nil {
			continue
		}
		var l *turnLink
		if l, err = s.allocateFrom(ctx, c, at); err == nil {
			return l, nil
		}
	}
	return nil, err
}

func (s *turnServer) allocateFrom(ctx context.Context, c *socket.Conn, at netip.AddrPort) (*turnLink, error) {
	base, err := s.dial(ctx, c.LocalAddr().Addr(), at)
	if err != nil {
		return nil, err
	}
	l := &turnLink{server: s, conn: c, base: base, to: at, permitted: map[netip.Addr]bool{}, lost: make(chan struct{})}
	l.client, err = turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: at.String(), Username: s.User, Password: s.Password, RTO: turnRTO,
		Conn: base, Net: anyFamily{}, LoggerFactory: silentFactory{},
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
		if s.net != nil {
			return s.net.ListenUDP("udp", from)
		}
		return net.ListenUDP("udp", from)
	}
	d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	var c net.Conn
	var err error
	if s.net != nil {
		c, err = s.net.CreateDialer(d).Dial("tcp", at.String())
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

// turnLink is an address that a TURN server lends: a local end of paths, like
// a socket of the port. Sending costs what pion's client allocates for each
// datagram. It is safe for concurrent use, and comparable by identity.
type turnLink struct {
	server  *turnServer
	conn    *socket.Conn // of the port, on the same local address
	base    net.PacketConn
	to      netip.AddrPort // the server
	client  *turn.Client
	relayed net.PacketConn
	at      netip.AddrPort // lent

	once sync.Once
	lost chan struct{} // closed when the way to the server has ended
	wg   sync.WaitGroup

	mu        sync.RWMutex // guards permitted
	permitted map[netip.Addr]bool
}

var _ pipe.TURN = (*turnLink)(nil)

// LocalAddr returns the address that the server lends.
func (l *turnLink) LocalAddr() netip.AddrPort { return l.at }

// TURN implements pipe.TURN.
func (l *turnLink) TURN() {}

// MaxDatagram bounds the search for the size that gets through.
func (l *turnLink) MaxDatagram() int { return turnDatagram }

// WriteBatch sends through the server, to addresses that checks have opened.
func (l *turnLink) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	l.mu.RLock()
	ok := l.permitted[to.Addr()]
	l.mu.RUnlock()
	if !ok {
		return errNoPermit
	}
	if seg <= 0 {
		seg = len(b)
	}
	addr := net.UDPAddrFromAddrPort(to)
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if _, err := l.relayed.WriteTo(d, addr); err != nil {
			return err
		}
	}
	return nil
}

// WriteTo is WriteBatch for one datagram.
func (l *turnLink) WriteTo(b []byte, to netip.AddrPort) error { return l.WriteBatch(b, len(b), to) }

// open sends b to an address that may have no permission yet: it waits for
// the server to give one.
func (l *turnLink) open(b []byte, to netip.AddrPort) error {
	l.mu.RLock()
	ok, full := l.permitted[to.Addr()], len(l.permitted) >= turnPeers
	l.mu.RUnlock()
	if ok {
		return l.WriteTo(b, to)
	}
	if full {
		return errTURNFull
	}
	if _, err := l.relayed.WriteTo(b, net.UDPAddrFromAddrPort(to)); err != nil {
		return err
	}
	l.mu.Lock()
	l.permitted[to.Addr()] = true
	l.mu.Unlock()
	return nil
}

// serve passes on what comes in until the server is lost, the local address
// is gone or ctx ends.
func (l *turnLink) serve(ctx context.Context, kick <-chan struct{}) error {
	defer l.close()
	l.wg.Go(l.readRelayed)
	alive := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.wg.Go(func() { alive <- l.keepAlive(ctx) })
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.lost:
			return net.ErrClosed
		case err := <-alive:
			return err
		case <-kick:
			if !slices.Contains(l.server.sockets.Conns(), l.conn) {
				return errTURNMoved
			}
		}
	}
}

// keepAlive asks the server something now and then: it keeps the NAT's mapping
// of the client's socket, and finds out that the server is gone.
func (l *turnLink) keepAlive(ctx context.Context) error {
	for pause(ctx, turnKeepalive) {
		if _, err := l.client.SendBindingRequestTo(net.UDPAddrFromAddrPort(l.to)); err != nil {
			return fmt.Errorf("the TURN server does not answer: %w", err)
		}
	}
	return nil
}

// readServer gives the client what its server sends. A message that it cannot
// read ends nothing.
func (l *turnLink) readServer() {
	defer l.lose()
	b := make([]byte, 1<<16)
	for {
		n, from, err := l.base.ReadFrom(b)
		if err != nil {
			return
		}
		if a, ok := udpAddrPort(from); ok && a != l.to {
			continue
		}
		_, _ = l.client.HandleInbound(b[:n], from)
	}
}

// readRelayed takes what peers have sent to the lent address.
func (l *turnLink) readRelayed() {
	b := make([]byte, 1<<16)
	for {
		n, addr, err := l.relayed.ReadFrom(b)
		if err != nil {
			return
		}
		from, ok := udpAddrPort(addr)
		if !ok || n == 0 {
			continue
		}
		switch {
		case b[0] < 4:
			l.server.stun(l, from, b[:n])
		case b[0]>>6 == 2:
			l.server.pipes.Receive(l, from, b[:n], n)
		}
	}
}

func (l *turnLink) lose() { l.once.Do(func() { close(l.lost) }) }

// close gives the address back and waits for the link's goroutines.
func (l *turnLink) close() {
	if l.relayed != nil {
		_ = l.relayed.Close()
	}
	_ = l.base.Close()
	l.client.Close()
	l.wg.Wait()
}
