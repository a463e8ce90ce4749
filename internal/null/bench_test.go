package null

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// kernelPair is a TCP connection over loopback.
func kernelPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// nullPair is two streams over one.
func nullPair(t testing.TB) (a, b *Stream) {
	t.Helper()
	c, d := kernelPair(t)
	cfg := Config{Local: c.LocalAddr(), Remote: c.RemoteAddr(), Resume: func(context.Context, Report) error { return ErrReset }}
	return New(cfg, TCP(c), MaxUnread), New(cfg, TCP(d), MaxUnread)
}

// pump sends n bytes in pieces and waits until the other end has them.
func pump(t testing.TB, from io.Writer, to io.Reader, n int64, piece int) {
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 256<<10)
		var err error
		for left := n; left > 0 && err == nil; {
			var k int
			k, err = to.Read(b[:min(left, int64(len(b)))])
			left -= int64(k)
		}
		done <- err
	}()
	b := make([]byte, piece)
	for left := n; left > 0; {
		k, err := from.Write(b[:min(left, int64(piece))])
		if err != nil {
			t.Fatal(err)
		}
		left -= int64(k)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// BenchmarkThroughput has null TCP beside a net.Conn of the kernel, in turns,
// and reports the median of the ratios.
func BenchmarkThroughput(b *testing.B) {
	for _, piece := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", piece>>10), func(b *testing.B) {
			const n = 64 << 20
			kc, kd := kernelPair(b)
			defer kc.Close()
			defer kd.Close()
			na, nb := nullPair(b)
			pump(b, kc, kd, n, piece) // both windows open
			pump(b, na, nb, n, piece)
			var ratios []float64
			var kernel, ours time.Duration
			b.ReportAllocs()
			b.SetBytes(n)
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				pump(b, kc, kd, n, piece)
				k := time.Since(start)
				start = time.Now()
				pump(b, na, nb, n, piece)
				o := time.Since(start)
				kernel, ours = kernel+k, ours+o
				ratios = append(ratios, float64(k)/float64(o))
			}
			b.StopTimer()
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "of-kernel")
			b.ReportMetric(float64(b.N)*n/1e6/kernel.Seconds(), "kernel-MB/s")
			b.ReportMetric(float64(b.N)*n/1e6/ours.Seconds(), "null-MB/s")
			for _, s := range []*Stream{na, nb} {
				s.Abort()
				s.Wait()
			}
		})
	}
}
