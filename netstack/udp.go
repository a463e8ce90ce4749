package netstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/idloc/idloc/internal/inner"
)

// maxDatagram is the largest UDP payload, that of IPv4; the pipe splits what
// is larger than its path takes.
const maxDatagram = 65507

// udpConn is a UDP endpoint as a net.PacketConn, and as a net.Conn if it is
// connected. It has net.UDPConn's methods that make sense without a file
// descriptor, and may be used concurrently like one.
type udpConn struct {
	s            *Stack
	ep           tcpip.Endpoint
	wq           *waiter.Queue
	network      string       // as it was asked for: "udp", "udp4", "udp6"
	laddr, raddr *net.UDPAddr // raddr is nil if not connected
	at           bound        // the same, for datagrams past gVisor
	unpin        func()
	class        atomic.Uint32 // traffic class of what is sent

	closeOnce sync.Once
	closed    chan struct{}

	readMu       sync.Mutex // one read at a time; guards dst
	dst          tcpip.SliceWriter
	readable     chan struct{}
	entry        waiter.Entry // of gVisor's endpoint; see notified
	stacked      atomic.Bool  // gVisor may have something to read
	failed       atomic.Bool  // gVisor may have an error for the next write
	queue        queue
	readDeadline deadline

	writeMu       sync.Mutex // one write at a time; guards src and to
	src           bytes.Reader
	to            tcpip.FullAddress
	writable      chan struct{}
	writeDeadline deadline
}

var (
	_ net.Conn       = (*udpConn)(nil)
	_ net.PacketConn = (*udpConn)(nil)
)

// ListenUDP returns a net.PacketConn bound to laddr, which is understood as
// in ListenTCP. The error is a *net.OpError.
func (s *Stack) ListenUDP(network string, laddr netip.AddrPort) (net.PacketConn, error) {
	c, err := s.newUDP(network, laddr, netip.AddrPort{})
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: &net.UDPAddr{IP: laddr.Addr().AsSlice(), Port: int(laddr.Port())}, Err: err}
	}
	return c, nil
}

// DialUDP returns a UDP conn that is connected to raddr, from laddr if that
// is valid. Nothing is sent. The network is for errors, as in DialTCP. The error is a *net.OpError.
func (s *Stack) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	var c *udpConn
	err := contextError(ctx.Err())
	if err == nil && !raddr.Addr().IsValid() {
		err = errNoAddress
	}
	if err == nil {
		c, err = s.newUDP(network, laddr, raddr)
	}
	if err != nil {
		e := &net.OpError{Op: "dial", Net: network, Addr: net.UDPAddrFromAddrPort(raddr), Err: err}
		if laddr.IsValid() {
			e.Source = net.UDPAddrFromAddrPort(laddr)
		}
		return nil, e
	}
	return c, nil
}

func (s *Stack) newUDP(network string, laddr, raddr netip.AddrPort) (*udpConn, error) {
	if isClosed(s.done) {
		return nil, net.ErrClosed
	}
	proto, wildcard, only6 := family(network, laddr.Addr())
	if raddr.IsValid() {
		proto, only6 = protocolOf(raddr.Addr()), false
	}
	wq := new(waiter.Queue)
	ep, err := s.stack.NewEndpoint(udp.ProtocolNumber, proto, wq)
	if err != nil {
		return nil, syscallError("socket", sysError(err))
	}
	ep.SocketOptions().SetV6Only(only6)
	shared := false // the port may be
	if laddr.IsValid() || !raddr.IsValid() {
		var err tcpip.Error
		if shared, err = s.bindUDP(ep, laddr); err != nil {
			ep.Close()
			return nil, syscallError("bind", sysError(err))
		}
	}
	c := &udpConn{s: s, ep: ep, wq: wq, network: network, closed: make(chan struct{}), unpin: func() {}}
	if raddr.IsValid() {
		if err := ep.Connect(full(raddr)); err != nil {
			ep.Close()
			return nil, syscallError("connect", connectError(err, syscall.EAGAIN))
		}
		c.raddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(raddr.Addr().Unmap(), raddr.Port()))
		c.unpin = s.pin(raddr.Addr().Unmap())
	}
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil, sysError(err)
	}
	c.laddr = net.UDPAddrFromAddrPort(addrPort(local, wildcard))
	c.at = boundTo(c.laddr, c.raddr, only6)
	c.queue.limit = udpQueueDefault
	c.readable, c.writable = make(chan struct{}, 1), make(chan struct{}, 1)
	c.entry = waiter.NewFunctionEntry(waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, c.notified)
	wq.EventRegister(&c.entry)
	if shared && !s.claimUDP(c, only6) {
		c.quit()
		return nil, syscallError("bind", syscall.EADDRINUSE)
	}
	if !shared && !s.track(c) || isClosed(s.done) {
		c.quit()
		return nil, net.ErrClosed
	}
	if c.raddr != nil {
		s.link.connected.Store(c.flow(), c)
	}
	s.link.ports.add(c)
	if isClosed(c.closed) { // by Stack.Close, meanwhile
		s.link.ports.remove(c)
	}
	return c, nil
}

// bindUDP binds ep as gVisor does, but an address that was added shares a port
// with a wildcard: then shared is true, and claimUDP must agree, since gVisor
// does not keep such endpoints from more than that.
func (s *Stack) bindUDP(ep tcpip.Endpoint, laddr netip.AddrPort) (shared bool, err tcpip.Error) {
	a := laddr.Addr().Unmap()
	s.mu.Lock()
	_, added := s.added[a]
	some := len(s.added) > 0
	s.mu.Unlock()
	wild := !a.IsValid() || a.IsUnspecified()
	if laddr.Port() == 0 || !some || !added && !wild {
		return false, ep.Bind(full(laddr))
	}
	if wild {
		if err := ep.Bind(full(laddr)); err == nil || !portInUse(err) {
			return false, err
		}
	}
	ep.SocketOptions().SetReuseAddress(true)
	return true, ep.Bind(full(laddr))
}

func portInUse(err tcpip.Error) bool {
	_, ok := err.(*tcpip.ErrPortInUse)
	return ok
}

// claimUDP tracks c, whose port may be shared, unless another conn would get
// c's datagrams or c that one's; a closed stack is noticed later.
func (s *Stack) claimUDP(c *udpConn, only6 bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := c.at.local.Addr()
	for other := range s.open {
		o, ok := other.(*udpConn)
		if !ok || o.raddr != nil || o.at.local.Port() != c.at.local.Port() {
			continue
		}
		b := o.at.local.Addr()
		if s.overlapLocked(a, only6, b) || s.overlapLocked(b, !o.at.v4, a) {
			return false
		}
	}
	if !s.closed {
		s.open[c] = struct{}{}
	}
	return true
}

// notified is what gVisor calls when its endpoint's state changed.
func (c *udpConn) notified(e waiter.EventMask) {
	const gone = waiter.EventHUp | waiter.EventErr
	if e&gone != 0 {
		c.failed.Store(true)
	}
	if e&(waiter.ReadableEvents|gone) != 0 {
		c.stacked.Store(true)
		nudge(c.readable)
	}
	if e&(waiter.WritableEvents|gone) != 0 {
		nudge(c.writable)
	}
}

// nudge makes whoever waits on ch look again.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// flow is what a connected c is known by.
func (c *udpConn) flow() inner.Flow {
	return inner.FlowOf(c.laddr.AddrPort().Port(), c.raddr.AddrPort())
}

// unreachable makes the next call on a connected c fail with EHOSTUNREACH, as
// it does on the kernel when a neighbour does not answer. gVisor's UDP takes
// notice of closed ports only.
func (c *udpConn) unreachable() {
	if ep, ok := c.ep.(interface{ UpdateLastError(tcpip.Error) }); ok {
		ep.UpdateLastError(&tcpip.ErrHostUnreachable{})
		c.notified(waiter.EventErr)
	}
}

// read takes the next datagram, of size bytes; what does not fit into b is lost.
func (c *udpConn) read(b []byte) (n, size int, from netip.AddrPort, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	expired := c.readDeadline.wait()
	for {
		switch {
		case isClosed(c.closed):
			return 0, 0, netip.AddrPort{}, net.ErrClosed
		case isClosed(expired):
			return 0, 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		}
		// gVisor's errors and rare datagrams first, if there are any: else
		// they would wait until the queue is empty.
		if !c.stacked.Load() {
			if n, size, from, ok := c.queue.pop(b); ok {
				return n, size, from, nil
			}
		}
		c.stacked.Store(false)
		c.dst = b
		res, err := c.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		c.dst = nil
		switch err.(type) {
		case nil:
			c.stacked.Store(true) // perhaps there is more
			return res.Count, res.Total, addrPort(res.RemoteAddr, netip.Addr{}), nil
		case *tcpip.ErrWouldBlock:
			if n, size, from, ok := c.queue.pop(b); ok {
				return n, size, from, nil
			}
		default:
			c.stacked.Store(true)
			if isClosed(c.closed) {
				return 0, 0, netip.AddrPort{}, net.ErrClosed
			}
			return 0, 0, netip.AddrPort{}, asyncError(err)
		}
		select {
		case <-c.readable:
		case <-expired:
		case <-c.closed:
		}
	}
}

// write sends one datagram; an invalid to is the connected address.
func (c *udpConn) write(b []byte, to netip.AddrPort) (int, error) {
	if len(b) > maxDatagram {
		return 0, syscall.EMSGSIZE
	}
	if to.Addr().IsValid() {
		var err error
		if to, err = c.target(to); err != nil {
			return 0, err
		}
	}
	switch {
	case isClosed(c.closed):
		return 0, net.ErrClosed
	case c.writeDeadline.passed():
		return 0, os.ErrDeadlineExceeded
	case c.bypass(b, to):
		return len(b), nil
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	defer c.src.Reset(nil)
	var opts tcpip.WriteOptions
	if to.IsValid() {
		c.to = full(to)
		opts.To = &c.to
	}
	expired := c.writeDeadline.wait()
	for {
		switch {
		case isClosed(c.closed):
			return 0, net.ErrClosed
		case isClosed(expired):
			return 0, os.ErrDeadlineExceeded
		}
		c.failed.Store(false)
		c.src.Reset(b)
		n, err := c.ep.Write(&c.src, opts)
		switch err.(type) {
		case nil:
			return int(n), nil
		case *tcpip.ErrWouldBlock:
		default:
			if isClosed(c.closed) {
				return 0, net.ErrClosed
			}
			return 0, asyncError(err)
		}
		select {
		case <-c.writable:
		case <-expired:
		case <-c.closed:
		}
	}
}

// Close implements net.Conn.
func (c *udpConn) Close() error {
	first := false
	c.end(func() { first = true })
	if !first {
		return c.opError("close", "close", c.opAddr(), net.ErrClosed)
	}
	return nil
}

// quit implements closer.
func (c *udpConn) quit() { c.end(func() {}) }

func (c *udpConn) end(mark func()) {
	c.closeOnce.Do(func() {
		mark()
		close(c.closed)
		if c.raddr != nil {
			c.s.link.connected.CompareAndDelete(c.flow(), c)
		}
		c.s.link.ports.remove(c)
		c.queue.close()
		c.ep.Close()
		c.wq.EventUnregister(&c.entry)
		c.readDeadline.set(time.Time{})
		c.writeDeadline.set(time.Time{})
		c.unpin()
		c.s.untrack(c)
	})
}

// LocalAddr implements net.Conn with a *net.UDPAddr.
func (c *udpConn) LocalAddr() net.Addr { return c.laddr }

// RemoteAddr implements net.Conn with a *net.UDPAddr; nil if not connected.
func (c *udpConn) RemoteAddr() net.Addr {
	if c.raddr == nil {
		return nil
	}
	return c.raddr
}

// SetDeadline implements net.Conn.
func (c *udpConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *udpConn) SetReadDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return setError(c.network, c.laddr)
	}
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *udpConn) SetWriteDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return setError(c.network, c.laddr)
	}
	c.writeDeadline.set(t)
	return nil
}

// SetReadBuffer is net.UDPConn's.
func (c *udpConn) SetReadBuffer(bytes int) error {
	if isClosed(c.closed) {
		return setError(c.network, c.laddr)
	}
	c.ep.SocketOptions().SetReceiveBufferSize(int64(min(max(bytes, tcpBufferMin), udpBufferMax)), true)
	c.queue.setLimit(min(max(bytes, bigDatagram), udpBufferMax))
	return nil
}

// SetWriteBuffer is net.UDPConn's.
func (c *udpConn) SetWriteBuffer(bytes int) error {
	if isClosed(c.closed) {
		return setError(c.network, c.laddr)
	}
	c.ep.SocketOptions().SetSendBufferSize(int64(min(max(bytes, maxDatagram), udpBufferMax)), true)
	return nil
}
