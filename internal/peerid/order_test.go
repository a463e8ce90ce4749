package peerid

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"
)

// TestJSON: an ID is text in JSON, in either form on the way in, and damage is
// an error that leaves the value alone.
func TestJSON(t *testing.T) {
	t.Parallel()
	id := ID{1, 2, 3}
	b, err := json.Marshal(map[string]ID{"a": id, "none": {}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":"` + id.String() + `","none":""}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	for _, text := range []string{id.String(), id.Label()} {
		var got ID
		if err := got.UnmarshalText([]byte(text)); err != nil || got != id {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	got := id
	if err := got.UnmarshalText([]byte("12D3KooWnobody")); err == nil || got != id {
		t.Errorf("damaged text: %v, %v", got, err)
	}
	if err := got.UnmarshalText(nil); err != nil || !got.IsZero() {
		t.Errorf("empty text: %v, %v", got, err)
	}
}

// TestCompare: the order decides which of two crossing offers stands, so both
// sides must see the same.
func TestCompare(t *testing.T) {
	t.Parallel()
	a, b := ID{0, 255}, ID{1, 0}
	if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 {
		t.Error("not an order by bytes")
	}
}

// TestPublicKey: the key is a copy; who changes it does not change the ID.
func TestPublicKey(t *testing.T) {
	t.Parallel()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := FromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	k := id.PublicKey()
	if !k.Equal(pub) {
		t.Error("another key")
	}
	k[0] ^= 1
	if !id.PublicKey().Equal(pub) {
		t.Error("the ID changed with the key")
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := FromPublicKey(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes", n)
		}
	}
}
