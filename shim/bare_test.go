package shim_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/shim"
)

// datagramUpper is an upper that takes datagrams without packets.
type datagramUpper struct {
	*upper
	took []string
}

func (u *datagramUpper) Datagram(src, dst netip.AddrPort, b []byte) bool {
	u.took = append(u.took, src.String()+" "+string(b))
	return true
}

// A 5-tuple with null encapsulation needs no pipe either way; its neighbours go
// on with theirs.
func TestBareFlow(t *testing.T) {
	p := newPair(t, nil)
	flow := shim.BareFlow{Local: netip.AddrPortFrom(p.src, 1), Remote: netip.AddrPortFrom(p.dst, 2)}
	var sent []string
	var fail error
	receive, remove, err := p.a.Shim.AddBare(flow, func(b []byte) error { sent = append(sent, string(b)); return fail })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.a.Shim.AddBare(flow, func([]byte) error { return nil }); err == nil {
		t.Error("one 5-tuple has two flows")
	}
	other := flow
	other.Local = netip.AddrPortFrom(p.src, 3)
	_, removeOther, err := p.a.Shim.AddBare(other, func([]byte) error { t.Error("sent on another flow"); return nil })
	if err != nil {
		t.Fatal(err)
	}

	output := func(pk *shim.Packet) {
		t.Helper()
		if err := p.a.Shim.Output(pk); err != nil {
			t.Fatal(err)
		}
	}
	output(udp(p.src, p.dst, "as a packet"))
	output(udp(p.src, p.dst, ""))
	super := udp(p.src, p.dst, "aaabbbc")
	super.MSS = 3
	output(super)
	if !p.a.Shim.SendDatagram(1, flow.Remote, []byte("as a datagram"), 0) {
		t.Error("a datagram is not sent")
	}
	if want := []string{"as a packet", "", "aaa", "bbb", "c", "as a datagram"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if n := p.a.Shim.Stats().Out; n != uint64(len(sent)) {
		t.Errorf("%d counted as sent, of %d", n, len(sent))
	}
	fail = errors.New("no route")
	output(udp(p.src, p.dst, "lost"))
	if n := p.a.Shim.Stats().Drops[shim.DropOutBare.String()]; n != 1 {
		t.Errorf("%d drops counted, want 1", n)
	}
	if n := p.a.Connects.Load(); n != 0 {
		t.Errorf("a pipe was asked for %d times", n)
	}
	neighbour := udp(p.src, p.dst, "by pipe")
	binary.BigEndian.PutUint16(neighbour.Transport[2:], 9)
	output(neighbour)
	if b := p.ub.next(t); string(b[28:]) != "by pipe" {
		t.Errorf("the neighbour delivered %q", b)
	}

	receive([]byte("hello"))
	b := p.ua.next(t)
	if src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])); src != p.dst || dst != p.src ||
		binary.BigEndian.Uint16(b[20:]) != 2 || binary.BigEndian.Uint16(b[22:]) != 1 || string(b[28:]) != "hello" {
		t.Errorf("received %x", b)
	}
	d := &datagramUpper{upper: p.ua}
	p.a.Shim.Attach(d)
	receive([]byte("short cut"))
	if want := []string{flow.Remote.String() + " short cut"}; !slices.Equal(d.took, want) {
		t.Errorf("took %q, want %q", d.took, want)
	}
	before := p.a.Shim.Stats()
	receive([]byte(strings.Repeat("x", 65535)))
	p.a.Shim.Attach(nil)
	receive([]byte("nobody"))
	after := p.a.Shim.Stats()
	for _, why := range []shim.Drop{shim.DropInProtocol, shim.DropInNoUpper} {
		if after.Drops[why.String()] != before.Drops[why.String()]+1 {
			t.Errorf("%v is not counted", why)
		}
	}

	remove()
	removeOther()
	output(udp(p.src, p.dst, "by pipe again"))
	if b := p.ub.next(t); string(b[28:]) != "by pipe again" {
		t.Errorf("after the flow: %q", b)
	}
}

// Datagrams go without packets once there is a pipe that takes them whole, and
// arrive as datagrams where the stack wants them.
func TestDatagrams(t *testing.T) {
	synctest.Test(t, testDatagrams)
}

// The largest plaintext that a peer may send is what an IPv4 packet has room for.
func TestLargest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		if err := p.a.Shim.Output(udp(p.src, p.dst, "opens")); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		synctest.Wait()
		for n, dropped := range map[int]uint64{65535 - 20: 0, 65535 - 20 + 1: 1} {
			plain := make([]byte, 1+n) // whose type comes before the packet without its IP header
			plain[0] = 17
			binary.BigEndian.PutUint16(plain[1+4:], uint16(n))
			before := p.b.Shim.Stats()
			if err := p.a.Pipes.Pipe(p.b.ID).SendLarge(false, plain, 0); err != nil {
				t.Fatal(err)
			}
			if dropped == 0 {
				if b := p.ub.next(t); len(b) != 20+n {
					t.Errorf("%d bytes arrive as %d", n, len(b))
				}
			}
			time.Sleep(time.Second)
			after := p.b.Shim.Stats()
			if why := shim.DropInProtocol.String(); after.Drops[why]-before.Drops[why] != dropped {
				t.Errorf("%d bytes: %d dropped", n, after.Drops[why]-before.Drops[why])
			}
		}
	})
}

// What is no packet is counted and goes up to nobody; its neighbours in the same batch do.
func TestRefusedAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		if err := p.a.Shim.Output(udp(p.src, p.dst, "opens")); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		synctest.Wait()
		before := p.b.Shim.Stats()
		b := p.a.Pipes.Pipe(p.b.ID).Batch(false)
		defer b.Free()
		for _, proto := range []byte{17, 47, 17, 4} {
			r := b.Room(1 + 20)
			clear(r)
			r[0] = proto
			binary.BigEndian.PutUint16(r[1+4:], 20) // a UDP datagram's length
			r[1+8] = proto
			b.Seal()
		}
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := p.a.Shim.Output(udp(p.src, p.dst, "last")); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{strings.Repeat("\x00", 11), strings.Repeat("\x00", 11), "last"} {
			if got := p.ub.next(t); string(got[len(got)-len(want):]) != want || got[9] != 17 {
				t.Errorf("%x goes up", got)
			}
		}
		after := p.b.Shim.Stats()
		if why := shim.DropInProtocol.String(); after.Drops[why]-before.Drops[why] != 2 {
			t.Errorf("%d were refused", after.Drops[why]-before.Drops[why])
		}
	})
}

// Datagrams of one Burst come with the ports and bytes of each, whatever batches
// they left in.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		u := p.a.Shim.Burst()
		if u.Send(7, netip.AddrPortFrom(p.dst, 9), []byte("too early"), 0) {
			t.Error("sent without a pipe")
		}
		u.Flush()
		if err := p.a.Shim.Output(udp(p.src, p.dst, "opens")); err != nil {
			t.Fatal(err)
		}
		p.ub.next(t)
		synctest.Wait()
		for _, payloads := range [][]string{{"one"}, {"same", "size", "end"}, {"s", "longer", "", strings.Repeat("y", 1000), "s"}} {
			for i, payload := range payloads {
				if !u.Send(uint16(0x1234+i), netip.AddrPortFrom(p.dst, uint16(0x4321+i)), []byte(payload), uint8(i&1)<<2) {
					t.Errorf("%d of %q is not taken", i, payloads)
				}
			}
			u.Flush()
			for i, payload := range payloads {
				b := p.ub.next(t)
				if string(b[28:]) != payload || binary.BigEndian.Uint16(b[20:]) != uint16(0x1234+i) || binary.BigEndian.Uint16(b[22:]) != uint16(0x4321+i) ||
					int(binary.BigEndian.Uint16(b[24:])) != 8+len(payload) {
					t.Errorf("%d of %q arrives as %x", i, payloads, b)
				}
			}
		}
		if u.Send(7, netip.AddrPortFrom(p.dst, 9), make([]byte, 9000), 0) {
			t.Error("a datagram larger than the path is taken")
		}
		u.Flush()
	})
}

func testDatagrams(t *testing.T) {
	p := newPair(t, nil)
	to := netip.AddrPortFrom(p.dst, 2)
	if p.a.Shim.SendDatagram(1, to, []byte("too early"), 0) {
		t.Error("sent without a pipe")
	}
	if err := p.a.Shim.Output(udp(p.src, p.dst, "opens")); err != nil {
		t.Fatal(err)
	}
	p.ub.next(t)
	synctest.Wait() // the pipe is there for datagrams when all that waited has gone
	for _, payload := range []string{"", "x", strings.Repeat("y", 1000)} {
		src, dst := uint16(0x1234+len(payload)), uint16(0x4321+len(payload)) // unlike those of any before
		if !p.a.Shim.SendDatagram(src, netip.AddrPortFrom(p.dst, dst), []byte(payload), 0) {
			t.Errorf("%d bytes are not sent", len(payload))
			continue
		}
		b := p.ub.next(t)
		if string(b[28:]) != payload || binary.BigEndian.Uint16(b[20:]) != src || binary.BigEndian.Uint16(b[22:]) != dst {
			t.Errorf("%d bytes arrive as %x", len(payload), b)
		}
	}
	if p.a.Shim.SendDatagram(1, to, make([]byte, 9000), 0) {
		t.Error("a datagram larger than the path is sent in one piece")
	}
	for _, size := range []int{3, 2000} { // of each datagram of a super packet
		super := udp(p.src, p.dst, strings.Repeat("a", size)+strings.Repeat("b", size)+"c")
		super.MSS = size
		if err := p.a.Shim.Output(super); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{strings.Repeat("a", size), strings.Repeat("b", size), "c"} {
			if b := p.ub.next(t); string(b[28:]) != want {
				t.Errorf("super packet of %d: %d bytes, want %d", size, len(b)-28, len(want))
			}
		}
	}
	for _, payload := range []string{"", "x", "xy"} { // of at most one segment
		one := udp(p.src, p.dst, payload)
		one.MSS = 2
		if err := p.a.Shim.Output(one); err != nil {
			t.Fatal(err)
		}
		if b := p.ub.next(t); string(b[28:]) != payload {
			t.Errorf("%q with an MSS arrives as %x", payload, b)
		}
	}
	d := &datagramUpper{upper: p.ub}
	p.b.Shim.Attach(d)
	if !p.a.Shim.SendDatagram(1, to, []byte("short cut"), 0) {
		t.Error("not sent")
	}
	// A packet that no Datagram takes comes after it.
	if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x18, []byte("segment"), 0)); err != nil {
		t.Fatal(err)
	}
	p.ub.next(t)
	if len(d.took) != 1 || !strings.HasSuffix(d.took[0], "short cut") {
		t.Errorf("took %q", d.took)
	}
}
