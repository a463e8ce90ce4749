package netstack

import (
	"context"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/idloc/idloc/internal/peerid"
)

// An orphan is a connection whose conn was closed and that still has something
// to deliver: bytes that the peer has not acknowledged, or its FIN. As on Linux
// it lives as long as its peer acknowledges, be it window probes: a reader may
// stand still for as long as it likes. gVisor's own user timeout counts
// acknowledged probes as silence.
const (
	// orphanFor is how long a peer may say nothing at all, about as long as
	// Linux has it.
	orphanFor = 2 * time.Minute
	// orphanEvery is how often they are looked at.
	orphanEvery = 10 * time.Second
	// maxOrphans is how many of one peer may be older than orphanFor; beyond
	// that the oldest is reset, as Linux resets orphans when memory is short:
	// else a peer that acknowledges and never reads could have a node keep any
	// number of send buffers.
	maxOrphans = 64
	// adoptLooks is how many of the others, by chance, are looked at when one comes: each
	// is an endpoint of seven kilobytes, and most are over within a round trip, so that
	// one who closes thousands a second would hold those of the last orphanEvery.
	adoptLooks = 3
)

// orphan is what is known of one.
type orphan struct {
	peer     peerid.ID // zero: none, as of a connection to ourselves
	wq       *waiter.Queue
	window   *window
	closed   time.Time
	received uint64    // segments from the peer, when last looked at
	heard    time.Time // when there were fewer
	bare     bool      // only the FIN is left
}

// orphans holds the connections in closing of a Stack. Its methods may be used
// concurrently.
type orphans struct {
	mu    sync.Mutex // guards what follows
	all   map[*tcp.Endpoint]*orphan
	link  *link
	timer *time.Timer // runs while there are any
	ended bool
}

// adopt takes a connection over that is about to be closed; c has what does not
// change.
func (o *orphans) adopt(ep *tcp.Endpoint, c *orphan) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[*tcp.Endpoint]*orphan)
	}
	now := time.Now()
	c.closed, c.heard, c.received = now, now, received(ep)
	looked := 0
	for other, known := range o.all {
		if looked++; looked > adoptLooks {
			break
		}
		o.lookAtLocked(other, known, now)
	}
	o.all[ep] = c
	switch {
	case o.ended || len(o.all) > 1:
	case o.timer == nil:
		o.timer = time.AfterFunc(orphanEvery, func() { o.sweep(time.Now()) })
	default:
		o.timer.Reset(orphanEvery)
	}
}

// end stops the timer; close is over.
func (o *orphans) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if o.timer != nil {
		o.timer.Stop()
	}
}

// sweep forgets those that are over, and resets those that have been given up
// and those that hold too much.
func (o *orphans) sweep(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lookLocked(now)
	old := make(map[peerid.ID]int)
	for ep, c := range o.all {
		if !delivering(ep) {
			continue
		}
		if now.Sub(c.heard) >= orphanFor {
			o.resetLocked(ep)
		} else if now.Sub(c.closed) >= orphanFor {
			old[c.peer]++
		}
	}
	for peer, n := range old {
		for ; n > maxOrphans; n-- {
			o.resetOldestLocked(peer)
		}
	}
	if len(o.all) > 0 && !o.ended {
		o.timer.Reset(orphanEvery)
	}
}

// look forgets those that are over.
func (o *orphans) look(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lookLocked(now)
}

// lookLocked forgets those that are over and notes whose peers have said
// something.
func (o *orphans) lookLocked(now time.Time) {
	for ep, c := range o.all {
		o.lookAtLocked(ep, c, now)
	}
}

func (o *orphans) lookAtLocked(ep *tcp.Endpoint, c *orphan, now time.Time) {
	if over(ep) {
		if ep.EndpointState() == tcp.StateError && !c.window.reset.Load() {
			o.link.deliveries.doubt(c.peer)
		}
		o.forgetLocked(ep)
	} else if n := received(ep); n != c.received {
		c.received, c.heard = n, now
	}
}

func (o *orphans) forgetLocked(ep *tcp.Endpoint) {
	o.link.forget(o.all[ep].window)
	delete(o.all, ep)
}

func (o *orphans) resetLocked(ep *tcp.Endpoint) {
	o.forgetLocked(ep)
	ep.Abort()
}

// resetOldestLocked resets the orphan of a peer that was closed first.
func (o *orphans) resetOldestLocked(peer peerid.ID) {
	var oldest *tcp.Endpoint
	for ep, c := range o.all {
		if c.peer == peer && delivering(ep) && (oldest == nil || c.closed.Before(o.all[oldest].closed)) {
			oldest = ep
		}
	}
	if oldest != nil {
		o.resetLocked(oldest)
	}
}

// What flush makes of a peer that says nothing on any of its connections: it is waited
// for as long as the longest pause between two retransmissions or window probes, and
// then some, which is five retransmissions or more unless the connection has stood
// still already.
// Where only the FIN is left it is not waited for if the notice that the node has
// ended says as much (delivered.go), else no longer than it takes with a loss or two.
const (
	flushEvery   = time.Millisecond
	flushIdle    = 10 // times as long as it takes to look
	flushEnds    = 500 * time.Millisecond
	flushStalled = maxRTO + time.Second
)

// flush waits until the peers have what the orphans have to deliver, as long
// as ctx lasts, and no longer for those that take nothing. gVisor tells nobody
// when they are done, so this looks again and again. The error is ctx's.
func (o *orphans) flush(ctx context.Context) error {
	began := time.Now()
	again := time.NewTimer(flushEvery)
	defer again.Stop()
	for now := began; o.awaited(began, now); now = time.Now() {
		// What it takes to look at thousands is better left to them.
		again.Reset(max(flushEvery, flushIdle*time.Since(now)))
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// awaited says whether there is an orphan that is worth waiting for by one who
// began to wait at began.
func (o *orphans) awaited(began, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lookLocked(now)
	heard := make(map[peerid.ID]time.Time)
	for _, c := range o.all {
		if c.heard.After(heard[c.peer]) {
			heard[c.peer] = c.heard
		}
	}
	for ep, c := range o.all {
		if delivering(ep) && o.worth(ep, c, heard[c.peer], began, now) {
			return true
		}
	}
	return false
}

// worth says whether ep is worth waiting for. Its peer was heard last, on any of these
// connections, at heard: one that answers on others refuses what it does not know, so that
// a connection of which nothing comes waits in a queue.
func (o *orphans) worth(ep *tcp.Endpoint, c *orphan, heard, began, now time.Time) bool {
	if o.lacksEnd(ep, c) {
		return false
	}
	// Not TCP's own round trip: that of many conns that end at once is how long
	// their FINs queue.
	rtt := o.link.shim.RTT(c.window.key.Peer)
	if now.Sub(began) < min(max(flushEnds, 4*rtt), flushStalled) {
		return true
	}
	if c.bare = c.bare || bare(ep, c.wq); c.bare {
		return false
	}
	if heard.Before(began) {
		heard = began
	}
	return now.Sub(heard) < flushStalled
}

// delivering says whether a closed connection has something that its peer has
// not acknowledged, if only the FIN.
func delivering(ep *tcp.Endpoint) bool { return unacknowledgedIn(ep.EndpointState()) }

func unacknowledgedIn(state tcp.EndpointState) bool {
	switch state {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// over says whether a closed connection has neither anything to deliver nor to
// expect. One that is adopted and not yet closed is not.
func over(ep *tcp.Endpoint) bool {
	switch ep.EndpointState() {
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return true
	}
	return false
}

// received counts the segments that came in.
func received(ep *tcp.Endpoint) uint64 {
	return ep.Stats().(*tcp.Stats).SegmentsReceived.Value()
}
