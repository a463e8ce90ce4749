package nat

import (
	"context"
	"net/netip"
	"slices"
	"testing"
)

func addrPorts(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, t := range texts {
		out = append(out, netip.MustParseAddrPort(t))
	}
	return out
}

// Whom this host asks how it looks from outside: those that see most of the way first,
// each once, and those remembered only while nobody is there.
func TestSTUNSources(t *testing.T) {
	t.Parallel()
	const (
		far    = "203.0.113.1:443"
		far2   = "198.51.100.1:443"
		near   = "192.168.1.9:443"
		given  = "203.0.113.9:3478"
		mapped = "[::ffff:203.0.113.1]:443"
	)
	configured, err := ParseICEServers([]string{"stun:" + given, "turn:a:b@198.51.100.7:3478?transport=tcp"})
	if err != nil {
		t.Fatal(err)
	}
	remote := func(at string, server bool) Remote { return Remote{netip.MustParseAddrPort(at), server} }
	for name, c := range map[string]struct {
		configured []ICEServer
		connected  []Remote
		remembered []netip.AddrPort
		want       []netip.AddrPort
	}{
		"nobody":         {nil, nil, nil, nil},
		"all of it":      {configured, []Remote{remote(near, false), remote(far2, true)}, addrPorts(far), addrPorts(given, far2, near)},
		"servers first":  {nil, []Remote{remote(far, false), remote(near, true), remote(far2, true)}, nil, addrPorts(far2, near, far)},
		"alone":          {nil, nil, addrPorts(near, far, far), addrPorts(far, near)},
		"one, two forms": {nil, []Remote{remote(mapped, true), remote(far, true)}, nil, addrPorts(far)},
		"only over TCP":  {configured[1:], nil, addrPorts(near), addrPorts(near)},
	} {
		var told []netip.AddrPort
		s := &STUNSources{
			Configured: c.configured, Given: func(at ...netip.AddrPort) { told = append(told, at...) }, Plain: func(a netip.Addr) netip.Addr { return a },
			Connected:  func() []Remote { return c.connected },
			Remembered: func() []netip.AddrPort { return c.remembered },
		}
		if got := s.Servers(t.Context()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if slices.ContainsFunc(told, func(at netip.AddrPort) bool { return at.String() != given }) {
			t.Errorf("%s: the user has given %v", name, told)
		}
	}
	// A server whose name cannot be found in time leaves the others.
	named, err := ParseICEServers([]string{"stun:stun.invalid:3478", "stun:" + given})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	plain := func(a netip.Addr) netip.Addr {
		if a == netip.MustParseAddr("64:ff9b::c800:1") {
			return netip.MustParseAddr("200.0.0.1")
		}
		return a
	}
	s := &STUNSources{Configured: named, Given: func(...netip.AddrPort) {}, Plain: plain, Connected: func() []Remote { return nil }, Remembered: func() []netip.AddrPort { return nil }}
	if got := s.Servers(ctx); !slices.Equal(got, addrPorts(given)) {
		t.Errorf("a name that is not found: %v", got)
	}
	// What DNS64 makes of a server's address is that address.
	if s.Configured, err = ParseICEServers([]string{"stun:[64:ff9b::c800:1]:3478", "stun:200.0.0.1:3478"}); err != nil {
		t.Fatal(err)
	}
	if got := s.Servers(ctx); !slices.Equal(got, addrPorts("200.0.0.1:3478")) {
		t.Errorf("behind a NAT64: %v", got)
	}
}
