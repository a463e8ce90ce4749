package account

import (
	"fmt"
	"slices"
	"testing"
)

// TestShares: one invitation gets its share, one delegate twice that by any number of
// invitations, and without one; others get theirs, and what was given back may be had again.
func TestShares(t *testing.T) {
	const share = 10
	var c Counts
	take := func(a Account) (got int) {
		for range 100 * share {
			if !c.Full(a, share) {
				c.Add(a)
				got++
			}
		}
		return got
	}
	all := 0
	for n := range 5 {
		a := Account{fmt.Sprint("token ", n), "a delegate"}
		got := take(a)
		if got > share {
			t.Errorf("%d of one invitation", got)
		}
		all += got
	}
	if all += take(Account{Delegate: "a delegate"}); all != 2*share {
		t.Errorf("%d of one delegate", all)
	}
	for _, a := range []Account{{Invitation: "of the founder's"}, {"of another", "another delegate"}, {Invitation: "a delegate"}} {
		if got := take(a); got != share {
			t.Errorf("%+v got %d", a, got)
		}
	}
	if got := take(Account{}); got != 100*share || c.Of(Account{}) != 0 {
		t.Errorf("nobody is charged for %d of %d", 100*share-got, 100*share)
	}
	for n := range 2 {
		for range share {
			c.Remove(Account{fmt.Sprint("token ", n), "a delegate"})
		}
	}
	if got := take(Account{"token 9", "a delegate"}); got != share {
		t.Errorf("%d when others have ended", got)
	}
	for range share {
		for _, a := range []Account{{"token 9", "a delegate"}, {Invitation: "of the founder's"}, {"of another", "another delegate"}, {Invitation: "a delegate"}} {
			c.Remove(a)
		}
	}
	if c.Len() != 0 {
		t.Errorf("%d are charged when all have ended", c.Len())
	}
}

// TestByTurns: keys of one token, and tokens of one delegate, are not all that comes first.
func TestByTurns(t *testing.T) {
	list := []Account{{"a", "d"}, {"a", "d"}, {"a", "d"}, {"b", "d"}, {"c", "d"}, {Invitation: "e"}, {}, {Invitation: "e"}, {}}
	want := []Account{{"a", "d"}, {Invitation: "e"}, {}, {}, {"b", "d"}, {"c", "d"}, {Invitation: "e"}, {"a", "d"}, {"a", "d"}}
	ByTurns(list, func(a Account) Account { return a })
	if !slices.Equal(list, want) {
		t.Errorf("%q", list)
	}
}
