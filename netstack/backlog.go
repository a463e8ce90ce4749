package netstack

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
)

// Limits of what one peer can have of this node's TCP. What the node itself
// dialled does not count, nor do the node's connections to itself.
const (
	maxConnsPerPeer   = 16384              // inbound connections until they are over: the next SYN is reset
	maxWaitingPerPeer = defaultBacklog / 2 // that wait for Accept, at all listeners: the next SYN is dropped, and comes again
)

// shares counts the inbound connections of each peer. All methods may be used
// concurrently.
type shares struct {
	limited atomic.Uint64 // SYNs and connections beyond the limits

	mu             sync.Mutex // guards what follows
	conns, waiting int        // the limits
	unread         int64      // likewise, in bytes
	byPeer         map[peerid.ID]*share
	swept          time.Time // when all were
}

func (s *shares) init() {
	s.conns, s.waiting, s.unread = maxConnsPerPeer, maxWaitingPerPeer, maxUnreadPerPeer
	s.byPeer = make(map[peerid.ID]*share)
}

// share is one peer's connections.
type share struct {
	waiting int // for Accept
	open    int // accepted and not closed
	closing []*tcp.Endpoint
	checked int       // how many of closing were left when last looked at
	at      time.Time // when that was
	held    held      // by those that wait or are open
}

// sweepEvery is how often a peer at its limit can make us look through the
// connections that it has in closing, and sweepAll how often all peers' are.
const (
	sweepEvery = 100 * time.Millisecond
	sweepAll   = time.Minute
)

// sweep forgets connections in closing that are over. TIME-WAIT is: it ends by
// our own clock.
func (h *share) sweep(now time.Time) {
	h.closing = slices.DeleteFunc(h.closing, func(ep *tcp.Endpoint) bool {
		switch ep.EndpointState() {
		case tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck:
			return false
		}
		return true
	})
	h.checked, h.at = len(h.closing), now
}

func (h *share) total() int { return h.waiting + h.open + len(h.closing) }

// verdicts of shares.mayOpen
type limit uint8

const (
	within limit = iota
	waits        // too many wait already
	beyond       // too many are open
)

// mayOpen says whether a peer may begin one more.
func (s *shares) mayOpen(id peerid.ID) limit {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byPeer[id]
	if h == nil {
		return within
	}
	if now := time.Now(); h.total() >= s.conns && now.Sub(h.at) >= sweepEvery {
		h.sweep(now)
	}
	switch {
	case h.total() >= s.conns:
		return beyond
	case h.waiting >= s.waiting:
		return waits
	}
	return within
}

// change adds to a peer's counts, and returns them.
func (s *shares) change(id peerid.ID, waiting, open int) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byPeer[id]
	if h == nil {
		h = new(share)
		h.held.limit = s.unread
		s.byPeer[id] = h
	}
	h.waiting += waiting
	h.open += open
	h.held.conns.Store(int64(h.waiting + h.open))
	if h.total() == 0 {
		delete(s.byPeer, id)
	}
	return h
}

// closed takes one off a peer's open connections; ep counts until it is over.
func (s *shares) closed(id peerid.ID, ep *tcp.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.byPeer[id]
	h.open--
	h.held.conns.Store(int64(h.waiting + h.open))
	h.closing = append(h.closing, ep)
	now := time.Now()
	if len(h.closing) >= 2*h.checked+64 || h.waiting+h.open == 0 {
		h.sweep(now)
	}
	if h.total() == 0 {
		delete(s.byPeer, id)
	}
	if now.Sub(s.swept) < sweepAll {
		return
	}
	s.swept = now
	for id, h := range s.byPeer { // of peers that have gone away
		if h.sweep(now); h.total() == 0 {
			delete(s.byPeer, id)
		}
	}
}

// withinShare says whether the packet in b may go on to TCP: all may but what is
// beyond its peer's share. A SYN is reset or, if the peer's connections only
// wait for Accept, dropped: TCP sends it again. So is data that nobody reads
// (unread.go). b stays the caller's.
func (l *link) withinShare(h *inner.Header, b *buffer.Buffer) bool {
	switch {
	case h.Protocol != inner.TCP:
		return true
	case h.Fragment: // which no TCP makes, and whose size only the last one tells
		l.unreadDropped.Add(1)
		return false
	case h.TCPLen == 0:
		return true
	case h.Flags&inner.SYN != 0:
		if th := tcpHeader(h, b); th != nil {
			l.scales.note(h.Inbound(), th)
		}
		l.begins(h.Inbound())
	default:
		if w := l.window(h.Inbound()); w != nil {
			return l.comes(w, h, b)
		}
	}
	if !h.Opens() {
		return true
	}
	id, ok := l.shim.Table().Peer(h.Src)
	if !ok {
		return true
	}
	share := l.shares.mayOpen(id)
	if share == within {
		return true
	}
	l.shares.limited.Add(1) // before the peer can know
	if share == beyond {
		resetSYN(l.shim, h)
	}
	return false
}

// tcpHeader returns the TCP header of the packet in b, where it is.
func tcpHeader(h *inner.Header, b *buffer.Buffer) header.TCP {
	hl := ipLen(h.V6)
	views := b.AsViewList()
	if v := views.Front(); v != nil && v.Size() >= hl+int(h.TCPLen) {
		return header.TCP(v.AsSlice()[hl : hl+int(h.TCPLen)])
	}
	return nil // not from the shim, whose first view has it
}

// ipLen is the length of the IP headers that the shim writes.
func ipLen(v6 bool) int {
	if v6 {
		return inner.IPv6Len
	}
	return inner.IPv4Len
}

// backlog is the connections that wait for a listener's Accept. Each peer has
// a queue of its own and they take turns, so that a peer with many does not
// keep another waiting.
type backlog struct {
	mu     sync.Mutex // guards what follows
	closed bool
	n      int
	queues map[peerid.ID][]*tcpConn
	turn   []peerid.ID // peers with a connection, the next one first
}

// push appends c; false if the backlog is closed.
func (q *backlog) push(c *tcpConn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if q.queues == nil {
		q.queues = make(map[peerid.ID][]*tcpConn)
	}
	if len(q.queues[c.pinned]) == 0 {
		q.turn = append(q.turn, c.pinned)
	}
	q.queues[c.pinned] = append(q.queues[c.pinned], c)
	q.n++
	return true
}

// pop returns the next connection, nil if there is none, and how many are left.
func (q *backlog) pop() (c *tcpConn, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return nil, 0
	}
	id := q.turn[0]
	queue := q.queues[id]
	c = queue[0]
	queue[0] = nil
	q.n--
	if queue = queue[1:]; len(queue) == 0 {
		delete(q.queues, id)
		q.turn = slices.Delete(q.turn, 0, 1)
	} else {
		q.queues[id] = queue
		copy(q.turn, q.turn[1:])
		q.turn[len(q.turn)-1] = id
	}
	return c, q.n
}

func (q *backlog) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

// close empties the backlog; push takes nothing from then on.
func (q *backlog) close() []*tcpConn {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	var all []*tcpConn
	for _, queue := range q.queues {
		all = append(all, queue...)
	}
	q.queues, q.turn, q.n = nil, nil, 0
	return all
}
