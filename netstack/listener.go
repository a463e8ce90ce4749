package netstack

import (
	"net"
	"net/netip"
	"os"
	"sync"
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
	ready     chan struct{}
	entry     waiter.Entry
	handed    chan net.Conn // connections that were made outside of the stack
	deadline  deadline
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
	}
	l.entry, l.ready = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&l.entry)
	if !s.claim(l) {
		ep.Close()
		if addr.Port() == 0 { // chosen among those that may be shared
			return s.listenTCP(network, addr, backlog)
		}
		return nil, syscallError("bind", syscall.EADDRINUSE)
	}
	if err := ep.Listen(backlog); err != nil {
		ep.Close()
		s.untrack(l)
		return nil, syscallError("listen", sysError(err))
	}
	if isClosed(s.done) { // Close may have come before l was whole
		l.abort()
		return nil, net.ErrClosed
	}
	return l, nil
}

// claim tracks l unless another listener has its port at an address of its,
// or the stack is closed; a closed stack is noticed later.
func (s *Stack) claim(l *listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if o, ok := c.(*listener); ok && o.bound.Port() == l.bound.Port() && (o.covers(l) || l.covers(o)) {
			return false
		}
	}
	if !s.closed {
		s.open[l] = struct{}{}
	}
	return true
}

// covers says whether l listens at o's address, or one of o's.
func (l *listener) covers(o *listener) bool {
	a, b := l.bound.Addr(), o.bound.Addr()
	switch {
	case a == b:
		return true
	case !a.IsUnspecified():
		return false
	case a.Is4():
		return b.Is4()
	}
	return b.Is6() || !l.only6
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.accept()
		if err != nil {
			return nil, &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
		}
		if c != nil {
			return c, nil
		}
	}
}

// accept returns nil, nil for a connection that was reset while it waited.
func (l *listener) accept() (net.Conn, error) {
	expired := l.deadline.wait()
	for {
		switch {
		case isClosed(l.closed):
			return nil, net.ErrClosed
		case isClosed(expired):
			return nil, os.ErrDeadlineExceeded
		}
		ep, wq, err := l.ep.Accept(nil)
		switch err.(type) {
		case nil:
			// There may be more, for another Accept that waits.
			select {
			case l.ready <- struct{}{}:
			default:
			}
			c, err := l.s.newTCPConn(l.network, ep, wq)
			switch {
			case err == nil:
				return c, nil
			case isClosed(l.s.done):
				return nil, net.ErrClosed
			}
			return nil, nil
		case *tcpip.ErrWouldBlock:
		default:
			if isClosed(l.closed) {
				return nil, net.ErrClosed
			}
			return nil, syscallError("accept", sysError(err))
		}
		select {
		case c := <-l.handed:
			return c, nil
		case <-l.ready:
		case <-expired:
		case <-l.closed:
		}
	}
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

// abort implements closer.
func (l *listener) abort() { l.end(func() {}) }

func (l *listener) end(mark func()) {
	l.closeOnce.Do(func() {
		mark()
		close(l.closed)
		l.ep.Close()
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
