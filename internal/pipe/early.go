package pipe

// A first dial sends on a path that only checks have shown so far: a SYN fits
// what may be sent there before the peer has answered, a burst of datagrams
// that waited for the pipe does not. What goes beyond it waits here, as it was
// sealed, for the round trip that the answer takes.
const (
	earlyDatagrams = 64
	earlyBytes     = 256 << 10
)

// early is the datagrams that wait, the oldest first. The pipe's mu guards it.
type early struct {
	queue [][]byte
	bytes int
}

// wait keeps a copy of b, datagrams of seg bytes back to back, until the path
// in use is validated, and says whether it does. Beyond the bounds the oldest
// are dropped and counted.
func (p *Pipe) wait(b []byte, seg int) bool {
	p.mu.Lock()
	if p.state != stateUp {
		p.mu.Unlock()
		return false
	}
	e := &p.paths.early
	for len(b) > 0 {
		d := append([]byte(nil), b[:min(seg, len(b))]...)
		b = b[len(d):]
		e.queue, e.bytes = append(e.queue, d), e.bytes+len(d)
	}
	for len(e.queue) > earlyDatagrams || e.bytes > earlyBytes {
		e.bytes -= len(e.queue[0])
		e.queue[0] = nil
		e.queue = e.queue[1:]
		p.drops.count(DropNoPath)
	}
	out := p.takeEarly() // if the answer has come since
	p.mu.Unlock()        // not unlock: who sends may be inside the Handler
	for i := range out {
		p.write(&out[i])
	}
	return true
}

// takeEarly returns what waits once it may be sent. The caller holds mu.
func (p *Pipe) takeEarly() (out []outgoing) {
	t := p.paths.best.Load()
	if t == nil || !t.validated.Load() {
		return nil
	}
	for _, d := range p.paths.early.queue {
		out = append(out, outgoing{to: t, sealed: d})
	}
	p.paths.early = early{}
	return out
}

// dropEarly gives up what waits. The caller holds mu.
func (p *Pipe) dropEarly() {
	for range p.paths.early.queue {
		p.drops.count(DropNoPath)
	}
	p.paths.early = early{}
}
