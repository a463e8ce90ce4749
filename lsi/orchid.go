package lsi

import (
	"crypto/sha256"
	"net/netip"

	"github.com/idloc/idloc/internal/peerid"
)

// orchidPrefix is the ORCHIDv2 prefix (RFC 7343 §2, IANA).
var orchidPrefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x00, 0x20}), 28)

// contextID makes our ORCHIDs differ from those of other uses of the prefix
// (RFC 7343 §2: "a randomly generated value defining the usage context"). It
// is the first 16 bytes of
//
//	SHA-256("idloc: ORCHIDv2 context ID for LSIs, draft-matthews-p2psip-id-loc")
//
// so that everyone can see that nothing was hidden in it.
var contextID = [16]byte{
	0x15, 0xcc, 0x31, 0x9a, 0xf5, 0x98, 0x8d, 0x7a,
	0x10, 0xb3, 0xac, 0xfd, 0xd9, 0x77, 0x57, 0x76,
}

// ogaSHA256 is our OGA ID, "an identifier for the hash function in use within
// the specific usage context" (RFC 7343 §2): 1 is SHA-256, as in HIP.
const ogaSHA256 = 1

// orchid returns the ORCHIDv2 of a peer in an overlay (RFC 7343 §2):
//
//	Input      := overlay ID | peer ID
//	Hash Input := Context ID | Input
//	Hash       := SHA-256( Hash Input )
//	ORCHID     := Prefix | OGA ID | Encode_96( Hash )
func orchid(overlay [32]byte, peer peerid.ID) netip.Addr {
	var input [len(contextID) + 32 + peerid.Size]byte
	n := copy(input[:], contextID[:])
	n += copy(input[n:], overlay[:])
	copy(input[n:], peer[:])
	hash := sha256.Sum256(input[:])

	var a [16]byte
	p := orchidPrefix.Addr().As16()
	copy(a[:4], p[:4])
	a[3] |= ogaSHA256
	// Encode_96: the middle 96 of the hash's 256 bits.
	copy(a[4:], hash[10:22])
	return netip.AddrFrom16(a)
}
