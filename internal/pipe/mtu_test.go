package pipe

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// The size that is found is what the path takes, up to what the interface does; no
// more than four sizes beyond Ethernet's are tried for it.
func TestLargeFrames(t *testing.T) {
	for _, c := range []struct {
		what       string
		addr       string
		link, path int // MTU of the interface, UDP payload that the path takes
		want       int
	}{
		{"Ethernet", "192.0.2.%d:1000", 1500, 1472, 1472},
		{"an interface that says nothing", "192.0.2.%d:1000", 0, 65507, 1472},
		{"less than Ethernet is tried all the same", "192.0.2.%d:1000", 1400, 1472, 1472},
		{"jumbo frames", "192.0.2.%d:1000", 9000, 8972, 8972},
		{"jumbo frames, IPv6", "[2001:db8::%d]:1000", 9000, 8952, 8952},
		{"9001", "192.0.2.%d:1000", 9001, 8973, 8973},
		{"8896", "192.0.2.%d:1000", 8896, 8868, 8868},
		{"8896 behind 9001", "192.0.2.%d:1000", 9001, 8868, 8848},
		{"Ethernet behind jumbo frames", "192.0.2.%d:1000", 9000, 1472, 1472},
		{"a tunnel behind jumbo frames", "192.0.2.%d:1000", 9000, 1400, 1392},
		{"65535 by a host's own network", "192.0.2.%d:1000", 65535, 65507, 65472},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(time.Millisecond)
				at := func(i int) string { return fmt.Sprintf(c.addr, i) }
				a, b := newHost(t, n, 1, at(1)), newHost(t, n, 2, at(2))
				a.s.link, b.s.link = c.link, c.link
				var sizes []int // beyond Ethernet's that a has tried
				n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
					if from == a.s.addr && d[0] == wire.TypeCtrl && len(d) > 1472 && !slices.Contains(sizes, len(d)) {
						sizes = append(sizes, len(d))
					}
					return len(d) > c.path
				})
				sa, sb := sessionsOf(t, a, b, 0)
				pa, _ := up(t, a, b, sa, sb)
				settle(5 * time.Second)
				if got := pa.Status().MTU; got != c.want {
					t.Errorf("found %d, want %d", got, c.want)
				}
				if len(sizes) > 4 || len(sizes) > 0 && slices.Max(sizes) > c.link-headers4 {
					t.Errorf("tried %v", sizes)
				}
				pa.Close(nil)
			})
		})
	}
}
