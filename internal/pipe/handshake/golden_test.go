package handshake

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"

	"github.com/idloc/idloc/internal/wire"
)

var update = flag.Bool("update", false, "make the golden vectors anew")

// counting is a random source that is none: bytes first, first+1, ...
type counting struct{ next byte }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.next
		c.next++
	}
	return len(b), nil
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// testPwd is ICE's.
const testPwd = "0123456789abcdefghijklmnopqrst+/"

func fixedEntropy(first byte) *Entropy {
	return &Entropy{
		Noise:  &counting{first},
		KEMKey: func() (*mlkem.DecapsulationKey768, error) { return mlkem.NewDecapsulationKey768(fill(first, 64)) },
		Encapsulate: func(ek *mlkem.EncapsulationKey768) (secret, ciphertext []byte) {
			secret, ciphertext, err := mlkemtest.Encapsulate768(ek, fill(first, 32))
			if err != nil {
				panic(err)
			}
			return secret, ciphertext
		},
	}
}

func fill(first byte, n int) []byte {
	b := make([]byte, n)
	io.ReadFull(&counting{first}, b)
	return b
}

// vector is one handshake with fixed keys, as kept under testdata.
type vector struct {
	Description, AEAD                   string
	InitiatorSeed, ResponderSeed        string
	Overlay, OfferPayload, Offer        string
	AnswerPayload, Answer               string
	ToResponder, ToInitiator, Chaining  string
	RekeyNumber                         uint32
	RekeyOffer, RekeyAnswer             string
	RekeyToResponder, RekeyToInitiator  string
	RekeyChaining                       string
	DataPlain, Data, CtrlPlain, CtrlOut string
}

func makeVector(t *testing.T, aead wire.AEADs, number uint32) vector {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	overlay := [32]byte(fill(0x30, 32))
	ia, err := NewIdentity(testKey(1))
	check(err)
	ib, err := NewIdentity(testKey(2))
	check(err)
	v := vector{
		Description: "handshake, then one rekey", AEAD: AEADName(aead),
		InitiatorSeed: hex.EncodeToString(testKey(1).Seed()), ResponderSeed: hex.EncodeToString(testKey(2).Seed()),
		Overlay: hex.EncodeToString(overlay[:]), RekeyNumber: number,
	}
	ea, eb := fixedEntropy(0x40), fixedEntropy(0x80)
	run := func(rekey *Rekey, kem bool, payload func(kem []byte, answer bool) []byte) (offer, answer, po, pa []byte, s Secrets) {
		var ra, rb *Rekey
		head := rekey == nil
		if !head {
			c, d := *rekey, *rekey
			ra, rb = &c, &d
		}
		xa, err := ia.Initiate(overlay, ib.ID, ra, ea)
		check(err)
		var ek []byte
		if kem {
			ek, err = xa.KEMKey()
			check(err)
		}
		po = payload(ek, false)
		var clear []byte
		if head {
			clear = AppendOfferHeader(nil, ia.ID)
		}
		offer, err = xa.WriteFirst(clear, po)
		check(err)
		xb, err := ib.Respond(overlay, ia.ID, rb, eb)
		check(err)
		got, err := xb.ReadFirst(offer[len(clear):])
		check(err)
		if !bytes.Equal(got, po) {
			t.Fatal("payload changed")
		}
		ct, err := xb.Encapsulate(ek)
		check(err)
		pa = payload(ct, true)
		var out []byte
		if head {
			out = AppendAnswerHeader(nil)
		}
		answer, sb, err := xb.WriteSecond(out, pa, aead)
		check(err)
		sa, err := xa.ReadSecond(answer[len(out):], func(b []byte) ([]byte, wire.AEADs, error) {
			if !bytes.Equal(b, pa) {
				t.Fatal("answer payload changed")
			}
			return ct, aead, nil
		})
		check(err)
		if sa != sb {
			t.Fatal("the two sides derive different keys")
		}
		return offer, answer, po, pa, sa
	}
	offer, answer, po, pa, s := run(nil, true, func(kem []byte, isAnswer bool) []byte {
		p := &wire.Payload{
			Kind: wire.Offer, Session: [16]byte(fill(0x10, 16)), Timestamp: 1700000000000000, Start: 7, Index: 0x010203,
			MTU: 1472, AEADs: wire.AES256GCM | wire.ChaCha20Poly1305 | wire.HasAES, Ufrag: wire.Ufrag(testPwd), Pwd: testPwd, KEM: kem,
			Chain: []byte("chain"),
			Candidates: []wire.Candidate{{Type: wire.Host, Priority: 99, Foundation: "1",
				Addr: netip.MustParseAddrPort("192.0.2.1:4000")}},
		}
		if isAnswer {
			p.Kind, p.AEADs, p.Index, p.Candidates = wire.Answer, aead, 0x040506, nil
		}
		return p.Append(nil)
	})
	v.Offer, v.Answer = hex.EncodeToString(offer), hex.EncodeToString(answer)
	v.OfferPayload, v.AnswerPayload = hex.EncodeToString(po), hex.EncodeToString(pa)
	v.ToResponder, v.ToInitiator, v.Chaining = hex.EncodeToString(s.ToResponder[:]), hex.EncodeToString(s.ToInitiator[:]), hex.EncodeToString(s.Chaining[:])

	// What the pipe makes of the keys: its tests read it from here.
	seal, err := NewAEAD(aead, &s.ToResponder)
	check(err)
	datagram := func(typ uint8, counter byte, plain []byte) string {
		header := []byte{typ, 0x04, 0x05, 0x06, 0, 0, 0, counter}
		nonce := make([]byte, 12)
		nonce[11] = counter
		return hex.EncodeToString(seal.Seal(header, nonce, plain, header))
	}
	packet := append([]byte{6}, bytes.Repeat([]byte{0xa5}, 39)...)
	v.DataPlain = hex.EncodeToString(packet)
	v.Data = datagram(wire.TypeData4, 0, packet)
	ctrl := wire.Frame{Type: wire.FramePing, ID: 0x0102030405060708}.Append(nil)
	v.CtrlPlain, v.CtrlOut = hex.EncodeToString(ctrl), datagram(wire.TypeCtrl, 1, ctrl)

	ro, ra, _, _, rs := run(&Rekey{number, s.Chaining}, number%8 == 0, func(kem []byte, isAnswer bool) []byte {
		r := wire.Rekey{Kind: wire.Offer, Number: number, Index: 0x070809, KEM: kem}
		if isAnswer {
			r.Kind, r.Index = wire.Answer, 0x0a0b0c
		}
		return r.Append(nil)
	})
	v.RekeyOffer, v.RekeyAnswer = hex.EncodeToString(ro), hex.EncodeToString(ra)
	v.RekeyToResponder, v.RekeyToInitiator, v.RekeyChaining = hex.EncodeToString(rs.ToResponder[:]), hex.EncodeToString(rs.ToInitiator[:]), hex.EncodeToString(rs.Chaining[:])
	return v
}

// The bytes of offers, answers, rekeys and datagrams never change for given
// keys, and a second implementation of the schedule agrees with them.
func TestGolden(t *testing.T) {
	for _, g := range []struct {
		file   string
		aead   wire.AEADs
		number uint32
	}{
		{"aes.json", wire.AES256GCM, 1},
		{"chacha.json", wire.ChaCha20Poly1305, 1},
		{"chacha-rekey8.json", wire.ChaCha20Poly1305, 8},
	} {
		t.Run(g.file, func(t *testing.T) {
			v := makeVector(t, g.aead, g.number)
			got, err := json.MarshalIndent(v, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			name := filepath.Join("testdata", "golden", g.file)
			if *update {
				os.MkdirAll(filepath.Dir(name), 0o755)
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s", name)
			}
			checkSchedule(t, v)
		})
	}
}

// checkSchedule computes a vector's keys from its messages and seeds, with
// nothing of this package and nothing of flynn/noise: straight from doc.go
// and the Noise specification, as the responder.
func checkSchedule(t *testing.T, v vector) {
	t.Helper()
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(sha256.New, key)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	hash := func(parts ...[]byte) []byte {
		h := sha256.New()
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	dh := func(private, public []byte) []byte {
		s, err := curve25519.X25519(private, public)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	x25519 := func(seed []byte) (private, public []byte) {
		h := sha512.Sum512(seed)
		return h[:32], dh(h[:32], curve25519.Basepoint) // X25519 clamps
	}
	_, pubA := x25519(un(v.InitiatorSeed))
	sb, pubB := x25519(un(v.ResponderSeed))
	idA, idB := testKey(1).Public(), testKey(2).Public()
	base := append([]byte{1}, un(v.Overlay)...)
	base = append(append(base, toBytes(idA)...), toBytes(idB)...)

	noiseIK := func(pro, m1, m2, eB []byte) (h, k1, k2, p1, p2 []byte) {
		name := []byte("Noise_IK_25519_ChaChaPoly_SHA256")
		h = name // 32 bytes: used as it is
		ck := bytes.Clone(h)
		var k []byte
		var n uint64
		mixHash := func(b []byte) { h = hash(h, b) }
		mixKey := func(ikm []byte) {
			temp := mac(ck, ikm)
			ck = mac(temp, []byte{1})
			k = mac(temp, ck, []byte{2})
			n = 0
		}
		decrypt := func(c []byte) []byte {
			a, err := chacha20poly1305.New(k)
			if err != nil {
				t.Fatal(err)
			}
			var nonce [12]byte
			nonce[4] = byte(n)
			n++
			p, err := a.Open(nil, nonce[:], c, h)
			if err != nil {
				t.Fatal(err)
			}
			mixHash(c)
			return p
		}
		mixHash(pro)
		mixHash(pubB)
		eA := m1[:32]
		mixHash(eA)
		mixKey(dh(sb, eA))
		if !bytes.Equal(decrypt(m1[32:80]), pubA) {
			t.Fatal("static key")
		}
		mixKey(dh(sb, pubA))
		p1 = decrypt(m1[80:])
		mixHash(m2[:32])
		mixKey(dh(eB, eA))
		mixKey(dh(eB, pubA))
		p2 = decrypt(m2[32:])
		temp := mac(ck, nil)
		k1 = mac(temp, []byte{1})
		return h, k1, mac(temp, k1, []byte{2}), p1, p2
	}
	expand := func(salt, ikm []byte, label string) string {
		return hex.EncodeToString(mac(mac(salt, ikm), []byte(label), []byte{1}))
	}
	offer, answer := un(v.Offer), un(v.Answer)
	entropyB := &counting{0x80}
	eB := make([]byte, 32)
	entropyB.Read(eB)
	h, k1, k2, p1, p2 := noiseIK(base, offer[33:], answer[1:], eB)
	if hex.EncodeToString(p1) != v.OfferPayload || hex.EncodeToString(p2) != v.AnswerPayload {
		t.Error("payloads differ")
	}
	dk, err := mlkem.NewDecapsulationKey768(fill(0x40, 64))
	if err != nil {
		t.Fatal(err)
	}
	// The chain of 5 bytes with its length ends the answer payload.
	ct := p2[len(p2)-7-1088 : len(p2)-7]
	ss, err := dk.Decapsulate(ct)
	if err != nil {
		t.Fatal(err)
	}
	ikm := append(append(bytes.Clone(ss), k1...), k2...)
	label := "idloc pipe 1 handshake " + v.AEAD + " "
	for _, c := range []struct{ got, label string }{
		{v.ToResponder, "initiator to responder"}, {v.ToInitiator, "responder to initiator"}, {v.Chaining, "chaining key"},
	} {
		if want := expand(h, ikm, label+c.label); want != c.got {
			t.Errorf("%s: %s, the schedule says %s", c.label, c.got, want)
		}
	}

	n := v.RekeyNumber
	pro := append(append(bytes.Clone(base), "rekey"...), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	entropyB.Read(eB)
	h, k1, k2, _, p2 = noiseIK(pro, un(v.RekeyOffer), un(v.RekeyAnswer), eB)
	ikm = un(v.Chaining)
	label = "idloc pipe 1 rekey " + v.AEAD + " "
	if n%8 == 0 {
		label = "idloc pipe 1 rekey ML-KEM-768 " + v.AEAD + " "
		if ss, err = dk.Decapsulate(p2[10:]); err != nil {
			t.Fatal(err)
		}
		ikm = append(ikm, ss...)
	}
	ikm = append(append(ikm, k1...), k2...)
	for _, c := range []struct{ got, label string }{
		{v.RekeyToResponder, "initiator to responder"}, {v.RekeyToInitiator, "responder to initiator"}, {v.RekeyChaining, "chaining key"},
	} {
		if want := expand(h, ikm, label+c.label); want != c.got {
			t.Errorf("rekey, %s: %s, the schedule says %s", c.label, c.got, want)
		}
	}
}

func toBytes(public crypto.PublicKey) []byte { return public.(ed25519.PublicKey) }
