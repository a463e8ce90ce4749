package canon

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/libp2p/go-libp2p/core/record"
)

// What Sign signs is a libp2p envelope that core/record opens.
func TestEnvelope(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	pub := key.Public().(ed25519.PublicKey)
	for _, n := range []int{0, 1, 127, 128, 2000} {
		payload := bytes.Repeat([]byte{7}, n)
		sig, err := Sign(key, "test", payload)
		if err != nil {
			t.Fatal(err)
		}
		s := &statement{domain: "test"}
		if _, err := record.ConsumeTypedEnvelope(Envelope(pub, payload, sig), s); err != nil || !bytes.Equal(s.payload, payload) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := Verify(pub, "test", payload, sig); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := Verify(pub, "other", payload, sig); !errors.Is(err, ErrSignature) {
			t.Errorf("another domain string: %v", err)
		}
		if err := Verify(pub, "test", append(payload, 0), sig); !errors.Is(err, ErrSignature) {
			t.Errorf("another payload: %v", err)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	for _, b := range [][]byte{{}, {0x80}, {0x80, 0}, {1, 0}, bytes.Repeat([]byte{0xff}, 11)} {
		r := NewReader(b)
		r.Uvarint()
		if err := r.End(); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%x: %v", b, err)
		}
	}
}
