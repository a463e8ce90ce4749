package idloctest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pion/transport/v3"
)

// socketQueue is how many datagrams a socket holds for its reader; what comes
// beyond is dropped, as by a kernel.
const socketQueue = 4096

// Net returns the network as the host has it, for idloc.Config.Net and for
// sockets of a test's own (ListenUDP on one of the host's addresses). It knows
// UDP only.
func (h *Host) Net() transport.Net { return &hostNet{h} }

// hostNet is a host's network. Safe for concurrent use.
type hostNet struct{ h *Host }

var _ transport.Net = (*hostNet)(nil)

func unsupported(op, network string) error {
	return &net.OpError{Op: op, Net: network, Err: errors.ErrUnsupported}
}

func (n *hostNet) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	if laddr == nil {
		laddr = &net.UDPAddr{}
	}
	fail := func(err error) (transport.UDPConn, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: laddr, Err: err}
	}
	h := n.h
	at := laddr.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if u, _ := h.uplinkOf(at.Addr()); u == nil && !h.onDeadEnd(at.Addr()) {
		return fail(syscall.EADDRNOTAVAIL)
	}
	if at.Port() == 0 {
		for at.Port() == 0 || h.conns[at] != nil {
			h.port = 32768 + (h.port+1)%28000
			at = netip.AddrPortFrom(at.Addr(), h.port)
		}
	}
	if h.conns[at] != nil {
		return fail(syscall.EADDRINUSE)
	}
	c := &udpConn{host: h, local: at, queue: make(chan datagram, socketQueue), done: make(chan struct{}), late: make(chan struct{})}
	h.conns[at] = c
	return c, nil
}

func (n *hostNet) Interfaces() ([]*transport.Interface, error) {
	n.h.net.mu.Lock()
	defer n.h.net.mu.Unlock()
	i := transport.NewInterface(net.Interface{Index: 1, Name: "lab0", MTU: 1500, Flags: net.FlagUp | net.FlagMulticast})
	for _, u := range n.h.uplinks {
		for _, a := range u.addrs {
			i.AddAddress(&net.IPNet{IP: a.ip.AsSlice(), Mask: net.CIDRMask(a.prefix.Bits(), a.ip.BitLen())})
		}
	}
	out := []*transport.Interface{i}
	for _, e := range n.h.ends {
		i := transport.NewInterface(net.Interface{Index: len(out) + 1, Name: e.name, MTU: 1500, Flags: net.FlagUp | net.FlagMulticast})
		i.AddAddress(&net.IPNet{IP: e.at.Addr().AsSlice(), Mask: net.CIDRMask(e.at.Bits(), e.at.Addr().BitLen())})
		out = append(out, i)
	}
	return out, nil
}

func (n *hostNet) InterfaceByIndex(index int) (*transport.Interface, error) {
	return n.interfaceThat(func(i *transport.Interface) bool { return i.Index == index })
}

func (n *hostNet) InterfaceByName(name string) (*transport.Interface, error) {
	return n.interfaceThat(func(i *transport.Interface) bool { return i.Name == name })
}

func (n *hostNet) interfaceThat(ok func(*transport.Interface) bool) (*transport.Interface, error) {
	is, err := n.Interfaces()
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(is, ok); i >= 0 {
		return is[i], nil
	}
	return nil, transport.ErrInterfaceNotFound
}

func (n *hostNet) ListenPacket(network, address string) (net.PacketConn, error) {
	a, err := net.ResolveUDPAddr(network, address)
	if err != nil {
		return nil, err
	}
	return n.ListenUDP(network, a)
}

func (n *hostNet) ListenTCP(network string, _ *net.TCPAddr) (transport.TCPListener, error) {
	return nil, unsupported("listen", network)
}
func (n *hostNet) Dial(network, _ string) (net.Conn, error) {
	return nil, unsupported("dial", network)
}
func (n *hostNet) DialUDP(network string, _, _ *net.UDPAddr) (transport.UDPConn, error) {
	return nil, unsupported("dial", network)
}
func (n *hostNet) DialTCP(network string, _, _ *net.TCPAddr) (transport.TCPConn, error) {
	return nil, unsupported("dial", network)
}
func (n *hostNet) ResolveIPAddr(network, address string) (*net.IPAddr, error) {
	return net.ResolveIPAddr(network, address)
}
func (n *hostNet) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	return net.ResolveUDPAddr(network, address)
}
func (n *hostNet) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	return net.ResolveTCPAddr(network, address)
}
func (n *hostNet) CreateDialer(*net.Dialer) transport.Dialer { return refusingDialer{} }

type refusingDialer struct{}

func (refusingDialer) Dial(network, _ string) (net.Conn, error) {
	return nil, unsupported("dial", network)
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

// udpConn is a socket. Safe for concurrent use.
type udpConn struct {
	host  *Host
	local netip.AddrPort
	queue chan datagram
	once  sync.Once
	done  chan struct{} // closed by Close

	mu    sync.Mutex // guards the read deadline
	late  chan struct{}
	timer *time.Timer
	set   int // how often it was set
}

var _ transport.UDPConn = (*udpConn)(nil)

// push takes a datagram from the network, which owns b no more.
func (c *udpConn) push(from netip.AddrPort, b []byte) {
	select {
	case c.queue <- datagram{from, b}:
	default:
	}
}

func (c *udpConn) error(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Err: err}
}

func (c *udpConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	c.mu.Lock()
	late := c.late
	c.mu.Unlock()
	select {
	case <-c.done:
		return 0, nil, c.error("read", net.ErrClosed)
	case <-late:
		return 0, nil, c.error("read", os.ErrDeadlineExceeded)
	default:
	}
	select {
	case d := <-c.queue:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.done:
		return 0, nil, c.error("read", net.ErrClosed)
	case <-late:
		return 0, nil, c.error("read", os.ErrDeadlineExceeded)
	}
}

func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, a, err := c.ReadFromUDP(b)
	if err != nil {
		return n, nil, err
	}
	return n, a, nil
}

func (c *udpConn) Read(b []byte) (int, error) {
	n, _, err := c.ReadFromUDP(b)
	return n, err
}

func (c *udpConn) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, addr, err = c.ReadFromUDP(b)
	return n, 0, 0, addr, err
}

func (c *udpConn) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) {
	select {
	case <-c.done:
		return 0, c.error("write", net.ErrClosed)
	default:
	}
	to := addr.AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !c.host.net.send(c.host, c.local, to, b) {
		return 0, c.error("write", syscall.EADDRNOTAVAIL)
	}
	return len(b), nil
}

func (c *udpConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, c.error("write", transport.ErrNotUDPAddress)
	}
	return c.WriteToUDP(b, u)
}

func (c *udpConn) WriteMsgUDP(b, _ []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, err = c.WriteToUDP(b, addr)
	return n, 0, err
}

func (c *udpConn) Write([]byte) (int, error) { return 0, c.error("write", syscall.EDESTADDRREQ) }

func (c *udpConn) Close() error {
	err := c.error("close", net.ErrClosed)
	c.once.Do(func() {
		err = nil
		close(c.done)
		c.host.net.mu.Lock()
		defer c.host.net.mu.Unlock()
		delete(c.host.conns, c.local)
	})
	return err
}

func (c *udpConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.local) }
func (c *udpConn) RemoteAddr() net.Addr             { return nil }
func (c *udpConn) SetReadBuffer(int) error          { return nil }
func (c *udpConn) SetWriteBuffer(int) error         { return nil }
func (c *udpConn) SetWriteDeadline(time.Time) error { return nil }
func (c *udpConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }

// SetReadDeadline counts for reads that begin after it; one that waits
// already is woken by a deadline that has passed.
func (c *udpConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set++
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	select {
	case <-c.late:
		c.late = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return nil
	}
	set := c.set
	c.timer = time.AfterFunc(max(0, time.Until(t)), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.set == set {
			close(c.late)
		}
	})
	return nil
}
