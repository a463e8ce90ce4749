package carrier

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"tls://vpn.example.org":            "tls://vpn.example.org:443",
		"tls://VPN.Example.org.:8443/":     "tls://vpn.example.org:8443",
		"tls://192.0.2.1:443":              "tls://192.0.2.1:443",
		"tls://[2001:db8::1]":              "tls://[2001:db8::1]:443",
		"wss://vpn.example.org/idloc":      "wss://vpn.example.org/idloc",
		"wss://vpn.example.org:443/a%20b":  "wss://vpn.example.org/a%20b",
		"wss://vpn.example.org":            "wss://vpn.example.org/",
		"wss://vpn.example.org:8443/idloc": "wss://vpn.example.org:8443/idloc",
		"wss://[2001:db8::1]/idloc":        "wss://[2001:db8::1]/idloc",
		"tls://[::ffff:192.0.2.1]:443":     "tls://192.0.2.1:443",
		"tls://my_host-1:1":                "tls://my_host-1:1",
		"TLS://vpn.example.org":            "tls://vpn.example.org:443",
	} {
		a, err := ParseAddress(text)
		if err != nil || a.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, a, err, want)
			continue
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a && strings.TrimSuffix(a.Path, "/") != "" {
			t.Errorf("%q is not read again: %v, %v", a, again, err)
		}
	}
	for _, text := range []string{
		"", "vpn.example.org", "http://vpn.example.org", "ws://vpn.example.org/x", "tls://", "tls://:443", "tls://h:0", "tls://h:65536",
		"tls://h/path", "tls://user:pw@h", "wss://h/x?y=1", "wss://h/x#y", "tls:h", "tls://a..b", "tls://h h", "tls://0.0.0.0", "tls://[::]",
		"tls://224.0.0.1", "tls://[fe80::1]", "tls://[fe80::1%25eth0]", "tls://[100::4000:0:0:1]", "wss://h/" + strings.Repeat("x", maxPath),
		"tls://" + strings.Repeat("x", 64), "tls://" + strings.Repeat("x.", 150) + "x",
	} {
		if a, err := ParseAddress(text); err == nil {
			t.Errorf("%q is %v", text, a)
		}
	}
	if s := (Address{}).String(); s != "" {
		t.Errorf("no address is %q", s)
	}
}

// Far ends are nobody's real address.
func TestRemote(t *testing.T) {
	a, _ := ParseAddress("tls://vpn.example.org:443")
	b, _ := ParseAddress("wss://vpn.example.org/idloc")
	if a.Remote() == b.Remote() {
		t.Errorf("%v and %v", a.Remote(), b.Remote())
	}
	for _, at := range []Address{a, b} {
		if r := at.Remote().Addr(); !Prefix.Contains(r) || Accepted(r) || r == Local {
			t.Errorf("%v is at %v", at, r)
		}
	}
	if !Prefix.Contains(Local) || Accepted(Local) || !Accepted(farEnd(acceptedBit|7).Addr()) {
		t.Error("near and far ends are mixed up")
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"tls://vpn.example.org:443", "wss://h:1/a%2fb", "tls://[::1]:2", "wss://[2001:db8::1]/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		again, err := ParseAddress(a.String())
		if err != nil || again.String() != a.String() {
			t.Fatalf("%q is %q, and that is %q, %v", s, a, again, err)
		}
		if !Prefix.Contains(a.Remote().Addr()) {
			t.Fatalf("%q is at %v", s, a.Remote())
		}
	})
}
