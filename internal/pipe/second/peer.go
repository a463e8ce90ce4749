package second

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// Peer is one side.
type Peer struct {
	ID      [32]byte
	Overlay [32]byte
	static  *ecdh.PrivateKey
}

// NewPeer makes the peer of an Ed25519 seed.
func NewPeer(seed []byte, overlay [32]byte) (*Peer, error) {
	p := &Peer{Overlay: overlay}
	copy(p.ID[:], ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	scalar := sha512.Sum512(seed)
	static, err := ecdh.X25519().NewPrivateKey(scalar[:32])
	p.static = static
	return p, err
}

// montgomery is u = (1+y)/(1-y) of a peer ID (RFC 7748 §4.1).
func montgomery(id [32]byte) []byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	le := slices.Clone(id[:])
	le[31] &= 0x7f // the sign of x
	slices.Reverse(le)
	y := new(big.Int).SetBytes(le)
	u := new(big.Int).ModInverse(new(big.Int).Mod(new(big.Int).Sub(big.NewInt(1), y), p), p)
	u.Mul(u, new(big.Int).Add(y, big.NewInt(1))).Mod(u, p)
	out := u.FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return out
}

// Payload is what an offer or an answer says. It shows no candidates, relays or
// flows, and skips those of the other side.
type Payload struct {
	Kind      byte // 1 offer, 2 answer
	Session   [16]byte
	Timestamp uint64
	Start     uint64
	Index     uint32
	MTU       uint16
	AEADs     byte
	Password  string
	KEM       []byte
	Chain     []byte
}

// ufrag is the first 16 characters of a hash of the password.
func ufrag(password string) string {
	if password == "" {
		return ""
	}
	h := sha256.Sum256([]byte("idloc ICE ufrag " + password))
	return base64.StdEncoding.EncodeToString(h[:])[:16]
}

func (p Payload) encode() []byte {
	b := append([]byte{p.Kind}, p.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Timestamp)
	b = binary.BigEndian.AppendUint64(b, p.Start)
	b = append(b, byte(p.Index>>16), byte(p.Index>>8), byte(p.Index))
	b = binary.BigEndian.AppendUint16(b, p.MTU)
	b = append(b, 0, p.AEADs) // outer UDP
	u := ufrag(p.Password)
	b = append(append(b, byte(len(u))), u...)
	b = append(append(b, byte(len(p.Password))), p.Password...)
	b = append(b, 0, 0) // relays, candidates
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(p.KEM))), p.KEM...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(p.Chain))), p.Chain...)
}

func decode(b []byte) (p Payload, err error) {
	defer func() { // an index beyond the end: what was read is no payload
		if recover() != nil {
			err = errors.New("a payload that is too short")
		}
	}()
	take := func(n int) []byte { out := b[:n:n]; b = b[n:]; return out }
	p.Kind = take(1)[0]
	if p.Kind == 3 {
		return p, fmt.Errorf("refused: %d", take(1)[0])
	}
	copy(p.Session[:], take(16))
	p.Timestamp = binary.BigEndian.Uint64(take(8))
	p.Start = binary.BigEndian.Uint64(take(8))
	i := take(3)
	p.Index = uint32(i[0])<<16 | uint32(i[1])<<8 | uint32(i[2])
	p.MTU = binary.BigEndian.Uint16(take(2))
	if take(1)[0] != 0 {
		return p, errors.New("null encapsulation")
	}
	p.AEADs = take(1)[0]
	u := string(take(int(take(1)[0])))
	p.Password = string(take(int(take(1)[0])))
	if u != ufrag(p.Password) {
		return p, fmt.Errorf("the ufrag %q is not that of its password", u)
	}
	take(32 * int(take(1)[0])) // relays
	for range take(1)[0] {     // candidates
		take(1 + 4)
		take(int(take(1)[0]))
		for range 2 {
			switch f := take(1)[0]; f {
			case 4:
				take(4 + 2)
			case 6:
				take(16 + 2)
			case 0:
			default:
				return p, fmt.Errorf("address family %d", f)
			}
		}
	}
	p.KEM = take(int(binary.BigEndian.Uint16(take(2))))
	p.Chain = take(int(binary.BigEndian.Uint16(take(2))))
	if len(b) > 0 {
		return p, fmt.Errorf("%d bytes left over", len(b))
	}
	return p, nil
}

const version = 1

func (p *Peer) prologue(initiator, responder [32]byte) []byte {
	return slices.Concat([]byte{version}, p.Overlay[:], initiator[:], responder[:])
}

// Offered is an offer that waits for its answer.
type Offered struct {
	Bytes []byte

	peer *Peer
	to   [32]byte
	x    *exchange
	kem  *mlkem.DecapsulationKey768
	said Payload
}

// Offer begins a handshake with the peer to. The fields Kind and KEM of say are
// filled in.
func (p *Peer) Offer(to [32]byte, say Payload) (*Offered, error) {
	kem, err := mlkem.GenerateKey768()
	if err != nil {
		return nil, err
	}
	say.Kind, say.KEM = 1, kem.EncapsulationKey().Bytes()
	theirs := montgomery(to)
	x, err := newExchange(p.prologue(p.ID, to), p.static, theirs)
	if err != nil {
		return nil, err
	}
	x.theirs = theirs
	m, err := x.write1(say.encode())
	if err != nil {
		return nil, err
	}
	return &Offered{Bytes: slices.Concat([]byte{version}, p.ID[:], m), peer: p, to: to, x: x, kem: kem, said: say}, nil
}

// Finish reads the answer.
func (o *Offered) Finish(answer []byte) (Payload, *Keys, error) {
	if len(answer) < 1 || answer[0] != version {
		return Payload{}, nil, errors.New("another version")
	}
	b, err := o.x.read2(answer[1:])
	if err != nil {
		return Payload{}, nil, err
	}
	said, err := decode(b)
	if err != nil {
		return said, nil, err
	}
	if said.Kind != 2 || said.Session != o.said.Session || said.Timestamp != o.said.Timestamp {
		return said, nil, errors.New("an answer to something else")
	}
	if o.said.AEADs&said.AEADs == 0 || said.AEADs != 1 && said.AEADs != 2 {
		return said, nil, fmt.Errorf("the AEAD %#x was not offered", said.AEADs)
	}
	ss, err := o.kem.Decapsulate(said.KEM)
	if err != nil {
		return said, nil, err
	}
	k, err := newKeys(o.peer, o.to, true, o.x, "handshake", said.AEADs, ss, nil)
	if err != nil {
		return said, nil, err
	}
	k.out, k.in = said.Index, o.said.Index
	return said, k, nil
}

// Answer reads an offer and answers it. The fields Kind, Session, Timestamp, AEADs
// and KEM of say are filled in.
func (p *Peer) Answer(offer []byte, say Payload) (answer []byte, said Payload, k *Keys, err error) {
	if len(offer) < 33 || offer[0] != version {
		return nil, said, nil, errors.New("another version")
	}
	from := [32]byte(offer[1:33])
	x, err := newExchange(p.prologue(from, p.ID), p.static, montgomery(p.ID))
	if err != nil {
		return nil, said, nil, err
	}
	b, err := x.read1(offer[33:])
	if err != nil {
		return nil, said, nil, err
	}
	if !bytes.Equal(x.theirs, montgomery(from)) {
		return nil, said, nil, errors.New("another's static key")
	}
	if said, err = decode(b); err != nil {
		return nil, said, nil, err
	}
	encap, err := mlkem.NewEncapsulationKey768(said.KEM)
	if err != nil {
		return nil, said, nil, err
	}
	ss, ct := encap.Encapsulate()
	// This side says that it has AES in hardware.
	say.AEADs = 2
	if said.AEADs&0x81 == 0x81 || said.AEADs&2 == 0 {
		say.AEADs = 1
	}
	say.Kind, say.Session, say.Timestamp, say.KEM = 2, said.Session, said.Timestamp, ct
	m, err := x.write2(say.encode())
	if err != nil {
		return nil, said, nil, err
	}
	if k, err = newKeys(p, from, false, x, "handshake", say.AEADs, ss, nil); err != nil {
		return nil, said, nil, err
	}
	k.out, k.in = said.Index, say.Index
	return append([]byte{version}, m...), said, k, nil
}

// newKeys is the key schedule. chain is the chaining key of the keys before, nil
// for the handshake; ss is ML-KEM's secret, nil in a rekey without.
func newKeys(p *Peer, peer [32]byte, initiator bool, x *exchange, kind string, suite byte, ss, chain []byte) (*Keys, error) {
	k1, k2 := x.split()
	ikm := slices.Concat(chain, ss, k1[:], k2[:])
	prk := mac(x.h[:], ikm)
	names := map[byte]string{1: "AES-256-GCM", 2: "ChaCha20-Poly1305"}
	key := func(what string) []byte {
		out := mac(prk[:], []byte("idloc pipe 1 "+kind+" "+names[suite]+" "+what), []byte{1})
		return out[:]
	}
	k := &Keys{peer: p, theirs: peer, suite: suite, chain: key("chaining key")}
	var err error
	there, back := "initiator to responder", "responder to initiator"
	if !initiator {
		there, back = back, there
	}
	if k.seal, err = newAEAD(suite, key(there)); err != nil {
		return nil, err
	}
	k.open, err = newAEAD(suite, key(back))
	return k, err
}

func newAEAD(suite byte, key []byte) (cipher.AEAD, error) {
	if suite == 2 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
