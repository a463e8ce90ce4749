package pipe

import (
	"time"

	"github.com/idloc/idloc/internal/pipe/repair"
)

// paced is the pacer's.
func (p *Pipe) paced(x *sending, now int64) int64 {
	x.mu.Lock()
	if !x.closed {
		x.s.Timeout(time.Duration(now))
		if x.s.Unanswered() {
			p.repair.unmarked.Store(true)
		}
	}
	x.mu.Unlock()
	p.sendKept(x)
	return 0
}

// sendKept sends what may leave now, and has the pacer come for what may not.
func (p *Pipe) sendKept(x *sending) {
	x.mu.Lock()
	x.more = true
	if x.sending || x.closed {
		x.mu.Unlock()
		return
	}
	x.sending, x.leaving = true, leavingPool.Get().(*leaving)
	for x.more {
		x.more = false
		for n := p.take(x); n > 0; n = p.take(x) {
			p.sendTaken(x, n)
		}
	}
	leavingPool.Put(x.leaving)
	x.sending, x.leaving = false, nil
	if x.closed {
		x.s.Close()
		x.mu.Unlock()
		return
	}
	due := int64(x.s.Due())
	if x.stalled && x.s.Waiting() {
		due = p.e.now() + repairStall<<min(x.stalls, repairStalls)
		x.stalls++
	}
	x.stalled = false
	p.reckonShare(x)
	x.mu.Unlock()
	if due > 0 {
		p.e.pacer.pace(p.e, &x.timed, due)
	}
}

// reckonShare says how much TCP may have written. x.mu is held.
func (p *Pipe) reckonShare(x *sending) {
	path := x.s.Path()
	shortest, _, _ := path.RTT()
	share := max(repairShare*path.Rate()*shortest.Seconds(), repairLeast)
	// A packet costs more than its payload, and half is left for others (Sender.Room).
	share = min(share, float64(p.e.budget.Left()+int64(x.s.Kept()))/3)
	x.share.Store(int64(share))
}

// take fills x.taken with packets of one family and class that may leave together.
// x.mu is held.
func (p *Pipe) take(x *sending) (n int) {
	best := p.paths.best.Load()
	if x.closed || x.stalled {
		return 0
	}
	if best == nil || p.keys.send.Load() == nil {
		x.stalled = true
		return 0
	}
	if best != x.path {
		x.path = best
		x.s.Moved(time.Duration(p.paths.rtt.Load()), p.Carried())
	}
	now, size := time.Duration(p.e.now()), int(best.mtu.Load())
	for n < maxSegments {
		k := x.s.Take(now, size, around)
		if k == nil {
			break
		}
		if n > 0 && (k.V6 != x.taken[0].V6 || k.Class != x.taken[0].Class) {
			x.s.Return(k)
			break
		}
		x.taken[n] = k
		n++
	}
	if n > 0 {
		x.stalls = 0
	}
	return n
}

// sendTaken seals and sends n packets of x.taken. x.mu is held, but not meanwhile.
func (p *Pipe) sendTaken(x *sending, n int) {
	first := x.taken[0]
	x.mu.Unlock()
	b := p.Batch(first.V6)
	b.SetClass(first.Class)
	b.kept = true
	done := 0
	for done < n {
		from, kp := done, (*keypair)(nil)
		failed := false
		for done < n {
			counter, fits, sealed := b.put(x.taken[done].Plain())
			if !fits {
				break
			}
			if failed = !sealed; failed {
				break
			}
			kp = b.kp
			x.counters[done] = counter
			done++
		}
		x.mu.Lock()
		p.noteSent(x, kp, x.taken[from:done], x.counters[from:done])
		if failed || done == from {
			for _, k := range backward(x.taken[done:n]) {
				x.s.Return(k)
			}
			x.stalled, done = true, n
		}
		x.mu.Unlock()
		_ = b.Flush() // what the socket refuses is lost like anything else
	}
	b.Free()
	clear(x.taken[:n])
	x.mu.Lock()
}

func backward(k []*repair.Packet) func(func(int, *repair.Packet) bool) {
	return func(yield func(int, *repair.Packet) bool) {
		for i := len(k) - 1; i >= 0; i-- {
			if !yield(i, k[i]) {
				return
			}
		}
	}
}

// noteSent tells what leaves under kp. x.mu is held.
func (p *Pipe) noteSent(x *sending, kp *keypair, packets []*repair.Packet, counters []uint32) {
	if len(packets) == 0 {
		return
	}
	if kp != x.key {
		x.old, x.key = x.key, kp
	}
	now := time.Duration(p.e.now())
	skip := false
	for i, k := range packets {
		skip = x.s.Sent(k, kp.sendIndex, counters[i], now) || skip
	}
	if skip {
		if c := kp.next.Add(1) - 1; c < rejectAfterPackets {
			x.s.Skipped(kp.sendIndex, uint32(c))
		}
	}
}
