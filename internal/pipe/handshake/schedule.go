package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// Version is the first byte of every offer, answer and prologue. Another
// transcript needs another version.
const Version = 1

// Secrets is what an exchange ends in, the same on both sides. Who has taken
// what it needs calls Wipe.
type Secrets struct {
	ToResponder [KeyLen]byte // sealed by the initiator of the exchange
	ToInitiator [KeyLen]byte // sealed by the responder
	Chaining    [KeyLen]byte // goes into the next rekey
}

// prologue is what both sides must agree on before the first message
// (DESIGN §14.7).
func prologue(overlay [32]byte, initiator, responder peerid.ID) []byte {
	b := make([]byte, 0, 1+32+2*peerid.Size)
	b = append(b, Version)
	b = append(b, overlay[:]...)
	b = append(b, initiator[:]...)
	return append(b, responder[:]...)
}

// appendRekey makes of a handshake's prologue that of the rekey with the given
// number.
func appendRekey(b []byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, "rekey"...), number)
}

// deriveSecrets is the key schedule of the package documentation. h is the
// final Noise hash, k1 and k2 what Noise's Split gave. previous is the
// chaining key of the session being rekeyed, nil in a handshake; kem the
// ML-KEM shared secret, nil in a rekey without one. Which of the two took
// part is in the labels, so that no two combinations derive alike.
func deriveSecrets(h []byte, previous *[KeyLen]byte, kem []byte, k1, k2 [KeyLen]byte, aead wire.AEADs) (Secrets, error) {
	ikm := make([]byte, 0, 4*KeyLen)
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
		return Secrets{}, err
	}
	defer clear(prk)
	var s Secrets
	for _, o := range []struct {
		to    *[KeyLen]byte
		label string
	}{
		{&s.ToResponder, "initiator to responder"},
		{&s.ToInitiator, "responder to initiator"},
		{&s.Chaining, "chaining key"},
	} {
		key, err := hkdf.Expand(sha256.New, prk, "idloc pipe 1 "+kind+" "+AEADName(aead)+" "+o.label, KeyLen)
		if err != nil {
			return Secrets{}, err
		}
		copy(o.to[:], key)
		clear(key)
	}
	return s, nil
}

// Wipe overwrites s.
func (s *Secrets) Wipe() { *s = Secrets{} }
