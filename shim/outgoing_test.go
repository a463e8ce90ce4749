package shim_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// wire counts what leaves a with data: system calls, datagrams, and those of a class.
type wire struct {
	calls, datagrams atomic.Int64
	class            atomic.Int64 // of the last
}

func watch(p *pair) *wire {
	w := new(wire)
	p.net.OnMarked(func(from *shimtest.Node, class uint8, _ []byte, _ int) {
		if from == p.a && class != 0 {
			w.class.Store(int64(class))
		}
	})
	p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
		if from == p.a && b[0] <= 0x81 && b[0] >= 0x80 {
			w.calls.Add(1)
			w.datagrams.Add(int64((len(b) + seg - 1) / seg))
		}
		return b
	})
	return w
}

func noDrops(t *testing.T, what string, s *shim.Shim) {
	t.Helper()
	for why, n := range s.Stats().Drops {
		if n != 0 {
			t.Errorf("%s: %d dropped: %s", what, n, why)
		}
	}
}

func udpOf(p *pair, n int, mss int, class uint8) *shim.Packet {
	pk := udp(p.src, p.dst, "")
	pk.IP[1] = class
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 5 / 3)
	}
	pk.Payload, pk.Size, pk.MSS = [][]byte{b[:n/3], b[n/3:]}, n, mss
	binary.BigEndian.PutUint16(pk.Transport[4:], uint16(8+n))
	binary.BigEndian.PutUint16(pk.IP[2:], uint16(28+n))
	return pk
}

// A packet goes in one datagram up to the length that the pipe says, and arrives
// whole beyond, too, as far as one can be put together; what is larger is a drop.
func TestDatagramLengths(t *testing.T) {
	t.Parallel()
	p, pp, _ := upPair(t)
	p.b.Shim.Attach(p.ub)
	w := watch(p)
	room := pp.MaxSegment() - 8
	for _, tt := range []struct {
		n    int
		want int64 // datagrams; 0: several
	}{{0, 1}, {1, 1}, {room - 1, 1}, {room, 1}, {room + 1, 0}, {20000, 0}, {65535 - 20 - 8, 0}} {
		before := w.datagrams.Load()
		pk := udpOf(p, tt.n, 0, 0)
		if err := p.a.Shim.Output(pk); err != nil {
			t.Fatalf("%d bytes: %v", tt.n, err)
		}
		if b := p.ub.next(t); !bytes.Equal(b[28:], bytes.Join(pk.Payload, nil)) {
			t.Errorf("%d bytes: %d arrive", tt.n, len(b)-28)
		}
		if n := w.datagrams.Load() - before; tt.want != 0 && n != tt.want {
			t.Errorf("%d bytes in %d datagrams", tt.n, n)
		}
	}
	noDrops(t, "a", p.a.Shim)
	noDrops(t, "b", p.b.Shim)
	pk := udpOf(p, 65535-8, 0, 0) // with the next header, as much as there is room for
	if err := p.a.Shim.Output(pk); err != nil {
		t.Error(err)
	}
	pk = udpOf(p, 65535-7, 0, 0)
	if err := p.a.Shim.Output(pk); !errors.Is(err, shim.DropOutTooBig) || p.a.Shim.Stats().Drops["out-too-big"] != 1 {
		t.Errorf("what is too large: %v, %v", err, p.a.Shim.Stats().Drops)
	}
}

// Each way out gives the outer datagrams the class that the program wants.
func TestClassOfEachWay(t *testing.T) {
	t.Parallel()
	const class = 0xbf // what ECN has of it is the pipe's own
	p, _, _ := upPair(t)
	p.b.Shim.Attach(p.ub)
	w := watch(p)
	segments := tcp(p.src, p.dst, 0x10, make([]byte, 5000), 500)
	segments.IP[1] = class
	for what, pk := range map[string]*shim.Packet{
		"a datagram": udpOf(p, 100, 0, class), "a large one": udpOf(p, 5000, 0, class), "a super packet": udpOf(p, 5000, 500, class),
		"datagrams that are large": udpOf(p, 9000, 3000, class), "segments": segments,
	} {
		w.class.Store(-1)
		if err := p.a.Shim.Output(pk); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < pk.Size; {
			b := p.ub.next(t)
			got += len(b) - 20 - map[byte]int{6: 20, 17: 8}[b[9]]
		}
		if n := w.class.Load(); n&^3 != class&^3 || n == class {
			t.Errorf("%s left with class %#x", what, n)
		}
	}
	noDrops(t, "a", p.a.Shim)
}

// What the socket refuses is counted, whichever way it took, and no error: the
// stack is not to give up a connection for it.
func TestSocketRefuses(t *testing.T) {
	datagram := func(s *shim.Shim, p *pair) error {
		if !s.SendDatagram(1, netip.AddrPortFrom(p.dst, 2), nil, 0) {
			return errors.New("refused")
		}
		return nil
	}
	for what, tt := range map[string]struct {
		send  func(s *shim.Shim, p *pair) error
		drops uint64
	}{
		"a datagram":      {func(s *shim.Shim, p *pair) error { return s.Output(udpOf(p, 100, 0, 0)) }, 1},
		"a large one":     {func(s *shim.Shim, p *pair) error { return s.Output(udpOf(p, 5000, 0, 0)) }, 1},
		"a super packet":  {func(s *shim.Shim, p *pair) error { return s.Output(udpOf(p, 1000, 500, 0)) }, 1},
		"large datagrams": {func(s *shim.Shim, p *pair) error { return s.Output(udpOf(p, 5999, 3000, 0)) }, 2},
		"segments":        {func(s *shim.Shim, p *pair) error { return s.Output(tcp(p.src, p.dst, 0x10, make([]byte, 1000), 500)) }, 1},
		"SendDatagram":    {datagram, 1},
		"a burst": {func(s *shim.Shim, p *pair) error {
			u := s.Burst()
			u.Send(1, netip.AddrPortFrom(p.dst, 2), nil, 0)
			u.Flush()
			return nil
		}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, _, _ := upPair(t)
			time.Sleep(time.Second) // of the bubble: no crowd
			before := p.a.Shim.Stats()
			p.net.SetRefuse(errors.New("no buffer space"))
			if err := tt.send(p.a.Shim, p); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			p.net.SetRefuse(nil)
			now := p.a.Shim.Stats()
			if n := now.Drops["out-pipe"]; n != tt.drops || now.Out-before.Out != 1 {
				t.Errorf("%s: %d drops, %d sent", what, n, now.Out-before.Out)
			}
			for why, n := range now.Drops {
				if why != "out-pipe" && n != 0 {
					t.Errorf("%s: %d %s", what, n, why)
				}
			}
		})
	}
}

// While the socket is busy with one packet those that follow gather, and leave
// together.
func TestCoalesceGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := upPair(t)
		p.b.Shim.Attach(p.ub)
		time.Sleep(time.Second) // of the bubble: what was sent before is no crowd
		const alone, more = 8, 20
		var calls atomic.Int64
		busy := make(chan struct{})
		p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, _ int) []byte {
			if from == p.a && b[0] == 0x80 && calls.Add(1) == alone+1 {
				<-busy
			}
			return b
		})
		send := func() {
			if err := p.a.Shim.Output(udpOf(p, 40, 0, 0)); err != nil {
				t.Error(err)
			}
		}
		for range alone + 1 {
			send()
		}
		synctest.Wait() // the last of these is at the socket
		if n := calls.Load(); n != alone+1 {
			t.Fatalf("%d calls for %d packets", n, alone+1)
		}
		for range more {
			send()
		}
		close(busy)
		synctest.Wait()
		if n := calls.Load(); n != alone+2 {
			t.Errorf("%d calls for %d packets that came meanwhile", n-alone-1, more)
		}
		for range alone + 1 + more {
			p.ub.next(t)
		}
		// After a pause the next is no crowd: it leaves in the caller's goroutine.
		time.Sleep(time.Second)
		send()
		if n := calls.Load(); n != alone+3 {
			t.Error("a packet after a pause waits for company")
		}
		noDrops(t, "a", p.a.Shim)
	})
}

// A packet that is not small, or of another kind, leaves after those that were
// gathered before it.
func TestGatheredStayBefore(t *testing.T) {
	for what, send := range map[string]func(p *pair) error{
		"a large datagram": func(p *pair) error { return p.a.Shim.Output(udpOf(p, 1400, 0, 0)) },
		"a super packet":   func(p *pair) error { return p.a.Shim.Output(udpOf(p, 1000, 500, 0)) },
		"segments":         func(p *pair) error { return p.a.Shim.Output(tcp(p.src, p.dst, 0x10, make([]byte, 1000), 500)) },
		"another class":    func(p *pair) error { return p.a.Shim.Output(udpOf(p, 41, 0, 0xb8)) },
		"a burst": func(p *pair) error {
			u := p.a.Shim.Burst()
			u.Send(1, netip.AddrPortFrom(p.dst, 2), make([]byte, 41), 0)
			u.Flush()
			return nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, _, _ := upPair(t)
			p.b.Shim.Attach(p.ub)
			time.Sleep(time.Second)
			for range 30 {
				if err := p.a.Shim.Output(udpOf(p, 40, 0, 0)); err != nil {
					t.Fatal(err)
				}
			}
			if err := send(p); err != nil {
				t.Fatal(err)
			}
			for i := range 30 {
				if b := p.ub.next(t); len(b) != 28+40 {
					t.Fatalf("%s came after %d of 30", what, i)
				}
			}
			if b := p.ub.next(t); len(b) == 28+40 {
				t.Errorf("%s did not come", what)
			}
		})
	}
}

// A plaintext that the pipe put together goes nowhere without a stack, and is
// counted.
func TestLargeWithoutStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := upPair(t)
		p.b.Shim.Attach(nil)
		for i, n := range []int{100, 5000} {
			if err := p.a.Shim.Output(udpOf(p, n, 0, 0)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := p.b.Shim.Stats().Drops["in-no-upper"]; got != uint64(i+1) {
				t.Errorf("after %d bytes: %d dropped", n, got)
			}
		}
		p.b.Shim.Attach(p.ub)
		if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x10, []byte("with a stack again"), 0)); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
	})
}

// Segments are as long as the path takes, and no longer, whatever MSS the stack has.
func TestSegmentSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pp, _ := upPair(t)
		p.b.Shim.Attach(p.ub)
		time.Sleep(10 * time.Second) // of the bubble: the path's size is found
		longest := 0
		p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
			if from == p.a && b[0] == 0x80 {
				longest = max(longest, seg)
			}
			return b
		})
		for _, mss := range []int{0, 1000, 5000} {
			longest = 0
			if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x10, make([]byte, 10000), mss)); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < 10000; {
				got += len(p.ub.next(t)) - 40
			}
			want := pp.Status().MTU
			if mss == 1000 {
				want = 1000 + 20 + want - pp.MaxSegment()
			}
			if longest != want {
				t.Errorf("MSS %d: datagrams of %d bytes, want %d", mss, longest, want)
			}
		}
		noDrops(t, "a", p.a.Shim)
	})
}
