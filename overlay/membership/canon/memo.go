package canon

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// memoSize is how many signatures each of a memo's two generations holds, 32
// bytes each and the map's own share: 2 MiB in all at the most.
const memoSize = 16384

// good are statements whose signature was found good. That a signature is good
// is true for ever and for everybody, unlike what the statement says (its times,
// its revocation), so it may be remembered, once for the whole process: the
// chain of a member comes with each of its connections, records and offers, and
// the same record from each of its replicas.
var good memo

// memo is a set that forgets: full, its younger half becomes the older, and the
// older is dropped. It is safe for concurrent use.
type memo struct {
	mu         sync.Mutex // guards both
	young, old map[[sha256.Size]byte]struct{}
}

func (m *memo) has(id [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.young[id]; ok {
		return true
	}
	_, ok := m.old[id]
	if ok {
		m.addLocked(id)
	}
	return ok
}

func (m *memo) add(id [sha256.Size]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(id)
}

func (m *memo) addLocked(id [sha256.Size]byte) {
	if len(m.young) >= memoSize {
		m.old, m.young = m.young, nil
	}
	if m.young == nil {
		m.young = map[[sha256.Size]byte]struct{}{}
	}
	m.young[id] = struct{}{}
}

// digest names a statement, its signer and its signature: the parts of fixed
// size first, each other one behind its length.
func digest(pub ed25519.PublicKey, domain string, payload, sig []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(pub)
	h.Write(sig)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(domain)))
	h.Write(n[:])
	h.Write([]byte(domain))
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(nil))
}
