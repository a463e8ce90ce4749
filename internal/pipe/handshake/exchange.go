package handshake

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

// ErrFailed is wrapped by every failure to read a message that may be its
// sender's doing.
var ErrFailed = errors.New("pipe: handshake failed")

const ephemeralLen = 32

var noiseSuite = noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashSHA256)

// Entropy is where the random parts of an exchange come from; tests fix them.
type Entropy struct {
	Noise       io.Reader
	KEMKey      func() (*mlkem.DecapsulationKey768, error)
	Encapsulate func(*mlkem.EncapsulationKey768) (secret, ciphertext []byte)
}

// SystemEntropy is that of the operating system.
func SystemEntropy() *Entropy {
	return &Entropy{
		Noise:       rand.Reader,
		KEMKey:      mlkem.GenerateKey768,
		Encapsulate: func(ek *mlkem.EncapsulationKey768) (secret, ciphertext []byte) { return ek.Encapsulate() },
	}
}

// Rekey says which exchange of a session a rekey is, and what it inherits. The
// Exchange begun with it owns it and overwrites the key.
type Rekey struct {
	Number   uint32       // from 1
	Chaining [KeyLen]byte // of the present keys
}

// Exchange is one Noise_IK exchange under way, of either side:
//
//	initiator                           responder
//	Identity.Initiate                   Identity.Respond
//	KEMKey, unless it is inherited
//	WriteFirst                     ->   ReadFirst
//	                                    Encapsulate
//	ReadSecond                     <-   WriteSecond, or WriteRefusal
//
// It is used once, from one goroutine at a time. Who gives it up calls Wipe;
// WriteSecond and a ReadSecond that succeeds do so themselves.
type Exchange struct {
	ent      *Entropy
	hs       *noise.HandshakeState
	peer     []byte                     // responder: the static key that the initiator must have
	decap    *mlkem.DecapsulationKey768 // initiator, if ML-KEM takes part
	secret   []byte                     // responder, of ML-KEM
	previous *[KeyLen]byte              // chaining key, in a rekey
}

// Initiate begins an exchange with responder; r is nil in a handshake. It
// fails for peer IDs that nobody can have.
func (id *Identity) Initiate(overlay [32]byte, responder peerid.ID, r *Rekey, ent *Entropy) (*Exchange, error) {
	return id.begin(overlay, responder, true, r, ent)
}

// Respond begins an exchange with whoever claims to be initiator; r is nil in
// a handshake. It fails for peer IDs that nobody can have.
func (id *Identity) Respond(overlay [32]byte, initiator peerid.ID, r *Rekey, ent *Entropy) (*Exchange, error) {
	return id.begin(overlay, initiator, false, r, ent)
}

func (id *Identity) begin(overlay [32]byte, peer peerid.ID, initiator bool, r *Rekey, ent *Entropy) (*Exchange, error) {
	x := &Exchange{ent: ent}
	if r != nil {
		x.previous = &r.Chaining
	}
	static, err := montgomery(peer)
	if err != nil {
		x.Wipe()
		return nil, err
	}
	first, second := id.ID, peer
	if !initiator {
		first, second = second, first
	}
	c := noise.Config{
		CipherSuite:   noiseSuite,
		Random:        ent.Noise,
		Pattern:       noise.HandshakeIK,
		Initiator:     initiator,
		Prologue:      prologue(overlay, first, second),
		StaticKeypair: id.static,
	}
	if initiator {
		c.PeerStatic = static
	} else {
		x.peer = static
	}
	if r != nil {
		c.Prologue = appendRekey(c.Prologue, r.Number)
	}
	if x.hs, err = noise.NewHandshakeState(c); err != nil {
		x.Wipe()
		return nil, err
	}
	return x, nil
}

// KEMKey makes the initiator's ML-KEM-768 key pair and returns the
// encapsulation key, which goes into the payload of the first message.
func (x *Exchange) KEMKey() ([]byte, error) {
	dk, err := x.ent.KEMKey()
	if err != nil {
		return nil, err
	}
	x.decap = dk
	return dk.EncapsulationKey().Bytes(), nil
}

// WriteFirst appends the initiator's message.
func (x *Exchange) WriteFirst(out, payload []byte) ([]byte, error) {
	out, _, _, err := x.hs.WriteMessage(out, payload)
	return out, err
}

// ReadFirst opens the initiator's message on the responder's side and checks
// that its static key is that of the peer that the exchange was begun with.
func (x *Exchange) ReadFirst(msg []byte) (payload []byte, err error) {
	payload, _, _, err = x.hs.ReadMessage(nil, msg)
	if err != nil {
		return nil, fmt.Errorf("%w: first message: %v", ErrFailed, err)
	}
	if !bytes.Equal(x.hs.PeerStatic(), x.peer) {
		return nil, fmt.Errorf("%w: static key is not that of the claimed peer", ErrFailed)
	}
	return payload, nil
}

// Encapsulate makes the responder's half of ML-KEM and returns the ciphertext,
// which goes into the payload of the second message. ek is what the first one's
// said; if that is empty ML-KEM takes no part and nil is returned.
func (x *Exchange) Encapsulate(ek []byte) (ciphertext []byte, err error) {
	clear(x.secret)
	x.secret = nil
	if len(ek) == 0 {
		return nil, nil
	}
	key, err := mlkem.NewEncapsulationKey768(ek)
	if err != nil {
		return nil, fmt.Errorf("%w: ML-KEM key: %v", ErrFailed, err)
	}
	x.secret, ciphertext = x.ent.Encapsulate(key)
	return ciphertext, nil
}

// WriteSecond appends the responder's message and ends the exchange. aead is
// the one chosen for data.
func (x *Exchange) WriteSecond(out, payload []byte, aead wire.AEADs) ([]byte, Secrets, error) {
	out, c1, c2, err := x.hs.WriteMessage(out, payload)
	if err != nil {
		return nil, Secrets{}, fmt.Errorf("%w: second message: %v", ErrFailed, err)
	}
	s, err := x.split(c1, c2, x.secret, aead)
	return out, s, err
}

// WriteRefusal appends a second message that ends in no keys: the initiator
// sees that it is this peer's. Only Wipe may follow.
func (x *Exchange) WriteRefusal(out []byte, r wire.Refusal) ([]byte, error) {
	out, _, _, err := x.hs.WriteMessage(out, r.Append(nil))
	return out, err
}

// ReadSecond opens the responder's message. parse reads its payload and
// returns the ML-KEM ciphertext and the data AEAD in it. After a failure the
// exchange may read another message, if Waiting says so: a forged answer does
// not spoil it.
func (x *Exchange) ReadSecond(msg []byte, parse func([]byte) (ciphertext []byte, aead wire.AEADs, err error)) (Secrets, error) {
	if len(msg) < ephemeralLen {
		return Secrets{}, fmt.Errorf("%w: second message ends early", ErrFailed)
	}
	// flynn/noise does not roll back when a DH fails, so a forged ephemeral
	// key of small order is found out before it sees it.
	if _, err := curve25519.X25519(x.hs.LocalEphemeral().Private, msg[:ephemeralLen]); err != nil {
		return Secrets{}, fmt.Errorf("%w: ephemeral key: %v", ErrFailed, err)
	}
	payload, c1, c2, err := x.hs.ReadMessage(nil, msg)
	if err != nil {
		return Secrets{}, fmt.Errorf("%w: second message: %v", ErrFailed, err)
	}
	ciphertext, aead, err := parse(payload)
	if err != nil {
		return Secrets{}, fmt.Errorf("%w: second message: %w", ErrFailed, err)
	}
	if (x.decap == nil) != (len(ciphertext) == 0) {
		return Secrets{}, fmt.Errorf("%w: ML-KEM on one side only", ErrFailed)
	}
	var secret []byte
	if x.decap != nil {
		if secret, err = x.decap.Decapsulate(ciphertext); err != nil {
			return Secrets{}, fmt.Errorf("%w: ML-KEM ciphertext: %v", ErrFailed, err)
		}
	}
	return x.split(c1, c2, secret, aead)
}

// Ended says whether the exchange has made its keys, or was wiped: only Wipe may follow.
func (x *Exchange) Ended() bool { return x.hs == nil }

// Waiting says whether the initiator may still read a second message. One that
// its peer has made and that was found wrong all the same ends the exchange.
func (x *Exchange) Waiting() bool { return x.hs != nil && x.hs.MessageIndex() <= 1 }

func (x *Exchange) split(c1, c2 *noise.CipherState, secret []byte, aead wire.AEADs) (Secrets, error) {
	k1, k2 := c1.UnsafeKey(), c2.UnsafeKey()
	s, err := deriveSecrets(x.hs.ChannelBinding(), x.previous, secret, k1, k2, aead)
	clear(secret)
	clear(k1[:])
	clear(k2[:])
	x.Wipe()
	return s, err
}

// Wipe lets go of the exchange's keys. The ephemeral private key is
// overwritten; copies that Noise and ML-KEM keep inside are left to the
// garbage collector, which Go gives no way around. It is idempotent.
func (x *Exchange) Wipe() {
	if x.hs != nil {
		clear(x.hs.LocalEphemeral().Private)
	}
	if x.previous != nil {
		clear(x.previous[:])
	}
	clear(x.secret)
	x.hs, x.decap, x.previous, x.secret = nil, nil, nil, nil
}
