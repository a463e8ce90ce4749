package directory

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/overlay/naming"
)

const (
	validFor = 30 * time.Second
	validMax = 8192 // records
)

// validator is naming's with a short memory of what was valid: the same record
// comes from every replica of a lookup and is checked again by every put, and
// each check is a handful of signatures. User records are not remembered: tags change.
// It is safe for concurrent use.
type validator struct {
	*naming.Validator

	mu    sync.Mutex // guards the rest
	list  uint64     // number of the revocation list that known holds under
	known *simplelru.LRU[[sha256.Size]byte, time.Time]
}

func newValidator(v *naming.Validator) *validator {
	known, err := simplelru.NewLRU[[sha256.Size]byte, time.Time](validMax, nil)
	if err != nil {
		panic("directory: " + err.Error()) // its size is positive
	}
	return &validator{Validator: v, known: known}
}

// Validate implements record.Validator.
func (v *validator) Validate(key string, value []byte) error {
	if naming.IsUser(value) {
		return v.Validator.Validate(key, value)
	}
	h := sha256.New()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write(value)
	id := [sha256.Size]byte(h.Sum(nil))
	now := time.Now()
	list := v.Revoked().Seq()
	v.mu.Lock()
	if v.list != list {
		v.list = list
		v.known.Purge()
	}
	until, ok := v.known.Get(id)
	v.mu.Unlock()
	if ok && now.Before(until) {
		return nil
	}
	if err := v.Validator.Validate(key, value); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.list == list {
		v.known.Add(id, now.Add(validFor))
	}
	return nil
}
