package pep

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/inner"
)

// Where the peer's pipe repairs, what is ahead waits for as long as a repair takes,
// and the stack sees neither gaps nor copies.
func TestRepaired(t *testing.T) {
	copied := func(g seg, counter uint32) seg { g.counter, g.again = counter, true; return g }
	late := func(g seg, counter uint32) seg { g.counter = counter; return g }
	type step struct {
		in seg
		up []uint32
	}
	for what, c := range map[string]struct {
		steps []step
		rest  []uint32
	}{
		"a copy fills the gap":      {[]step{{data(1), []uint32{100}}, {data(3), nil}, {copied(data(2), 9), []uint32{200, 300}}}, nil},
		"a copy that is not needed": {[]step{{data(1), []uint32{100}}, {data(2), []uint32{200}}, {copied(data(2), 9), nil}, {data(3), []uint32{300}}}, nil},
		"the copy was first":        {[]step{{data(1), []uint32{100}}, {data(3), nil}, {copied(data(2), 9), []uint32{200, 300}}, {data(2), nil}}, nil},
		"TCP sends it again":        {[]step{{data(1), []uint32{100}}, {data(2), []uint32{200}}, {late(data(1), 9), []uint32{100}}}, nil},
		"a copy of what is held":    {[]step{{data(1), []uint32{100}}, {data(3), nil}, {copied(data(3), 8), nil}, {copied(data(2), 9), []uint32{200, 300, 300}}}, nil},
		"a copy of more":            {[]step{{data(1), []uint32{100}}, {copied(seg{seq: 100, n: 200}, 9), []uint32{100}}, {data(3), []uint32{300}}}, nil},
		"a FIN that came before":    {[]step{{data(1), []uint32{100}}, {copied(seg{seq: 100, n: 100, flags: inner.FIN}, 9), []uint32{100}}}, nil},
		"an early end":              {[]step{{data(1), []uint32{100}}, {seg{seq: 300, counter: 3, flags: inner.FIN}, nil}, {copied(data(2), 9), []uint32{200, 300}}}, nil},
		"an end after what is held": {[]step{{data(1), []uint32{100}}, {data(3), nil}, {seg{seq: 400, counter: 4, flags: inner.FIN}, nil}, {copied(data(2), 9), []uint32{200, 300, 400}}}, nil},
		"an end in time":            {[]step{{data(1), []uint32{100}}, {seg{seq: 200, counter: 2, flags: inner.FIN}, []uint32{200}}}, nil},
		"an end of what is missing": {[]step{{data(1), []uint32{100}}, {seg{seq: 300, counter: 3, flags: inner.FIN}, nil}}, []uint32{300}},
		"it never comes":            {[]step{{data(1), []uint32{100}}, {data(3), nil}, {data(5), nil}}, []uint32{300, 500}},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const waits = 300 * time.Millisecond
				r := newOrderRig()
				r.p.Repaired(waits)
				for i, st := range c.steps {
					r.in(st.in)
					time.Sleep(waits / 10)
					synctest.Wait()
					if got := r.take(); !slices.Equal(got, st.up) {
						t.Fatalf("step %d: up %v, want %v", i, got, st.up)
					}
				}
				time.Sleep(2 * waits)
				synctest.Wait()
				if got := r.take(); !slices.Equal(got, c.rest) {
					t.Errorf("after all: up %v, want %v", got, c.rest)
				}
				r.p.Repaired(0)
				r.in(seg{seq: 1000, counter: 90, n: 100})
				r.in(seg{seq: 1200, counter: 91, n: 100})
				time.Sleep(2 * orderWindow)
				synctest.Wait()
				if got := r.take(); len(got) != 2 {
					t.Errorf("up %v once nothing is repaired any more", got)
				}
				r.p.End()
			})
		})
	}
}

// What is given up and comes all the same goes up, copy or not: the stack lacks it, and
// the peer's pipe, which knows that it came, does not send it again.
func TestRepairedTooLate(t *testing.T) {
	copied := func(i, counter uint32) seg { g := data(i); g.counter, g.again = counter, true; return g }
	for what, c := range map[string]struct{ before, late, up, then []uint32 }{
		"one":              {[]uint32{1, 3}, []uint32{2}, []uint32{200}, []uint32{2, 3}},
		"two":              {[]uint32{1, 3, 5}, []uint32{2, 4}, []uint32{200, 400}, []uint32{1, 2}},
		"the later first":  {[]uint32{1, 3, 5}, []uint32{4, 2}, []uint32{400, 200}, []uint32{1, 2}},
		"two side by side": {[]uint32{1, 4}, []uint32{2, 3}, []uint32{200, 300}, []uint32{1, 2, 3, 4}},
	} {
		t.Run(what, func(t *testing.T) {
			for how, giveUp := range map[string]func(*orderRig){
				"time":     func(*orderRig) { time.Sleep(time.Second); synctest.Wait() },
				"let go":   func(r *orderRig) { r.p.LetGo() },
				"no space": func(r *orderRig) { r.in(seg{seq: 1000 + repairedBytes, counter: 50, n: 100}) },
			} {
				t.Run(how, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r := newOrderRig()
						r.p.Repaired(300 * time.Millisecond)
						for _, i := range c.before {
							r.in(data(i))
						}
						giveUp(r)
						if got := r.take(); len(got) < len(c.before) {
							t.Fatalf("up %v, of %v", got, c.before)
						}
						for _, i := range c.late {
							r.in(copied(i, 100+i))
						}
						if got := r.take(); !slices.Equal(got, c.up) {
							t.Errorf("up %v, want %v", got, c.up)
						}
						defer r.p.End()
						if how != "time" {
							return
						}
						for _, i := range c.then {
							r.in(copied(i, 200+i))
						}
						if got := r.take(); len(got) > 0 {
							t.Errorf("up %v once more", got)
						}
					})
				})
			}
		})
	}
}

// sure notes what is sent so that it is repaired.
type sure struct {
	nowhere
	mu   sync.Mutex // guards sent
	sent [][]byte
}

func (s *sure) SendSure(_ bool, _ uint8, th []byte) {
	s.mu.Lock()
	s.sent = append(s.sent, slices.Clone(th))
	s.mu.Unlock()
}

// take returns what was sent since it was called last.
func (s *sure) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sent
	s.sent = nil
	return sent
}

// The last acknowledgement before a pause is said once more; others are not.
func TestLastAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sure)
		p := new(Proxy)
		p.Init(l, new(Counters))
		ack := func(n uint32) *packet { return segment(false, 500, n, inner.ACK, 0, 12) }
		say := func(n uint32) {
			pk := ack(n)
			p.AckSent(&pk.h, pk.th, 0)
		}
		pause := func() int {
			time.Sleep(3 * lastAfter)
			synctest.Wait()
			return len(l.take())
		}
		say(100)
		if n := pause(); n != 0 {
			t.Errorf("%d were said once more where nothing is repaired", n)
		}
		p.Repaired(time.Second)
		for i := range uint32(20) {
			say(100 * i)
			time.Sleep(lastAfter / 4)
		}
		if n := len(l.take()); n != 0 {
			t.Errorf("%d were said once more with others behind them", n)
		}
		time.Sleep(3 * lastAfter)
		synctest.Wait()
		if sent := l.take(); len(sent) != 1 || !slices.Equal(sent[0], ack(1900).th) {
			t.Errorf("said once more: %x", sent)
		}
		if n := pause(); n != 0 {
			t.Errorf("%d more", n)
		}
		say(3000)
		data := segment(false, 500, 3000, inner.ACK|inner.PSH, 10, 12)
		p.MoreSent(&data.h)
		if n := pause(); n != 0 {
			t.Errorf("%d were said once more behind a segment that says it", n)
		}
		p.End()
	})
}

// loop has what is sent for sure bring another acknowledgement of the same slot, as a
// path does that delivers at once.
type loop struct {
	nowhere
	p    *Proxy
	sent atomic.Int32
	held atomic.Bool // a slot was locked meanwhile
}

func (l *loop) SendSure(bool, uint8, []byte) {
	l.sent.Add(1)
	for i := range l.p.last.Load().slots {
		if a := l.p.last.Load().slots[i].Load(); a != nil {
			if a.mu.TryLock() {
				a.mu.Unlock()
			} else {
				l.held.Store(true)
			}
		}
	}
}

// No lock is held while a last acknowledgement is sent.
func TestLastAckUnlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(loop)
		l.p = new(Proxy)
		l.p.Init(l, new(Counters))
		l.p.Repaired(time.Second)
		pk := segment(false, 500, 100, inner.ACK, 0, 12)
		for flow := range uint64(2 * lastSlots) {
			l.p.ackSent(flow+1, false, pk.th, 0)
		}
		beside := l.sent.Load()
		time.Sleep(3 * lastAfter)
		synctest.Wait()
		if n := l.sent.Load(); l.held.Load() || beside == 0 || n != 2*lastSlots {
			t.Errorf("%d sent for others' sake, %d in all, locked: %v", beside, n, l.held.Load())
		}
		l.p.End()
	})
}
