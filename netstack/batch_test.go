package netstack

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/netconn"
	"github.com/idloc/idloc/shim/shimtest"
)

// batchOf returns n messages with buffers of size bytes.
func batchOf(n, size int) []netconn.Message {
	ms := make([]netconn.Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	return ms
}

// A batch to one peer leaves as few batches of the pipe, with the conn's class,
// and comes in order; what does not fit a datagram of the pipe's goes between.
func TestWriteBatchTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	sayPast(t, c, l, "up")
	if err := c.SetTrafficClass(0xb8); err != nil {
		t.Fatal(err)
	}
	m := r.marks()
	sizes := []int{500, 500, 500, 100, 600, 600, 9000, 300, 300, 0}
	out := make([]netconn.Message, len(sizes))
	sum := 0
	for i, n := range sizes {
		out[i].Buf = make([]byte, n)
		for k := range out[i].Buf {
			out[i].Buf[k] = byte(i)
		}
		sum += n
	}
	if n, err := c.WriteBatch(out); n != len(out) || err != nil {
		t.Fatal(n, err)
	}
	in := batchOf(len(sizes), maxDatagram)
	large := slices.Index(sizes, 9000)
	for got, larges := 0, 0; got < len(sizes) || larges < 1; {
		n, err := l.ReadBatch(in[:max(len(sizes)-got, 1)])
		if err != nil || n < 1 {
			t.Fatal(n, err)
		}
		for _, m := range in[:n] {
			if got == large {
				got++
			}
			if m.N == sizes[large] { // comes through gVisor, and may overtake
				larges++
				continue
			}
			if m.N != sizes[got] || m.N > 0 && m.Buf[0] != byte(got) || m.Truncated {
				t.Errorf("datagram %d has %d bytes, want %d", got, m.N, sizes[got])
			}
			got++
		}
	}
	m.only(t, r.a, 0xb8, sum)
	// 500 500 500 100, 600 600, then 9000 in pieces, 300 300 0. What the pipe says for
	// itself has no class. Beside eight busy loops one run in some hundreds sends the first
	// group as two and two, probably a pipe that paces and begins while the rest is put in;
	// one by one they would be 17.
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.writes[mark{r.a.Node, 0xb8}]; n > 6 {
		t.Errorf("%d batches of the pipe", n)
	}
}

// What gVisor holds for the reader, and several peers, come in batches too.
func TestReadBatchOfManyKinds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	d, err := r.a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.b6, port(l.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	say(t, c, l, "up") // else they wait for a pipe, of which only so many may
	const each = 20
	for i := range each {
		for _, n := range []int{10, 5000} {
			if _, err := c.Write(make([]byte, n+i)); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Write(make([]byte, n+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[string]int{}
	for got := 0; got < 4*each; {
		in := batchOf(7, 3000)
		n, err := l.ReadBatch(in)
		if err != nil || n < 1 {
			t.Fatal(n, err)
		}
		got += n
		for _, m := range in[:n] {
			seen[fmt.Sprint(m.Addr.Addr().Is6(), m.Truncated)]++
		}
	}
	for _, k := range []string{"false false", "false true", "true false", "true true"} {
		if seen[k] != each {
			t.Errorf("%s: %d, want %d", k, seen[k], each)
		}
	}
}

func TestBatchNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	r := newBareRig(t) // what is kept is internal/pipe's to test
	c, l := r.udpPair(t, r.b4)
	from := sayPast(t, c, l, "up")
	r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
	ms := batchOf(32, 1000)
	if n := leastAllocs(func() {
		if n, err := c.WriteBatch(ms); n != len(ms) || err != nil {
			t.Fatal(n, err)
		}
	}); n >= 1 {
		t.Errorf("WriteBatch: %v allocations", n)
	}
	to := netip.AddrPortFrom(r.b.v4, port(l.LocalAddr()))
	if n := leastAllocs(func() {
		for i := range ms {
			if !r.b.link.Datagram(from, to, ms[i].Buf) {
				t.Fatal("not taken")
			}
		}
		for got := 0; got < len(ms); {
			n, err := l.ReadBatch(ms[got:])
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}); n >= 1 {
		t.Errorf("Datagram and ReadBatch: %v allocations", n)
	}
}

// BenchmarkBatch writes, and reads, datagrams one by one and in batches; both
// ends are measured apart.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{64, 1000} {
		b.Run(fmt.Sprintf("Write/%d", size), func(b *testing.B) { benchWrite(b, size, 1) })
		b.Run(fmt.Sprintf("WriteBatch/%d", size), func(b *testing.B) { benchWrite(b, size, 32) })
		b.Run(fmt.Sprintf("ReadFrom/%d", size), func(b *testing.B) { benchRead(b, size, 1) })
		b.Run(fmt.Sprintf("ReadBatch/%d", size), func(b *testing.B) { benchRead(b, size, 32) })
	}
}

func benchWrite(b *testing.B, size, n int) {
	r := newRig(b)
	c, l := r.udpPair(b, r.b4)
	sayPast(b, c, l, "up")
	r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
	ms := batchOf(n, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += n {
		if n == 1 {
			_, _ = c.Write(ms[0].Buf)
		} else {
			_, _ = c.WriteBatch(ms)
		}
	}
}

func benchRead(b *testing.B, size, n int) {
	r := newRig(b)
	c, l := r.udpPair(b, r.b4)
	from := sayPast(b, c, l, "up")
	_ = l.SetDeadline(time.Time{})
	to := netip.AddrPortFrom(r.b.v4, port(l.LocalAddr()))
	ms := batchOf(32, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += len(ms) {
		b.StopTimer()
		for k := range ms {
			r.b.link.Datagram(from, to, ms[k].Buf)
		}
		b.StartTimer()
		for got := 0; got < len(ms); {
			if n == 1 {
				_, _, _ = l.ReadFromUDPAddrPort(ms[0].Buf)
				got++
				continue
			}
			k, _ := l.ReadBatch(ms[got:])
			got += k
		}
	}
}
