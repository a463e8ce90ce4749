package shim

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
)

// A path that reorders datagrams looks to TCP like one that loses them: three
// segments after a missing one, and the sender halves its window. The pipe's
// packet counters tell the two apart: what fills a gap is late if its counter
// is below that of the packet that showed the gap, and sent again if above.
// So a segment that is ahead of its flow waits for the one before it, for as
// long as late ones take on this path, and not where none come late:
//
//	segment the flow expects ──► goes, and those held after it
//	one ahead, window 0 ──► goes; the gap is remembered
//	one ahead, window > 0 ──► held, at most for the window
//	a gap filled by a lower counter, late by t ──► window = 1.5 t and a little
//	16 gaps in a row filled by higher counters ──► window = 0
//
// A path begins with a window of 5 ms: the first datagram overtaken must not
// cost half of a window that grew for seconds, and 16 losses 5 ms late cost
// nothing beside that. A flow without a gap is never held up, whatever others
// of the pipe lack. RACK's reordering window adapts alike (RFC 8985 §6.2).
// What carries no payload is not held.

const (
	orderSlots  = 8                     // flows of a peer that are watched at once
	orderFirst  = 5 * time.Millisecond  // window of a path not known yet
	orderWindow = 20 * time.Millisecond // the longest that a segment is held
	orderSlack  = time.Millisecond      // scheduling, ours and the peer's
	orderLosses = 16                    // gaps in a row that were losses end the holding
	orderMax    = 2048                  // segments held of a flow
	orderBytes  = 4 << 20               // bytes held of a flow
)

// order is what a mapping knows of the order in which segments come in.
type order struct {
	window atomic.Int64                          // a time.Duration
	losses atomic.Int32                          // gaps in a row that were losses
	ended  atomic.Bool                           // nothing is held any more
	flows  [orderSlots]atomic.Pointer[orderFlow] // nil until used
}

// stamp is a datagram as the pipe knows it, and when it came.
type stamp struct {
	index, counter uint32
	at             time.Duration // since start
}

// gap is what a flow lacked when what came at its end went up.
type gap struct {
	open     bool
	from, to uint32 // sequence numbers
	shown    stamp  // of the segment after it
}

// orderFlow watches one flow. The zero value watches none.
type orderFlow struct {
	firing sync.Mutex // held by the timer's function, so that end can wait for it

	mu          sync.Mutex // guards what follows; taken after firing
	flow        uint64
	next        uint32 // sequence number after all that went up
	gap         gap
	first, last *early // held, by sequence number
	n, bytes    int
	timer       *time.Timer
	armed       bool
}

// early is a segment that is held.
type early struct {
	after    *early
	seq, end uint32
	stamp
	v6     bool
	packet buffer.Buffer
}

var earlyPool = sync.Pool{New: func() any { return new(early) }}

// watchOrder returns m's order, made if need be.
func (m *mapping) watchOrder() *order {
	if o := m.order.Load(); o != nil {
		return o
	}
	o := new(order)
	o.window.Store(int64(orderFirst))
	m.order.CompareAndSwap(nil, o)
	return m.order.Load()
}

// slot returns where flow is watched, made if need be.
func (o *order) slot(flow uint64) *orderFlow {
	p := &o.flows[uint32(flow)*0x9e3779b1>>29]
	if f := p.Load(); f != nil {
		return f
	}
	p.CompareAndSwap(nil, new(orderFlow))
	return p.Load()
}

// deliverInOrder gives the stack a TCP packet, k, as b, and what waited for it,
// or has it wait.
func (s *Shim) deliverInOrder(u Upper, m *mapping, v6 bool, index uint32, k *packet, b buffer.Buffer) {
	o := m.watchOrder()
	th := k.head[:k.hl]
	flow := ackFlow(v6, binary.BigEndian.Uint16(th[0:]), binary.BigEndian.Uint16(th[2:]))
	f := o.slot(flow)
	seq := binary.BigEndian.Uint32(th[4:])
	f.mu.Lock()
	var before, after *early
	held := false
	switch {
	case o.ended.Load():
	case th[13]&(flagSYN|flagRST) != 0:
		if f.flow == flow {
			before = f.drain()
			f.flow = 0
		}
	case k.n == 0:
	case f.flow != flow:
		before = f.drain()
		f.flow, f.next, f.gap = flow, seq+uint32(k.n), gap{}
	default:
		ahead := int32(seq - f.next)
		if ahead <= 0 {
			after = f.fill(o, seq, seq+uint32(k.n), stamp{index: index, counter: k.counter})
			break
		}
		st := stamp{index, k.counter, time.Since(start)}
		if o.window.Load() > 0 && ahead < orderBytes && f.n < orderMax && f.bytes+k.n < orderBytes {
			held = true
			s.hold(o, f, seq, st, k.n, v6, b)
			break
		}
		before = f.drain()
		if int32(seq-f.next) > 0 {
			f.gap = gap{true, f.next, seq, st}
		}
		f.next = seq + uint32(k.n)
	}
	f.mu.Unlock()
	s.deliverHeld(u, before)
	if !held {
		s.count.in.Add(1)
		u.Deliver(v6, b)
	}
	s.deliverHeld(u, after)
}

// fill takes a segment that does not leave a gap, learns from it if it closes
// one, and returns what may follow it.
func (f *orderFlow) fill(o *order, seq, end uint32, st stamp) *early {
	switch {
	case f.first != nil && int32(end-f.next) > 0:
		o.learn(f.first.stamp, st)
	case f.gap.open && int32(seq-f.gap.from) >= 0 && int32(f.gap.to-seq) > 0:
		o.learn(f.gap.shown, st)
		f.gap.open = false
	}
	if int32(end-f.next) > 0 {
		f.next = end
	}
	return f.pop()
}

// learn adapts the window to a gap that shown had left and filler closes.
func (o *order) learn(shown, filler stamp) {
	if filler.index != shown.index || int32(filler.counter-shown.counter) > 0 {
		if o.losses.Add(1) >= orderLosses {
			o.losses.Store(0)
			o.window.Store(0)
		}
		return
	}
	late := time.Since(start) - shown.at
	if late > orderWindow {
		return // holding would not have helped
	}
	o.losses.Store(0)
	was := time.Duration(o.window.Load())
	want := min(late+late/2+orderSlack, orderWindow)
	if want < was {
		want = was - (was-want)/16
	}
	o.window.Store(int64(want))
}

// hold keeps b, which is n bytes of payload ahead of its flow. f.mu is held.
func (s *Shim) hold(o *order, f *orderFlow, seq uint32, st stamp, n int, v6 bool, b buffer.Buffer) {
	e := earlyPool.Get().(*early)
	*e = early{seq: seq, end: seq + uint32(n), stamp: st, v6: v6, packet: b}
	f.n++
	f.bytes += n
	s.count.held.Add(1)
	switch {
	case f.first == nil:
		f.first, f.last = e, e
	case int32(seq-f.last.seq) >= 0:
		f.last.after = e
		f.last = e
	default:
		at := &f.first
		for int32((*at).seq-seq) <= 0 {
			at = &(*at).after
		}
		e.after, *at = *at, e
	}
	f.arm(s, o, time.Duration(o.window.Load()))
}

// arm has the timer come after d if it is not to come anyway. f.mu is held.
func (f *orderFlow) arm(s *Shim, o *order, d time.Duration) {
	if f.armed {
		return
	}
	f.armed = true
	if f.timer == nil {
		f.timer = time.AfterFunc(d, func() { s.orderTimeout(o, f) })
		return
	}
	f.timer.Reset(d)
}

// pop takes what is held up to the next gap out of f. f.mu is held.
func (f *orderFlow) pop() *early {
	chain := f.first
	var end *early
	for e := f.first; e != nil && int32(e.seq-f.next) <= 0; e = e.after {
		if int32(e.end-f.next) > 0 {
			f.next = e.end
		}
		f.n--
		f.bytes -= int(e.end - e.seq)
		end = e
	}
	if end == nil {
		return nil
	}
	f.first, end.after = end.after, nil
	if f.first == nil {
		f.last = nil
	}
	return chain
}

// drain takes all that is held out of f. f.mu is held.
func (f *orderFlow) drain() *early {
	chain := f.first
	if chain != nil && int32(f.last.end-f.next) > 0 {
		f.next = f.last.end
	}
	f.first, f.last, f.n, f.bytes = nil, nil, 0, 0
	return chain
}

// orderTimeout gives up the gap that has lasted for the window, and lets go
// what is held after it. The timer is not set anew for each segment: if it is
// early for the first one it comes again. Where nothing has come in just now,
// what lacks may stand in the socket's buffer while the machine is busy with
// others; then it gets as much time again.
func (s *Shim) orderTimeout(o *order, f *orderFlow) {
	f.firing.Lock()
	defer f.firing.Unlock()
	window := time.Duration(o.window.Load())
	f.mu.Lock()
	f.armed = false
	var chain *early
	if f.first != nil {
		now := time.Since(start)
		switch left := f.first.at + window - now; {
		case left > 0:
			f.arm(s, o, left)
		case now-f.last.at > orderSlack && left+window > 0:
			f.arm(s, o, orderSlack)
		default:
			s.count.givenUp.Add(1)
			f.gap = gap{true, f.next, f.first.seq, f.first.stamp}
			f.next = f.first.seq
			chain = f.pop()
			if f.first != nil {
				f.arm(s, o, max(f.first.at+window-time.Since(start), 0))
			}
		}
	}
	f.mu.Unlock()
	if u := s.upper.Load(); u != nil {
		s.deliverHeld(*u, chain)
	} else {
		s.deliverHeld(nil, chain)
	}
}

// deliverHeld gives the stack a chain of segments; a nil u drops them.
func (s *Shim) deliverHeld(u Upper, e *early) {
	for e != nil {
		after := e.after
		if u != nil {
			s.count.in.Add(1)
			u.Deliver(e.v6, e.packet)
		} else {
			s.count.drop(DropInNoUpper)
			e.packet.Release()
		}
		*e = early{}
		earlyPool.Put(e)
		e = after
	}
}

// endOrder lets go what the mapping still holds, and waits for its timers.
// Nothing is held from then on.
func (s *Shim) endOrder(m *mapping) {
	o := m.order.Load()
	if o == nil {
		return
	}
	o.ended.Store(true)
	for i := range o.flows {
		f := o.flows[i].Load()
		if f == nil {
			continue
		}
		f.firing.Lock()
		f.mu.Lock()
		chain := f.drain()
		if f.timer != nil {
			f.timer.Stop()
		}
		f.mu.Unlock()
		f.firing.Unlock()
		var u Upper
		if up := s.upper.Load(); up != nil {
			u = *up
		}
		s.deliverHeld(u, chain)
	}
}
