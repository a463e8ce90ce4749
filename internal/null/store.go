package null

import "sync"

// blockLen is the unit in which the store takes memory.
const blockLen = 64 << 10

var blockPool = sync.Pool{New: func() any { return new([blockLen]byte) }}

// store keeps the bytes of a stream from base on, up to end, in blocks that
// are given back as base moves. Whoever has the stream's sending side uses it:
// it has no lock.
type store struct {
	base, end uint64 // offsets in the stream
	blocks    []*[blockLen]byte
	head      int // of base in the first block
}

func (q *store) len() int { return int(q.end - q.base) }

// append adds a copy of b.
func (q *store) append(b []byte) {
	for len(b) > 0 {
		at := q.head + q.len()
		if at == len(q.blocks)*blockLen {
			q.blocks = append(q.blocks, blockPool.Get().(*[blockLen]byte))
		}
		n := copy(q.blocks[at/blockLen][at%blockLen:], b)
		q.end += uint64(n)
		b = b[n:]
	}
}

// at returns bytes that stand at an offset, as many as lie together; none at
// the end.
func (q *store) at(offset uint64) []byte {
	if offset == q.end {
		return nil
	}
	at := q.head + int(offset-q.base)
	b := q.blocks[at/blockLen][at%blockLen:]
	return b[:min(uint64(len(b)), q.end-offset)]
}

// trim forgets what stands before an offset, which must not lie beyond end.
func (q *store) trim(offset uint64) {
	if offset <= q.base {
		return
	}
	q.head += int(offset - q.base)
	q.base = offset
	n := q.head / blockLen
	if q.base == q.end {
		n = len(q.blocks) // the last one, too
	}
	for _, b := range q.blocks[:n] {
		blockPool.Put(b)
	}
	k := copy(q.blocks, q.blocks[n:])
	clear(q.blocks[k:])
	q.blocks = q.blocks[:k]
	if q.head %= blockLen; k == 0 {
		q.head = 0
	}
}
