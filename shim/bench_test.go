package shim_test

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// sink counts and forgets.
type sink struct{ n atomic.Int64 }

func (s *sink) Deliver(_ *inner.Header, b buffer.Buffer) {
	s.n.Add(1)
	b.Release()
}

// upPair is a pair with a mapping that is up, whose net then loses all.
func upPair(tb testing.TB) (*pair, *pipe.Pipe, *sink) {
	up := make(chan struct{})
	released := sync.OnceFunc(func() { close(up) })
	p := newPair(tb, func(e event.Event) {
		if e.Kind == event.PacketsReleased {
			released()
		}
	})
	if err := p.a.Shim.Output(udp(p.src, p.dst, "open")); err != nil {
		tb.Fatal(err)
	}
	<-p.ub.got
	<-up // and the pipe is the mapping's
	s := new(sink)
	p.b.Shim.Attach(s)
	return p, p.a.Pipes.Pipe(p.b.ID), s
}

func (p *pair) cut() {
	p.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
}

func BenchmarkOutput(b *testing.B) {
	for _, size := range []int{64, 512, 1400, 60000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p, _, _ := upPair(b)
			p.cut()
			mss := 0
			if size > 1400 {
				mss = 1400
			}
			pk := tcp(p.src, p.dst, 0x10, make([]byte, size), mss)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_ = p.a.Shim.Output(pk)
			}
		})
	}
}

// capture gives runs of datagrams as they would be received.
func capture(tb testing.TB, p *pair, pk *shim.Packet, n int) (runs [][]byte, seg int) {
	got := make(chan struct{}, n)
	p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, s int) []byte {
		if from == p.a && b[0] == 0x80 {
			runs = append(runs, bytes.Clone(b))
			seg = s
			got <- struct{}{}
		}
		return nil
	})
	for range n {
		if err := p.a.Shim.Output(pk); err != nil {
			tb.Fatal(err)
		}
		<-got
	}
	return runs, seg
}

// inputAllocs is how often b allocates when it receives pk, at the least: what goes on beside
// it counts as well. All that comes is counted by came.
func inputAllocs(t *testing.T, p *pair, pk *shim.Packet, came *atomic.Int64) float64 {
	t.Helper()
	pb := p.b.Pipes.Pipe(p.a.ID)
	least := math.Inf(1)
	for try := 0; try < 20 && least >= 1; try++ {
		runs, seg := capture(t, p, pk, 310)
		i, before := 0, came.Load()
		least = min(least, testing.AllocsPerRun(300, func() { p.b.Shim.Data(pb, runs[i], seg); i++ }))
		if n := came.Load() - before; n < int64(i) {
			t.Fatalf("%d came of %d", n, i)
		}
	}
	return least
}

func TestNoAllocs(t *testing.T) {
	if shim.RaceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p, _, _ := upPair(t)
	p.cut()
	for what, pk := range map[string]*shim.Packet{
		"datagram":     udp(p.src, p.dst, "0123456789"),
		"segment":      tcp(p.src, p.dst, 0x10, make([]byte, 1000), 0),
		"super packet": tcp(p.src, p.dst, 0x10, make([]byte, 40000), 1100),
	} {
		if n := yardstick.Allocs(200, func() { _ = p.a.Shim.Output(pk) }); n >= 1 {
			t.Errorf("output of a %s: %v allocations", what, n)
		}
	}
	for what, pk := range map[string]*shim.Packet{
		"datagram":     udp(p.src, p.dst, "0123456789"),
		"super packet": tcp(p.src, p.dst, 0x10, make([]byte, 40000), 1100),
	} {
		p, _, s := upPair(t)
		if n := inputAllocs(t, p, pk, &s.n); n >= 1 {
			t.Errorf("input of a %s: %v allocations", what, n)
		}
	}
}

func BenchmarkInput(b *testing.B) {
	for _, size := range []int{64, 512, 1000, 40000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p, _, _ := upPair(b)
			mss := 0
			if size > 1000 {
				mss = 1100
			}
			pk := tcp(p.src, p.dst, 0x10, make([]byte, size), mss)
			pb := p.b.Pipes.Pipe(p.a.ID)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer() // a counter is opened once
				runs, seg := capture(b, p, pk, 1)
				b.StartTimer()
				p.b.Shim.Data(pb, runs[0], seg)
			}
		})
	}
}
