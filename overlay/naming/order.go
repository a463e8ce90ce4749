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
	Serial uint64         `json:"serial,omitempty"` // of confirmed wildcard members; else 0
	Tie    membership.Key `json:"tie"`              // SHA-256, see tie
}

// class is the first criterion; the higher counts.
type class uint8

const (
	provisionalWildcard class = 1
	provisionalNamed    class = 2
	confirmedWildcard   class = 3
	confirmedNamed      class = 4
)

func standingOf(m *membership.Member, overlay [32]byte, label string) standing {
	s := standing{Tie: tie(overlay, label, m.Peer)}
	switch {
	case m.Confirmed && m.Wildcard:
		s.Class, s.Serial = confirmedWildcard, m.Serial
	case m.Confirmed:
		s.Class = confirmedNamed
	case m.Wildcard:
		s.Class = provisionalWildcard
	default:
		s.Class = provisionalNamed
	}
	return s
}

// tie is the last criterion across peers: the lower counts. It differs from
// label to label, so that no peer wins all ties.
func tie(overlay [32]byte, label string, peer peerid.ID) membership.Key {
	return membership.Key(digest("idloc tie 1\x00", overlay, append(canon.AppendShort(nil, label), peer[:]...)))
}

// compare is positive if s counts rather than t, and 0 only for one peer in
// one class.
func (s standing) compare(t standing) int {
	return cmp.Or(
		cmp.Compare(s.Class, t.Class),
		cmp.Compare(t.Serial, s.Serial),
		bytes.Compare(t.Tie[:], s.Tie[:]),
	)
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
