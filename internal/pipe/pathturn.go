package pipe

import (
	"net/netip"
	"slices"

	"github.com/idloc/idloc/internal/wire"
)

// Paths through TURN servers (RFC 8656): one side's datagrams leave from an
// address that a server lends it. They are paths like others, but that, as
// those through relays, they give way to direct ones.

// TURN is what a Sender whose address is a TURN server's says of itself.
type TURN interface {
	Sender
	TURN() // a marker; it does nothing
}

// maxLent bounds the addresses that a peer may tell late.
const maxLent = wire.MaxCandidates

// TURN says whether a path of p leads through a TURN server of either side.
func (p *Pipe) TURN(at Path) bool {
	t := p.find(at.Local, at.Remote)
	return t != nil && t.turn.Load()
}

// lent says whether one end of at is an address that a TURN server lends. The
// caller holds mu.
func (p *Pipe) lent(at Path) bool {
	if _, ok := at.Local.(TURN); ok {
		return true
	}
	return slices.ContainsFunc(p.keys.all, func(k *keypair) bool { return k.sess.lends(at.Remote) })
}

// lends says whether the peer named an address as one that a TURN server
// lends it.
func (s *Session) lends(a netip.AddrPort) bool {
	for _, c := range s.remote.Candidates {
		if c.Type == wire.Relayed && c.Addr == a {
			return true
		}
	}
	late := s.lent.Load()
	return late != nil && slices.Contains(*late, a)
}

// Lends notes an address of a TURN server that the peer told after its offer
// or answer. A path to it that stands already is one through a server from now
// on.
func (s *Session) Lends(a netip.AddrPort) {
	for {
		old := s.lent.Load()
		var list []netip.AddrPort
		if old != nil {
			list = *old
		}
		if len(list) >= maxLent || s.lends(a) {
			break
		}
		list = append(slices.Clone(list), a)
		if s.lent.CompareAndSwap(old, &list) {
			break
		}
	}
	s.e.mu.Lock()
	p := s.pipe
	s.e.mu.Unlock()
	if p == nil || !s.lends(a) {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	for _, t := range *p.paths.list.Load() {
		if t.Remote == a {
			t.turn.Store(true)
			t.relayed.Store(true)
		}
	}
}
