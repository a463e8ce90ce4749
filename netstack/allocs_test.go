package netstack

import (
	"io"
	"testing"
)

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
		// What a young pipe does beside them, to learn what its path takes,
		// counts as well: once it has ended there is nothing.
		n := testing.AllocsPerRun(300, trip)
		for try := 0; n >= 1 && try < 20; try++ {
			n = testing.AllocsPerRun(300, trip)
		}
		if n >= 1 {
			t.Errorf("a %s: %v allocations", what, n)
		}
	}
}
