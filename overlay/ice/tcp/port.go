package tcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// Config configures a Port. It is read once.
type Config struct {
	Net   transport.Net       // nil is the kernel's
	Addrs func() []netip.Addr // this host's addresses, the best first; required
	Port  uint16              // wanted; another is taken if it is not free
	// Reaches says whether a connection from one of them can lead to another
	// host's address; nil is what the two addresses tell.
	Reaches func(local, remote netip.Addr) bool
	// Allow is asked before each connection to an address that the peer has
	// named; nil allows all.
	Allow func(netip.AddrPort) bool
	// Servers lists whom to ask how a connection looks from outside, the best
	// first; nil is nobody.
	Servers func() []netip.AddrPort
	Logger  *slog.Logger // nil is silent
}

const (
	firstMessage = 5 * time.Second // within which an accepted connection must say what it is for
	maxNameless  = 256             // accepted connections that have not
	mappingLife  = 15 * time.Second
	maxKept      = 1024 // connections that are held open for peers' mappings
	// oneOf is what part of either may be of one address.
	oneOf = 4
)

// Port is where the peers' connections come in: one TCP port number on each
// local address. It is safe for concurrent use.
type Port struct {
	cfg Config
	log *slog.Logger

	mu        sync.Mutex // guards what follows
	closed    bool
	number    uint16
	listeners map[netip.Addr]net.Listener
	sessions  map[string]*Session
	nameless  held
	kept      held
	wg        sync.WaitGroup
}

// Listen opens the port on every local address that there is. Later ones are
// added by Refresh.
func Listen(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, log: cfg.Logger, listeners: map[netip.Addr]net.Listener{},
		sessions: map[string]*Session{}, nameless: held{}, kept: held{}}
	if p.cfg.Reaches == nil {
		p.cfg.Reaches = reaches
	}
	p.log = logpace.New(p.log)
	if err := p.Refresh(); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// Refresh follows the local addresses that came and went. It fails if there
// is no listener then.
func (p *Port) Refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	gone := make(map[netip.Addr]net.Listener, len(p.listeners))
	for a, l := range p.listeners {
		gone[a] = l
	}
	last := error(errNoAddress)
	for _, a := range p.cfg.Addrs() {
		if delete(gone, a); p.listeners[a] != nil {
			continue
		}
		want := p.number
		if want == 0 {
			want = p.cfg.Port
		}
		l, err := p.listen(netip.AddrPortFrom(a, want))
		if err != nil && inUse(err) {
			l, err = p.listen(netip.AddrPortFrom(a, 0))
		}
		if err != nil {
			last = err
			continue
		}
		if p.number == 0 {
			p.number = addrPort(l.Addr()).Port()
		}
		p.listeners[a] = l
		p.wg.Go(func() { p.accept(l, nil) })
	}
	for a, l := range gone {
		_ = l.Close()
		delete(p.listeners, a)
	}
	if len(p.listeners) == 0 {
		return last
	}
	return nil
}

var errNoAddress = errors.New("no local address")

func inUse(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use")
}

// Close ends all sessions and connections that are still being checked, and
// waits.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, l := range p.listeners {
		_ = l.Close()
	}
	for c := range p.nameless {
		_ = c.Close()
	}
	for c := range p.kept {
		_ = c.Close()
	}
	var sessions []*Session
	for _, s := range p.sessions {
		sessions = append(sessions, s)
	}
	p.mu.Unlock()
	for _, s := range sessions {
		s.Close()
	}
	p.wg.Wait()
	return nil
}

// network is the name for an address's family.
func network(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

func control(_, _ string, rc syscall.RawConn) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) {
		null.PrepareFD(fd)
		err = null.ReusePort(fd)
	}); cerr != nil {
		return cerr
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // no simultaneous open, then
	}
	return err
}

func (p *Port) listen(at netip.AddrPort) (net.Listener, error) {
	if p.cfg.Net != nil {
		return p.cfg.Net.ListenTCP(network(at.Addr()), net.TCPAddrFromAddrPort(at))
	}
	lc := net.ListenConfig{Control: control}
	return lc.Listen(context.Background(), network(at.Addr()), at.String())
}

// dial connects from a local address, whose port may be 0.
func (p *Port) dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	if p.cfg.Net != nil {
		return p.dialSimulated(ctx, from, to)
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: control}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, network(to.Addr()), to.String())
}

// dialSimulated connects on a network whose DialTCP knows no context.
func (p *Port) dialSimulated(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	p.wg.Go(func() {
		c, err := p.cfg.Net.DialTCP(network(to.Addr()), net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
		if err == nil && ctx.Err() != nil {
			_ = c.Close()
			err = ctx.Err()
		}
		done <- result{c, err}
	})
	p.mu.Unlock()
	select {
	case r := <-done:
		return r.c, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// accept serves a listener; s is its session, nil for the port's own.
func (p *Port) accept(l net.Listener, s *Session) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || p.isClosed() {
				return
			}
			if t := time.NewTimer(50 * time.Millisecond); s == nil { // out of descriptors, perhaps
				<-t.C
				continue
			}
			return
		}
		p.mu.Lock()
		if p.closed || !p.nameless.add(c, maxNameless) {
			p.mu.Unlock()
			_ = c.Close()
			continue
		}
		p.wg.Go(func() { p.identify(c) })
		p.mu.Unlock()
	}
}

func (p *Port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// identify reads the first message of an accepted connection, which says whose
// it is. A request without a user name is answered as a STUN server does.
func (p *Port) identify(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(firstMessage))
	m, err := readMessage(c)
	var s *Session
	plain := false
	if err == nil && m.IsRequest() {
		if local, _, ok := m.Users(); ok {
			p.mu.Lock()
			s = p.sessions[local]
			p.mu.Unlock()
		} else {
			plain = true
		}
	}
	p.mu.Lock()
	delete(p.nameless, c)
	keep := plain && !p.closed && p.kept.add(c, maxKept)
	p.mu.Unlock()
	if plain {
		p.serve(c, m, keep)
	}
	if keep {
		p.mu.Lock()
		delete(p.kept, c)
		p.mu.Unlock()
	}
	if s == nil || !s.take(inbound{c, m}) {
		_ = c.Close()
	}
}

// serve tells a peer how its connection looks from here, and with hold leaves
// it open for a while: while it is, a NAT keeps the mapping.
func (p *Port) serve(c net.Conn, m stun.Message, keep bool) {
	r, err := stun.Success(m.ID(), addrPort(c.RemoteAddr()), "")
	if err != nil || writeMessage(c, r) != nil || !keep {
		return
	}
	_ = c.SetDeadline(time.Now().Add(mappingLife))
	_, _ = c.Read(make([]byte, 1))
}
