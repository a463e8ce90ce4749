package socket

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/nat64"
)

const (
	sourceTTL = 10 * time.Second // routes change without our addresses changing
	uncertain = time.Second      // the same with several sockets: one may fall silent
	sourceMax = 1024
)

// sourceCache remembers which socket a destination goes out of. A new set of
// sockets starts with an empty one.
type sourceCache struct {
	mu sync.RWMutex // guards m
	m  map[netip.Addr]sourceEntry
}

type sourceEntry struct {
	conn  *Conn
	until time.Time
}

// ConnFor returns the socket with the address that the system would take as
// source towards remote, nil if none can reach it. Loopback pairs with
// loopback only; an own address is reached from itself, a carrier's by carriers.
//
// The answer is remembered for some seconds: the first call for an address may
// ask the system, which takes some microseconds; the others allocate nothing.
func (p *Port) ConnFor(remote netip.Addr) *Conn {
	if remote.Is4In6() {
		remote = remote.Unmap()
	}
	if p.carries(remote) {
		return p.carrier
	}
	s := p.set.Load()
	now := time.Now()
	s.source.mu.RLock()
	e, ok := s.source.m[remote]
	s.source.mu.RUnlock()
	if ok && now.Before(e.until) {
		return e.conn
	}
	c := p.connFor(s, remote)
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	if len(s.source.m) >= sourceMax || s.source.m == nil {
		s.source.m = make(map[netip.Addr]sourceEntry)
	}
	ttl := sourceTTL
	if len(s.conns) > 1 {
		ttl = uncertain
	}
	s.source.m[remote] = sourceEntry{c, now.Add(ttl)}
	return c
}

// connFor decides: an own address, the system's routing table, the same
// subnet, then the first socket of the family.
func (p *Port) connFor(s *connSet, remote netip.Addr) *Conn {
	if !remote.IsValid() || remote.IsUnspecified() {
		return nil
	}
	if c := s.byAddr[remote]; c != nil {
		return c
	}
	if p.cfg.Net == nil {
		if c := s.byAddr[p.route(remote)]; c != nil && fits(c, remote) {
			return lively(s, c, remote)
		}
	}
	var first, near, over *Conn
	for _, c := range s.conns {
		if !fits(c, remote) {
			continue
		}
		if first == nil {
			first = c
		}
		if c.Translated() {
			over = c
		}
		if c.net.Contains(remote) && (near == nil || c.net.Bits() > near.net.Bits()) {
			near = c
		}
	}
	if near == nil && over != nil {
		near = over // others of IPv4 lead to their own subnets only
	}
	if near == nil {
		near = first
	}
	return lively(s, near, remote)
}

// A socket is taken for mute when this much was sent from it since it was last
// heard, and another one was heard so much later: its uplink may be dead
// somewhere the system does not see.
const (
	muteAfter = 3
	muteFor   = time.Second
)

// lively returns c, or one that reaches remote as well if c is mute.
func lively(s *connSet, c *Conn, remote netip.Addr) *Conn {
	if c == nil || c.count.sent.Load()-c.sentThen.Load() < muteAfter {
		return c
	}
	for _, o := range s.conns {
		if o != c && o.leads(remote) && time.Duration(o.heard.Load()-c.heard.Load()) > muteFor {
			return o
		}
	}
	return c
}

// fits reports whether a datagram from c can get to remote at all.
func fits(c *Conn, remote netip.Addr) bool {
	a := c.local.Addr()
	return a.Is4() == remote.Is4() && a.IsLoopback() == remote.IsLoopback() && c.Carried() == c.port.carries(remote) &&
		(!c.Translated() || nat64.Translatable(remote))
}

// routedSource asks the system which source it takes for remote, by a socket
// that is connected and sends nothing.
func routedSource(remote netip.Addr) netip.Addr {
	c, err := net.Dial("udp", netip.AddrPortFrom(remote, 9).String())
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
