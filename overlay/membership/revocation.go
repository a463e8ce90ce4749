package membership

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	listVersion         = 1
	foldedVersion       = 2 // with a part that is folded
	revocationStatement = "revocation"

	// MaxRevocations bounds the entries of a list.
	MaxRevocations = 110_000
	// MaxRevocationList bounds a list's size in bytes.
	MaxRevocationList = 1 << 20
)

// RevocationKind is what a revocation names.
type RevocationKind uint8

const (
	// RevokePeer: the peer is no member, whatever certificate it shows, and
	// what it signed as a delegate is void.
	RevokePeer RevocationKind = 1
	// RevokeInvitation: nobody enters by the invitation key any more, and its
	// provisional members end. Members confirmed before stay.
	RevokeInvitation RevocationKind = 2
	// RevokeInvited: as RevokeInvitation, and members confirmed out of it end
	// too. For a token that got into wrong hands.
	RevokeInvited RevocationKind = 3
	// RevokeDelegate: everything is void that the delegate has signed by a delegation
	// that began before Revocation.Before, or by any if that is zero. The peer itself
	// stays a member if the root made it one.
	RevokeDelegate RevocationKind = 4
)

func (k RevocationKind) String() string {
	switch k {
	case RevokePeer:
		return "peer"
	case RevokeInvitation:
		return "invitation"
	case RevokeInvited:
		return "invitation and its members"
	case RevokeDelegate:
		return "delegate"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Revocation is one entry of the list.
type Revocation struct {
	Kind RevocationKind
	Key  Key
	// Until is when the last certificate that the entry hits has ended, so
	// that the root may drop the entry; zero: never. Readers do not look at it.
	// Revoke makes that of all kinds but RevokeInvitation RevokedFor at least: whatever
	// certificate the peer itself had, delegates and tokens may name its key, it may have
	// been one, and a certificate that has ended can be renewed for a time.
	Until time.Time
	// Before is of RevokeDelegate. The root dates delegations, so that a delegate cannot
	// evade it, and the root can make it one again.
	Before time.Time
}

// covers says whether e, of the same kind and key as f, hits all that f hits. A list
// has whole seconds.
func (e Revocation) covers(f Revocation) bool {
	return e.Before.IsZero() || !f.Before.IsZero() && !e.Before.Before(f.Before.Truncate(time.Second))
}

func (e Revocation) compare(f Revocation) int {
	return cmp.Or(cmp.Compare(e.Kind, f.Kind), bytes.Compare(e.Key[:], f.Key[:]))
}

// RevocationList is what the root has taken back. A nil list is an empty one
// with sequence number 0. Lists are immutable and may be used concurrently.
//
//	version 1 or 2 | overlay ID 32 | seq uvarint | issued uvarint | entries uvarint |
//	{ kind 1 | key 32 | until uvarint (0: never) | of a delegate: before uvarint (0: any) } ...
//	rising by kind, key |
//	of version 2: weeks uvarint | { number since 1970 uvarint | tags uvarint | { tag 9 } ... rising } ...
//	rising by number | signature 64
//
// Version 2 is that of a list that has more entries than stand in it as they are: the
// others are folded (folded.go), into the first bytes of
//
//	SHA-256("idloc-folded/1 " | kind 1 | key 32)
type RevocationList struct {
	overlay  [32]byte
	seq      uint64
	issued   time.Time
	entries  []Revocation // rising
	folded   []folded     // rising; aliases body in a list that was read
	body     []byte       // without the signature
	sig      []byte
	verified bool
}

// Seq returns the list's number; 0 for nil.
func (l *RevocationList) Seq() uint64 {
	if l == nil {
		return 0
	}
	return l.seq
}

// Issued returns when the root signed.
func (l *RevocationList) Issued() time.Time {
	if l == nil {
		return time.Time{}
	}
	return l.issued
}

// Entries returns a copy of the entries that are not folded: the newest.
func (l *RevocationList) Entries() []Revocation {
	if l == nil {
		return nil
	}
	return slices.Clone(l.entries)
}

// Bytes returns the encoding that ParseRevocationList reads, nil for nil.
func (l *RevocationList) Bytes() []byte {
	if l == nil {
		return nil
	}
	return append(bytes.Clone(l.body), l.sig...)
}

// Has says whether the list names the key as kind.
func (l *RevocationList) Has(kind RevocationKind, key Key) bool {
	_, ok := l.find(kind, key)
	return ok || l.hasFolded(kind, key)
}

// Covers says whether the list hits all that e hits.
func (l *RevocationList) Covers(e Revocation) bool {
	mine, ok := l.find(e.Kind, e.Key)
	return ok && mine.covers(e) || l.hasFolded(e.Kind, e.Key)
}

func (l *RevocationList) find(kind RevocationKind, key Key) (Revocation, bool) {
	if l == nil {
		return Revocation{}, false
	}
	i, ok := slices.BinarySearchFunc(l.entries, Revocation{Kind: kind, Key: key}, Revocation.compare)
	if !ok {
		return Revocation{}, false
	}
	return l.entries[i], true
}

// voids says whether what a delegate signs by a delegation that began at a time is
// void.
func (l *RevocationList) voids(delegate Key, began time.Time) bool {
	e, ok := l.find(RevokeDelegate, delegate)
	return ok && (e.Before.IsZero() || began.Before(e.Before)) || l.Has(RevokePeer, delegate)
}

// check says whether the list hits one certificate of a chain.
func (l *RevocationList) check(c *Certificate) error {
	if l == nil {
		return nil
	}
	var hit bool
	switch c.Kind {
	case KindDelegate:
		hit = l.voids(c.Subject, c.NotBefore)
	case KindInvitation:
		hit = l.Has(RevokeInvitation, c.Subject) || l.Has(RevokeInvited, c.Subject)
	case KindMember:
		hit = l.Has(RevokePeer, c.Subject) || !c.Invitation.IsZero() && l.Has(RevokeInvited, c.Invitation)
	}
	if hit {
		return fmt.Errorf("%s: %w (list %d)", c.what(), ErrRevoked, l.seq)
	}
	return nil
}

// Revokes says whether the list hits a member verified before it came: for
// ending connections without their chains at hand.
func (l *RevocationList) Revokes(m *Member) bool {
	if l == nil {
		return false
	}
	return l.Has(RevokePeer, KeyOf(m.Peer)) ||
		!m.Invitation.IsZero() && (l.Has(RevokeInvited, m.Invitation) || !m.Confirmed && l.Has(RevokeInvitation, m.Invitation)) ||
		!m.Delegate.IsZero() && l.voids(m.Delegate, m.Delegation)
}

// Revoke returns the list that follows old (nil for the first) with the
// entries added. Entries of old whose Until has passed are dropped. Two for one key
// become one that lives as long as either and hits what either hits.
func (r *Root) Revoke(old *RevocationList, now time.Time, entries ...Revocation) (*RevocationList, error) {
	return r.follow(old, now, entries, nil)
}

// Unite returns a list that follows old and hits all that other hits, too.
func (r *Root) Unite(old, other *RevocationList, now time.Time) (*RevocationList, error) {
	if other != nil && (!other.verified || other.overlay != r.overlay.ID) {
		return nil, ErrListUnverified
	}
	entries, tags := old.lost(other, now)
	return r.follow(old, now, entries, tags)
}

// follow is Revoke with tags that are folded already.
func (r *Root) follow(old *RevocationList, now time.Time, entries []Revocation, tags map[uint64][]tag) (*RevocationList, error) {
	if old != nil && (!old.verified || old.overlay != r.overlay.ID) {
		return nil, ErrListUnverified
	}
	all := slices.Clone(entries)
	for i := range all {
		all[i].Until = lives(all[i], now, old)
		if b := all[i].Before; all[i].Kind != RevokeDelegate || b.IsZero() {
			all[i].Before = time.Time{}
		} else {
			all[i].Before = b.Truncate(time.Second).UTC()
		}
	}
	for _, e := range old.Entries() {
		if e.Until.IsZero() || e.Until.After(now.Add(-Tolerance)) {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b Revocation) int { return cmp.Or(a.compare(b), longer(a.Until, b.Until)) })
	var before []folded
	if old != nil {
		before = slices.DeleteFunc(slices.Clone(old.folded), func(f folded) bool { return !f.until().After(now.Add(-Tolerance)) })
	}
	l := &RevocationList{overlay: r.overlay.ID, seq: old.Seq() + 1, issued: now.Truncate(time.Second).UTC()}
	l.entries, l.folded = fold(united(all), joinFolded(before, tags))
	l.body = l.appendBody(nil)
	if n := l.Len(); n > MaxRevocations || len(l.folded) > weeksMax || len(l.body)+canon.SignatureSize > MaxRevocationList {
		return nil, fmt.Errorf("%w: %d entries", ErrListFull, n)
	}
	var err error
	if l.sig, err = canon.Sign(r.key, r.overlay.domain(revocationStatement), l.body); err != nil {
		return nil, err
	}
	return OpenRevocationList(l.Bytes(), r.overlay)
}

// lives returns until when an entry that is added stays. A clock that is behind
// the list before it is wrong.
func lives(e Revocation, now time.Time, old *RevocationList) time.Time {
	u := e.Until
	if u.IsZero() {
		return u
	}
	if old.Issued().After(now) {
		now = old.Issued()
	}
	if least := now.Add(RevokedFor); e.Kind != RevokeInvitation && u.Before(least) {
		u = least
	}
	return u.Truncate(time.Second).UTC()
}

// united makes one of all entries for one key, which follow each other, the one that
// lives longest first.
func united(all []Revocation) []Revocation {
	out := all[:0]
	for _, e := range all {
		if last := len(out) - 1; last >= 0 && out[last].compare(e) == 0 {
			if !out[last].covers(e) {
				out[last].Before = e.Before
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

// longer orders by Until, what never ends first.
func longer(a, b time.Time) int {
	switch {
	case a.Equal(b):
		return 0
	case a.IsZero():
		return -1
	case b.IsZero():
		return 1
	}
	return b.Compare(a)
}

func (l *RevocationList) appendBody(b []byte) []byte {
	version := byte(listVersion)
	if len(l.folded) > 0 {
		version = foldedVersion
	}
	b = append(b, version)
	b = append(b, l.overlay[:]...)
	b = binary.AppendUvarint(b, l.seq)
	b = AppendTime(b, l.issued)
	b = binary.AppendUvarint(b, uint64(len(l.entries)))
	for _, e := range l.entries {
		b = append(b, byte(e.Kind))
		b = append(b, e.Key[:]...)
		if e.Until.IsZero() {
			b = append(b, 0)
		} else {
			b = AppendTime(b, e.Until)
		}
		switch {
		case e.Kind != RevokeDelegate:
		case e.Before.IsZero():
			b = append(b, 0)
		default:
			b = AppendTime(b, e.Before)
		}
	}
	return l.appendFolded(b)
}

// ParseRevocationList reads the form of a list; it revokes nothing until
// Verify. b is borrowed.
func ParseRevocationList(b []byte) (*RevocationList, error) {
	if len(b) > MaxRevocationList {
		return nil, fmt.Errorf("revocation list: %w: %d bytes", ErrTooLarge, len(b))
	}
	b = bytes.Clone(b)
	r := canon.NewReader(b)
	v := r.Byte()
	if r.Err() == nil && v != listVersion && v != foldedVersion {
		return nil, fmt.Errorf("revocation list: %w (version %d)", ErrVersion, v)
	}
	l := &RevocationList{overlay: r.Key(), seq: r.Uvarint(), issued: ReadTime(r)}
	n := r.Uvarint()
	if l.seq == 0 {
		r.Fail("sequence number 0")
	}
	if n > MaxRevocations {
		r.Fail("%d entries", n)
	}
	for i := 0; r.Err() == nil && i < int(n); i++ {
		e := Revocation{Kind: RevocationKind(r.Byte()), Key: r.Key()}
		e.Until = timeOrNone(r)
		if e.Kind == RevokeDelegate {
			e.Before = timeOrNone(r)
		}
		if e.Kind < RevokePeer || e.Kind > RevokeDelegate {
			r.Fail("entry of %v", e.Kind)
		}
		if i > 0 && l.entries[i-1].compare(e) >= 0 {
			r.Fail("entries out of order")
		}
		l.entries = append(l.entries, e)
	}
	if v == foldedVersion {
		l.folded = readFolded(r)
	}
	l.sig = r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	l.body = b[: len(b)-canon.SignatureSize : len(b)-canon.SignatureSize]
	if !bytes.Equal(l.appendBody(nil), l.body) {
		return nil, fmt.Errorf("revocation list: %w", ErrNonCanonical)
	}
	return l, nil
}

// timeOrNone reads a time of which 0 is none.
func timeOrNone(r *canon.Reader) time.Time {
	switch s := r.Uvarint(); {
	case s > maxUnix:
		r.Fail("time %d", s)
	case s != 0:
		return time.Unix(int64(s), 0).UTC()
	}
	return time.Time{}
}

// Verify returns a list that counts if the root of the overlay signed l.
func (l *RevocationList) Verify(o Overlay) (*RevocationList, error) {
	if l.overlay != o.ID || o.Root.IsZero() {
		return nil, fmt.Errorf("revocation list: %w", ErrWrongOverlay)
	}
	if err := canon.Verify(o.Root[:], o.domain(revocationStatement), l.body, l.sig); err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	v := *l
	v.verified = true
	return &v, nil
}

// OpenRevocationList parses and verifies.
func OpenRevocationList(b []byte, o Overlay) (*RevocationList, error) {
	l, err := ParseRevocationList(b)
	if err != nil {
		return nil, err
	}
	return l.Verify(o)
}

// Merge returns the list that counts of two verified ones of one overlay, in
// whatever order they came: the one with the higher number. A root signs each
// number once; should it have signed two (a restored backup), all members
// settle on the one with more entries, then the one whose bytes are greater.
func Merge(a, b *RevocationList) *RevocationList {
	usable := func(l *RevocationList) bool { return l != nil && l.verified }
	switch {
	case !usable(b):
		if !usable(a) {
			return nil
		}
		return a
	case !usable(a):
		return b
	}
	if cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.Len(), b.Len()), bytes.Compare(a.Bytes(), b.Bytes())) >= 0 {
		return a
	}
	return b
}
