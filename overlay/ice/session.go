package ice

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// What one establishment may send to addresses that the peer named and that
// have not answered: a victim named in an offer sees no more.
const (
	checksPerTarget = 40  // to one IP address
	checksTotal     = 512 // to all
	// originCredit checks more may go where one of the peer's came from, which
	// has shown our password: with the answer to it that is three times what
	// came from there.
	originCredit    = 2
	originCreditMax = 8
)

// checkGaps is the time between the checks of one pair. pion repeats every
// check at each tick of its agent; ticks are short so that nomination follows
// at once, and these gaps make of that a retransmission with back-off
// (RFC 8445 §14.3). The last gap repeats.
var checkGaps = []time.Duration{
	0, 50 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 400 * time.Millisecond, 500 * time.Millisecond,
}

// Pair is a socket of the port and an address of the peer.
type Pair struct {
	Local  *socket.Conn
	Remote netip.AddrPort
}

// Heard is where a check of the peer's came from, and its size in bytes.
type Heard struct {
	Pair
	Size int
}

// session is one establishment's part in the demux, over all sockets of the
// port: it answers the peer's checks, and says which of ours may leave. pion's
// agent sees it through mux.go. It is safe for concurrent use.
type session struct {
	demux  *Demux
	ufrag  string
	pwd    string                      // of requests to us
	conns  map[netip.AddrPort]*muxConn // by local address; fixed
	proven chan Pair                   // capacity 1: the first pair that the peer has answered on

	mu       sync.Mutex // guards the rest
	closed   bool
	agent    *agentMux // nil before the agent is made
	mute     bool      // answers nothing before the checks begin
	checking bool      // the checks have begun
	role     stun.Role // this side's, once they have
	peerPwd  string    // of the answers to us, once they have
	heard    []Heard   // where the peer's checks came from before that
	sent     []stun.TransactionID
	pace     map[pacedPair]*pace
	origins  map[Pair]bool          // where checks of the peer have come from; a few
	credit   map[netip.AddrPort]int // what those have paid for
	toIP     map[netip.Addr]int     // unanswered requests
	answered map[netip.Addr]bool    // the peer has answered from there
	total    int                    // checks
}

// pacedPair is what checks are repeated of, with back-off.
type pacedPair struct {
	local    *muxConn
	remote   netip.AddrPort
	nominate bool
}

type pace struct {
	sent int
	next time.Time
}

// newSession registers a fragment for the sockets given.
func newSession(d *Demux, local Credentials, conns []*socket.Conn) *session {
	s := &session{
		demux: d, ufrag: local.Ufrag, pwd: local.Pwd, proven: make(chan Pair, 1), conns: map[netip.AddrPort]*muxConn{},
		pace: map[pacedPair]*pace{}, origins: map[Pair]bool{}, credit: map[netip.AddrPort]int{},
		toIP: map[netip.Addr]int{}, answered: map[netip.Addr]bool{},
	}
	for _, c := range conns {
		s.conns[c.LocalAddr()] = newMuxConn(s, c)
	}
	d.register(local.Ufrag, s)
	return s
}

// close takes the fragment and the transactions out of the demux, and ends the
// agent's reads. It is idempotent.
func (s *session) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	sent := s.sent
	s.mu.Unlock()
	s.demux.unregister(s.ufrag, sent)
	for _, c := range s.conns {
		_ = c.Close()
	}
}

// takeRequest takes a Binding request for this fragment; b is borrowed. One that
// came to an address that a TURN server lends is not this session's.
func (s *session) takeRequest(local End, from netip.AddrPort, b []byte) {
	c, ok := local.(*socket.Conn)
	if !ok {
		return
	}
	mc := s.conns[c.LocalAddr()]
	if mc == nil {
		return
	}
	s.mu.Lock()
	if !s.checking {
		defer s.mu.Unlock()
		s.answerBefore(c, from, b)
		return
	}
	conflict := stun.RoleOf(b) == s.role
	elsewhere := s.agent != nil && s.agent.conns[c.LocalAddr()] == nil
	if len(s.origins) < wire.MaxCandidates {
		s.origins[Pair{c, from}] = true
	}
	if len(s.credit) < wire.MaxCandidates || s.credit[from] > 0 {
		if stun.Verified(b, s.pwd) {
			s.credit[from] = min(s.credit[from]+originCredit, originCreditMax)
		}
	}
	// A triggered check (RFC 8445 §7.3.1.4) goes out at once.
	for _, nominate := range []bool{false, true} {
		if p := s.pace[pacedPair{mc, from, nominate}]; p != nil {
			p.next = time.Time{}
		}
	}
	s.mu.Unlock()
	if conflict || elsewhere {
		// Who controls matters for nominations only, which nobody here
		// waits for. pion drops such a check where RFC 8445 §7.3.1.1
		// repairs the roles. What comes to a socket that the agent does
		// not check from is answered, and the peer takes the pair.
		answerCheck(s.pwd, c, from, b)
		return
	}
	mc.push(from, b)
}

// answerBefore answers a check that came before ours have begun, because the
// peer has our offer and we do not have its answer yet (RFC 8445 §7.3), and
// remembers where it came from. s.mu is held.
func (s *session) answerBefore(c *socket.Conn, from netip.AddrPort, b []byte) {
	if s.mute || stun.Nominates(b) { // a nomination comes again, and the agent must see it
		return
	}
	if answerCheck(s.pwd, c, from, b) && len(s.heard) < wire.MaxCandidates {
		s.heard = append(s.heard, Heard{Pair{c, from}, len(b)})
	}
}

// answerCheck answers a request if its integrity holds, and says whether. b is
// borrowed.
func answerCheck(pwd string, local End, from netip.AddrPort, b []byte) bool {
	a, ok := stun.Answer(b, from, pwd)
	if ok {
		_ = local.WriteTo(a, from) // the peer asks again
	}
	return ok
}

// begin says that the checks begin, and the peer's password: what is heard is
// complete then. It may be called again with the same.
func (s *session) begin(pwd string, controlling bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checking, s.peerPwd, s.role = true, pwd, stun.Controlled
	if controlling {
		s.role = stun.Controlling
	}
}

// silence has the session answer nothing before the checks begin.
func (s *session) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = true
}

// heardBefore is where the peer was heard before the checks began, and answered.
func (s *session) heardBefore() []Heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

// takeResponse takes the response to a check of p; b is borrowed. The first pair
// on which the peer has answered is told of (RFC 8445 §7.2.5): packets pass in
// both directions. Nomination would say the same one round trip later. An
// address has answered only if the response comes from where the check went,
// with the peer's password: a peer that answers one check under another's
// address opens nothing there.
func (s *session) takeResponse(p Pair, local End, from netip.AddrPort, b []byte) {
	c, ok := local.(*socket.Conn)
	if !ok {
		return
	}
	s.mu.Lock()
	pwd := s.peerPwd
	s.mu.Unlock()
	if from == p.Remote && stun.IsAnswer(b, pwd) {
		s.mu.Lock()
		s.answered[from.Addr()] = true
		s.mu.Unlock()
		s.demux.pacer.NoteAnswer(from.Addr(), time.Now())
		if c == p.Local {
			select {
			case s.proven <- p:
			default:
			}
		}
	}
	if mc := s.conns[c.LocalAddr()]; mc != nil {
		mc.push(from, b)
	}
}

// permit says whether a check may go out now, and counts it.
func (s *session) permit(c *muxConn, to netip.AddrPort, nominate bool, id stun.TransactionID) bool {
	if !s.count(c, to, nominate, id) {
		return false
	}
	s.demux.await(id, func(local End, from netip.AddrPort, b []byte) {
		s.takeResponse(Pair{c.sock, to}, local, from, b)
	})
	// close may have run in between; it has not seen this entry then.
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		s.demux.forget(id)
	}
	return !closed
}

// count counts a check if the pair's back-off and the bounds let it go.
func (s *session) count(c *muxConn, to netip.AddrPort, nominate bool, id stun.TransactionID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	key := pacedPair{c, to, nominate}
	p := s.pace[key]
	if p == nil {
		p = &pace{}
		s.pace[key] = p
	}
	now := time.Now()
	free := s.answered[to.Addr()] || s.credit[to] > 0
	if now.Before(p.next) || s.total >= checksTotal ||
		(!free && (s.toIP[to.Addr()] >= checksPerTarget || !s.demux.pacer.Allow(c.sock.LocalAddr(), to, now))) {
		return false
	}
	p.sent++
	p.next = now.Add(checkGaps[min(p.sent, len(checkGaps)-1)])
	s.total++
	if s.credit[to] > 0 {
		s.credit[to]--
	} else {
		s.toIP[to.Addr()]++
	}
	s.sent = append(s.sent, id)
	return true
}
