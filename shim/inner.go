package shim

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/idloc/idloc/internal/inner"
)

// ttl is what the rebuilt inner header says: the pipe is one hop.
const ttl = 64

// putIPv4 writes the 20-byte header of a packet with n bytes after it. A
// whole packet has DF and no identification (RFC 6864 §4.1).
func putIPv4(h []byte, next byte, n int, src, dst netip.Addr, f *fragment) {
	_ = h[inner.IPv4Len-1]
	h[0], h[1] = 0x45, 0
	binary.BigEndian.PutUint16(h[2:], uint16(inner.IPv4Len+n))
	if f == nil {
		binary.BigEndian.PutUint32(h[4:], 0x4000)
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(f.id))
		ff := f.off / 8
		if f.more {
			ff |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], ff)
	}
	h[8], h[9] = ttl, next
	h[10], h[11] = 0, 0
	s, d := src.As4(), dst.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h[:inner.IPv4Len], 0))
}

// putIPv6 writes the 40-byte header of a packet with n bytes after it.
func putIPv6(h []byte, next byte, n int, src, dst netip.Addr) {
	_ = h[inner.IPv6Len-1]
	binary.BigEndian.PutUint32(h, 6<<28)
	binary.BigEndian.PutUint16(h[4:], uint16(n))
	h[6], h[7] = next, ttl
	s, d := src.As16(), dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
}

// pseudo is the sum of the IPv6 pseudo-header (RFC 8200 §8.1).
func pseudo(src, dst netip.Addr, next byte, n int) uint16 {
	var b [40]byte
	s, d := src.As16(), dst.As16()
	copy(b[:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint32(b[32:], uint32(n))
	b[39] = next
	return checksum.Checksum(b[:], 0)
}
