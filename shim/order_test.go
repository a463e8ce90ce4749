package shim

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
)

// orderRig is a shim without pipes: segments are put in where a run has been
// opened, and what goes up is noted by its sequence number.
type orderRig struct {
	s *Shim
	m *mapping

	mu sync.Mutex // guards up
	up []uint32
}

func (r *orderRig) Deliver(_ bool, b buffer.Buffer) {
	var h [ipv4Len + tcpMinLen]byte
	_, _ = b.ReadAt(h[:], 0)
	r.mu.Lock()
	r.up = append(r.up, binary.BigEndian.Uint32(h[ipv4Len+4:]))
	r.mu.Unlock()
	b.Release()
}

func newOrderRig() *orderRig {
	r := &orderRig{s: new(Shim), m: new(mapping)}
	r.s.Attach(r)
	return r
}

var (
	orderSrc = netip.MustParseAddr("198.18.0.2")
	orderDst = netip.MustParseAddr("198.18.0.1")
)

// seg is a segment of a flow as a datagram brought it.
type seg struct {
	seq, counter uint32
	n            int
	flags        byte
	port         uint16
	index        uint32
}

func (r *orderRig) in(g seg) {
	k := &packet{next: protoTCP, hl: tcpMinLen, n: g.n, counter: g.counter}
	binary.BigEndian.PutUint16(k.head[:], 1000+g.port)
	binary.BigEndian.PutUint16(k.head[2:], 80)
	binary.BigEndian.PutUint32(k.head[4:], g.seq)
	k.head[12], k.head[13] = tcpMinLen/4<<4, flagACK|g.flags
	view := buffer.NewViewSize(g.n)
	r.s.deliver(r, r.m, g.index, k, false, orderSrc, orderDst, view)
	view.Release()
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
		"a SYN ends it":      {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 9, counter: 8, flags: flagSYN}, []uint32{300, 9}}, {data(7), []uint32{700}}}, nil},
		"a reset ends it":    {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 9, counter: 8, flags: flagRST}, []uint32{300, 9}}}, nil},
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
				r.s.endOrder(r.m)
			})
		})
	}
}

// The window follows how late datagrams come, and ends where they are lost.
func TestOrderWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		window := func() time.Duration { return time.Duration(r.m.watchOrder().window.Load()) }
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
		r.s.endOrder(r.m)
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
				f, sent := r.m.watchOrder().slot(ackFlow(false, 1000, 80)), 0
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
				r.s.endOrder(r.m)
			})
		})
	}
}

// What is held when the pipe goes down, goes up; nothing is held after that.
func TestOrderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newOrderRig()
		r.in(data(1))
		r.in(data(3))
		r.take()
		r.s.endOrder(r.m)
		r.in(data(5))
		if got := r.take(); !slices.Equal(got, []uint32{300, 500}) {
			t.Errorf("up %v", got)
		}
		r = newOrderRig()
		r.in(data(1))
		r.in(data(3))
		r.s.Attach(nil)
		time.Sleep(orderWindow)
		synctest.Wait()
		if got := r.s.Stats().Drops[DropInNoUpper.String()]; got != 1 {
			t.Errorf("%d dropped without a stack", got)
		}
		r.s.endOrder(r.m)
	})
}

func TestOrderNoAllocs(t *testing.T) {
	if RaceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	r := newOrderRig()
	i := uint32(1)
	r.in(data(i))
	n := testing.AllocsPerRun(1000, func() {
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
	r.s.endOrder(r.m)
}
