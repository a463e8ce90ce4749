package lsi

import (
	"hash/maphash"
	"sync/atomic"
)

// index finds entries by a key. get takes no lock and allocates nothing, and
// may run beside one writer; put and remove need the caller's lock.
//
// It is an open-addressing table of pointers with linear probing. A writer
// that needs a larger table, or one without the marks of removed entries,
// fills a new one and publishes it in one store, so inserting costs O(1) on
// average where copying on write would cost O(n). The seed keeps a peer that
// can choose its ID from choosing its slot.
type index[K comparable] struct {
	seed  maphash.Seed
	key   func(*entry) K
	table atomic.Pointer[slots]
	used  int // slots that are not nil
	live  int // slots with an entry
}

type slots []atomic.Pointer[entry]

// removed marks a slot whose entry went: probing goes on behind it.
var removed = new(entry)

const minSlots = 64

func newIndex[K comparable](key func(*entry) K) *index[K] {
	x := &index[K]{seed: maphash.MakeSeed(), key: key}
	s := make(slots, minSlots)
	x.table.Store(&s)
	return x
}

func (x *index[K]) get(k K) *entry {
	s := *x.table.Load()
	mask := uint64(len(s) - 1)
	for i := maphash.Comparable(x.seed, k) & mask; ; i = (i + 1) & mask {
		e := s[i].Load()
		if e == nil {
			return nil
		}
		if e != removed && x.key(e) == k {
			return e
		}
	}
}

// put adds e, whose key must not be in the index.
func (x *index[K]) put(e *entry) {
	if n := len(*x.table.Load()); (x.used+1)*4 > n*3 {
		x.rebuild()
	}
	x.insert(*x.table.Load(), e)
}

func (x *index[K]) insert(s slots, e *entry) {
	mask := uint64(len(s) - 1)
	i := maphash.Comparable(x.seed, x.key(e)) & mask
	for s[i].Load() != nil {
		i = (i + 1) & mask
	}
	s[i].Store(e)
	x.used++
	x.live++
}

// rebuild publishes a table of the live entries, at most three eighths full.
func (x *index[K]) rebuild() {
	old := *x.table.Load()
	n := minSlots
	for (x.live+1)*8 > n*3 {
		n *= 2
	}
	s := make(slots, n)
	x.used, x.live = 0, 0
	for i := range old {
		if e := old[i].Load(); e != nil && e != removed {
			x.insert(s, e)
		}
	}
	x.table.Store(&s)
}

// remove takes e out, which must be in the index.
func (x *index[K]) remove(e *entry) {
	s := *x.table.Load()
	mask := uint64(len(s) - 1)
	for i := maphash.Comparable(x.seed, x.key(e)) & mask; ; i = (i + 1) & mask {
		switch s[i].Load() {
		case e:
			s[i].Store(removed)
			x.live--
			return
		case nil:
			return
		}
	}
}
