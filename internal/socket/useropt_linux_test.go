package socket

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/internal/nat64"
	"github.com/idloc/idloc/internal/yardstick"
)

// nlMessage is one of rtnetlink, padded.
func nlMessage(kind uint16, body ...[]byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint16(b[4:], kind)
	for _, part := range body {
		b = append(b, part...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return append(b, make([]byte, -len(b)&3)...)
}

// userOpt is an nduseroptmsg with the attribute that the kernel puts behind the options.
func userOpt(family byte, length, link int, icmp, code byte, options []byte) []byte {
	b := []byte{family, 0}
	b = binary.NativeEndian.AppendUint16(b, uint16(length))
	b = binary.NativeEndian.AppendUint32(b, uint32(int32(link)))
	b = append(b, icmp, code, 0, 0, 0, 0, 0, 0)
	b = append(b, options...)
	b = binary.NativeEndian.AppendUint16(b, 20)
	b = binary.NativeEndian.AppendUint16(b, 1) // NDUSEROPT_SRCADDR
	return append(b, netip.MustParseAddr("fe80::1").AsSlice()...)
}

// linkInfoOf is an ifinfomsg.
func linkInfoOf(family byte, link int, flags uint32) []byte {
	b := []byte{family, 0, 1, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(link))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return append(b, 0, 0, 0, 0)
}

func TestTakeMessages(t *testing.T) {
	t.Parallel()
	now := time.Now()
	hexed := func(text string) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var (
		pref64   = hexed("26 02 0708 0064ff9b 00000000 00000000")
		withdraw = hexed("26 02 0000 0064ff9b 00000000 00000000")
		rdnss    = hexed("19 03 0000 00000e10 20010db8000000000000000000000001")
		told     = nlMessage(unix.RTM_NEWNDUSEROPT, userOpt(unix.AF_INET6, 16, 3, 134, 0, pref64))
		up       = uint32(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP)
		option   = func(b []byte) []byte { return nlMessage(unix.RTM_NEWNDUSEROPT, b) }
	)
	known := announcedPrefix{3, testPrefix, now.Add(30 * time.Minute)}
	for _, c := range []struct {
		what string
		b    []byte
		have bool // known, before
		news bool
		want int
	}{
		{"nothing", nil, false, false, 0},
		{"a prefix", told, false, true, 1},
		{"the same again", told, true, false, 1},
		{"on another link", option(userOpt(unix.AF_INET6, 16, 4, 134, 0, pref64)), true, true, 2},
		{"it is withdrawn", option(userOpt(unix.AF_INET6, 16, 3, 134, 0, withdraw)), true, true, 0},
		{"withdrawn on another link", option(userOpt(unix.AF_INET6, 16, 4, 134, 0, withdraw)), true, false, 1},
		{"a resolver's address", option(userOpt(unix.AF_INET6, 24, 3, 134, 0, rdnss)), false, false, 0},
		{"both in one", option(userOpt(unix.AF_INET6, 40, 3, 134, 0, append(rdnss[:24:24], pref64...))), false, true, 1},
		{"two messages", append(option(userOpt(unix.AF_INET6, 24, 3, 134, 0, rdnss)), told...), false, true, 1},
		{"of IPv4", option(userOpt(unix.AF_INET, 16, 3, 134, 0, pref64)), false, false, 0},
		{"of a neighbour advertisement", option(userOpt(unix.AF_INET6, 16, 3, 136, 0, pref64)), false, false, 0},
		{"of a code that there is not", option(userOpt(unix.AF_INET6, 16, 3, 134, 1, pref64)), false, false, 0},
		{"of no link", option(userOpt(unix.AF_INET6, 16, 0, 134, 0, pref64)), false, false, 0},
		{"of a negative link", option(userOpt(unix.AF_INET6, 16, -1, 134, 0, pref64)), false, false, 0},
		{"options longer than the message", option(userOpt(unix.AF_INET6, 0xffff, 3, 134, 0, pref64)), false, false, 0},
		{"options cut by their length", option(userOpt(unix.AF_INET6, 15, 3, 134, 0, pref64)), false, false, 0},
		{"no options", option(userOpt(unix.AF_INET6, 0, 3, 134, 0, nil)), false, false, 0},
		{"shorter than its head", option(userOpt(unix.AF_INET6, 16, 3, 134, 0, pref64)[:15]), false, false, 0},
		{"an address", nlMessage(unix.RTM_NEWADDR, make([]byte, 8)), true, true, 1},
		{"the link is up", nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 3, up)), true, true, 1},
		{"the cable is out", nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 3, unix.IFF_UP)), true, true, 0},
		{"the link is down", nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 3, 0)), true, true, 0},
		{"another link is down", nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 4, 0)), true, true, 1},
		{"the link is gone", nlMessage(unix.RTM_DELLINK, linkInfoOf(unix.AF_UNSPEC, 3, up)), true, true, 0},
		{"it leaves a bridge", nlMessage(unix.RTM_DELLINK, linkInfoOf(unix.AF_BRIDGE, 3, up)), true, true, 1},
		{"a link's message cut off", nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 3, 0)[:15]), true, true, 1},
		{"down, then the next network's router", append(nlMessage(unix.RTM_NEWLINK, linkInfoOf(unix.AF_UNSPEC, 3, 0)), told...), true, true, 1},
		{"a message of no length", make([]byte, 32), true, true, 1},
		{"cut off", told[:len(told)-1], false, true, 0},
		{"three bytes", told[:3], false, true, 0},
	} {
		var s announced
		if c.have {
			s.list = append(s.list, known)
		}
		if news := s.take(c.b, now); news != c.news || len(s.list) != c.want {
			t.Errorf("%s: news %v, %+v; want %v, %d", c.what, news, s.list, c.news, c.want)
		}
		for i := range c.b { // must not panic, nor keep what is not whole
			var s announced
			if s.take(c.b[:i:i], now); len(s.list) > 1 {
				t.Errorf("%s, %d bytes of it: %+v", c.what, i, s.list)
			}
		}
	}
}

// The kernel's messages do not allocate but when a prefix is new.
func TestTakeAllocates(t *testing.T) {
	var s announced
	now := time.Now()
	b := nlMessage(unix.RTM_NEWNDUSEROPT, userOpt(unix.AF_INET6, 16, 3, 134, 0, []byte{38, 2, 7, 8, 0, 0x64, 0xff, 0x9b, 15: 0}))
	if !s.take(b, now) {
		t.Fatal("no news")
	}
	if n := yardstick.Allocs(100, func() { s.take(b, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzTake: whatever the kernel passes on, what is kept is bounded, could be a NAT64's
// prefix, is of a link, and has not ended.
func FuzzTake(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		var s announced
		now := time.Now()
		s.take(b, now)
		links := map[int]int{}
		for _, a := range s.all() {
			if links[a.link]++; !nat64.Usable(a.prefix) || a.link <= 0 || !a.until.After(now) || links[a.link] > announcedOnLink {
				t.Fatalf("%+v", s.list)
			}
		}
		if len(s.list) > announcedMax {
			t.Fatalf("%d prefixes", len(s.list))
		}
	})
}
