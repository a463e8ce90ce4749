package canon

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"sync"
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

// The memo holds what it was given last, is bounded, and tells apart where one
// field ends and the next begins.
func TestMemo(t *testing.T) {
	var m memo
	id := func(i int) (id [32]byte) { binary.BigEndian.PutUint64(id[:], uint64(i)); return id }
	const n = 5 * memoSize
	for i := range n {
		m.add(id(i))
		if !m.has(id(0)) {
			t.Fatalf("what is asked for again and again is gone after %d", i)
		}
	}
	if len(m.young)+len(m.old) > 2*memoSize || !m.has(id(n-1)) || !m.has(id(n-memoSize/2)) || m.has(id(1)) {
		t.Errorf("%d and %d held", len(m.young), len(m.old))
	}
	pub := make([]byte, ed25519.PublicKeySize)
	sig := make([]byte, SignatureSize)
	if digest(pub, "ab", []byte("c"), sig) == digest(pub, "a", []byte("bc"), sig) {
		t.Error("two statements are one")
	}
}

// Many verify the same statements at a time, for the race detector.
func TestMemoOfMany(t *testing.T) {
	t.Parallel()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range byte(50) {
				sig, err := Sign(key, "test", []byte{n})
				if err == nil {
					err = Verify(pub, "test", []byte{n}, sig)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
