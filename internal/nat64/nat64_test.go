package nat64

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

// The table of RFC 6052 §2.4.
var vectors = []struct{ prefix, embedded string }{
	{"2001:db8::/32", "2001:db8:c000:221::"},
	{"2001:db8:100::/40", "2001:db8:1c0:2:21::"},
	{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::"},
	{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"},
	{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"},
	{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"},
	{"64:ff9b::/96", "64:ff9b::192.0.2.33"},
}

func TestVectors(t *testing.T) {
	four := netip.MustParseAddr("192.0.2.33")
	for _, v := range vectors {
		p, want := netip.MustParsePrefix(v.prefix), netip.MustParseAddr(v.embedded)
		if got := Embed(p, four); got != want {
			t.Errorf("%v of %v is %v, want %v", four, p, got, want)
		}
		if got, ok := Extract(p, want); !ok || got != four {
			t.Errorf("in %v with %v stands %v, %v", want, p, got, ok)
		}
		b := want.As16()
		for i := p.Bits() / 8; i < 16; i++ { // u, suffix and the address itself: any other one is another address or none
			c := b
			c[i] ^= 0x41
			if got, ok := Extract(p, netip.AddrFrom16(c)); ok && got == four {
				t.Errorf("in %v with %v stands %v", netip.AddrFrom16(c), p, got)
			}
		}
		if _, ok := Extract(p, netip.MustParseAddr("2a00::1")); ok {
			t.Errorf("%v has everything in it", p)
		}
	}
}

func TestUsable(t *testing.T) {
	for text, want := range map[string]bool{
		"64:ff9b::/96": true, "64:ff9b:1::/48": true, "64:ff9b:1:2::/96": true, "2a00:1::/32": true, "2a00:1:200::/40": true, "2a00:1:2::/40": false,
		"2a00:1:2::/48": true, "2a00:1:2:300::/56": true, "2a00:1:2:3::/64": true, "2a00:1:2:3::/96": true, "fd00:64::/96": true,
		"64:ff9b::/64": false, "64:ff9b::/48": false, "64:ff9b::/32": false, "2a00:1:2:3::/80": false, "2a00::/24": false, "::/96": false, "::ffff:0:0/96": false,
		"2a00:1:2:3:100::/96": false, "2a00:1::1/96": false, "fe80::/96": false, "ff02::/96": false, "100::/96": false,
		"2001:20::/96": false, "2002:c000:221::/96": false, "192.0.0.0/32": false, "2001:2f:1::/96": false, "2001:0:c000:221::/96": false, "3fff::/96": false,
	} {
		if got := Usable(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if Usable(netip.Prefix{}) {
		t.Error("no prefix is usable")
	}
}

func TestTranslatable(t *testing.T) {
	for text, want := range map[string]bool{
		"200.0.0.1": true, "8.8.8.8": true, "192.0.1.1": true, "10.1.2.3": false, "192.168.1.1": false, "127.0.0.1": false,
		"169.254.1.1": false, "100.64.0.1": false, "0.1.2.3": false, "224.0.0.1": false, "255.255.255.255": false, "192.0.0.6": false,
		"198.18.0.1": false, "2a00::1": false, "::ffff:8.8.8.8": false,
	} {
		if got := Translatable(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if Translatable(netip.Addr{}) {
		t.Error("no address is translated")
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		what    string
		answers []string
		want    string
	}{
		{"both, well known", []string{"64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"}, "64:ff9b::/96"},
		{"one", []string{"64:ff9b::192.0.0.171"}, "64:ff9b::/96"},
		{"/32", []string{"2a00:1:c000:aa::", "2a00:1:c000:ab::"}, "2a00:1::/32"},
		{"/40", []string{"2a00:1:1c0:0:aa::"}, "2a00:1:100::/40"},
		{"/48", []string{"2a00:1:122:c000:0:aa00::"}, "2a00:1:122::/48"},
		{"/56", []string{"2a00:1:122:3c0:0:aa::"}, "2a00:1:122:300::/56"},
		{"/64", []string{"2a00:1:122:344:c0:0:aa00:0"}, "2a00:1:122:344::/64"},
		{"/96", []string{"2a00:1:122:344::c000:aa"}, "2a00:1:122:344::/96"},
		{"one that looks like two", []string{"2a00:1:c000:aa::c000:aa"}, "2a00:1:c000:aa::/96"},
		{"two networks' NAT64: the first", []string{"64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171", "2a00::c000:aa", "2a00::c000:ab"}, "64:ff9b::/96"},
		{"one of each of two", []string{"64:ff9b::192.0.0.170", "2a00::c000:ab"}, ""},
		{"another address", []string{"64:ff9b::192.0.0.172", "64:ff9b::8.8.8.8"}, ""},
		{"a search domain with a wildcard", []string{"2a00:1::1"}, ""},
		{"IPv4 as such", []string{"192.0.0.170", "::ffff:192.0.0.170", "::192.0.0.170"}, ""},
		{"multicast, link-local, LSIs", []string{"ff02::c000:aa", "fe80::c000:aa", "2001:20::c000:aa"}, ""},
		{"none", nil, ""},
	} {
		var in []netip.Addr
		for _, a := range c.answers {
			in = append(in, netip.MustParseAddr(a))
		}
		p, ok := Parse(in)
		if got := p.String(); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s: %v, %v; want %q", c.what, p, ok, c.want)
		}
	}
}

func TestDiscover(t *testing.T) {
	var asked string
	answer := func(err error, text ...string) Lookup {
		return func(_ context.Context, host string) (out []netip.Addr, _ error) {
			asked = host
			for _, a := range text {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, err
		}
	}
	p, err := Discover(t.Context(), answer(nil, "64:ff9b::192.0.0.170"))
	if err != nil || p != WellKnown || asked != "ipv4only.arpa." {
		t.Errorf("%v, %v of %q", p, err, asked)
	}
	if _, err := Discover(t.Context(), answer(&net.DNSError{IsNotFound: true})); !errors.Is(err, ErrNone) {
		t.Errorf("no such name: %v", err)
	}
	if _, err := Discover(t.Context(), answer(nil, "2a00::1")); !errors.Is(err, ErrNone) {
		t.Errorf("something else: %v", err)
	}
	if _, err := Discover(t.Context(), answer(&net.DNSError{IsTimeout: true})); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("silence: %v", err)
	}
}

func TestAllocates(t *testing.T) {
	p, a := netip.MustParsePrefix("2a00:1:2:3::/64"), netip.MustParseAddr("200.0.0.1")
	if n := yardstick.Allocs(100, func() {
		if b, ok := Extract(p, Embed(p, a)); !ok || b != a || !Translatable(b) {
			t.Fatal(b)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: whatever a resolver says, what is made of it is a prefix that could be a
// NAT64's, with which at least one of the answers is one of the two addresses, and what
// is translated with it is read back.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"64:ff9b::/96", "2a00:1::/32", "2a00:1:100::/40", "2a00:1:122::/48", "2a00:1:122:300::/56", "2a00:1:122:344::/64", "fd00:64::/96"} {
		p := netip.MustParsePrefix(text)
		a, b := Embed(p, wellKnown4[0]).As16(), Embed(p, wellKnown4[1]).As16()
		f.Add(append(a[:], b[:]...), uint32(0xc8000001))
	}
	f.Fuzz(func(t *testing.T, raw []byte, four uint32) {
		var answers []netip.Addr
		for ; len(raw) >= 16; raw = raw[16:] {
			answers = append(answers, netip.AddrFrom16([16]byte(raw)))
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			answers = append(answers, a)
		}
		p, ok := Parse(answers)
		if !ok {
			return
		}
		if !Usable(p) {
			t.Fatalf("%v", p)
		}
		seen := false
		for _, a := range answers {
			got, ok := Extract(p, a)
			seen = seen || ok && (got == wellKnown4[0] || got == wellKnown4[1])
		}
		if !seen {
			t.Fatalf("%v of %v", p, answers)
		}
		a := netip.AddrFrom4([4]byte{byte(four >> 24), byte(four >> 16), byte(four >> 8), byte(four)})
		at := Embed(p, a)
		if got, ok := Extract(p, at); !ok || got != a || !p.Contains(at) || at.As16()[uOctet] != 0 {
			t.Fatalf("%v with %v is %v, and back %v", a, p, at, got)
		}
	})
}
