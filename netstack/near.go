package netstack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// On a path without length, inside a host or on one link, what TCP has under
// way lies in the receive buffer of the peer's one UDP socket, next to what
// every other connection with that peer has there. TCP fills a pipe until
// something is lost; here that is a buffer that overflows because the reader
// had to wait for a processor, and until then a queue in front of all else that
// goes to the peer. So the connections that write much to a near peer share a
// window, by the send buffers that they get: they wait for room there and not
// for a loss. Far away the buffers stay gVisor's to tune.

const (
	// nearWindow is what one peer may have under way, by all connections
	// together: enough to keep both ends at work while a processor is busy
	// elsewhere, and some milliseconds' worth.
	nearWindow = 2 << 20
	// nearShare is the least that a connection gets while the peer's socket
	// holds it: two super packets, one under way while the other is made.
	nearShare = 2 * superPacket
	// nearRTT is what a path without length shows at most.
	nearRTT = time.Millisecond

	// paceEvery is how many bytes a connection writes before it looks whether
	// its share is still right, and paceEpoch how long a connection that did
	// counts as one of those that write.
	paceEvery = 4 * superPacket
	paceEpoch = 50 * time.Millisecond
)

// start is what epochs are counted from.
var start = time.Now()

// nearPeer is what the connections to one peer address know of each other.
type nearPeer struct {
	addr netip.Addr
	refs int // guarded by Stack.mu

	epoch atomic.Int64 // when cur began to count
	cur   atomic.Int32 // connections that wrote much in this epoch
	last  atomic.Int32 // and in the one before
}

// nearPeer returns what the connections to a share, one more of which holds it
// until releasePeer.
func (s *Stack) nearPeer(a netip.Addr) *nearPeer {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.near[a]
	if sh == nil {
		sh = &nearPeer{addr: a}
		s.near[a] = sh
	}
	sh.refs++
	return sh
}

func (s *Stack) releasePeer(sh *nearPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.refs--; sh.refs == 0 {
		delete(s.near, sh.addr)
	}
}

// join counts a connection that wrote much in epoch and has not been counted
// there, and returns how many there are. Counts are approximate when epochs
// change under several connections at once.
func (s *nearPeer) join(epoch int64, counted bool) int {
	if was := s.epoch.Load(); was != epoch && s.epoch.CompareAndSwap(was, epoch) {
		n := s.cur.Swap(0)
		if was != epoch-1 {
			n = 0
		}
		s.last.Store(n)
	}
	if !counted {
		s.cur.Add(1)
	}
	return int(max(s.cur.Load(), s.last.Load(), 1))
}

// pace is a connection's side of it. But for peer it is guarded by
// tcpConn.writeMu.
type pace struct {
	peer  *nearPeer
	epoch int64          // in which the connection was counted
	near  netip.AddrPort // the path that was found to be short; invalid: none
	limit int            // the send buffer that was set; 0: gVisor's to tune
}

// paced is told of n bytes that were written.
func (c *tcpConn) paced(n int) {
	c.traffic.written.Add(uint64(n))
	if c.burst += n; c.burst < paceEvery {
		return
	}
	c.burst = 0
	if c.ownBuffer.Load() {
		return
	}
	if p := c.ownPace(); p != nil {
		p.look(c)
	}
}

// ownPace returns c's pace, made if need be; nil if c is closed.
func (c *tcpConn) ownPace() *pace {
	if p := c.pace.Load(); p != nil {
		return p
	}
	a, _ := netip.AddrFromSlice(c.raddr.IP)
	p := &pace{peer: c.s.nearPeer(a.Unmap())}
	if c.pace.Store(p); c.closed.Load() { // unpace may have come before
		c.unpace()
		return nil
	}
	return p
}

// unpace lets go of what c shares.
func (c *tcpConn) unpace() {
	if p := c.pace.Swap(nil); p != nil {
		c.s.releasePeer(p.peer)
	}
}

// look sets the send buffer to c's share.
func (p *pace) look(c *tcpConn) {
	epoch := 1 + int64(time.Since(start)/paceEpoch)
	active := p.peer.join(epoch, p.epoch == epoch)
	share, repaired := c.s.shim.Repairing(p.peer.addr)
	if p.epoch == epoch && p.limit == 0 && !repaired {
		return // far, and looked at in this epoch
	}
	p.epoch = epoch
	limit := 0
	room := 0
	if !repaired {
		room = p.room(c)
	}
	if repaired {
		// What is written waits in the pipe, in turn with others', and not for TCP.
		limit = min(max(share/active, 2*superPacket), tcpBufferMax)
		if 4*limit > 3*p.limit && 4*limit < 5*p.limit {
			return
		}
	} else if room > 0 {
		limit = max(min(nearWindow, room)/active, min(nearShare, room/active), superPacket)
	} else if p.limit != 0 {
		limit = tcpBufferMax // the path was short and is not any more
	}
	if limit != p.limit {
		p.limit = limit
		c.ep.SocketOptions().SetSendBufferSize(int64(limit), true)
	}
}

// room returns what may lie in the socket of a near peer, 0 if it is not near.
func (p *pace) room(c *tcpConn) int {
	to, inside, room := c.s.shim.Path(p.peer.addr)
	switch {
	case !to.IsValid():
		return 0
	case !inside && to != p.near:
		var info tcpip.TCPInfoOption
		if c.ep.GetSockOpt(&info) != nil || info.RTT == 0 || info.RTT > nearRTT {
			p.near = netip.AddrPort{}
			return 0
		}
	}
	p.near = to
	// What the peer's socket holds is not known. Inside a host it is what
	// ours does, elsewhere that is the best guess; half of it, because
	// others send too.
	if room == 0 {
		return 2 * nearWindow
	}
	return room / 2
}
