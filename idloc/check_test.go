package idloc_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/overlay/membership"
)

// textsOfMistakes are values that can only be mistakes: a node does not run with
// something else in their place.
func textsOfMistakes(t *testing.T) {
	t.Parallel()
	create := func(domain string, cfg idloc.Config) error {
		if cfg.Addrs == nil {
			cfg.Addrs = loopback
		}
		if cfg.Name == "" {
			cfg.Name = "earth"
		}
		n, err := idloc.Create(t.Context(), domain, cfg)
		if err == nil {
			n.Close()
		}
		return err
	}
	name := func(s string) error { return create("example.com", idloc.Config{Name: s}) }
	domain := func(s string) error { return create(s, idloc.Config{}) }
	prefix := func(s string) error {
		return create("example.com", idloc.Config{LSIPrefix: netip.MustParsePrefix(s)})
	}
	server := func(s string) error { return create("example.com", idloc.Config{ICEServers: []string{s}}) }
	addrs := func(all ...netip.Addr) error { return create("example.com", idloc.Config{Addrs: all}) }
	ip := netip.MustParseAddr
	badLabel, badDomain := []error{membership.ErrBadLabel}, []error{membership.ErrBadDomain}
	const label = `idloc: Config\.Name: not a host label: `
	const top = ` is a top-level domain: found one below it, "example\.\w+", or take one of alt, corp, example, home, internal, lan, test`
	const public = ` is, at least in part, in use on the internet: take a part of LSI/15, 100\.64\.0\.0/10 or of a private range`
	const noInterface = `; no Addrs are all addresses of this host`
	check(t,
		provoked{"a name with an umlaut", name("mün"), label + `"mün": only a-z, 0-9 and hyphens; "m-n" would do`, badLabel},
		provoked{"a name in other letters", name("火星"), label + `"火星": only a-z, 0-9 and hyphens`, badLabel},
		provoked{"a name with a space", name("mars "), label + `"mars ": only a-z, 0-9 and hyphens; "mars" would do`, badLabel},
		provoked{"a name with a dot", name("a.b"), label + `"a\.b" has a dot: the label alone is wanted, "a"`, badLabel},
		provoked{"a full name", name("earth.example.com"), label + `"earth\.example\.com" has a dot: the label alone is wanted, "earth"`, badLabel},
		provoked{"a name that begins with a dot", name(".b"), label + `"\.b": only a-z, 0-9 and hyphens`, badLabel},
		provoked{"a name that ends with a hyphen", name("a-"), label + `"a-": begins or ends with a hyphen; "a" would do`, badLabel},
		provoked{"64 letters", name(strings.Repeat("a", 64)), label + `"a{64}" is longer than 59 characters, which leave room for -2 and so on; "a{59}" would do`, badLabel},
		provoked{"60 letters", name(strings.Repeat("a", 60)), label + `"a{60}" is longer than 59 characters, which leave room for -2 and so on; "a{59}" would do`, badLabel},
		provoked{"a name like a peer ID", name("k51qzi5uqu5"), label + `"k51qzi5uqu5" looks like a peer ID`, badLabel},
		provoked{"a domain that is an address", domain("192.0.2.1"), `idloc: not a domain: "192\.0\.2\.1" is an address: a name is wanted, such as example\.internal`, badDomain},
		provoked{"a domain that ends with a number", domain("example.7"), `idloc: not a domain: "example\.7" ends with a number, and programs take such names for addresses`, badDomain},
		provoked{"a domain that ends with a hexadecimal number", domain("example.0x7f"), `idloc: not a domain: "example\.0x7f" ends with a number, and programs take such names for addresses`, badDomain},
		provoked{"a domain with an umlaut", domain("münchen.example"), `idloc: not a domain: "münchen\.example" has the label "münchen": only a-z, 0-9 and hyphens; others are written as xn--… \(RFC 5890\)`, badDomain},
		provoked{"a top-level domain", domain("com"), `idloc: not a domain: "com"` + top, badDomain},
		provoked{"the name of this host", domain("localhost."), `idloc: not a domain: "localhost"` + top, badDomain},
		provoked{"LSIs on the internet", prefix("8.8.8.0/24"), `idloc: Config\.LSIPrefix: 8\.8\.8\.0/24` + public, nil},
		provoked{"LSIs partly on the internet", prefix("198.16.0.0/13"), `idloc: Config\.LSIPrefix: 198\.16\.0\.0/13` + public, nil},
		provoked{"LSIs on loopback", prefix("127.1.0.0/16"), `idloc: Config\.LSIPrefix: 127\.1\.0\.0/16: unspecified, loopback, link-local and multicast addresses cannot be LSIs`, nil},
		provoked{"few LSIs", prefix("10.0.0.0/30"), `idloc: Config\.LSIPrefix: 10\.0\.0\.0/30: length must be /8 to /29`, nil},
		provoked{"LSIs of IPv6", prefix("fd00::/64"), `idloc: Config\.LSIPrefix: fd00::/64: must be an IPv4 prefix`, nil},
		provoked{"turn://", server("turn://user:secret@192.0.2.1"), `idloc: Config\.ICEServers: ICE server "turn:…@192\.0\.2\.1": no // stands in such a URL \(RFC 7064, RFC 7065\): write turn:…@192\.0\.2\.1`, nil},
		provoked{"stun://", server("stun://192.0.2.1"), `idloc: Config\.ICEServers: ICE server "stun://192\.0\.2\.1": no // stands in such a URL \(RFC 7064, RFC 7065\): write stun:192\.0\.2\.1`, nil},
		provoked{"a server without its scheme", server("stun.example.com:3478"), `idloc: Config\.ICEServers: ICE server "stun\.example\.com:PORT": want stun:host:port, turn:user:password@host:port or turns:…`, nil},
		provoked{"any address", addrs(loopback[0], netip.IPv4Unspecified()), `idloc: Config\.Addrs: no interface has the address 0\.0\.0\.0` + noInterface, nil},
		provoked{"a group's address", addrs(ip("ff02::1")), `idloc: Config\.Addrs: no interface has the address ff02::1` + noInterface, nil},
		provoked{"the zero address", addrs(netip.Addr{}), `idloc: Config\.Addrs: the zero netip\.Addr is no address` + noInterface, nil},
		provoked{"others' addresses", addrs(ip("203.0.113.77"), ip("2001:db8::77")), `idloc: Config\.Addrs: this host has none of \[203\.0\.113\.77 2001:db8::77\] now: listen udp :0: no usable local address`, nil},
		provoked{"repair", create("example.com", idloc.Config{Repair: 77}), `idloc: Config\.Repair: no policy 77`, nil},
	)
}

// What was accepted before it was an error does not stop a node that has run with it:
// the node warns, and is the same as before.
func TestMistakesOfBefore(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		cfg  idloc.Config
		want []string // beginnings of the warnings
	}{
		"nothing":                 {idloc.Config{Name: "Earth"}, nil},
		"a machine's name":        {idloc.Config{}, nil},
		"a name with an umlaut":   {idloc.Config{Name: "mün"}, []string{`Config.Name "mün" is not used: this node is "earth"`, `Config.Name: not a host label: "mün"`}},
		"a name with a dot":       {idloc.Config{Name: "earth.example.com"}, []string{`Config.Name: not a host label: "earth.example.com" has a dot`}},
		"64 letters":              {idloc.Config{Name: strings.Repeat("a", 64)}, []string{`Config.Name "aaa`, `Config.Name: not a host label: "aaa`}},
		"another name":            {idloc.Config{Name: "venus"}, []string{`Config.Name "venus" is not used: this node is "earth"`}},
		"LSIs on the internet":    {idloc.Config{Name: "earth", LSIPrefix: netip.MustParsePrefix("8.8.8.0/24")}, []string{"Config.LSIPrefix: 8.8.8.0/24 is, at least in part, in use on the internet"}},
		"turn:// among others":    {idloc.Config{Name: "earth", ICEServers: []string{"stun:192.0.2.1", "turn://u:secret@192.0.2.2"}}, []string{`Config.ICEServers: ICE server "turn:…@192.0.2.2": no // stands in such a URL (RFC 7064, RFC 7065): write turn:…@192.0.2.2: a node that is new`}},
		"an address not there":    {idloc.Config{Name: "earth", Addrs: append([]netip.Addr{netip.MustParseAddr("203.0.113.77")}, loopback...)}, []string{"Config.Addrs: this host does not have 203.0.113.77 now"}},
		"an address in two forms": {idloc.Config{Name: "earth", Addrs: []netip.Addr{netip.AddrFrom16(loopback[0].As16())}}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "earth")
			n, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", Dir: dir, Addrs: loopback})
			if err != nil {
				t.Fatal(err)
			}
			if w := n.Status().Self.Warnings; len(w) > 0 {
				t.Errorf("warnings of a node that is new: %q", w)
			}
			n.Close()
			cfg, log := listened(dir)
			c.cfg.Dir, c.cfg.Logger = dir, cfg.Logger
			if c.cfg.Addrs == nil {
				c.cfg.Addrs = loopback
			}
			if n, err = idloc.Open(t.Context(), c.cfg); err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if n.Name() != "earth.example.com" {
				t.Errorf("it is %s now", n.Name())
			}
			warnings := n.Status().Self.Warnings
			if len(warnings) != len(c.want) {
				t.Fatalf("warnings: %q, want %q", warnings, c.want)
			}
			for i, w := range warnings {
				if !strings.HasPrefix(w, c.want[i]) {
					t.Errorf("%q, want %q", w, c.want[i])
				}
				if strings.Contains(w, "secret") || !strings.Contains(log.String(), "level=WARN") {
					t.Errorf("%q; the log:\n%s", w, log)
				}
			}
		})
	}
}

// A token's name comes before Config.Name, and the number that ends a tie is no surprise.
func TestNameNotUsed(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	enter := func(opts idloc.InviteOptions, name string) []string {
		token, err := earth.Invite(opts)
		if err != nil {
			t.Fatal(err)
		}
		n, err := idloc.Join(t.Context(), token, idloc.Config{Name: name, Addrs: loopback})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		return n.Status().Self.Warnings
	}
	if w := enter(idloc.InviteOptions{Name: "mars"}, "venus"); len(w) != 1 || !strings.HasPrefix(w[0], `Config.Name "venus" is not used: this node is "mars"`) {
		t.Errorf("a token for another name: %q", w)
	}
	if w := enter(idloc.InviteOptions{Name: "luna"}, "Luna"); len(w) > 0 {
		t.Errorf("a token for the name: %q", w)
	}
	if w := enter(idloc.InviteOptions{}, "earth"); len(w) > 0 {
		t.Errorf("a tie: %q", w)
	}
}

// What could look like a mistake and is none.
func TestMeant(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		domain string
		cfg    idloc.Config
		name   string
	}{
		{"internal", idloc.Config{Name: "Earth"}, "earth.internal"},
		{"Home.Arpa.", idloc.Config{Name: strings.Repeat("a", 59)}, strings.Repeat("a", 59) + ".home.arpa"},
		{"3com.example", idloc.Config{Name: "7", LSIPrefix: netip.MustParsePrefix("10.7.0.0/16")}, "7.3com.example"},
		{"1.2.example", idloc.Config{Name: "a-1", LSIPrefix: netip.MustParsePrefix("240.0.0.0/8")}, "a-1.1.2.example"},
	} {
		c.cfg.Addrs = loopback
		n, err := idloc.Create(t.Context(), c.domain, c.cfg)
		if err != nil {
			t.Errorf("%s, %s: %v", c.domain, c.cfg.Name, err)
			continue
		}
		if n.Name() != c.name {
			t.Errorf("%s, %s: the node is %s", c.domain, c.cfg.Name, n.Name())
		}
		if w := n.Status().Self.Warnings; len(w) > 0 {
			t.Errorf("%s, %s: %q", c.domain, c.cfg.Name, w)
		}
		n.Close()
	}
}

// A directory that others can look into is a warning that Status and the log
// have, and none once its mode is mended.
func TestOpenDir(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no mode bits")
	}
	dir := filepath.Join(t.TempDir(), "earth")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	cfg, log := listened(dir)
	cfg.Name = "earth"
	warned := func() []string {
		n, err := idloc.Create(t.Context(), "example.com", cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		return n.Status().Self.Warnings
	}
	if w := warned(); len(w) != 1 || !strings.Contains(w[0], dir) || !strings.Contains(w[0], "mode 0755") {
		t.Errorf("a directory of mode 0755: %q", w)
	}
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "other users of this machine") {
		t.Errorf("the log has no warning:\n%s", text)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if w := warned(); len(w) > 0 {
		t.Errorf("a directory of mode 0700: %q", w)
	}
}
