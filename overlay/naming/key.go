package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	// Namespace is the first element of each key, for kad-dht's
	// NamespacedValidator.
	Namespace = "idloc"
	// Replicas is under how many keys a name record is put.
	Replicas = 3

	keyPrefix = "/" + Namespace + "/"
)

// Key returns the i-th key of a label's record, 0 ≤ i < Replicas:
// "/idloc/" and SHA-256(domain string, overlay ID, label, i) in hex.
func Key(overlay [32]byte, label string, i int) string {
	return key("idloc name 1\x00", overlay, append(canon.AppendShort(nil, label), byte(i)))
}

// Keys returns all keys of a label's record.
func Keys(overlay [32]byte, label string) [Replicas]string {
	var keys [Replicas]string
	for i := range keys {
		keys[i] = Key(overlay, label, i)
	}
	return keys
}

// ContactKey returns the key of a peer's contact record.
func ContactKey(overlay [32]byte, peer peerid.ID) string {
	return key("idloc contact 1\x00", overlay, peer[:])
}

// RevocationKey returns the key of the overlay's revocation list.
func RevocationKey(overlay [32]byte) string {
	return key("idloc revocation 1\x00", overlay, nil)
}

func key(domain string, overlay [32]byte, what []byte) string {
	return keyPrefix + hex.EncodeToString(digest(domain, overlay, what))
}

// digest hashes parts that the domain string makes unambiguous: the overlay
// ID has a fixed length, and what follows has one form for each domain.
func digest(domain string, overlay [32]byte, what []byte) []byte {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(overlay[:])
	h.Write(what)
	return h.Sum(nil)
}

// isKey says whether s has the form of our keys.
func isKey(s string) bool {
	s, ok := strings.CutPrefix(s, keyPrefix)
	return ok && len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// PeerLabel returns the peer that a label names by itself, without the
// database: the base36 form of its ID, in either case, and no other spelling.
func PeerLabel(label string) (peerid.ID, bool) {
	if label == "" || label[0]|0x20 != 'k' {
		return peerid.ID{}, false // at once: each Dial asks
	}
	id, err := peerid.ParseLabel(label)
	if err != nil || id.Label() != strings.ToLower(label) {
		return peerid.ID{}, false
	}
	return id, true
}
