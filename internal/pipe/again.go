package pipe

import "time"

// While the peer owes a sign of life, what is sent may come to nobody. TCP
// would repeat it by its own clock, which doubles its steps: after an outage of
// a second and a half it may sleep for another. So the newest datagrams of that
// time are kept as they were sealed and sent once more when the peer is heard
// again. If it has them, its replay window drops them.
const (
	keepAgain = 8
	// overdue is how long, and how many RTTs, an answer may take before what
	// is sent is kept.
	overdue     = int64(100 * time.Millisecond)
	overdueRTTs = 2
)

// again is the datagrams kept, in a ring whose buffers are used again. The
// pipe's mu guards it.
type again struct {
	ring [][]byte
	next int // the oldest, if the ring is full
	n    int
}

// doubtful says whether what is sent now should be kept: the peer is looked
// for, or an answer is overdue.
func (p *Pipe) doubtful(now int64) bool {
	first := p.life.awaiting.Load()
	return p.life.alert.Load() || first != 0 && now > first+overdue && now > first+overdueRTTs*p.paths.rtt.Load()
}

// keep copies what was sent, datagrams of seg bytes back to back.
func (p *Pipe) keep(b []byte, seg int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stateClosed {
		return
	}
	a := &p.life.again
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if len(a.ring) < keepAgain {
			a.ring = append(a.ring, nil)
		}
		a.ring[a.next] = append(a.ring[a.next][:0], d...)
		a.next = (a.next + 1) % keepAgain
		a.n = min(a.n+1, keepAgain)
	}
}

// sendAgain queues what was kept. The caller holds mu, and the peer was heard.
func (p *Pipe) sendAgain() {
	a := &p.life.again
	if t := p.paths.best.Load(); t != nil && t.validated.Load() {
		for i := range a.n {
			d := a.ring[(a.next-a.n+i+keepAgain)%keepAgain]
			if len(d) <= int(t.mtu.Load()) {
				p.outbox.datagrams = append(p.outbox.datagrams, outgoing{to: t, sealed: d})
			}
		}
	}
	*a = again{} // what is queued owns the buffers now
}
