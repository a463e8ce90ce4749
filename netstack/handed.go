package netstack

import (
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/waiter"
)

// Connections that are made outside of the stack, with null encapsulation
// (draft §4.3), appear at the listeners of the stack and use its ports.

// maxHanded is how many of them wait for Accept at one listener.
const maxHanded = 512

// ListensTCP says whether a listener would take a connection to local.
func (s *Stack) ListensTCP(local netip.AddrPort) bool { return s.listenerAt(local) != nil }

// ListensUDP says whether a conn would take a datagram from remote to local.
func (s *Stack) ListensUDP(local, remote netip.AddrPort) bool {
	return s.link.ports.find(local, remote) != nil
}

func (s *Stack) listenerAt(local netip.AddrPort) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if l, ok := c.(*listener); ok && l.takes(local) {
			return l
		}
	}
	return nil
}

// takes says whether connections to an address of ours are the listener's.
func (l *listener) takes(local netip.AddrPort) bool {
	a := l.bound.Addr()
	switch {
	case l.bound.Port() != local.Port():
		return false
	case !a.IsUnspecified():
		return a == local.Addr()
	case a.Is4() || l.only6:
		return a.Is4() == local.Addr().Is4()
	}
	return true
}

// HandTCP gives c, a connection to local, to the listener there: it is
// accepted like the stack's own. On an error, ECONNREFUSED, c stays the
// caller's.
func (s *Stack) HandTCP(local netip.AddrPort, c net.Conn) error {
	l := s.listenerAt(local)
	if l == nil {
		return syscall.ECONNREFUSED
	}
	select {
	case l.handed <- c:
	default:
		return syscall.ECONNREFUSED
	}
	if isClosed(l.closed) {
		l.refuseHanded()
	}
	return nil
}

// refuseHanded resets what nobody will accept.
func (l *listener) refuseHanded() {
	for {
		select {
		case c := <-l.handed:
			if r, ok := c.(interface{ SetLinger(int) error }); ok {
				_ = r.SetLinger(0)
			}
			_ = c.Close()
			continue
		default:
		}
		return
	}
}

// ReserveTCP takes a TCP port of ours for a connection to remote that is made
// outside of the stack, a free one if port is 0, until release is called. local has our own LSI of
// remote's family.
func (s *Stack) ReserveTCP(remote netip.Addr, port uint16) (local netip.AddrPort, release func(), err error) {
	if isClosed(s.done) {
		return local, nil, net.ErrClosed
	}
	at := s.link.self6
	if remote.Is4() {
		at = s.link.self4
	}
	ep, err := s.newTCP(protocolOf(remote), new(waiter.Queue))
	if err != nil {
		return local, nil, syscallError("socket", err)
	}
	if err := ep.Bind(full(netip.AddrPortFrom(at, port))); err != nil {
		ep.Close()
		return local, nil, syscallError("bind", sysError(err))
	}
	bound, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return local, nil, sysError(terr)
	}
	return netip.AddrPortFrom(at, bound.Port), ep.Close, nil
}
