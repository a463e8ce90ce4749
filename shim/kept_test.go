package shim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// longPair is two nodes, 10 ms from each other there and back, whose pipe repairs what
// goes from a to b. It is for a synctest bubble.
func longPair(t *testing.T) *pair {
	t.Helper()
	n := shimtest.NewNet()
	n.SetDelay(5 * time.Millisecond)
	p := &pair{net: n, a: n.Node(t, nil), b: n.Node(t, nil), ua: newUpper(), ub: newUpper()}
	p.a.Shim.Attach(p.ua)
	p.b.Shim.Attach(p.ub)
	p.src, _ = p.a.Table.Self()
	p.dst, _ = p.a.LSI(t, p.b)
	p.open(t, p.b, p.dst, p.ub)
	return p
}

// open has a's pipe to a node, whose LSI is dst, repair.
func (p *pair) open(t *testing.T, to *shimtest.Node, dst netip.Addr, up *upper) {
	t.Helper()
	if err := p.a.Shim.Output(tcp(p.src, dst, 0x02, nil, 0)); err != nil {
		t.Fatal(err)
	}
	up.next(t)
	for range 1000 {
		if p.a.Pipes.Pipe(to.ID).KeepsDatagrams() {
			if err := p.a.Shim.Output(tcp(p.src, dst, 0x10, []byte("x"), 0)); err != nil {
				t.Fatal(err)
			}
			up.next(t)
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the pipe does not repair: %+v", p.a.Pipes.Pipe(to.ID).Status())
}

// kept is how many datagrams, and segments, a's pipe has paced.
func (p *pair) kept() (datagrams, all uint64) {
	r := p.a.Pipes.Pipe(p.b.ID).Status().Repair
	return r.Datagrams, r.Sent
}

// What becomes of a datagram does not depend on how it is handed over, nor on the
// pipe: one that paces gets all of them to pace, and each arrives as it was, in order.
func TestDatagramsArePaced(t *testing.T) {
	type way struct {
		what string
		n    int // datagrams
		send func(*testing.T, *pair, int)
	}
	payload := func(i, n int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, n) }
	dst := func(p *pair) netip.AddrPort { return netip.AddrPortFrom(p.dst, 2) }
	ways := []way{
		{"Output", 1, func(t *testing.T, p *pair, i int) {
			if err := p.a.Shim.Output(udp(p.src, p.dst, string(payload(i, 100)))); err != nil {
				t.Error(err)
			}
		}},
		{"a super packet", 3, func(t *testing.T, p *pair, i int) {
			pk := udp(p.src, p.dst, "")
			all := bytes.Join([][]byte{payload(i, 100), payload(i+1, 100), payload(i+2, 70)}, nil)
			pk.Payload, pk.Size, pk.MSS = [][]byte{all[:150], all[150:]}, len(all), 100
			if err := p.a.Shim.Output(pk); err != nil {
				t.Error(err)
			}
		}},
		{"SendDatagram", 1, func(t *testing.T, p *pair, i int) {
			if !p.a.Shim.SendDatagram(1, dst(p), payload(i, 100), 0) {
				t.Error("SendDatagram refuses")
			}
		}},
		{"Burst", 3, func(t *testing.T, p *pair, i int) {
			u := p.a.Shim.Burst()
			for j := range 3 {
				if !u.Send(1, dst(p), payload(i+j, 100), 0) {
					t.Error("Send refuses")
				}
			}
			u.Flush()
			u.Flush() // and nothing more
		}},
	}
	for _, w := range ways {
		synctest.Test(t, func(t *testing.T) {
			p := longPair(t)
			before, _ := p.kept()
			out, in := p.a.Shim.Stats(), p.b.Shim.Stats()
			time.Sleep(time.Second) // nothing else has the pacer come
			start := time.Now()
			for i := range 4 {
				w.send(t, p, i*w.n)
			}
			for i := range 4 * w.n {
				b := p.ub.next(t)
				if d := time.Since(start); i == 0 && d != 5*time.Millisecond {
					t.Errorf("%s: the first comes after %v", w.what, d)
				}
				want := payload(i, 100)
				if w.n == 3 && i%3 == 2 && w.what == "a super packet" {
					want = want[:70]
				}
				if !bytes.Equal(b[28:], want) || !bytes.Equal(b[20:24], []byte{0, 1, 0, 2}) || int(binary.BigEndian.Uint16(b[24:])) != 8+len(want) {
					t.Fatalf("%s: datagram %d is %x", w.what, i, b[20:])
				}
			}
			time.Sleep(time.Second)
			if len(p.ub.got) > 0 {
				t.Errorf("%s: one came twice", w.what)
			}
			after, _ := p.kept()
			if after-before != uint64(4*w.n) {
				t.Errorf("%s: %d of %d were paced", w.what, after-before, 4*w.n)
			}
			given := uint64(4 * w.n)
			if w.what == "a super packet" {
				given = 4
			}
			if n := p.a.Shim.Stats().Out - out.Out; n != given {
				t.Errorf("%s: %d counted as sent, of %d", w.what, n, given)
			}
			if n := p.b.Shim.Stats().In - in.In; n != uint64(4*w.n) {
				t.Errorf("%s: %d counted as come, of %d", w.what, n, 4*w.n)
			}
			for why, n := range p.a.Shim.Stats().Drops {
				if n != 0 {
					t.Errorf("%s: %d %s", w.what, n, why)
				}
			}
		})
	}
}

// A burst to two peers, of two families and two classes reaches each as it was,
// whether pipes pace it or not.
func TestBurstTo(t *testing.T) {
	for _, paced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var p *pair
			if paced {
				p = longPair(t)
			} else {
				p, _, _ = upPair(t)
				p.b.Shim.Attach(p.ub)
			}
			type mark struct {
				class uint8
				n     int
			}
			marks := make(chan mark, 100)
			p.net.OnMarked(func(from *shimtest.Node, class uint8, b []byte, seg int) {
				if from == p.a {
					marks <- mark{class, (len(b) + seg - 1) / seg}
				}
			})
			_, v6 := p.a.LSI(t, p.b)
			for range 10 { // buffers are used again
				if err := p.a.Shim.Output(udp(p.src, p.dst, string(bytes.Repeat([]byte{0xff}, 200)))); err != nil {
					t.Fatal(err)
				}
				p.ub.next(t)
			}
			u := p.a.Shim.Burst()
			want := []struct {
				to    netip.Addr
				class uint8
			}{{p.dst, 0}, {p.dst, 0}, {v6, 0}, {v6, 0xb8}, {p.dst, 0xb8}, {p.dst, 0}, {p.dst, 0}}
			for i, w := range want {
				if !u.Send(7, netip.AddrPortFrom(w.to, 9), []byte(fmt.Sprint("datagram ", i)), w.class) {
					t.Fatalf("datagram %d is refused", i)
				}
			}
			u.Flush()
			came := make(map[string]int)
			for i := range want {
				b := p.ub.next(t)
				hl := 20
				if b[0]>>4 == 6 {
					hl = 40
				}
				came[string(b[hl+8:])] = hl
				if want := []byte{0, 7, 0, 9, 0, 18, 0, 0}; !bytes.Equal(b[hl:hl+8], want) {
					t.Errorf("paced %v: UDP header %x, want %x", paced, b[hl:hl+8], want)
				}
				if !paced && string(b[hl+8:]) != fmt.Sprint("datagram ", i) { // a pipe that paces is fair to each class
					t.Errorf("datagram %d is %q", i, b[hl+8:])
				}
			}
			for i, w := range want {
				if hl := came[fmt.Sprint("datagram ", i)]; (hl == 40) != (w.to == v6) || hl == 0 {
					t.Errorf("paced %v: datagram %d to %v has a header of %d bytes", paced, i, w.to, hl)
				}
			}
			synctest.Wait()
			marked := 0
			for len(marks) > 0 {
				m := <-marks
				if m.class&^3 == 0xb8 {
					marked += m.n
				}
			}
			if marked != 2 {
				t.Errorf("paced %v: %d datagrams left with the class of two", paced, marked)
			}
		})
	}
}

// What waits in the pipe of one peer goes when the burst turns to another.
func TestBurstToTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := longPair(t)
		c := p.net.Node(t, nil)
		uc := newUpper()
		c.Shim.Attach(uc)
		toC, _ := p.a.LSI(t, c)
		p.open(t, c, toC, uc)
		time.Sleep(time.Second) // nothing else has the pacer come
		start := time.Now()
		u := p.a.Shim.Burst()
		for i, to := range []netip.Addr{p.dst, toC, p.dst} {
			if !u.Send(7, netip.AddrPortFrom(to, 9), []byte{byte(i)}, 0) {
				t.Fatal("refused")
			}
			if i == 1 {
				if b := p.ub.next(t); b[28] != 0 || time.Since(start) != 5*time.Millisecond {
					t.Errorf("% x after %v", b, time.Since(start))
				}
			}
		}
		u.Flush()
		if b := uc.next(t); b[28] != 1 {
			t.Errorf("% x", b)
		}
		if b := p.ub.next(t); b[28] != 2 || time.Since(start) != 10*time.Millisecond {
			t.Errorf("% x after %v", b, time.Since(start))
		}
	})
}

// More than one system call takes goes by several, in order, in whatever way.
func TestManyDatagrams(t *testing.T) {
	const n = 300
	for _, paced := range []bool{false, true} {
		for what, send := range map[string]func(t *testing.T, p *pair){
			"a burst": func(t *testing.T, p *pair) {
				u := p.a.Shim.Burst()
				for i := range n {
					if !u.Send(1, netip.AddrPortFrom(p.dst, 2), []byte{byte(i), byte(i >> 8)}, 0) {
						t.Fatalf("datagram %d is refused", i)
					}
				}
				u.Flush()
			},
			"a super packet": func(t *testing.T, p *pair) {
				pk := udp(p.src, p.dst, "")
				var b []byte
				for i := range n {
					b = append(b, byte(i), byte(i>>8))
				}
				pk.Payload, pk.Size, pk.MSS = [][]byte{b}, len(b), 2
				if err := p.a.Shim.Output(pk); err != nil {
					t.Fatal(err)
				}
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				var p *pair
				if paced {
					p = longPair(t)
				} else {
					p, _, _ = upPair(t)
					p.b.Shim.Attach(p.ub)
				}
				send(t, p)
				for i := range n {
					if b := p.ub.next(t); len(b) != 30 || int(b[28])+int(b[29])<<8 != i {
						t.Fatalf("%s, paced %v: datagram %d is % x", what, paced, i, b)
					}
				}
				noDrops(t, what, p.a.Shim)
			})
		}
	}
}

// What is more than one datagram takes is refused by both, so that Output has it.
func TestDatagramTooLong(t *testing.T) {
	t.Parallel()
	p, pp, _ := upPair(t)
	to := netip.AddrPortFrom(p.dst, 9)
	u := p.a.Shim.Burst()
	for n, want := range map[int]bool{pp.MaxSegment() - 8: true, pp.MaxSegment() - 7: false} {
		if got := p.a.Shim.SendDatagram(1, to, make([]byte, n), 0); got != want {
			t.Errorf("SendDatagram of %d bytes: %v", n, got)
		}
		if got := u.Send(1, to, make([]byte, n), 0); got != want {
			t.Errorf("Send of %d bytes: %v", n, got)
		}
		u.Flush()
	}
}

// What the shim says of a peer is what its pipe says; of one without, nothing.
func TestWhatIsKnownOfAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := longPair(t)
		pp := p.a.Pipes.Pipe(p.b.ID)
		to, inside, room := p.a.Shim.Path(p.dst)
		wantTo, wantInside, wantRoom := pp.Where()
		if !to.IsValid() || to != wantTo || inside != wantInside || room != wantRoom {
			t.Errorf("Path: %v, %v, %d; want %v, %v, %d", to, inside, room, wantTo, wantInside, wantRoom)
		}
		if share, ok := p.a.Shim.Repairing(p.dst); !ok || share < 1<<20 {
			t.Errorf("Repairing: %d, %v", share, ok)
		}
		if !p.a.Shim.MayRepair(p.dst) || !p.a.Shim.HasPipe(p.dst) {
			t.Error("it repairs, and is said not to")
		}
		if rtt := p.a.Shim.RTT(p.dst); rtt < 9*time.Millisecond || rtt > 12*time.Millisecond {
			t.Errorf("RTT %v", rtt)
		}
		third := p.net.Node(t, nil)
		noPipe, _ := p.a.LSI(t, third)
		for what, a := range map[string]netip.Addr{"a peer without a pipe": noPipe, "nobody": netip.MustParseAddr("192.0.2.1")} {
			nothing(t, p.a.Shim, what, a)
		}
	})
	// One for whom packets wait is known, and has no pipe either.
	p := newPair(t, nil)
	gate := make(chan struct{})
	p.a.OnConnect = func(ctx context.Context, _ peerid.ID) error { <-gate; return errors.New("no way") }
	if err := p.a.Shim.Output(udp(p.src, p.dst, "waits")); err != nil {
		t.Fatal(err)
	}
	nothing(t, p.a.Shim, "one for whom packets wait", p.dst)
	u := p.a.Shim.Burst()
	for what, a := range map[string]netip.Addr{"one for whom packets wait": p.dst, "nobody": netip.MustParseAddr("192.0.2.1")} {
		to := netip.AddrPortFrom(a, 9)
		if p.a.Shim.SendDatagram(1, to, nil, 0) || u.Send(1, to, nil, 0) {
			t.Errorf("a datagram is taken for %s", what)
		}
	}
	u.Flush()
	p.a.Shim.Delivered(p.dst) // nobody to tell
	close(gate)
	p.ua.next(t)
}

func nothing(t *testing.T, s *shim.Shim, what string, a netip.Addr) {
	t.Helper()
	to, inside, room := s.Path(a)
	share, ok := s.Repairing(a)
	if to.IsValid() || inside || room != 0 || share != 0 || ok || s.MayRepair(a) || s.HasPipe(a) || s.RTT(a) != 0 {
		t.Errorf("%s: %v, %v, %d; %d, %v; %v, %v, %v", what, to, inside, room, share, ok, s.MayRepair(a), s.HasPipe(a), s.RTT(a))
	}
}

// goneUpper is told of peers that are gone.
type goneUpper struct {
	*upper
	gone chan gone
}

type gone struct {
	v4, v6    netip.Addr
	delivered bool
}

func (u *goneUpper) Gone(v4, v6 netip.Addr, delivered bool) { u.gone <- gone{v4, v6, delivered} }

// The stack is told that a peer is gone by both its addresses, and whether it has all
// that was written to it; that a peer is gone is not said of one that never was.
func TestGone(t *testing.T) {
	t.Parallel()
	p, _, _ := upPair(t)
	u := &goneUpper{newUpper(), make(chan gone, 10)}
	p.a.Shim.Attach(u)
	v4, v6, _ := p.a.Table.Of(p.b.ID)
	for _, why := range []error{errors.New("no more"), pipe.ErrPeerDelivered, fmt.Errorf("it says: %w", pipe.ErrPeerDelivered)} {
		p.a.Shim.Gone(p.b.ID, why)
		if g := <-u.gone; g != (gone{v4, v6, errors.Is(why, pipe.ErrPeerDelivered)}) {
			t.Errorf("%v: %+v", why, g)
		}
	}
	p.a.Shim.Gone(p.net.Node(t, nil).ID, nil) // without an LSI
	p.a.Shim.Attach(u.upper)                  // who does not want to be told
	p.a.Shim.Gone(p.b.ID, nil)
	p.a.Shim.Attach(nil)
	p.a.Shim.Gone(p.b.ID, nil)
	if len(u.gone) > 0 {
		t.Errorf("%+v", <-u.gone)
	}
}

// TCP to a pipe that repairs is cut like all TCP, and what the path loses arrives all
// the same; one that cannot be cut is a drop, and so is one in pieces too small.
func TestSegmentsAreKept(t *testing.T) {
	const ack, fin, psh, cwr = 0x10, 0x01, 0x08, 0x80
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ mss, lost int }{{0, 0}, {500, 0}, {5000, 0}, {0, 2}, {500, 2}} {
			p, mss := longPair(t), tt.mss
			lost := 0
			p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
				if from == p.a && b[0] == 0x80 && lost < tt.lost {
					lost++
					return nil
				}
				return b
			})
			_, before := p.kept()
			data := make([]byte, 4000)
			for i := range data {
				data[i] = byte(i * 7 / 5)
			}
			if err := p.a.Shim.Output(tcp(p.src, p.dst, cwr|fin|psh|ack, data, mss)); err != nil {
				t.Fatal(err)
			}
			came := make([]bool, len(data))
			for left := len(data); left > 0; {
				b := p.ub.next(t)
				at := int(binary.BigEndian.Uint32(b[24:])) - 1000
				if !bytes.Equal(b[40:], data[at:at+len(b)-40]) {
					t.Fatalf("MSS %d: %d bytes at %d are others", mss, len(b)-40, at)
				}
				want := byte(ack)
				if at == 0 {
					want |= cwr
				}
				if at+len(b)-40 == len(data) {
					want |= fin | psh
				}
				if b[33] != want {
					t.Errorf("MSS %d: flags %#x at %d, want %#x", mss, b[33], at, want)
				}
				for i := at; i < at+len(b)-40; i++ {
					if !came[i] {
						left--
					}
					came[i] = true
				}
			}
			pieces := uint64(8)
			if mss != 500 {
				pieces = 3
			}
			if _, n := p.kept(); n-before < pieces || tt.lost == 0 && n-before > pieces+1 { // one asks whether the last has come
				t.Errorf("MSS %d: %d pieces were kept", mss, n-before)
			}
			if r := p.a.Pipes.Pipe(p.b.ID).Status().Repair.Repaired; (r != 0) != (tt.lost != 0) {
				t.Errorf("%d lost, %d repaired", tt.lost, r)
			}
			noDrops(t, "a", p.a.Shim)
		}
		p := longPair(t)
		syn := tcp(p.src, p.dst, 0x02, make([]byte, 3000), 0)
		if err := p.a.Shim.Output(syn); err != nil || p.a.Shim.Stats().Drops["out-too-big"] != 1 {
			t.Errorf("a SYN that needs two segments: %v, %v", err, p.a.Shim.Stats().Drops)
		}
		if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x02, make([]byte, 1000), 0)); err != nil {
			t.Error(err)
		}
		if b := p.ub.next(t); len(b) != 1040 || b[33] != 0x02 {
			t.Errorf("a SYN with data: %d bytes, flags %#x", len(b), b[33])
		}
	})
}

// The last acknowledgement before a pause, when it is lost, is said once more, and as
// it was: else its connection waits for a timeout.
func TestLastAckIsSure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := longPair(t)
		self, _ := p.b.Table.Self()
		to, _ := p.b.LSI(t, p.a)
		pk := tcp(self, to, 0x10, nil, 0)
		pk.IP[1] = 0xb8
		binary.BigEndian.PutUint32(pk.Transport[8:], 12345)
		if err := p.b.Shim.Output(pk); err != nil { // b's pipe begins to repair
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for len(p.ua.got) > 0 {
			<-p.ua.got
		}
		if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x10, []byte("data"), 0)); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		var classes []uint8
		lose := 2 // and what is sure is so also if it is lost
		p.net.OnMarked(func(from *shimtest.Node, class uint8, b []byte, _ int) {
			if from == p.b && b[0] == 0x80 {
				classes = append(classes, class&^3)
			}
		})
		p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, _ int) []byte {
			if from == p.b && b[0] == 0x80 && lose > 0 {
				lose--
				return nil
			}
			return b
		})
		binary.BigEndian.PutUint32(pk.Transport[8:], 23456)
		if err := p.b.Shim.Output(pk); err != nil {
			t.Fatal(err)
		}
		b := p.ua.next(t)
		if lose > 0 || binary.BigEndian.Uint32(b[28:]) != 23456 || b[33] != 0x10 || len(b) != 40 || !bytes.Equal(b[20:24], pk.Transport[:4]) {
			t.Errorf("%d: % x", lose, b)
		}
		if len(classes) < 2 || classes[0] != 0xb8 || classes[1] != 0xb8 {
			t.Errorf("classes %x", classes)
		}
	})
}
