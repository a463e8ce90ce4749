package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/idloc/idloc/internal/netconn"
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
	eof       atomic.Bool // the peer's FIN is known to have come
	cut       atomic.Bool // what has come was discarded: it does not look whole
	inbound   atomic.Bool // the peer has opened it
	refused   atomic.Bool // it was reset by Recheck
	counted   atomic.Bool // as one of the peer's share: it was accepted
	traffic   traffic     // for Info
	window    *window     // what the link knows of it
	unread    unread      // what it holds of the peer's share

	readMu       sync.Mutex // one Read at a time; guards dst
	dst          tcpip.SliceWriter
	readable     chan struct{}
	readEntry    waiter.Entry
	readDeadline deadline

	writeMu       sync.Mutex // one Write at a time; guards src, pos and burst
	src           bytes.Reader
	pos           int                       // bytes since a super packet's boundary
	burst         int                       // bytes since paced looked last
	pace          atomic.Pointer[pace]      // nil until much was written
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

// newTCPConn wraps an endpoint that is, or was, connected to remote. It takes
// ownership of ep: on an error it is gone.
func (s *Stack) newTCPConn(network string, ep tcpip.Endpoint, wq *waiter.Queue, remote tcpip.FullAddress) (*tcpConn, error) {
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil, sysError(err)
	}
	l, r := addrPort(local, netip.Addr{}), addrPort(remote, netip.Addr{})
	c := &tcpConn{s: s, ep: ep, wq: wq, network: network, pinned: s.pinPeer(r.Addr())}
	c.laddr, c.raddr = tcpAddrs(l, r)
	c.readEntry, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventRdHUp | gone)
	c.readDeadline.tell = c.readable
	wq.EventRegister(&c.readEntry)
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	c.window = s.link.track(c)
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
	return s.DialTCPWhile(ctx, nil, network, laddr, raddr)
}

// ErrPipeLost says that a pipe has ended while TCP's handshake was under way: the SYN
// may have been lost with it.
var ErrPipeLost = errors.New("the pipe is gone")

// DialTCPWhile is DialTCP over the pipe whose life up is, as Shim.Open returns it: when
// that ends first, the error is an ErrPipeLost. A nil up does not end.
func (s *Stack) DialTCPWhile(ctx, up context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	c, err := s.dialTCP(ctx, up, network, laddr, raddr)
	if err != nil {
		e := &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(raddr), Err: err}
		if laddr.IsValid() {
			e.Source = net.TCPAddrFromAddrPort(laddr)
		}
		return nil, e
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx, up context.Context, network string, laddr, raddr netip.AddrPort) (*tcpConn, error) {
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
		return nil, syscallError("connect", connectError(terr, syscall.EADDRNOTAVAIL))
	}
	var lost <-chan struct{}
	if up != nil {
		lost = up.Done()
	}
	for terr != nil && connecting(ep) {
		select {
		case <-notify:
		case <-ctx.Done():
			ep.Abort()
			return nil, contextError(ctx.Err())
		case <-lost:
			ep.Abort()
			return nil, ErrPipeLost
		case <-s.done:
			ep.Abort()
			return nil, net.ErrClosed
		}
	}
	if err := ep.LastError(); err != nil {
		ep.Close()
		return nil, syscallError("connect", asyncError(err))
	}
	return s.newTCPConn(network, ep, wq, full(raddr))
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
				c.noteRead(res.Count)
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
			if c.cut.Load() {
				return 0, c.why()
			}
			c.eof.Store(true)
			return 0, io.EOF
		default:
			if c.closed.Load() {
				return 0, net.ErrClosed
			}
			return 0, c.failure(err, true)
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
		case n == len(b) && n > 0:
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
			if len(b) == 0 {
				return 0, nil // it was only asked whether writing fails
			}
		default:
			if c.closed.Load() {
				return n, net.ErrClosed
			}
			return n, c.failure(err, false)
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

// failure is what a call on c says when its endpoint said err.
func (c *tcpConn) failure(err tcpip.Error, read bool) error {
	if c.cut.Load() {
		return c.why()
	}
	if read && c.eof.Load() {
		return io.EOF // as on the kernel: a reset comes too late to undo the end
	}
	switch err.(type) {
	case *tcpip.ErrConnectionAborted: // we reset it, for data that came after CloseRead and CloseWrite
		return syscall.ECONNRESET
	case *tcpip.ErrAborted: // the end of the peer has, where nothing else helped
		return syscall.ECONNRESET
	}
	return asyncError(err)
}

// why is what a conn says of which what has come was discarded.
func (c *tcpConn) why() error {
	if c.refused.Load() {
		return ErrNotAdmitted
	}
	return syscall.ECONNRESET
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
	buf := copyPool.Get().(*[superPacket]byte)
	defer copyPool.Put(buf)
	n, err := netconn.Copy(c, r, buf[:])
	if err != nil {
		err = c.opError("readfrom", err)
	}
	return n, err
}

// WriteTo implements io.WriterTo: it reads until the end, as much at a time
// as has come.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	buf := copyPool.Get().(*[superPacket]byte)
	defer copyPool.Put(buf)
	n, err := netconn.Copy(w, c, buf[:])
	if err != nil {
		err = c.opError("writeto", err)
	}
	return n, err
}

// Close implements net.Conn. What was written goes out in the background, for
// as long as the peer acknowledges anything and for two minutes more; SetLinger
// has it wait for that, or discard it. Unread data means a reset, as in the
// kernel.
func (c *tcpConn) Close() error {
	if !c.end(c.release) {
		return c.opError("close", net.ErrClosed)
	}
	c.linger()
	return nil
}

// release closes the endpoint, which goes on by itself from then on.
func (c *tcpConn) release() {
	ep := c.ep.(*tcp.Endpoint)
	if ep.EndpointState() == tcp.StateError && !c.window.reset.Load() {
		c.s.link.deliveries.doubt(c.pinned)
	}
	c.window.conn.Store(nil)
	c.s.link.ends(c.window)
	c.window.closing = orphan{peer: c.pinned, wq: c.wq, window: c.window}
	c.s.orphans.adopt(ep, &c.window.closing)
	ep.Close()
}

// quit implements closer: it is Close by the Stack, which does not linger.
func (c *tcpConn) quit() { c.end(c.release) }

// abort ends c at once.
func (c *tcpConn) abort() {
	c.end(func() {
		c.ep.Abort()
		c.s.link.forget(c.window)
	})
}

// linger waits, if SetLinger has said so, until the peer has acknowledged
// everything, or the time is over, or the Stack is closed.
func (c *tcpConn) linger() {
	l := c.ep.SocketOptions().GetLinger()
	if !l.Enabled || l.Timeout == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.Timeout)
	defer cancel()
	tick := time.NewTicker(flushEvery) // gVisor tells nobody
	defer tick.Stop()
	for delivering(c.ep.(*tcp.Endpoint)) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-c.s.done:
			return
		}
	}
}

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
		c.unread.end()
		c.finish()
		c.unpace()
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
	switch c.ep.(*tcp.Endpoint).EndpointState() {
	case tcp.StateCloseWait, tcp.StateClosing, tcp.StateLastAck:
		c.eof.Store(true)
	case tcp.StateTimeWait: // to the kernel that is closed
		return c.opError("close", syscallError("shutdown", syscall.ENOTCONN))
	}
	if how&tcpip.ShutdownWrite != 0 {
		c.s.link.ends(c.window)
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
