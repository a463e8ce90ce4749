package yardstick

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// The yardstick's time passes, and never faster than the clock's; all Clocks
// share it.
func TestClock(t *testing.T) {
	begin := time.Now()
	a := Start()
	for a.Elapsed() < 50*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	b := Start()
	for b.Elapsed() < 20*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	if x, y := a.Stop(), b.Stop(); x < 70*time.Millisecond || y < 20*time.Millisecond || y > x {
		t.Errorf("%v and %v", x, y)
	} else if wall := time.Since(begin); x > wall+nap {
		t.Errorf("%v in %v", x, wall)
	}
	if x := a.Stop(); x != a.took {
		t.Errorf("stopped again: %v, before %v", x, a.took)
	}
}

// Who has to wait for the others to compute has more of the clock's time for
// the same.
func TestStarved(t *testing.T) {
	var ended atomic.Bool
	var others sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		others.Go(func() {
			for best := time.Duration(0); !ended.Load(); {
				compute(&best)
			}
		})
	}
	begin := time.Now()
	c := Start()
	for c.Elapsed() < 20*time.Millisecond {
		time.Sleep(time.Millisecond)
	}
	took, wall := c.Stop(), time.Since(begin)
	slowness := Slowness()
	ended.Store(true)
	others.Wait()
	if 2*took > wall {
		t.Errorf("%v in %v beside four times as many others as processors", took, wall)
	}
	if slowness < 2 {
		t.Errorf("slowness %.2f beside them", slowness)
	}
}

// What others allocate beside it is not f's, and what f allocates is.
func TestAllocs(t *testing.T) {
	calls, others, kept := 0, 8, []*int(nil)
	if n := Allocs(10, func() {
		if calls++; calls <= 11*others { // in the first tries, as from elsewhere
			kept = append(kept[:0:0], new(int), new(int))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := Allocs(10, func() { kept = append(kept[:0:0], new(int)) }); n < 1 {
		t.Error("what it allocates is not seen")
	}
}

func TestAwait(t *testing.T) {
	n := 0
	if !Await(time.Hour, func() bool { n++; return n == 3 }) || n != 3 {
		t.Errorf("asked %d times", n)
	}
	if Await(20*time.Millisecond, func() bool { return false }) {
		t.Error("what never is was so")
	}
}
