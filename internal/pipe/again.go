package pipe

import "slices"

// While the peer owes a sign of life, what is sent may come to nobody. TCP
// would repeat it by its own clock, which doubles its steps: after an outage of
// a second and a half it may sleep for another. So the newest datagrams of that
// time are kept as they were sealed and sent once more when the peer is heard
// again. If it has them, its replay window drops them.
const keepAgain = 8

// again is the datagrams kept. The pipe's mu guards it.
type again struct{ datagrams [][]byte }

// keep copies what was sent, datagrams of seg bytes back to back.
func (p *Pipe) keep(b []byte, seg int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.alert.Load() || p.state == stateClosed {
		return
	}
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		p.again.datagrams = append(p.again.datagrams, slices.Clone(d))
	}
	if n := len(p.again.datagrams) - keepAgain; n > 0 {
		p.again.datagrams = slices.Delete(p.again.datagrams, 0, n)
	}
}

// sendAgain queues what was kept. The caller holds mu, and the peer was heard.
func (p *Pipe) sendAgain() {
	if t := p.best.Load(); t != nil && t.validated.Load() {
		for _, d := range p.again.datagrams {
			if len(d) <= int(t.mtu.Load()) {
				p.out = append(p.out, outgoing{to: t, sealed: d})
			}
		}
	}
	p.again.datagrams = nil
}
