package tun

import "gvisor.dev/gvisor/pkg/tcpip/checksum"

func checksumOf(b []byte) uint16 { return checksum.Checksum(b, 0) }

// headerSum is the checksum of an IPv4 header that has none, or another.
func headerSum(h []byte) uint16 {
	h[10], h[11] = 0, 0
	return ^checksumOf(h)
}
