package lan

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/idloc/idloc/internal/peerid"
)

// maxAddrs is how many addresses an announcement has: so many fit into one string of TXT.
const maxAddrs = 5

const (
	sealedPrefix = "v1=" // of the string in TXT
	addrLen      = 16 + 2
)

var errSealed = errors.New("not an announcement of this overlay")

// keys are what one overlay's announcements are made and read with.
type keys struct {
	service string // "_idloc-<tag>._udp.local."
	aead    cipher.AEAD
}

func newKeys(overlay [32]byte) keys {
	tag := sha256.Sum256(append([]byte("idloc lan service\x00"), overlay[:]...))
	key := sha256.Sum256(append([]byte("idloc lan announcement\x00"), overlay[:]...))
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	// Nine characters: with idloc- before them the fifteen that RFC 6335 allows.
	text := strings.ToLower(base32.HexEncoding.EncodeToString(tag[:]))[:9]
	return keys{"_idloc-" + text + "._udp.local.", aead}
}

// seal returns the string for TXT.
func (k keys) seal(id peerid.ID, at []netip.AddrPort) string {
	b := make([]byte, k.aead.NonceSize(), 255)
	_, _ = rand.Read(b) // does not fail
	plain := append(make([]byte, 0, len(id)+maxAddrs*addrLen), id[:]...)
	for _, a := range at[:min(len(at), maxAddrs)] {
		as16 := a.Addr().As16()
		plain = binary.BigEndian.AppendUint16(append(plain, as16[:]...), a.Port())
	}
	b = k.aead.Seal(b, b, plain, []byte(k.service))
	return sealedPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// open reads what seal has made.
func (k keys) open(text string) (id peerid.ID, at []netip.AddrPort, err error) {
	text, ok := strings.CutPrefix(text, sealedPrefix)
	if !ok {
		return id, nil, errSealed
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < k.aead.NonceSize() {
		return id, nil, errSealed
	}
	n := k.aead.NonceSize()
	plain, err := k.aead.Open(nil, b[:n], b[n:], []byte(k.service))
	if err != nil || len(plain) < len(id) || (len(plain)-len(id))%addrLen != 0 {
		return id, nil, errSealed
	}
	copy(id[:], plain)
	for plain = plain[len(id):]; len(plain) > 0; plain = plain[addrLen:] {
		a := netip.AddrPortFrom(netip.AddrFrom16([16]byte(plain)).Unmap(), binary.BigEndian.Uint16(plain[16:]))
		if a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast() && len(at) < maxAddrs {
			at = append(at, a)
		}
	}
	return id, at, nil
}
