package tcp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/transport/v3"
)

// memory is a network of TCP connections in memory, for virtual time.
type memory struct {
	mu        sync.Mutex // guards what follows
	listeners map[netip.AddrPort]*memListener
	seen      map[netip.Addr]netip.Addr        // what a NAT shows of a host
	delay     map[netip.AddrPort]time.Duration // of connections there
	dialled   map[netip.AddrPort]int
	next      uint16
}

func newMemory() *memory {
	return &memory{listeners: map[netip.AddrPort]*memListener{}, seen: map[netip.Addr]netip.Addr{},
		delay: map[netip.AddrPort]time.Duration{}, dialled: map[netip.AddrPort]int{}, next: 5000}
}

func (m *memory) dials(to string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dialled[netip.MustParseAddrPort(to)]
}

// outside is what others see of an address.
func (m *memory) outside(a netip.AddrPort) netip.AddrPort {
	if as, ok := m.seen[a.Addr()]; ok {
		return netip.AddrPortFrom(as, a.Port())
	}
	return a
}

// memHost is one host's part of it.
type memHost struct {
	transport.Net
	m *memory
}

func (h memHost) ListenTCP(_ string, at *net.TCPAddr) (transport.TCPListener, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	a := at.AddrPort()
	if a.Port() == 0 {
		h.m.next++
		a = netip.AddrPortFrom(a.Addr(), h.m.next)
	}
	if h.m.listeners[a] != nil {
		return nil, fmt.Errorf("listen %v: %w", a, syscall.EADDRINUSE)
	}
	l := &memListener{m: h.m, at: a, in: make(chan *memConn, 64), closed: make(chan struct{})}
	h.m.listeners[a] = l
	return l, nil
}

func (h memHost) DialTCP(_ string, from, to *net.TCPAddr) (transport.TCPConn, error) {
	local, remote := from.AddrPort(), to.AddrPort()
	h.m.mu.Lock()
	if local.Port() == 0 {
		h.m.next++
		local = netip.AddrPortFrom(local.Addr(), h.m.next)
	}
	h.m.dialled[remote]++
	delay, source := h.m.delay[remote], h.m.outside(local)
	var l *memListener
	for at, k := range h.m.listeners {
		if at == remote || h.m.outside(at) == remote {
			l = k
		}
	}
	h.m.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if l == nil {
		return nil, fmt.Errorf("dial %v: %w", remote, syscall.ECONNREFUSED)
	}
	here, there := net.Pipe()
	select {
	case l.in <- &memConn{Conn: there, local: l.at, remote: source}:
		return &memConn{Conn: here, local: local, remote: remote}, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %v: %w", remote, syscall.ECONNREFUSED)
	}
}

type memListener struct {
	transport.TCPListener
	m      *memory
	at     netip.AddrPort
	in     chan *memConn
	once   sync.Once
	closed chan struct{}
}

func (l *memListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.m.mu.Lock()
		delete(l.m.listeners, l.at)
		l.m.mu.Unlock()
	})
	return nil
}

// memConn is an end of a pipe with addresses. Of a TCPConn only what a net.Conn
// has is there.
type memConn struct {
	net.Conn
	notConn
	local, remote netip.AddrPort
}

// notConn is the rest of a TCPConn.
type notConn interface {
	CloseRead() error
	CloseWrite() error
	ReadFrom(r io.Reader) (int64, error)
	SetKeepAlive(keepalive bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetLinger(sec int) error
	SetNoDelay(noDelay bool) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

func (c *memConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *memConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// port opens a Port of a host with these addresses.
func (m *memory) port(t *testing.T, change func(*Config), addrs ...string) *Port {
	t.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	cfg := Config{Net: memHost{m: m}, Addrs: func() []netip.Addr { return list }, Port: 4000}
	if change != nil {
		change(&cfg)
	}
	p, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}
