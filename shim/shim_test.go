package shim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// upper collects what a shim delivers.
type upper struct{ got chan []byte }

func newUpper() *upper { return &upper{make(chan []byte, 4096)} }

func (u *upper) Deliver(_ *inner.Header, b buffer.Buffer) {
	u.got <- b.Flatten()
	b.Release()
}

func (u *upper) next(t *testing.T) []byte {
	t.Helper()
	select {
	case b := <-u.got:
		return b
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing delivered")
		return nil
	}
}

// pair is two nodes with collectors above their shims.
type pair struct {
	net    *shimtest.Net
	a, b   *shimtest.Node
	ua, ub *upper
	src    netip.Addr // a's own LSI
	dst    netip.Addr // b's at a
}

func newPair(t testing.TB, events event.Sink) *pair {
	n := shimtest.NewNet()
	n.NoRepair = true // packets are to leave at once, whoever answers
	p := &pair{net: n, a: n.Node(t, events), b: n.Node(t, nil), ua: newUpper(), ub: newUpper()}
	p.a.Shim.Attach(p.ua)
	p.b.Shim.Attach(p.ub)
	p.src, _ = p.a.Table.Self()
	p.dst, _ = p.a.LSI(t, p.b)
	return p
}

func ip4(next byte, n int, src, dst netip.Addr) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, next
	binary.BigEndian.PutUint16(h[2:], uint16(20+n))
	s, d := src.As4(), dst.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	return h
}

func udp(src, dst netip.Addr, payload string) *shim.Packet {
	th := []byte{0, 1, 0, 2, 0, byte(8 + len(payload)), 0, 0}
	return &shim.Packet{
		IP: ip4(17, 8+len(payload), src, dst), Transport: th,
		Payload: [][]byte{[]byte(payload)}, Size: len(payload),
	}
}

// tcp is a super packet with flags, from seq 1000 on.
func tcp(src, dst netip.Addr, flags byte, payload []byte, mss int) *shim.Packet {
	th := make([]byte, 20)
	binary.BigEndian.PutUint32(th[4:], 1000)
	th[1], th[3], th[12], th[13] = 1, 2, 0x50, flags
	half := len(payload) / 3
	return &shim.Packet{
		IP: ip4(6, 20+len(payload), src, dst), Transport: th,
		Payload: [][]byte{payload[:half], nil, payload[half:]}, Size: len(payload), MSS: mss,
	}
}

// Packets that waited come first, in order, and those sent meanwhile after.
func TestHeldInOrder(t *testing.T) {
	events := make(chan event.Event, 100)
	p := newPair(t, func(e event.Event) { events <- e })
	gate := make(chan struct{})
	p.a.OnConnect = func(context.Context, peerid.ID) error { <-gate; return nil }
	// The first one leaves only when more have come: all of them are in one
	// round of the release, of which there are a few at most.
	leaving, meanwhile := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(leaving); <-meanwhile })
	p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, _ int) []byte {
		if from == p.a && b[0] == 0x80 {
			first()
		}
		return b
	})
	let := sync.OnceFunc(func() { close(meanwhile) })
	defer let()
	sent := 0
	send := func(upTo int) {
		t.Helper()
		for ; sent < upTo; sent++ {
			if err := p.a.Shim.Output(udp(p.src, p.dst, fmt.Sprintf("%04d", sent))); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(30)
	close(gate)
	<-leaving
	send(30 + 64) // what is held at most
	let()
	var kinds []event.Kind
	for len(kinds) < 2 {
		select {
		case e := <-events:
			kinds = append(kinds, e.Kind)
		case <-time.After(2 * time.Minute):
			t.Fatalf("events %v", kinds)
		}
	}
	const n = 100
	send(n) // these find the pipe
	from, _, _ := p.b.Table.Of(p.a.ID)
	self, _ := p.b.Table.Self()
	for i := range n {
		b := p.ub.next(t)
		if i == 0 {
			from, _, _ = p.b.Table.Of(p.a.ID)
		}
		if string(b[28:]) != fmt.Sprintf("%04d", i) {
			t.Fatalf("packet %d is %q", i, b[28:])
		}
		if s, d := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])); s != from || d != self {
			t.Fatalf("from %v to %v, want %v to %v", s, d, from, self)
		}
	}
	if c := p.a.Connects.Load(); c != 1 {
		t.Errorf("%d Connects", c)
	}
	if len(events) != 0 || !slices.Contains(kinds, event.Miss) || !slices.Contains(kinds, event.PacketsReleased) {
		t.Errorf("events %v", kinds)
	}
}

// A miss is told before anything follows from it.
func TestMissIsToldFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *pair
		told := make(chan int64, 1)
		p = newPair(t, func(e event.Event) {
			if e.Kind == event.Miss {
				synctest.Wait()
				told <- p.a.Connects.Load()
			}
		})
		p.a.OnConnect = func(context.Context, peerid.ID) error { return errors.New("no way") }
		if err := p.a.Shim.Output(udp(p.src, p.dst, "x")); err != nil {
			t.Fatal(err)
		}
		if n := <-told; n != 0 {
			t.Errorf("%d Connects before the miss was told", n)
		}
		p.ua.next(t) // the answer
	})
}

func TestHoldLimits(t *testing.T) {
	for _, tt := range []struct {
		what       string
		n, payload int
		left       int
	}{
		{"packets", 100, 4, 64},
		{"bytes", 20, 60000, 4},
		{"as many bytes as there may be", 8, 256<<10/8 - 40, 8},
		{"one more", 5, (256<<10+1)/5 - 40, 4},
	} {
		p := newPair(t, nil)
		why := errors.New("no way")
		gate := make(chan struct{})
		p.a.OnConnect = func(context.Context, peerid.ID) error { <-gate; return why }
		for i := range tt.n {
			pk := tcp(p.src, p.dst, 0x10, make([]byte, tt.payload), 0)
			binary.BigEndian.PutUint32(pk.Transport[4:], uint32(i))
			if err := p.a.Shim.Output(pk); err != nil {
				t.Fatal(err)
			}
		}
		close(gate)
		// The newest are left, and each is answered, in order.
		for i := tt.n - tt.left; i < tt.n; i++ {
			b := p.ua.next(t)
			if b[9] != 1 || b[20] != 3 || b[21] != 1 || !bytes.Equal(b[12:16], p.dst.AsSlice()) {
				t.Fatalf("%s: answer %x", tt.what, b)
			}
			if got := binary.BigEndian.Uint32(b[28+20+4:]); got != uint32(i) {
				t.Fatalf("%s: answer to %d, want %d", tt.what, got, i)
			}
		}
		st := p.a.Shim.Stats()
		if st.Drops["out-held"] != uint64(tt.n-tt.left) || st.Drops["out-failed"] != uint64(tt.left) || st.Misses != 1 {
			t.Errorf("%s: %+v", tt.what, st)
		}
		if err := p.a.Shim.LastError(p.b.ID); err != why {
			t.Errorf("%s: LastError %v", tt.what, err)
		}
	}
}

// After Down the next packet is a miss again, and gets through.
func TestDownAndMiss(t *testing.T) {
	released := make(chan struct{}, 3)
	p := newPair(t, func(e event.Event) {
		if e.Kind == event.PacketsReleased {
			released <- struct{}{}
		}
	})
	for i := range 3 {
		if err := p.a.Shim.Output(udp(p.src, p.dst, "x")); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		<-released // and the pipe is the mapping's
		if c := p.a.Connects.Load(); c != int64(i+1) {
			t.Fatalf("%d Connects in round %d", c, i)
		}
		pp := p.a.Pipes.Pipe(p.b.ID)
		pp.Close(errors.New("enough"))
		<-pp.Closed()
		if q := p.b.Pipes.Pipe(p.a.ID); q != nil {
			q.Close(nil)
			<-q.Closed()
		}
		p.a.Shim.Down(pp, nil) // as the pipe says it, or again
	}
}

// A super packet is cut to what the pipe takes; what arrives is the same
// bytes, the right flags and the right sequence numbers, merged again.
func TestSegments(t *testing.T) {
	const cwr, fin, psh, ack = 0x80, 0x01, 0x08, 0x10
	payload := make([]byte, 60000)
	for i := range payload {
		payload[i] = byte(i * 7 / 5)
	}
	for _, size := range []int{1, 1000, 1155, 1156, 2000, 10000, 60000} {
		for _, mss := range []int{0, 500, 1427} {
			p := newPair(t, nil)
			var mu sync.Mutex
			wire := 0
			p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
				if from == p.a && b[0] == 0x80 {
					mu.Lock()
					wire += (len(b) + seg - 1) / seg
					mu.Unlock()
				}
				return b
			})
			if err := p.a.Shim.Output(tcp(p.src, p.dst, cwr|fin|psh|ack, payload[:size], mss)); err != nil {
				t.Fatal(err)
			}
			var got []byte
			for len(got) < size {
				b := p.ub.next(t)
				seq := binary.BigEndian.Uint32(b[24:])
				want := byte(ack)
				if len(got) == 0 {
					want |= cwr
				}
				if len(got)+len(b)-40 == size {
					want |= fin | psh
				}
				if int(seq) != 1000+len(got) || b[33] != want || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
					t.Fatalf("size %d, MSS %d: after %d bytes seq %d flags %x, want %x", size, mss, len(got), seq, b[33], want)
				}
				got = append(got, b[40:]...)
			}
			if !bytes.Equal(got, payload[:size]) {
				t.Errorf("size %d, MSS %d: bytes differ", size, mss)
			}
			if mss == 500 && wire != (size+499)/500 {
				t.Errorf("size %d, MSS %d: %d datagrams", size, mss, wire)
			}
		}
	}
}

// One bad datagram in a run costs itself only.
func TestBadDatagram(t *testing.T) {
	payload := make([]byte, 20*500)
	for i := range payload {
		payload[i] = byte(i >> 3)
	}
	for bad := range 20 {
		p := newPair(t, nil)
		if err := p.a.Shim.Output(udp(p.src, p.dst, "open")); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
			if from == p.a && b[0] == 0x80 && len(b) > seg {
				b = bytes.Clone(b)
				b[bad*seg+100] ^= 1
			}
			return b
		})
		if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x10, payload, 500)); err != nil {
			t.Fatal(err)
		}
		missing := payload[bad*500 : bad*500+500]
		want := slices.Concat(payload[:bad*500], payload[bad*500+500:])
		var got []byte
		for len(got) < len(want) {
			b := p.ub.next(t)
			at := int(binary.BigEndian.Uint32(b[24:])) - 1000
			if at != len(got) && at != len(got)+500 {
				t.Fatalf("bad %d: segment at %d after %d bytes", bad, at, len(got))
			}
			got = append(got, b[40:]...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("bad %d: bytes differ (%d missing)", bad, len(missing))
		}
	}
}

func TestOutputErrors(t *testing.T) {
	p := newPair(t, nil)
	nobody := p.src
	for range 500 {
		nobody = nobody.Next()
	}
	multicast := netip.MustParseAddr("224.0.0.22")
	arp := udp(p.src, p.dst, "")
	arp.IP[9] = 47
	short := udp(p.src, p.dst, "")
	short.IP = short.IP[:19]
	icmp := func(v6 bool, next byte, msg []byte) *shim.Packet {
		pk := &shim.Packet{V6: v6, IP: ip4(next, len(msg), p.src, p.dst), Payload: [][]byte{msg}, Size: len(msg)}
		if v6 {
			_, self6 := p.a.Table.Self()
			_, dst6 := p.a.LSI(t, p.b)
			pk.IP = make([]byte, 40)
			pk.IP[0], pk.IP[5], pk.IP[6] = 0x60, byte(len(msg)), next
			copy(pk.IP[8:], self6.AsSlice())
			copy(pk.IP[24:], dst6.AsSlice())
		}
		return pk
	}
	echo, echo6 := []byte{8, 0, 0, 0, 0, 1, 0, 1}, []byte{128, 0, 0, 0, 0, 1, 0, 1}
	for _, tt := range []struct {
		what string
		pk   *shim.Packet
		want error
	}{
		{"nobody's LSI", udp(p.src, nobody, "x"), shim.ErrNoPeer},
		{"own LSI", udp(p.src, p.src, "x"), shim.ErrNoPeer},
		{"not our source", udp(p.dst, p.dst, "x"), shim.DropOutSource},
		{"multicast", udp(p.src, multicast, "x"), shim.DropOutProtocol},
		{"GRE", arp, shim.DropOutProtocol},
		{"short", short, shim.DropOutMalformed},
		{"ICMPv6 over IPv4", icmp(false, 58, echo6), shim.DropOutProtocol},
		{"ICMP over IPv6", icmp(true, 1, echo), shim.DropOutProtocol},
		{"ICMP without a message", icmp(false, 1, nil), shim.DropOutProtocol},
	} {
		if err := p.a.Shim.Output(tt.pk); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
	if b := p.ua.next(t); b[20] != 3 || b[21] != 1 {
		t.Errorf("answer %x", b)
	}
	_ = p.a.Shim.Close()
	if err := p.a.Shim.Output(udp(p.src, p.dst, "x")); err == nil {
		t.Error("Output after Close")
	}
	if err := p.a.Shim.Close(); err != nil {
		t.Error(err)
	}
}

// Close ends a Connect that is under way and waits for it.
func TestCloseWhileConnecting(t *testing.T) {
	p := newPair(t, nil)
	asked := make(chan struct{})
	ended := false
	p.a.OnConnect = func(ctx context.Context, _ peerid.ID) error {
		close(asked)
		<-ctx.Done()
		ended = true
		return ctx.Err()
	}
	if err := p.a.Shim.Output(udp(p.src, p.dst, "x")); err != nil {
		t.Fatal(err)
	}
	<-asked
	_ = p.a.Shim.Close()
	if !ended {
		t.Error("Close did not wait for Connect")
	}
	if n := p.a.Shim.Stats().Drops["out-closed"] + p.a.Shim.Stats().Drops["out-failed"]; n != 1 {
		t.Errorf("what waited is counted %d times as dropped", n)
	}
}

// Packets in quick succession are collected, and all arrive, once.
func TestCoalesce(t *testing.T) {
	synctest.Test(t, testCoalesce)
}

func testCoalesce(t *testing.T) {
	p := newPair(t, nil)
	const n = 3000
	got := make(map[string]int)
	done := make(chan struct{})
	if err := p.a.Shim.Output(udp(p.src, p.dst, "0")); err != nil {
		t.Fatal(err)
	}
	got[string(p.ub.next(t)[28:])]++
	synctest.Wait() // until then packets wait in the hold queue, which has its limits
	go func() {
		defer close(done)
		for len(got) < n {
			select {
			case b := <-p.ub.got:
				got[string(b[28:])]++
			case <-time.After(5 * time.Second):
				return
			}
		}
	}()
	for i := 1; i < n; i++ {
		if err := p.a.Shim.Output(udp(p.src, p.dst, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			synctest.Wait() // so many fit into the net's queue, one by one
		}
	}
	<-done
	if len(got) != n {
		t.Errorf("%d of %d packets arrived; lost by the net %d; %+v", len(got), n, p.net.Lost.Load(), p.a.Shim.Stats())
	}
	for k, c := range got {
		if c != 1 {
			t.Errorf("packet %s came %d times", k, c)
		}
	}
}

// An acknowledgement that no reply carries arrives all the same.
func TestAckAlone(t *testing.T) {
	p := newPair(t, nil)
	back, _ := p.b.Table.Self()
	to, _ := p.b.LSI(t, p.a)
	if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x18, make([]byte, 100), 0)); err != nil {
		t.Fatal(err)
	}
	p.ub.next(t)
	ack := tcp(back, to, 0x10, nil, 0)
	ack.Transport[1], ack.Transport[3] = 2, 1
	binary.BigEndian.PutUint32(ack.Transport[8:], 1100)
	if err := p.b.Shim.Output(ack); err != nil {
		t.Fatal(err)
	}
	if b := p.ua.next(t); binary.BigEndian.Uint32(b[28:]) != 1100 || len(b) != 40 {
		t.Errorf("% x", b)
	}
}

// What waits for company when the shim is closed goes out: the peer would go on
// asking for it.
func TestCloseSendsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		back, _ := p.b.Table.Self()
		to, _ := p.b.LSI(t, p.a)
		if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x18, make([]byte, 100), 0)); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		const n = 200
		for range n {
			if err := p.b.Shim.Output(udp(back, to, "in quick succession")); err != nil {
				t.Fatal(err)
			}
		}
		ack := tcp(back, to, 0x10, nil, 0)
		ack.Transport[1], ack.Transport[3] = 2, 1
		binary.BigEndian.PutUint32(ack.Transport[8:], 1100)
		if err := p.b.Shim.Output(ack); err != nil {
			t.Fatal(err)
		}
		if err := p.b.Shim.Close(); err != nil {
			t.Fatal(err)
		}
		datagrams, acks := 0, 0
		for range n + 1 {
			if b := p.ua.next(t); b[9] == 17 {
				datagrams++
			} else if binary.BigEndian.Uint32(b[28:]) == 1100 {
				acks++
			}
		}
		if datagrams != n || acks != 1 {
			t.Errorf("%d datagrams and %d acknowledgements arrived", datagrams, acks)
		}
	})
}

// What waits behind packets that a pipe is just taking goes out before Close ends
// the Connect that was to make the pipe: it may be a connection's last word.
func TestCloseWhileReleasing(t *testing.T) {
	p := newPair(t, nil)
	p.a.OnConnect = func(ctx context.Context, _ peerid.ID) error {
		<-ctx.Done() // the pipe comes up from the other side
		return ctx.Err()
	}
	leaving, let := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(leaving); <-let })
	p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, _ int) []byte {
		if from == p.a && b[0] == 0x80 {
			first()
		}
		return b
	})
	for _, what := range []string{"first", "second"} {
		if err := p.a.Shim.Output(udp(p.src, p.dst, what)); err != nil {
			t.Fatal(err)
		}
	}
	back, _ := p.b.Table.Self()
	to, _ := p.b.LSI(t, p.a)
	if err := p.b.Shim.Output(udp(back, to, "hello")); err != nil {
		t.Fatal(err)
	}
	<-leaving
	if err := p.a.Shim.Output(udp(p.src, p.dst, "last")); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = p.a.Shim.Close()
	}()
	p.a.Shim.Attach(nil) // nobody takes the answers to what follows
	nobody := netip.MustParseAddr("198.19.255.254")
	for !errors.Is(p.a.Shim.Output(udp(p.src, nobody, "")), net.ErrClosed) {
		runtime.Gosched()
	}
	for range 100_000 {
		runtime.Gosched() // Close goes as far as it can
	}
	close(let)
	<-closed
	for _, want := range []string{"first", "second", "last"} {
		if b := p.ub.next(t); string(b[28:]) != want {
			t.Fatalf("%q, want %q; %+v", b[28:], want, p.a.Shim.Stats())
		}
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}
