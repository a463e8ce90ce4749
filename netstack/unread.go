package netstack

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
)

// gVisor bounds what one connection holds by its receive buffer, which is 4 to
// 32 MiB here, and takes 64 KiB more of a peer that ignores the window. A peer
// has 16,384 connections. So what a peer's inbound connections hold together is
// counted, by what comes in and what is read, and bounded:
//
//	peer's sum within maxUnreadPerPeer ──► the segment goes up
//	within twice that, and the connection within its part ──► it goes up
//	a segment into a connection that holds nothing ──► it goes up
//	within four times that, and it is what a reader waits for ──► it goes up
//	else ──► dropped, TCP sends it again; the window closes
//
// A connection that is read holds little, and goes on however much others of
// its peer hold.

const (
	maxUnreadPerPeer = 32 << 20

	// unreadOverhead is what a segment costs beside the buffer that its payload
	// lies in: gVisor's structures, and its headers.
	unreadOverhead = int64(tcp.SegOverheadSize + 256)

	// leastUnread is what a connection may hold whatever its peer does: a
	// segment of tcpMSS, so that it goes on when it is read.
	leastUnread = 4<<10 + unreadOverhead

	// leastBuffer is how small a receive buffer gets because of all this.
	leastBuffer = 16 << 10
)

// overheadOf is what a segment of n bytes costs beside them. gVisor's buffers are
// of powers of two up to 64 KiB.
func overheadOf(n int) int64 {
	if size := 1 << bits.Len(uint(n+header.TCPHeaderMaximumSize)); size <= 64<<10 {
		return unreadOverhead + int64(size-n)
	}
	return unreadOverhead
}

// unread is what one connection holds. Its methods may be used concurrently.
// Segments that come twice or too early count each time, for gVisor may keep
// each: when all is read and nothing lacks, the count is put right.
type unread struct {
	share *share // of the peer; nil: not counted. Set before anybody reads, with mu held.

	mu      sync.Mutex // guards what follows
	ended   bool       // nothing that comes is kept any more
	before  uint32     // bytes to be read that came before the connection was known
	began   bool       // next and top are set
	settled bool       // something was read since: nothing before next is to come
	next    uint32     // sequence number of the first byte that was not read
	top     uint32     // sequence number after the highest that came
	bytes   int64      // of payload
	beside  int64      // what the segments cost beside
	buffer  int64      // size of the receive buffer before it was squeezed; 0: it is not
}

// held is what a peer's connections hold together, in bytes, and how many they are.
type held struct {
	bytes atomic.Int64
	conns atomic.Int64
	limit int64
}

// part is what one connection may hold when the peer is beyond its limit.
func (h *held) part() int64 { return max(h.limit/max(h.conns.Load(), 1), leastUnread) }

// has says whether there is room for cost more of a connection that holds mine.
// What fills the gap that is next to be read is all that can set free what came
// too early behind it.
func (h *held) has(cost, mine int64, fills bool) bool {
	switch all := h.bytes.Load(); {
	case all+cost <= h.limit, mine+cost <= leastUnread:
		return true
	case fills && cost <= leastUnread && all+cost <= 4*h.limit:
		return true
	case all+cost <= 2*h.limit:
		return mine+cost <= h.part()
	}
	return false
}

// arrive counts a segment of n bytes, or says that it is too much. The receive
// buffer is of room bytes.
func (u *unread) arrive(seq uint32, n, room int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended || u.share == nil {
		return true // ended: for gVisor to reset
	}
	// The first segment may be overtaken.
	if at := seq - u.before; !u.settled && (!u.began || int32(at-u.next) < 0) {
		u.next = at
	}
	if !u.began {
		u.began, u.top = true, seq
	}
	end := seq + uint32(n)
	if int32(end-u.next) <= 0 {
		return true // for gVisor to drop: it was read
	}
	h, beside := &u.share.held, overheadOf(n)
	cost := int64(n) + beside
	if !h.has(cost, u.bytes+u.beside, int32(seq-u.next) <= 0) {
		return false
	}
	if int32(end-u.top) > 0 {
		u.top = end
	}
	if u.bytes+u.beside <= 2*int64(room) { // else gVisor does not keep it
		u.bytes += int64(n)
		u.beside += beside
		h.bytes.Add(cost)
	}
	return true
}

// take is told of n bytes that were read. It returns a size for the receive
// buffer if that is to grow again.
func (u *unread) take(n int) (buffer int64) {
	if u.share == nil {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.began {
		u.next += uint32(n)
		u.settled = true
	} else {
		u.before -= min(uint32(n), u.before)
	}
	switch d := min(int64(n), u.bytes); {
	case u.began && u.next == u.top: // nothing lacks, and all is read
		u.give(u.bytes, u.beside)
	case d > 0:
		u.give(d, u.beside*d/u.bytes)
	}
	if h := &u.share.held; u.buffer > 0 && h.bytes.Load() < h.limit/2 {
		buffer, u.buffer = u.buffer, 0
	}
	return buffer
}

// empty is told that there is nothing to read.
func (u *unread) empty() {
	if u.share == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.began && u.next == u.top {
		u.give(u.bytes, u.beside)
	}
}

// early is how much memory that takes of which nobody can read anything yet, for
// queued bytes of what is held can be read. u.mu is held.
func (u *unread) early(queued int) int64 {
	if n := u.bytes - int64(queued); n > 0 {
		return n + u.beside*n/u.bytes
	}
	return 0
}

// give takes something off the counts. u.mu is held.
func (u *unread) give(bytes, beside int64) {
	u.bytes -= bytes
	u.beside -= beside
	u.share.held.bytes.Add(-bytes - beside)
}

// begin counts what came before the connection was known.
func (u *unread) begin(h *share, queued int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended { // the stack was closed
		return
	}
	u.share = h
	u.before = uint32(queued)
	u.bytes = int64(queued)
	h.held.bytes.Add(u.bytes)
}

// end forgets what the connection holds, and what comes from now on.
func (u *unread) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.share != nil {
		u.give(u.bytes, u.beside)
	}
	u.ended = true
}

// count has what c holds counted as h's from now on. Nobody reads c yet.
func (c *tcpConn) count(h *share) {
	queued, _ := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	c.unread.begin(h, queued)
}

// key is how c is known by its segments.
func (c *tcpConn) key() inner.Flow {
	return inner.Flow{Peer: c.raddr.AddrPort().Addr().Unmap(), PeerPort: uint16(c.raddr.Port), Port: uint16(c.laddr.Port)}
}

// withinBudget says whether n bytes that came at seq may go up to c.
func (l *link) withinBudget(c *tcpConn, seq uint32, n int) bool {
	if c.unread.arrive(seq, n, int(c.ep.SocketOptions().GetReceiveBufferSize())) {
		return true
	}
	l.unreadDropped.Add(1)
	c.squeeze()
	return false
}

// squeeze makes the receive buffer smaller, so that the window tells the peer
// what it may send. What fills a gap has room beside all that came too early.
func (c *tcpConn) squeeze() {
	u, o := &c.unread, c.ep.SocketOptions()
	queued, _ := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	u.mu.Lock()
	defer u.mu.Unlock()
	size, was := max(u.share.held.part(), leastBuffer, u.early(queued)+leastUnread), o.GetReceiveBufferSize()
	if was <= size {
		return
	}
	o.SetReceiveBufferSize(size, false)
	u.buffer = max(u.buffer, was)
}

// chosen is told that the application has set the receive buffer's size, which
// then stays.
func (u *unread) chosen() {
	u.mu.Lock()
	u.buffer = 0
	u.mu.Unlock()
}

// noteRead is told of n bytes that the application has read.
func (c *tcpConn) noteRead(n int) {
	c.traffic.read.Add(uint64(n))
	if size := c.unread.take(n); size > 0 {
		c.ep.SocketOptions().SetReceiveBufferSize(size, false)
	}
}
