package membership

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// motions is one of each kind that changes something in a council's list.
func motions(c *council, venus *Signer) map[string]Motion {
	return map[string]Motion{
		"a revocation": {Kind: MoveRevoke, At: epoch.Add(time.Hour + 5*time.Millisecond), Revoke: []Revocation{
			{Kind: RevokePeer, Key: Key{9}, Until: epoch.Add(3 * time.Hour)}, {Kind: RevokeDelegate, Key: Key{8}, Before: epoch.Add(time.Millisecond)},
		}},
		"a policy": {Kind: MovePolicy, At: epoch, Policy: "allow all"}, "unattended": {Kind: MoveUnattended, At: epoch, Unattended: 48*time.Hour + time.Millisecond},
		"a promotion": promote(venus, "venus", epoch), "a removal": demote(c.mars, true, epoch), "a threshold": threshold(3, epoch),
	}
}

// What follows from a motion depends on nothing but it and the list before: two
// authorities that have read both sign one thing, and put one list together.
func TestDraftIsAFunction(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	venus := signer(t, 62)
	list := must(pass(c.list, revoke(epoch, RevokePeer, Key{1}), c.f, c.mars))(t)
	sums := map[[32]byte]string{}
	for what, m := range motions(c, venus) {
		before := slices.Clone(m.Revoke)
		here := must(list.Draft(c.o, m))(t)
		// The other has read the list, and the motion out of a proposal.
		there := must(OpenRevocationList(list.Bytes(), c.o))(t)
		told := must(there.Told(c.o, must(pass(list, promote(signer(t, 63), "x", epoch), c.f, c.mars))(t).Charter()))(t)
		read := must(OpenProposal(must(c.mars.Propose(m))(t).Bytes(), c.o))(t)
		for whose, l := range map[string]*RevocationList{"another's": there, "one's that was told more": told.Untold()} {
			d := must(l.Draft(c.o, read.Motion))(t)
			if d.Sum() != here.Sum() {
				t.Errorf("%s: %s is another", what, whose)
			}
			a, b := must(here.Sign(c.moon))(t), must(d.Sign(c.mars))(t)
			one, two := must(here.List([]Signature{a, b}))(t), must(d.List([]Signature{b, a}))(t)
			if !bytes.Equal(one.Bytes(), two.Bytes()) || one.Seq() != list.Seq()+1 || !one.Has(RevokePeer, Key{1}) || here.Needs() != 2 {
				t.Errorf("%s: %s makes another list", what, whose)
			}
		}
		if !slices.Equal(before, m.Revoke) {
			t.Errorf("%s was changed by drafting it", what)
		}
		if other := sums[here.Sum()]; other != "" {
			t.Errorf("%s and %s have one sum", what, other)
		}
		sums[here.Sum()] = what
		later := m
		later.At = m.At.Add(time.Second)
		if must(list.Draft(c.o, later))(t).Sum() == here.Sum() {
			t.Errorf("%s: at another time it has the same sum", what)
		}
	}
}

// What is so already follows from nothing.
func TestDraftOfNothing(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	venus := signer(t, 62)
	for what, m := range motions(c, venus) {
		l := must(pass(c.list, m, c.f, c.moon))(t)
		m.At = m.At.Add(time.Hour)
		if _, err := l.Draft(c.o, m); !errors.Is(err, ErrNothing) {
			t.Errorf("%s once more: %v", what, err)
		}
	}
	for what, m := range map[string]Motion{
		"the same threshold":             threshold(2, epoch),
		"unattended as it is by default": {Kind: MoveUnattended, At: epoch, Unattended: DefaultUnattended}, "who is one": promote(c.mars, "other", epoch),
	} {
		if _, err := c.list.Draft(c.o, m); !errors.Is(err, ErrNothing) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, m := range map[string]Motion{
		"too short": {Kind: MoveUnattended, At: epoch, Unattended: MinUnattended - 1}, "too long": {Kind: MoveUnattended, At: epoch, Unattended: MaxUnattended + 1},
	} {
		if _, err := c.list.Draft(c.o, m); !errors.Is(err, ErrLifetime) {
			t.Errorf("unattended for %s: %v", what, err)
		}
	}
	// A revocation of nothing is the list once more, with what has ended left out.
	if l := must(pass(c.list, Motion{Kind: MoveRevoke, At: epoch}, c.f, c.mars))(t); l.Seq() != c.list.Seq()+1 || l.Len() != 0 {
		t.Errorf("list %d with %d entries", l.Seq(), l.Len())
	}
	if _, err := c.list.Draft(c.o, Motion{At: epoch}); err == nil {
		t.Error("a motion of no kind")
	}
	other := must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t).Overlay()
	for what, l := range map[string]*RevocationList{"not verified": unverified(c.list), "of another overlay": c.list} {
		o := c.o
		if what != "not verified" {
			o = other
		}
		if _, err := l.Draft(o, threshold(1, epoch)); !errors.Is(err, ErrListUnverified) {
			t.Errorf("after a list %s: %v", what, err)
		}
	}
}

// Only what authorities have signed, and of each once, counts.
func TestSignedOfADraft(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	for what, m := range map[string]Motion{"a list": revoke(epoch, RevokePeer, Key{1}), "a change": threshold(1, epoch)} {
		d := must(c.list.Draft(c.o, m))(t)
		other := must(c.list.Draft(c.o, revoke(epoch, RevokePeer, Key{2})))(t)
		sign := func(d *Draft, s *Signer) Signature { return must(d.Sign(s))(t) }
		stranger := sign(d, signer(t, 62))
		inTheName := stranger
		inTheName.Key = c.moon.Key()
		moved := sign(d, c.mars)
		moved.Key = c.f.Key()
		bad := []Signature{stranger, inTheName, moved, sign(other, c.f), {}, {Key: c.f.Key()}}
		if good := d.Signed(bad); len(good) != 0 {
			t.Errorf("%s: %d of none are good", what, len(good))
		}
		one := sign(d, c.mars)
		if good := d.Signed(slices.Concat(bad, []Signature{one, one, one})); len(good) != 1 || good[0] != one {
			t.Errorf("%s: %d are good of one, three times", what, len(good))
		}
		if _, err := d.List(slices.Concat(bad, []Signature{one, one, one})); !errors.Is(err, ErrSignatures) {
			t.Errorf("%s by one: %v", what, err)
		}
		l := must(d.List(slices.Concat(bad, []Signature{one, sign(d, c.f), sign(d, c.moon), one})))(t)
		want := 3
		if what == "a change" { // just as many as are needed
			want = d.Needs()
		}
		if len(l.Signers()) != want || !slices.Contains(l.Signers(), c.mars.Key()) {
			t.Errorf("%s is signed by %d", what, len(l.Signers()))
		}
	}
}

// A clock that is behind makes no list that is older than the one before it, nor one at
// which no later change could follow.
func TestDraftWithAClockBehind(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	l := must(pass(c.list, revoke(epoch.Add(time.Hour), RevokePeer, Key{1}), c.f))(t)
	l = must(pass(l, demote(c.mars, false, epoch.Add(-day)), c.moon))(t)
	if !l.Issued().Equal(epoch.Add(time.Hour)) || !l.Changes()[2].At.Equal(l.Issued()) {
		t.Errorf("issued %v, changed %v", l.Issued(), l.Changes()[2].At)
	}
}

// Who has used up the numbers can be removed, and then there are numbers again.
func TestNumbersEnd(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	last := must(OpenRevocationList(forged(t, &RevocationList{charter: c.list.charter, seq: maxSeq, issued: epoch}, map[byte]*Signer{1: c.mars}), c.o))(t)
	if _, err := pass(last, revoke(epoch, RevokePeer, Key{1}), c.f); !errors.Is(err, ErrListFull) {
		t.Errorf("after the last number: %v", err)
	}
	l := must(pass(last, demote(c.mars, true, epoch), c.f))(t)
	l = must(pass(l, revoke(epoch, RevokePeer, Key{1}), c.f))(t)
	if l.Seq() != 2 || Merge(l, last) != l || l.Rank() <= last.Rank() {
		t.Errorf("number %d after its removal", l.Seq())
	}
}

// Of two lists that do not follow each other comes one that has all entries of both and the
// newer policy, whichever was first, and Lacks counts what is not in one.
func TestUniteOfForks(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	here := must(pass(c.list, revoke(epoch, RevokePeer, Key{1}), c.f))(t)
	here = must(pass(here, Motion{Kind: MovePolicy, At: epoch, Policy: "old"}, c.f))(t)
	there := must(pass(c.list, demote(c.moon, true, epoch), c.mars))(t)
	there = must(pass(there, Motion{Kind: MoveRevoke, At: epoch, Revoke: []Revocation{{Kind: RevokeInvited, Key: Key{2}}, {Kind: RevokeDelegate, Key: Key{3}, Before: epoch}}}, c.mars))(t)
	there = must(pass(there, Motion{Kind: MovePolicy, At: epoch.Add(time.Hour), Policy: "new"}, c.mars))(t)
	if n, m := here.Lacks(there, epoch), there.Lacks(here, epoch); n != 3 || m != 1 {
		t.Errorf("%d and %d are missed, not two entries and a policy, and one entry", n, m)
	}
	for what, p := range map[string][2]*RevocationList{"here": {here, there}, "there": {there, here}} {
		m := must(p[0].Unite(p[1], epoch.Add(2*time.Hour)))(t)
		l := must(pass(p[0], m, c.f))(t)
		if l.Lacks(here, epoch) != 0 || l.Lacks(there, epoch) != 0 || l.Len() != 3 || l.Policy().Text() != "new" {
			t.Errorf("%s: %d entries, policy %q", what, l.Len(), l.Policy().Text())
		}
		if l.Policy().Number() != there.Policy().Number() || !bytes.Equal(l.Charter(), p[0].Charter()) {
			t.Errorf("%s: another policy, or authorities", what)
		}
		if m := must(l.Unite(p[1], epoch.Add(2*time.Hour)))(t); len(m.Revoke) != 0 || len(m.folded) != 0 {
			t.Errorf("%s, once more: %+v", what, m)
		}
	}
	if _, err := here.Unite(unverified(there), epoch); !errors.Is(err, ErrListUnverified) {
		t.Errorf("with one that was not verified: %v", err)
	}
}

// What an overlay that is large and old costs: all that fits is read again.
func TestLargeList(t *testing.T) {
	t.Parallel()
	n := 100_000
	if testing.Short() {
		n = 5000
	}
	c := newCouncil(t, 1)
	l := must(pass(c.list, Motion{Kind: MovePolicy, At: epoch, Policy: strings.Repeat("#", MaxPolicyText)}, c.f))(t)
	many := make([]Revocation, n)
	for i := range many {
		binary.BigEndian.PutUint32(many[i].Key[:], uint32(i))
		many[i].Kind = RevokePeer
		many[i].Until = epoch.Add(time.Duration(i) * RevokedFor / time.Duration(n))
	}
	l = must(pass(l, Motion{Kind: MoveRevoke, At: epoch, Revoke: many}, c.f))(t)
	start := time.Now()
	l = must(pass(l, threshold(2, epoch), c.mars))(t)
	made := time.Since(start)
	b := l.Bytes()
	start = time.Now()
	again := must(OpenRevocationList(b, c.o))(t)
	t.Logf("%d entries and %d changes: %d bytes, made in %v, opened in %v", again.Len(), len(again.Changes()), len(b), made, time.Since(start))
	if len(b) >= MaxRevocationList || again.Len() != n || len(again.Changes()) != 3 || !again.Has(RevokePeer, many[n/2].Key) {
		t.Errorf("%d bytes, %d entries", len(b), again.Len())
	}
}

// A list that is drafted can be read: none is so large that only its readers refuse it.
func TestDraftFits(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	l := must(pass(c.list, Motion{Kind: MovePolicy, At: epoch, Policy: strings.Repeat("#", MaxPolicyText)}, c.f))(t)
	entries := func(n int) (all []Revocation) { // that are never folded
		for i := range n {
			e := Revocation{Kind: RevokeInvited}
			binary.BigEndian.PutUint32(e.Key[:], uint32(i))
			all = append(all, e)
		}
		return all
	}
	fits := 0 // the most that can be drafted
	for step := 1 << 14; step > 0; step /= 2 {
		if _, err := l.Draft(c.o, Motion{Kind: MoveRevoke, At: epoch, Revoke: entries(fits + step)}); err == nil {
			fits += step
		} else if !errors.Is(err, ErrListFull) {
			t.Fatal(err)
		}
	}
	l = must(pass(l, Motion{Kind: MoveRevoke, At: epoch, Revoke: entries(fits)}, c.f))(t)
	for n := range 20 {
		next, err := pass(l, threshold(2-n%2, epoch), c.f, c.mars)
		if errors.Is(err, ErrListFull) && n > 0 {
			return
		}
		l = must(next, err)(t)
	}
	t.Errorf("20 changes of a list of %d entries, %d bytes", fits, len(l.Bytes()))
}

// Ten years of a lively overlay: ten members revoked a month, grants of 2 KiB changed as
// often, an authority promoted and another one removed in each quarter, two of three that
// have to agree. What members carry of it stays small, and who was away all the time
// follows it.
func TestTenYears(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	by := []*Signer{c.f, c.mars, c.moon}
	l, key := c.list, byte(110)
	for month := range 120 {
		at := epoch.Add(time.Duration(month) * 30 * day)
		var out []Revocation
		for i := range 10 {
			out = append(out, Revocation{Kind: RevokePeer, Key: Key{1, byte(month), byte(i)}, Until: at.Add(RevokedFor)})
		}
		l = must(pass(l, Motion{Kind: MoveRevoke, At: at, Revoke: out}, by...))(t)
		l = must(pass(l, Motion{Kind: MovePolicy, At: at, Policy: fmt.Sprintf("# %d\n%s", month, strings.Repeat("# tag:web\n", 200))}, by...))(t)
		if month%3 != 0 {
			continue
		}
		next := signer(t, key)
		key++
		l = must(pass(l, promote(next, "venus", at), by...))(t)
		l = must(pass(l, demote(by[0], false, at), by...))(t)
		by = append(by[1:], next)
	}
	t.Logf("%d changes, %d revocations, %d bytes", len(l.Changes()), l.Len(), len(l.Bytes()))
	if n := len(l.Bytes()); n > 64<<10 {
		t.Errorf("%d bytes after ten years", n)
	}
	again := must(OpenRevocationList(l.Bytes(), c.o))(t)
	if Merge(c.list, again) != again || again.Digest() != l.Digest() || again.IsAuthority(c.o, c.f.Key()) {
		t.Error("who was away does not follow")
	}
}
