package carrier

import (
	"sync"
	"time"
)

const (
	smallMax  = 256
	queueFor  = 30 * time.Millisecond
	maxRTT    = 300 * time.Millisecond
	unsentFor = 4 * time.Millisecond
	queueMin  = 256 << 10
	queueMax  = 4 << 20
	lateAfter = 100 * time.Millisecond
	batchMax  = 16 << 10

	ringSize  = 4096 // datagrams of each of the two rings, most
	ringFirst = 32   // and at first
	rttEvery  = 100 * time.Millisecond
	rateEvery = 20 * time.Millisecond // a rate is measured over so much, while something waits
)

// packet is a datagram that waits.
type packet struct {
	buf *[MaxDatagram]byte
	n   int
	at  time.Duration // queue.busy when it was put
}

var packets = sync.Pool{New: func() any { return new([MaxDatagram]byte) }}

// ring is a queue of bounded length.
type ring struct {
	all   []packet // grows up to ringSize
	first int
	n     int
	bytes int
}

func (r *ring) push(p packet) {
	if r.n == len(r.all) {
		r.grow()
	}
	r.all[(r.first+r.n)%len(r.all)] = p
	r.n++
	r.bytes += p.n
}

// grow makes room for more; there is less than ringSize.
func (r *ring) grow() {
	all := make([]packet, min(max(2*len(r.all), ringFirst), ringSize))
	n := copy(all, r.all[r.first:])
	copy(all[n:], r.all[:r.first])
	r.all, r.first = all, 0
}

// pop takes the oldest; there must be one.
func (r *ring) pop() packet {
	p := r.all[r.first]
	r.all[r.first] = packet{}
	r.first = (r.first + 1) % len(r.all)
	r.n--
	r.bytes -= p.n
	return p
}

// queue is what a carrier has to send. It is safe for concurrent use.
type queue struct {
	wake chan struct{} // capacity 1: there is something

	mu      sync.Mutex // guards the rest
	small   ring
	bulk    ring
	limit   int // of bulk, in bytes
	closed  bool
	dropped uint64

	// How long the stream has been written to, which what waits is late by. A writer that
	// waits for a processor finds all that has come late, and to drop it would silence a
	// busy machine.
	busy    time.Duration
	writing time.Time // since when it is written to; zero: it is not

	// The rate at which the stream takes what waits, in bytes a second; 0: not known.
	rate   float64
	rtt    time.Duration // of the stream; 0: not known
	since  time.Time     // something has waited since then; zero: nothing does
	passed int           // bytes taken since
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1), limit: 2 * queueMin} }

// put queues a copy of a datagram of 1 to MaxDatagram bytes. The oldest make room.
func (q *queue) put(d []byte, now time.Time) {
	p := packet{buf: packets.Get().(*[MaxDatagram]byte), n: len(d)}
	copy(p.buf[:], d)
	q.mu.Lock()
	defer q.mu.Unlock()
	p.at = q.busyFor(now)
	if q.closed {
		packets.Put(p.buf)
		return
	}
	r, limit := &q.bulk, q.limit
	if len(d) <= smallMax {
		r, limit = &q.small, q.limit/2
	}
	for r.n > 0 && (r.n == ringSize || r.bytes+p.n > limit) {
		q.drop(r)
	}
	r.push(p)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// busyFor is busy with what is written now. q.mu is held.
func (q *queue) busyFor(now time.Time) time.Duration {
	if q.writing.IsZero() {
		return q.busy
	}
	return q.busy + now.Sub(q.writing)
}

func (q *queue) drop(r *ring) {
	packets.Put(r.pop().buf)
	q.dropped++
}

// take appends frames to b, which is empty, batch bytes or a little more: what is small first. It leaves
// out what is too late. If there is something it is to be written, and took called then.
func (q *queue) take(b []byte, batch int, now time.Time) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range [...]*ring{&q.small, &q.bulk} {
		for r.n > 0 && (len(b) == 0 || len(b)+r.all[r.first].n <= batch) {
			if q.busy-r.all[r.first].at > max(lateAfter, 2*q.rtt) {
				q.drop(r)
				continue
			}
			p := r.pop()
			b = appendFrame(b, p.buf[:p.n])
			packets.Put(p.buf)
		}
	}
	if len(b) > 0 {
		q.writing = now
	}
	return b
}

// took notes that the stream has taken n bytes, and learns from it how much may wait.
// It returns the rate, 0 if it is not known.
func (q *queue) took(n int, now time.Time) float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy, q.writing = q.busyFor(now), time.Time{}
	if q.bulk.n == 0 && q.small.n == 0 { // the stream was not what limits
		q.since = time.Time{}
		return q.rate
	}
	if q.since.IsZero() {
		q.since, q.passed = now, 0
		return q.rate
	}
	q.passed += n
	if d := now.Sub(q.since); d >= rateEvery {
		r := float64(q.passed) / d.Seconds()
		if q.rate == 0 {
			q.rate = r
		} else {
			q.rate += (r - q.rate) / 4
		}
		q.since, q.passed = now, 0
		q.limit = min(max(int(q.rate*max(queueFor, q.rtt).Seconds()), queueMin), queueMax)
	}
	return q.rate
}

// far notes the round trip of the stream.
func (q *queue) far(rtt time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rtt = min(rtt, maxRTT)
}

// drops is how many datagrams were dropped.
func (q *queue) drops() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// close gives the buffers back; what is put later is dropped.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, r := range [...]*ring{&q.small, &q.bulk} {
		for r.n > 0 {
			packets.Put(r.pop().buf)
		}
	}
}
