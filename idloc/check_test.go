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
		cfg.Addrs = loopback
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
	badLabel, badDomain := []error{membership.ErrBadLabel}, []error{membership.ErrBadDomain}
	const top = ` is a top-level domain: found one below it, "example\.\w+", or take one of alt, corp, example, home, internal, lan, test`
	const public = ` is, at least in part, in use on the internet or by every host: take a part of LSI/15, 100\.64\.0\.0/10 or of a private range`
	check(t,
		provoked{"a name with an umlaut", name("mün"), `idloc: Config\.Name: not a host label: "mün": only a-z, 0-9 and hyphens`, badLabel},
		provoked{"a name with a dot", name("a.b"), `idloc: Config\.Name: not a host label: "a\.b" has a dot: the label alone is wanted, "a"`, badLabel},
		provoked{"a full name", name("earth.example.com"), `idloc: Config\.Name: not a host label: "earth\.example\.com" has a dot: the label alone is wanted, "earth"`, badLabel},
		provoked{"a name that begins with a dot", name(".b"), `idloc: Config\.Name: not a host label: "\.b": only a-z, 0-9 and hyphens`, badLabel},
		provoked{"64 letters", name(strings.Repeat("a", 64)), `idloc: Config\.Name: not a host label: "a{64}": longer than 63 characters`, badLabel},
		provoked{"60 letters", name(strings.Repeat("a", 60)), `idloc: Config\.Name: not a host label: "a{60}" is longer than 59 characters, which leave room for -2 and so on`, badLabel},
		provoked{"a domain that is an address", domain("192.0.2.1"), `idloc: not a domain: "192\.0\.2\.1" is an address`, badDomain},
		provoked{"a domain that ends with a number", domain("example.7"), `idloc: not a domain: "example\.7" ends with a number, and programs take such names for addresses`, badDomain},
		provoked{"a domain that ends with a hexadecimal number", domain("example.0x7f"), `idloc: not a domain: "example\.0x7f" ends with a number, and programs take such names for addresses`, badDomain},
		provoked{"a top-level domain", domain("com"), `idloc: not a domain: "com"` + top, badDomain},
		provoked{"the name of this host", domain("localhost."), `idloc: not a domain: "localhost"` + top, badDomain},
		provoked{"LSIs on the internet", prefix("8.8.8.0/24"), `idloc: Config\.LSIPrefix: 8\.8\.8\.0/24` + public, nil},
		provoked{"LSIs partly on the internet", prefix("198.16.0.0/13"), `idloc: Config\.LSIPrefix: 198\.16\.0\.0/13` + public, nil},
		provoked{"LSIs on loopback", prefix("127.1.0.0/16"), `idloc: Config\.LSIPrefix: 127\.1\.0\.0/16` + public, nil},
		provoked{"turn://", server("turn://user:secret@192.0.2.1"), `idloc: Config\.ICEServers: ICE server "turn:…@192\.0\.2\.1": no // follows turn: in such a URL \(RFC 7064, RFC 7065\)`, nil},
		provoked{"stun://", server("stun://192.0.2.1"), `idloc: Config\.ICEServers: ICE server "stun://192\.0\.2\.1": no // follows stun: in such a URL \(RFC 7064, RFC 7065\)`, nil},
	)
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
