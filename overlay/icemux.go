package overlay

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pion/ice/v3"
	"github.com/pion/stun/v2"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

const (
	iceQueue = 64 // datagrams that wait for an agent
	// What one establishment may send to addresses that the peer named and
	// that have not answered: a victim named in an offer sees no more.
	checksPerTarget = 64  // to one IP address
	checksTotal     = 512 // to all
)

// checkGaps is the time between the checks of one pair. pion repeats every
// check at each tick of its agent; ticks are short so that nomination follows
// at once, and these gaps make of that a retransmission with back-off
// (RFC 8445 §14.3). The last gap repeats.
var checkGaps = []time.Duration{
	0, 50 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond,
}

// iceSession is the mux of one establishment over all sockets of the port. It
// replaces pion's UDPMuxDefault, which dispatches by source address before
// fragment, so that what one agent has seen is lost for the next (DESIGN
// §14.9). Here requests come by fragment and responses by transaction ID. It
// is safe for concurrent use.
type iceSession struct {
	demux  *stunDemux
	ufrag  string
	key    stun.MessageIntegrity       // of requests to us
	conns  map[netip.AddrPort]*iceConn // by local address; fixed
	proven chan icePair                // capacity 1: the first pair that the peer has answered on

	mu     sync.Mutex // guards the rest
	closed bool
	role   stun.AttrType         // ICE-CONTROLLING or ICE-CONTROLLED; 0 until the agent runs
	mute   bool                  // answers nothing before the agent runs
	remote stun.MessageIntegrity // of the answers to us; nil until the agent runs
	heard  []heardPair           // where the peer's checks came from before that
	sent   []transactionID
	pace   map[pacedPair]*pace
	toIP   map[netip.Addr]int // unanswered requests
	alive  map[netip.Addr]bool
	total  int
}

type pacedPair struct {
	local    *iceConn
	remote   netip.AddrPort
	nominate bool
}

// icePair is a socket of the port and an address of the peer.
type icePair struct {
	local  *socket.Conn
	remote netip.AddrPort
}

// heardPair is where a check of the peer came from, of n bytes.
type heardPair struct {
	icePair
	n int
}

type pace struct {
	n    int
	next time.Time
}

var _ ice.UDPMux = (*iceSession)(nil)

// newSession registers a fragment for the sockets given.
func (d *stunDemux) newSession(ufrag, pwd string, conns []*socket.Conn) *iceSession {
	s := &iceSession{
		demux: d, ufrag: ufrag, key: stun.NewShortTermIntegrity(pwd), proven: make(chan icePair, 1), conns: map[netip.AddrPort]*iceConn{},
		pace: map[pacedPair]*pace{}, toIP: map[netip.Addr]int{}, alive: map[netip.Addr]bool{},
	}
	for _, c := range conns {
		s.conns[c.LocalAddr()] = &iceConn{session: s, sock: c, in: make(chan datagram, iceQueue), done: make(chan struct{})}
	}
	d.mu.Lock()
	d.sessions[ufrag] = s
	d.mu.Unlock()
	return s
}

// GetListenAddresses implements ice.UDPMux.
func (s *iceSession) GetListenAddresses() []net.Addr {
	var out []net.Addr
	for a := range s.conns {
		out = append(out, net.UDPAddrFromAddrPort(a))
	}
	return out
}

// GetConn implements ice.UDPMux.
func (s *iceSession) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	a, ok := udpAddrPort(addr)
	c := s.conns[a]
	if !ok || c == nil || ufrag != s.ufrag {
		return nil, net.ErrClosed
	}
	return c, nil
}

// RemoveConnByUfrag implements ice.UDPMux. The agent also calls it when it
// starts, before anything was made; the session ends by Close alone.
func (s *iceSession) RemoveConnByUfrag(string) {}

// Close takes the fragment and the transactions out of the demux.
func (s *iceSession) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	sent := s.sent
	s.mu.Unlock()
	s.demux.mu.Lock()
	delete(s.demux.sessions, s.ufrag)
	for _, id := range sent {
		delete(s.demux.pending, id)
	}
	s.demux.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	return nil
}

// request takes a Binding request for this fragment; b is borrowed.
func (s *iceSession) request(c *socket.Conn, from netip.AddrPort, b []byte) {
	ic := s.conns[c.LocalAddr()]
	if ic == nil {
		return
	}
	s.mu.Lock()
	if s.remote == nil {
		s.mu.Unlock()
		s.before(c, from, b)
		return
	}
	conflict := s.role != 0 && roleOf(b) == s.role
	// A triggered check (RFC 8445 §7.3.1.4) goes out at once.
	for _, nominate := range []bool{false, true} {
		if p := s.pace[pacedPair{ic, from, nominate}]; p != nil {
			p.next = time.Time{}
		}
	}
	s.mu.Unlock()
	if conflict {
		// Who controls matters for nominations only, which nobody here
		// waits for. pion drops such a check where RFC 8445 §7.3.1.1
		// repairs the roles.
		answerCheck(s.key, c, from, b)
		return
	}
	ic.push(from, b)
}

// before answers a check that came before the agent runs, because the peer has
// our offer and we do not have its answer yet (RFC 8445 §7.3), and remembers
// where it came from.
func (s *iceSession) before(c *socket.Conn, from netip.AddrPort, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute || s.remote != nil || hasUseCandidate(b) { // it comes again, and the agent must see a nomination
		return
	}
	if answerCheck(s.key, c, from, b) {
		if len(s.heard) < wire.MaxCandidates {
			s.heard = append(s.heard, heardPair{icePair{c, from}, len(b)})
		}
	}
}

// answerCheck answers a request if its integrity holds, and says whether. b is
// borrowed.
func answerCheck(key stun.MessageIntegrity, local interface {
	WriteTo(b []byte, to netip.AddrPort) error
}, from netip.AddrPort, b []byte) bool {
	m := &stun.Message{Raw: slices.Clone(b)}
	if m.Decode() != nil || key.Check(m) != nil {
		return false
	}
	a, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}, key, stun.Fingerprint)
	if err != nil {
		return false
	}
	_ = local.WriteTo(a.Raw, from) // the peer asks again
	return true
}

// run says that the agent runs from now on, and the peer's password: what is
// heard is complete then.
func (s *iceSession) run(pwd string, controlling bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.role = stun.AttrICEControlled
	if controlling {
		s.role = stun.AttrICEControlling
	}
	s.remote = stun.NewShortTermIntegrity(pwd)
}

// silence has the session answer nothing before the agent runs.
func (s *iceSession) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = true
}

// early is where the peer was heard before the agent ran, and answered.
func (s *iceSession) early() []heardPair {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

// prove tells of the first pair on which the peer has answered (RFC 8445
// §7.2.5): packets pass in both directions. Nomination would say the same one
// round trip later.
func (s *iceSession) prove(p icePair, c *socket.Conn, from netip.AddrPort, b []byte) {
	s.mu.Lock()
	key := s.remote
	s.mu.Unlock()
	m := &stun.Message{Raw: slices.Clone(b)}
	if c != p.local || from != p.remote || m.Decode() != nil || m.Type != stun.BindingSuccess || key.Check(m) != nil {
		return
	}
	select {
	case s.proven <- p:
	default:
	}
}

// response takes the response to one of our checks; b is borrowed.
func (s *iceSession) response(c *socket.Conn, from netip.AddrPort, b []byte) {
	s.mu.Lock()
	s.alive[from.Addr()] = true
	s.demux.pacer.answered(from.Addr(), time.Now())
	s.mu.Unlock()
	if ic := s.conns[c.LocalAddr()]; ic != nil {
		ic.push(from, b)
	}
}

// permit says whether a check may go out now, and counts it.
func (s *iceSession) permit(c *iceConn, to netip.AddrPort, nominate bool, id transactionID) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	key := pacedPair{c, to, nominate}
	p := s.pace[key]
	if p == nil {
		p = &pace{}
		s.pace[key] = p
	}
	now := time.Now()
	if now.Before(p.next) || s.total >= checksTotal ||
		(!s.alive[to.Addr()] && (s.toIP[to.Addr()] >= checksPerTarget || !s.demux.pacer.allow(to, now))) {
		s.mu.Unlock()
		return false
	}
	p.n++
	p.next = now.Add(checkGaps[min(p.n, len(checkGaps)-1)])
	s.total++
	s.toIP[to.Addr()]++
	s.sent = append(s.sent, id)
	s.mu.Unlock()
	s.demux.mu.Lock()
	s.demux.pending[id] = func(rc *socket.Conn, from netip.AddrPort, b []byte) {
		s.prove(icePair{c.sock, to}, rc, from, b)
		s.response(rc, from, b)
	}
	s.demux.mu.Unlock()
	// Close may have run in between; it has not seen this entry then.
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		s.demux.mu.Lock()
		delete(s.demux.pending, id)
		s.demux.mu.Unlock()
	}
	return !closed
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

// iceConn is one socket of the port as an agent's candidate has it.
type iceConn struct {
	session *iceSession
	sock    *socket.Conn
	in      chan datagram
	once    sync.Once
	done    chan struct{}
}

var _ net.PacketConn = (*iceConn)(nil)

// push queues a copy of b, dropping the oldest when the agent lags.
func (c *iceConn) push(from netip.AddrPort, b []byte) {
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

func (c *iceConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends what the agent wants sent, checks only as permit allows: a
// check that is held back is like one that the network lost.
func (c *iceConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := udpAddrPort(addr)
	if !ok {
		return 0, os.ErrInvalid
	}
	kind, id := classify(b)
	if kind == stunRequest && !c.session.permit(c, to, hasUseCandidate(b), id) {
		return len(b), nil
	}
	if err := c.sock.WriteTo(b, to); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *iceConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *iceConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.sock.LocalAddr()) }
func (c *iceConn) SetDeadline(time.Time) error      { return nil }
func (c *iceConn) SetReadDeadline(time.Time) error  { return nil }
func (c *iceConn) SetWriteDeadline(time.Time) error { return nil }

// roleOf is the role that the sender of a check has, 0 if it says none.
func roleOf(b []byte) stun.AttrType {
	m := &stun.Message{Raw: b}
	if m.Decode() == nil {
		for _, role := range []stun.AttrType{stun.AttrICEControlling, stun.AttrICEControlled} {
			if m.Contains(role) {
				return role
			}
		}
	}
	return 0
}

func hasUseCandidate(b []byte) bool {
	m := &stun.Message{Raw: b}
	return m.Decode() == nil && m.Contains(stun.AttrUseCandidate)
}

func udpAddrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
