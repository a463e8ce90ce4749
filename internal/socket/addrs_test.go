package socket

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pion/transport/v3/vnet"
)

func TestChoose(t *testing.T) {
	ipnets := func(list ...string) (out []net.Addr) {
		for _, s := range list {
			ip, n, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return out
	}
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, x := range []struct {
		what string
		have []net.Addr
		list []netip.Addr
		want []netip.Addr
	}{
		{"real ones before loopback", ipnets("127.0.0.1/8", "::1/128", "192.0.2.2/24"), nil, addrs("192.0.2.2")},
		{"loopback if nothing else", ipnets("127.0.0.1/8", "::1/128", "fe80::1/64"), nil, addrs("127.0.0.1", "::1")},
		{"no LSIs, no link-local", ipnets("198.18.0.1/16", "198.19.7.7/32", "2001:20::5/28", "169.254.1.1/16", "fe80::9/64", "2001:db8::5/64"), nil, addrs("2001:db8::5")},
		{"the same twice", append(ipnets("192.0.2.2/24", "192.0.2.2/32"), &net.IPAddr{IP: net.ParseIP("192.0.2.3")}), nil, addrs("192.0.2.2", "192.0.2.3")},
		{"only what is listed and there", ipnets("127.0.0.1/8", "192.0.2.2/24", "192.0.2.3/24"), addrs("192.0.2.3", "192.0.2.9", "127.0.0.7", "::ffff:192.0.2.3"), addrs("192.0.2.3", "127.0.0.7")},
	} {
		have := appendAddrs(nil, Interface{}, x.have)
		var chosen []localAddr
		if x.list == nil {
			chosen = choose(have)
		} else {
			chosen = pick(have, x.list)
		}
		var got []netip.Addr
		for _, c := range chosen {
			got = append(got, c.addr)
			if !c.net.Contains(c.addr) {
				t.Errorf("%s: %v is not in %v", x.what, c.addr, c.net)
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, want %v", x.what, got, x.want)
		}
	}
}

// Where the host's only address is in a range of LSIs, what fails for the lack of
// one says so, and what to do about it; not of a TUN device, and not of the other
// family.
func TestOnlyAddressIsAnLSI(t *testing.T) {
	simulate(t, func(t *testing.T, nets []*vnet.Net) {
		n := &movingNet{Net: nets[0], addrs: []string{"198.18.5.9"}}
		for _, x := range []struct {
			addr    string
			notReal []netip.Prefix
		}{{"198.18.5.9", nil}, {"10.9.0.7", []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}} {
			n.set(x.addr)
			_, err := Listen(Config{Net: n, NotReal: x.notReal})
			if !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), x.addr+" was taken for an LSI") || !strings.Contains(err.Error(), "Config.Addrs") {
				t.Errorf("no address but %s: %v", x.addr, err)
			}
		}
		n.set("127.0.0.1", "198.18.5.9")
		p, err := Listen(Config{Net: n})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		v, err := p.ListenQUIC("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		to := &net.UDPAddr{IP: net.ParseIP("192.0.2.9"), Port: 1}
		if _, err := v.WriteTo(shortPacket(30), to); !errors.Is(err, ErrNoSource) || !strings.Contains(err.Error(), "198.18.5.9 was taken for an LSI") {
			t.Errorf("a write from loopback: %v", err)
		}
		if err := p.NoSource(netip.MustParseAddr("::ffff:192.0.2.9")); !strings.Contains(err.Error(), "198.18.5.9 was taken for an LSI") {
			t.Errorf("who asks: %v", err)
		}
		six := &net.UDPAddr{IP: net.ParseIP("2001:db8::9"), Port: 1}
		if _, err := v.WriteTo(shortPacket(30), six); !errors.Is(err, ErrNoSource) || strings.Contains(err.Error(), "LSI") {
			t.Errorf("a write in the other family: %v", err)
		}
	}, "192.0.2.2")

	p := silentPort(t, "127.0.0.1")
	p.leaveOut([]localAddr{{addr: netip.MustParseAddr("198.18.0.1"), net: netip.MustParsePrefix("198.18.0.1/32")}})
	if err := p.explain(ErrNoSource, netip.Addr.Is4); err != ErrNoSource {
		t.Errorf("a TUN device's address is blamed: %v", err)
	}
}

func TestKindOf(t *testing.T) {
	var n [kinds]int
	for i := range 256 {
		n[kindOf(byte(i))]++
	}
	if n != [kinds]int{60, 4, 64, 128} {
		t.Errorf("bytes per kind: %v", n)
	}
}
