package pipe

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/replay"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/internal/yardstick"
)

// pair returns a pipe that is up on both sides, over a network without delay.
func pair(t testing.TB, aes bool) (a, b *host, pa, pb *Pipe) {
	n := newNetwork(0)
	with := func(c *Config) { c.HasAES = &aes }
	a, b = newHost(t, n, 1, "192.0.2.1:1000", with), newHost(t, n, 2, "192.0.2.2:1000", with)
	pa, pb = connect(t, a, b)
	if err := sendNumber(pa, 0); err != nil {
		t.Fatal(err)
	}
	<-pb.Ready()
	return a, b, pa, pb
}

func TestNoAllocations(t *testing.T) {
	for _, aes := range []bool{true, false} {
		a, b, pa, pb := pair(t, aes)
		// What the timers send meanwhile, the search for the path's MTU first
		// of all, would be counted along.
		a.timers.close()
		b.timers.close()
		last := a.s.divert()
		plain := packet(1000)
		batch := pa.Batch(false)
		fill := func() {
			for range 40 {
				copy(batch.Room(len(plain)), plain)
				batch.Seal()
			}
			if err := batch.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		fill()
		if n := yardstick.Allocs(100, fill); n != 0 {
			t.Errorf("Room, Seal, Flush: %v allocations", n)
		}
		if n := yardstick.Allocs(100, func() { pa.Batch(true).Free() }); n != 0 {
			t.Errorf("Batch, Free: %v allocations", n)
		}
		fill()
		size := len(plain) + wire.HeaderLen + wire.TagLen
		dst := make([]byte, 0, 2048)
		i := 0
		if n := testing.AllocsPerRun(30, func() {
			if _, err := pb.Open(dst, (*last)[i*size:(i+1)*size]); err != nil {
				t.Fatal(err)
			}
			i++
		}); n != 0 {
			t.Errorf("Open: %v allocations", n)
		}
		forged := append([]byte(nil), (*last)[:size]...)
		forged[20]++
		if n := yardstick.Allocs(30, func() {
			if _, err := pb.Open(dst, forged); err != DropAuth {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("Open of a forged one: %v allocations", n)
		}
		if n := yardstick.Allocs(30, func() {
			if _, err := pb.Open(dst, (*last)[:size]); err != DropReplay {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("Open of a replay: %v allocations", n)
		}
	}
}

func TestBatchShape(t *testing.T) {
	_, _, pa, _ := pair(t, true)
	b := pa.Batch(false)
	defer b.Free()
	if b.Room(maxBatch) != nil {
		t.Error("room for more than a datagram")
	}
	seal := func(n int) bool {
		room := b.Room(n)
		if room == nil {
			return false
		}
		if len(room) != n || cap(room) != n {
			t.Fatalf("Room(%d) = %d, %d", n, len(room), cap(room))
		}
		b.Seal()
		return true
	}
	if !seal(100) || seal(101) || !seal(100) || !seal(50) || seal(50) || seal(10) {
		t.Error("a batch takes datagrams of the first one's size, and one shorter last")
	}
	b.Flush()
	for i := range maxSegments + 1 {
		if seal(100) != (i < maxSegments) {
			t.Errorf("segment %d", i)
		}
	}
	b.Flush()
	for range 100 {
		if !seal(1400) {
			break
		}
	}
	if b.n > maxBatch || b.count < 45 {
		t.Errorf("%d datagrams of 1400", b.count)
	}
	b.Flush()
	b.Seal() // without Room
	if err := b.Flush(); err != nil {
		t.Error(err)
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, aes := range []bool{true, false} {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				x, _, pa, _ := pair(b, aes)
				x.s.divert()
				batch := pa.Batch(false)
				defer batch.Free()
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if batch.Room(size) == nil {
						batch.Flush()
						batch.Room(size)
					}
					batch.Seal()
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, aes := range []bool{true, false} {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				_, _, pa, pb := pair(b, aes)
				d := make([]byte, wire.HeaderLen+size+wire.TagLen)
				var nonce [nonceLen]byte
				pa.keys.cur.seal(wire.TypeData4, d, &nonce)
				dst := make([]byte, 0, 2048)
				kp := pb.keys.cur
				h, _, _ := wire.ParseHeader(d)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					// One window per packet, so that the same one opens again.
					kp.replay = replay.Filter{}
					if _, err := pb.Open(dst, d); err != nil {
						b.Fatal(err, h)
					}
				}
			})
		}
	}
}

// A pipe at rest holds no more than 10 KiB, both before and after a rekey.
func TestIdleMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pipes = 200
		n := newNetwork(time.Millisecond)
		b := newHost(t, n, 255, "192.0.2.255:1")
		hosts := make([]*host, pipes)
		for i := range hosts {
			hosts[i] = newHost(t, n, byte(i+1), fmt.Sprintf("198.51.100.%d:1", i))
		}
		before := heapBytes()
		for _, h := range hosts {
			pa, _ := connect(t, h, b)
			send(pa, packet(100))
			settle(50 * time.Millisecond) // offers are paced
		}
		for _, wait := range []time.Duration{100 * time.Second, 100 * time.Second} {
			settle(wait)
			if len(b.Pipes()) != pipes {
				t.Fatalf("%d pipes", len(b.Pipes()))
			}
			if each := (heapBytes() - before) / (2 * pipes); each > 10<<10 {
				t.Errorf("%d bytes a pipe", each)
			} else {
				t.Logf("%d bytes a pipe", each)
			}
		}
	})
}

func heapBytes() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestTable(t *testing.T) {
	var tab table
	if tab.get(1) != nil {
		t.Error("something in an empty table")
	}
	r := rand.New(rand.NewPCG(5, 6))
	var in []*keypair
	for range 20_000 {
		if len(in) > 0 && r.IntN(5) < 2 {
			i := r.IntN(len(in))
			tab.remove(in[i])
			tab.remove(in[i])
			if tab.get(in[i].recvIndex) != nil {
				t.Fatal("still there")
			}
			in[i] = in[len(in)-1]
			in = in[:len(in)-1]
			continue
		}
		k := &keypair{}
		if err := tab.reserve(k); err != nil {
			t.Fatal(err)
		}
		in = append(in, k)
	}
	for _, k := range in {
		if tab.get(k.recvIndex) != k {
			t.Fatal("lost")
		}
	}
	if tab.live != len(in) || len(*tab.slots.Load()) > 8*len(in) {
		t.Errorf("%d live of %d, %d slots", tab.live, len(in), len(*tab.slots.Load()))
	}
}

// Random and mutated datagrams make no state and draw no reply. The number of
// each is IDLOC_GARBAGE, a hundred thousand by default.
func TestGarbage(t *testing.T) {
	count := 100_000
	if testing.Short() {
		count = 10_000
	}
	if s := os.Getenv("IDLOC_GARBAGE"); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	// In a bubble, where no timer fires while the garbage comes in.
	synctest.Test(t, func(t *testing.T) { testGarbage(t, count) })
}

func testGarbage(t *testing.T, count int) {
	a, b, pa, pb := pair(t, true)
	settle(10 * time.Second)
	last := a.s.divert()
	if err := send(pa, packet(300), packet(300), packet(200)); err != nil {
		t.Fatal(err)
	}
	valid := bytes.Clone(*last)
	seg := 300 + wire.HeaderLen + wire.TagLen
	stranger := netip.MustParseAddrPort("203.0.113.9:999")
	before, paths, live := a.s.n.count(), len(*pb.paths.list.Load()), b.table.live
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 2000)
	for i := range count {
		d := buf[:r.IntN(len(buf))]
		for j := range d {
			d[j] = byte(r.Uint32())
		}
		if len(d) > 8 && i%2 == 0 { // get past the first check
			d[0] = 0x80 + byte(r.IntN(5))
		}
		if len(d) > 8 && i%4 == 0 { // and the second
			wire.Header{Type: d[0], Index: pb.keys.cur.recvIndex, Counter: r.Uint32()}.Put(d)
		}
		b.Receive(b.s, stranger, d, 1+r.IntN(2000))
	}
	for range count {
		d := append(buf[:0], valid...)
		// Every datagram of the run is changed.
		for at := 0; at < len(d); at += seg {
			n := min(seg, len(d)-at)
			d[at+r.IntN(n)] ^= byte(1 + r.IntN(255))
		}
		b.Receive(b.s, stranger, d, seg)
	}
	if n := a.s.n.count() - before; n != 0 {
		t.Errorf("%d replies", n)
	}
	if n := len(*pb.paths.list.Load()); n != paths {
		t.Errorf("%d paths, %d before", n, paths)
	}
	if b.table.live != live || b.r.opens != 1 {
		t.Errorf("%d indices, %d before; %d opened", b.table.live, live, b.r.opens)
	}
}

// FuzzReceive throws anything at a pipe; the first byte picks what is kept
// valid of it.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0}, uint16(0))
	f.Add([]byte{1, 1, 2, 3, 4, 5, 6, 7, 8, 9}, uint16(30))
	f.Add([]byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 1}, uint16(100))
	f.Add([]byte{2, 8, 0, 0, 0, 1, 0, 3, 1, 2, 3}, uint16(100))
	f.Add([]byte{2, 5, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0xb0}, uint16(100))
	f.Add([]byte{3, 0, 1, 0, 0, 6, 1, 2, 3}, uint16(100))
	f.Add([]byte{3, 0, 1, 0x80, 1, 6, 1, 2, 3, 4, 5, 6, 7}, uint16(100))
	a, b, pa, _ := pair(f, true)
	_ = a
	f.Fuzz(func(t *testing.T, d []byte, seg uint16) {
		if len(d) == 0 {
			return
		}
		kind, d := d[0]%4, d[1:]
		if kind == 0 || len(d) == 0 {
			b.Receive(b.s, a.s.addr, d, int(seg))
			return
		}
		if kind == 2 && d[0] == byte(wire.FrameClose) {
			return // would end the pipe for the rest of the run
		}
		// A datagram from an authenticated peer that means no good.
		out := make([]byte, wire.HeaderLen+len(d)+wire.TagLen)
		copy(out[wire.HeaderLen:], d)
		var nonce [nonceLen]byte
		kp := pa.keys.cur
		if kp == nil {
			return
		}
		typ := []uint8{0, wire.TypeData4, wire.TypeCtrl, wire.TypeFrag}[kind]
		if kp.seal(typ, out, &nonce) {
			b.Receive(b.s, a.s.addr, out, len(out))
		}
	})
}

func FuzzReadOffer(f *testing.F) {
	n := newNetwork(0)
	a, b := newHost(f, n, 1, "192.0.2.1:1000"), newHost(f, n, 2, "192.0.2.2:1000")
	offer, err := a.NewOffer(b.id, Local{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(offer.Bytes())
	f.Add(offer.Bytes()[:200])
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, d []byte) {
		in, err := b.ReadOffer(d)
		if err == nil && in.Peer != a.id {
			t.Fatal("a forged offer was read")
		}
		if _, err := offer.Finish(d); err == nil {
			t.Fatal("a forged answer was read")
		}
	})
}
