package handshake

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

var overlay = [32]byte{1, 2, 3}

func identity(t testing.TB, seed byte) *Identity {
	t.Helper()
	id, err := NewIdentity(testKey(seed))
	if err != nil {
		t.Fatal(err)
	}
	return &id
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// begin makes both sides of an exchange, up to the first message.
func begin(t testing.TB, a, b *Identity, ra, rb *Rekey, kem bool) (xa, xb *Exchange, ek, first []byte) {
	t.Helper()
	xa = must[*Exchange](t)(a.Initiate(overlay, b.ID, ra, SystemEntropy()))
	if kem {
		ek = must[[]byte](t)(xa.KEMKey())
	}
	first = must[[]byte](t)(xa.WriteFirst(nil, []byte("offer")))
	xb = must[*Exchange](t)(b.Respond(overlay, a.ID, rb, SystemEntropy()))
	return xa, xb, ek, first
}

// answers is a parse function that expects payload.
func answers(payload string, ct []byte, aead wire.AEADs) func([]byte) ([]byte, wire.AEADs, error) {
	return func(b []byte) ([]byte, wire.AEADs, error) {
		if string(b) != payload {
			return nil, 0, fmt.Errorf("payload %q", b)
		}
		return ct, aead, nil
	}
}

// Both sides derive the same keys, no two of them alike, and nothing of the
// exchange is left, for each of the three kinds.
func TestExchange(t *testing.T) {
	chaining := [KeyLen]byte(bytes.Repeat([]byte{7}, KeyLen))
	seen := map[[KeyLen]byte]string{}
	for _, c := range []struct {
		name  string
		rekey bool
		kem   bool
	}{{"handshake", false, true}, {"rekey", true, false}, {"rekey with ML-KEM", true, true}} {
		var ra, rb *Rekey
		if c.rekey {
			ra, rb = &Rekey{3, chaining}, &Rekey{3, chaining}
		}
		xa, xb, ek, first := begin(t, identity(t, 1), identity(t, 2), ra, rb, c.kem)
		if got := must[[]byte](t)(xb.ReadFirst(first)); string(got) != "offer" {
			t.Errorf("%s: payload %q", c.name, got)
		}
		ct := must[[]byte](t)(xb.Encapsulate(ek))
		if (len(ct) == mlkem.CiphertextSize768) != c.kem {
			t.Errorf("%s: ciphertext of %d bytes", c.name, len(ct))
		}
		ephemeral, secret := xa.hs.LocalEphemeral().Private, xb.secret
		second, sb, err := xb.WriteSecond([]byte("head"), []byte("answer"), wire.AES256GCM)
		if err != nil {
			t.Fatal(err)
		}
		sa, err := xa.ReadSecond(second[4:], answers("answer", ct, wire.AES256GCM))
		if err != nil {
			t.Fatal(err)
		}
		if string(second[:4]) != "head" || sa != sb {
			t.Errorf("%s: the two sides differ", c.name)
		}
		for _, k := range [][KeyLen]byte{sa.ToResponder, sa.ToInitiator, sa.Chaining, {}, chaining} {
			if old := seen[k]; old != "" && k != chaining && k != [KeyLen]byte{} {
				t.Errorf("%s: a key is one of %s", c.name, old)
			}
			seen[k] = c.name
		}
		for _, gone := range [][]byte{ephemeral, secret} {
			if !bytes.Equal(gone, make([]byte, len(gone))) {
				t.Errorf("%s: a key is still there", c.name)
			}
		}
		for _, r := range []*Rekey{ra, rb} {
			if r != nil && r.Chaining != [KeyLen]byte{} {
				t.Errorf("%s: the chaining key is still there", c.name)
			}
		}
		if xa.Waiting() || xb.Waiting() {
			t.Errorf("%s: the exchange goes on", c.name)
		}
		sa.Wipe()
		if sa != (Secrets{}) {
			t.Errorf("%s: the keys are still there after Wipe", c.name)
		}
	}
}

// What an exchange kept is gone once it is over, though the exchange is still
// held, however it ends.
func TestExchangeLetsGo(t *testing.T) {
	for _, end := range []string{"both", "wipe"} {
		xa, xb, ek, first := begin(t, identity(t, 1), identity(t, 2), nil, nil, true)
		must[[]byte](t)(xb.ReadFirst(first))
		ct := must[[]byte](t)(xb.Encapsulate(ek))
		var ws []weak.Pointer[byte]
		for _, p := range []any{xa.hs, xa.decap, xb.hs, &xb.secret[0]} {
			ws = append(ws, weak.Make((*byte)(reflect.ValueOf(p).UnsafePointer())))
		}
		if end == "both" {
			second, _, err := xb.WriteSecond(nil, nil, wire.AES256GCM)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := xa.ReadSecond(second, answers("", ct, wire.AES256GCM)); err != nil {
				t.Fatal(err)
			}
		} else {
			xa.Wipe()
			xb.Wipe()
			xb.Wipe()
		}
		runtime.GC()
		for i, w := range ws {
			if w.Value() != nil {
				t.Errorf("%s: %d is still there", end, i)
			}
		}
		runtime.KeepAlive([]any{xa, xb})
	}
}

// Who has a key of its own and claims another's peer ID is found out, in a
// handshake and in a rekey, though all else of its message is right.
func TestClaimedIdentity(t *testing.T) {
	victim, mallory, b := identity(t, 1), identity(t, 3), identity(t, 2)
	for _, rekey := range []bool{false, true} {
		var ra, rb *Rekey
		if rekey {
			ra, rb = &Rekey{Number: 1}, &Rekey{Number: 1}
		}
		claims := &Identity{ID: victim.ID, static: mallory.static}
		_, xb, _, first := begin(t, claims, b, ra, rb, false)
		_, err := xb.ReadFirst(first)
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "static key") {
			t.Errorf("rekey %v: another's peer ID: %v", rekey, err)
		}
		// The control: with its own ID the same is taken.
		if rekey {
			ra, rb = &Rekey{Number: 1}, &Rekey{Number: 1}
		}
		_, xb, _, first = begin(t, mallory, b, ra, rb, false)
		if _, err := xb.ReadFirst(first); err != nil {
			t.Errorf("rekey %v: its own peer ID: %v", rekey, err)
		}
	}
}

// The prologue tells apart overlays, roles, and the numbers of rekeys.
func TestPrologue(t *testing.T) {
	a, b, c := identity(t, 1), identity(t, 2), identity(t, 3)
	other := overlay
	other[31]++
	for _, tc := range []struct {
		what    string
		overlay [32]byte
		from    *Identity
		r       *Rekey
	}{
		{"another overlay", other, a, nil},
		{"another initiator", overlay, c, nil},
		{"a rekey for a handshake", overlay, a, &Rekey{Number: 1}},
	} {
		first := must[[]byte](t)(must[*Exchange](t)(a.Initiate(overlay, b.ID, nil, SystemEntropy())).WriteFirst(nil, nil))
		xb := must[*Exchange](t)(b.Respond(tc.overlay, tc.from.ID, tc.r, SystemEntropy()))
		if _, err := xb.ReadFirst(first); !errors.Is(err, ErrFailed) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
	for _, number := range []uint32{2, 1 << 8, 1 << 16, 1 << 24} {
		xa := must[*Exchange](t)(a.Initiate(overlay, b.ID, &Rekey{Number: number}, SystemEntropy()))
		first := must[[]byte](t)(xa.WriteFirst(nil, nil))
		for _, n := range []uint32{number, number + 1, 0, 1} {
			xb := must[*Exchange](t)(b.Respond(overlay, a.ID, &Rekey{Number: n}, SystemEntropy()))
			if _, err := xb.ReadFirst(first); (err == nil) != (n == number) {
				t.Errorf("rekey %d as %d: %v", number, n, err)
			}
		}
	}
}

// A forged second message spoils nothing; a true one that is wrong ends it.
func TestReadSecond(t *testing.T) {
	a, b := identity(t, 1), identity(t, 2)
	for _, tc := range []struct {
		what    string
		kem     bool // of the initiator
		spoil   func(second []byte) []byte
		parse   func(ct []byte) func([]byte) ([]byte, wire.AEADs, error)
		says    string
		waiting bool
	}{
		{what: "all right", kem: true},
		{what: "short", kem: true, spoil: func(b []byte) []byte { return b[:31] }, says: "ends early", waiting: true},
		{what: "an ephemeral key only", kem: true, spoil: func(b []byte) []byte { return b[:32] }, says: "second message", waiting: true},
		{what: "an ephemeral key of small order", kem: true, spoil: func(b []byte) []byte { clear(b[:32]); return b }, says: "ephemeral key", waiting: true},
		{what: "another ephemeral key", kem: true, spoil: func(b []byte) []byte { b[0] ^= 1; return b }, says: "second message", waiting: true},
		{what: "another payload", kem: true, spoil: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, says: "second message", waiting: true},
		{what: "a payload that does not parse", kem: true, says: io.ErrUnexpectedEOF.Error(), parse: func([]byte) func([]byte) ([]byte, wire.AEADs, error) {
			return func([]byte) ([]byte, wire.AEADs, error) { return nil, 0, io.ErrUnexpectedEOF }
		}},
		{what: "no ML-KEM in the answer", kem: true, says: "on one side only", parse: func([]byte) func([]byte) ([]byte, wire.AEADs, error) {
			return answers("answer", nil, wire.AES256GCM)
		}},
		{what: "ML-KEM in the answer only", says: "on one side only", parse: func([]byte) func([]byte) ([]byte, wire.AEADs, error) {
			return answers("answer", make([]byte, mlkem.CiphertextSize768), wire.AES256GCM)
		}},
		{what: "a ciphertext too short", kem: true, says: "ML-KEM ciphertext", parse: func(ct []byte) func([]byte) ([]byte, wire.AEADs, error) {
			return answers("answer", ct[1:], wire.AES256GCM)
		}},
	} {
		xa, xb, ek, first := begin(t, a, b, nil, nil, tc.kem)
		must[[]byte](t)(xb.ReadFirst(first))
		if !xa.Waiting() {
			t.Errorf("%s: an exchange does not wait for the answer", tc.what)
		}
		ct := must[[]byte](t)(xb.Encapsulate(ek))
		second, sb, err := xb.WriteSecond(nil, []byte("answer"), wire.AES256GCM)
		if err != nil {
			t.Fatal(err)
		}
		parse := answers("answer", ct, wire.AES256GCM)
		bad, badParse := bytes.Clone(second), parse
		if tc.spoil != nil {
			bad = tc.spoil(bad)
		}
		if tc.parse != nil {
			badParse = tc.parse(ct)
		}
		sa, err := xa.ReadSecond(bad, badParse)
		if tc.says == "" {
			if err != nil || sa != sb {
				t.Errorf("%s: %v", tc.what, err)
			}
			continue
		}
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), tc.says) || sa != (Secrets{}) {
			t.Errorf("%s: %v", tc.what, err)
		}
		if xa.Waiting() != tc.waiting {
			t.Errorf("%s: waiting for another: %v", tc.what, xa.Waiting())
		}
		if tc.waiting {
			if sa, err := xa.ReadSecond(second, parse); err != nil || sa != sb {
				t.Errorf("%s: the true one after it: %v", tc.what, err)
			}
		}
	}
}

// A refusal is known as the responder's, and ends in no keys.
func TestRefusal(t *testing.T) {
	a, b := identity(t, 1), identity(t, 2)
	xa, xb, _, first := begin(t, a, b, nil, nil, true)
	must[[]byte](t)(xb.ReadFirst(first))
	refusal := must[[]byte](t)(xb.WriteRefusal(AppendAnswerHeader(nil), wire.Refusal(1)))
	msg := must[[]byte](t)(ParseAnswer(refusal))
	refused := errors.New("refused")
	_, err := xa.ReadSecond(msg, func(p []byte) ([]byte, wire.AEADs, error) {
		if r, ok := wire.ParseRefusal(p); !ok || r != wire.Refusal(1) {
			t.Errorf("refusal %v, %v", r, ok)
		}
		return nil, 0, refused
	})
	if !errors.Is(err, refused) || !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
}

// ML-KEM keys of a peer's making are refused or taken, never a panic.
func TestEncapsulate(t *testing.T) {
	_, xb, ek, first := begin(t, identity(t, 1), identity(t, 2), nil, nil, true)
	must[[]byte](t)(xb.ReadFirst(first))
	over := bytes.Repeat([]byte{0xff}, mlkem.EncapsulationKeySize768) // coefficients beyond q
	for _, bad := range [][]byte{ek[1:], append(bytes.Clone(ek), 0), over, {1}} {
		if ct, err := xb.Encapsulate(bad); !errors.Is(err, ErrFailed) || ct != nil || xb.secret != nil {
			t.Errorf("a key of %d bytes: %v", len(bad), err)
		}
	}
	must[[]byte](t)(xb.Encapsulate(ek))
	old := xb.secret
	if ct, err := xb.Encapsulate(nil); ct != nil || err != nil || xb.secret != nil {
		t.Errorf("without a key: %v", err)
	}
	if !bytes.Equal(old, make([]byte, len(old))) {
		t.Error("the secret of before is still there")
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Without randomness there is no exchange.
func TestNoEntropy(t *testing.T) {
	a, b := identity(t, 1), identity(t, 2)
	ent := SystemEntropy()
	ent.Noise = broken{}
	ent.KEMKey = func() (*mlkem.DecapsulationKey768, error) { return nil, io.ErrUnexpectedEOF }
	xa := must[*Exchange](t)(a.Initiate(overlay, b.ID, nil, ent))
	if _, err := xa.KEMKey(); err == nil || xa.decap != nil {
		t.Errorf("KEMKey: %v", err)
	}
	if _, err := xa.WriteFirst(nil, nil); err == nil {
		t.Error("WriteFirst without randomness")
	}
	_, _, _, first := begin(t, a, b, nil, nil, false)
	xb := must[*Exchange](t)(b.Respond(overlay, a.ID, nil, ent))
	must[[]byte](t)(xb.ReadFirst(first))
	if _, _, err := xb.WriteSecond(nil, nil, wire.AES256GCM); !errors.Is(err, ErrFailed) {
		t.Errorf("WriteSecond: %v", err)
	}
}

// A chaining key that was handed over is overwritten also if the exchange does
// not begin.
func TestPeersNobodyCanBe(t *testing.T) {
	a := identity(t, 1)
	for _, id := range []peerid.ID{{}, {1}} {
		r := &Rekey{Chaining: [KeyLen]byte{1}}
		if _, err := a.Initiate(overlay, id, r, SystemEntropy()); err == nil || r.Chaining != [KeyLen]byte{} {
			t.Errorf("Initiate with %x: %v", id[:1], err)
		}
		if _, err := a.Respond(overlay, id, nil, SystemEntropy()); err == nil {
			t.Errorf("Respond to %x: %v", id[:1], err)
		}
	}
}

// The bounds of offers and answers, both sides of each.
func TestMessages(t *testing.T) {
	id := identity(t, 1).ID
	head := AppendOfferHeader([]byte("x"), id)[1:]
	if len(head) != 33 || head[0] != 1 || peerid.ID(head[1:]) != id || !bytes.Equal(AppendAnswerHeader(nil), []byte{1}) {
		t.Errorf("headers: %x", head)
	}
	offer := func(n int) []byte { return append(bytes.Clone(head), fill(50, n-len(head))...) }
	answer := func(n int) []byte { return append([]byte{1}, fill(50, n-1)...) }
	if MaxMessage != 4096 || AnswerOverhead != 1+32+16 {
		t.Errorf("an offer of %d bytes at most, %d around an answer", MaxMessage, AnswerOverhead)
	}
	for _, n := range []int{33, 33 + 80 + 15, 33 + 80 + 16, 4096, 4097} {
		from, msg, err := ParseOffer(offer(n))
		want := n >= 33+80+16 && n <= 4096
		if (err == nil) != want || want && (from != id || len(msg) != n-33 || msg[0] != 50) || !want && !errors.Is(err, ErrFailed) {
			t.Errorf("an offer of %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{1, 48, 49, 4096, 4097} {
		msg, err := ParseAnswer(answer(n))
		want := n >= 49 && n <= 4096
		if (err == nil) != want || want && (len(msg) != n-1 || msg[0] != 50) || !want && !errors.Is(err, ErrFailed) {
			t.Errorf("an answer of %d bytes: %v", n, err)
		}
	}
	for _, version := range []byte{0, 2, 255} {
		o, a := offer(1000), answer(1000)
		o[0], a[0] = version, version
		says := fmt.Sprintf("version %d", version)
		if _, _, err := ParseOffer(o); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), says) {
			t.Errorf("an offer of version %d: %v", version, err)
		}
		if _, err := ParseAnswer(a); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), says) {
			t.Errorf("an answer of version %d: %v", version, err)
		}
	}
	if _, _, err := ParseOffer(nil); err == nil {
		t.Error("an empty offer")
	}
	if _, err := ParseAnswer(nil); err == nil {
		t.Error("an empty answer")
	}
}
