package idloc_test

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/idloc/idloc/idloc"
)

var (
	garbageRate = flag.Int("garbage.rate", 100_000, "datagrams a second that BenchmarkGarbage sends")
	garbageFor  = flag.Duration("garbage.for", 2*time.Second, "how long each of its measurements takes")
)

// BenchmarkGarbage measures what a flood of garbage takes from a transfer
// between two nodes: MB/s without it, while it goes to a socket that somebody
// just reads, so that the flooder and the kernel cost the same, and while it
// goes to the receiver's port. node/reader is the ratio of the last two.
func BenchmarkGarbage(b *testing.B) {
	earth := found(b, idloc.Config{})
	mars := join(b, earth, "mars", idloc.Config{})
	venus := join(b, earth, "venus", idloc.Config{})
	// A third peer is the one whose datagrams are copied: a tap would slow the
	// transfer down.
	ear := newTap(b)
	port := mars.Status().Self.Port
	ear.to.Store(uint32(port))
	x := startTransfer(b, join(b, earth, "pluto", idloc.Config{Net: ear}), mars)
	awaitBytes(b, x, 1<<20)
	if err := x.end(); err != nil {
		b.Fatal(err)
	}

	reader, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	_ = reader.SetReadBuffer(4 << 20)
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 65535)
		for {
			if _, _, err := reader.ReadFromUDPAddrPort(buf); err != nil {
				return
			}
		}
	})
	defer reading.Wait()
	defer reader.Close()

	g := &garbage{rnd: rand.New(rand.NewPCG(1, 2)), tap: ear}
	pieces := make([][]byte, 8192)
	for i := range pieces {
		for {
			var copied bool
			if pieces[i], copied = g.make(); !copied {
				break
			}
		}
	}
	x = startTransfer(b, venus, mars)
	awaitBytes(b, x, 64<<20)
	var alone, beside, under, rate float64
	rss, highest := residentNow(), int64(0)
	measure := func(to uint16) float64 {
		f := newFlood(b, pieces, to)
		came, at := x.came.Load(), time.Now()
		sample := time.NewTicker(20 * time.Millisecond)
		for end := at.Add(*garbageFor); (<-sample.C).Before(end); {
			if to == port {
				highest = max(highest, residentNow())
			}
		}
		sample.Stop()
		mbs := float64(x.came.Load()-came) / 1e6 / time.Since(at).Seconds()
		if sent := f.end(); to != 0 {
			rate += float64(sent) / time.Since(at).Seconds() / 2
		}
		return mbs
	}
	rounds := 0
	for b.Loop() {
		alone += measure(0)
		beside += measure(uint16(reader.LocalAddr().(*net.UDPAddr).Port))
		under += measure(port)
		rounds++
	}
	if err := x.end(); err != nil {
		b.Fatal(err)
	}
	n := float64(rounds)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(alone/n, "MB/s-alone")
	b.ReportMetric(beside/n, "MB/s-reader")
	b.ReportMetric(under/n, "MB/s-node")
	b.ReportMetric(under/beside, "node/reader")
	b.ReportMetric(rate/n, "garbage/s")
	b.ReportMetric(float64(highest-rss)/(1<<20), "MiB-grown")
	b.Logf("dropped: %v", mars.Status().Drops)
}

// awaitBytes waits until n more bytes of x have come.
func awaitBytes(tb testing.TB, x *transfer, n int64) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := x.came.Load() + n; x.came.Load() < end; {
		select {
		case <-tick.C:
		case <-tb.Context().Done():
			tb.Fatal("the transfer does not begin")
		}
	}
}

// paced sends pieces at a rate until it is told to end.
type paced struct {
	sent atomic.Int64
	stop chan struct{}
	done sync.WaitGroup
}

// newFlood begins one from four sockets; to nobody if to is 0.
func newFlood(tb testing.TB, pieces [][]byte, to uint16) *paced {
	tb.Helper()
	f := &paced{stop: make(chan struct{})}
	if to == 0 {
		return f
	}
	const batch = 32
	var conns []*ipv4.PacketConn
	for range 4 {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { c.Close() })
		conns = append(conns, ipv4.NewPacketConn(c))
	}
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback[0], to))
	f.done.Go(func() {
		msgs := make([]ipv4.Message, batch)
		for i := range msgs {
			msgs[i].Addr = addr
			msgs[i].Buffers = make([][]byte, 1)
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for i := 0; ; {
			select {
			case <-tick.C:
			case <-f.stop:
				return
			}
			due := int(time.Since(began).Seconds() * float64(*garbageRate))
			for ; i < due; i += batch {
				for j := range msgs {
					msgs[j].Buffers[0] = pieces[(i+j)%len(pieces)]
				}
				n, _ := conns[i/batch%len(conns)].WriteBatch(msgs, 0)
				f.sent.Add(int64(max(n, 0)))
			}
		}
	})
	return f
}

func (f *paced) end() int64 {
	close(f.stop)
	f.done.Wait()
	return f.sent.Load()
}

// residentNow is the process's resident memory in bytes, 0 where /proc does not
// say.
func residentNow() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	if f := bytes.Fields(b); len(f) > 1 {
		n, _ := strconv.ParseInt(string(f[1]), 10, 64)
		return n * int64(os.Getpagesize())
	}
	return 0
}
