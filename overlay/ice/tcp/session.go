package tcp

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

const (
	// gatherFor bounds the wait for mapped addresses, by the time of the
	// offer.
	gatherFor     = 700 * time.Millisecond
	gatherServers = 2
	maxInbound    = 16
)

// Session is one offer's checks. Candidates are shown to the peer, then Run is
// called once. It is safe for concurrent use.
type Session struct {
	p          *Port
	local      stun.Credentials
	candidates []wire.Candidate
	bound      []netip.AddrPort // of this session alone, for simultaneous open
	tie        uint64

	in   chan inbound
	done chan struct{}

	mu        sync.Mutex // guards what follows
	closed    bool
	listeners []net.Listener
	holding   []net.Conn // to servers: they keep mappings
}

// inbound is a connection that a peer has opened, and what it said first.
type inbound struct {
	c net.Conn
	m stun.Message
}

// NewSession makes credentials and candidates. Mapped addresses are asked for
// here, which takes gatherFor at most, and only where a local address is a
// private one.
func (p *Port) NewSession(ctx context.Context) (*Session, error) {
	if err := p.Refresh(); err != nil {
		return nil, err
	}
	pwd := randomText(24)
	s := &Session{p: p, local: stun.Credentials{Ufrag: wire.Ufrag(pwd), Pwd: pwd}, in: make(chan inbound, maxInbound), done: make(chan struct{})}
	var b [8]byte
	rand.Read(b[:])
	s.tie = binary.BigEndian.Uint64(b[:])
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	p.sessions[s.local.Ufrag] = s
	at := make(map[netip.Addr]netip.AddrPort, len(p.listeners))
	for a, l := range p.listeners {
		at[a] = netip.AddrPortFrom(a, addrPort(l.Addr()).Port())
	}
	p.mu.Unlock()
	var hosts []netip.AddrPort // the best first
	for _, a := range p.cfg.Addrs() {
		if h, ok := at[a]; ok {
			hosts = append(hosts, h)
			delete(at, a)
		}
	}
	// Loopback first: it answers on this machine only.
	slices.SortStableFunc(hosts, func(a, b netip.AddrPort) int {
		switch l := a.Addr().IsLoopback(); {
		case l == b.Addr().IsLoopback():
			return 0
		case l:
			return -1
		}
		return 1
	})
	for i, at := range hosts {
		s.add(wire.Host, wire.Passive, at, netip.AddrPort{}, i)
	}
	s.gather(ctx, hosts)
	s.candidates = best(s.candidates, hosts)
	return s, nil
}

// best leaves of candidates what an offer takes: those of the best addresses.
// hosts are in order; what an address is mapped to goes before it.
func best(candidates []wire.Candidate, hosts []netip.AddrPort) []wire.Candidate {
	if len(candidates) <= wire.MaxCandidates {
		return candidates
	}
	rank := func(c wire.Candidate) int {
		if c.Type == wire.ServerReflexive {
			return -1
		}
		return slices.IndexFunc(hosts, func(h netip.AddrPort) bool { return h.Addr() == c.Addr.Addr() })
	}
	slices.SortStableFunc(candidates, func(a, b wire.Candidate) int { return cmp.Compare(rank(a), rank(b)) })
	return candidates[:wire.MaxCandidates]
}

func randomText(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails, crypto/rand
	return base64.RawStdEncoding.EncodeToString(b)
}

// Credentials are what the peer needs to check with this session.
func (s *Session) Credentials() (ufrag, pwd string) { return s.local.Ufrag, s.local.Pwd }

// Candidates are what the peer should be shown; the slice must not be changed.
func (s *Session) Candidates() []wire.Candidate { return s.candidates }

func (s *Session) add(kind wire.CandidateType, tcp wire.TCPType, at, related netip.AddrPort, i int) {
	s.candidates = append(s.candidates, wire.Candidate{
		Type: kind, TCP: tcp, Addr: at, Related: related, Foundation: fmt.Sprintf("t%d%d.%d", kind, tcp, i),
		Priority: Priority(kind, tcp, i),
	})
}

// Priority is that of RFC 8445 §5.1.2.1 with the local preference of RFC 6544
// §4.2: 2^13 × direction + what tells addresses apart, i being the rank of the
// address.
func Priority(kind wire.CandidateType, tcp wire.TCPType, i int) uint32 {
	types := map[wire.CandidateType]uint32{wire.Host: 126, wire.PeerReflexive: 110, wire.ServerReflexive: 100}
	var direction uint32
	switch direct := kind == wire.Host || kind == wire.Relayed; tcp {
	case wire.Active:
		direction = 4
		if direct {
			direction = 6
		}
	case wire.Passive:
		direction = 2
		if direct {
			direction = 4
		}
	case wire.SimOpen:
		direction = 6
		if direct {
			direction = 2
		}
	}
	return types[kind]<<24 | (direction<<13|uint32(8191-min(i, 8191)))<<8 | 255
}

var carrier = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

func translated(a netip.Addr) bool { return a.Is4() && (a.IsPrivate() || carrier.Contains(a)) }

// gather finds out how connections from the private addresses look from
// outside: each gets a port of this session's, from which servers are asked.
func (s *Session) gather(ctx context.Context, hosts []netip.AddrPort) {
	if s.p.cfg.Servers == nil {
		return
	}
	servers := s.p.cfg.Servers()
	ctx, cancel := context.WithTimeout(ctx, gatherFor)
	defer cancel()
	type found struct {
		at, mapped netip.AddrPort
		i          int
	}
	var mu sync.Mutex
	var all []found
	var wg sync.WaitGroup
	for i, h := range hosts {
		if !translated(h.Addr()) || !slices.ContainsFunc(servers, func(to netip.AddrPort) bool { return s.p.cfg.Reaches(h.Addr(), to.Addr()) }) {
			continue
		}
		at, ok := s.bind(h.Addr())
		if !ok {
			continue
		}
		n := 0
		for _, server := range servers {
			if !s.p.cfg.Reaches(h.Addr(), server.Addr()) {
				continue
			}
			if n++; n > gatherServers {
				break
			}
			wg.Go(func() {
				if m, ok := s.ask(ctx, at, server); ok {
					mu.Lock()
					all = append(all, found{at, m, i})
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	seen := map[netip.AddrPort]bool{}
	for _, f := range all {
		if seen[f.mapped] {
			continue
		}
		seen[f.mapped] = true
		if f.mapped != f.at {
			s.add(wire.ServerReflexive, wire.SimOpen, f.mapped, f.at, f.i)
			s.add(wire.ServerReflexive, wire.Passive, f.mapped, f.at, f.i)
		}
	}
	for i, at := range s.bound {
		s.add(wire.Host, wire.SimOpen, at, netip.AddrPort{}, i)
	}
}

// bind takes a port for this session and listens there: a peer's SYN may come
// before ours has left.
func (s *Session) bind(a netip.Addr) (netip.AddrPort, bool) {
	l, err := s.p.listen(netip.AddrPortFrom(a, 0))
	if err != nil {
		return netip.AddrPort{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = l.Close()
		return netip.AddrPort{}, false
	}
	s.listeners = append(s.listeners, l)
	at := netip.AddrPortFrom(a, addrPort(l.Addr()).Port())
	s.bound = append(s.bound, at)
	s.p.mu.Lock()
	if !s.p.closed {
		s.p.wg.Go(func() { s.p.accept(l, s) })
	}
	s.p.mu.Unlock()
	return at, true
}

// ask asks a server, and keeps the connection.
func (s *Session) ask(ctx context.Context, at, server netip.AddrPort) (netip.AddrPort, bool) {
	c, err := s.p.dial(ctx, at, server)
	if err != nil {
		return netip.AddrPort{}, false
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = c.Close()
		return netip.AddrPort{}, false
	}
	s.holding = append(s.holding, c)
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(longAgo) })
	defer stop()
	q, id := stun.Question()
	if writeMessage(c, q) != nil {
		return netip.AddrPort{}, false
	}
	m, err := readMessage(c)
	if err != nil || m.ID() != id {
		return netip.AddrPort{}, false
	}
	return m.Mapped()
}

var longAgo = time.Unix(1, 0)

// take gives the session a connection; false: it is too late, or there are
// too many.
func (s *Session) take(in inbound) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	select {
	case s.in <- in:
		return true
	default:
		return false
	}
}

// Close ends the session. A connection that Run returned is not its any more.
// It is idempotent.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	s.p.mu.Lock()
	delete(s.p.sessions, s.local.Ufrag)
	s.p.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for _, c := range s.holding {
		_ = c.Close()
	}
	for {
		select {
		case in := <-s.in:
			_ = in.c.Close()
			continue
		default:
		}
		return
	}
}
