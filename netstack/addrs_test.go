package netstack

import (
	"net"
	"net/netip"
	"reflect"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

// Not parallel: it counts allocations.
func TestTCPAddrs(t *testing.T) {
	for _, x := range [][2]string{
		{"192.0.2.1:80", "198.51.100.7:65535"},
		{"[2001:db8::1]:0", "[2001:db8::2]:1"},
		{"[fe80::1%eth0]:7", "[::ffff:192.0.2.1]:8"},
	} {
		l, r := netip.MustParseAddrPort(x[0]), netip.MustParseAddrPort(x[1])
		gotL, gotR := tcpAddrs(l, r)
		if !reflect.DeepEqual(gotL, net.TCPAddrFromAddrPort(l)) || !reflect.DeepEqual(gotR, net.TCPAddrFromAddrPort(r)) {
			t.Errorf("%v and %v, want %v and %v", gotL, gotR, l, r)
		}
		if _ = append(gotL.IP, 9); !reflect.DeepEqual(gotR, net.TCPAddrFromAddrPort(r)) {
			t.Error("one address reaches into the other")
		}
	}
	if l, r := tcpAddrs(netip.AddrPort{}, netip.AddrPort{}); !reflect.DeepEqual(l, net.TCPAddrFromAddrPort(netip.AddrPort{})) || r == nil {
		t.Errorf("%v", l)
	}
	if n := yardstick.Allocs(100, func() { tcpAddrs(netip.AddrPort{}, netip.AddrPort{}) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
