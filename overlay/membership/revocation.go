package membership

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	listVersion         = 3
	revocationStatement = "revocation"

	// MaxRevocations bounds the entries of a list.
	MaxRevocations = 110_000
	// MaxRevocationList bounds a list's size in bytes.
	MaxRevocationList = 1 << 20

	// DefaultUnattended is how long members go on among themselves that hear of no authority, if
	// the authorities have not said; MinUnattended and MaxUnattended bound what they can say.
	DefaultUnattended = 365 * 24 * time.Hour
	MinUnattended     = 24 * time.Hour
	MaxUnattended     = RenewFor
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

// RevocationList is what the authorities of an overlay have said last: who they are, what
// they have taken back, who may open what at whom (Policy), and for how long members go on
// that hear of no authority. A nil list is that of an overlay in which nothing was ever said: its
// number is 0, and its one authority is the founder's key. Lists are immutable and may be
// used concurrently.
//
//	version 3 | overlay ID 32 | charter length 2 | changes (charter.go) | content | signatures (charter.go)
//
//	content: seq uvarint | issued uvarint | unattended uvarint, seconds, 0: DefaultUnattended |
//	policy: number uvarint, 0: none | { at uvarint | text length 2 | text } if there is one |
//	entries uvarint | { kind 1 | key 32 | until uvarint (0: never) | of a delegate: before uvarint (0: any) } ...
//	rising by kind, key |
//	weeks uvarint | { number since 1970 uvarint | tags uvarint | { tag 9 } ... rising } ... rising by number
//
// Entries beyond the newest are folded (folded.go), into the first bytes of
//
//	SHA-256("idloc-folded/1 " | kind 1 | key 32)
//
// A list that comes with a change of the authorities has no signatures of its own: the last
// change names the hash of its content. Any other is signed by as many authorities as the
// threshold says.
type RevocationList struct {
	charter    *charter
	told       *charter // that others have shown, and that goes on from charter; nil: none
	seq        uint64
	issued     time.Time
	unattended time.Duration // 0: DefaultUnattended
	policy     *Policy       // nil: none
	entries    []Revocation  // rising
	folded     []folded      // rising; aliases body in a list that was read
	body       []byte        // without the signatures
	content    int           // where the content begins in body
	sigs       []byte
	signers    []Key // of a verified one
	verified   bool
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

// Unattended returns for how long members go on that hear of no authority.
func (l *RevocationList) Unattended() time.Duration {
	if l == nil || l.unattended == 0 {
		return DefaultUnattended
	}
	return l.unattended
}

// Policy returns who may open what at whom; nil if nothing was ever said of it.
func (l *RevocationList) Policy() *Policy {
	if l == nil {
		return nil
	}
	return l.policy
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
	if l == nil || l.seq == 0 {
		return nil
	}
	return append(bytes.Clone(l.body), l.sigs...)
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
		!m.Authority.IsZero() && !l.rules().knows(m.Authority) ||
		l.rules().granted(m.Authority, m.Granted) != nil ||
		!m.Invitation.IsZero() && (l.Has(RevokeInvited, m.Invitation) || !m.Confirmed && l.Has(RevokeInvitation, m.Invitation)) ||
		!m.Delegate.IsZero() && l.voids(m.Delegate, m.Delegation)
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

// appendBody appends all but the signatures.
func (l *RevocationList) appendBody(b []byte) []byte {
	b = append(b, listVersion)
	b = append(b, l.charter.overlay.ID[:]...)
	b = canon.AppendLong(b, l.charter.append(nil))
	return l.appendContent(b)
}

// appendContent appends what stands in the list besides the charter.
func (l *RevocationList) appendContent(b []byte) []byte {
	b = binary.AppendUvarint(b, l.seq)
	b = AppendTime(b, l.issued)
	b = binary.AppendUvarint(b, uint64(l.unattended/time.Second))
	b = l.policy.append(b)
	b = binary.AppendUvarint(b, uint64(len(l.entries)))
	for _, e := range l.entries {
		b = append(b, byte(e.Kind))
		b = append(b, e.Key[:]...)
		b = appendTimeOrNone(b, e.Until)
		if e.Kind == RevokeDelegate {
			b = appendTimeOrNone(b, e.Before)
		}
	}
	return l.appendFolded(b)
}

func appendTimeOrNone(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return AppendTime(b, t)
}

// OpenRevocationList reads a list and verifies it, from the founder's key on. b is borrowed.
func OpenRevocationList(b []byte, o Overlay) (*RevocationList, error) {
	l, err := openList(b, o)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	return l, nil
}

func openList(b []byte, o Overlay) (*RevocationList, error) {
	if len(b) > MaxRevocationList {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	b = bytes.Clone(b)
	r := canon.NewReader(b)
	if v := r.Byte(); r.Err() == nil && v != listVersion {
		return nil, fmt.Errorf("%w (version %d)", ErrVersion, v)
	}
	if id := r.Key(); r.Err() == nil && (id != o.ID || o.Root.IsZero()) {
		return nil, ErrWrongOverlay
	}
	changes := r.Long()
	l := &RevocationList{content: len(b) - r.Len()}
	l.readContent(r)
	if err := r.Err(); err != nil {
		return nil, err
	}
	l.body = b[: len(b)-r.Len() : len(b)-r.Len()]
	var err error
	if l.charter, err = openCharter(changes, o); err != nil {
		return nil, err
	}
	l.sigs = b[len(l.body):]
	if l.signers, err = readSignatures(r, l.charter.authorities, o.domain(revocationStatement), l.body); err != nil {
		return nil, err
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	if !bytes.Equal(l.appendBody(nil), l.body) {
		return nil, ErrNonCanonical
	}
	changed := len(l.charter.changes) > 0 && sha256.Sum256(l.body[l.content:]) == l.charter.content
	switch {
	case changed && len(l.signers) > 0:
		return nil, fmt.Errorf("%w: signatures where the change has them", ErrNonCanonical)
	case changed:
		l.signers = l.charter.changes[len(l.charter.changes)-1].Signers
	case len(l.signers) < l.charter.threshold:
		return nil, fmt.Errorf("%w: %d of %d", ErrSignatures, len(l.signers), l.charter.threshold)
	}
	l.verified = true
	return l, nil
}

// readContent reads what appendContent has written.
func (l *RevocationList) readContent(r *canon.Reader) {
	l.seq, l.issued = r.Uvarint(), ReadTime(r)
	if l.seq == 0 || l.seq > maxSeq {
		r.Fail("sequence number %d", l.seq)
	}
	if s := r.Uvarint(); s != 0 && (s < uint64(MinUnattended/time.Second) || s > uint64(MaxUnattended/time.Second)) {
		r.Fail("unattended for %d s", s)
	} else {
		l.unattended = time.Duration(s) * time.Second
	}
	l.policy = readPolicy(r)
	n := r.Uvarint()
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
	l.folded = readFolded(r)
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

// Merge returns the list that counts of two verified ones of one overlay, in
// whatever order they came, and is the same for everybody: the one whose charter follows the
// other's; of two charters that fork that with the lower hash where they do; of two lists
// under one charter that with the higher number, then with more signatures, then with more entries,
// then that whose hash is lower.
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
	if at, forks := a.charter.forks(b.charter); forks {
		if a.charter.beats(b.charter, at) {
			return a
		}
		return b
	}
	if c := cmp.Or(
		cmp.Compare(len(a.charter.changes), len(b.charter.changes)), cmp.Compare(a.seq, b.seq),
		cmp.Compare(len(a.signers), len(b.signers)), cmp.Compare(a.Len(), b.Len()), bytes.Compare(b.hash(), a.hash()),
		bytes.Compare(b.body, a.body), bytes.Compare(b.sigs, a.sigs),
	); c >= 0 {
		return a
	}
	return b
}

// hash names what a list says, whoever has signed it.
func (l *RevocationList) hash() []byte {
	if l.seq == 0 {
		return nil
	}
	sum := sha256.Sum256(l.body[l.content:])
	return sum[:]
}

// Forks says whether two lists cannot both be what the authorities have said: their
// charters fork, or, under one charter, they have one number and say two things.
func Forks(a, b *RevocationList) bool {
	if a == nil || b == nil {
		return false
	}
	if _, forks := a.charter.forks(b.charter); forks {
		return true
	}
	return len(a.charter.changes) == len(b.charter.changes) && a.seq == b.seq && !bytes.Equal(a.hash(), b.hash())
}
