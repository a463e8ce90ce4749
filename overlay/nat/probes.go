package nat

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/socket"
)

const (
	maxProbes = 64 // remembered; the oldest makes room
	// probesFresh is how long what came back counts for UDP getting through:
	// the addresses are measured again every measureAgain.
	probesFresh = 2*measureAgain + time.Minute
	// sendFailed is below the first wait for an answer: who gives up sooner
	// could not send.
	sendFailed = 100 * time.Millisecond
	// oneMeasurement is more than the time between the first and the last
	// answer of one measurement: mappings are compared within one only.
	oneMeasurement = 10 * time.Second
)

// A Probe is what came of sending to one address over UDP, the newest time.
type Probe struct {
	Addr  netip.AddrPort // whom: a member or a STUN server
	Local netip.AddrPort // STUN: from which socket
	By    string         // "STUN" or "QUIC"
	Heard bool           // something came back
	Seen  netip.AddrPort // STUN: the address that it came from, as Addr saw it
	RTT   time.Duration  // STUN: until the answer; requests that were lost count
	At    time.Time      // when the answer came, or was not waited for any more
	Err   string         // what else went wrong than silence
}

// Probes remembers whom this peer has sent to over UDP and what came back, so
// that it can be told. It is safe for concurrent use.
type Probes struct {
	mu   sync.Mutex // guards last
	last *simplelru.LRU[probeKey, Probe]
}

type probeKey struct {
	local, addr netip.AddrPort
}

// NewProbes makes a Probes that remembers nothing.
func NewProbes() *Probes {
	last, err := simplelru.NewLRU[probeKey, Probe](maxProbes, nil)
	if err != nil {
		panic("nat: " + err.Error()) // a size that is not positive
	}
	return &Probes{last: last}
}

// Note keeps p in place of what was known of the same addresses, as of now.
func (s *Probes) Note(p Probe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.At = time.Now()
	s.last.Add(probeKey{p.Local, p.Addr}, p)
}

// noteQuestion notes what came of one STUN question. One that was given up for a
// newer measurement says nothing.
func (s *Probes) noteQuestion(ctx context.Context, c *socket.Conn, server, seen netip.AddrPort, ok bool, took time.Duration) {
	p := Probe{Addr: server, Local: c.LocalAddr(), By: "STUN", Heard: ok, Seen: seen}
	switch {
	case ok:
		p.RTT = took
	case ctx.Err() != nil:
		return
	case took < sendFailed:
		p.Err = "it could not be sent"
	}
	s.Note(p)
}

// NoteConnection notes that a QUIC connection to a stands, whoever is there. That is
// kept of few: it must not crowd out what STUN has told.
func (s *Probes) NoteConnection(a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	k := probeKey{addr: a}
	if s.last.Contains(k) || s.last.Len() < maxProbes/2 {
		s.last.Add(k, Probe{Addr: a, By: "QUIC", Heard: true, At: time.Now()})
	}
}

// KeepOnly forgets what was sent from sockets that are gone.
func (s *Probes) KeepOnly(conns []*socket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.last.Keys() {
		if k.local.IsValid() && !slices.ContainsFunc(conns, func(c *socket.Conn) bool { return c.LocalAddr() == k.local }) {
			s.last.Remove(k)
		}
	}
}

// List returns what is known, by local address, then by the other.
func (s *Probes) List() []Probe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.Len() == 0 {
		return nil
	}
	out := s.last.Values()
	slices.SortFunc(out, func(a, b Probe) int {
		return cmp.Or(a.Local.Compare(b.Local), a.Addr.Compare(b.Addr))
	})
	return out
}

// What UDP does, as far as probes tell.
const (
	UDPWorks  = "works"
	UDPSilent = "silent" // nothing comes back
	UDPUnsent = "unsent" // the system does not even send
)

// UDP says whether datagrams get through: "" if none was sent to anybody.
// connected members answer, or they were not connected any more.
func UDP(all []Probe, connected bool, now time.Time) string {
	out := ""
	for _, p := range all {
		switch {
		case p.Heard && now.Sub(p.At) < probesFresh:
			connected = true
		case p.Heard:
		case p.Err == "":
			out = UDPSilent
		case out == "":
			out = UDPUnsent
		}
	}
	if connected {
		return UDPWorks
	}
	return out
}

// Translation judges the address translation before the port from what servers have
// answered (RFC 4787 §4.1, RFC 5780): "" if nobody has, "none", "translated"
// when only one port of one server has answered, "endpoint-independent" when several
// saw one mapping, and "endpoint-dependent" (symmetric) when they saw
// different ones. A server in the same private network sees what is before any
// translation: it counts only where no other has answered. Of several sockets
// the worst counts.
func Translation(all []Probe) string {
	kinds := []string{"", "none", "translated", "endpoint-independent", "endpoint-dependent"}
	worst := 0
	for i := 0; i < len(all); {
		n := i
		for n < len(all) && all[n].Local == all[i].Local {
			n++
		}
		worst = max(worst, translationOf(all[i:n]))
		i = n
	}
	return kinds[worst]
}

// translationOf is Translation for one socket.
func translationOf(all []Probe) int {
	var newest time.Time
	far := false
	for _, p := range all {
		if p.Seen.IsValid() && p.At.After(newest) {
			newest = p.At
		}
	}
	now := slices.DeleteFunc(slices.Clone(all), func(p Probe) bool {
		return !p.Seen.IsValid() || newest.Sub(p.At) > oneMeasurement
	})
	for _, p := range now {
		far = far || !Inside(p.Addr.Addr())
	}
	told := 0
	var mapped []netip.AddrPort
	for _, p := range now {
		if far && Inside(p.Addr.Addr()) {
			continue
		}
		told++
		if p.Seen != p.Local && !slices.Contains(mapped, p.Seen) {
			mapped = append(mapped, p.Seen)
		}
	}
	switch {
	case told == 0:
		return 0
	case len(mapped) == 0:
		return 1
	case len(mapped) > 1:
		return 4
	case told == 1:
		return 2
	}
	return 3
}

// Inside says whether an address is of a private network, where no NAT need be
// on the way.
func Inside(a netip.Addr) bool {
	return private(a) || a.IsLoopback() || a.IsLinkLocalUnicast()
}
