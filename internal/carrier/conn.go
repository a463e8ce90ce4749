package carrier

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstFor  = 5 * time.Second
	idleFor   = 90 * time.Second
	unusedFor = 60 * time.Second
	writeFor  = 10 * time.Second
	deadFor   = 4 * time.Second

	// readBuffer holds a record of TLS and the head of a frame before it.
	readBuffer = batchMax + MaxDatagram + frameHeader
	// hastyMax is the most that is acknowledged at once, in bytes: a full segment has
	// nothing wait for it.
	hastyMax = 1024
)

// Why a carrier ends.
var (
	errUnused = errors.New("nothing was sent or received for a while")
	errDead   = errors.New("nothing came back")
)

// conn is one carrier. Its reader and writer run from run to its end.
type conn struct {
	set     *Set
	remote  netip.AddrPort // the far end, as the layers above have it
	address Address        // that was connected to; zero: it came in
	from    netip.AddrPort // where the stream comes from or goes to; a proxy's, where there is one
	shared  bool           // from is a proxy's that brings the carriers of many
	queue   *queue
	since   time.Time

	ready chan struct{} // closed when the stream stands, or err is set
	err   error         // why there is no stream; set before ready is closed

	stream net.Conn      // set before ready is closed
	tcp    *net.TCPConn  // under it, if known
	done   chan struct{} // closed when it ends
	once   sync.Once     // ends it
	why    atomic.Pointer[error]

	heard, used      atomic.Int64  // ns since the set began: last frame in; in or out
	asked            atomic.Int64  // first frame out since heard, and since a pause; 0: none
	received, sent   atomic.Uint64 // bytes of datagrams
	receivedN, sentN atomic.Uint64
}

func (s *Set) newConn(remote netip.AddrPort) *conn {
	c := &conn{set: s, remote: remote, queue: newQueue(), since: time.Now(), ready: make(chan struct{}), done: make(chan struct{})}
	c.used.Store(s.now())
	c.heard.Store(s.now())
	return c
}

// run carries until the stream ends. The caller has set stream.
func (c *conn) run() error {
	var wg sync.WaitGroup
	wg.Go(c.write)
	c.end(c.read())
	wg.Wait()
	c.queue.close()
	return *c.why.Load()
}

// end ends the carrier; the first reason counts.
func (c *conn) end(why error) {
	c.once.Do(func() {
		c.why.Store(&why)
		close(c.done)
		if t, ok := c.stream.(*tls.Conn); ok {
			_ = t.NetConn().Close() // the farewell of TLS would wait for who takes nothing
		} else if c.stream != nil {
			_ = c.stream.Close()
		}
	})
}

// patience is how long the reader waits.
func (c *conn) patience(first bool) time.Duration {
	switch {
	case c.address != Address{}:
		return unusedFor
	case first:
		return firstFor
	}
	return idleFor
}

func (c *conn) read() error {
	b := make([]byte, readBuffer)
	have, first, whole := 0, true, true
	acknowledge := acknowledger(c.tcp)
	for {
		if whole { // bytes that are no frame yet buy no time
			if err := c.stream.SetReadDeadline(time.Now().Add(c.patience(first))); err != nil {
				return err
			}
		}
		whole = false
		n, err := c.stream.Read(b[have:])
		if n > 0 {
			rest, frames, bad := runs(b[:have+n], c.deliver)
			if bad != nil {
				return bad
			}
			have = copy(b, rest)
			whole = frames > 0
			first = first && !whole
			if n <= hastyMax && acknowledge != nil {
				acknowledge() // a proxy that waits for it before its next small segment would add 40 ms
			}
		}
		var timeout net.Error
		switch {
		case err == nil:
		case errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded):
			return errUnused
		default:
			return err
		}
	}
}

// deliver hands a run of datagrams to the port. b is borrowed.
func (c *conn) deliver(b []byte, seg int) {
	now := c.set.now()
	c.heard.Store(now)
	c.asked.Store(0)
	c.used.Store(now)
	c.received.Add(uint64(len(b)))
	c.receivedN.Add(uint64((len(b) + seg - 1) / seg))
	c.set.deliver(b, seg, c.remote)
}

// write is the writer's goroutine.
func (c *conn) write() {
	select { // whoever is sent nothing costs little
	case <-c.queue.wake:
	case <-c.done:
		return
	}
	b := make([]byte, 0, batchMax+MaxDatagram+frameHeader)
	batch, lowat, last := batchMax, 0, int64(0)
	var rtt time.Duration
	var looked time.Time // when it was asked for
	for {
		b = c.queue.take(b[:0], batch, time.Now())
		if len(b) == 0 {
			select {
			case <-c.queue.wake:
				continue
			case <-c.done:
				return
			}
		}
		now := c.set.now()
		c.used.Store(now)
		if now-last > int64(deadFor)/2 {
			c.asked.Store(0) // what was said before the pause may have wanted no answer
		}
		last = now
		if c.address != (Address{}) && !c.asked.CompareAndSwap(0, now) && now-c.asked.Load() > int64(deadFor) {
			c.end(errDead)
			return
		}
		if err := c.stream.SetWriteDeadline(time.Now().Add(writeFor)); err != nil {
			c.end(err)
			return
		}
		if _, err := c.stream.Write(b); err != nil {
			c.end(err)
			return
		}
		c.sent.Add(uint64(len(b)))
		if now := time.Now(); c.tcp != nil && now.Sub(looked) >= rttEvery {
			looked = now
			rtt = roundTrip(c.tcp)
			c.queue.far(rtt)
		}
		if rate := c.queue.took(len(b), time.Now()); rate > 0 {
			few := int(rate * max(unsentFor, rtt/2).Seconds())
			batch = min(max(int(rate*unsentFor.Seconds()), MaxDatagram), batchMax)
			if want := min(max(few, batchMax), queueMax); c.tcp != nil && (want > 2*lowat || want < lowat/2) {
				lowat = want
				limitUnsent(c.tcp, lowat)
			}
		}
	}
}

// send queues copies of b, datagrams of seg bytes back to back.
func (c *conn) send(b []byte, seg int) {
	now := time.Now()
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		c.queue.put(d, now)
		c.sentN.Add(1)
	}
}
