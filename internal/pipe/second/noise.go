package second

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// symmetric is the SymmetricState of Noise (rev. 34, §5.2).
type symmetric struct {
	ck, h [32]byte
	k     [32]byte
	n     uint64
	keyed bool
}

func start(prologue, responder []byte) *symmetric {
	s := &symmetric{}
	copy(s.h[:], "Noise_IK_25519_ChaChaPoly_SHA256") // 32 bytes: taken as they are
	s.ck = s.h
	s.mixHash(prologue)
	s.mixHash(responder) // IK's pre-message
	return s
}

func (s *symmetric) mixHash(b []byte) {
	h := sha256.New()
	h.Write(s.h[:])
	h.Write(b)
	h.Sum(s.h[:0])
}

func mac(key []byte, parts ...[]byte) (out [32]byte) {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(out[:0])
	return out
}

// hkdf2 is HKDF of Noise (§4.3) with two outputs.
func hkdf2(ck, ikm []byte) (a, b [32]byte) {
	t := mac(ck, ikm)
	a = mac(t[:], []byte{1})
	return a, mac(t[:], a[:], []byte{2})
}

func (s *symmetric) mixKey(ikm []byte) {
	s.ck, s.k = hkdf2(s.ck[:], ikm)
	s.n, s.keyed = 0, true
}

func (s *symmetric) nonce() []byte {
	n := binary.LittleEndian.AppendUint64(make([]byte, 4, 12), s.n)
	s.n++
	return n
}

func (s *symmetric) encrypt(plain []byte) []byte {
	aead, err := chacha20poly1305.New(s.k[:])
	if err != nil {
		panic(err) // a key of 32 bytes
	}
	out := aead.Seal(nil, s.nonce(), plain, s.h[:])
	s.mixHash(out)
	return out
}

func (s *symmetric) decrypt(sealed []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(s.k[:])
	if err != nil {
		panic(err) // a key of 32 bytes
	}
	out, err := aead.Open(nil, s.nonce(), sealed, s.h[:])
	s.mixHash(sealed)
	return out, err
}

// split gives the two keys that follow the last message (§5.2).
func (s *symmetric) split() (k1, k2 [32]byte) { return hkdf2(s.ck[:], nil) }

func dh(priv *ecdh.PrivateKey, pub []byte) ([]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return priv.ECDH(p)
}

// exchange is one run of IK, of either side.
type exchange struct {
	*symmetric
	static, ephemeral *ecdh.PrivateKey
	theirs            []byte // their static key
	theirE            []byte // their ephemeral key
}

func newExchange(prologue []byte, static *ecdh.PrivateKey, responder []byte) (*exchange, error) {
	e, err := ecdh.X25519().GenerateKey(rand.Reader)
	return &exchange{symmetric: start(prologue, responder), static: static, ephemeral: e}, err
}

// write1 is the initiator's message to theirs.
func (x *exchange) write1(payload []byte) ([]byte, error) {
	e := x.ephemeral.PublicKey().Bytes()
	x.mixHash(e)
	es, err := dh(x.ephemeral, x.theirs)
	if err != nil {
		return nil, err
	}
	x.mixKey(es)
	out := append(e, x.encrypt(x.static.PublicKey().Bytes())...)
	ss, err := dh(x.static, x.theirs)
	if err != nil {
		return nil, err
	}
	x.mixKey(ss)
	return append(out, x.encrypt(payload)...), nil
}

func (x *exchange) read1(m []byte) (payload []byte, err error) {
	if len(m) < 32+48+16 {
		return nil, fmt.Errorf("message 1 of %d bytes", len(m))
	}
	x.theirE = m[:32]
	x.mixHash(x.theirE)
	es, err := dh(x.static, x.theirE)
	if err != nil {
		return nil, err
	}
	x.mixKey(es)
	if x.theirs, err = x.decrypt(m[32:80]); err != nil {
		return nil, err
	}
	ss, err := dh(x.static, x.theirs)
	if err != nil {
		return nil, err
	}
	x.mixKey(ss)
	return x.decrypt(m[80:])
}

func (x *exchange) write2(payload []byte) ([]byte, error) {
	e := x.ephemeral.PublicKey().Bytes()
	x.mixHash(e)
	ee, err := dh(x.ephemeral, x.theirE)
	if err != nil {
		return nil, err
	}
	x.mixKey(ee)
	se, err := dh(x.ephemeral, x.theirs)
	if err != nil {
		return nil, err
	}
	x.mixKey(se)
	return append(e, x.encrypt(payload)...), nil
}

func (x *exchange) read2(m []byte) (payload []byte, err error) {
	if len(m) < 32+16 {
		return nil, fmt.Errorf("message 2 of %d bytes", len(m))
	}
	x.theirE = m[:32]
	x.mixHash(x.theirE)
	ee, err := dh(x.ephemeral, x.theirE)
	if err != nil {
		return nil, err
	}
	x.mixKey(ee)
	se, err := dh(x.static, x.theirE)
	if err != nil {
		return nil, err
	}
	x.mixKey(se)
	return x.decrypt(m[32:])
}
