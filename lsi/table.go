package lsi

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Defaults of Config.
const (
	DefaultTTL        = 5 * time.Minute
	DefaultQuarantine = 10 * time.Minute
)

// ErrExhausted is wrapped by Assign's error when the prefix has no address
// that is free or may be reused.
var ErrExhausted = errors.New("no free LSI")

// ErrClosed is returned by Assign after Close.
var ErrClosed = errors.New("LSI table closed")

// Config is what New needs. Overlay and Self must be set.
type Config struct {
	Prefix4    netip.Prefix     // IPv4 LSIs, /8 to /29; zero: a /16 of 198.18.0.0/15, see the package comment
	Overlay    [32]byte         // overlay ID
	Self       peerid.ID        // this node
	Now        func() time.Time // nil: time.Now
	Saved      []Entry          // what Entries returned before a restart
	TTL        time.Duration    // lease after an Assign or the last Unpin; 0: DefaultTTL
	Quarantine time.Duration    // after the lease; 0: DefaultQuarantine

	// InUse, if set, tells which addresses flows use that nobody pinned, such
	// as the kernel's. It is called when an address is to be given to another
	// peer, with the Table locked.
	InUse func() map[netip.Addr]bool
}

// Entry is an assignment as it is saved across restarts.
type Entry struct {
	Peer peerid.ID  `json:"peer"`
	V4   netip.Addr `json:"lsi4"`
	Seen time.Time  `json:"seen"` // when the lease last began
}

// Table is one node's LSIs. All methods may be called concurrently; Peer and
// Of neither lock nor allocate.
type Table struct {
	prefix  netip.Prefix
	span    span
	overlay [32]byte
	self    *entry
	now     func() time.Time
	hold    time.Duration                            // TTL + quarantine
	inUse   func() map[netip.Addr]bool               // Config.InUse
	orchid  func(o [32]byte, p peerid.ID) netip.Addr // orchid, but in tests of collisions

	// Written under mu, read without.
	pages  []atomic.Pointer[page] // IPv4: by offset
	byPeer *index[peerid.ID]
	by6    *index[netip.Addr]

	mu     sync.Mutex
	closed bool
	live   int       // peers with an assignment
	next   uint32    // no offset below it is free
	idle   list      // unpinned entries, least recently used first
	clock  time.Time // latest time that was seen: never runs backward
}

// page is 256 neighbouring offsets.
type page [256]atomic.Pointer[entry]

// entry is the assignment of one peer. The first three fields never change,
// so that a reader without the lock may keep it; the others are guarded by
// the table's mu.
type entry struct {
	peer   peerid.ID
	v4, v6 netip.Addr // v6 is invalid if another peer has it

	seen       time.Time // when the lease began
	pins       int
	prev, next *entry // in Table.idle while pins == 0
}

// New makes a table. Entries of cfg.Saved keep their IPv4 LSI if it lies in
// the prefix, else they get another.
func New(cfg Config) (*Table, error) {
	if cfg.Self.IsZero() {
		return nil, errors.New("LSI table: no own peer ID")
	}
	if cfg.TTL < 0 || cfg.Quarantine < 0 {
		return nil, errors.New("LSI table: negative TTL or quarantine")
	}
	var hint netip.Addr
	if len(cfg.Saved) > 0 {
		hint = cfg.Saved[0].V4
	}
	p, err := takePrefix(cfg.Prefix4, hint)
	if err != nil {
		return nil, err
	}
	t := &Table{
		prefix:  p,
		span:    spanOf(p),
		overlay: cfg.Overlay,
		now:     cfg.Now,
		hold:    cmp.Or(cfg.TTL, DefaultTTL) + cmp.Or(cfg.Quarantine, DefaultQuarantine),
		inUse:   cfg.InUse,
		orchid:  orchid,
		byPeer:  newIndex(func(e *entry) peerid.ID { return e.peer }),
		by6:     newIndex(func(e *entry) netip.Addr { return e.v6 }),
		next:    selfOffset + 1,
	}
	if t.now == nil {
		t.now = time.Now
	}
	t.pages = make([]atomic.Pointer[page], (t.span.size+255)/256)
	t.self = &entry{peer: cfg.Self, v4: t.span.addr(selfOffset), v6: t.orchid(cfg.Overlay, cfg.Self)}
	t.install(t.self, selfOffset)
	t.restore(cfg.Saved)
	return t, nil
}

// Close gives the prefix back to the process. Lookups go on working. It is
// idempotent.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		releasePrefix(t.prefix)
	}
	return nil
}

// Self returns this node's own LSIs.
func (t *Table) Self() (v4, v6 netip.Addr) { return t.self.v4, t.self.v6 }

// Resolver returns the IPv4 address of this node's DNS resolver.
func (t *Table) Resolver() netip.Addr { return t.span.addr(t.span.resolver()) }

// Prefixes returns the prefixes that all LSIs of this table lie in.
func (t *Table) Prefixes() (v4, v6 netip.Prefix) { return t.prefix, orchidPrefix }

// Len returns the number of peers with an assignment, and how many the prefix
// has room for.
func (t *Table) Len() (assigned, room int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live, t.span.room()
}

// Peer returns the peer that a stands for; for this node's own LSIs, this
// node. It does not lock, allocate or assign.
func (t *Table) Peer(a netip.Addr) (peerid.ID, bool) {
	var e *entry
	a = a.Unmap()
	if a.Is4() {
		e = t.at(a)
	} else if orchidPrefix.Contains(a) {
		e = t.by6.get(a)
	}
	if e == nil {
		return peerid.ID{}, false
	}
	return e.peer, true
}

// Of returns the LSIs of a peer that has them. v6 is invalid if another
// peer's ORCHID is the same. It does not lock, allocate or assign.
func (t *Table) Of(id peerid.ID) (v4, v6 netip.Addr, ok bool) {
	if e := t.byPeer.get(id); e != nil {
		return e.v4, e.v6, true
	}
	return netip.Addr{}, netip.Addr{}, false
}

// Assign returns the LSIs of a peer, new ones if it has none yet (fresh), and
// begins its lease anew. The caller must have verified that the peer is a
// member: this is what uses up addresses. The error wraps ErrExhausted or
// ErrClosed.
func (t *Table) Assign(id peerid.ID) (v4, v6 netip.Addr, fresh bool, err error) {
	if id.IsZero() {
		return v4, v6, false, fmt.Errorf("LSI: %w: zero", peerid.ErrInvalid)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return v4, v6, false, ErrClosed
	}
	now := t.tick()
	e := t.byPeer.get(id)
	if e == nil {
		if e, err = t.add(id, now); err != nil {
			return v4, v6, false, err
		}
		fresh = true
	} else {
		t.touch(e, now)
	}
	return e.v4, e.v6, fresh, nil
}

// Entries returns all assignments by rising IPv4 LSI, for Config.Saved of
// the next run. Pinned ones count as seen now.
func (t *Table) Entries() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.tick()
	out := make([]Entry, 0, t.live)
	for i := range t.pages {
		p := t.pages[i].Load()
		if p == nil {
			continue
		}
		for j := range p {
			e := p[j].Load()
			if e == nil || e == t.self {
				continue
			}
			seen := e.seen
			if e.pins > 0 {
				seen = now
			}
			out = append(out, Entry{Peer: e.peer, V4: e.v4, Seen: seen.Round(0).UTC()})
		}
	}
	return out
}

// restore takes over saved entries, those that are in the prefix first. What
// does not fit any more is left out: the peer gets an LSI when it is next
// resolved.
func (t *Table) restore(saved []Entry) {
	saved = slices.Clone(saved)
	slices.SortStableFunc(saved, func(a, b Entry) int { return a.Seen.Compare(b.Seen) })
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.idle.sort() // by when they were seen, whatever was put in first
	now := t.tick()
	for _, inPrefix := range []bool{true, false} {
		for _, s := range saved {
			if s.Peer.IsZero() || t.byPeer.get(s.Peer) != nil {
				continue
			}
			offset, ok := t.free(s.V4)
			if ok != inPrefix {
				continue
			}
			if !ok {
				if offset, ok = t.nextFree(); !ok {
					return
				}
			}
			seen := s.Seen
			if seen.After(now) {
				seen = now // the clock was wrong then, or is now
			}
			t.create(s.Peer, offset, seen)
		}
	}
}

// at returns the entry at an IPv4 address.
func (t *Table) at(a netip.Addr) *entry {
	offset, ok := t.span.offset(a)
	if !ok {
		return nil
	}
	return t.slot(offset)
}

func (t *Table) slot(offset uint32) *entry {
	if p := t.pages[offset>>8].Load(); p != nil {
		return p[offset&255].Load()
	}
	return nil
}

// install publishes e. The caller has mu, or nobody else has t yet.
func (t *Table) install(e *entry, offset uint32) {
	p := t.pages[offset>>8].Load()
	if p == nil {
		p = new(page)
		t.pages[offset>>8].Store(p)
	}
	p[offset&255].Store(e)
	t.byPeer.put(e)
	if e.v6.IsValid() {
		t.by6.put(e)
	}
}
