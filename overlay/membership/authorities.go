package membership

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// rules returns who rules the overlay, as far as l and those who were met tell; nil for a
// nil list.
func (l *RevocationList) rules() *charter {
	switch {
	case l == nil:
		return nil
	case l.told != nil:
		return l.told
	}
	return l.charter
}

// signed returns the charter that stands in the list itself.
func (l *RevocationList) signed(o Overlay) *charter {
	if l == nil || l.seq == 0 {
		return founded(o)
	}
	return l.charter
}

// rulesOf is rules also of a nil list.
func (l *RevocationList) rulesOf(o Overlay) *charter {
	if c := l.rules(); c != nil {
		return c
	}
	return founded(o)
}

// Trusting returns the list of an overlay of which nothing is known but a token, whose
// maker's word is taken on who is a member until a list tells more: number 0. nil if
// that is the founder's key.
func Trusting(o Overlay, maker Key) *RevocationList {
	if maker.IsZero() || maker == o.Root {
		return nil
	}
	c := founded(o)
	c.trusted = maker
	return &RevocationList{charter: c, verified: true}
}

// Authorities returns who rules the overlay, and how many of them have to agree.
func (l *RevocationList) Authorities(o Overlay) (all []Authority, threshold int) {
	c := l.rulesOf(o)
	return slices.Clone(c.authorities), c.threshold
}

// IsAuthority says whether the key is an authority's.
func (l *RevocationList) IsAuthority(o Overlay, k Key) bool {
	if l == nil {
		return k == o.Root
	}
	return l.rules().place(k) >= 0
}

// WasAuthority says whether the key was an authority's, and was removed.
func (l *RevocationList) WasAuthority(k Key) bool {
	return l != nil && slices.ContainsFunc(l.rules().former, func(f formerAuthority) bool { return f.Key == k })
}

// Changes returns all changes of who rules the overlay, with who has signed each.
func (l *RevocationList) Changes() []Change {
	if l == nil {
		return nil
	}
	return slices.Clone(l.rules().changes)
}

// Signers returns who has signed the list.
func (l *RevocationList) Signers() []Key {
	if l == nil {
		return nil
	}
	return slices.Clone(l.signers)
}

// Charter returns all changes as others are shown them before they have the list; nil if
// there is none.
func (l *RevocationList) Charter() []byte {
	if l == nil {
		return nil
	}
	return l.rules().append(nil)
}

// Told returns l with what somebody has shown of its Charter, if that goes on from the
// changes in l: then chains of new authorities are taken before the list has come that says
// so. The list itself stays what it is. Else it returns l. Of two that were shown and fork
// the later counts: an authority that was removed may have shown the earlier one, and must
// keep nobody from hearing of the others. b is borrowed.
func (l *RevocationList) Told(o Overlay, b []byte) (*RevocationList, error) {
	own := founded(o)
	if l != nil {
		own = l.charter
	}
	if len(b) <= len(own.append(nil)) {
		return l, nil // no change more, or those are others
	}
	if l != nil && l.told != nil && bytes.Equal(l.told.append(nil), b) {
		return l, nil
	}
	c, err := openCharter(b, o)
	if err != nil {
		return l, err
	}
	if len(c.changes) <= len(own.changes) || !c.follows(own) || l != nil && l.told != nil && l.told.follows(c) {
		return l, nil
	}
	c.trusted = own.trusted
	next := &RevocationList{charter: own, verified: true}
	if l != nil {
		*next = *l
	}
	next.told = c
	return next, nil
}

// Untold returns the list itself, as it was signed; nil for one with number 0.
func (l *RevocationList) Untold() *RevocationList {
	switch {
	case l == nil || l.seq == 0:
		return nil
	case l.told == nil:
		return l
	}
	next := *l
	next.told = nil
	return &next
}

// Rank orders lists as Merge does where charters do not fork: by how often the authorities
// have changed, then by number. 0 for a list that says nothing.
func (l *RevocationList) Rank() uint64 {
	if l == nil || l.seq == 0 {
		return 0
	}
	return uint64(len(l.charter.changes))<<rankShift | l.seq&(1<<rankShift-1)
}

const (
	rankShift = 40
	maxSeq    = 1<<rankShift - 1
)

// Digest tells lists apart that have one rank; 0 for a list that says nothing.
func (l *RevocationList) Digest() uint64 {
	if l == nil || l.seq == 0 {
		return 0
	}
	sum := sha256.Sum256(l.body)
	return binary.BigEndian.Uint64(sum[:])
}

// After returns l with what others have told of who rules the overlay while old was in
// force, as far as that goes on from l.
func (l *RevocationList) After(old *RevocationList) *RevocationList {
	if l == nil || old == nil || old.told == nil || l.seq == 0 || len(old.told.changes) <= len(l.charter.changes) || !old.told.follows(l.charter) {
		return l
	}
	next := *l
	next.told = old.told
	return &next
}

// ForkAt says whether the authorities of two lists fork, and after how many changes.
func ForkAt(a, b *RevocationList) (changes int, ok bool) {
	if a == nil || b == nil {
		return 0, false
	}
	return a.charter.forks(b.charter)
}

// Trusted returns by whose word on a token l is all that is known; zero if it is more.
func (l *RevocationList) Trusted() Key {
	if l == nil || l.seq > 0 {
		return Key{}
	}
	return l.rules().trusted
}
