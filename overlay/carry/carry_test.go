package carry

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A stream may come from any address of this host: those of a node that listens on some
// are not ended for it.
func TestHostAddrs(t *testing.T) {
	t.Parallel()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Skip("this system does not tell its addresses: ", err)
	}
	got, ok := hostAddrs()
	if !ok || len(got) < len(all) {
		t.Errorf("%v of %v", got, all)
	}
	for _, a := range all {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if !slices.Contains(got, ip.Unmap()) {
			t.Errorf("%v is not among %v", ip, got)
		}
	}
}

// Without carriers nothing is asked of anybody.
func TestNoCarriers(t *testing.T) {
	t.Parallel()
	(&Carriers{}).Moved()
	s := carrier.New(carrier.Config{})
	(&Carriers{Config: Config{Set: s}}).Moved()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
