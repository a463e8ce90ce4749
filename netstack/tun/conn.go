package tun

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/idloc/idloc/netstack"
)

// In the kernel's place above the shim, conns are the kernel's. They have to
// be found again for Close, and the LSI that they name must not be given away
// while they do.

// tcpConn is a connection of the kernel's.
type tcpConn struct {
	*net.TCPConn
	end func() // idempotent
}

func (c *tcpConn) Close() error {
	c.end()
	return c.TCPConn.Close()
}

// udpConn is a socket of the kernel's that is bound to one LSI or connected.
type udpConn struct {
	*net.UDPConn
	end func() // idempotent
}

func (c *udpConn) Close() error {
	c.end()
	return c.UDPConn.Close()
}

var (
	_ net.Conn       = (*tcpConn)(nil)
	_ net.Conn       = (*udpConn)(nil)
	_ net.PacketConn = (*udpConn)(nil)
)

// keepTCP returns c as a conn that Close ends.
func (h *Host) keepTCP(c *net.TCPConn) (net.Conn, error) {
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	unpin := h.pin(remote)
	k := &tcpConn{TCPConn: c}
	k.end = sync.OnceFunc(func() { h.untrack(k); unpin() })
	if !h.track(k) {
		k.Close()
		return nil, net.ErrClosed
	}
	return k, nil
}

// keepUDP is keepTCP for UDP.
func (h *Host) keepUDP(c *net.UDPConn) (*udpConn, error) {
	unpin := func() {}
	if a, ok := c.RemoteAddr().(*net.UDPAddr); ok {
		unpin = h.pin(a.AddrPort().Addr().Unmap())
	}
	k := &udpConn{UDPConn: c}
	k.end = sync.OnceFunc(func() { h.untrack(k); unpin() })
	if !h.track(k) {
		k.Close()
		return nil, net.ErrClosed
	}
	return k, nil
}

// familyOf returns the name that package net has for proto over a's family.
func familyOf(proto string, a netip.Addr) string {
	if a.Unmap().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// check says whether the node may use a as a remote address: LSIs and what
// AddAddress added. Anything else would leave the overlay.
func (h *Host) check(a netip.Addr) error {
	v4, v6 := h.shim.Table().Prefixes()
	if a = a.Unmap(); v4.Contains(a) || v6.Contains(a) {
		return nil
	}
	return syscall.ENETUNREACH
}

// DialTCP connects to raddr, from laddr if that is valid. The network, "tcp",
// "tcp4" or "tcp6", is for errors: raddr decides. The error is a *net.OpError.
func (h *Host) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if laddr.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(laddr)
	}
	c, err := h.dial(ctx, &d, network, familyOf("tcp", raddr.Addr()), raddr)
	if err != nil {
		return nil, err
	}
	k, err := h.keepTCP(c.(*net.TCPConn))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(raddr), Err: err}
	}
	return k, nil
}

// DialTCPWhile is DialTCP over the pipe whose life up is, as Shim.Open returns it: when
// that ends first, the error is a netstack.ErrPipeLost. A nil up does not end.
func (h *Host) DialTCPWhile(ctx, up context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	if up == nil {
		return h.DialTCP(ctx, network, laddr, raddr)
	}
	dial, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(up, cancel)()
	c, err := h.DialTCP(dial, network, laddr, raddr)
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(raddr), Err: netstack.ErrPipeLost}
	}
	return c, err
}

// DialUDP returns a UDP conn that is connected to raddr, from laddr if that is
// valid. Nothing is sent. The network is for errors, as in DialTCP. The error
// is a *net.OpError.
func (h *Host) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if laddr.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(laddr)
	}
	c, err := h.dial(ctx, &d, network, familyOf("udp", raddr.Addr()), raddr)
	if err != nil {
		return nil, err
	}
	k, err := h.keepUDP(c.(*net.UDPConn))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.UDPAddrFromAddrPort(raddr), Err: err}
	}
	return k, nil
}

func (h *Host) dial(ctx context.Context, d *net.Dialer, network, kernels string, raddr netip.AddrPort) (net.Conn, error) {
	var addr net.Addr = net.TCPAddrFromAddrPort(raddr)
	if kernels[0] == 'u' {
		addr = net.UDPAddrFromAddrPort(raddr)
	}
	err := h.check(raddr.Addr())
	if h.isClosed() {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
	}
	c, err := d.DialContext(ctx, kernels, netip.AddrPortFrom(raddr.Addr().Unmap(), raddr.Port()).String())
	if err != nil {
		return nil, named(err, network)
	}
	return c, nil
}

// named gives an error of package net the network that the caller asked for.
func named(err error, network string) error {
	if op, ok := err.(*net.OpError); ok {
		op.Net = network
	}
	return err
}

func (h *Host) isClosed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// ListenTCP announces on laddr. An invalid or unspecified address means the
// node's LSIs, of both families with the network "tcp", of one with "tcp4" and
// "tcp6", as in netstack: never the host's other addresses. The backlog is the
// kernel's. The error is a *net.OpError.
func (h *Host) ListenTCP(network string, laddr netip.AddrPort, _ int) (net.Listener, error) {
	if h.isClosed() {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(laddr), Err: net.ErrClosed}
	}
	addrs, wildcard := h.wildcard(network, laddr.Addr())
	l := &listener{h: h, network: network, closed: make(chan struct{}), accepted: make(chan accepted)}
	port := laddr.Port()
	for try := 0; ; try++ {
		err := l.bind(addrs, port)
		if err == nil {
			break
		}
		// A port that was free for the first address may be taken at the second.
		if laddr.Port() != 0 || try == 16 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, named(err, network)
		}
	}
	l.addr = l.sockets[0].Addr().(*net.TCPAddr)
	if wildcard.IsValid() {
		l.addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(wildcard, l.addr.AddrPort().Port()))
	}
	if !h.track(l) {
		l.Close()
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.addr, Err: net.ErrClosed}
	}
	if len(l.sockets) > 1 {
		for _, s := range l.sockets {
			l.wg.Go(func() { l.serve(s) })
		}
	}
	return l, nil
}

// wildcard returns the addresses that a stands for, and if it is a wildcard the
// unspecified address that says so.
func (h *Host) wildcard(network string, a netip.Addr) (addrs []netip.Addr, wildcard netip.Addr) {
	switch {
	case a.IsValid() && !a.Unmap().IsUnspecified():
		return []netip.Addr{a.Unmap()}, netip.Addr{}
	case network == "tcp4":
		return []netip.Addr{h.self4}, netip.IPv4Unspecified()
	case network == "tcp6":
		return []netip.Addr{h.self6}, netip.IPv6Unspecified()
	}
	addrs = []netip.Addr{h.self4}
	if h.has6() {
		addrs = append(addrs, h.self6)
	}
	return addrs, netip.IPv6Unspecified()
}

// has6 says whether the host has the node's IPv6 LSI.
func (h *Host) has6() bool {
	if !h.self6.IsValid() {
		return false
	}
	c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.self6, 0)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// listener is a net.Listener on one or both LSIs.
type listener struct {
	h       *Host
	network string
	addr    *net.TCPAddr
	sockets []*net.TCPListener
	wg      sync.WaitGroup

	closed   chan struct{}
	once     sync.Once
	accepted chan accepted // if there are several sockets
}

type accepted struct {
	c   *net.TCPConn
	err error
}

func (l *listener) bind(addrs []netip.Addr, port uint16) error {
	for _, a := range addrs {
		s, err := net.ListenTCP(familyOf("tcp", a), net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		if err != nil {
			for _, s := range l.sockets {
				s.Close()
			}
			l.sockets = nil
			return err
		}
		l.sockets = append(l.sockets, s)
		port = s.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return nil
}

// serve hands on what one of several sockets accepts.
func (l *listener) serve(s *net.TCPListener) {
	for {
		c, err := l.member(s)
		select {
		case l.accepted <- accepted{c, err}:
		case <-l.closed:
			if c != nil {
				c.Close()
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// member accepts a connection, at an LSI one from an LSI only: the kernel takes
// what comes in for an address of the host's at any of its devices.
func (l *listener) member(s *net.TCPListener) (*net.TCPConn, error) {
	for {
		c, err := s.AcceptTCP()
		if err != nil {
			return nil, err
		}
		at, from := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(), c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if l.h.check(at) != nil || l.h.check(from) == nil {
			return c, nil
		}
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	var a accepted
	if len(l.sockets) == 1 {
		a.c, a.err = l.member(l.sockets[0])
	} else {
		select {
		case a = <-l.accepted:
		case <-l.closed:
			a.err = &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: net.ErrClosed}
		}
	}
	if a.err != nil {
		return nil, named(a.err, l.network)
	}
	c, err := l.h.keepTCP(a.c)
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
	}
	return c, nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// Close implements net.Listener.
func (l *listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: l.network, Addr: l.addr, Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		close(l.closed)
		l.h.untrack(l)
		for _, s := range l.sockets {
			err = errors.Join(err, s.Close())
		}
		l.wg.Wait()
	})
	return err
}

// ListenUDP returns a net.PacketConn bound to laddr, which is understood as in
// ListenTCP. The error is a *net.OpError.
func (h *Host) ListenUDP(network string, laddr netip.AddrPort) (net.PacketConn, error) {
	a := laddr.Addr()
	if h.isClosed() {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.UDPAddrFromAddrPort(laddr), Err: net.ErrClosed}
	}
	if !a.IsValid() || a.Unmap().IsUnspecified() {
		return h.listenAny(network, &net.UDPAddr{Port: int(laddr.Port())})
	}
	if a := a.Unmap(); a == h.self4 || a == h.self6 {
		c, err := h.listenAny(familyOf("udp", a), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, laddr.Port())))
		if err != nil {
			return nil, named(err, network)
		}
		return c, nil
	}
	c, err := net.ListenUDP(familyOf("udp", a), net.UDPAddrFromAddrPort(laddr))
	if err != nil {
		return nil, named(err, network)
	}
	k, err := h.keepUDP(c)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: c.LocalAddr(), Err: err}
	}
	return &inside{k, h}, nil
}

// inside is a socket bound to an LSI that sends to LSIs only.
type inside struct {
	*udpConn
	h *Host
}

func (c *inside) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if err := c.h.check(to.Addr()); err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: net.UDPAddrFromAddrPort(to), Err: err}
	}
	return c.udpConn.WriteToUDPAddrPort(b, to)
}

func (c *inside) WriteTo(b []byte, to net.Addr) (int, error) {
	if ua, ok := to.(*net.UDPAddr); ok && ua != nil {
		return c.WriteToUDPAddrPort(b, ua.AddrPort())
	}
	return c.udpConn.WriteTo(b, to)
}
