package second

import (
	"crypto/cipher"
	"crypto/mlkem"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The types of a datagram.
const (
	Data4 = 0x80
	Data6 = 0x81
	Ctrl  = 0x82
	Frag  = 0x83
)

// Keys is what one handshake or rekey gave.
type Keys struct {
	peer       *Peer
	theirs     [32]byte
	suite      byte
	seal, open cipher.AEAD
	out, in    uint32 // receiver indices
	counter    uint32
	chain      []byte
	Number     uint32 // of the rekey; 0: the handshake's
}

// In is the receiver index that these keys open.
func (k *Keys) In() uint32 { return k.in }

// Seal makes a datagram.
func (k *Keys) Seal(kind byte, plain []byte) []byte {
	h := []byte{kind, byte(k.out >> 16), byte(k.out >> 8), byte(k.out)}
	h = binary.BigEndian.AppendUint32(h, k.counter)
	nonce := binary.BigEndian.AppendUint32(make([]byte, 8, 12), k.counter)
	k.counter++
	return k.seal.Seal(h, nonce, plain, h[:8])
}

// Index is the receiver index of a datagram.
func Index(datagram []byte) uint32 { return binary.BigEndian.Uint32(datagram) & 0xffffff }

// Open opens a datagram.
func (k *Keys) Open(datagram []byte) (kind byte, plain []byte, err error) {
	if len(datagram) < 8+16 {
		return 0, nil, fmt.Errorf("a datagram of %d bytes", len(datagram))
	}
	nonce := append(make([]byte, 8, 12), datagram[4:8]...)
	plain, err = k.open.Open(nil, nonce, datagram[8:], datagram[:8])
	return datagram[0], plain, err
}

// Frame is a control frame: its type and the bytes after that.
type Frame struct {
	Type byte
	Body []byte
}

// The control frames that are used here.
const (
	Ping          = 1
	Pong          = 2
	PathChallenge = 3
	PathResponse  = 4
	MTUProbe      = 5
	MTUAck        = 6
	Confirm       = 7
	RekeyOffer    = 8
	RekeyAnswer   = 9
	Close         = 10
	Closed        = 13
	Extension     = 0x40 // and above
)

// Frames reads a CTRL plaintext.
func Frames(b []byte) (out []Frame, err error) {
	fixed := map[byte]int{Ping: 8, Pong: 8, PathChallenge: 8, PathResponse: 8, MTUProbe: 10, MTUAck: 10, Confirm: 1, Close: 1, 11: 48, 12: 19, Closed: 0}
	for len(b) > 0 && b[0] != 0 {
		n, ok := fixed[b[0]]
		switch {
		case b[0] >= Extension: // says how long it is
			if len(b) < 3 {
				return nil, errors.New("a frame that is cut off")
			}
			n = 2 + int(binary.BigEndian.Uint16(b[1:]))
		case b[0] == RekeyOffer || b[0] == RekeyAnswer:
			if len(b) < 7 {
				return nil, errors.New("a frame that is cut off")
			}
			n = 6 + int(binary.BigEndian.Uint16(b[5:]))
		case !ok:
			return nil, fmt.Errorf("frame type %d", b[0])
		}
		if len(b) < 1+n {
			return nil, errors.New("a frame that is cut off")
		}
		out = append(out, Frame{b[0], b[1 : 1+n]})
		b = b[1+n:]
	}
	for _, v := range b {
		if v != 0 {
			return nil, errors.New("padding that is not zero")
		}
	}
	return out, nil
}

// Rekeying is a rekey offer that waits for its answer.
type Rekeying struct {
	Bytes []byte // a CTRL plaintext

	old   *Keys
	x     *exchange
	kem   *mlkem.DecapsulationKey768
	index uint32
}

func (k *Keys) rekey(initiator, responder [32]byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(append(k.peer.prologue(initiator, responder), "rekey"...), number)
}

func rekeyPayload(kind byte, number, index uint32, kem []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, number)
	b = append(b, byte(index>>16), byte(index>>8), byte(index))
	return append(binary.BigEndian.AppendUint16(b, uint16(len(kem))), kem...)
}

func readRekeyPayload(b []byte, kind byte, number uint32) (index uint32, kem []byte, err error) {
	if len(b) < 10 || b[0] != kind || binary.BigEndian.Uint32(b[1:]) != number || len(b) != 10+int(binary.BigEndian.Uint16(b[8:])) {
		return 0, nil, errors.New("no rekey of this number")
	}
	return uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7]), b[10:], nil
}

func rekeyFrame(kind byte, number uint32, m []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, number)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
}

// withKEM says whether the rekey of that number takes ML-KEM along.
func withKEM(number uint32) bool { return number%8 == 0 }

// Rekey begins the rekey after k.
func (k *Keys) Rekey(index uint32) (*Rekeying, error) {
	number := k.Number + 1
	theirs := montgomery(k.theirs)
	x, err := newExchange(k.rekey(k.peer.ID, k.theirs, number), k.peer.static, theirs)
	if err != nil {
		return nil, err
	}
	x.theirs = theirs
	r := &Rekeying{old: k, x: x, index: index}
	var kem []byte
	if withKEM(number) {
		if r.kem, err = mlkem.GenerateKey768(); err != nil {
			return nil, err
		}
		kem = r.kem.EncapsulationKey().Bytes()
	}
	m, err := x.write1(rekeyPayload(1, number, index, kem))
	r.Bytes = rekeyFrame(RekeyOffer, number, m)
	return r, err
}

// Finish reads the answer's frame.
func (r *Rekeying) Finish(f Frame) (*Keys, error) {
	number := r.old.Number + 1
	b, err := r.x.read2(f.Body[6:])
	if err != nil {
		return nil, err
	}
	index, ct, err := readRekeyPayload(b, 2, number)
	if err != nil {
		return nil, err
	}
	kind := "rekey"
	var ss []byte
	if r.kem != nil {
		kind = "rekey ML-KEM-768"
		if ss, err = r.kem.Decapsulate(ct); err != nil {
			return nil, err
		}
	}
	n, err := newKeys(r.old.peer, r.old.theirs, true, r.x, kind, r.old.suite, ss, r.old.chain)
	if err != nil {
		return nil, err
	}
	n.out, n.in, n.Number = index, r.index, number
	return n, nil
}

// AnswerRekey reads the frame of a rekey's offer; answer is a CTRL plaintext.
func (k *Keys) AnswerRekey(f Frame, index uint32) (answer []byte, n *Keys, err error) {
	number := binary.BigEndian.Uint32(f.Body)
	if number != k.Number+1 {
		return nil, nil, fmt.Errorf("rekey %d after %d", number, k.Number)
	}
	x, err := newExchange(k.rekey(k.theirs, k.peer.ID, number), k.peer.static, montgomery(k.peer.ID))
	if err != nil {
		return nil, nil, err
	}
	b, err := x.read1(f.Body[6:])
	if err != nil {
		return nil, nil, err
	}
	if !slices.Equal(x.theirs, montgomery(k.theirs)) {
		return nil, nil, errors.New("another's static key")
	}
	theirIndex, encap, err := readRekeyPayload(b, 1, number)
	if err != nil {
		return nil, nil, err
	}
	kind := "rekey"
	var ss, ct []byte
	if len(encap) > 0 {
		kind = "rekey ML-KEM-768"
		e, err := mlkem.NewEncapsulationKey768(encap)
		if err != nil {
			return nil, nil, err
		}
		ss, ct = e.Encapsulate()
	}
	m, err := x.write2(rekeyPayload(2, number, index, ct))
	if err != nil {
		return nil, nil, err
	}
	if n, err = newKeys(k.peer, k.theirs, false, x, kind, k.suite, ss, k.chain); err != nil {
		return nil, nil, err
	}
	n.out, n.in, n.Number = theirIndex, index, number
	return rekeyFrame(RekeyAnswer, number, m), n, nil
}
