package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/shim"
)

// taps notes what a Tap sees.
type taps struct {
	mu      sync.Mutex
	in, out [][]byte
}

func (t *taps) see(outbound bool, p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := &t.in
	if outbound {
		to = &t.out
	}
	*to = append(*to, bytes.Clone(p))
}

// take returns what was seen since the last call.
func (t *taps) take() (in, out [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, out = t.in, t.out
	t.in, t.out = nil, nil
	return in, out
}

// A tap sees whole packets with the LSIs of the node that it is at, until it
// is taken away.
func TestSetTap(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct{ a, atA, b, atB netip.Addr }{
		{r.a.v4, r.a4, r.b.v4, r.b4},
		{r.a.v6, r.a6, r.b.v6, r.b6},
	} {
		pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		c, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(tt.atB, port(pc.LocalAddr())))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = pc.SetDeadline(time.Now().Add(2 * time.Minute))
		send := func(s string) {
			t.Helper()
			buf := make([]byte, 100)
			_, _ = c.Write([]byte(s))
			if n, _, err := pc.ReadFrom(buf); string(buf[:n]) != s || err != nil {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
		var a, b taps
		r.a.SetTap(a.see)
		r.b.SetTap(b.see)
		send("seen")
		check := func(who string, seen [][]byte, src, dst netip.Addr) {
			t.Helper()
			if len(seen) != 1 {
				t.Fatalf("%s saw %d packets", who, len(seen))
			}
			p, at, hl := seen[0], 12, 20
			if src.Is6() {
				at, hl = 8, 40
			}
			n := src.BitLen() / 8
			if got, _ := netip.AddrFromSlice(p[at : at+n]); got != src {
				t.Errorf("%s: source %v, want %v", who, got, src)
			}
			if got, _ := netip.AddrFromSlice(p[at+n : at+2*n]); got != dst {
				t.Errorf("%s: destination %v, want %v", who, got, dst)
			}
			if string(p[hl+8:]) != "seen" {
				t.Errorf("%s: payload %q", who, p[hl+8:])
			}
		}
		aIn, aOut := a.take()
		bIn, bOut := b.take()
		check("a", aOut, tt.a, tt.atB)
		check("b", bIn, tt.atA, tt.b)
		if len(aIn) != 0 || len(bOut) != 0 {
			t.Errorf("%d and %d packets that nobody sent", len(aIn), len(bOut))
		}
		r.a.SetTap(nil)
		r.b.SetTap(nil)
		send("not seen")
		if _, out := a.take(); len(out) != 0 {
			t.Error("a tap that was taken away saw a packet")
		}
	}
}

// Fragments, which a kernel's stack may give the shim though ours does not,
// are put together by the stack at the other end, in any order.
func TestFragments(t *testing.T) {
	r := newRig(t)
	for _, to := range []netip.Addr{r.b4, r.b6} {
		pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		_ = pc.SetDeadline(time.Now().Add(2 * time.Minute))
		var b taps
		r.b.SetTap(b.see)

		want := make([]byte, 5000)
		for i := range want {
			want[i] = byte(i * 7)
		}
		d := binary.BigEndian.AppendUint16(nil, 4000)
		d = binary.BigEndian.AppendUint16(d, port(pc.LocalAddr()))
		d = binary.BigEndian.AppendUint16(d, uint16(8+len(want)))
		d = append(d, 0, 0) // no checksum: the link says that it is verified
		d = append(d, want...)
		const size = 1200
		var offs []int
		for off := 0; off < len(d); off += size {
			offs = append([]int{off}, offs...) // the last first
		}
		for _, off := range offs {
			end := min(off+size, len(d))
			pk := shim.Packet{Payload: [][]byte{d[off:end]}, Size: end - off}
			more := uint16(0)
			if end < len(d) {
				more = 1
			}
			if to.Is4() {
				pk.IP = make([]byte, 20)
				pk.IP[0], pk.IP[8], pk.IP[9] = 0x45, 64, 17
				binary.BigEndian.PutUint16(pk.IP[2:], uint16(20+pk.Size))
				binary.BigEndian.PutUint16(pk.IP[4:], 77)
				binary.BigEndian.PutUint16(pk.IP[6:], more<<13|uint16(off/8))
				copy(pk.IP[12:], r.a.v4.AsSlice())
				copy(pk.IP[16:], to.AsSlice())
			} else {
				pk.V6, pk.IP = true, make([]byte, 48)
				pk.IP[0], pk.IP[6], pk.IP[7] = 0x60, 44, 64
				binary.BigEndian.PutUint16(pk.IP[4:], uint16(8+pk.Size))
				copy(pk.IP[8:], r.a.v6.AsSlice())
				copy(pk.IP[24:], to.AsSlice())
				pk.IP[40] = 17
				binary.BigEndian.PutUint16(pk.IP[42:], uint16(off)|more)
				binary.BigEndian.PutUint32(pk.IP[44:], 0x12345)
			}
			if err := r.a.Shim.Output(&pk); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 1<<16)
		n, from, err := pc.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], want) {
			t.Errorf("%v: %d bytes, %v", to, n, err)
		}
		src := r.a4
		if to.Is6() {
			src = r.a6
		}
		if err == nil && from.String() != netip.AddrPortFrom(src, 4000).String() {
			t.Errorf("from %v", from)
		}
		if in, _ := b.take(); len(in) != len(offs) {
			t.Errorf("%v: %d fragments arrived, want %d", to, len(in), len(offs))
		}
	}
}
