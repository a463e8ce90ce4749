package shim_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// idlePipes opens a pipe from each of n nodes to each of m others, has one TCP
// segment go over each in both directions, and returns what the ends of these
// n·m pipes have left on the heap, with their mappings and LSIs, in bytes an
// end; and how many goroutines they have made.
func idlePipes(t testing.TB, n, m int) (size float64, goroutines int) {
	net := shimtest.NewNet()
	nodes := make([]*shimtest.Node, n+m)
	got := make([]*upper, n+m)
	for i := range nodes {
		nodes[i] = net.Node(t, nil)
		got[i] = newUpper()
		nodes[i].Shim.Attach(got[i])
	}
	send := func(a, b int) {
		src, _ := nodes[a].Table.Self()
		dst, _ := nodes[a].LSI(t, nodes[b])
		if err := nodes[a].Shim.Output(tcp(src, dst, 0x18, []byte("a small segment"), 0)); err != nil {
			t.Fatal(err)
		}
		<-got[b].got
	}
	live := func() uint64 {
		for range 3 { // pools forget in two
			runtime.GC()
		}
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc + s.StackInuse
	}
	before, running := live(), runtime.NumGoroutine()
	for a := range n {
		for b := n; b < n+m; b++ {
			send(a, b)
			send(b, a)
		}
	}
	// A pipe is idle when the last acknowledgements have gone: until then each has
	// a batch of its own. On a busy machine that takes a while.
	yardstick.Await(10*time.Second, func() bool {
		size = float64(live()-before) / float64(2*n*m)
		return size <= idleMost && runtime.NumGoroutine() <= running+(n+m)/2
	})
	return size, runtime.NumGoroutine() - running
}

// idleMost is what an idle pipe takes at each end, in bytes.
const idleMost = 10.5 * 1024

// An idle pipe takes no goroutine and at most 10.5 KiB at each end, with all that
// the shim and the LSI table keep for the peer.
func TestIdlePipe(t *testing.T) {
	if shim.RaceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	const nodes = 40
	size, goroutines := idlePipes(t, nodes/2, nodes/2)
	t.Logf("%.1f KiB an end, %d goroutines for 400 pipes", size/1024, goroutines)
	if size > idleMost {
		t.Errorf("%.1f KiB an end", size/1024)
	}
	// Those of Connects that are just ending. What paces has ended, if this machine has
	// let it.
	if goroutines > nodes/2+12 {
		t.Errorf("%d goroutines", goroutines)
	}
}

// BenchmarkIdlePipes opens 10,000 pipes between 100 nodes and 100 others.
func BenchmarkIdlePipes(b *testing.B) {
	for b.Loop() {
		size, goroutines := idlePipes(b, 100, 100)
		b.ReportMetric(size/1024, "KiB/end")
		b.ReportMetric(size*10_000/(1<<20), "MiB/10000-pipe-node")
		b.ReportMetric(float64(goroutines)/10_000, "goroutines/pipe")
	}
}

// A pipe that nobody uses closes at both ends, and the next packet, from either
// side, opens another: what waited for it is delivered, nothing is told to the
// flows above (draft §4.2).
func TestIdleReopens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		back, _ := p.b.Table.Self()
		to, _ := p.b.LSI(t, p.a)
		for round := range 3 {
			from, upper, packet := p.a, p.ub, udp(p.src, p.dst, fmt.Sprint("round ", round))
			if round == 1 {
				from, upper, packet = p.b, p.ua, udp(back, to, fmt.Sprint("round ", round))
			}
			if err := from.Shim.Output(packet); err != nil {
				t.Fatal(err)
			}
			if b := upper.next(t); string(b[28:]) != fmt.Sprint("round ", round) {
				t.Fatalf("delivered %q", b)
			}
			if n := p.a.Connects.Load() + p.b.Connects.Load(); n != int64(round+1) {
				t.Errorf("round %d: %d Connects", round, n)
			}
			time.Sleep(6 * time.Minute) // of the bubble: longer than pipe.Config.IdleTimeout
			synctest.Wait()
			if n := len(p.a.Pipes.Pipes()) + len(p.b.Pipes.Pipes()); n != 0 {
				t.Fatalf("round %d: %d pipes are open after an idle time", round, n)
			}
			if len(p.ua.got)+len(p.ub.got) > 0 {
				t.Errorf("round %d: the stacks were told something", round)
			}
		}
	})
}
