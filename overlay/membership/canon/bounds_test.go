package canon

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/record"
)

func keyOf(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func pubOf(b byte) ed25519.PublicKey { return keyOf(b).Public().(ed25519.PublicKey) }

// A signature that was found good counts for its signer, statement and domain
// alone, however often it was asked about before.
func TestGoodForOneSigner(t *testing.T) {
	payload := []byte("a statement of one")
	sig, err := Sign(keyOf(1), "test", payload)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Sign(keyOf(1), "test", []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := Verify(pubOf(1), "test", payload, sig); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"another signer":              Verify(pubOf(2), "test", payload, sig),
			"another domain":              Verify(pubOf(1), "Test", payload, sig),
			"another payload":             Verify(pubOf(1), "test", payload[1:], sig),
			"another signature":           Verify(pubOf(1), "test", payload, other),
			"domain and payload, shifted": Verify(pubOf(1), "testa", payload[1:], sig),
		} {
			if !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if !good.has(digest(pubOf(1), "test", payload, sig)) {
		t.Error("a good one is not remembered")
	}
	if good.has(digest(pubOf(2), "test", payload, sig)) {
		t.Error("a bad one is remembered")
	}
	// What is remembered is not asked about again: the memo alone says so.
	fake := bytes.Repeat([]byte{9}, SignatureSize)
	good.add(digest(pubOf(3), "test", payload, fake))
	if err := Verify(pubOf(3), "test", payload, fake); err != nil {
		t.Errorf("what is in the memo: %v", err)
	}
}

// Each part of a statement is in its digest.
func TestDigest(t *testing.T) {
	sig := bytes.Repeat([]byte{5}, SignatureSize)
	sig2 := bytes.Clone(sig)
	sig2[0]++
	base := digest(pubOf(1), "domain", []byte("payload"), sig)
	for what, d := range map[string][32]byte{
		"key": digest(pubOf(2), "domain", []byte("payload"), sig), "signature": digest(pubOf(1), "domain", []byte("payload"), sig2),
		"domain": digest(pubOf(1), "domaim", []byte("payload"), sig), "payload": digest(pubOf(1), "domain", []byte("Payload"), sig),
		"where the domain ends": digest(pubOf(1), "domainp", []byte("ayload"), sig),
	} {
		if d == base {
			t.Errorf("the %s is not in the digest", what)
		}
	}
}

// Keys and signatures of another length are no signatures, without a panic.
func TestLengths(t *testing.T) {
	payload := []byte("x")
	sig, err := Sign(keyOf(1), "test", payload)
	if err != nil {
		t.Fatal(err)
	}
	pub := pubOf(1)
	for _, c := range []struct {
		pub ed25519.PublicKey
		sig []byte
	}{
		{pub[:31], sig}, {append(bytes.Clone(pub), 0), sig}, {nil, sig}, {pub, sig[:63]}, {pub, append(bytes.Clone(sig), 0)}, {pub, nil},
	} {
		if err := Verify(c.pub, "test", payload, c.sig); err != ErrSignature {
			t.Errorf("a key of %d bytes, a signature of %d: %v", len(c.pub), len(c.sig), err)
		}
		if n := len(c.pub); n != 32 || len(c.sig) != 64 { // not even if the memo has them
			good.add(digest(c.pub, "test", payload, c.sig))
			if err := Verify(c.pub, "test", payload, c.sig); err != ErrSignature {
				t.Errorf("a key of %d bytes, a signature of %d, in the memo: %v", len(c.pub), len(c.sig), err)
			}
		}
	}
	for _, n := range []int{0, 32, 63, 65, 96} {
		if sig, err := Sign(make([]byte, n), "test", payload); err == nil || sig != nil {
			t.Errorf("a private key of %d bytes: %v", n, err)
		}
	}
	mixed := append(bytes.Clone(keyOf(1)[:32]), pubOf(2)...) // its halves do not belong together
	if sig, err := Sign(mixed, "test", payload); err == nil {
		if Verify(pubOf(2), "test", payload, sig) == nil {
			t.Error("a key with another's public half signs for that")
		}
	}
}

// The bytes of an envelope and of a signature.
func TestEnvelopeVector(t *testing.T) {
	pub := bytes.Repeat([]byte{0xab}, 32)
	got := hex.EncodeToString(Envelope(pub, []byte("p"), []byte("s")))
	want := "0a24" + "08011220" + strings.Repeat("ab", 32) + "1208" + hex.EncodeToString([]byte("/idloc/1")) + "1a0170" + "2a0173"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	sig, err := Sign(keyOf(1), "test", []byte("payload"))
	if err != nil || len(sig) != 64 || SignatureSize != 64 {
		t.Fatal(len(sig), err)
	}
	// Ed25519 is deterministic: libp2p itself verifies this one.
	s := &statement{domain: "test"}
	if _, err := record.ConsumeTypedEnvelope(Envelope(pubOf(1), []byte("payload"), sig), s); err != nil || string(s.payload) != "payload" {
		t.Error(err)
	}
	again, err := Sign(keyOf(1), "test", []byte("payload"))
	if err != nil || !bytes.Equal(again, sig) {
		t.Error("not deterministic")
	}
}

// A Reader takes what it was asked for and no more; after the first failure it
// gives nothing, and the failure stays.
func TestReader(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	b := append([]byte{5, 0xac, 0x02, 0, 3}, "abc"...)
	b = append(append(b, 0, 2), "de"...)
	b = append(b, key...)
	b = append(b, 0, 0, 0)
	r := NewReader(b)
	if v := r.Byte(); v != 5 {
		t.Errorf("Byte: %d", v)
	}
	if v := r.Uvarint(); v != 300 {
		t.Errorf("Uvarint: %d", v)
	}
	if v := r.Uvarint(); v != 0 {
		t.Errorf("Uvarint of one zero byte: %d", v)
	}
	short := r.Short()
	if string(short) != "abc" || cap(short) != 3 {
		t.Errorf("Short: %q, room for %d", short, cap(short))
	}
	if v := r.Long(); string(v) != "de" {
		t.Errorf("Long: %q", v)
	}
	if k := r.Key(); !bytes.Equal(k[:], key) {
		t.Errorf("Key: %x", k)
	}
	if v := r.Short(); v == nil || len(v) != 0 {
		t.Errorf("an empty Short: %v", v)
	}
	if v := r.Long(); v == nil || len(v) != 0 {
		t.Errorf("an empty Long: %v", v)
	}
	if err := r.End(); err != nil || r.Err() != nil {
		t.Error(err)
	}
	if v := r.Byte(); v != 0 || !errors.Is(r.Err(), ErrNonCanonical) || !strings.Contains(r.Err().Error(), "0 bytes where 1 are needed") {
		t.Errorf("at the end: %d, %v", v, r.Err())
	}
}

func TestReaderFails(t *testing.T) {
	for what, read := range map[string]func(*Reader) bool{
		"Byte":           func(r *Reader) bool { return r.Bytes(9) != nil || r.Byte() != 0 },
		"Bytes":          func(r *Reader) bool { return r.Bytes(9) != nil },
		"negative Bytes": func(r *Reader) bool { return r.Bytes(-1) != nil },
		"Key":            func(r *Reader) bool { return r.Key() != [32]byte{} },
		"Short":          func(r *Reader) bool { return r.Short() != nil },
		"Long":           func(r *Reader) bool { return r.Long() != nil },
		"Long's length":  func(r *Reader) bool { r.Bytes(7); return r.Long() != nil },
		"a varint that goes on": func(r *Reader) bool {
			r.b = []byte{0xff, 0xff}
			return r.Uvarint() != 0
		},
		"a varint longer than needed": func(r *Reader) bool {
			r.b = []byte{0x81, 0x00}
			return r.Uvarint() != 0
		},
		"a varint of more than 64 bits": func(r *Reader) bool {
			r.b = append(bytes.Repeat([]byte{0xff}, 9), 2)
			return r.Uvarint() != 0
		},
		"Fail": func(r *Reader) bool { r.Fail("why %d", 1); return false },
	} {
		r := NewReader([]byte{9, 9, 9, 9, 9, 9, 9, 9})
		if read(r) {
			t.Errorf("%s gives something", what)
		}
		first := r.Err()
		if !errors.Is(first, ErrNonCanonical) {
			t.Errorf("%s: %v", what, first)
			continue
		}
		r.b = []byte{1, 1, 1, 1} // whatever stood there
		if r.Byte() != 0 || r.Bytes(1) != nil || r.Bytes(0) != nil || r.Uvarint() != 0 || r.Short() != nil || r.Long() != nil || r.Key() != [32]byte{} {
			t.Errorf("%s: something was read after the failure", what)
		}
		r.Fail("later")
		if r.Err() != first || r.End() != first {
			t.Errorf("%s: %v, then %v", what, first, r.End())
		}
	}
	r := NewReader([]byte{1, 2})
	r.Fail("first")
	if r.b != nil {
		t.Error("what is left stays behind")
	}
	rest := NewReader([]byte{1, 2, 3})
	rest.Byte()
	if err := rest.End(); !errors.Is(err, ErrNonCanonical) || !strings.Contains(err.Error(), "2 bytes after the end") {
		t.Error(err)
	}
	if v := NewReader([]byte{1, 2}).Bytes(2); len(v) != 2 {
		t.Errorf("all there is: %v", v)
	}
	if v := NewReader(nil).Bytes(0); len(v) != 0 {
		t.Errorf("nothing of nothing: %v", v)
	}
	if v := NewReader([]byte{0x80, 0x01}).Uvarint(); v != 128 {
		t.Errorf("a varint of two bytes: %d", v)
	}
}

// The longest strings that fit are written, longer ones are the caller's mistake.
func TestAppend(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return
	}
	if b := AppendShort([]byte{1}, strings.Repeat("s", 255)); len(b) != 257 || b[0] != 1 || b[1] != 255 {
		t.Errorf("%d bytes", len(b))
	}
	if b := AppendLong([]byte{1}, make([]byte, 65535)); len(b) != 65538 || b[1] != 255 || b[2] != 255 {
		t.Errorf("%d bytes", len(b))
	}
	if b := AppendLong(nil, []byte{7}); !bytes.Equal(b, []byte{0, 1, 7}) {
		t.Errorf("%x", b)
	}
	if !panics(func() { AppendShort(nil, strings.Repeat("s", 256)) }) || !panics(func() { AppendLong(nil, make([]byte, 65536)) }) {
		t.Error("a string too long is written")
	}
}

// What is remembered has a bound, and what is asked for stays.
func TestMemoBound(t *testing.T) {
	var m memo
	id := func(i int) (id [32]byte) { id[0], id[1], id[2] = byte(i), byte(i>>8), byte(i>>16); return id }
	for i := range 16384 {
		m.add(id(i))
	}
	if len(m.young) != 16384 || len(m.old) != 0 {
		t.Errorf("%d and %d", len(m.young), len(m.old))
	}
	m.add(id(16384))
	if len(m.young) != 1 || len(m.old) != 16384 {
		t.Errorf("one more: %d and %d", len(m.young), len(m.old))
	}
	if !m.has(id(5)) || len(m.young) != 2 {
		t.Errorf("what was asked for: %d", len(m.young))
	}
}
