package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/state"
)

const (
	// BlockedFile is the document in the state directory. It is made anew if it is
	// damaged: then UDP has its head start again.
	BlockedFile = "blocked"
	// blockedMax bounds the networks that are remembered.
	blockedMax = 32
)

// Blocked remembers in which networks no UDP came back, across restarts, so that carriers
// need not wait for it there. It is safe for concurrent use.
type Blocked struct {
	dir *state.Dir // nil: nothing is kept
	now func() time.Time
	log *slog.Logger

	mu sync.Mutex           // guards at
	at map[string]time.Time // when UDP was last found blocked, by a network's digest
}

// LoadBlocked reads what is saved in a directory, nil if there is none. The error is about
// a file that was damaged; the Blocked is good all the same.
func LoadBlocked(dir *state.Dir, now func() time.Time, log *slog.Logger) (*Blocked, error) {
	b := &Blocked{dir: dir, now: now, log: log, at: map[string]time.Time{}}
	if dir == nil {
		return b, nil
	}
	var saved map[string]time.Time
	found, damaged := dir.LoadCache(BlockedFile, &saved)
	if found {
		for network, at := range saved {
			if b.freshAt(at) && len(b.at) < blockedMax {
				b.at[network] = at
			}
		}
	}
	return b, damaged
}

// freshAt says whether what was found then still counts. What is of the future was
// written by a clock that is not believed.
func (b *Blocked) freshAt(at time.Time) bool {
	age := b.now().Sub(at)
	return age >= 0 && age < blockedFor
}

// digest is how a network is kept, whatever its name.
func digest(network string) string {
	h := sha256.Sum256([]byte("idloc network " + network))
	return hex.EncodeToString(h[:8])
}

// Here says whether no UDP came back in a network of late.
func (b *Blocked) Here(network string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, ok := b.at[digest(network)]
	return ok && b.freshAt(at)
}

// Note keeps that UDP is blocked in a network, or that it works there.
func (b *Blocked) Note(network string, blocked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := digest(network)
	old, known := b.at[key]
	now := b.now().UTC().Truncate(time.Second)
	switch {
	case !blocked && !known, blocked && known && now.Sub(old) < noteEvery && b.freshAt(old):
		return
	case blocked:
		b.at[key] = now
	default:
		delete(b.at, key)
	}
	for k, at := range b.at {
		if !b.freshAt(at) {
			delete(b.at, k)
		}
	}
	for len(b.at) > blockedMax {
		oldest := key
		for k, at := range b.at {
			if at.Before(b.at[oldest]) {
				oldest = k
			}
		}
		delete(b.at, oldest)
	}
	b.dir.Keep(b.log, BlockedFile, b.at)
}
