package netstack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/idloc/idloc/internal/peerid"
)

// keepAlive is package net's default for idle time and interval.
const keepAlive = 15 * time.Second

// tcpConn is a net.Conn on a connected TCP endpoint. It has the methods of
// net.TCPConn that make sense without a file descriptor, and may be used
// concurrently like one.
type tcpConn struct {
	s            *Stack
	ep           tcpip.Endpoint
	wq           *waiter.Queue
	network      string // as it was asked for: "tcp", "tcp4", "tcp6"
	laddr, raddr *net.TCPAddr
	pinned       peerid.ID // the peer; zero: none

	closeOnce sync.Once
	closed    atomic.Bool // set before whoever waits gets a token
	counted   atomic.Bool // as one of the peer's share: it was accepted
	unread    unread      // what it holds of the peer\'s share

	readMu       sync.Mutex // one Read at a time; guards dst
	dst          tcpip.SliceWriter
	readable     chan struct{}
	readEntry    waiter.Entry
	readDeadline deadline

	writeMu       sync.Mutex // one Write at a time; guards src, pos, burst and watched
	src           bytes.Reader
	pos           int                       // bytes since a super packet's boundary
	burst         int                       // bytes since paced looked last
	pace          atomic.Pointer[pace]      // nil until much was written
	watched       bool                      // its beginning was, or need not be
	startup       atomic.Pointer[startup]   // nil: not being watched
	ownBuffer     atomic.Bool               // the application chose the send buffer's size
	writeWait     atomic.Pointer[writeWait] // nil until a Write has to wait
	writeDeadline deadline
}

// writeWait is what a Write that waits needs. Most conns never have one.
type writeWait struct {
	writable   chan struct{}
	entry      waiter.Entry
	registered atomic.Bool
}

var (
	_ net.Conn      = (*tcpConn)(nil)
	_ io.ReaderFrom = (*tcpConn)(nil)
	_ io.WriterTo   = (*tcpConn)(nil)
)

// newTCP returns an endpoint with our options, which accepted ones inherit.
func (s *Stack) newTCP(proto tcpip.NetworkProtocolNumber, wq *waiter.Queue) (tcpip.Endpoint, error) {
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if err != nil {
		return nil, sysError(err)
	}
	if err := ep.SetSockOptInt(tcpip.MaxSegOption, tcpMSS); err != nil {
		ep.Close()
		return nil, sysError(err)
	}
	return ep, nil
}

// gone are the events of an endpoint that is no longer connected.
const gone = waiter.EventHUp | waiter.EventErr

// newTCPConn wraps a connected endpoint. It takes ownership of ep: on an
// error it is gone.
func (s *Stack) newTCPConn(network string, ep tcpip.Endpoint, wq *waiter.Queue) (*tcpConn, error) {
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil, sysError(err)
	}
	remote, err := ep.GetRemoteAddress()
	if err != nil { // reset between the handshake and here
		ep.Close()
		return nil, sysError(err)
	}
	l, r := addrPort(local, netip.Addr{}), addrPort(remote, netip.Addr{})
	c := &tcpConn{
		s: s, ep: ep, wq: wq, network: network,
		laddr: net.TCPAddrFromAddrPort(l), raddr: net.TCPAddrFromAddrPort(r),
		pinned: s.pinPeer(r.Addr()),
	}
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventRdHUp | gone)
	c.readDeadline.tell = c.readable
	wq.EventRegister(&c.readEntry)
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	if !s.track(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return c, nil
}

// DialTCP connects to raddr, from laddr if that is valid; its port and its
// address may be zero. The network, "tcp", "tcp4" or "tcp6", is for the
// errors of Dial and conn alone: raddr decides. The error is a *net.OpError. It ends at once when the
// peer refuses (ECONNREFUSED), when no pipe to the peer can be opened
// (EHOSTUNREACH; Shim.LastError has the reason), when ctx ends and when the
// Stack is closed.
func (s *Stack) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	c, err := s.dialTCP(ctx, network, laddr, raddr)
	if err != nil {
		e := &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(raddr), Err: err}
		if laddr.IsValid() {
			e.Source = net.TCPAddrFromAddrPort(laddr)
		}
		return nil, e
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*tcpConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	if isClosed(s.done) {
		return nil, net.ErrClosed
	}
	if !raddr.Addr().IsValid() {
		return nil, errNoAddress
	}
	defer s.unpinPeer(s.pinPeer(raddr.Addr()))
	wq := new(waiter.Queue)
	ep, err := s.newTCP(protocolOf(raddr.Addr()), wq)
	if err != nil {
		return nil, syscallError("socket", err)
	}
	if laddr.IsValid() {
		if err := ep.Bind(full(laddr)); err != nil {
			ep.Close()
			return nil, syscallError("bind", sysError(err))
		}
	}
	entry, notify := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr := ep.Connect(full(raddr))
	if _, ok := terr.(*tcpip.ErrConnectStarted); !ok && terr != nil {
		ep.Close()
		return nil, syscallError("connect", sysError(terr))
	}
	for terr != nil && connecting(ep) {
		select {
		case <-notify:
		case <-ctx.Done():
			ep.Abort()
			return nil, contextError(ctx.Err())
		case <-s.done:
			ep.Abort()
			return nil, net.ErrClosed
		}
	}
	if err := ep.LastError(); err != nil {
		ep.Close()
		return nil, syscallError("connect", asyncError(err))
	}
	return s.newTCPConn(network, ep, wq)
}

func connecting(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		return true
	}
	return false
}

// timeoutError and canceledError are what package net says when a context ends.
type (
	timeoutError  struct{}
	canceledError struct{}
)

func (canceledError) Error() string     { return "operation was canceled" }
func (canceledError) Is(err error) bool { return err == context.Canceled }

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (timeoutError) Is(err error) bool {
	return err == context.DeadlineExceeded || err == os.ErrDeadlineExceeded
}

func contextError(err error) error {
	switch err {
	case context.DeadlineExceeded:
		return timeoutError{}
	case context.Canceled:
		return canceledError{}
	}
	return err
}

func (c *tcpConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.network, Source: c.laddr, Addr: c.raddr, Err: err}
}

// Read implements net.Conn.
func (c *tcpConn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	n, err := c.read(b)
	c.readMu.Unlock()
	if err != nil && err != io.EOF {
		err = c.opError("read", syscallError("read", err))
	}
	return n, err
}

// read is Read with readMu held and a bare error.
func (c *tcpConn) read(b []byte) (int, error) {
	for {
		switch {
		case c.closed.Load():
			return 0, net.ErrClosed
		case len(b) == 0:
			return 0, nil
		case c.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		}
		c.dst = b
		res, err := c.ep.Read(&c.dst, tcpip.ReadOptions{})
		c.dst = nil
		switch err.(type) {
		case nil:
			if res.Count > 0 {
				c.took(res.Count)
				c.ep.ModerateRecvBuf(res.Count)
				return res.Count, nil
			}
		case *tcpip.ErrWouldBlock:
			c.unread.empty()
		case *tcpip.ErrClosedForReceive:
			if c.closed.Load() {
				return 0, net.ErrClosed
			}
			c.unread.empty()
			return 0, io.EOF
		default:
			if c.closed.Load() {
				return 0, net.ErrClosed
			}
			return 0, asyncError(err)
		}
		select {
		case <-c.readable:
		case <-c.readDeadline.reached():
		}
	}
}

// Write implements net.Conn. The bytes of one call are not mixed with those
// of another.
func (c *tcpConn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	n, err := c.write(b)
	c.writeMu.Unlock()
	if err != nil {
		err = c.opError("write", syscallError("write", err))
	}
	return n, err
}

// write is Write with writeMu held and a bare error. It cuts at the
// boundaries of super packets: gVisor makes a segment of each piece that it
// is given, and one that is a little larger than a super packet would go out
// as a large and a small one (DESIGN §13).
func (c *tcpConn) write(b []byte) (n int, err error) {
	defer c.src.Reset(nil)
	for {
		switch {
		case c.closed.Load():
			return n, net.ErrClosed
		case c.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		c.src.Reset(b[n : n+min(len(b)-n, superPacket-c.pos)])
		k, err := c.ep.Write(&c.src, tcpip.WriteOptions{})
		n += int(k)
		c.pos = (c.pos + int(k)) % superPacket
		c.paced(int(k))
		switch err.(type) {
		case nil:
			if n == len(b) {
				return n, nil
			}
			continue
		case *tcpip.ErrWouldBlock:
		default:
			if c.closed.Load() {
				return n, net.ErrClosed
			}
			return n, asyncError(err)
		}
		w := c.writeWait.Load()
		if w == nil {
			c.watchWritable()
			continue // it may have become so meanwhile
		}
		select {
		case <-w.writable:
		case <-c.writeDeadline.wait():
		}
	}
}

// watchWritable has the endpoint tell when it takes more. writeMu is held.
func (c *tcpConn) watchWritable() {
	w := new(writeWait)
	w.entry, w.writable = waiter.NewChannelEntry(waiter.WritableEvents | gone)
	c.wq.EventRegister(&w.entry)
	w.registered.Store(true)
	c.writeWait.Store(w)
	if c.closed.Load() {
		c.unwatchWritable(w)
	}
}

func (c *tcpConn) unwatchWritable(w *writeWait) {
	if w.registered.Swap(false) {
		c.wq.EventUnregister(&w.entry)
	}
}

var copyPool = sync.Pool{New: func() any { return new([superPacket]byte) }}

// ReadFrom implements io.ReaderFrom: it writes all of r in super packets.
func (c *tcpConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.readFrom(r)
	if err != nil {
		err = c.opError("readfrom", err)
	}
	return n, err
}

func (c *tcpConn) readFrom(r io.Reader) (n int64, err error) {
	buf := copyPool.Get().(*[superPacket]byte)
	defer copyPool.Put(buf)
	for {
		k, rerr := r.Read(buf[:])
		w, werr := c.Write(buf[:k])
		n += int64(w)
		switch {
		case werr != nil:
			return n, werr
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		}
	}
}

// WriteTo implements io.WriterTo: it reads until the end, as much at a time
// as has come.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.writeTo(w)
	if err != nil {
		err = c.opError("writeto", err)
	}
	return n, err
}

func (c *tcpConn) writeTo(w io.Writer) (n int64, err error) {
	buf := copyPool.Get().(*[superPacket]byte)
	defer copyPool.Put(buf)
	for {
		k, rerr := c.Read(buf[:])
		if k > 0 {
			m, werr := w.Write(buf[:k])
			n += int64(m)
			if werr == nil && m < k {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return n, werr
			}
		}
		switch {
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		}
	}
}

// Close implements net.Conn. What was written goes out in the background, as
// SetLinger has it, for two minutes if nobody acknowledges it; unread data means
// a reset, as in the kernel.
func (c *tcpConn) Close() error {
	close := func() {
		orphan := tcpip.TCPUserTimeoutOption(orphanFor)
		_ = c.ep.SetSockOpt(&orphan)
		c.ep.Close()
	}
	if !c.end(close) {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// abort implements closer.
func (c *tcpConn) abort() { c.end(c.ep.Abort) }

// accepted has c counted as one of its peer's share until it is over.
func (c *tcpConn) accepted() {
	c.counted.Store(true)
	if c.closed.Load() {
		c.finish()
	}
}

func (c *tcpConn) finish() {
	if c.counted.Swap(false) {
		c.s.link.shares.closed(c.pinned, c.ep.(*tcp.Endpoint))
	}
}

// end ends c by how and wakes who waits; false: it has ended before.
func (c *tcpConn) end(how func()) (first bool) {
	c.closeOnce.Do(func() {
		first = true
		c.closed.Store(true)
		wake(c.readable)
		w := c.writeWait.Load()
		if w != nil {
			wake(w.writable)
		}
		how()
		c.wq.EventUnregister(&c.readEntry)
		if w != nil {
			c.unwatchWritable(w)
		}
		c.readDeadline.set(time.Time{})
		c.writeDeadline.set(time.Time{})
		c.s.unpinPeer(c.pinned)
		c.s.untrack(c)
		c.s.link.uncount(c)
		c.finish()
		c.unpace()
		c.s.link.begun(c)
	})
	return first
}

// CloseRead shuts down the reading side, as net.TCPConn's does.
func (c *tcpConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite sends a FIN after what was written, as net.TCPConn's does.
func (c *tcpConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *tcpConn) shutdown(how tcpip.ShutdownFlags) error {
	if c.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	if err := c.ep.Shutdown(how); err != nil {
		return c.opError("close", syscallError("shutdown", sysError(err)))
	}
	if how&tcpip.ShutdownRead != 0 {
		c.unread.end()
	}
	return nil
}

// LocalAddr implements net.Conn with a *net.TCPAddr.
func (c *tcpConn) LocalAddr() net.Addr { return c.laddr }

// RemoteAddr implements net.Conn with a *net.TCPAddr.
func (c *tcpConn) RemoteAddr() net.Addr { return c.raddr }

// SetDeadline implements net.Conn.
func (c *tcpConn) SetDeadline(t time.Time) error {
	if c.closed.Load() {
		return setError(c.network, c.laddr)
	}
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *tcpConn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return setError(c.network, c.laddr)
	}
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *tcpConn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() {
		return setError(c.network, c.laddr)
	}
	c.writeDeadline.set(t)
	return nil
}

func (c *tcpConn) alive(op string) error {
	if c.closed.Load() {
		return c.opError(op, net.ErrClosed)
	}
	return nil
}
