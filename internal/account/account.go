// Package account says to whom, besides a member itself, what it uses is charged, and
// counts it, so that nobody uses up a whole. One token makes any number of keys, and one
// delegate any number of tokens: so all who came by one invitation have a share, and all
// whom one delegate has let in have twice that, however many invitations it writes. Whom the
// founder has let in, nobody but their invitation is charged.
//
// A share is a part of a whole, and a few accounts fill that together. Where what is held may
// be taken back, whoever has most of a table that is full gives way (Holders).
//
// # Files
//
//	account.go  Account, ByTurns, Counts, Several
//	holders.go  Holders
package account

import (
	"cmp"
	"iter"
	"slices"
)

// delegateTimes is how many times the share of one invitation all of one delegate's have.
const delegateTimes = 2

// Account is who is charged. Each part is a name that no other has, or "" for nobody. It
// is a value.
type Account struct {
	Invitation string // all who came by it
	Delegate   string // all whom it has let in
}

// All returns the parts of an account, each as an account of its own, with how many times
// the share of one invitation it has.
func (a Account) All() iter.Seq2[Account, int] {
	return func(yield func(Account, int) bool) {
		if a.Invitation != "" && !yield(Account{Invitation: a.Invitation}, 1) {
			return
		}
		if a.Delegate != "" {
			yield(Account{Delegate: a.Delegate}, delegateTimes)
		}
	}
}

// ByTurns orders a list so that the first ones of each invitation come before the second
// ones, and of those that are equal in that the first ones of each delegate. What stands
// first stays first otherwise.
func ByTurns[T any](list []T, of func(T) Account) {
	type turn struct {
		what                 T
		invitation, delegate int
	}
	turns := make([]turn, len(list))
	had := map[Account]int{}
	for i, what := range list {
		turns[i].what = what
		a := of(what)
		for part := range a.All() {
			if part.Invitation != "" {
				turns[i].invitation = had[part]
			} else {
				turns[i].delegate = had[part]
			}
			had[part]++
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.invitation, b.invitation), cmp.Compare(a.delegate, b.delegate))
	})
	for i := range turns {
		list[i] = turns[i].what
	}
}

// Counts is how much accounts have of something. The zero value is ready. It has no lock of
// its own.
type Counts struct{ of map[Account]int }

// Full says whether one part of an account has all that it may, share being what one
// invitation may have.
func (c *Counts) Full(a Account, share int) bool {
	for part, times := range a.All() {
		if c.of[part] >= times*share {
			return true
		}
	}
	return false
}

// Add counts one more, Remove one less.
func (c *Counts) Add(a Account) {
	if c.of == nil {
		c.of = map[Account]int{}
	}
	for part := range a.All() {
		c.of[part]++
	}
}

// Remove is described at Add.
func (c *Counts) Remove(a Account) {
	for part := range a.All() {
		if c.of[part]--; c.of[part] <= 0 {
			delete(c.of, part)
		}
	}
}

// Of returns how much there is of an account of one part.
func (c *Counts) Of(part Account) int { return c.of[part] }

// Len returns how many accounts have something, each part counted.
func (c *Counts) Len() int { return len(c.of) }

// Several says how many of some accounts count where one invitation, and one delegate, has
// no more than its share. Each that nobody is charged for counts.
func Several(all []Account, share int) (n int) {
	var of Counts
	for _, a := range all {
		if !of.Full(a, share) {
			of.Add(a)
			n++
		}
	}
	return n
}
