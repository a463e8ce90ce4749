package socket

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
)

// A QUIC stack makes a connection of whatever looks like a client's first
// Initial packet, answers it or not, and from then on we would take its sender
// for one that speaks QUIC. But such a packet proves that it is one: its keys
// follow from the connection ID in it (RFC 9001 §5.2). So garbage goes no further
// than here. It is no defence against who knows QUIC, for the keys are public.

var initialSalt = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}

// initialKeys protect a client's Initial packets.
type initialKeys struct {
	header cipher.Block
	packet cipher.AEAD
	iv     []byte // 12 bytes
}

// newInitialKeys derives them from the destination connection ID of the
// client's first packet, RFC 9001 §5.2.
func newInitialKeys(dcid []byte) (k initialKeys, err error) {
	secret, err := hkdf.Extract(sha256.New, dcid, initialSalt)
	if err != nil {
		return k, err
	}
	if secret, err = expandLabel(secret, "client in", sha256.Size); err != nil {
		return k, err
	}
	key, err := expandLabel(secret, "quic key", 16)
	if err != nil {
		return k, err
	}
	hp, err := expandLabel(secret, "quic hp", 16)
	if err != nil {
		return k, err
	}
	if k.iv, err = expandLabel(secret, "quic iv", 12); err != nil {
		return k, err
	}
	if k.header, err = aes.NewCipher(hp); err != nil {
		return k, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return k, err
	}
	k.packet, err = cipher.NewGCM(block)
	return k, err
}

// expandLabel is TLS's HKDF-Expand-Label with an empty context, RFC 8446 §7.1.
func expandLabel(secret []byte, label string, n int) ([]byte, error) {
	const prefix = "tls13 "
	info := string([]byte{byte(n >> 8), byte(n), byte(len(prefix) + len(label))}) + prefix + label + "\x00"
	return hkdf.Expand(sha256.New, secret, info, n)
}

// mask is what protects the header of a packet with this sample, RFC 9001
// §5.4.3.
func (k *initialKeys) mask(sample []byte) (m [aes.BlockSize]byte) {
	k.header.Encrypt(m[:], sample)
	return m
}

// nonce is that of a packet number, RFC 9001 §5.3.
func (k *initialKeys) nonce(number uint32) []byte {
	n := append([]byte(nil), k.iv...)
	for i := range 4 {
		n[len(n)-1-i] ^= byte(number >> (8 * i))
	}
	return n
}

// opensInitial says whether the packet at the head of d, an Initial that
// parseLong took for h, opens under its own connection ID. d is borrowed.
func opensInitial(d []byte, h longHeader) bool {
	const sampleAt = 4 // after where the packet number begins
	at := 7 + len(h.dcid) + len(h.scid)
	tokenLen, rest, ok := varint(d[at:])
	if !ok || tokenLen > uint64(len(rest)) {
		return false
	}
	length, rest, ok := varint(rest[tokenLen:])
	if !ok || length > uint64(len(rest)) || length < sampleAt+aes.BlockSize {
		return false
	}
	k, err := newInitialKeys(h.dcid)
	if err != nil {
		return false
	}
	head := append([]byte(nil), d[:len(d)-len(rest)+sampleAt]...)
	number := head[len(head)-sampleAt:]
	m := k.mask(rest[sampleAt : sampleAt+aes.BlockSize])
	head[0] ^= m[0] & 0x0f
	n := int(head[0]&3) + 1
	pn := uint32(0)
	for i := range n {
		number[i] ^= m[1+i]
		pn = pn<<8 | uint32(number[i])
	}
	head = head[:len(head)-sampleAt+n]
	_, err = k.packet.Open(nil, k.nonce(pn), rest[n:length], head)
	return err == nil
}
