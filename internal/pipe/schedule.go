package pipe

import (
	"crypto/hkdf"
	"crypto/sha256"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// version is the first byte of every offer, answer and prologue. Another
// transcript needs another version.
const version = 1

// secrets is what a handshake or a rekey ends in.
type secrets struct {
	toResponder [keyLen]byte // sealed by the initiator of the exchange
	toInitiator [keyLen]byte // sealed by the responder
	chaining    [keyLen]byte // goes into the next rekey
}

// prologue is what both sides must agree on before the first message
// (DESIGN §14.7).
func prologue(overlay [32]byte, initiator, responder peerid.ID) []byte {
	b := make([]byte, 0, 1+32+2*peerid.Size)
	b = append(b, version)
	b = append(b, overlay[:]...)
	b = append(b, initiator[:]...)
	return append(b, responder[:]...)
}

// rekeyPrologue is that of the rekey with the given number.
func rekeyPrologue(overlay [32]byte, initiator, responder peerid.ID, number uint32) []byte {
	b := append(prologue(overlay, initiator, responder), "rekey"...)
	return append(b, byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
}

// deriveSecrets is the key schedule of the package documentation. h is the
// final Noise hash, k1 and k2 what Noise's Split gave. previous is the
// chaining key of the session being rekeyed, nil in a handshake; kem the
// ML-KEM shared secret, nil in a rekey without one. Which of the two took
// part is in the labels, so that no two combinations derive alike.
func deriveSecrets(h []byte, previous *[keyLen]byte, kem []byte, k1, k2 [keyLen]byte, aead wire.AEADs) (secrets, error) {
	ikm := make([]byte, 0, 4*keyLen)
	kind := "handshake"
	if previous != nil {
		ikm = append(ikm, previous[:]...)
		kind = "rekey"
		if kem != nil {
			kind = "rekey ML-KEM-768"
		}
	}
	ikm = append(ikm, kem...)
	ikm = append(ikm, k1[:]...)
	ikm = append(ikm, k2[:]...)
	defer clear(ikm)

	prk, err := hkdf.Extract(sha256.New, ikm, h)
	if err != nil {
		return secrets{}, err
	}
	defer clear(prk)
	var s secrets
	for _, o := range []struct {
		to    *[keyLen]byte
		label string
	}{
		{&s.toResponder, "initiator to responder"},
		{&s.toInitiator, "responder to initiator"},
		{&s.chaining, "chaining key"},
	} {
		key, err := hkdf.Expand(sha256.New, prk, "idloc pipe 1 "+kind+" "+aeadName(aead)+" "+o.label, keyLen)
		if err != nil {
			return secrets{}, err
		}
		copy(o.to[:], key)
		clear(key)
	}
	return s, nil
}

// wipe overwrites s.
func (s *secrets) wipe() { *s = secrets{} }
