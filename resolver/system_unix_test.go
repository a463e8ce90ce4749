//go:build !windows

package resolver

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestReadResolvConf(t *testing.T) {
	for _, x := range []struct {
		desc, text string
		want       []string
	}{
		{"empty", "", nil},
		{"as systemd writes it", "# a comment\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n", []string{"127.0.0.53:53"}},
		{"order is kept", "nameserver 192.0.2.2\nnameserver 192.0.2.1\n", []string{"192.0.2.2:53", "192.0.2.1:53"}},
		{"IPv6, and with a zone", "nameserver 2001:db8::1\nnameserver fe80::1%lo\n", []string{"[2001:db8::1]:53", "[fe80::1%lo]:53"}},
		{"tabs and no newline at the end", "nameserver\t\t192.0.2.1", []string{"192.0.2.1:53"}},
		{"garbage beside a good one", "nameserver\nnameserver not-an-address\nnameserver 192.0.2.300\n;nameserver 192.0.2.7\nnameserver 192.0.2.1\n", []string{"192.0.2.1:53"}},
		{"CRLF", "nameserver 192.0.2.1\r\nnameserver 192.0.2.2\r\n", []string{"192.0.2.1:53", "192.0.2.2:53"}},
		{"binary", "\x00\xff\x00nameserver", nil},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, ap := range readResolvConf(path) {
			got = append(got, ap.String())
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, want %v", x.desc, got, x.want)
		}
	}
	if got := readResolvConf(filepath.Join(t.TempDir(), "none")); got != nil {
		t.Errorf("no file: %v", got)
	}
}

// System is what the file says, from the first call.
func TestSystem(t *testing.T) {
	want := readResolvConf(resolvConf)
	ask := System()
	for range 2 {
		if got := ask(); !slices.EqualFunc(got, want, func(a, b netip.AddrPort) bool { return a == b }) {
			t.Errorf("System() = %v, the file has %v", got, want)
		}
	}
}

func TestReadSearch(t *testing.T) {
	for _, x := range []struct {
		desc, text string
		want       []string
	}{
		{"empty", "", nil},
		{"one", "nameserver 192.0.2.1\nsearch lan\n", []string{"lan"}},
		{"several", "search a.example\tb.example.", []string{"a.example", "b.example."}},
		{"the last line counts", "search a.example b.example\ndomain c.example\n", []string{"c.example"}},
		{"domain and then search", "domain c.example\nsearch a.example\n", []string{"a.example"}},
		{"the root and comments", "#search x\n;search y\nsearch . a.example\n", []string{"a.example"}},
		{"domain without one", "search a.example\ndomain\n", []string{"a.example"}},
	} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readSearch(path); !slices.Equal(got, x.want) {
			t.Errorf("%s: %q, want %q", x.desc, got, x.want)
		}
	}
}
