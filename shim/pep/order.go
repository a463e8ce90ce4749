package pep

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
)

// A path that reorders datagrams looks to TCP like one that loses them: three
// segments after a missing one, and the sender halves its window. The pipe's
// packet counters tell the two apart: what fills a gap is late if its counter
// is below that of the packet that showed the gap, and sent again if above.
// So a segment that is ahead of its flow waits for the one before it, for as
// long as late ones take on this path, and not where none come late:
//
//	segment the flow expects ──► goes, and those held after it
//	SYN ──► the flow expects what comes after
//	one ahead, window 0 ──► goes; the gap is remembered
//	one ahead, window > 0 ──► held, at most for the window
//	a gap filled by a lower counter, late by t ──► window = 1.5 t and a little
//	16 gaps in a row filled by higher counters ──► window = 0
//
// A path begins with a window of 5 ms: the first datagram overtaken must not
// cost half of a window that grew for seconds, and 16 losses 5 ms late cost
// nothing beside that. A flow without a gap is never held up, whatever others
// of the pipe lack. RACK's reordering window adapts alike (RFC 8985 §6.2).
// What carries no payload is not held, but for a FIN where the peer's pipe repairs.
//
// A flow that holds something keeps its place among those that are watched; one
// that comes to a full slot takes the place of one that was quiet, and is not
// watched if none was.

const (
	orderSlots  = 16                    // by the hash of a flow
	orderWays   = 32                    // flows of a slot that are watched at once
	orderFirst  = 5 * time.Millisecond  // window of a path not known yet
	orderWindow = 20 * time.Millisecond // the longest that a segment is held
	orderSlack  = time.Millisecond      // scheduling, ours and the peer's
	orderLosses = 16                    // gaps in a row that were losses end the holding

	orderMax       = 2048     // segments held of a flow
	orderBytes     = 4 << 20  // bytes held of a flow
	orderPeerMax   = 16384    // segments held of all flows of a peer
	orderPeerBytes = 32 << 20 // bytes held of all flows of a peer
	orderNodeBytes = 64 << 20 // and of all peers, of which a peer leaves as much for others

	// Of a flow whose peer repairs: what a path holds in the time of a repair.
	repairedMax   = orderPeerMax
	repairedBytes = 16 << 20

	// No TCP sends so far beyond what it has not been told of.
	farBeyond = 64 << 20
)

// order is what is known of the order in which segments come in.
type order struct {
	window atomic.Int64                          // a time.Duration
	waits  atomic.Int64                          // the same, of a peer whose pipe repairs; 0: it does not
	losses atomic.Int32                          // gaps in a row that were losses
	ended  atomic.Bool                           // nothing is held any more
	n      atomic.Int64                          // segments held
	bytes  atomic.Int64                          // of these, payload
	all    *atomic.Int64                         // the same of all peers
	slots  [orderSlots]atomic.Pointer[orderSlot] // nil until used
}

// orderSlot has the flows of one hash that are watched. Finding one takes only
// the flow's own lock.
type orderSlot struct {
	mu    sync.Mutex                // held while a flow gets a place; taken before the flows' mu
	age   atomic.Uint32             // how many flows have looked for a place
	first atomic.Pointer[orderFlow] // up to orderWays, none is taken out
}

// Datagram is the one that brought a segment, as the pipe knows it.
type Datagram struct {
	Index   uint32 // names the key
	Counter uint32 // of the key's datagrams
	Again   bool   // the pipe has sent the segment before
}

// stamp is a datagram, and when it came.
type stamp struct {
	Datagram
	at time.Duration // since start
}

// orderFlow watches one flow. The zero value watches none.
type orderFlow struct {
	other  *orderFlow    // of the slot; does not change
	flow   atomic.Uint64 // inner.Flow.Word, 0: none; changes under mu, and to another than 0 also under the slot's mu
	firing sync.Mutex    // held by the timer's function, so that end can wait for it

	mu          sync.Mutex // guards what follows; taken after firing
	begun       bool       // next is known
	used        uint32     // the slot's age when it was seen last
	next        uint32     // sequence number after all that went up
	index, high uint32     // the key and the highest counter that brought something
	lacks       lacks
	gap         gap
	first, last *heldSegment // held, by sequence number
	n, bytes    int
	timer       *time.Timer
	armed       bool
}

// heldSegment is one that waits.
type heldSegment struct {
	after    *heldSegment
	seq, end uint32
	stamp
	h      inner.Header
	packet buffer.Buffer
}

var segmentPool = sync.Pool{New: func() any { return new(heldSegment) }}

// Repaired says how long a segment that the peer's pipe repairs may be missing, 0 that
// it repairs none. What is missing then always comes, and later than one that was
// overtaken: the stack is to know nothing of it, and of copies that were not needed.
func (p *Proxy) Repaired(waits time.Duration) {
	o := p.order.Load()
	if o == nil && waits == 0 {
		return
	}
	if o == nil {
		o = p.watchOrder()
	}
	if o.waits.Load() != int64(waits) {
		o.waits.Store(int64(waits))
	}
}

// holds is how long a segment is held at most.
func (o *order) holds() time.Duration {
	if w := o.waits.Load(); w > 0 {
		return time.Duration(w)
	}
	return time.Duration(o.window.Load())
}

// most is how much of a flow may be held.
func (o *order) most() (segments, bytes int) {
	if o.waits.Load() > 0 {
		return repairedMax, repairedBytes
	}
	return orderMax, orderBytes
}

// double says whether the stack has a segment already: it is a copy, or datagrams that
// left later have overtaken it, so that its copy came first. One that TCP itself sends
// again is not: TCP wants to be told once more what has come. Nor is one that comes
// after it was given up: the stack lacks it.
func (f *orderFlow) double(o *order, h *inner.Header, n int, from Datagram) bool {
	overtaken := from.Index == f.index && from.Counter < f.high
	if from.Index != f.index || !overtaken {
		f.index, f.high = from.Index, from.Counter
	}
	old := n > 0 && h.Flags&inner.FIN == 0 && int32(h.Seq+uint32(n)-f.lacks.sure(f.next)) <= 0
	return o.waits.Load() > 0 && old && (from.Again || overtaken)
}

// mayHold says whether a segment with n bytes that is ahead by so many may wait, and
// counts it as held.
func (f *orderFlow) mayHold(o *order, ahead, n int) bool {
	segments, bytes := o.most()
	return o.holds() > 0 && ahead < bytes && f.n < segments && f.bytes+n < bytes && o.take(n)
}

// watchOrder returns p's order, made if need be.
func (p *Proxy) watchOrder() *order {
	if o := p.order.Load(); o != nil {
		return o
	}
	o := &order{all: &p.count.bytes}
	o.window.Store(int64(orderFirst))
	p.order.CompareAndSwap(nil, o)
	return p.order.Load()
}

// slot is where flow has its place, nil if no flow of that hash has been watched.
func (o *order) slot(flow uint64) *atomic.Pointer[orderSlot] {
	return &o.slots[uint32(flow)*0x9e3779b1>>28]
}

// find returns what watches flow with its mu held, nil if nothing does.
func (o *order) find(flow uint64) *orderFlow {
	s := o.slot(flow).Load()
	if s == nil {
		return nil
	}
	for f := s.first.Load(); f != nil; f = f.other {
		if f.flow.Load() != flow {
			continue
		}
		f.mu.Lock()
		if f.flow.Load() == flow {
			f.used = s.age.Load()
			return f
		}
		f.mu.Unlock()
	}
	return nil
}

// watch returns what watches flow from now on with its mu held, nil if all places
// are taken by flows that hold something.
func (o *order) watch(flow uint64) *orderFlow {
	at := o.slot(flow)
	if at.Load() == nil {
		at.CompareAndSwap(nil, new(orderSlot))
	}
	s := at.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := o.find(flow); f != nil {
		return f // it came twice at once
	}
	s.age.Add(1)
	f := s.quiet()
	if f == nil {
		return nil
	}
	f.flow.Store(flow)
	f.begun, f.used, f.gap, f.lacks = false, s.age.Load(), gap{}, lacks{}
	return f
}

// quiet returns a place with its mu held: one that is free, a new one, or that of
// the flow that was seen least recently and holds nothing; nil if there is none.
// s.mu is held.
func (s *orderSlot) quiet() *orderFlow {
	n := 0
	var quiet *orderFlow // with its mu held
	var since uint32
	for f := s.first.Load(); f != nil; f = f.other {
		n++
		f.mu.Lock()
		age := s.age.Load() - f.used
		if f.flow.Load() == 0 {
			age = 1<<32 - 1
		}
		if f.first != nil || quiet != nil && age <= since {
			f.mu.Unlock()
			continue
		}
		if quiet != nil {
			quiet.mu.Unlock()
		}
		quiet, since = f, age
	}
	if n == orderWays || quiet != nil && quiet.flow.Load() == 0 {
		return quiet
	}
	if quiet != nil {
		quiet.mu.Unlock()
	}
	f := &orderFlow{other: s.first.Load()}
	f.mu.Lock()
	s.first.Store(f)
	return f
}

// Deliver gives the stack a TCP packet, b, with n bytes of payload, and what waited
// for it, or has it wait. It owns b; h is borrowed.
func (p *Proxy) Deliver(h *inner.Header, n int, from Datagram, b buffer.Buffer) {
	if n == 0 && h.Flags&(inner.SYN|inner.RST) == 0 {
		if h.Flags&inner.FIN != 0 && p.endOrder(h, from, b) {
			return
		}
		p.link.Deliver(h, b)
		return
	}
	o := p.watchOrder()
	flow, seq := h.Inbound().Word(), h.Seq
	resets := h.Flags&inner.RST != 0
	f := o.find(flow)
	if f == nil && !resets {
		f = o.watch(flow)
	}
	if f == nil {
		p.link.Deliver(h, b)
		return
	}
	var before, after *heldSegment
	held := false
	switch {
	case o.ended.Load():
	case resets:
		before = f.drain(o)
		f.flow.Store(0)
	case h.Flags&inner.SYN != 0:
		before = f.begins(o, seq+1+uint32(n))
	case !f.begun:
		f.begun, f.next = true, seq+uint32(n)
	default:
		ahead := int32(seq - f.next)
		if f.double(o, h, n, from) {
			f.mu.Unlock()
			b.Release()
			return
		}
		if ahead <= 0 {
			after = f.fill(o, seq, seq+uint32(n), stamp{Datagram: from})
			break
		}
		st := stamp{from, time.Since(start)}
		if held = f.mayHold(o, int(ahead), n); held {
			p.hold(o, f, h, st, n, b)
			break
		}
		before = f.drain(o)
		if int32(seq-f.next) > 0 {
			f.gap = gap{true, f.next, seq, st}
			f.lacks.begin(f.next, seq)
		}
		f.passed(seq + uint32(n))
	}
	if h.Flags&inner.FIN != 0 && !held {
		f.end(seq + uint32(n))
	}
	f.mu.Unlock()
	p.deliverAll(before)
	if !held {
		p.link.Deliver(h, b)
	}
	p.deliverAll(after)
}

// endOrder is told of a FIN without payload. Its flow gives its place back: else
// one who opens many short connections would have every place taken by one that
// is over, and each new flow looked for among all of them. One that what is repaired
// has yet to come before is held: gVisor forgets a FIN without payload that comes
// early, and the peer's TCP would have to time out to say it again.
func (p *Proxy) endOrder(h *inner.Header, from Datagram, b buffer.Buffer) (held bool) {
	o := p.order.Load()
	if o == nil {
		return false
	}
	f := o.find(h.Inbound().Word())
	if f == nil {
		return false
	}
	defer f.mu.Unlock()
	ahead := int32(h.Seq - f.next)
	if o.waits.Load() > 0 && f.begun && ahead > 0 && !o.ended.Load() && f.mayHold(o, int(ahead), 0) {
		p.hold(o, f, h, stamp{from, time.Since(start)}, 0, b)
		return true
	}
	f.end(h.Seq)
	return false
}

// end is told that the peer sends nothing after seq. The flow is not watched any
// more if all before that went up. f.mu is held.
func (f *orderFlow) end(seq uint32) {
	if f.first == nil && (!f.begun || f.next == seq) {
		f.flow.Store(0)
	}
}

// take counts a segment of n bytes as held if the peer's flows may hold as much, and
// those of all peers.
func (o *order) take(n int) bool {
	segments, bytes := o.n.Add(1), o.bytes.Add(int64(n))
	all := o.all.Add(int64(n))
	if segments <= orderPeerMax && bytes <= orderPeerBytes && bytes <= orderNodeBytes-all {
		return true
	}
	o.give(1, n)
	return false
}

// give is told of what is not held any more.
func (o *order) give(segments, bytes int) {
	o.n.Add(-int64(segments))
	o.bytes.Add(-int64(bytes))
	o.all.Add(-int64(bytes))
}

// fill takes a segment that does not leave a gap, learns from it if it closes
// one, and returns what may follow it.
func (f *orderFlow) fill(o *order, seq, end uint32, st stamp) *heldSegment {
	switch {
	case f.first != nil && int32(end-f.next) > 0:
		o.learn(f.first.stamp, st)
	case f.gap.open && int32(seq-f.gap.from) >= 0 && int32(f.gap.to-seq) > 0:
		o.learn(f.gap.shown, st)
		f.gap.open = false
	}
	f.lacks.fill(seq, end)
	f.passed(end)
	return f.pop(o)
}

// begins is told of a SYN: next is what comes first. If that is lost and what follows
// is not, nobody else knows that something is missing, and a sender that is told of it
// has a window of half of what it began with. It returns what was held, of another
// connection; nothing begins with a copy of a SYN. f.mu is held.
func (f *orderFlow) begins(o *order, next uint32) (before *heldSegment) {
	if since := int32(f.next - next); f.begun && since >= 0 && since < farBeyond {
		return nil
	}
	before = f.drain(o)
	f.begun, f.next, f.gap, f.lacks = true, next, gap{}, lacks{}
	return before
}

// passed is told of the end of a segment that goes up. f.mu is held.
func (f *orderFlow) passed(end uint32) {
	if int32(end-f.next) > 0 {
		f.next = end
	}
}

// learn adapts the window to a gap that shown had left and filler closes.
func (o *order) learn(shown, filler stamp) {
	if o.waits.Load() > 0 {
		return // what fills it is a copy
	}
	if filler.Index != shown.Index || int32(filler.Counter-shown.Counter) > 0 {
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
func (p *Proxy) hold(o *order, f *orderFlow, h *inner.Header, st stamp, n int, b buffer.Buffer) {
	seq := h.Seq
	e := segmentPool.Get().(*heldSegment)
	*e = heldSegment{seq: seq, end: seq + uint32(n), stamp: st, h: *h, packet: b}
	f.n++
	f.bytes += n
	p.count.Held.Add(1)
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
	f.arm(p, o, o.holds())
}

// arm has the timer come after d if it is not to come anyway. f.mu is held.
func (f *orderFlow) arm(p *Proxy, o *order, d time.Duration) {
	if f.armed {
		return
	}
	f.armed = true
	if f.timer == nil {
		f.timer = time.AfterFunc(d, func() { p.orderTimeout(o, f) })
		return
	}
	f.timer.Reset(d)
}

// pop takes what is held up to the next gap out of f. f.mu is held.
func (f *orderFlow) pop(o *order) *heldSegment {
	chain, n, bytes := f.first, f.n, f.bytes
	var end *heldSegment
	for e := f.first; e != nil && int32(e.seq-f.next) <= 0; e = e.after {
		f.passed(e.end)
		f.n--
		f.bytes -= int(e.end - e.seq)
		end = e
	}
	if end == nil {
		return nil
	}
	o.give(n-f.n, bytes-f.bytes)
	f.first, end.after = end.after, nil
	if f.first == nil {
		f.last = nil
	}
	return chain
}

// drain takes all that is held out of f. f.mu is held.
func (f *orderFlow) drain(o *order) *heldSegment {
	chain := f.first
	if chain != nil {
		f.lacks.begin(f.next, f.last.seq)
	}
	for e := chain; e != nil; e = e.after { // the last need not end last
		f.passed(e.end)
	}
	o.give(f.n, f.bytes)
	f.first, f.last, f.n, f.bytes = nil, nil, 0, 0
	return chain
}

// orderTimeout gives up the gap that has lasted for the window, and lets go
// what is held after it. The timer is not set anew for each segment: if it is
// early for the first one it comes again. Where nothing has come in just now,
// what lacks may stand in the socket's buffer while the machine is busy with
// others; then it gets as much time again.
func (p *Proxy) orderTimeout(o *order, f *orderFlow) {
	f.firing.Lock()
	defer f.firing.Unlock()
	window := o.holds()
	f.mu.Lock()
	f.armed = false
	var chain *heldSegment
	if f.first != nil {
		now := time.Since(start)
		switch left := f.first.at + window - now; {
		case left > 0:
			f.arm(p, o, left)
		case now-f.last.at > orderSlack && left+window > 0:
			f.arm(p, o, orderSlack)
		default:
			p.count.GivenUp.Add(1)
			f.gap = gap{true, f.next, f.first.seq, f.first.stamp}
			f.lacks.begin(f.next, f.first.seq)
			f.next = f.first.seq
			chain = f.pop(o)
			if f.first != nil {
				f.arm(p, o, max(f.first.at+window-time.Since(start), 0))
			}
		}
	}
	f.mu.Unlock()
	p.deliverAll(chain)
}

// deliverAll gives the stack a chain of segments.
func (p *Proxy) deliverAll(e *heldSegment) {
	for e != nil {
		after := e.after
		p.link.Deliver(&e.h, e.packet)
		*e = heldSegment{}
		segmentPool.Put(e)
		e = after
	}
}

// End lets go the segments that p still holds, and waits for its timers. None
// is held from then on.
func (p *Proxy) End() {
	if o := p.order.Load(); o != nil {
		o.ended.Store(true)
		p.LetGo()
	}
}

// LetGo gives the stack the segments that are held: those before them will not
// come any more. It waits for the timers that do so.
func (p *Proxy) LetGo() {
	o := p.order.Load()
	if o == nil {
		return
	}
	for i := range o.slots {
		s := o.slots[i].Load()
		if s == nil {
			continue
		}
		for f := s.first.Load(); f != nil; f = f.other {
			f.firing.Lock()
			f.mu.Lock()
			chain := f.drain(o)
			if f.timer != nil {
				f.timer.Stop()
			}
			f.armed = false
			f.mu.Unlock()
			f.firing.Unlock()
			p.deliverAll(chain)
		}
	}
}
