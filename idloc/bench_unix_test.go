//go:build unix

package idloc_test

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// cpuTime is what the process has used, in user and system mode. It says more
// about a change than the clock does when the machine has other work.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkConnect dials by name through a pipe that is up, sends some bytes,
// reads as many, and closes, one connection after the other: the name is in
// the cache, and each side does its share in this process. datagrams/op are
// those of the pipe, both ways.
func BenchmarkConnect(b *testing.B) {
	for _, size := range []int{1, 1000} {
		b.Run("bytes="+strconv.Itoa(size), func(b *testing.B) {
			_, venus, mars := solar(b)
			l, err := mars.Listen("tcp", ":0")
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			b.Cleanup(func() { _ = l.Close(); wg.Wait() })
			wg.Go(func() { serveExchanges(l, size) })
			_, port, _ := net.SplitHostPort(l.Addr().String())
			address := mars.Name() + ":" + port
			buf := make([]byte, size)
			if err := exchange(venus, address, buf); err != nil {
				b.Fatal(err)
			}
			datagrams := func() uint64 {
				sent, received := pipeDatagrams(venus, mars)
				return sent + received
			}
			before, cpu := datagrams(), cpuTime(b)
			b.ReportAllocs()
			for b.Loop() {
				if err := exchange(venus, address, buf); err != nil {
					b.Fatal(err)
				}
			}
			n := float64(b.N)
			b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/n, "cpu-ns/op")
			b.ReportMetric(float64(datagrams()-before)/n, "datagrams/op")
		})
	}
}

// BenchmarkStream writes 64 KiB at a time to one connection, or to eight at
// once, through a pipe that is up. back/MB are the datagrams that come back, most
// of them acknowledgements.
func BenchmarkStream(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run("streams="+strconv.Itoa(streams), func(b *testing.B) {
			_, venus, mars := solar(b)
			address := sink(b, mars)
			var conns []net.Conn
			for range streams {
				c, err := venus.Dial(b.Context(), "tcp", address)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			const size = 64 << 10
			send := func(n int64) {
				var left atomic.Int64
				left.Store(n)
				var wg sync.WaitGroup
				for _, c := range conns {
					wg.Go(func() {
						buf := make([]byte, size)
						for left.Add(-1) >= 0 {
							if _, err := c.Write(buf); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			send(1000) // until the windows have grown
			b.SetBytes(size)
			b.ReportAllocs()
			_, back := pipeDatagrams(venus, mars)
			cpu := cpuTime(b)
			b.ResetTimer()
			send(int64(b.N))
			mb := float64(b.N) * size / 1e6
			b.ReportMetric((cpuTime(b)-cpu).Seconds()/mb*1e3, "cpu-s/GB")
			_, now := pipeDatagrams(venus, mars)
			b.ReportMetric(float64(now-back)/mb, "back/MB")
		})
	}
}

// BenchmarkFairness has one node write all it can to four peers, on one to four
// connections each, for a second. conns/fair and peers/fair are Jain's index of
// what the connections got, and the peers' connections on average: 1 if all got the
// same, 1/n if one got everything.
func BenchmarkFairness(b *testing.B) {
	earth := found(b, idloc.Config{})
	from := join(b, earth, "from", idloc.Config{})
	var all, each []float64 // by connection, by connection of a peer on average
	var total float64
	var addresses []string
	for i := range 4 {
		to := join(b, earth, "to"+strconv.Itoa(i), idloc.Config{})
		address := sink(b, to)
		for range i + 1 {
			addresses = append(addresses, address)
		}
	}
	for b.Loop() {
		got := make([]float64, len(addresses))
		var wg sync.WaitGroup
		for i, address := range addresses {
			c, err := dialTimeout(b, from, "tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Second))
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Write(buf)
					got[i] += float64(n)
					if err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		for i, at := 0, 0; i < 4; at, i = at+i+1, i+1 {
			sum := 0.0
			for _, n := range got[at : at+i+1] {
				sum += n
			}
			each = append(each, sum/float64(i+1))
			total += sum
		}
		all = append(all, got...)
	}
	b.ReportMetric(jain(all), "conns/fair")
	b.ReportMetric(jain(each), "peers/fair")
	b.ReportMetric(total/1e6/float64(b.N), "MB/op")
}

// sink has n take connections and discard what they bring, and returns where.
func sink(b *testing.B, n *idloc.Node) (address string) {
	l, err := n.Listen("tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	b.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.CopyBuffer(writerOnly{io.Discard}, readerOnly{c}, make([]byte, 256<<10))
			})
		}
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return n.Name() + ":" + port
}

// jain is the fairness index of shares: (Σx)² / (n Σx²).
func jain(shares []float64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum, squares = sum+x, squares+x*x
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// readerOnly and writerOnly hide what else there is.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

// exchange is one connection of the client's.
func exchange(n *idloc.Node, address string, buf []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(buf); err != nil {
		return err
	}
	_, err = io.ReadFull(c, buf)
	return err
}

// serveExchanges answers size bytes with the same, and closes after the client,
// until l is closed.
func serveExchanges(l net.Listener, size int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			buf := make([]byte, size)
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
			_, _ = c.Read(buf)
		})
	}
}

// pipeDatagrams counts what a sent to and received from b.
func pipeDatagrams(a, b *idloc.Node) (sent, received uint64) {
	for _, p := range a.Status().Peers {
		if p.ID == b.ID() {
			sent, received = sent+p.PacketsSent, received+p.PacketsReceived
		}
	}
	return sent, received
}
