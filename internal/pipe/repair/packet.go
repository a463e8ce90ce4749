package repair

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/idloc/idloc/internal/pipe/congestion"
)

// Bits of the next header, the first byte of a DATA plaintext. Protocol numbers that
// travel in a pipe are below 64 (DESIGN §6).
const (
	Wanted = 0x80 // the sender wants it acknowledged, and keeps it until then unless it is UDP
	Again  = 0x40 // it was sent before
	Bits   = Wanted | Again
)

// MaxPlain is the longest plaintext that is kept: what a UDP payload of 1472 holds,
// and room.
const MaxPlain = 1480

// cost is what a packet that is kept takes of a Budget.
const cost = 2048

// Packet is a plaintext that is kept. It belongs to its Sender.
type Packet struct {
	congestion.Packet

	V6    bool
	Class uint8 // traffic class

	once       bool // it is not sent again: a datagram
	flow       uint64
	next, prev *Packet
	list       *list
	seq        uint64 // of all that were sent, 0: it was not yet
	epoch      uint32 // of the path that it was sent on
	tries      int
	loss       int    // which of its Sender's losses it was last, from 1
	index      uint32 // of the datagram that carried it last
	counter    uint32
	n          int
	buf        [MaxPlain]byte
}

var packetPool = sync.Pool{New: func() any { return new(Packet) }}

// Plain is the plaintext, next header first, with its Bits.
func (k *Packet) Plain() []byte {
	if k.tries > 0 {
		k.buf[0] |= Again
	}
	return k.buf[:k.n]
}

func (k *Packet) free() {
	k.next, k.prev, k.list, k.seq, k.tries, k.loss, k.index, k.counter, k.once = nil, nil, nil, 0, 0, 0, 0, 0, false
	packetPool.Put(k)
}

// list is a list of packets.
type list struct {
	first, last *Packet
	n           int
}

func (l *list) push(k *Packet) {
	k.list, k.prev, k.next = l, l.last, nil
	if l.last != nil {
		l.last.next = k
	} else {
		l.first = k
	}
	l.last = k
	l.n++
}

// pushAfter puts k behind at, at the front if that is nil.
func (l *list) pushAfter(at, k *Packet) {
	if at == l.last {
		l.push(k)
		return
	}
	k.list, k.prev = l, at
	if at != nil {
		k.next = at.next
		at.next = k
	} else {
		k.next = l.first
		l.first = k
	}
	k.next.prev = k
	l.n++
}

func (l *list) remove(k *Packet) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		l.last = k.prev
	}
	k.next, k.prev, k.list = nil, nil, nil
	l.n--
}

// Budget bounds what all Senders of a node keep. It may be used concurrently; the
// zero value has room for nothing.
type Budget struct {
	left atomic.Int64
}

// NewBudget returns one of n bytes.
func NewBudget(n int64) *Budget {
	b := new(Budget)
	b.left.Store(n)
	return b
}

// Left is how many bytes are not in use.
func (b *Budget) Left() int64 { return b.left.Load() }

func (b *Budget) take() bool {
	if b.left.Add(-cost) < 0 {
		b.left.Add(cost)
		return false
	}
	return true
}

func (b *Budget) give() { b.left.Add(cost) }

// The layout of what is cut: a next header and a TCP header (RFC 9293 §3.1).
const (
	protoTCP = 6
	seqAt    = 1 + 4
	offsetAt = 1 + 12
	flagsAt  = 1 + 13
	leastTCP = 1 + 20

	flagFIN = 0x01
	flagSYN = 0x02
	flagPSH = 0x08
	flagCWR = 0x80
)

// cut moves what is beyond limit bytes of k's plaintext, a TCP segment, to a packet of
// its own, rest: FIN and PSH belong to the last segment, CWR to the first (RFC 3168
// §6.1.2). It is false for what cannot be cut.
func (k *Packet) cut(rest *Packet, limit int) bool {
	b := k.buf[:k.n]
	if len(b) < leastTCP || b[0]&^Bits != protoTCP || b[flagsAt]&flagSYN != 0 {
		return false
	}
	head := 1 + int(b[offsetAt]>>4)*4
	if head < leastTCP || head >= limit || limit >= len(b) {
		return false
	}
	rest.n = copy(rest.buf[:], b[:head])
	rest.n += copy(rest.buf[head:], b[limit:])
	binary.BigEndian.PutUint32(rest.buf[seqAt:], binary.BigEndian.Uint32(b[seqAt:])+uint32(limit-head))
	rest.buf[flagsAt] &^= flagCWR
	b[flagsAt] &^= flagFIN | flagPSH
	k.n = limit
	rest.V6, rest.Class, rest.flow, rest.tries = k.V6, k.Class, k.flow, k.tries
	return true
}
