package membership

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// A list that has many entries keeps the newest as they are and folds the others: of
// one that is folded there is a tag, the first bytes of a hash of its kind and key, and
// the week in which it ends. A key whose tag is one of a list's by chance is not to be
// expected, and one that is ground to have the tag of another's key takes 2^72 tries;
// the owner of a tag is not told, so nobody can be named by what is folded.
const (
	// entriesMax is how many entries are not folded, and entriesKept how many are left
	// when there are more: delegates, and what never ends, are not folded.
	entriesMax  = 256
	entriesKept = 128

	tagSize  = 9
	weeksMax = 128 // a list's: its entries end within RevokedFor
	week     = 7 * 24 * time.Hour

	foldedStatement = "idloc-folded/1 "
)

type tag [tagSize]byte

func (e Revocation) tag() tag {
	b := append(make([]byte, 0, 64), foldedStatement...)
	sum := sha256.Sum256(append(append(b, byte(e.Kind)), e.Key[:]...))
	return tag(sum[:tagSize])
}

// folds says whether an entry can be folded.
func (e Revocation) folds() bool { return e.Kind != RevokeDelegate && !e.Until.IsZero() }

// folded are the entries that end in one week.
type folded struct {
	week uint64 // since 1970; they end when it does
	tags []byte // rising
}

func (f folded) until() time.Time { return time.Unix(int64(f.week+1)*int64(week/time.Second), 0).UTC() }

func (f folded) count() int { return len(f.tags) / tagSize }

func (f folded) has(t tag) bool {
	i := sort.Search(f.count(), func(i int) bool { return bytes.Compare(f.tags[i*tagSize:][:tagSize], t[:]) >= 0 })
	return i < f.count() && bytes.Equal(f.tags[i*tagSize:][:tagSize], t[:])
}

// with returns f with more tags.
func (f folded) with(more []tag) folded {
	for i := range f.count() {
		more = append(more, tag(f.tags[i*tagSize:]))
	}
	slices.SortFunc(more, func(a, b tag) int { return bytes.Compare(a[:], b[:]) })
	out := folded{week: f.week, tags: make([]byte, 0, len(more)*tagSize)}
	for _, t := range slices.Compact(more) {
		out.tags = append(out.tags, t[:]...)
	}
	return out
}

// fold takes entries away until few are left, those that end first, and returns what is
// folded then: what was before, and they.
func fold(entries []Revocation, before []folded) ([]Revocation, []folded) {
	if len(entries) <= entriesMax {
		return entries, before
	}
	byEnd := slices.Clone(entries)
	slices.SortStableFunc(byEnd, func(a, b Revocation) int { return longer(b.Until, a.Until) })
	more := map[uint64][]tag{}
	gone := map[Revocation]bool{}
	for _, e := range byEnd {
		if len(entries)-len(gone) <= entriesKept {
			break
		}
		if !e.folds() {
			continue
		}
		gone[e] = true
		w := uint64(e.Until.Unix() / int64(week/time.Second))
		more[w] = append(more[w], e.tag())
	}
	return slices.DeleteFunc(entries, func(e Revocation) bool { return gone[e] }), joinFolded(before, more)
}

// joinFolded adds tags to what is folded.
func joinFolded(before []folded, more map[uint64][]tag) []folded {
	all := map[uint64]folded{}
	for _, f := range before {
		all[f.week] = f
	}
	for w, tags := range more {
		f := all[w]
		f.week = w
		all[w] = f.with(tags)
	}
	var out []folded
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b folded) int { return cmp.Compare(a.week, b.week) })
	return out
}

// hasFolded says whether an entry is there that is folded.
func (l *RevocationList) hasFolded(kind RevocationKind, key Key) bool {
	if l == nil || len(l.folded) == 0 || kind == RevokeDelegate {
		return false
	}
	return l.hasTag(Revocation{Kind: kind, Key: key}.tag())
}

func (l *RevocationList) hasTag(t tag) bool {
	return slices.ContainsFunc(l.folded, func(f folded) bool { return f.has(t) })
}

// Len returns how many entries the list has, folded ones too.
func (l *RevocationList) Len() int {
	if l == nil {
		return 0
	}
	n := len(l.entries)
	for _, f := range l.folded {
		n += f.count()
	}
	return n
}

// lost returns what is in other and still matters, and not in l.
func (l *RevocationList) lost(other *RevocationList, now time.Time) (entries []Revocation, tags map[uint64][]tag) {
	tags = map[uint64][]tag{}
	if other == nil {
		return nil, tags
	}
	for _, e := range other.entries {
		if !l.Covers(e) && (e.Until.IsZero() || e.Until.After(now)) {
			entries = append(entries, e)
		}
	}
	here := map[tag]bool{}
	for _, e := range l.Entries() {
		here[e.tag()] = true
	}
	for _, f := range other.folded {
		if !f.until().After(now) {
			continue
		}
		for i := range f.count() {
			if t := tag(f.tags[i*tagSize:]); !here[t] && (l == nil || !l.hasTag(t)) {
				tags[f.week] = append(tags[f.week], t)
			}
		}
	}
	return entries, tags
}

// Lacks returns how many entries of another list, which still matter, are not in l.
func (l *RevocationList) Lacks(other *RevocationList, now time.Time) int {
	entries, tags := l.lost(other, now)
	n := len(entries)
	if other.Policy().Number() > l.Policy().Number() {
		n++
	}
	for _, t := range tags {
		n += len(t)
	}
	return n
}

// appendFolded appends what is folded.
func (l *RevocationList) appendFolded(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(l.folded)))
	for _, f := range l.folded {
		b = binary.AppendUvarint(b, f.week)
		b = binary.AppendUvarint(b, uint64(f.count()))
		b = append(b, f.tags...)
	}
	return b
}

// readFolded reads what appendFolded has written. The tags are aliased.
func readFolded(r *canon.Reader) (out []folded) {
	n := r.Uvarint()
	if n > weeksMax {
		r.Fail("%d weeks", n)
	}
	for i := uint64(0); r.Err() == nil && i < n; i++ {
		f := folded{week: r.Uvarint()}
		count := r.Uvarint()
		if f.week > maxUnix/uint64(week/time.Second) || count == 0 || count > MaxRevocations {
			r.Fail("%d entries that end in week %d", count, f.week)
			return out
		}
		f.tags = r.Bytes(int(count) * tagSize)
		for i := 1; r.Err() == nil && i < f.count(); i++ {
			if bytes.Compare(f.tags[(i-1)*tagSize:][:tagSize], f.tags[i*tagSize:][:tagSize]) >= 0 {
				r.Fail("folded entries out of order")
			}
		}
		if len(out) > 0 && out[len(out)-1].week >= f.week {
			r.Fail("weeks out of order")
		}
		out = append(out, f)
	}
	return out
}
