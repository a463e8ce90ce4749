package handshake

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

// RFC 8032 §7.1, TEST 1: its seed, its public key, and the X25519 key that
// others make of them (libsodium's crypto_sign_ed25519_*_to_curve25519).
func TestIdentityVector(t *testing.T) {
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	seed := un("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	id, err := NewIdentity(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	if want := un("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"); !bytes.Equal(id.ID[:], want) {
		t.Errorf("peer ID %x", id.ID)
	}
	if want := un("307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f"); !bytes.Equal(id.static.Private, want) {
		t.Errorf("private key %x", id.static.Private)
	}
	if want := un("d85e07ec22b0ad881537c2f44d662d1a143cf830c57aca4305d85c7a90f6b62e"); !bytes.Equal(id.static.Public, want) {
		t.Errorf("public key %x", id.static.Public)
	}
	private, err := ecdh.X25519().NewPrivateKey(id.static.Private)
	if err != nil || !bytes.Equal(private.PublicKey().Bytes(), id.static.Public) {
		t.Errorf("the two halves differ: %v", err)
	}
}

func TestIdentityRefuses(t *testing.T) {
	good := testKey(1)
	mixed := append(bytes.Clone(good[:32]), testKey(2)[32:]...)
	for what, key := range map[string][]byte{"short": good[:63], "long": append(bytes.Clone(good), 0), "none": nil, "halves that differ": mixed} {
		if _, err := NewIdentity(key); !errors.Is(err, errKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Peer IDs are canonical encodings of points that are not of small order.
func TestMontgomeryRefuses(t *testing.T) {
	p := func(hexBytes string) peerid.ID {
		b, err := hex.DecodeString(hexBytes)
		if err != nil || len(b) != 32 {
			t.Fatal(hexBytes, err)
		}
		return peerid.ID(b)
	}
	for what, id := range map[string]peerid.ID{
		"the identity":                 p("0100000000000000000000000000000000000000000000000000000000000000"),
		"order 2":                      p("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"order 4":                      p("0000000000000000000000000000000000000000000000000000000000000000"),
		"order 4, negative":            p("0000000000000000000000000000000000000000000000000000000000000080"),
		"order 8":                      p("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
		"order 8, negative":            p("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
		"order 8, the other":           p("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
		"order 8, the other, negative": p("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
		"the identity, with a sign":    p("0100000000000000000000000000000000000000000000000000000000000080"),
		"the identity, y = p + 1":      p("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"y = p + 3":                    p("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
		"no point":                     p("0200000000000000000000000000000000000000000000000000000000000000"),
	} {
		if u, err := montgomery(id); !errors.Is(err, errKey) {
			t.Errorf("%s: %x, %v", what, u, err)
		}
	}
}
