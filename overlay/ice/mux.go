package ice

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	pion "github.com/pion/ice/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// agentQueue is how many datagrams wait for an agent, on each socket.
const agentQueue = 64

// agentMux is a session as pion's agent has it: those of its sockets that the
// agent checks from. It replaces pion's UDPMuxDefault, which dispatches by source
// address before fragment, so that what one agent has seen is lost for the next
// (DESIGN §14.9). Here requests come by fragment and responses by transaction ID.
type agentMux struct {
	session *session
	conns   map[netip.AddrPort]*muxConn // by local address; fixed
}

var _ pion.UDPMux = (*agentMux)(nil)

// mux returns the mux of an agent that checks from conns. Checks of the peer
// that come to other sockets the session answers itself.
func (s *session) mux(conns []*socket.Conn) *agentMux {
	m := &agentMux{session: s, conns: map[netip.AddrPort]*muxConn{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range conns {
		if mc := s.conns[c.LocalAddr()]; mc != nil {
			m.conns[c.LocalAddr()] = mc
		}
	}
	s.agent = m
	return m
}

// GetListenAddresses implements pion's UDPMux.
func (m *agentMux) GetListenAddresses() []net.Addr {
	var out []net.Addr
	for a := range m.conns {
		out = append(out, net.UDPAddrFromAddrPort(a))
	}
	return out
}

// GetConn implements pion's UDPMux.
func (m *agentMux) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	a, ok := udpAddrPort(addr)
	c := m.conns[a]
	if !ok || c == nil || ufrag != m.session.ufrag {
		return nil, net.ErrClosed
	}
	return c, nil
}

// RemoveConnByUfrag implements pion's UDPMux. The agent also calls it when it
// starts, before anything was made; the session ends by its close alone.
func (m *agentMux) RemoveConnByUfrag(string) {}

// Close implements pion's UDPMux.
func (m *agentMux) Close() error { return nil }

// muxConn is one socket of the port as an agent's candidate has it.
type muxConn struct {
	session *session
	sock    *socket.Conn
	in      chan datagram
	once    sync.Once
	done    chan struct{}
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

var _ net.PacketConn = (*muxConn)(nil)

func newMuxConn(s *session, c *socket.Conn) *muxConn {
	return &muxConn{session: s, sock: c, in: make(chan datagram, agentQueue), done: make(chan struct{})}
}

// push queues a copy of b, dropping the oldest when the agent lags.
func (c *muxConn) push(from netip.AddrPort, b []byte) {
	d := datagram{from, slices.Clone(b)}
	for {
		select {
		case c.in <- d:
			return
		case <-c.done:
			return
		default:
		}
		select {
		case <-c.in:
		default:
		}
	}
}

func (c *muxConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends what the agent wants sent, checks only as permit allows: a
// check that is held back is like one that the network lost.
func (c *muxConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := udpAddrPort(addr)
	if !ok {
		return 0, os.ErrInvalid
	}
	kind, id := stun.Classify(b)
	if kind == stun.Request && !(c.canReach(to) && c.session.permit(c, to, stun.Nominates(b), id)) {
		return len(b), nil
	}
	if err := c.sock.WriteTo(b, to); err != nil {
		return 0, err
	}
	return len(b), nil
}

// canReach says whether a check can get to an address from here: one that cannot
// is not sent, and counts nowhere. Where a check has come from one may go.
func (c *muxConn) canReach(to netip.AddrPort) bool {
	if c.sock.Reaches(to.Addr()) {
		return true
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.session.origins[Pair{c.sock, to}]
}

func (c *muxConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *muxConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.sock.LocalAddr()) }
func (c *muxConn) SetDeadline(time.Time) error      { return nil }
func (c *muxConn) SetReadDeadline(time.Time) error  { return nil }
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }

func udpAddrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
