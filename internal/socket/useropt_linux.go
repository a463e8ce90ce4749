package socket

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/internal/nat64"
)

// The kernel passes options of router advertisements that are not its own to whoever
// listens, PREF64 among them, if it takes advertisements on that interface at all: not
// where a program like systemd-networkd does that in its place (accept_ra is 0).

const (
	// sizeofUserOpt is the length of nduseroptmsg in linux/rtnetlink.h.
	sizeofUserOpt = 16
	// routerAdvertisement is the type of ICMPv6.
	routerAdvertisement = 134
)

// take reads messages of rtnetlink(7) and says whether the addresses or the prefixes may
// be others now: all that the kernel tells may mean so, but for options that bring no
// news. b is borrowed.
func (s *announced) take(b []byte, now time.Time) (news bool) {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return true
		}
		n, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return true // cut off: longer than the buffer
		}
		switch body := b[unix.SizeofNlMsghdr:n]; kind {
		case unix.RTM_NEWNDUSEROPT:
			news = s.takeOptions(body, now) || news
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			s.takeLink(kind, body)
			news = true
		default:
			news = true
		}
		b = b[min(len(b), (n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return news
}

// takeOptions reads an nduseroptmsg:
//
//	+--------+-------+--------------+-------------------+
//	| family | pad 8 | opts_len 16  | ifindex 32        |
//	+--------+-------+--------------+-------------------+
//	| ICMP type, code | pad 48                          |
//	+-----------------+---------------------------------+
//	| opts_len bytes of options, then attributes        |
func (s *announced) takeOptions(b []byte, now time.Time) (news bool) {
	if len(b) < sizeofUserOpt || b[0] != unix.AF_INET6 || b[8] != routerAdvertisement || b[9] != 0 {
		return false
	}
	n, link := int(binary.NativeEndian.Uint16(b[2:])), int(int32(binary.NativeEndian.Uint32(b[4:])))
	if b = b[sizeofUserOpt:]; n > len(b) || link <= 0 {
		return false
	}
	for a := range nat64.Announcements(b[:n]) {
		news = s.hear(link, a, now) || news
	}
	return news
}

// takeLink reads an ifinfomsg of a link that is gone or was changed. Those of a family
// are of what the link is to that family, a bridge say.
func (s *announced) takeLink(kind uint16, b []byte) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return
	}
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	link, flags := int(int32(binary.NativeEndian.Uint32(b[4:]))), binary.NativeEndian.Uint32(b[8:])
	if kind == unix.RTM_DELLINK || flags&up != up {
		s.forget(link)
	}
}
