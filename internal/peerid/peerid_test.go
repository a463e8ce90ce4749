package peerid

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// The text forms of the all-zero-seed key; the expected strings come from
// libp2p's own peer.ID and peer.ToCid (see overlay's identity test, which
// compares the two packages on random keys).
func testID(t *testing.T) ID {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	id, err := FromPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTextForms(t *testing.T) {
	id := testID(t)
	if s := id.String(); !strings.HasPrefix(s, "12D3KooW") {
		t.Errorf("String = %q", s)
	}
	if l := id.Label(); !strings.HasPrefix(l, "k51qzi5uqu5d") || len(l) != 62 {
		t.Errorf("Label = %q (%d characters)", l, len(l))
	}
	for _, s := range []string{id.String(), id.Label(), strings.ToUpper(id.Label())} {
		got, err := Parse(s)
		if err != nil || got != id {
			t.Errorf("Parse(%q) = %v, %v", s, got, err)
		}
	}
	b, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	var back ID
	if err := json.Unmarshal(b, &back); err != nil || back != id {
		t.Errorf("JSON round trip: %v, %v", back, err)
	}
	if (ID{}).String() != "" || (ID{}).Label() != "" || !(ID{}).IsZero() {
		t.Error("the zero ID has a text")
	}
}

func TestParseRejects(t *testing.T) {
	good := testID(t)
	for _, s := range []string{
		"", "k", "12D3", "mars", "k51", good.String()[1:], good.Label()[:61], good.Label() + "0",
		"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", // a SHA-256 multihash
	} {
		if id, err := Parse(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse(%q) = %v, %v; want ErrInvalid", s, id, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("k51qzi5uqu5dkkph0w25v3xr6pkjqhmz4gzw6u4pyc2nzqdzqrlr2pcr0w0p0z")
	f.Add("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(id.String()); err != nil || again != id {
			t.Fatalf("%q: %v, %v", s, again, err)
		}
		if again, err := Parse(id.Label()); err != nil || again != id {
			t.Fatalf("%q: %v, %v", s, again, err)
		}
	})
}
