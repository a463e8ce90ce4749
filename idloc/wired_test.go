package idloc_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"

	"github.com/idloc/idloc/internal/null"
)

// wired is the kernel's network as one host of several on loopback has it: its
// addresses change when told to, its TCP connections die after so many bytes,
// and what crosses its sockets can be looked at.
type wired struct {
	transport.Net

	mu     sync.Mutex // guards what follows
	addrs  []netip.Addr
	conns  map[*wiredConn]bool
	deaths []int64       // of the connections to come: after how many bytes sent
	record bool          // keep what crosses
	seen   []*wiredConn  // all that there were, if record
	sent   []wiredPacket // likewise
}

type wiredPacket struct {
	from, to netip.AddrPort
	b        []byte
}

func newWired(t testing.TB, addr string) *wired {
	t.Helper()
	nw, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	return &wired{Net: nw, addrs: []netip.Addr{netip.MustParseAddr(addr)}, conns: map[*wiredConn]bool{}}
}

// move gives the host another address instead of those it has.
func (w *wired) move() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs = []netip.Addr{w.addrs[0].Next()}
}

// cut kills all TCP connections, and the next ones after so many bytes.
func (w *wired) cut(next ...int64) {
	w.mu.Lock()
	conns := w.conns
	w.conns = map[*wiredConn]bool{}
	w.deaths = append(w.deaths, next...)
	w.mu.Unlock()
	for c := range conns {
		c.real.Abort()
	}
}

func (w *wired) Interfaces() ([]*transport.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := transport.NewInterface(net.Interface{Index: 1, Name: "wired0", MTU: 1500, Flags: net.FlagUp})
	for _, a := range w.addrs {
		i.AddAddress(&net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
	}
	return []*transport.Interface{i}, nil
}

func (w *wired) add(c *net.TCPConn) *wiredConn {
	k := &wiredConn{TCPConn: c, real: null.TCP(c), w: w, left: -1}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[k] = true
	if len(w.deaths) > 0 {
		k.left, w.deaths = w.deaths[0], w.deaths[1:]
	}
	if k.record = w.record; k.record {
		w.seen = append(w.seen, k)
	}
	return k
}

func (w *wired) ListenTCP(network string, laddr *net.TCPAddr) (transport.TCPListener, error) {
	l, err := net.ListenTCP(network, laddr)
	if err != nil {
		return nil, err
	}
	return wiredListener{l, w}, nil
}

type wiredListener struct {
	*net.TCPListener
	w *wired
}

func (l wiredListener) AcceptTCP() (transport.TCPConn, error) {
	c, err := l.TCPListener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return l.w.add(c), nil
}

func (l wiredListener) Accept() (net.Conn, error) { return l.AcceptTCP() }

func (w *wired) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	c, err := net.DialTCP(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	return w.add(c), nil
}

// wiredConn is a TCP connection of the kernel's.
type wiredConn struct {
	*net.TCPConn
	real null.Conn
	w    *wired

	mu      sync.Mutex // guards what follows
	left    int64      // bytes until it dies; negative: it does not
	record  bool
	in, out []byte
}

var _ null.Conn = (*wiredConn)(nil)

func (c *wiredConn) Abort()               { c.real.Abort() }
func (c *wiredConn) Unacked() (int, bool) { return c.real.Unacked() }
func (c *wiredConn) Silent() bool         { return c.real.Silent() }
func (c *wiredConn) Ended() bool          { return c.real.Ended() }

func (c *wiredConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.TCPConn.Close()
}

func (c *wiredConn) received(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record {
		c.in = append(c.in, b...)
	}
}

func (c *wiredConn) Read(b []byte) (int, error) {
	n, err := c.real.Read(b)
	c.received(b[:n])
	return n, err
}

func (c *wiredConn) Take(b []byte) (int, error) {
	n, err := c.real.Take(b)
	c.received(b[:n])
	return n, err
}

func (c *wiredConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	dies := c.left >= 0 && c.left < int64(len(b))
	if dies {
		b = b[:c.left]
	}
	if c.left >= 0 {
		c.left -= int64(len(b))
	}
	c.mu.Unlock()
	n, err := c.real.Write(b)
	c.mu.Lock()
	if c.record {
		c.out = append(c.out, b[:n]...)
	}
	c.mu.Unlock()
	if dies && err == nil {
		c.real.Abort()
		err = io.ErrClosedPipe
	}
	return n, err
}

func (w *wired) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := net.ListenUDP(network, laddr)
	if err != nil || !w.record {
		return c, err
	}
	return &wiredUDP{c, w}, nil
}

// wiredUDP is a UDP socket whose datagrams are recorded.
type wiredUDP struct {
	*net.UDPConn
	w *wired
}

func (c *wiredUDP) WriteTo(b []byte, to net.Addr) (int, error) {
	c.w.mu.Lock()
	c.w.sent = append(c.w.sent, wiredPacket{c.LocalAddr().(*net.UDPAddr).AddrPort(), to.(*net.UDPAddr).AddrPort(), slices.Clone(b)})
	c.w.mu.Unlock()
	return c.UDPConn.WriteTo(b, to)
}
