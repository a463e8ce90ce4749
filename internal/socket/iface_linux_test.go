package socket

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel knows the way from loopback to loopback.
func TestRouteFrom(t *testing.T) {
	t.Parallel()
	a := netip.MustParseAddr("127.0.0.1")
	i, ok := routeFrom(a, a)
	if !ok {
		t.Skip("the kernel does not tell routes (no netlink here)")
	}
	// A local route is no way out, whatever interface it names.
	if lo, err := net.InterfaceByName("lo"); err == nil && i != 0 && i != lo.Index {
		t.Errorf("loopback leaves by interface %d", i)
	}
}

// Answers of the kernel's, whole, cut and changed: none makes it panic.
func TestReadRoute(t *testing.T) {
	t.Parallel()
	answer := func(kind uint16, body []byte) []byte {
		b := make([]byte, unix.SizeofNlMsghdr, 64)
		binary.NativeEndian.PutUint16(b[4:], kind)
		b = append(b, body...)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		return b
	}
	route := func(kind byte) []byte {
		b := []byte{unix.AF_INET, 32, 32, 0, 0, 0, 0, kind, 0, 0, 0, 0}
		b = binary.NativeEndian.AppendUint16(b, 8)
		b = binary.NativeEndian.AppendUint16(b, unix.RTA_OIF)
		return binary.NativeEndian.AppendUint32(b, 7)
	}
	fault := func(n unix.Errno) []byte {
		return binary.NativeEndian.AppendUint32(make([]byte, 0, 4), uint32(-int32(n)))
	}
	for _, tt := range []struct {
		what  string
		b     []byte
		index int
		ok    bool
	}{
		{"a route", answer(unix.RTM_NEWROUTE, route(unix.RTN_UNICAST)), 7, true},
		{"a black hole", answer(unix.RTM_NEWROUTE, route(unix.RTN_BLACKHOLE)), 0, true},
		{"no route", answer(unix.NLMSG_ERROR, fault(unix.ENETUNREACH)), 0, true},
		{"not allowed to ask", answer(unix.NLMSG_ERROR, fault(unix.EPERM)), 0, false},
		{"something else", answer(unix.RTM_NEWLINK, make([]byte, 16)), 0, false},
		{"nothing", nil, 0, false},
	} {
		if i, ok := readRoute(tt.b); i != tt.index || ok != tt.ok {
			t.Errorf("%s: %d, %v, want %d, %v", tt.what, i, ok, tt.index, tt.ok)
		}
		for n := range tt.b {
			readRoute(tt.b[:n])
			b := append([]byte(nil), tt.b...)
			b[n] ^= 0xff
			readRoute(b)
			infoKind(b)
		}
	}
}
