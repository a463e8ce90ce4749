package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// When the process of a peer is known to be over, because it has said so, has
// been started anew, or was put out, its connections are over too: nobody is
// there who would acknowledge, reset or close them. They end here as if the
// peer had reset each: what has come can still be read, then a conn whose end
// has come as well says io.EOF, and any other ECONNRESET.

// ends of a conn without its peer's doing.
const (
	notOver int32 = iota
	overEOF       // the peer's FIN had come
	overReset
	overSeen // overReset, and a call has said so
)

// muted are peers' addresses to which no reset is sent: there is no process
// that wants to know, and the packet would ask for a pipe.
type muted struct {
	mu  sync.Mutex // one at a time
	at4 atomic.Pointer[netip.Addr]
	at6 atomic.Pointer[netip.Addr]
}

// mutes says whether p is a reset to a peer that is over.
func (m *muted) mutes(p *stack.PacketBuffer) bool {
	v6 := p.NetworkProtocolNumber == header.IPv6ProtocolNumber
	at := m.at4.Load()
	if v6 {
		at = m.at6.Load()
	}
	if at == nil || p.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	th := p.TransportHeader().Slice()
	if len(th) < header.TCPMinimumSize || header.TCP(th).Flags()&header.TCPFlagRst == 0 {
		return false
	}
	var dst tcpip.Address
	if v6 {
		dst = header.IPv6(p.NetworkHeader().Slice()).DestinationAddress()
	} else {
		dst = header.IPv4(p.NetworkHeader().Slice()).DestinationAddress()
	}
	a, ok := netip.AddrFromSlice(dst.AsSlice())
	return ok && a == *at
}

// Gone implements shim.PeerUpper.
func (l *link) Gone(v4, v6 netip.Addr) { l.gone(v4, v6) }

// peerGone ends all connections with the peer that has these addresses, but for
// those that are being opened: they are meant for whoever comes.
func (s *Stack) peerGone(v4, v6 netip.Addr) {
	theirs := func(a netip.Addr) bool { return a.IsValid() && (a == v4 || a == v6) }
	var conns []*tcpConn
	s.mu.Lock()
	for c := range s.open {
		if c, ok := c.(*tcpConn); ok && theirs(c.raddr.AddrPort().Addr().Unmap()) {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	m := &s.link.muted
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at4.Store(&v4)
	m.at6.Store(&v6)
	defer m.at4.Store(nil)
	defer m.at6.Store(nil)
	for _, c := range conns {
		c.peerGone()
	}
	s.orphans.peerGone(theirs)
}

// peerGone ends c as a reset from the peer would.
func (c *tcpConn) peerGone() {
	ep := c.ep.(*tcp.Endpoint)
	over := overReset
	switch ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2:
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait:
		over = overEOF
	default:
		return
	}
	if c.over.Load() != notOver || c.closed.Load() {
		return
	}
	// gVisor ends an endpoint at once when it is closed without lingering, and
	// forgets what has come.
	var rest bytes.Buffer
	for {
		if res, err := ep.Read(&rest, tcpip.ReadOptions{}); err != nil || res.Count == 0 {
			break
		}
	}
	c.rest = rest.Bytes()
	c.over.Store(over)
	ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true})
	ep.Close()
}

// takeRest reads what had come from a peer that is over. readMu is held.
func (c *tcpConn) takeRest(b []byte) int {
	if c.over.Load() == notOver {
		return 0
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	c.took(n)
	return n
}

// failure is what a call on c says when its endpoint said err.
func (c *tcpConn) failure(err tcpip.Error, read bool) error {
	switch over := c.over.Load(); {
	case over == notOver && read && c.eof.Load():
		return io.EOF // as on the kernel: a reset comes too late to undo the end
	case over == notOver:
		if _, ok := err.(*tcpip.ErrConnectionAborted); ok {
			return syscall.ECONNRESET // we reset it, for data that came after CloseRead and CloseWrite
		}
		return asyncError(err)
	case over == overReset && c.over.CompareAndSwap(overReset, overSeen):
		return syscall.ECONNRESET // once, as on the kernel
	case read:
		return io.EOF
	}
	return syscall.EPIPE
}

// peerGone resets the orphans whose peers are over.
func (o *orphans) peerGone(theirs func(netip.Addr) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ep := range o.all {
		remote, err := ep.GetRemoteAddress()
		if a := addrPort(remote, netip.Addr{}).Addr(); err == nil && theirs(a) {
			o.resetLocked(ep)
		}
	}
}
