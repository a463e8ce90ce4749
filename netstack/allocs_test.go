package netstack

import (
	"io"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

// leastAllocs is how often a call of f allocates, at the least: what goes on beside it counts
// as well, such as what a young pipe does to learn what its path takes, and a collection
// of garbage, which empties pools.
func leastAllocs(f func()) float64 {
	return yardstick.Allocs(300, f)
}

// A segment, and a super packet, from Write at one end to Read at the other
// with its acknowledgement: everything that gVisor, the shim and the pipe do for
// it, in both nodes, allocates nothing once it is under way.
func TestTCPNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for what, size := range map[string]int{"segment": 1000, "super packet": superPacket} {
		r := newRig(t)
		c, s := r.pair(t, r.b4)
		b, got := make([]byte, size), make([]byte, size)
		trip := func() {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, got); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			trip()
		}
		if n := leastAllocs(trip); n >= 1 {
			t.Errorf("a %s: %v allocations", what, n)
		}
	}
}
