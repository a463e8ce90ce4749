package membership

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	charterStatement = "charter"

	// MaxAuthorities bounds how many authorities an overlay has at a time.
	MaxAuthorities = 16
	// MaxChanges bounds how often its authorities and its threshold can change.
	MaxChanges = 256
	// MaxCharter bounds all changes together, in bytes.
	MaxCharter = 48 << 10
	// maxAuthorityName bounds the name of an authority, in bytes.
	maxAuthorityName = maxLabel

	// RetiredFor is how long what an authority has signed before it was removed counts
	// afterwards: whom it has made a member is renewed by another one within that.
	RetiredFor = MaxMember
)

// Authority is a key by whose word, together with that of as many others as the
// threshold says, the overlay is ruled.
type Authority struct {
	Key  Key
	Name string // the label that the member had when it was promoted; of the founder "founder"
	// Recovery: the key is nobody's, but on paper (RecoveryKey).
	Recovery bool
}

// FounderName is Authority.Name of the first one, whose key the overlay's ID is made of.
const FounderName = "founder"

// formerAuthority is one that was removed.
type formerAuthority struct {
	Authority
	at   time.Time // when
	void bool      // nothing of what it has signed counts any more
}

// ChangeKind is what a change of the charter does.
type ChangeKind uint8

const (
	ChangePromote   ChangeKind = 1 // a key becomes an authority
	ChangeDemote    ChangeKind = 2 // an authority is none any more
	ChangeThreshold ChangeKind = 3 // so many have to agree from now on
)

// Change is one change of who rules the overlay.
type Change struct {
	Kind      ChangeKind
	At        time.Time // whole seconds
	Authority Authority // of ChangePromote; of ChangeDemote the key says whose
	// Void is of ChangeDemote: what the authority has signed itself, memberships and
	// invitations, ends at once. Else it counts for RetiredFor as far as it is dated
	// before the change.
	Void      bool
	Threshold int   // of ChangeThreshold
	Signers   []Key // who has signed it; of those that were read
}

const (
	flagRecovery = 1 << 0
	flagVoid     = 1 << 0
)

// appendChange appends what the authorities sign of a change. content is the hash of the
// rest of the list that the change comes with: it needs no other signature.
//
//	kind 1 | at uvarint, seconds since 1970 | content 32 |
//	promote:   key 32 | flags 1 (1: recovery) | name length 1 | name
//	demote:    key 32 | flags 1 (1: void)
//	threshold: number uvarint
func appendChange(b []byte, c Change, content [32]byte) []byte {
	b = AppendTime(append(b, byte(c.Kind)), c.At)
	b = append(b, content[:]...)
	switch c.Kind {
	case ChangePromote:
		b = append(b, c.Authority.Key[:]...)
		b = append(b, flagIf(c.Authority.Recovery, flagRecovery))
		b = canon.AppendShort(b, c.Authority.Name)
	case ChangeDemote:
		b = append(b, c.Authority.Key[:]...)
		b = append(b, flagIf(c.Void, flagVoid))
	case ChangeThreshold:
		b = binary.AppendUvarint(b, uint64(c.Threshold))
	}
	return b
}

func flagIf(on bool, flag byte) byte {
	if on {
		return flag
	}
	return 0
}

func readChange(b []byte) (c Change, content [32]byte, err error) {
	r := canon.NewReader(b)
	c.Kind, c.At, content = ChangeKind(r.Byte()), ReadTime(r), r.Key()
	switch c.Kind {
	case ChangePromote:
		c.Authority.Key = r.Key()
		flags := r.Byte()
		c.Authority.Recovery = flags&flagRecovery != 0
		if flags&^flagRecovery != 0 {
			r.Fail("flags %#x", flags)
		}
		c.Authority.Name = string(r.Short())
		if err := checkLDH(c.Authority.Name); r.Err() == nil && err != nil {
			r.Fail("name %q: %v", c.Authority.Name, err)
		}
	case ChangeDemote:
		c.Authority.Key = r.Key()
		flags := r.Byte()
		c.Void = flags&flagVoid != 0
		if flags&^flagVoid != 0 {
			r.Fail("flags %#x", flags)
		}
	case ChangeThreshold:
		if n := r.Uvarint(); n == 0 || n > MaxAuthorities {
			r.Fail("threshold %d", n)
		} else {
			c.Threshold = int(n)
		}
	default:
		r.Fail("change of kind %d", c.Kind)
	}
	return c, content, r.End()
}

// A Signature is that of one authority under a statement that needs several.
type Signature struct {
	Key Key
	Sig [ed25519.SignatureSize]byte
}

// appendSignatures appends those of the authorities, by their place among them.
//
//	number 1 | { place 1 | signature 64 } ..., the places rising
func appendSignatures(b []byte, set []Authority, sigs []Signature) []byte {
	n := len(b)
	b = append(b, 0)
	for place, a := range set {
		for _, s := range sigs {
			if s.Key == a.Key {
				b = append(b, byte(place))
				b = append(b, s.Sig[:]...)
				b[n]++
				break
			}
		}
	}
	return b
}

// readSignatures reads what appendSignatures has written, and verifies each.
func readSignatures(r *canon.Reader, set []Authority, domain string, message []byte) (signers []Key, err error) {
	n, last := int(r.Byte()), -1
	for range n {
		place, sig := int(r.Byte()), r.Bytes(canon.SignatureSize)
		if r.Err() == nil && (place <= last || place >= len(set)) {
			r.Fail("a signature of authority %d of %d", place, len(set))
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
		last = place
		if err := canon.Verify(set[place].Key[:], domain, message, sig); err != nil {
			return nil, fmt.Errorf("%s: %w", set[place].Name, err)
		}
		signers = append(signers, set[place].Key)
	}
	return signers, r.Err()
}

// charter is who rules an overlay: its first authority, which is the founder's key, and
// all changes since. Each change is signed by the authorities before it, as many as the
// threshold before it says. It is immutable.
type charter struct {
	overlay     Overlay
	changes     []Change
	encoded     [][]byte   // a change each: length 2 | payload | signatures
	hashes      [][32]byte // after so many changes, from 0 on
	authorities []Authority
	threshold   int
	former      []formerAuthority
	content     [32]byte // that the last change came with
	trusted     Key      // by the token that this peer has entered by; it signs no changes
}

// founded is the charter of an overlay in which nothing has changed.
func founded(o Overlay) *charter {
	return &charter{
		overlay: o, hashes: [][32]byte{{}}, threshold: 1,
		authorities: []Authority{{Key: o.Root, Name: FounderName}},
	}
}

// message is what the authorities sign of the next change.
func (c *charter) message(payload []byte) []byte {
	last := c.hashes[len(c.hashes)-1]
	return append(last[:], payload...)
}

// place returns the place of an authority; -1 if the key is none's.
func (c *charter) place(k Key) int {
	return slices.IndexFunc(c.authorities, func(a Authority) bool { return a.Key == k })
}

// allows says why a change cannot follow; nil if it can.
func (c *charter) allows(ch Change) error {
	place := c.place(ch.Authority.Key)
	switch ch.Kind {
	case ChangePromote:
		switch {
		case place >= 0:
			return fmt.Errorf("%w: %s is one already", ErrAuthority, c.authorities[place].Name)
		case len(c.authorities) >= MaxAuthorities:
			return fmt.Errorf("%w: there are %d", ErrAuthority, MaxAuthorities)
		case slices.ContainsFunc(c.former, func(f formerAuthority) bool { return f.Key == ch.Authority.Key }):
			return fmt.Errorf("%w: the key was one's before, and was removed: it takes another key (Rotate)", ErrAuthority)
		}
		if err := checkLDH(ch.Authority.Name); err != nil {
			return fmt.Errorf("%w: name %q: %w", ErrAuthority, ch.Authority.Name, err)
		}
		if err := ch.Authority.Key.check(); err != nil {
			return err
		}
	case ChangeDemote:
		if place < 0 {
			return fmt.Errorf("%w: the key is none's", ErrAuthority)
		}
		left := slices.Delete(slices.Clone(c.authorities), place, place+1)
		if len(left) < c.threshold {
			return fmt.Errorf("%w: %d would be left, and %d have to agree", ErrAuthority, len(left), c.threshold)
		}
		if !slices.ContainsFunc(left, func(a Authority) bool { return !a.Recovery }) {
			return fmt.Errorf("%w: none but recovery lines would be left", ErrAuthority)
		}
	case ChangeThreshold:
		if ch.Threshold < 1 || ch.Threshold > len(c.authorities) {
			return fmt.Errorf("%w: %d of %d", ErrAuthority, ch.Threshold, len(c.authorities))
		}
		if ch.Threshold == c.threshold {
			return fmt.Errorf("%w: the threshold is %d already", ErrAuthority, ch.Threshold)
		}
	}
	return nil
}

// with returns the charter after an encoded change, which may have more bytes after it.
func (c *charter) with(r *canon.Reader) (*charter, error) {
	payload := r.Long()
	if r.Err() != nil {
		return nil, r.Err()
	}
	ch, content, err := readChange(payload)
	if err != nil {
		return nil, err
	}
	ch.Signers, err = readSignatures(r, c.authorities, c.overlay.domain(charterStatement), c.message(payload))
	if err != nil {
		return nil, err
	}
	if len(ch.Signers) < c.threshold {
		return nil, fmt.Errorf("%w: %d of %d", ErrSignatures, len(ch.Signers), c.threshold)
	}
	if len(ch.Signers) > c.threshold { // one can be added later, and nothing may depend on that
		return nil, fmt.Errorf("%w: a change with %d signatures where %d are needed", ErrNonCanonical, len(ch.Signers), c.threshold)
	}
	if n := len(c.changes); n > 0 && ch.At.Before(c.changes[n-1].At) {
		return nil, fmt.Errorf("%w: a change before the one before it", ErrNonCanonical)
	}
	if err := c.allows(ch); err != nil {
		return nil, err
	}
	next := *c
	next.trusted = Key{}
	next.changes = append(slices.Clip(c.changes), ch)
	sum := sha256.Sum256(c.message(payload))
	next.hashes = append(slices.Clip(c.hashes), sum)
	next.content = content
	switch ch.Kind {
	case ChangePromote:
		next.authorities = append(slices.Clip(c.authorities), ch.Authority)
	case ChangeDemote:
		place := c.place(ch.Authority.Key)
		next.former = append(slices.Clip(c.former), formerAuthority{c.authorities[place], ch.At, ch.Void})
		next.authorities = slices.Delete(slices.Clone(c.authorities), place, place+1)
	case ChangeThreshold:
		next.threshold = ch.Threshold
	}
	return &next, nil
}

// append appends all changes.
//
//	{ length 2 | payload | signatures } ...
func (c *charter) append(b []byte) []byte {
	for _, e := range c.encoded {
		b = append(b, e...)
	}
	return b
}

// openCharter reads and verifies all changes from the founder's key on. b is borrowed.
func openCharter(b []byte, o Overlay) (*charter, error) {
	c := founded(o)
	if len(b) > MaxCharter {
		return nil, fmt.Errorf("charter: %w: %d bytes", ErrTooLarge, len(b))
	}
	b = bytes.Clone(b)
	r := canon.NewReader(b)
	for at := 0; at < len(b); {
		if len(c.changes) >= MaxChanges {
			return nil, fmt.Errorf("charter: %w: more than %d changes", ErrTooLarge, MaxChanges)
		}
		next, err := c.with(r)
		if err != nil {
			return nil, fmt.Errorf("charter: change %d: %w", len(c.changes)+1, err)
		}
		end := len(b) - r.Len()
		next.encoded = append(slices.Clip(c.encoded), b[at:end:end])
		c, at = next, end
	}
	return c, r.End()
}

// follows says whether c is other, or other with more changes.
func (c *charter) follows(other *charter) bool {
	n := len(other.changes)
	return len(c.changes) >= n && c.hashes[n] == other.hashes[n]
}

// forks returns the first change in which the two differ, where neither follows the
// other, from 0 on.
func (c *charter) forks(other *charter) (at int, ok bool) {
	for i := range min(len(c.changes), len(other.changes)) {
		if c.hashes[i+1] != other.hashes[i+1] {
			return i, true
		}
	}
	return 0, false
}

// beats says whether c counts of two charters that fork: that with the lower hash at the
// first change in which they differ. What follows after that does not matter: who was
// removed could go on for as long as it likes. Nor do signatures, of which a change has
// just as many as are needed: one that is added later would turn the order round, and
// members would never settle.
func (c *charter) beats(other *charter, at int) bool {
	return bytes.Compare(c.hashes[at+1][:], other.hashes[at+1][:]) < 0
}

// signers returns whose word on who is a member can count at a time: the authorities',
// that of those that were removed not long ago, as far as granted says, and of who has made
// this peer's token.
func (c *charter) signers(now time.Time) (keys []Key) {
	for _, a := range c.authorities {
		if !a.Recovery {
			keys = append(keys, a.Key)
		}
	}
	for _, f := range c.former {
		if !f.Recovery && !now.After(f.at.Add(RetiredFor+Tolerance)) {
			keys = append(keys, f.Key)
		}
	}
	if !c.trusted.IsZero() && c.place(c.trusted) < 0 {
		keys = append(keys, c.trusted)
	}
	return keys
}

// knows says whether a key is an authority's, or was, or is trusted.
func (c *charter) knows(k Key) bool {
	return c.place(k) >= 0 || k == c.trusted || slices.ContainsFunc(c.former, func(f formerAuthority) bool { return f.Key == k })
}

// granted says why what a key has signed at a time, by its own word, does not count; nil if it does.
func (c *charter) granted(k Key, at time.Time) error {
	if c == nil {
		return nil
	}
	for _, f := range c.former {
		switch {
		case f.Key != k:
		case f.void:
			return fmt.Errorf("%w: what %s has signed is void", ErrVoid, f.Name)
		case at.After(f.at):
			return fmt.Errorf("%w: %s was removed from the authorities at %s", ErrRevoked, f.Name, f.at.Format(time.RFC3339))
		}
	}
	return nil
}
