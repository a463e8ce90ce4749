package handshake

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/idloc/idloc/internal/wire"
)

func TestChooseAEAD(t *testing.T) {
	const aes, chacha, hw = wire.AES256GCM, wire.ChaCha20Poly1305, wire.HasAES
	for _, c := range []struct {
		offered, mine, want wire.AEADs
	}{
		{aes | chacha | hw, aes | chacha | hw, aes},
		{aes | chacha | hw, aes | chacha, chacha},
		{aes | chacha, aes | chacha | hw, chacha},
		{aes | chacha, aes | chacha, chacha},
		{aes, aes | chacha, aes},
		{chacha | hw, aes | chacha | hw, chacha},
		{aes | hw, chacha | hw, 0},
	} {
		got, err := ChooseAEAD(c.offered, c.mine)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("ChooseAEAD(%#x, %#x) = %#x, %v", c.offered, c.mine, got, err)
		}
	}
}

func TestOfferedAEADs(t *testing.T) {
	const both = wire.AES256GCM | wire.ChaCha20Poly1305
	if OfferedAEADs(false) != both || OfferedAEADs(true) != both|wire.HasAES {
		t.Errorf("%#x, %#x", OfferedAEADs(false), OfferedAEADs(true))
	}
}

// The AEADs are what their names say, under the key given and no other.
func TestNewAEAD(t *testing.T) {
	key := [KeyLen]byte(fill(0x20, KeyLen))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	chacha, err := chacha20poly1305.New(key[:])
	if err != nil {
		t.Fatal(err)
	}
	nonce, plain, ad := fill(1, 12), fill(2, 50), fill(3, 8)
	for _, c := range []struct {
		a    wire.AEADs
		name string
		want cipher.AEAD
	}{
		{wire.AES256GCM, "AES-256-GCM", gcm},
		{wire.ChaCha20Poly1305, "ChaCha20-Poly1305", chacha},
		{0, "", nil},
		{wire.AES256GCM | wire.ChaCha20Poly1305, "", nil},
		{wire.HasAES, "", nil},
	} {
		a, err := NewAEAD(c.a, &key)
		if AEADName(c.a) != c.name || (err == nil) != (c.want != nil) || err != nil && !errors.Is(err, ErrNoAEAD) {
			t.Errorf("%#x: %q, %v", c.a, AEADName(c.a), err)
		}
		if err == nil && !bytes.Equal(a.Seal(nil, nonce, plain, ad), c.want.Seal(nil, nonce, plain, ad)) {
			t.Errorf("%s seals otherwise", c.name)
		}
	}
}
