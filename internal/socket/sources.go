package socket

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	sourceLife    = 60 // seconds that an address counts as one we speak QUIC with
	sourceBuckets = 1024
	sourceWays    = 4

	limitSlots = 1024
	// First packets per second and source address, and how many at once. A
	// handshake has three to five of them, and behind one address may be an
	// office of two hundred that comes back after a power cut.
	limitRate  = 64
	limitBurst = 2048
)

// sources remembers with which addresses QUIC was spoken, through which view
// and which socket. It is bounded and lock-free: buckets of words of
//
//	tag (32) | view (8) | conn (8) | sent (1) | seconds (15)
//
// Collisions of tags let a datagram in four thousand million through that
// should not; the hash is keyed, so nobody can aim at them. A full bucket loses
// its oldest entry, but one that we sent to never makes room for one that we
// merely heard from: strangers do not push out the peers.
type sources struct {
	seed  maphash.Seed
	epoch time.Time
	words [sourceBuckets]sourceBucket
}

type sourceBucket [sourceWays]atomic.Uint64

// sourceKey is the keyed hash of an address and port.
type sourceKey uint64

const (
	wordSent    = 1 << 15
	wordSeconds = wordSent - 1
)

func newSources() *sources {
	return &sources{seed: maphash.MakeSeed(), epoch: time.Now()}
}

func (s *sources) key(a netip.AddrPort) sourceKey {
	return sourceKey(hashAddr(s.seed, a))
}

func hashAddr(seed maphash.Seed, a netip.AddrPort) uint64 {
	var b [18]byte
	ip := a.Addr().As16()
	copy(b[:], ip[:])
	b[16], b[17] = byte(a.Port()>>8), byte(a.Port())
	return maphash.Bytes(seed, b[:])
}

func (k sourceKey) tag() uint64 { return uint64(k) >> 32 }

// now is the time in words. It starts at 1: a zero word is an empty one.
func (s *sources) now() uint64 {
	return uint64(time.Since(s.epoch)/time.Second+1) & wordSeconds
}

// age is how many seconds ago w was written.
func age(w, now uint64) uint64 { return (now - w) & wordSeconds }

func word(k sourceKey, view, conn uint8, sent, now uint64) uint64 {
	return k.tag()<<32 | uint64(view)<<24 | uint64(conn)<<16 | sent | now
}

// find returns the view and the socket last used with k, 0 if not known, and
// whether k spoke QUIC with us in the last minute.
func (s *sources) find(k sourceKey) (view, conn uint8, ok bool) {
	now := s.now()
	bucket := &s.words[k%sourceBuckets]
	for i := range bucket {
		w := bucket[i].Load()
		if w>>32 == k.tag() && w != 0 && age(w, now) <= sourceLife {
			return uint8(w >> 24), uint8(w >> 16), true
		}
	}
	return 0, 0, false
}

// heard notes a plausible first packet from k on a socket.
func (s *sources) heard(k sourceKey, conn uint8) { s.note(k, 0, conn, 0) }

// sent notes that a view sent to k from a socket.
func (s *sources) sent(k sourceKey, view, conn uint8) { s.note(k, view, conn, wordSent) }

func (s *sources) note(k sourceKey, view, conn uint8, sent uint64) {
	now := s.now()
	bucket := &s.words[k%sourceBuckets]
	for range 4 { // lost races; giving up loses one refresh
		slot, old, found := bucket.slot(k, now, sent)
		if slot == nil {
			return
		}
		v, c, f := view, conn, sent
		if found && sent == 0 {
			// What we know from sending stays.
			v, f = uint8(old>>24), old&wordSent
		}
		w := word(k, v, c, f, now)
		if w == old || slot.CompareAndSwap(old, w) {
			return
		}
	}
}

// slot returns where to note k: its own entry, an empty or expired one, the
// oldest that was only heard, or, for one that we send to, the oldest of all;
// nil if there is no place.
func (b *sourceBucket) slot(k sourceKey, now, sent uint64) (slot *atomic.Uint64, old uint64, found bool) {
	best := -1
	for i := range b {
		w := b[i].Load()
		if w>>32 == k.tag() && w != 0 {
			return &b[i], w, age(w, now) <= sourceLife
		}
		rank := 1 + int(age(w, now))
		switch {
		case w == 0, age(w, now) > sourceLife:
			rank = 1 << 20
		case w&wordSent == 0:
			rank += 1 << 10
		case sent == 0:
			continue
		}
		if rank > best {
			best, slot, old = rank, &b[i], w
		}
	}
	return slot, old, false
}

// heardWithin says whether k was noted in the last seconds.
func (s *sources) heardWithin(k sourceKey, seconds uint64) bool {
	now := s.now()
	bucket := &s.words[k%sourceBuckets]
	for i := range bucket {
		w := bucket[i].Load()
		if w>>32 == k.tag() && w != 0 && age(w, now) <= seconds {
			return true
		}
	}
	return false
}

// sentTo says whether we sent QUIC to k in the last minute.
func (s *sources) sentTo(k sourceKey) bool {
	now := s.now()
	bucket := &s.words[k%sourceBuckets]
	for i := range bucket {
		w := bucket[i].Load()
		if w>>32 == k.tag() && w&wordSent != 0 && age(w, now) <= sourceLife {
			return true
		}
	}
	return false
}

// forgetConn takes a closed socket out of all entries, so that its number can
// name another one.
func (s *sources) forgetConn(conn uint8) {
	for b := range s.words {
		for i := range s.words[b] {
			slot := &s.words[b][i]
			for {
				w := slot.Load()
				if uint8(w>>16) != conn || w == 0 || slot.CompareAndSwap(w, w&^(0xff<<16)) {
					break
				}
			}
		}
	}
}

// limiter bounds the first packets per source address: one bucket of tokens
// (as the time when it will be full again) per hash of the address, so that
// memory is bounded and addresses that collide share. Lock-free.
type limiter struct {
	seed  maphash.Seed
	epoch time.Time
	slots [limitSlots]atomic.Int64
}

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed(), epoch: time.Now()} }

// allow takes one token of the source's. An IPv6 source is its /64, a carrier itself.
func (l *limiter) allow(from netip.AddrPort, carried bool) bool {
	const interval = int64(time.Second) / limitRate
	a := from.Addr()
	if a.Is6() && !carried {
		p, _ := a.WithZone("").Prefix(64)
		a = p.Addr()
	}
	slot := &l.slots[hashAddr(l.seed, netip.AddrPortFrom(a, 0))%limitSlots]
	now := int64(time.Since(l.epoch))
	for {
		full := slot.Load()
		at := max(full, now)
		if at-now > (limitBurst-1)*interval {
			return false
		}
		if slot.CompareAndSwap(full, at+interval) {
			return true
		}
	}
}

// cidKey is a connection ID behind its length.
type cidKey [1 + maxCID]byte

func newCIDKey(id []byte) (k cidKey) {
	k[0] = byte(copy(k[1:], id))
	return k
}

// cidTable remembers which view chose which connection ID, as far as long
// headers tell. It is asked only on sockets that have more than one view,
// written by handshakes only, and forgets the older half when full.
type cidTable struct {
	mu       sync.RWMutex // guards all
	cur, old map[cidKey]uint8
	lengths  uint32 // bit n: there are IDs of n bytes
}

const cidMax = 4096

// learn notes that view id chose the connection ID cid.
func (t *cidTable) learn(cid []byte, view uint8) {
	if len(cid) == 0 || len(cid) > maxCID || view == 0 {
		return
	}
	k := newCIDKey(cid)
	t.mu.RLock()
	same := t.cur[k] == view
	t.mu.RUnlock()
	if same {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur == nil || len(t.cur) >= cidMax {
		t.old, t.cur = t.cur, make(map[cidKey]uint8)
	}
	t.cur[k] = view
	t.lengths |= 1 << len(cid)
}

// find returns the view that chose cid, 0 if unknown.
func (t *cidTable) find(cid []byte) uint8 {
	if len(cid) > maxCID {
		return 0
	}
	k := newCIDKey(cid)
	t.mu.RLock()
	defer t.mu.RUnlock()
	if v := t.cur[k]; v != 0 {
		return v
	}
	return t.old[k]
}

// findShort returns the view that chose the connection ID at the head of b,
// whose length a short header does not tell.
func (t *cidTable) findShort(b []byte) uint8 {
	t.mu.RLock()
	lengths := t.lengths
	t.mu.RUnlock()
	for n := maxCID; n > 0; n-- {
		if lengths&(1<<n) != 0 && len(b) >= n {
			if v := t.find(b[:n]); v != 0 {
				return v
			}
		}
	}
	return 0
}
