package lsi

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Pin keeps a peer's LSIs while a flow or a pipe uses them. Pins are counted:
// each Pin that returned true needs one Unpin. It returns false if the peer
// has no LSIs.
func (t *Table) Pin(id peerid.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byPeer.get(id)
	if e == nil {
		return false
	}
	if e == t.self {
		return true
	}
	if e.pins++; e.pins == 1 {
		t.idle.remove(e)
	}
	return true
}

// Unpin takes back one Pin. The last one starts the lease.
func (t *Table) Unpin(id peerid.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byPeer.get(id)
	if e == nil || e.pins == 0 {
		return
	}
	if e.pins--; e.pins == 0 {
		e.seen = t.tick()
		t.idle.push(e)
	}
}

// tick returns the time, which never runs backward here: a clock that is set
// back must not lengthen leases for hours, nor disorder the idle list.
func (t *Table) tick() time.Time {
	if now := t.now(); now.After(t.clock) {
		t.clock = now
	}
	return t.clock
}

// touch begins e's lease anew.
func (t *Table) touch(e *entry, now time.Time) {
	e.seen = now
	if e.pins == 0 && e != t.self {
		t.idle.remove(e)
		t.idle.push(e)
	}
}

// add gives id an address, a free one or one that may be reused.
func (t *Table) add(id peerid.ID, now time.Time) (*entry, error) {
	offset, ok := t.nextFree()
	if !ok {
		if offset, ok = t.reclaim(now); !ok {
			return nil, fmt.Errorf("%w: all %d addresses of %v are in use or in quarantine", ErrExhausted, t.span.room(), t.prefix)
		}
	}
	return t.create(id, offset, now), nil
}

// create makes the entry of id at a free offset.
func (t *Table) create(id peerid.ID, offset uint32, seen time.Time) *entry {
	e := &entry{peer: id, v4: t.span.addr(offset), v6: t.orchid(t.overlay, id), seen: seen}
	if t.by6.get(e.v6) != nil {
		e.v6 = netip.Addr{}
	}
	t.install(e, offset)
	t.idle.push(e)
	t.live++
	return e
}

// free returns the offset of a if that address can be assigned.
func (t *Table) free(a netip.Addr) (uint32, bool) {
	if !a.Is4() {
		return 0, false
	}
	offset, ok := t.span.offset(a)
	return offset, ok && t.span.forPeers(offset) && t.slot(offset) == nil
}

// nextFree finds the lowest address that was never assigned.
func (t *Table) nextFree() (uint32, bool) {
	for ; t.next < t.span.size; t.next++ {
		if t.span.forPeers(t.next) && t.slot(t.next) == nil {
			return t.next, true
		}
	}
	return 0, false
}

// reclaim takes the least recently used address from its peer, if lease and
// quarantine are over, and returns its offset. Those that turn out to be in
// use get a new lease.
func (t *Table) reclaim(now time.Time) (uint32, bool) {
	var used map[netip.Addr]bool
	e := t.idle.first
	for ; ; e = t.idle.first {
		if e == nil || now.Sub(e.seen) < t.hold {
			return 0, false
		}
		if used == nil && t.inUse != nil {
			used = t.inUse()
		}
		if !used[e.v4] && !used[e.v6] {
			break
		}
		t.touch(e, now)
	}
	offset, _ := t.span.offset(e.v4)
	t.idle.remove(e)
	t.byPeer.remove(e)
	if e.v6.IsValid() {
		t.by6.remove(e)
	}
	t.pages[offset>>8].Load()[offset&255].Store(nil)
	t.live--
	return offset, true
}

// list is a queue of entries through their own links. The zero list is empty.
type list struct{ first, last *entry }

func (l *list) push(e *entry) {
	e.prev, e.next = l.last, nil
	if l.last == nil {
		l.first = e
	} else {
		l.last.next = e
	}
	l.last = e
}

func (l *list) remove(e *entry) {
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}

// sort orders the list by seen.
func (l *list) sort() {
	var all []*entry
	for e := l.first; e != nil; e = e.next {
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b *entry) int { return a.seen.Compare(b.seen) })
	*l = list{}
	for _, e := range all {
		l.push(e)
	}
}
