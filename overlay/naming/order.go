package naming

import (
	"bytes"
	"cmp"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// standing is what a name record owes to its peer's certificate: the part of
// the order that holds across peers (DESIGN §14.2).
type standing struct {
	Class  class          `json:"class"`
	Root   bool           `json:"root,omitempty"`   // the founder said so itself, no delegate
	Serial uint64         `json:"serial,omitempty"` // of confirmed members; else 0
	Tie    membership.Key `json:"tie"`              // SHA-256, see tie
}

// class is by what right a member claims; the higher counts, among those of one
// authority.
type class uint8

const (
	provisionalWildcard class = 1
	provisionalNamed    class = 2
	confirmedWildcard   class = 3
	confirmedNamed      class = 4
)

// authority is whose word a claim is; the higher counts.
type authority uint8

const (
	nobodys   authority = 0 // a provisional member's own
	delegates authority = 1
	founders  authority = 2
)

func standingOf(m *membership.Member, overlay [32]byte, label string) standing {
	s := standing{Root: m.Delegate.IsZero(), Tie: tie(overlay, label, m.Peer)}
	if m.Confirmed {
		s.Serial = m.Serial
	}
	switch {
	case m.Confirmed && m.Wildcard:
		s.Class = confirmedWildcard
	case m.Confirmed:
		s.Class = confirmedNamed
	case m.Wildcard:
		s.Class = provisionalWildcard
	default:
		s.Class = provisionalNamed
	}
	return s
}

// authority returns who has decided: an issuer has for confirmed members only.
func (s standing) authority() authority {
	switch {
	case s.Class < confirmedWildcard:
		return nobodys
	case s.Root:
		return founders
	}
	return delegates
}

// tie is the last criterion across peers: the lower counts. It differs from
// label to label, so that no peer wins all ties.
func tie(overlay [32]byte, label string, peer peerid.ID) membership.Key {
	return membership.Key(digest("idloc tie 1\x00", overlay, append(canon.AppendShort(nil, label), peer[:]...)))
}

// compare is positive if s counts rather than t, and 0 only for one peer in
// one class. The founder stands above its delegates before anything else that a
// certificate says, because a delegate writes the rest itself: whether a label was
// given by name, and, within bounds that membership checks, when. Nothing that
// can be ground decides between two confirmed members but for a serial that both
// have.
func (s standing) compare(t standing) int {
	return cmp.Or(
		cmp.Compare(s.authority(), t.authority()),
		compareBool(s.Root, t.Root), // of provisional ones: whose the invitation is
		cmp.Compare(s.Class, t.Class),
		cmp.Compare(t.Serial, s.Serial),
		bytes.Compare(t.Tie[:], s.Tie[:]),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// moves says whether a reader that has pinned t's peer takes s's instead: only if
// whoever speaks for s stands above whoever speaks for t, or the founder speaks for
// both and has put s before t. So no delegate can take a label away that an issuer
// has given, whatever it writes into a certificate.
func (s standing) moves(t standing) bool {
	a, b := s.authority(), t.authority()
	return a > b || a == founders && s.compare(t) > 0
}

// Before says whether a's claim to a label stands before b's in Select's order. Both
// are verified members of the overlay, and different peers.
func Before(a, b *membership.Member, overlay [32]byte, label string) bool {
	return standingOf(a, overlay, label).compare(standingOf(b, overlay, label)) > 0
}

// rank is where a value stands among those under its key. It is compared
// criterion by criterion, each a total order of a function of the content, so
// the whole is a total order: whatever subset a peer sees, in whatever order
// and grouping (kad-dht folds pairwise), it settles on the same value.
//
// So the class stands before seq for one peer as well: could a newer
// provisional record of a peer replace its older confirmed one, a third record
// between the two would make a circle. Nor does a tombstone rank below live
// records of others: it holds its peer's place until it expires.
type rank struct {
	list *membership.RevocationList // of revocation lists, else nil
	standing
	seq   uint64
	value []byte
}

func (r *Record) rank() rank { return rank{standing: r.standing, seq: r.Seq, value: r.value} }

// compare is positive if r counts rather than s, and 0 only for equal bytes.
func (r rank) compare(s rank) int {
	if r.list != nil && s.list != nil && !bytes.Equal(r.value, s.value) {
		if membership.Merge(r.list, s.list) == r.list {
			return 1
		}
		return -1
	}
	return cmp.Or(r.standing.compare(s.standing), cmp.Compare(r.seq, s.seq), bytes.Compare(r.value, s.value))
}
