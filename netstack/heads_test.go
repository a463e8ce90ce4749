package netstack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
)

// A first fragment's ports lie in another view than its IP header: Admit is
// asked about it like about a whole datagram, and no other fragment is one.
func TestAdmitFragments(t *testing.T) {
	asked := 0
	r := newRigWith(t, func(network string, local, remote netip.AddrPort) bool {
		if asked++; network != "udp" || local.Port() != 80 || remote.Port() != 4000 {
			t.Errorf("asked about %s %v from %v", network, local, remote)
		}
		return false
	})
	udp := []byte{0x0f, 0xa0, 0, 80, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}
	v4 := func(off byte) []byte {
		h := []byte{0x45, 0, 0, 36, 0, 1, 0x20, off, 64, 17, 0, 0}
		return append(append(h, r.a4.AsSlice()...), r.b.v4.AsSlice()...)
	}
	v6 := func(off byte) []byte {
		h := []byte{0x60, 0, 0, 0, 0, 24, 44, 64}
		h = append(append(h, r.a6.AsSlice()...), r.b.v6.AsSlice()...)
		return append(h, 17, 0, 0, off|1, 0, 0, 0, 1)
	}
	for _, tt := range []struct {
		what  string
		v6    bool
		head  []byte
		asked int
	}{
		{"IPv4, the first", false, v4(0), 1},
		{"IPv4, the third", false, v4(2), 1},
		{"IPv6, the first", true, v6(0), 2},
		{"IPv6, the third", true, v6(16), 2},
	} {
		b := buffer.MakeWithView(buffer.NewViewWithData(tt.head))
		b.Append(buffer.NewViewWithData(udp))
		deliver(r.b.link, b)
		if asked != tt.asked || r.b.Stats().Refused != uint64(asked) {
			t.Errorf("%s: asked %d times, refused %d, want %d", tt.what, asked, r.b.Stats().Refused, tt.asked)
		}
	}
}
