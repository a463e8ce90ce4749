package peerid

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// The key of the zero seed (RFC 8032's algorithm) and its texts, as libp2p writes
// them.
const (
	goldenKey    = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
	goldenString = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	goldenLabel  = "k51qzi5uqu5dhnwe629wdlncpql6frppdpwnz4wtlcw816aysd5wwlk63g4wmh"
)

func TestGolden(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	id, err := FromPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(id[:]) != goldenKey || id.String() != goldenString || id.Label() != goldenLabel {
		t.Errorf("%x\n%s\n%s", id[:], id.String(), id.Label())
	}
	if want := "002408011220" + goldenKey; hex.EncodeToString(id.Multihash()) != want {
		t.Errorf("multihash %x", id.Multihash())
	}
}

// Only identity multihashes of Ed25519 keys are peer IDs: each byte before the
// key counts, and so does the length.
func TestFromMultihashRefuses(t *testing.T) {
	good := ID{1, 31: 2}.Multihash()
	if id, err := FromMultihash(good); err != nil || id != (ID{1, 31: 2}) {
		t.Fatal(id, err)
	}
	for i := range multihashPrefix {
		for _, change := range []byte{1, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= change
			if id, err := FromMultihash(b); !errors.Is(err, ErrInvalid) || !id.IsZero() {
				t.Errorf("byte %d changed: %v, %v", i, id, err)
			}
		}
	}
	for _, b := range [][]byte{nil, good[:6], good[:len(good)-1], append(bytes.Clone(good), 0), good[1:]} {
		if id, err := FromMultihash(b); !errors.Is(err, ErrInvalid) || !id.IsZero() {
			t.Errorf("%d bytes: %v, %v", len(b), id, err)
		}
	}
}

// Each kind of bad text is refused for its own reason, without a panic.
func TestParseLabelRefuses(t *testing.T) {
	for s, says := range map[string]string{
		"": "is not a base36 label", "k": "is not a base36 label", "m51": "is not a base36 label", "1k": "is not a base36 label",
		"kk": "is not a libp2p-key CID", "k!": "k!", goldenLabel[1:]: "is not a base36 label",
		"Z" + goldenLabel[1:]: "is not a base36 label", // base36 in another alphabet's name
	} {
		id, err := ParseLabel(s)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) || !id.IsZero() {
			t.Errorf("ParseLabel(%q) = %v, %v", s, id, err)
		}
	}
	if _, err := ParseLabel("k!"); err == nil || strings.Contains(err.Error(), "CID") {
		t.Errorf("what is not base36: %v", err)
	}
	if _, err := Parse("0OIl"); err == nil || !strings.Contains(err.Error(), "0OIl") {
		t.Errorf("what is not base58: %v", err)
	}
}
