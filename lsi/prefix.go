package lsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// Offsets of the addresses that are not for peers.
const (
	selfOffset     = 1
	resolverOffset = 53
)

// Prefix lengths that New takes: a /29 has four addresses for peers, a /8
// costs half a megabyte of page pointers.
const (
	minBits = 8
	maxBits = 29
)

// defaultPrefixes are the /16s of 198.18.0.0/15.
var defaultPrefixes = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18}), 16),
	netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19}), 16),
}

// taken counts the tables of this process by prefix.
var taken = struct {
	sync.Mutex
	n map[netip.Prefix]int
}{n: make(map[netip.Prefix]int)}

// takePrefix registers p or, if p is zero, the default prefix that the fewest
// tables overlap; the one of hint, where the saved entries lie, wins ties.
func takePrefix(p netip.Prefix, hint netip.Addr) (netip.Prefix, error) {
	if p.IsValid() {
		if err := CheckPrefix(p); err != nil {
			return p, fmt.Errorf("LSI prefix %w", err)
		}
		p = p.Masked()
	}
	taken.Lock()
	defer taken.Unlock()
	if !p.IsValid() {
		best := -1
		for _, c := range defaultPrefixes {
			n := 0
			for q, tables := range taken.n {
				if q.Overlaps(c) {
					n += tables
				}
			}
			if best < 0 || n < best || n == best && c.Contains(hint) {
				p, best = c, n
			}
		}
	}
	taken.n[p]++
	return p, nil
}

// releasePrefix undoes one takePrefix.
func releasePrefix(p netip.Prefix) {
	taken.Lock()
	defer taken.Unlock()
	if taken.n[p]--; taken.n[p] <= 0 {
		delete(taken.n, p)
	}
}

// CheckPrefix says whether New takes a Config.Prefix4. The zero prefix is a /16 that
// New chooses.
func CheckPrefix(p netip.Prefix) error {
	switch a := p.Masked().Addr(); {
	case p == netip.Prefix{}:
		return nil
	case !a.Is4():
		return fmt.Errorf("%v: must be an IPv4 prefix", p)
	case p.Bits() < minBits || p.Bits() > maxBits:
		return fmt.Errorf("%v: length must be /%d to /%d", p, minBits, maxBits)
	case a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast():
		return fmt.Errorf("%v: %w", p, errSpecial)
	}
	return nil
}

var errSpecial = errors.New("unspecified, loopback, link-local and multicast addresses cannot be LSIs")

// span is the arithmetic of one IPv4 prefix: offsets are relative to base.
type span struct {
	base uint32
	size uint32 // addresses in the prefix, the unusable ones included
}

func spanOf(p netip.Prefix) span {
	b := p.Addr().As4()
	return span{base: binary.BigEndian.Uint32(b[:]), size: 1 << (32 - p.Bits())}
}

// offset returns where a lies in the prefix. a must be an IPv4 address.
func (s span) offset(a netip.Addr) (uint32, bool) {
	b := a.As4()
	n := binary.BigEndian.Uint32(b[:]) - s.base
	return n, n < s.size
}

func (s span) addr(offset uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], s.base+offset)
	return netip.AddrFrom4(b)
}

// resolver is the offset of the DNS resolver.
func (s span) resolver() uint32 { return min(resolverOffset, s.size-2) }

// forPeers says whether the address at offset may be assigned.
func (s span) forPeers(offset uint32) bool {
	return offset > selfOffset && offset < s.size-1 && offset != s.resolver()
}

// room is the number of addresses for peers.
func (s span) room() int { return int(s.size) - 4 }
