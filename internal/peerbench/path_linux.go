package main

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// path carries packets between two TUN devices as a cell says. Each direction
// is a bottleneck of a rate with a queue that drops what it cannot hold, then
// loss, then the delay; a packet that is to be late is held for longer and
// overtaken by those behind it.
type path struct {
	dirs [2]*direction
	wg   sync.WaitGroup
}

type direction struct {
	cell
	rnd      *rand.Rand // of the reading goroutine
	bad      bool       // a burst of losses is on; its as well
	began    time.Time
	from, to *os.File

	mu     sync.Mutex // guards what follows
	queue  arrivals
	order  uint64
	closed bool
	wake   chan struct{} // something earlier than all before was queued, or closed
}

// arrival is a packet and when it is to come out.
type arrival struct {
	at    time.Time
	order uint64
	b     []byte
}

type arrivals []arrival

func (q arrivals) Len() int { return len(q) }
func (q arrivals) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q arrivals) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *arrivals) Push(x any)   { *q = append(*q, x.(arrival)) }
func (q *arrivals) Pop() any {
	n := len(*q) - 1
	x := (*q)[n]
	(*q)[n] = arrival{}
	*q = (*q)[:n]
	return x
}

// newPath begins to carry packets. The choices come from seed, the same for
// each rival.
func newPath(c cell, seed uint64, a, b *os.File) *path {
	p := new(path)
	for i, ends := range [2][2]*os.File{{a, b}, {b, a}} {
		d := &direction{
			cell: c, rnd: rand.New(rand.NewPCG(seed, uint64(i))),
			from: ends[0], to: ends[1], wake: make(chan struct{}, 1), began: time.Now(),
		}
		p.dirs[i] = d
		_ = d.from.SetReadDeadline(time.Time{})
		p.wg.Go(d.read)
		p.wg.Go(d.deliver)
	}
	return p
}

// close stops the carrying; the devices stay open.
func (p *path) close() {
	for _, d := range p.dirs {
		_ = d.from.SetReadDeadline(time.Unix(1, 0))
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
		d.poke()
	}
	p.wg.Wait()
}

func (d *direction) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *direction) read() {
	buf := make([]byte, tunMTU+64)
	var free time.Time // when the bottleneck has sent what it holds
	for {
		n, err := d.from.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		lost, late := d.loses(), d.rnd.Float64() < d.Reorder
		now := time.Now()
		rate := d.Rate
		if d.Dips > 0 && now.Sub(d.began)%d.Dips > d.Dips*3/4 {
			rate /= 10
		}
		if free.Before(now) {
			free = now
		}
		if free.Sub(now) > d.Queue {
			continue
		}
		free = free.Add(time.Duration(float64(n*8) / rate * 1e9))
		if lost {
			continue
		}
		at := free.Add(d.Delay)
		if late {
			at = at.Add(d.Late)
		}
		d.push(at, buf[:n])
	}
}

// loses says whether the next packet is lost: of its own, or as one of a burst.
func (d *direction) loses() bool {
	if d.Burst == 0 {
		return d.rnd.Float64() < d.Loss
	}
	if d.bad {
		d.bad = d.rnd.Float64() >= 1/d.Burst
	} else {
		d.bad = d.rnd.Float64() < d.Loss/(1-d.Loss)/d.Burst
	}
	return d.bad
}

func (d *direction) push(at time.Time, b []byte) {
	d.mu.Lock()
	d.order++
	heap.Push(&d.queue, arrival{at, d.order, append([]byte(nil), b...)})
	first := d.queue[0].order == d.order
	d.mu.Unlock()
	if first {
		d.poke()
	}
}

func (d *direction) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b, wait, closed := d.next(time.Now())
		if closed {
			return
		}
		if b != nil {
			_, _ = d.to.Write(b) // a full device drops, as a full host does
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-d.wake:
		}
	}
}

// next takes the first packet if it is due, and says how long to wait if not.
func (d *direction) next(now time.Time) (b []byte, wait time.Duration, closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, 0, true
	}
	if len(d.queue) == 0 {
		return nil, time.Hour, false
	}
	if wait = d.queue[0].at.Sub(now); wait > 0 {
		return nil, wait, false
	}
	return heap.Pop(&d.queue).(arrival).b, 0, false
}
