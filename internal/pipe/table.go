package pipe

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/idloc/idloc/internal/wire"
)

// table finds the keys of a receiver index. Reading takes no lock: it is an
// open-addressed hash table whose slots are atomic pointers, replaced as a
// whole when it grows. Indices are random, so they are their own hash. A slot
// once used never becomes nil again before the next rebuild, so that a
// reader's probe sequence never breaks.
type table struct {
	slots atomic.Pointer[[]atomic.Pointer[keypair]]

	mu   sync.Mutex // guards changes
	used int        // slots that are not nil
	live int        // of these, slots that are not deleted
}

// deleted takes the place of one that is gone.
var (
	deleted = &keypair{recvIndex: wire.MaxIndex + 1}

	errTableFull = errors.New("pipe: too many sessions")
)

const minTable = 16

// get returns the keys of index, or nil. It does not allocate.
func (t *table) get(index uint32) *keypair {
	slots := t.slots.Load()
	if slots == nil {
		return nil
	}
	s := *slots
	mask := uint32(len(s) - 1)
	for i := index & mask; ; i = (i + 1) & mask {
		k := s[i].Load()
		if k == nil {
			return nil
		}
		if k.recvIndex == index {
			return k
		}
	}
}

// reserve stores k under a fresh random index, not zero, which it writes to
// k.recvIndex.
func (t *table) reserve(k *keypair) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live >= wire.MaxIndex/4 {
		return errTableFull
	}
	for {
		var b [4]byte
		rand.Read(b[:])
		k.recvIndex = binary.BigEndian.Uint32(b[:]) & wire.MaxIndex
		if k.recvIndex != 0 && t.get(k.recvIndex) == nil {
			break
		}
	}
	t.grow()
	t.insert(*t.slots.Load(), k)
	t.live++
	return nil
}

// insert puts k into the first free slot and counts that slot.
func (t *table) insert(s []atomic.Pointer[keypair], k *keypair) {
	mask := uint32(len(s) - 1)
	for i := k.recvIndex & mask; ; i = (i + 1) & mask {
		switch s[i].Load() {
		case nil:
			t.used++
			s[i].Store(k)
			return
		case deleted:
			s[i].Store(k)
			return
		}
	}
}

// grow makes room for one more, and keeps half of the slots nil.
func (t *table) grow() {
	old := t.slots.Load()
	if old != nil && (t.used+1)*2 <= len(*old) {
		return
	}
	size := minTable
	for size < (t.live+1)*4 {
		size *= 2
	}
	fresh := make([]atomic.Pointer[keypair], size)
	t.used = 0
	if old != nil {
		for i := range *old {
			if k := (*old)[i].Load(); k != nil && k != deleted {
				t.insert(fresh, k)
			}
		}
	}
	t.slots.Store(&fresh)
}

// remove frees k's index. It may be called again.
func (t *table) remove(k *keypair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slots := t.slots.Load()
	if slots == nil {
		return
	}
	s := *slots
	mask := uint32(len(s) - 1)
	for i := k.recvIndex & mask; ; i = (i + 1) & mask {
		switch s[i].Load() {
		case nil:
			return
		case k:
			s[i].Store(deleted)
			t.live--
			return
		}
	}
}
