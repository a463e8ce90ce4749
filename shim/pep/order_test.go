package pep

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

// orderRig is a stack: what goes up is noted by its sequence number.
type orderRig struct {
	nowhere
	p     Proxy
	count Counters
	h     inner.Header // of what comes in

	mu sync.Mutex // guards up
	up []uint32
}

func (r *orderRig) Deliver(h *inner.Header, b buffer.Buffer) {
	r.mu.Lock()
	r.up = append(r.up, h.Seq)
	r.mu.Unlock()
	b.Release()
}

func newOrderRig() *orderRig {
	r := new(orderRig)
	r.p.Init(r, &r.count)
	return r
}

// seg is a segment of a flow as a datagram brought it.
type seg struct {
	seq, counter uint32
	n            int
	flags        byte
	port         uint16
	index        uint32
	again        bool
}

func (r *orderRig) in(g seg) {
	r.h = inner.Header{Src: peer4, Dst: self4, Protocol: inner.TCP, Ports: true, SrcPort: 1000 + g.port, DstPort: 80,
		TCPLen: inner.TCPLen, Flags: inner.ACK | g.flags, Seq: g.seq}
	b := buffer.MakeWithView(buffer.NewViewSize(inner.IPv4Len + inner.TCPLen + g.n))
	r.p.Deliver(&r.h, g.n, Datagram{Index: g.index, Counter: g.counter, Again: g.again}, b)
}

// take returns what went up since it was called last.
func (r *orderRig) take() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	up := r.up
	r.up = nil
	return up
}

// data is segment i of a flow, 100 bytes each, with its own counter.
func data(i uint32) seg { return seg{seq: i * 100, counter: i, n: 100} }

// again is segment i sent again, with a counter above all others.
func again(i uint32) seg { return seg{seq: i * 100, counter: 1000 + i, n: 100} }

func TestOrder(t *testing.T) {
	type step struct {
		in seg
		up []uint32 // what goes up at once
	}
	other := seg{seq: 7000, counter: 50, n: 100, port: 9}
	moved := seg{seq: 200, counter: 9, n: 100, index: 1}
	late := seg{seq: 200, counter: 2, n: 50}
	top := func(back uint32) seg { return seg{seq: -back, counter: 400 - back, n: 100} }
	for what, c := range map[string]struct {
		steps []step
		rest  []uint32 // what goes up when time passes
	}{
		"in order":           {[]step{{data(1), []uint32{100}}, {data(2), []uint32{200}}, {data(3), []uint32{300}}}, nil},
		"one overtaken":      {[]step{{data(1), []uint32{100}}, {data(3), nil}, {data(2), []uint32{200, 300}}}, nil},
		"held in disorder":   {[]step{{data(1), []uint32{100}}, {data(4), nil}, {data(3), nil}, {data(5), nil}, {data(2), []uint32{200, 300, 400, 500}}}, nil},
		"two gaps":           {[]step{{data(1), []uint32{100}}, {data(3), nil}, {data(5), nil}, {data(2), []uint32{200, 300}}, {data(4), []uint32{400, 500}}}, nil},
		"lost":               {[]step{{data(1), []uint32{100}}, {data(3), nil}, {data(4), nil}}, []uint32{300, 400}},
		"two lost":           {[]step{{data(1), []uint32{100}}, {data(3), nil}, {data(5), nil}}, []uint32{300, 500}},
		"sent again":         {[]step{{data(1), []uint32{100}}, {data(3), nil}, {again(2), []uint32{200, 300}}}, nil},
		"an old duplicate":   {[]step{{data(1), []uint32{100}}, {data(2), []uint32{200}}, {again(1), []uint32{100}}, {data(3), []uint32{300}}}, nil},
		"half of what lacks": {[]step{{data(1), []uint32{100}}, {data(3), nil}, {late, []uint32{200}}}, []uint32{300}},
		"other flows go":     {[]step{{data(1), []uint32{100}}, {data(3), nil}, {other, []uint32{7000}}, {data(2), []uint32{200, 300}}}, nil},
		"other keys":         {[]step{{data(1), []uint32{100}}, {data(3), nil}, {moved, []uint32{200, 300}}}, nil},
		"a SYN ends it":      {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 699, counter: 8, flags: inner.SYN}, []uint32{300, 699}}, {data(7), []uint32{700}}}, nil},
		"it begins":          {[]step{{seg{seq: 99, flags: inner.SYN}, []uint32{99}}, {data(2), nil}, {data(1), []uint32{100, 200}}}, nil},
		"the first is lost":  {[]step{{seg{seq: 99, flags: inner.SYN}, []uint32{99}}, {data(2), nil}, {data(3), nil}}, []uint32{200, 300}},
		"a SYN comes again":  {[]step{{seg{seq: 99, flags: inner.SYN}, []uint32{99}}, {data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 99, counter: 4, flags: inner.SYN}, []uint32{99}}, {data(2), []uint32{200, 300}}}, nil},
		"a reset ends it":    {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 9, counter: 8, flags: inner.RST}, []uint32{300, 9}}}, nil},
		"no payload":         {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 400, counter: 4}, []uint32{400}}}, []uint32{300}},
		"far ahead":          {[]step{{data(1), []uint32{100}}, {seg{seq: 200 + orderBytes, counter: 3, n: 100}, []uint32{200 + orderBytes}}}, nil},
		"numbers wrap":       {[]step{{top(200), []uint32{1<<32 - 200}}, {seg{seq: 0, counter: 400, n: 100}, nil}, {top(100), []uint32{1<<32 - 100, 0}}}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newOrderRig()
				for i, st := range c.steps {
					r.in(st.in)
					if got := r.take(); !slices.Equal(got, st.up) {
						t.Fatalf("step %d: up %v, want %v", i, got, st.up)
					}
				}
				begin := time.Now()
				time.Sleep(2 * orderWindow)
				synctest.Wait()
				if got := r.take(); !slices.Equal(got, c.rest) {
					t.Errorf("after %v: up %v, want %v", time.Since(begin), got, c.rest)
				}
				r.p.End()
			})
		})
	}
}

// The window follows how late datagrams come, and ends where they are lost.
func TestOrderWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		window := func() time.Duration { return time.Duration(r.p.watchOrder().window.Load()) }
		next := uint32(1)
		r.in(data(next))
		// swap has the second segment come after the third, d later.
		swap := func(d time.Duration, fill func(uint32) seg) (held bool) {
			r.take()
			r.in(data(next + 2))
			held = len(r.take()) == 0
			time.Sleep(d)
			synctest.Wait()
			r.in(fill(next + 1))
			next += 2
			return held
		}
		if window() != orderFirst {
			t.Errorf("first window %v", window())
		}
		swap(2*time.Millisecond, data)
		if w := window(); w < 3*time.Millisecond || w >= orderFirst {
			t.Errorf("window %v after one late by 2 ms: want towards 4 ms", w)
		}
		swap(12*time.Millisecond, data) // longer than the window, yet it is learnt
		if w := window(); w < 18*time.Millisecond || w > orderWindow {
			t.Errorf("window %v after one late by 12 ms", w)
		}
		was := window()
		swap(3*orderWindow, data)
		if window() != was {
			t.Errorf("window %v after one later than can be waited for, %v before", window(), was)
		}
		for i := range orderLosses {
			if held := swap(50*time.Millisecond, again); !held {
				t.Fatalf("gap %d was not held", i)
			}
		}
		if window() != 0 {
			t.Errorf("window %v after %d losses", window(), orderLosses)
		}
		if swap(time.Millisecond, again) {
			t.Error("held on a path that loses")
		}
		if swap(4*time.Millisecond, data) {
			t.Error("held on a path that loses")
		}
		if w := window(); w != 4*time.Millisecond*3/2+orderSlack {
			t.Errorf("window %v after one late by 4 ms", w)
		}
		if !swap(time.Millisecond, data) {
			t.Error("not held on a path that reorders")
		}
		r.p.End()
	})
}

// What is held goes up when it is known that nothing else will come, and what comes
// then may be held again.
func TestOrderLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		r.p.LetGo()
		at := func(i int) seg { return seg{seq: uint32(i * 100), counter: uint32(i), n: 100} }
		for _, i := range []int{0, 2, 4} {
			r.in(at(i))
		}
		if got := r.take(); !slices.Equal(got, []uint32{0}) {
			t.Fatalf("up %v", got)
		}
		r.p.LetGo()
		if got := r.take(); !slices.Equal(got, []uint32{200, 400}) {
			t.Errorf("up %v when they were let go", got)
		}
		r.in(at(6))
		if got := r.take(); len(got) != 0 {
			t.Errorf("up %v, of one that is ahead", got)
		}
		time.Sleep(2 * orderWindow)
		synctest.Wait()
		if got := r.take(); !slices.Equal(got, []uint32{600}) {
			t.Errorf("up %v after a while", got)
		}
		r.p.End()
	})
}

// What a flow can have held is bounded, and nothing of it is lost.
func TestOrderLimits(t *testing.T) {
	for _, n := range []int{1, 5000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newOrderRig()
				at := func(i int) seg { return seg{seq: uint32(i * n), counter: uint32(i), n: n} }
				r.in(at(0))
				r.take()
				most := min(orderMax, (orderBytes-1)/n)
				f, sent := r.p.watchOrder().find(word(80, 1000)), 0
				f.mu.Unlock()
				var up []uint32
				for ; len(up) == 0; up = r.take() {
					r.in(at(sent + 2))
					sent++
					if f.n > orderMax || f.bytes > orderBytes {
						t.Fatalf("%d segments, %d bytes held", f.n, f.bytes)
					}
				}
				if sent < most/2 || len(up) != sent {
					t.Errorf("%d of %d segments went up when no more could be held", len(up), sent)
				}
				r.p.End()
			})
		})
	}
}

// No number of flows that lack a segment each has one of them let go what another
// has held, and one that is quiet does not stand in the way of one that is not.
func TestOrderManyFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		flow := func(i, n int) seg { return seg{seq: uint32(n * 100), counter: uint32(n), n: 100, port: uint16(i)} }
		for round := range 40 { // more flows than can be watched, in turn
			const crowd = 100
			for _, n := range []int{1, 3} {
				for i := range crowd {
					r.in(flow(round*crowd+i, n))
				}
			}
			if got := r.take(); len(got) != crowd || slices.Max(got) != 100 {
				t.Fatalf("round %d: %d segments went up with one missing before them", round, len(got)-crowd)
			}
			for i := range crowd {
				r.in(flow(round*crowd+i, 2))
				if got := r.take(); !slices.Equal(got, []uint32{200, 300}) {
					t.Fatalf("round %d, flow %d: up %v", round, i, got)
				}
			}
		}
		n := 0
		for i := range r.p.watchOrder().slots {
			s := r.p.watchOrder().slots[i].Load()
			if s == nil {
				continue
			}
			for f := s.first.Load(); f != nil; f = f.other {
				n++
			}
		}
		if n > orderSlots*orderWays {
			t.Errorf("%d flows are watched, at most %d should be", n, orderSlots*orderWays)
		}
		r.p.End()
	})
}

// A connection that is over gives its place back: short ones that follow each
// other take one place. One that lacks something keeps it.
func TestOrderOfShortConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		places := func() (n int) {
			o := r.p.watchOrder()
			for i := range o.slots {
				s := o.slots[i].Load()
				if s == nil {
					continue
				}
				for f := s.first.Load(); f != nil; f = f.other {
					n++
				}
			}
			return n
		}
		const conns = 1000
		for i := range uint16(conns) {
			fin := seg{seq: 200, counter: 2, flags: inner.FIN, port: i}
			if i%2 == 0 { // its FIN has the last payload with it
				fin.n = 100
			}
			r.in(seg{seq: 100, counter: 1, n: 100, port: i})
			r.in(fin)
		}
		if got := len(r.take()); got != 2*conns {
			t.Errorf("%d segments went up, want %d", got, 2*conns)
		}
		if got := places(); got > orderSlots {
			t.Errorf("%d flows in turn take %d places", conns, got)
		}

		r.in(data(1))
		r.in(data(3))
		r.in(seg{seq: 400, counter: 4, flags: inner.FIN})
		if got := r.take(); !slices.Equal(got, []uint32{100, 400}) {
			t.Errorf("up %v before what is missing", got)
		}
		r.in(data(2))
		if got := r.take(); !slices.Equal(got, []uint32{200, 300}) {
			t.Errorf("up %v after it: a FIN took the flow's place away", got)
		}
		r.p.End()
	})
}

// A flow that finds all places of its slot taken by flows with something held is
// not watched, and has none of them drained.
func TestOrderSlotFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		o := r.p.watchOrder()
		var ports []uint16 // of one slot
		for i := uint16(0); len(ports) <= orderWays; i++ {
			if o.slot(word(80, 1000+i)) == o.slot(word(80, 1000)) {
				ports = append(ports, i)
			}
		}
		for _, port := range ports {
			for _, n := range []uint32{1, 3} {
				r.in(seg{seq: n * 100, counter: n, n: 100, port: port})
			}
		}
		want := make([]uint32, orderWays, orderWays+2)
		for i := range want {
			want[i] = 100
		}
		if got := r.take(); !slices.Equal(got, append(want, 100, 300)) {
			t.Errorf("up %v", got)
		}
		r.p.End()
	})
}

// Nothing waits for what has come, also where some of that was within what is
// held, or came when no more could be.
func TestOrderNextStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		r.in(data(1))
		r.in(seg{seq: 300, counter: 3, n: 300})
		r.in(seg{seq: 400, counter: 4, n: 100})
		r.p.LetGo()
		r.take()
		r.in(seg{seq: 600, counter: 5, n: 100})
		if got := r.take(); !slices.Equal(got, []uint32{600}) {
			t.Errorf("up %v behind one that holds another", got)
		}
		r.in(data(8))
		r.in(data(9))
		o := r.p.watchOrder()
		o.n.Add(orderPeerMax)
		r.in(seg{seq: 750, counter: 7, n: 50})
		o.n.Add(-orderPeerMax)
		r.take()
		r.in(data(10))
		if got := r.take(); !slices.Equal(got, []uint32{1000}) {
			t.Errorf("up %v behind what was let go at the limit", got)
		}
		r.p.End()
	})
}

// What all flows of a peer can have held together is bounded.
func TestOrderPeerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60000
		r := newOrderRig()
		o := r.p.watchOrder()
		most := int64(0)
		for i := range uint32(20) { // 64 flows, each of which may hold three times its share
			for port := range uint16(64) {
				r.in(seg{seq: (2*i + 1) * n, counter: i, n: n, port: port})
				most = max(most, o.bytes.Load())
			}
		}
		if most > orderPeerBytes || most <= orderPeerBytes-n {
			t.Errorf("%d bytes are held at most, of %d", most, orderPeerBytes)
		}
		r.p.End()
		if b, k := o.bytes.Load(), o.n.Load(); b != 0 || k != 0 {
			t.Errorf("%d bytes, %d segments counted when none are held", b, k)
		}
	})
}

// What all peers of a node can have held together is bounded, and however many take
// what they can, there is room for one more.
func TestOrderNodeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60000
		var count Counters
		rigs := make([]*orderRig, 8)
		for k := range rigs {
			r := new(orderRig)
			r.p.Init(r, &count)
			rigs[k] = r
			for i := range uint32(20) {
				for port := range uint16(64) {
					r.in(seg{seq: (2*i + 1) * n, counter: i, n: n, port: port})
					if held := count.bytes.Load(); held > orderNodeBytes {
						t.Fatalf("%d bytes are held, of %d", held, orderNodeBytes)
					}
				}
			}
			if k < 4 && r.p.order.Load().bytes.Load() == 0 {
				t.Errorf("peer %d finds no room, %d bytes are held", k, count.bytes.Load())
			}
		}
		for _, r := range rigs {
			r.p.End()
		}
		if b := count.bytes.Load(); b != 0 {
			t.Errorf("%d bytes counted when none are held", b)
		}
	})
}

// What is held when the pipe goes down, goes up; nothing is held after that.
func TestOrderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		r.in(data(1))
		r.in(data(3))
		r.take()
		r.p.End()
		r.in(data(5))
		if got := r.take(); !slices.Equal(got, []uint32{300, 500}) {
			t.Errorf("up %v", got)
		}
		if n := r.count.Held.Load(); n != 1 {
			t.Errorf("%d counted as held", n)
		}
	})
}

func TestOrderNoAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes pools forget")
	}
	r := newOrderRig()
	i := uint32(1)
	r.in(data(i))
	n := yardstick.Allocs(1000, func() {
		r.mu.Lock()
		r.up = r.up[:0]
		r.mu.Unlock()
		r.in(data(i + 2))
		r.in(data(i + 1))
		r.in(data(i + 3))
		i += 3
	})
	if n >= 1 {
		t.Errorf("%v allocations for two segments swapped and one in order", n)
	}
	r.p.End()
}
