package nat64

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
)

// unhex reads hexadecimal digits with spaces between them.
func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnnouncements(t *testing.T) {
	const (
		wellKnown = "26 02 0708 0064ff9b 00000000 00000000"                // 1800 s, /96
		rdnss     = "19 03 0000 00000e10 20010db8000000000000000000000001" // RFC 8106
		said      = "64:ff9b::/96 30m0s"
	)
	for _, c := range []struct {
		what, options string
		want          []string
	}{
		{"none", "", nil},
		{"/96", wellKnown, []string{said}},
		{"/64", "26 02 0709 2a000001 01220344 00000000", []string{"2a00:1:122:344::/64 30m0s"}},
		{"/56", "26 02 070a 2a000001 01220300 00000000", []string{"2a00:1:122:300::/56 30m0s"}},
		{"/48", "26 02 070b 2a000001 01220000 00000000", []string{"2a00:1:122::/48 30m0s"}},
		{"/40", "26 02 070c 2a000001 01000000 00000000", []string{"2a00:1:100::/40 30m0s"}},
		{"/32", "26 02 070d 2a000001 00000000 00000000", []string{"2a00:1::/32 30m0s"}},
		{"reserved codes", "26 02 070e 2a000001 00000000 00000000 26 02 070f 2a000001 00000000 00000000", nil},
		{"bits behind the prefix", "26 02 070d 2a000001 deadbeef deadbeef", []string{"2a00:1::/32 30m0s"}},
		{"withdrawn", "26 02 0000 0064ff9b 00000000 00000000", []string{"64:ff9b::/96 0s"}},
		{"the shortest", "26 02 0008 0064ff9b 00000000 00000000", []string{"64:ff9b::/96 8s"}},
		{"the longest", "26 02 fff8 0064ff9b 00000000 00000000", []string{"64:ff9b::/96 18h12m8s"}},
		{"two", wellKnown + "26 02 0708 fd000064 00000000 00000000", []string{said, "fd00:64::/96 30m0s"}},
		{"behind another option", rdnss + wellKnown, []string{said}},
		{"before another option", wellKnown + rdnss, []string{said}},
		{"another type with its bytes", "27 02 0708 0064ff9b 00000000 00000000", nil},
		{"one unit long", "26 01 0708 0064ff9b", nil},
		{"three units long", "26 03 0708 0064ff9b 00000000 00000000 00000000 00000000" + wellKnown, []string{said}},
		{"of no length", "26 00 0708 0064ff9b 00000000 00000000" + wellKnown, nil},
		{"longer than what is there", wellKnown + "26 03 0708 0064ff9b 00000000 00000000", []string{said}},
		{"u octet not zero", "26 02 0708 2a000001 00020003 01000000", nil},
		{"multicast", "26 02 0708 ff020000 00000000 00000000", nil},
		{"link-local", "26 02 0708 fe800000 00000000 00000000", nil},
		{"LSIs", "26 02 0708 20010020 00000000 00000000", nil},
		{"Teredo", "26 02 0708 20010000 00000000 00000000", nil},
		{"6to4", "26 02 0708 2002c000 02210000 00000000", nil},
		{"documentation", "26 02 0708 20010db8 00000000 00000000", nil},
		{"mapped IPv4", "26 02 0708 00000000 00000000 0000ffff", nil},
		{"the unspecified address", "26 02 0708 00000000 00000000 00000000", nil},
		{"everything", "26 02 070d 00000000 00000000 00000000", nil},
	} {
		b := unhex(t, c.options)
		if got := texts(b); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		for i := range b { // cut off
			if got := texts(b[:i:i]); len(got) > len(c.want) || !slices.Equal(got, c.want[:len(got)]) {
				t.Errorf("%s, %d bytes of it: %q", c.what, i, got)
			}
		}
	}
	for a := range Announcements(unhex(t, wellKnown+wellKnown)) {
		if a.Prefix != WellKnown || a.Lifetime != 30*time.Minute {
			t.Errorf("%+v", a)
		}
		break // whoever has enough may stop
	}
}

func texts(b []byte) (out []string) {
	for a := range Announcements(b) {
		out = append(out, a.Prefix.String()+" "+a.Lifetime.String())
	}
	return out
}

func TestAnnouncementsAllocate(t *testing.T) {
	b := unhex(t, "26 02 0708 0064ff9b 00000000 00000000")
	if n := yardstick.Allocs(100, func() {
		for a := range Announcements(b) {
			if a.Prefix != WellKnown {
				t.Fatal(a)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzAnnouncements: whatever a router sends, what is made of it are prefixes that could
// be a NAT64's, with lifetimes of the RFC's range, as many as there are options of that
// type and length; and each is read again from an option that is made of it.
func FuzzAnnouncements(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for a := range Announcements(b) {
			n++
			if !Usable(a.Prefix) || a.Lifetime < 0 || a.Lifetime > 8191*8*time.Second || a.Lifetime%(8*time.Second) != 0 {
				t.Fatalf("%+v", a)
			}
			again := option(a.Prefix, a.Lifetime)
			if got := texts(again); len(got) != 1 || got[0] != a.Prefix.String()+" "+a.Lifetime.String() {
				t.Fatalf("%+v is %x, which is %q", a, again, got)
			}
		}
		if n > len(b)/16 {
			t.Fatalf("%d prefixes in %d bytes", n, len(b))
		}
	})
}

// option is a PREF64 option.
func option(p netip.Prefix, lifetime time.Duration) []byte {
	word := uint16(lifetime/time.Second/8)<<3 | uint16(slices.Index(lengths[:], p.Bits()))
	high := p.Addr().As16()
	return append(binary.BigEndian.AppendUint16([]byte{38, 2}, word), high[:12]...)
}
