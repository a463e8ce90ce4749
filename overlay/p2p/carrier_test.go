package p2p

import (
	"net/netip"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
)

func TestCarrier(t *testing.T) {
	for text, want := range map[string]string{
		"tls://vpn.example.org":          "/dns/vpn.example.org/tcp/443/tls",
		"tls://192.0.2.1:8443":           "/ip4/192.0.2.1/tcp/8443/tls",
		"tls://[2001:db8::1]:443":        "/ip6/2001:db8::1/tcp/443/tls",
		"wss://vpn.example.org/idloc":    "/dns/vpn.example.org/tcp/443/tls/ws/http-path/%2Fidloc",
		"wss://vpn.example.org:1/a%20b/": "/dns/vpn.example.org/tcp/1/tls/ws/http-path/%2Fa+b%2F",
		"wss://[2001:db8::1]/":           "/ip6/2001:db8::1/tcp/443/tls/ws/http-path/%2F",
	} {
		a, err := carrier.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Carrier(a)
		if err != nil || m.String() != want {
			t.Errorf("%s is %v, %v; want %s", text, m, err, want)
			continue
		}
		if got, ok := CarrierAddress(m); !ok || got != a {
			t.Errorf("%v is %v, %v", m, got, ok)
		}
		at, ok := Place(m)
		if !ok || at != a.Remote() {
			t.Errorf("%v is at %v, %v", m, at, ok)
		}
		if far, ok := FarEnd(m); !ok || far != at || !Carried(m) {
			t.Errorf("the far end of %v is %v, %v", m, far, ok)
		}
		if udp, ok := AddrPort(m); ok {
			t.Errorf("%v is reached by UDP at %v", m, udp)
		}
	}
	for _, text := range []string{
		"/ip4/192.0.2.1/tcp/443", "/dns/vpn.example.org/tcp/443/ws", "/dns/vpn.example.org/tcp/443/tls/ws", "/dns4/vpn.example.org/tcp/443/tls",
		"/dns/vpn.example.org/udp/443/quic-v1", "/dns/vpn.example.org/tcp/0/tls", "/ip4/0.0.0.0/tcp/443/tls", "/dns/vpn.example.org/tcp/443/tls/http-path/x/ws",
	} {
		m, err := ma.NewMultiaddr(text)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := CarrierAddress(m); ok {
			t.Errorf("%s is the carrier %v", text, a)
		}
	}
}

// The far end of a carrier that somebody else has opened is an address of the port's, and
// none that is used or told for UDP.
func TestFarEnd(t *testing.T) {
	at := netip.MustParseAddrPort("[100::8000:0:0:7]:443")
	m := QUIC(at)
	if got, ok := AddrPort(m); ok {
		t.Errorf("it is told as %v", got)
	}
	if got, ok := Place(m); ok {
		t.Errorf("it is charged as %v", got)
	}
	if got, ok := FarEnd(m); !ok || got != at || !Carried(m) {
		t.Errorf("it is %v, %v", got, ok)
	}
	if Carried(QUIC(netip.MustParseAddrPort("[2001:db8::1]:443"))) {
		t.Error("an address of UDP is carried")
	}
}

func FuzzCarrierAddress(f *testing.F) {
	for _, s := range []string{"/dns/vpn.example.org/tcp/443/tls", "/ip6/2001:db8::1/tcp/443/tls/ws/http-path/%2Fx", "/ip4/192.0.2.1/udp/1/quic-v1"} {
		m, err := ma.NewMultiaddr(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return
		}
		a, ok := CarrierAddress(m)
		if !ok {
			return
		}
		again, err := Carrier(a)
		if err != nil {
			t.Fatalf("%v is %v, which is no multiaddr: %v", m, a, err)
		}
		if b, ok := CarrierAddress(again); !ok || b != a {
			t.Fatalf("%v is %v, and that is %v, which is %v", m, a, again, b)
		}
	})
}
