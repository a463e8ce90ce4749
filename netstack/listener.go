package netstack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// defaultBacklog is the kernel's.
const defaultBacklog = 4096

// listener is a net.Listener on a TCP endpoint, to be used concurrently like
// a net.TCPListener.
type listener struct {
	s       *Stack
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	network string // as it was asked for: "tcp", "tcp4", "tcp6"
	addr    *net.TCPAddr

	bound netip.AddrPort // addr
	only6 bool

	closeOnce sync.Once
	closed    chan struct{}
	handed    chan net.Conn // connections that were made outside of the stack
	deadline  deadline

	limit     int // of the backlog
	waiting   backlog
	accepting atomic.Int32  // calls of Accept that wait
	arrived   chan struct{} // for pump: gVisor's queue is not empty
	taken     chan struct{} // for pump: the backlog has room
	ready     chan struct{} // for Accept: the backlog or gVisor's queue is not empty
	entry     waiter.Entry
	moving    sync.Mutex // held by the one that moves, so that the order stays; guards peer
	peer      tcpip.FullAddress
	pumping   sync.WaitGroup
}

var _ net.Listener = (*listener)(nil)

// ListenTCP listens on addr: port 0 takes a free one; an invalid or
// unspecified address stands for all of ours, of both families with the
// network "tcp", of one with "tcp4" and "tcp6". backlog is how many
// connections may wait for Accept, 0 a default. The error is a *net.OpError.
func (s *Stack) ListenTCP(network string, addr netip.AddrPort, backlog int) (net.Listener, error) {
	l, err := s.listenTCP(network, addr, backlog)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: &net.TCPAddr{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}, Err: err}
	}
	return l, nil
}

func (s *Stack) listenTCP(network string, addr netip.AddrPort, backlog int) (*listener, error) {
	if isClosed(s.done) {
		return nil, net.ErrClosed
	}
	if backlog <= 0 {
		backlog = defaultBacklog
	}
	proto, wildcard, only6 := family(network, addr.Addr())
	wq := new(waiter.Queue)
	ep, err := s.newTCP(proto, wq)
	if err != nil {
		return nil, syscallError("socket", err)
	}
	ep.SocketOptions().SetV6Only(only6)
	// A port whose listener is gone is free, as with Go's listeners on the
	// kernel, though connections of it live on. To gVisor this option also
	// means that a wildcard and an address share a port; claim is against it.
	ep.SocketOptions().SetReuseAddress(true)
	if err := ep.Bind(full(addr)); err != nil {
		ep.Close()
		return nil, syscallError("bind", sysError(err))
	}
	local, err2 := ep.GetLocalAddress()
	if err2 != nil {
		ep.Close()
		return nil, sysError(err2)
	}
	bound := addrPort(local, wildcard)
	l := &listener{
		s: s, ep: ep, wq: wq,
		network: network,
		addr:    net.TCPAddrFromAddrPort(bound),
		bound:   bound,
		only6:   only6,
		closed:  make(chan struct{}),
		handed:  make(chan net.Conn, min(backlog, maxHanded)),
		limit:   backlog,
		arrived: make(chan struct{}, 1),
		taken:   make(chan struct{}, 1),
		ready:   make(chan struct{}, 1),
	}
	l.entry = waiter.NewFunctionEntry(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr, l.notify)
	wq.EventRegister(&l.entry)
	l.pumping.Go(l.pump) // before Close can find l: it waits for it
	if !s.claim(l) {
		l.quit()
		if addr.Port() == 0 { // chosen among those that may be shared
			return s.listenTCP(network, addr, backlog)
		}
		return nil, syscallError("bind", syscall.EADDRINUSE)
	}
	err3 := ep.Listen(backlog)
	if isClosed(s.done) { // Close may have come before l was whole
		l.quit()
		return nil, net.ErrClosed
	}
	if err3 != nil {
		l.quit()
		return nil, syscallError("listen", sysError(err3))
	}
	return l, nil
}

// claim tracks l unless another listener has its port at an address of its,
// or the stack is closed; a closed stack is noticed later.
func (s *Stack) claim(l *listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if o, ok := c.(*listener); ok && o.bound.Port() == l.bound.Port() &&
			(s.overlapLocked(o.bound.Addr(), o.only6, l.bound.Addr()) || s.overlapLocked(l.bound.Addr(), l.only6, o.bound.Addr())) {
			return false
		}
	}
	if !s.closed {
		s.open[l] = struct{}{}
	}
	return true
}

// notify is called by gVisor, with locks of its own held, when its queue is not
// empty. An Accept that waits is woken rather than pump: one goroutine less that
// a new connection has to wait for. If that call has its connection already
// what came stays in gVisor's queue until the next call or the next connection.
func (l *listener) notify(waiter.EventMask) {
	if l.accepting.Load() > 0 {
		nudge(l.ready)
	} else {
		nudge(l.arrived)
	}
}

// pump moves connections from gVisor's queue, which one peer could fill, to
// the backlog until l is closed.
func (l *listener) pump() {
	for {
		if l.move(); l.waiting.len() > 0 {
			nudge(l.ready)
		}
		select {
		case <-l.arrived:
		case <-l.taken:
		case <-l.closed:
			return
		}
	}
}

// move empties gVisor's queue as far as the backlog has room.
func (l *listener) move() {
	l.moving.Lock()
	defer l.moving.Unlock()
	for l.waiting.len() < l.limit {
		ep, wq, err := l.ep.Accept(&l.peer)
		if err != nil {
			return
		}
		l.queue(ep, wq, l.peer)
	}
}

// queue puts a connection into the backlog, or resets it if its peer has its
// share: handshakes under way are not counted when a SYN is let in.
// One that was reset meanwhile is accepted like the others, as on the kernel.
func (l *listener) queue(ep tcpip.Endpoint, wq *waiter.Queue, peer tcpip.FullAddress) {
	c, err := l.s.newTCPConn(l.network, ep, wq, peer)
	if err != nil {
		return // the stack is closed
	}
	c.inbound.Store(true)
	if !l.s.stillAdmitted(c) {
		c.refuse()
	}
	if l.shared(c) {
		if l.s.link.shares.mayOpen(c.pinned) != within {
			l.s.link.shares.limited.Add(1)
			c.abort()
			return
		}
		c.count(l.s.link.shares.change(c.pinned, 1, 0))
	}
	if !l.waiting.push(c) {
		l.leave(c, 0)
		c.abort()
	}
}

// shared says whether c counts: not if it comes from this node itself.
func (l *listener) shared(c *tcpConn) bool { return c.pinned != l.s.self && !c.pinned.IsZero() }

// leave takes c out of those that wait; open is 1 if it was accepted.
func (l *listener) leave(c *tcpConn, open int) {
	if !l.shared(c) {
		return
	}
	l.s.link.shares.change(c.pinned, -1, open)
	if open == 1 {
		c.accepted()
	}
}

// Accept implements net.Listener. Peers with connections that wait take turns.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
	}
	return c, nil
}

func (l *listener) accept() (net.Conn, error) {
	expired := l.deadline.wait()
	for {
		switch {
		case isClosed(l.closed):
			return nil, net.ErrClosed
		case isClosed(expired):
			return nil, os.ErrDeadlineExceeded
		}
		l.move()
		if c, left := l.waiting.pop(); c != nil {
			if left > 0 { // for another Accept that waits
				nudge(l.ready)
			}
			if left == l.limit-1 { // pump has stopped
				nudge(l.taken)
			}
			l.leave(c, 1)
			return c, nil
		}
		if c := l.wait(expired); c != nil {
			return c, nil
		}
	}
}

// wait waits until there may be something for Accept to do. It returns a
// connection that was made outside of the stack.
func (l *listener) wait(expired <-chan struct{}) net.Conn {
	l.accepting.Add(1)
	defer l.accepting.Add(-1)
	select {
	case c := <-l.handed:
		return c
	case <-l.ready:
	case <-expired:
	case <-l.closed:
	}
	return nil
}

// Close implements net.Listener. Connections that nobody accepted are reset.
func (l *listener) Close() error {
	first := false
	l.end(func() { first = true })
	if !first {
		return &net.OpError{Op: "close", Net: l.network, Addr: l.addr, Err: net.ErrClosed}
	}
	return nil
}

// quit implements closer.
func (l *listener) quit() { l.end(func() {}) }

func (l *listener) end(mark func()) {
	l.closeOnce.Do(func() {
		mark()
		close(l.closed)
		l.pumping.Wait()
		l.ep.Close()
		for _, c := range l.waiting.close() {
			l.leave(c, 0)
			c.abort()
		}
		l.wq.EventUnregister(&l.entry)
		l.deadline.set(time.Time{})
		l.s.untrack(l)
		l.refuseHanded()
	})
}

// Addr implements net.Listener with a *net.TCPAddr.
func (l *listener) Addr() net.Addr { return l.addr }

// SetDeadline is net.TCPListener's.
func (l *listener) SetDeadline(t time.Time) error {
	if isClosed(l.closed) {
		return setError(l.network, l.addr)
	}
	l.deadline.set(t)
	return nil
}
