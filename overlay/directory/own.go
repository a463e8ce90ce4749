package directory

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// givesMax is how many times a server that does not take a record is tried until
// it says hello again.
const givesMax = 3

// store is the database as records of this peer's own are put into it.
type store interface {
	// keep stores a record in this peer's own part.
	keep(ctx context.Context, key string, value []byte) error
	// place stores a record at the servers nearest its key, which it walks to, and
	// returns those that have taken it.
	place(ctx context.Context, key string, value []byte) ([]peer.ID, error)
	// give stores a record at one server.
	give(ctx context.Context, p peer.ID, key string, value []byte) error
	// keeps says whether a server should have a key, as far as this peer knows.
	keeps(p peer.ID, key string) bool
	// known is how many other servers this peer knows of, servers those connected.
	known() int
	servers() []peer.ID
	isServer() bool
}

var _ store = (*database)(nil)

// ownRecord is a record of this peer's own and where it is. Walks are what costs:
// a server that comes is given the record by itself, and a new version goes to those
// that had the last. ownRecord is safe for concurrent use.
type ownRecord struct {
	key   string
	every time.Duration // how long a walk shows where it belongs

	mu      sync.Mutex // guards the rest
	value   []byte     // the newest; nil: none was made yet
	walked  time.Time  // when the servers nearest the key were last walked to
	holders map[peer.ID]*holder
}

// holder is a server that has a record, or was to be given it.
type holder struct {
	taken  bool // the newest version
	before bool // an earlier one
	failed int  // how often it has not taken the newest
}

func newOwnRecord(key string, every time.Duration) *ownRecord {
	return &ownRecord{key: key, every: every, holders: map[peer.ID]*holder{}}
}

// set makes a new version.
func (r *ownRecord) set(value []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.value = value
	for _, h := range r.holders {
		h.before, h.taken, h.failed = h.before || h.taken, false, 0
	}
}

// forget notes that a server has lost the record, or is gone.
func (r *ownRecord) forget(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.holders, p)
}

// heldBy says whether a server has the record.
func (r *ownRecord) heldBy(p peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.holders[p]
	return h != nil && (h.taken || h.before)
}

// scarce says whether so few servers have the newest version that it has to be put
// again: less than half of those that should.
func (r *ownRecord) scarce(s store) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value != nil && r.scarceLocked(s)
}

func (r *ownRecord) scarceLocked(s store) bool {
	n := 0
	for _, h := range r.holders {
		if h.taken {
			n++
		}
	}
	return 2*n < max(1, min(replicas, s.known()))
}

// lackedBy says whether a server should have the newest version and does not. One
// that has not taken it several times does not count.
func (r *ownRecord) lackedBy(s store, p peer.ID) bool {
	r.mu.Lock()
	h := r.holders[p]
	settled := r.value == nil || h != nil && (h.taken || h.failed >= givesMax)
	r.mu.Unlock()
	return !settled && s.keeps(p, r.key)
}

// lacking returns the connected servers by which the newest version is lacked.
func (r *ownRecord) lacking(s store) []peer.ID {
	return slices.DeleteFunc(s.servers(), func(p peer.ID) bool { return !r.lackedBy(s, p) })
}

// put brings the newest version to where it belongs, and says whether enough servers
// have it then. walk has it walk there in any case; otherwise it does when that was
// long ago, or when too few of those that should have it take it.
func (r *ownRecord) put(ctx context.Context, s store, walk bool) (taken int, err error) {
	r.mu.Lock()
	value, due := r.value, walk || r.walked.IsZero() || time.Since(r.walked) >= r.every
	var to []peer.ID
	for p, h := range r.holders {
		if h.before && !h.taken && h.failed < givesMax {
			to = append(to, p)
		}
	}
	r.mu.Unlock()
	if value == nil {
		return 0, nil
	}
	if !due {
		for _, p := range r.lacking(s) {
			if !r.heldBy(p) {
				to = append(to, p)
			}
		}
		err = r.giveTo(ctx, s, to, value)
		due = r.scarce(s)
	}
	if due {
		var took []peer.ID
		if took, err = s.place(ctx, r.key, value); len(took) > 0 {
			err = nil
		}
		r.note(took, value, time.Now())
	}
	return r.taken(), err
}

// giveLacking gives the newest version to the servers that lack it.
func (r *ownRecord) giveLacking(ctx context.Context, s store) {
	r.mu.Lock()
	value := r.value
	r.mu.Unlock()
	_ = r.giveTo(ctx, s, r.lacking(s), value)
}

func (r *ownRecord) giveTo(ctx context.Context, s store, to []peer.ID, value []byte) error {
	took, err := giveAll(ctx, to, func(ctx context.Context, p peer.ID) error {
		err := s.give(ctx, p, r.key, value)
		if err != nil {
			r.mu.Lock()
			r.holderLocked(p).failed++
			r.mu.Unlock()
		}
		return err
	})
	r.note(took, value, time.Time{})
	return err
}

// note takes down who has taken a version, and when it was walked there; zero: it
// was not.
func (r *ownRecord) note(took []peer.ID, value []byte, walked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !walked.IsZero() {
		// Whoever had it before and is not among the nearest any more does
		// not count.
		clear(r.holders)
		r.walked = walked
		if len(took) == 0 {
			r.walked = time.Time{}
		}
	}
	for _, p := range took {
		h := r.holderLocked(p)
		// A newer one may have been made meanwhile.
		h.taken, h.before = string(value) == string(r.value), true
	}
}

func (r *ownRecord) holderLocked(p peer.ID) *holder {
	h := r.holders[p]
	if h == nil {
		h = &holder{}
		r.holders[p] = h
	}
	return h
}

// taken is how many servers have the newest version.
func (r *ownRecord) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, h := range r.holders {
		if h.taken {
			n++
		}
	}
	return n
}
