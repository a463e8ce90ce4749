package account

import "cmp"

// Holders is who holds the places of a table, on whose account, and in which order they
// came. A table that is full takes one more all the same while somebody else has more of it
// than a fair part (max-min fairness; Yields says who gives way): so a few accounts that
// fill it together keep no other out. The zero value is ready. It has no lock of its own.
type Holders[T comparable] struct {
	counts Counts
	whole  map[Account]int // by whole; nobody is left out
	places map[T]place
	turn   uint64
}

// place is one that is held.
type place struct {
	of   Account
	turn uint64 // higher if it came later
}

// whole is the largest part of an account: all of the delegate's if there is one. It says
// as well how many times the share of one invitation that has.
func (a Account) whole() (Account, int) {
	if a.Delegate != "" {
		return Account{Delegate: a.Delegate}, delegateTimes
	}
	return Account{Invitation: a.Invitation}, 1
}

// Full is described at Counts.
func (h *Holders[T]) Full(a Account, share int) bool { return h.counts.Full(a, share) }

// Len returns how many places are held.
func (h *Holders[T]) Len() int { return len(h.places) }

// Has says whether what holds a place.
func (h *Holders[T]) Has(what T) bool {
	_, ok := h.places[what]
	return ok
}

// Add gives what a place, which has none.
func (h *Holders[T]) Add(what T, a Account) {
	if h.places == nil {
		h.places, h.whole = map[T]place{}, map[Account]int{}
	}
	h.turn++
	h.places[what] = place{a, h.turn}
	h.counts.Add(a)
	if whole, _ := a.whole(); whole != (Account{}) {
		h.whole[whole]++
	}
}

// Remove takes the place of what away, if it has one.
func (h *Holders[T]) Remove(what T) {
	p, ok := h.places[what]
	if !ok {
		return
	}
	delete(h.places, what)
	h.counts.Remove(p.of)
	whole, _ := p.of.whole()
	if h.whole[whole]--; h.whole[whole] <= 0 {
		delete(h.whole, whole)
	}
}

// Yields returns who gives up its place for one more of a in a table that is full. Those who
// have most by their share do, all of an invitation or all of a delegate, if they have no
// less than a then: so two are never worse off in turn. Of them it is the one that came last,
// by the invitation that has most: who has been there for long stays. Whom nobody is charged
// for yields to nobody.
//
// Who has no place gets one as long as some invitation has two of them, or some delegate
// three.
func (h *Holders[T]) Yields(a Account) (what T, ok bool) {
	mine, myTimes := a.whole()
	var most Account
	n, times := 0, 1
	for whole, m := range h.whole {
		if _, t := whole.whole(); m*times > n*t {
			most, n, times = whole, m, t
		}
	}
	if (n-1)*myTimes < (h.whole[mine]+1)*times {
		return what, false
	}
	var last place
	for w, p := range h.places {
		if whole, _ := p.of.whole(); whole == most && (!ok || h.compare(p, last) > 0) {
			what, last, ok = w, p, true
		}
	}
	return what, ok
}

// compare orders places of one whole: the last one yields.
func (h *Holders[T]) compare(a, b place) int {
	of := func(p place) int { return h.counts.Of(Account{Invitation: p.of.Invitation}) }
	return cmp.Or(cmp.Compare(of(a), of(b)), cmp.Compare(a.turn, b.turn))
}
