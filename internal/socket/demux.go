package socket

// kind is what the first byte of a datagram says it is.
type kind uint8

const (
	kindOther kind = iota // belongs to nobody here
	kindSTUN
	kindPipe
	kindQUIC
	kinds
)

// kindOf sorts by first byte:
//
//	+----------------+
//	|        [0..3] -+--> STUN      RFC 7983 §7
//	|     [64..127] -+--> QUIC      RFC 9443 §3
//	|    [128..191] -+--> pipe      RTP/RTCP in RFC 7983, unused here
//	|    [192..255] -+--> QUIC      RFC 9443 §3
//	+----------------+
func kindOf(b byte) kind {
	switch {
	case b <= 3:
		return kindSTUN
	case b&0x40 != 0:
		return kindQUIC
	case b&0xc0 == 0x80:
		return kindPipe
	}
	return kindOther
}

// runOf returns the length in bytes of the datagrams at the head of b that are
// all of kind k: datagrams of seg bytes back to back, the last maybe shorter.
func runOf(b []byte, seg int, k kind) int {
	n := seg
	for n < len(b) && kindOf(b[n]) == k {
		n += seg
	}
	return min(n, len(b))
}
