package nat64

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"time"
)

const (
	optionType  = 38             // PREF64, of the options of neighbour discovery
	optionUnits = 2              // its length
	unit        = 8              // in which options count their length, in bytes
	scale       = 8              // what the lifetime is divided by, in seconds
	plcBits     = 3              // of the prefix length code
	plcMask     = 1<<plcBits - 1 // the lifetime is above it
)

// An Announcement is what a router says of a NAT64 prefix.
type Announcement struct {
	Prefix   netip.Prefix  // Usable
	Lifetime time.Duration // how long it may be used from now on; 0: no longer
}

// Announcements returns what the options of a router advertisement, one behind the
// other, say of NAT64 prefixes. Other options, and what cannot be a NAT64's prefix, are
// left out; behind an option whose length is wrong nothing can be read. b is borrowed.
func Announcements(b []byte) iter.Seq[Announcement] {
	return func(yield func(Announcement) bool) {
		for b := b; len(b) >= unit; {
			n := int(b[1]) * unit
			if n == 0 || n > len(b) {
				return
			}
			if a, ok := parseOption(b[:n]); ok && !yield(a) {
				return
			}
			b = b[n:]
		}
	}
}

// parseOption reads one option of at least eight bytes (RFC 8781 §4).
func parseOption(b []byte) (a Announcement, ok bool) {
	//   0                   1                   2                   3
	//   0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
	//  +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
	//  |     Type      |    Length     |     Scaled Lifetime     | PLC |
	if b[0] != optionType || b[1] != optionUnits || len(b) != optionUnits*unit {
		return a, false
	}
	word := binary.BigEndian.Uint16(b[2:])
	code := int(word & plcMask)
	if code >= len(lengths) {
		return a, false // RFC 8781 §4: the receiver must ignore it
	}
	a.Lifetime = time.Duration(word>>plcBits) * scale * time.Second
	//  |              Highest 96 bits of the Prefix                    |
	var high [16]byte
	copy(high[:12], b[4:])
	// What is behind the prefix's length the RFC does not speak of.
	a.Prefix = netip.PrefixFrom(netip.AddrFrom16(high), lengths[code]).Masked()
	return a, Usable(a.Prefix)
}
