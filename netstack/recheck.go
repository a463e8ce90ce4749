package netstack

import (
	"errors"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/inner"
)

// ErrNotAdmitted is what the calls of an accepted conn say that Recheck has ended.
var ErrNotAdmitted = errors.New("the peer may not have this connection open any more")

// Ask has Config.Admit asked about inbound flows from now on, or not any more: while it
// is not, all are let on, and looking at packets costs nothing. It is asked until Ask says
// otherwise. UDP conns that are connected when it begins go on; another socket gets answers
// when it has sent something again. Without a Config.Admit it does nothing.
func (s *Stack) Ask(on bool) {
	a := s.link.admit
	if a == nil || a.Asks() == on {
		return
	}
	a.Ask(on)
	if !on {
		return
	}
	s.link.connected.Range(func(f, _ any) bool {
		a.sent(f.(inner.Flow))
		return true
	})
}

// Recheck asks keep about the inbound flows that were let on, as Config.Admit was asked,
// and ends those that it does not want: accepted TCP connections are reset, for both ends,
// and say ErrNotAdmitted here; datagrams are asked about again. It returns how many those
// are. It may take as long as keep for all of them.
func (s *Stack) Recheck(keep func(network string, local, remote netip.AddrPort) bool) (ended int) {
	s.mu.Lock()
	s.asked = time.Now()
	var all []*tcpConn
	for c := range s.open {
		if c, ok := c.(*tcpConn); ok && c.inbound.Load() && !c.pinned.IsZero() && c.pinned != s.self {
			all = append(all, c)
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		if keep("tcp", c.laddr.AddrPort(), c.raddr.AddrPort()) {
			continue
		}
		c.refuse()
		ended++
	}
	if a := s.link.admit; a != nil {
		ended += a.Recheck(keep)
	}
	return ended
}

// handshakeFor is how long after its SYN a connection may be established.
const handshakeFor = 2 * time.Minute

// stillAdmitted asks again about a connection that is established a while after Recheck:
// its SYN may have been let on before that.
func (s *Stack) stillAdmitted(c *tcpConn) bool {
	a := s.link.admit
	if !a.Asks() || c.pinned.IsZero() || c.pinned == s.self {
		return true
	}
	s.mu.Lock()
	again := !s.asked.IsZero() && time.Since(s.asked) < handshakeFor
	s.mu.Unlock()
	return !again || a.ask("tcp", c.laddr.AddrPort(), c.raddr.AddrPort())
}

// refuse resets a connection that was let on.
func (c *tcpConn) refuse() {
	c.refused.Store(true)
	c.cut.Store(true)
	c.ep.Abort()
}
