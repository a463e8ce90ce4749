package nat

import (
	"cmp"
	"net/netip"
	"slices"
)

// Ranking is a list of addresses, each with what the caller wants back, and
// what is known of it. The zero Ranking is empty. It must not be used
// concurrently.
type Ranking[T any] struct {
	entries []entry[T]
	places  map[netip.AddrPort]int // of entries
}

type entry[T any] struct {
	value T
	v6    bool
	kind  Kind
	order int
}

// Add puts an address into the list, but not a Useless one. Of one that is added twice
// the better kind counts, with its value.
func (r *Ranking[T]) Add(at netip.AddrPort, k Kind, value T) {
	if k == Useless {
		return
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	e := entry[T]{value, at.Addr().Is6(), k, len(r.entries)}
	if i, ok := r.places[at]; ok {
		if old := r.entries[i]; k < old.kind {
			e.order = old.order
			r.entries[i] = e
		}
		return
	}
	if r.places == nil {
		r.places = map[netip.AddrPort]int{}
	}
	r.places[at] = e.order
	r.entries = append(r.entries, e)
}

// Len is how many addresses there are.
func (r *Ranking[T]) Len() int { return len(r.entries) }

// Best returns the best n, or all there are, the best first; equal ones in the
// order in which they were added. What is cut off is never better than what
// stays, but that the last place goes to the best of the other family where
// the ones that stay are of one: a host that speaks only that has no use of
// the rest. It does not go to an address that nobody else has use of, nor is
// the only one of a better kind given up for it.
func (r *Ranking[T]) Best(n int) []T {
	all := slices.Clone(r.entries)
	slices.SortFunc(all, func(a, b entry[T]) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.order, b.order))
	})
	n = max(0, min(n, len(all)))
	if n > 0 && n < len(all) {
		keepOther(all, n)
	}
	out := make([]T, n)
	for i := range out {
		out[i] = all[i].value
	}
	return out
}

// keepOther gives the last place of n that can be spared to the best of the
// other family, if all n are of one.
func keepOther[T any](all []entry[T], n int) {
	first := all[0].v6
	other := slices.IndexFunc(all, func(e entry[T]) bool { return e.v6 != first })
	if other < n || all[other].kind.Lonely() {
		return // there is one, none at all, or none of use
	}
	e := all[other]
	for i := n - 1; i > 0; i-- {
		if all[i].kind == all[i-1].kind || all[i].kind == e.kind {
			copy(all[i:], all[i+1:n])
			all[n-1] = e
			return
		}
	}
}
