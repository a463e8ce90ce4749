package pipe

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// What does not fit a datagram travels in pieces (DESIGN §14.3).
const (
	maxPending    = 4
	maxPieces     = 128
	reassembleFor = int64(time.Second)
)

// ErrTooLarge is returned for a plaintext that no number of pieces carries.
var ErrTooLarge = errors.New("pipe: message too large")

// reassembly is the messages in pieces of a pipe.
type reassembly struct {
	message atomic.Uint32 // ID of the last one sent
	waiting []*pending    // of the peer's, not complete yet; the pipe's mu guards it
}

// SendLarge sends a plaintext, next header first, that is longer than
// MaxSegment+1: in pieces, which Handler.Large of the other side gets as one.
// plain is borrowed for the call. class is as in Batch.SetClass.
func (p *Pipe) SendLarge(v6 bool, plain []byte, class uint8) error {
	kp := p.keys.send.Load()
	if kp == nil {
		return ErrNotUp
	}
	kind := wire.FragData4
	if v6 {
		kind = wire.FragData6
	}
	return p.sendPieces(kp, nil, kind, plain, class)
}

// sendPieces sends plain over to, nil for the best path.
func (p *Pipe) sendPieces(kp *keypair, to *path, kind wire.FragKind, plain []byte, class uint8) error {
	if len(plain) == 0 || len(plain) > wire.MaxMessage {
		return ErrTooLarge
	}
	size := p.datagram()
	if to != nil {
		size = int(to.mtu.Load())
	}
	size = (size - wire.HeaderLen - wire.TagLen - wire.FragHeaderLen) / wire.FragUnit * wire.FragUnit
	b := newBatch(p, wire.TypeFrag)
	defer b.Free()
	b.to = to
	b.SetClass(class)
	f := wire.Fragment{Message: uint16(p.pieces.message.Add(1)), Kind: kind}
	for len(plain) > 0 {
		n := min(size, len(plain))
		f.More = n < len(plain)
		b.kp = kp
		room := b.Room(wire.FragHeaderLen + n)
		if room == nil {
			if err := b.Flush(); err != nil {
				return err
			}
			b.kp = kp
			room = b.Room(wire.FragHeaderLen + n)
		}
		copy(f.Append(room[:0])[wire.FragHeaderLen:wire.FragHeaderLen+n], plain[:n])
		b.Seal()
		plain = plain[n:]
		f.Offset += n
	}
	return b.Flush()
}

// pending is a message of which pieces are missing.
type pending struct {
	kp      *keypair // pieces under other keys belong to another message
	message uint16
	kind    wire.FragKind
	since   int64
	total   int // 0 until the last piece came
	have    int
	pieces  []fragment
}

type fragment struct {
	offset int
	bytes  []byte
}

// piece takes one FRAG plaintext and returns the whole message if this was
// the missing one. Pieces must not overlap; a message where they do is
// dropped. The caller holds mu.
func (p *Pipe) piece(kp *keypair, plain []byte, now int64) (wire.FragKind, []byte) {
	f, b, ok := wire.ParseFragment(plain)
	if !ok {
		p.drops.count(DropMalformed)
		return 0, nil
	}
	p.expirePieces(now)
	i := slices.IndexFunc(p.pieces.waiting, func(m *pending) bool {
		return m.kp == kp && m.message == f.Message && m.kind == f.Kind
	})
	if i < 0 {
		if len(p.pieces.waiting) >= maxPending {
			p.drops.count(DropFragment)
			p.pieces.waiting = slices.Delete(p.pieces.waiting, 0, 1)
		}
		p.pieces.waiting = append(p.pieces.waiting, &pending{kp: kp, message: f.Message, kind: f.Kind, since: now})
		i = len(p.pieces.waiting) - 1
		p.e.timers.plan(&p.timed, now+reassembleFor)
	}
	m := p.pieces.waiting[i]
	if !m.add(f, b) {
		p.drops.count(DropFragment)
		p.pieces.waiting = slices.Delete(p.pieces.waiting, i, i+1)
		return 0, nil
	}
	if m.total == 0 || m.have < m.total {
		return 0, nil
	}
	p.pieces.waiting = slices.Delete(p.pieces.waiting, i, i+1)
	whole := make([]byte, 0, m.total)
	for _, piece := range m.pieces {
		whole = append(whole, piece.bytes...)
	}
	return m.kind, whole
}

// add keeps a copy of a piece in its place; false: it contradicts the others.
func (m *pending) add(f wire.Fragment, b []byte) bool {
	end := f.Offset + len(b)
	if m.total > 0 && end > m.total || len(m.pieces) >= maxPieces {
		return false
	}
	at, found := slices.BinarySearchFunc(m.pieces, f.Offset, func(g fragment, offset int) int {
		return cmp.Compare(g.offset, offset)
	})
	if found || at < len(m.pieces) && m.pieces[at].offset < end {
		return false
	}
	if at > 0 {
		before := m.pieces[at-1]
		if before.offset+len(before.bytes) > f.Offset {
			return false
		}
	}
	if !f.More {
		if m.total > 0 || at < len(m.pieces) {
			return false
		}
		m.total = end
	}
	m.pieces = slices.Insert(m.pieces, at, fragment{f.Offset, slices.Clone(b)})
	m.have += len(b)
	return true
}

// expirePieces drops messages that waited too long, and says when the next
// one does. The caller holds mu.
func (p *Pipe) expirePieces(now int64) (next int64) {
	kept := p.pieces.waiting[:0]
	for _, m := range p.pieces.waiting {
		if now-m.since >= reassembleFor {
			p.drops.count(DropFragment)
			continue
		}
		kept = append(kept, m)
		next = earlier(next, m.since+reassembleFor)
	}
	clear(p.pieces.waiting[len(kept):])
	if p.pieces.waiting = kept; len(kept) == 0 {
		p.pieces.waiting = nil
	}
	return next
}
