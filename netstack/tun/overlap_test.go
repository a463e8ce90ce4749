package tun

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// What a host may have already, and whether LSIs beside it hide something.
func TestCheckPrefix(t *testing.T) {
	const none, six = "", "2001:20::/28"
	for _, c := range []struct {
		what string
		lsis string
		have network
		free string // what the error proposes; "-": it proposes nothing; none: there is no error
	}{
		{"the default route", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("0.0.0.0/0"), device: "eth0"}, none},
		{"half of everything, as VPNs have it", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("128.0.0.0/1"), device: "tun0"}, none},
		{"everything but private networks", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("196.0.0.0/6"), device: "wg0"}, none},
		{"the benchmark network", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/15"), device: "eth1"}, "10.198.0.0/16"},
		{"half of it", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/16"), device: "eth1"}, "198.19.0.0/16"},
		{"the other half", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.19.0.0/16"), device: "eth1"}, none},
		{"one host of it", "198.19.0.0/16", network{prefix: netip.MustParsePrefix("198.19.7.7/32"), device: "eth1"}, "198.18.0.0/16"},
		{"an own address", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.7.0/24"), device: "eth0", address: true}, "198.19.0.0/16"},
		{"a part of the office", "10.198.0.0/16", network{prefix: netip.MustParsePrefix("10.0.0.0/8"), device: "eth0"}, "198.18.0.0/16"},
		{"the LSIs of another node", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/16"), device: "idloc0", ours: true}, "198.19.0.0/16"},
		{"a blackhole for what is nobody's", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/15"), reject: true}, none},
		{"what stands behind a device", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/16"), reject: true, metric: 5000}, none},
		{"what a crash left", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.9.0/24"), reject: true, ours: true, metric: guardMetric}, none},
		{"a blackhole in place of the device", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.0.0/16"), reject: true}, "198.19.0.0/16"},
		{"a blackhole in the middle", "198.18.0.0/16", network{prefix: netip.MustParsePrefix("198.18.9.0/24"), reject: true, metric: 9}, "198.19.0.0/16"},
		{"another family", "198.18.0.0/16", network{prefix: netip.MustParsePrefix(six), device: "hip0"}, none},
		{"another user of ORCHIDs", six, network{prefix: netip.MustParsePrefix(six), device: "hip0"}, "-"},
		{"one ORCHID", six, network{prefix: netip.MustParsePrefix("2001:21::1/128"), device: "hip0", address: true}, "-"},
		{"all that is routed", six, network{prefix: netip.MustParsePrefix("2000::/3"), device: "eth0"}, none},
		{"what stands behind a device", six, network{prefix: netip.MustParsePrefix(six), reject: true, metric: 5000}, none},
		{"a blackhole before the device", six, network{prefix: netip.MustParsePrefix(six), reject: true, metric: 1024}, "-"},
	} {
		err := checkPrefix(netip.MustParsePrefix(c.lsis), []network{c.have})
		if c.free == none {
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		var p *PrefixError
		if !errors.As(err, &p) || !errors.Is(err, syscall.EEXIST) {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if c.free == "-" && p.Free.IsValid() || c.free != "-" && p.Free.String() != c.free {
			t.Errorf("%s: proposes %v", c.what, p.Free)
		}
		for _, part := range []string{c.lsis, c.have.prefix.String(), c.have.device} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not name %s", c.what, err, part)
			}
		}
		if c.free != "-" && !strings.Contains(err.Error(), "LSIPrefix") {
			t.Errorf("%s: %q does not say what to set", c.what, err)
		}
	}
}

// What somebody reads whose network is where LSIs would be.
func TestPrefixErrorText(t *testing.T) {
	err := checkPrefix(netip.MustParsePrefix("198.18.0.0/16"), []network{{prefix: netip.MustParsePrefix("198.18.0.0/15"), device: "eth1"}})
	const want = "tun: LSIs cannot be in 198.18.0.0/16: this host has a route to 198.18.0.0/15 by eth1; Config.LSIPrefix chooses others, 10.198.0.0/16 is free"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// A host that has everything gets no proposal, but an error all the same.
func TestNoPrefixIsFree(t *testing.T) {
	var have []network
	for _, p := range spare {
		have = append(have, network{prefix: p, device: "eth0"})
	}
	var p *PrefixError
	if err := checkPrefix(spare[0], have); !errors.As(err, &p) || p.Free.IsValid() {
		t.Errorf("%v", err)
	}
}
