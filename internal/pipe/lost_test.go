package pipe

import "testing"

// TestLost: gaps in the peer's counters are losses, until what is late comes;
// a replay is neither.
func TestLost(t *testing.T) {
	t.Parallel()
	k := new(keypair)
	for _, s := range []struct {
		counter uint32
		fresh   bool
		lost    uint64
	}{{0, true, 0}, {1, true, 0}, {3, true, 1}, {7, true, 4}, {7, false, 4}, {2, true, 3}, {2, false, 3}, {6, true, 2}, {8, true, 2}} {
		if got := k.accept(s.counter); got != s.fresh {
			t.Errorf("accept(%d) = %v", s.counter, got)
		}
		if got := k.lost(); got != s.lost {
			t.Errorf("after %d: %d lost, want %d", s.counter, got, s.lost)
		}
	}
}
