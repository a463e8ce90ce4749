package pipe

import (
	"bytes"
	"crypto/mlkem"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
	"golang.org/x/crypto/curve25519"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// ErrHandshake is wrapped by every failure to read an offer or an answer
// that may be the sender's doing.
var ErrHandshake = errors.New("pipe: handshake failed")

const (
	maxOffer    = 4096 // bytes of an offer or answer
	offerHeader = 1 + peerid.Size
	noiseIKHead = 32 + 32 + 16 // e, encrypted s
)

var noiseSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// entropy is where the random parts of a handshake come from; tests fix them.
type entropy struct {
	noise       io.Reader
	kemKey      func() (*mlkem.DecapsulationKey768, error)
	encapsulate func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte)
}

var systemEntropy = entropy{
	noise:       rand.Reader,
	kemKey:      mlkem.GenerateKey768,
	encapsulate: func(ek *mlkem.EncapsulationKey768) (secret, ciphertext []byte) { return ek.Encapsulate() },
}

// exchange is one Noise_IK exchange under way, of either side. It is used
// once, from one goroutine.
type exchange struct {
	hs       *noise.HandshakeState
	decap    *mlkem.DecapsulationKey768 // initiator, if ML-KEM takes part
	previous *[keyLen]byte              // chaining key, in a rekey: a copy, which wipe overwrites
}

func newExchange(self identity, remote []byte, initiator bool, prologue []byte, previous *[keyLen]byte, ent entropy) (*exchange, error) {
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:   noiseSuite,
		Random:        ent.noise,
		Pattern:       noise.HandshakeIK,
		Initiator:     initiator,
		Prologue:      prologue,
		StaticKeypair: self.static,
		PeerStatic:    remote,
	})
	if err != nil {
		return nil, err
	}
	return &exchange{hs: hs, previous: previous}, nil
}

// encapsulationKey makes the initiator's ML-KEM key pair.
func (x *exchange) encapsulationKey(ent entropy) ([]byte, error) {
	dk, err := ent.kemKey()
	if err != nil {
		return nil, err
	}
	x.decap = dk
	return dk.EncapsulationKey().Bytes(), nil
}

// first appends the initiator's message.
func (x *exchange) first(out, payload []byte) ([]byte, error) {
	out, _, _, err := x.hs.WriteMessage(out, payload)
	return out, err
}

// readFirst opens the initiator's message on the responder's side and checks
// that its static key is the one expected.
func (x *exchange) readFirst(msg, static []byte) (payload []byte, err error) {
	payload, _, _, err = x.hs.ReadMessage(nil, msg)
	if err != nil {
		return nil, fmt.Errorf("%w: first message: %v", ErrHandshake, err)
	}
	if !bytes.Equal(x.hs.PeerStatic(), static) {
		return nil, fmt.Errorf("%w: static key is not that of the claimed peer", ErrHandshake)
	}
	return payload, nil
}

// encapsulate makes the responder's half of ML-KEM. ek may be empty: then
// both results are nil.
func encapsulate(ek []byte, ent entropy) (secret, ciphertext []byte, err error) {
	if len(ek) == 0 {
		return nil, nil, nil
	}
	key, err := mlkem.NewEncapsulationKey768(ek)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: ML-KEM key: %v", ErrHandshake, err)
	}
	secret, ciphertext = ent.encapsulate(key)
	return secret, ciphertext, nil
}

// second appends the responder's message and ends the exchange. secret is
// wiped.
func (x *exchange) second(out, payload, secret []byte, aead wire.AEADs) ([]byte, secrets, error) {
	out, c1, c2, err := x.hs.WriteMessage(out, payload)
	if err != nil {
		return nil, secrets{}, fmt.Errorf("%w: second message: %v", ErrHandshake, err)
	}
	s, err := x.split(c1, c2, secret, aead)
	return out, s, err
}

// readSecond opens the responder's message. parse reads its payload and
// returns the ML-KEM ciphertext and the data AEAD in it. After a failure the
// exchange may read another message: a forged answer does not spoil it.
func (x *exchange) readSecond(msg []byte, parse func([]byte) (ciphertext []byte, aead wire.AEADs, err error)) (secrets, error) {
	if len(msg) < 32 {
		return secrets{}, fmt.Errorf("%w: second message ends early", ErrHandshake)
	}
	// flynn/noise does not roll back when a DH fails, so a forged ephemeral
	// key of small order is found out before it sees it.
	if _, err := curve25519.X25519(x.hs.LocalEphemeral().Private, msg[:32]); err != nil {
		return secrets{}, fmt.Errorf("%w: ephemeral key: %v", ErrHandshake, err)
	}
	payload, c1, c2, err := x.hs.ReadMessage(nil, msg)
	if err != nil {
		return secrets{}, fmt.Errorf("%w: second message: %v", ErrHandshake, err)
	}
	ciphertext, aead, err := parse(payload)
	if err != nil {
		return secrets{}, fmt.Errorf("%w: second message: %w", ErrHandshake, err)
	}
	if (x.decap == nil) != (len(ciphertext) == 0) {
		return secrets{}, fmt.Errorf("%w: ML-KEM on one side only", ErrHandshake)
	}
	var secret []byte
	if x.decap != nil {
		if secret, err = x.decap.Decapsulate(ciphertext); err != nil {
			return secrets{}, fmt.Errorf("%w: ML-KEM ciphertext: %v", ErrHandshake, err)
		}
	}
	return x.split(c1, c2, secret, aead)
}

func (x *exchange) split(c1, c2 *noise.CipherState, secret []byte, aead wire.AEADs) (secrets, error) {
	k1, k2 := c1.UnsafeKey(), c2.UnsafeKey()
	s, err := deriveSecrets(x.hs.ChannelBinding(), x.previous, secret, k1, k2, aead)
	clear(secret)
	clear(k1[:])
	clear(k2[:])
	x.wipe()
	return s, err
}

// wipe lets go of the exchange's keys. The ephemeral private key is
// overwritten; copies that Noise and ML-KEM keep inside are left to the
// garbage collector, which Go gives no way around.
func (x *exchange) wipe() {
	if x.hs != nil {
		clear(x.hs.LocalEphemeral().Private)
	}
	if x.previous != nil {
		clear(x.previous[:])
	}
	x.hs, x.decap, x.previous = nil, nil, nil
}

// appendOffer writes the clear part before Noise message 1: the responder
// needs the initiator's ID for the prologue, by which it is bound.
func appendOffer(b []byte, initiator peerid.ID) []byte {
	return append(append(b, version), initiator[:]...)
}

func parseOffer(b []byte) (initiator peerid.ID, msg []byte, err error) {
	switch {
	case len(b) > maxOffer:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer of %d bytes", ErrHandshake, len(b))
	case len(b) < offerHeader+noiseIKHead+wire.TagLen:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer ends early", ErrHandshake)
	case b[0] != version:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer of version %d", ErrHandshake, b[0])
	}
	return peerid.ID(b[1:offerHeader]), b[offerHeader:], nil
}

func parseAnswer(b []byte) (msg []byte, err error) {
	switch {
	case len(b) > maxOffer:
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrHandshake, len(b))
	case len(b) < 1+32+wire.TagLen:
		return nil, fmt.Errorf("%w: answer ends early", ErrHandshake)
	case b[0] != version:
		return nil, fmt.Errorf("%w: answer of version %d", ErrHandshake, b[0])
	}
	return b[1:], nil
}
