package account

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// table is a table of 256 places, as those that use Holders have them.
type table struct {
	Holders[int]
	came int
}

const places, share = 256, places / 4

// come has one more come, and says whether it got a place, and who gave way for it.
func (b *table) come(a Account) (gave int, ok bool) {
	b.came++
	if b.Full(a, share) {
		return 0, false
	}
	if b.Len() >= places {
		if gave, ok = b.Yields(a); !ok {
			return 0, false
		}
		b.Remove(gave)
	}
	b.Add(b.came, a)
	return gave, true
}

// of returns how many have a place of all that one delegate, or one invitation, has let in.
func (b *table) of(a Account) (n int) {
	for _, p := range b.places {
		if p.of.Delegate == a.Delegate && (a.Delegate != "" || p.of.Invitation == a.Invitation) {
			n++
		}
	}
	return n
}

// TestTwoDelegatesKeepNobodyOut is the attack: two delegates fill a table, each by many tokens,
// and come again and again. One by a token of the founder's gets a place each time, and so do
// all others, until they have as much of the table as those, by their share; whom nobody is
// charged for keeps its place.
func TestTwoDelegatesKeepNobodyOut(t *testing.T) {
	var b table
	flood := func() {
		for i := range 4 * places {
			b.come(Account{fmt.Sprint("token ", i), fmt.Sprint("delegate ", i%2)})
		}
	}
	if _, ok := b.come(Account{}); !ok {
		t.Fatal("the first")
	}
	flood()
	if b.Len() != places {
		t.Fatalf("%d places are held", b.Len())
	}
	friend := Account{Invitation: "a token of the founder's"}
	const fair = places/5 - 1 // delegates count twice; and one of nobody's is there
	for n := range fair {
		if _, ok := b.come(friend); !ok {
			t.Fatalf("the table is full of two delegates' after %d of a token's", n)
		}
		flood()
		if got := b.of(friend); got != n+1 {
			t.Fatalf("%d have a place, of %d", got, n+1)
		}
	}
	if !b.Has(1) {
		t.Error("one that nobody is charged for has lost its place")
	}
	if n := b.of(Account{Delegate: "delegate 0"}); n < 2*fair-2 || b.Len() != places {
		t.Errorf("one delegate has %d, of %d", n, b.Len())
	}
}

// TestLastYields: of those that have most, the invitation that has most gives the place of
// its last; an only place is kept.
func TestLastYields(t *testing.T) {
	var h Holders[string]
	for _, what := range []string{"a1", "b1", "b2", "c1", "a2", "b3"} {
		h.Add(what, Account{what[:1], "mars"})
	}
	h.Add("d1", Account{Invitation: "d"})
	for _, want := range []string{"b3", "a2", "b2"} {
		what, ok := h.Yields(Account{Invitation: "e"})
		if !ok || what != want {
			t.Fatalf("%s yields, want %s", what, want)
		}
		h.Remove(what)
	}
	for _, a := range []Account{{"f", "mars"}, {Invitation: "d"}} {
		if what, ok := h.Yields(a); ok {
			t.Errorf("%s yields to %v", what, a)
		}
	}
	var empty Holders[string]
	if _, ok := empty.Yields(Account{}); ok || empty.Has("a") {
		t.Error("nobody yields")
	}
	empty.Remove("a")
}

// TestHoldersAddUp: whatever comes and goes, what is counted is what there is, nobody has more
// than a share, and who gives way had more than who comes.
func TestHoldersAddUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var b table
	there := map[int]Account{}
	for range 20000 {
		if r.IntN(8) == 0 {
			for what := range there {
				b.Remove(what)
				delete(there, what)
				break
			}
			continue
		}
		a := Account{Invitation: fmt.Sprint(r.IntN(9))}
		if d := r.IntN(4); d > 0 {
			a = Account{fmt.Sprint(d, ".", r.IntN(40)), fmt.Sprint(d)}
		}
		mine := b.of(a)
		gave, ok := b.come(a)
		if gave != 0 {
			_, his := there[gave].whole()
			_, my := a.whole()
			if b.of(there[gave])*my < (mine+1)*his {
				t.Fatalf("%v, who has %d left, gives way to %v, who has %d now", there[gave], b.of(there[gave]), a, mine+1)
			}
			delete(there, gave)
		}
		if ok {
			there[b.came] = a
		}
	}
	if b.Len() != len(there) || b.Len() > places {
		t.Errorf("%d places, of %d", b.Len(), len(there))
	}
	for what := range there {
		b.Remove(what)
	}
	if b.Len() != 0 || b.counts.Len() != 0 || len(b.whole) != 0 {
		t.Errorf("%d are charged when all have ended", b.counts.Len())
	}
}

// TestSeveral: keys of one token count once, those of one delegate's tokens twice.
func TestSeveral(t *testing.T) {
	all := []Account{{Invitation: "a"}, {Invitation: "a"}, {"b", "d"}, {"c", "d"}, {"e", "d"}, {}, {}}
	if n := Several(all, 1); n != 5 {
		t.Errorf("%d", n)
	}
	if n := Several(nil, 1); n != 0 {
		t.Errorf("%d of none", n)
	}
}
