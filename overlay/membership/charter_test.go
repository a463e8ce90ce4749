package membership

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// signer is an authority, or who would like to be one, of the tests' overlay.
func signer(t testing.TB, n byte) *Signer {
	t.Helper()
	return must(NewSigner(testRoot(t).Overlay(), seedKey(n)))(t)
}

// pass makes the list that a motion makes after l, signed by some.
func pass(l *RevocationList, m Motion, by ...*Signer) (*RevocationList, error) {
	d, err := l.Draft(by[0].overlay, m)
	if err != nil {
		return nil, err
	}
	var sigs []Signature
	for _, s := range by {
		sig, err := d.Sign(s)
		if err != nil {
			return nil, err
		}
		sigs = append(sigs, sig)
	}
	return d.List(sigs)
}

func promote(s *Signer, name string, at time.Time) Motion {
	return Motion{Kind: MoveChange, At: at, Change: Change{Kind: ChangePromote, Authority: Authority{Key: s.Key(), Name: name}}}
}

func demote(s *Signer, void bool, at time.Time) Motion {
	return Motion{Kind: MoveChange, At: at, Change: Change{Kind: ChangeDemote, Void: void, Authority: Authority{Key: s.Key()}}}
}

func threshold(n int, at time.Time) Motion {
	return Motion{Kind: MoveChange, At: at, Change: Change{Kind: ChangeThreshold, Threshold: n}}
}

func revoke(at time.Time, kind RevocationKind, k Key) Motion {
	return Motion{Kind: MoveRevoke, At: at, Revoke: []Revocation{{Kind: kind, Key: k}}}
}

// council is an overlay of three, of whom so many have to agree.
type council struct {
	root          *Root
	o             Overlay
	f, mars, moon *Signer
	list          *RevocationList
}

func newCouncil(t testing.TB, agree int) *council {
	t.Helper()
	c := &council{root: testRoot(t), mars: signer(t, 60), moon: signer(t, 61)}
	c.o, c.f = c.root.Overlay(), c.root.Signer()
	c.list = must(pass(nil, promote(c.mars, "mars", epoch), c.f))(t)
	c.list = must(pass(c.list, promote(c.moon, "moon", epoch), c.f))(t)
	if agree > 1 {
		c.list = must(pass(c.list, threshold(agree, epoch), c.f))(t)
	}
	return c
}

// forged returns a list's bytes with signatures at the places of authorities, whoever made them.
func forged(t testing.TB, l *RevocationList, by map[byte]*Signer) []byte {
	t.Helper()
	l.body = l.appendBody(nil)
	b := append(bytes.Clone(l.body), byte(len(by)))
	for place := range byte(MaxAuthorities) {
		if s := by[place]; s != nil {
			b = append(append(b, place), must(canon.Sign(s.key, l.charter.overlay.domain(revocationStatement), l.body))(t)...)
		}
	}
	return b
}

// forgedChange returns a list with one change more, signed by whoever likes to.
func forgedChange(t testing.TB, l *RevocationList, o Overlay, c Change, by map[byte]*Signer) []byte {
	t.Helper()
	rules := l.signed(o)
	next := &RevocationList{charter: rules, seq: l.Seq() + 1, issued: c.At}
	payload := appendChange(nil, c, [32]byte(next.hashOf()))
	b := append(canon.AppendLong(nil, payload), byte(len(by)))
	for place := range byte(MaxAuthorities) {
		if s := by[place]; s != nil {
			b = append(append(b, place), must(canon.Sign(s.key, o.domain(charterStatement), rules.message(payload)))(t)...)
		}
	}
	after := *rules
	after.encoded = append(slices.Clip(rules.encoded), b)
	next.charter = &after
	return append(next.appendBody(nil), 0)
}

// hashOf is hash of a list that was not read.
func (l *RevocationList) hashOf() []byte {
	return (&RevocationList{seq: 1, body: l.appendContent(nil)}).hash()
}

// Each change takes as many signatures as had to agree before it, and not as after it.
func TestChangesTakeTheThresholdBefore(t *testing.T) {
	t.Parallel()
	o, f, mars, moon := testRoot(t).Overlay(), testRoot(t).Signer(), signer(t, 60), signer(t, 61)
	var l *RevocationList
	for i, c := range []struct {
		m      Motion
		few    []*Signer // do not suffice
		enough []*Signer
		want   string // who rules then
	}{
		{promote(mars, "mars", epoch), []*Signer{mars}, []*Signer{f}, "founder mars 1"},
		{promote(moon, "moon", epoch), []*Signer{moon}, []*Signer{mars}, "founder mars moon 1"},
		{threshold(2, epoch), []*Signer{signer(t, 62)}, []*Signer{moon}, "founder mars moon 2"},
		{threshold(3, epoch), []*Signer{f, f}, []*Signer{f, moon}, "founder mars moon 3"},
		{threshold(2, epoch), []*Signer{f, moon}, []*Signer{f, moon, mars}, "founder mars moon 2"},
		{demote(f, false, epoch), []*Signer{f, signer(t, 62)}, []*Signer{mars, moon}, "mars moon 2"},
		{threshold(1, epoch), []*Signer{mars, f}, []*Signer{mars, moon}, "mars moon 1"},
		{demote(moon, true, epoch), []*Signer{f}, []*Signer{moon}, "mars 1"},
	} {
		if _, err := pass(l, c.m, c.few...); !errors.Is(err, ErrSignatures) {
			t.Errorf("change %d by too few: %v", i+1, err)
		}
		l = must(pass(l, c.m, c.enough...))(t)
		l = must(OpenRevocationList(l.Bytes(), o))(t)
		all, n := l.Authorities(o)
		var names []string
		for _, a := range all {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " ") + " " + string(rune('0'+n)); got != c.want {
			t.Fatalf("after change %d: %s, not %s", i+1, got, c.want)
		}
		changes := l.Changes()
		if len(changes) != i+1 || len(changes[i].Signers) != len(c.enough) || len(l.Signers()) != len(c.enough) || !changes[i].At.Equal(epoch) {
			t.Errorf("change %d: %+v, the list signed by %d", i+1, changes[i], len(l.Signers()))
		}
	}
	if l.IsAuthority(o, f.Key()) || !l.WasAuthority(f.Key()) || !l.IsAuthority(o, mars.Key()) || l.WasAuthority(mars.Key()) || l.Changes()[7].Void == l.Changes()[5].Void {
		t.Error("who is one and who was")
	}
}

// Of two that have to agree one alone can say nothing, however it writes it down.
func TestOneOfTwo(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	for what, m := range map[string]Motion{
		"a revocation": revoke(epoch, RevokePeer, Key{1}), "a policy": {Kind: MovePolicy, At: epoch, Policy: "allow all"}, "unattended": {Kind: MoveUnattended, At: epoch, Unattended: MinUnattended},
		"a promotion": promote(signer(t, 62), "venus", epoch), "a removal": demote(c.moon, true, epoch), "a threshold": threshold(1, epoch),
	} {
		if _, err := pass(c.list, m, c.mars, c.mars, signer(t, 62)); !errors.Is(err, ErrSignatures) {
			t.Errorf("%s: %v", what, err)
		}
		if l := must(pass(c.list, m, c.mars, c.f))(t); Merge(l, c.list) != l {
			t.Errorf("%s by two does not count", what)
		}
	}
	next := &RevocationList{charter: c.list.charter, seq: 100, issued: epoch}
	stranger := signer(t, 62)
	twice := forged(t, next, map[byte]*Signer{1: c.mars})
	twice = append(twice, twice[len(twice)-65:]...)
	twice[len(next.body)]++
	cut := c.list.charter.overlay
	for what, b := range map[string][]byte{
		"one":                           forged(t, next, map[byte]*Signer{1: c.mars}),
		"none":                          forged(t, next, nil),
		"one and a stranger":            forged(t, next, map[byte]*Signer{1: c.mars, 2: stranger}),
		"one and a place that is none":  forged(t, next, map[byte]*Signer{1: c.mars, 3: stranger}),
		"one at two places":             forged(t, next, map[byte]*Signer{1: c.mars, 2: c.mars}),
		"one twice":                     twice,
		"a change by one":               forgedChange(t, c.list, cut, threshold(1, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars}),
		"a change by one and stranger":  forgedChange(t, c.list, cut, threshold(1, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: stranger}),
		"a change by nobody":            forgedChange(t, c.list, cut, threshold(1, epoch).Change.on(epoch), nil),
		"a change before the last":      forgedChange(t, c.list, cut, threshold(1, epoch).Change.on(epoch.Add(-time.Second)), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a change to less than one":     forgedChange(t, c.list, cut, threshold(0, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a change to more than there":   forgedChange(t, c.list, cut, threshold(4, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a change of no kind":           forgedChange(t, c.list, cut, Change{Kind: 4, At: epoch}, map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a change without a name":       forgedChange(t, c.list, cut, promote(stranger, "", epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a removal of who is none":      forgedChange(t, c.list, cut, demote(stranger, true, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a promotion of a key of none":  forgedChange(t, c.list, cut, promote(&Signer{public: Key{1}}, "venus", epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}),
		"a change's list, signed again": append(c.list.Bytes()[:len(c.list.Bytes())-1], forged(t, c.list, map[byte]*Signer{0: c.f})[len(c.list.body):]...),
	} {
		if l, err := OpenRevocationList(b, c.o); err == nil {
			t.Errorf("%s: list %d with %d changes", what, l.Seq(), len(l.Changes()))
		}
	}
	good := forged(t, next, map[byte]*Signer{1: c.mars, 2: c.moon})
	if l, err := OpenRevocationList(good, c.o); err != nil || len(l.Signers()) != 2 {
		t.Errorf("two: %v", err)
	}
	if _, err := OpenRevocationList(forgedChange(t, c.list, cut, threshold(1, epoch).Change.on(epoch), map[byte]*Signer{1: c.mars, 2: c.moon}), c.o); err != nil {
		t.Errorf("a change by two: %v", err)
	}
	// What was agreed on for one list is not for another: signatures cannot be moved.
	other := must(pass(c.list, revoke(epoch, RevokePeer, Key{7}), c.mars, c.moon))(t)
	moved := append(bytes.Clone(good[:len(next.body)]), other.sigs...)
	if _, err := OpenRevocationList(moved, c.o); !errors.Is(err, ErrSignature) {
		t.Errorf("another list's signatures: %v", err)
	}
	// Nor the content of one change with another's signatures.
	b := bytes.Clone(c.list.Bytes())
	b = append(b[:c.list.content], next.appendContent(nil)...)
	if _, err := OpenRevocationList(append(b, 0), c.o); !errors.Is(err, ErrSignatures) {
		t.Errorf("another content under the last change: %v", err)
	}
}

// on is a change as it is made at a time.
func (c Change) on(at time.Time) Change { c.At = at; return c }

// Two changes after one state: all settle on the same, in whatever order they hear of them,
// and nothing that is said later below the other brings that back.
func TestForks(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	venus := signer(t, 62)
	a := must(pass(c.list, demote(c.moon, true, epoch), c.mars))(t)
	b := must(pass(c.list, demote(c.mars, true, epoch), c.moon))(t)
	winner, loser := a, b
	if bytes.Compare(b.charter.hashes[3][:], a.charter.hashes[3][:]) < 0 {
		winner, loser = b, a
	}
	last := map[*RevocationList]*Signer{a: c.mars, b: c.moon}[loser]
	later := must(pass(loser, promote(venus, "venus", epoch), last))(t)
	later = must(pass(later, revoke(epoch, RevokePeer, Key{1}), venus))(t)
	huge := must(OpenRevocationList(forged(t, &RevocationList{charter: later.charter, seq: maxSeq, issued: epoch}, map[byte]*Signer{1: last}), c.o))(t)
	many := must(pass(c.list, demote(map[*RevocationList]*Signer{a: c.moon, b: c.mars}[loser], true, epoch.Add(time.Hour)), c.f, last))(t)
	below := must(pass(winner, revoke(epoch, RevokePeer, Key{2}), c.f))(t)
	for what, p := range map[string]struct {
		win, lose *RevocationList
		forks     bool
	}{
		"the lower hash": {winner, loser, true}, "whatever came later": {winner, later, true}, "a huge number": {winner, huge, true}, "and later here": {below, huge, true},
		"more signatures": {many, winner, true}, "than any later one": {many, below, true}, "and the other one": {many, huge, true},
		"a change more": {winner, c.list, false}, "a number more": {below, winner, false},
	} {
		if Merge(p.win, p.lose) != p.win || Merge(p.lose, p.win) != p.win {
			t.Errorf("%s does not count", what)
		}
		if Forks(p.win, p.lose) != p.forks || Forks(p.lose, p.win) != p.forks {
			t.Errorf("%s: forks: %v", what, !p.forks)
		}
		if at, ok := ForkAt(p.win, p.lose); ok != p.forks || ok && at != 2 {
			t.Errorf("%s: forks %v after %d", what, ok, at)
		}
	}
	// Under one charter two lists of one number fork as well.
	x, y := must(pass(c.list, revoke(epoch, RevokePeer, Key{3}), c.f))(t), must(pass(c.list, revoke(epoch, RevokePeer, Key{4}), c.mars))(t)
	same := must(pass(c.list, revoke(epoch, RevokePeer, Key{3}), c.mars, c.moon))(t)
	if !Forks(x, y) || Forks(x, same) || Forks(x, x) || Forks(nil, x) || Forks(x, nil) {
		t.Error("which lists of one number fork")
	}
	if Merge(x, same) != same || Merge(same, x) != same || Merge(x, y) != Merge(y, x) {
		t.Error("which of one number counts")
	}
	if _, ok := ForkAt(x, y); ok {
		t.Error("their authorities do not")
	}
}

// Whose charter has fewer changes loses, whatever its number: who was removed can use the
// list in which it was not.
func TestFewerChangesLose(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	gone := must(pass(c.list, demote(c.mars, false, epoch), c.f))(t)
	huge := must(OpenRevocationList(forged(t, &RevocationList{charter: c.list.charter, seq: maxSeq, issued: epoch.Add(time.Hour)}, map[byte]*Signer{1: c.mars}), c.o))(t)
	if Merge(gone, huge) != gone || Merge(huge, gone) != gone || Forks(gone, huge) || gone.Rank() <= huge.Rank() {
		t.Error("the list of who was removed counts")
	}
	founders := must(OpenRevocationList(forged(t, &RevocationList{charter: founded(c.o), seq: maxSeq, issued: epoch}, map[byte]*Signer{0: c.f}), c.o))(t)
	if Merge(gone, founders) != gone || Merge(founders, gone) != gone {
		t.Error("a list without changes counts")
	}
	// Below the charter in which it was removed it signs nothing.
	for place := range byte(3) {
		b := forged(t, &RevocationList{charter: gone.charter, seq: 99, issued: epoch}, map[byte]*Signer{place: c.mars})
		if _, err := OpenRevocationList(b, c.o); err == nil {
			t.Errorf("it signs as authority %d", place)
		}
		b = forgedChange(t, gone, c.o, demote(c.moon, true, epoch).Change.on(epoch), map[byte]*Signer{place: c.mars})
		if _, err := OpenRevocationList(b, c.o); err == nil {
			t.Errorf("it makes a change as authority %d", place)
		}
	}
}

// The bounds: how many, how often, and what cannot be changed.
func TestCharterBounds(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	line := Change{Kind: ChangePromote, Authority: Authority{Key: signer(t, 63).Key(), Name: recoveryName, Recovery: true}}
	paper := must(pass(c.list, Motion{Kind: MoveChange, At: epoch, Change: line}, c.f))(t)
	paper = must(pass(must(pass(paper, demote(c.mars, false, epoch), c.f))(t), demote(c.moon, true, epoch), c.f))(t)
	two := newCouncil(t, 3).list
	gone := must(pass(c.list, demote(c.mars, false, epoch), c.f))(t)
	for what, p := range map[string]struct {
		l    *RevocationList
		m    Motion
		want error
	}{
		"below the threshold":         {two, demote(c.mars, true, epoch), ErrAuthority},
		"the last but on paper":       {paper, demote(c.f, false, epoch), ErrAuthority},
		"the last":                    {nil, demote(c.f, false, epoch), ErrAuthority},
		"one that was removed":        {gone, promote(c.mars, "mars", epoch), ErrAuthority},
		"one that was removed, void":  {paper, promote(c.moon, "other", epoch), ErrAuthority},
		"one that never was, removed": {c.list, demote(signer(t, 62), true, epoch), ErrAuthority},
		"a threshold of 0":            {c.list, threshold(0, epoch), ErrAuthority},
		"a threshold of more":         {c.list, threshold(4, epoch), ErrAuthority},
		"a threshold below 0":         {c.list, threshold(-1, epoch), ErrAuthority},
		"a name of none":              {c.list, promote(signer(t, 62), "", epoch), ErrAuthority},
		"a name that is too long":     {c.list, promote(signer(t, 62), strings.Repeat("a", 300), epoch), ErrAuthority},
		"a key of small order":        {c.list, promote(&Signer{public: Key{1}}, "venus", epoch), ErrKey},
	} {
		if _, err := p.l.Draft(c.o, p.m); !errors.Is(err, p.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	full := c.list
	for i := 3; i < MaxAuthorities; i++ {
		full = must(pass(full, promote(signer(t, byte(100+i)), "venus", epoch), c.f))(t)
	}
	if _, err := full.Draft(c.o, promote(signer(t, 99), "venus", epoch)); !errors.Is(err, ErrAuthority) {
		t.Errorf("one more than can be: %v", err)
	}
	if all, _ := full.Authorities(c.o); len(all) != MaxAuthorities {
		t.Errorf("%d authorities", len(all))
	}
}

// Changes end at their bounds, with an error and with a list that is still read, and what is
// no change goes on.
func TestChangesAreFull(t *testing.T) {
	t.Parallel()
	few, all := newCouncil(t, 1), newCouncil(t, 1)
	by := []*Signer{all.f, all.mars, all.moon}
	for i := 3; i < MaxAuthorities; i++ {
		s := signer(t, byte(100+i))
		all.list, by = must(pass(all.list, promote(s, "venus", epoch), by...))(t), append(by, s)
	}
	all.list = must(pass(all.list, threshold(MaxAuthorities-1, epoch), by...))(t)
	for what, c := range map[string]struct {
		l    *RevocationList
		by   []*Signer
		want int // changes; 0: as many as have room
	}{"many": {few.list, []*Signer{few.f}, MaxChanges}, "large ones": {all.list, by, 0}} {
		l, err := c.l, error(nil)
		_, least := l.Authorities(few.o)
		for n := 1; err == nil; n = 1 - n {
			var next *RevocationList
			signers := c.by
			if c.want != 0 {
				signers = slices.Concat(c.by, []*Signer{few.mars})
			}
			if next, err = pass(l, threshold(least+n, epoch), signers...); err == nil {
				l = next
			}
		}
		size := len(l.Charter())
		t.Logf("%s: %d changes, %d bytes", what, len(l.Changes()), size)
		if !errors.Is(err, ErrListFull) || c.want != 0 && len(l.Changes()) != c.want || size > MaxCharter || c.want == 0 && size < MaxCharter*9/10 {
			t.Errorf("%s: %d changes, %d bytes, %v", what, len(l.Changes()), size, err)
		}
		if l, err = pass(l, revoke(epoch, RevokePeer, Key{1}), by...); err != nil || !l.Has(RevokePeer, Key{1}) {
			t.Errorf("%s: a revocation after all changes: %v", what, err)
		}
	}
	if _, err := openCharter(make([]byte, MaxCharter+1), few.o); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a charter of more bytes: %v", err)
	}
}

// goldenList is a list with all that can be in one.
func goldenList(t testing.TB) *RevocationList {
	c := newCouncil(t, 2)
	l := must(pass(c.list, demote(c.f, true, epoch.Add(time.Hour)), c.mars, c.moon))(t)
	l = must(pass(l, Motion{Kind: MovePolicy, At: epoch.Add(2 * time.Hour), Policy: "allow venus to open tcp 80 at mars\n"}, c.mars, c.moon))(t)
	l = must(pass(l, Motion{Kind: MoveUnattended, At: epoch.Add(2 * time.Hour), Unattended: 48 * time.Hour}, c.mars, c.moon))(t)
	return must(pass(l, Motion{Kind: MoveRevoke, At: epoch.Add(3 * time.Hour), Revoke: []Revocation{
		{Kind: RevokePeer, Key: KeyOf(idOf(seedKey(9)))}, {Kind: RevokeDelegate, Key: KeyOf(idOf(seedKey(8))), Until: epoch.Add(RevokedFor * 2), Before: epoch},
	}}, c.mars, c.moon))(t)
}

// golden returns what stands in a file of testdata, made of got if UPDATE_VECTORS is set.
func golden(t testing.TB, name string, got []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", "charter", name)
	if os.Getenv("UPDATE_VECTORS") != "" {
		if err := os.WriteFile(file, []byte(hexOf(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.TrimSpace(string(must(os.ReadFile(file))(t)))
	if text != hexOf(got) {
		t.Errorf("%s is written otherwise:\n%x", name, got)
	}
	return unhex(t, text)
}

// The list as it was written once says the same for ever.
func TestGoldenList(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	l := must(OpenRevocationList(golden(t, "list3.hex", goldenList(t).Bytes()), c.o))(t)
	all, n := l.Authorities(c.o)
	if !slices.Equal(all, []Authority{{Key: c.mars.Key(), Name: "mars"}, {Key: c.moon.Key(), Name: "moon"}}) || n != 2 {
		t.Errorf("%d of %+v", n, all)
	}
	ch := l.Changes()
	if len(ch) != 4 || ch[0].Kind != ChangePromote || ch[0].Authority != all[0] || !slices.Equal(ch[0].Signers, []Key{c.f.Key()}) ||
		ch[2].Kind != ChangeThreshold || ch[2].Threshold != 2 || ch[3].Kind != ChangeDemote || ch[3].Authority.Key != c.f.Key() || !ch[3].Void || !ch[3].At.Equal(epoch.Add(time.Hour)) {
		t.Errorf("%+v", ch)
	}
	if l.Seq() != 7 || !l.Issued().Equal(epoch.Add(3*time.Hour)) || l.Unattended() != 48*time.Hour || l.Policy().Text() != "allow venus to open tcp 80 at mars\n" ||
		!l.Policy().At().Equal(epoch.Add(2*time.Hour)) || !slices.Equal(l.Signers(), []Key{c.mars.Key(), c.moon.Key()}) || l.Rank() != 4<<40|7 {
		t.Errorf("%+v", l)
	}
	want := []Revocation{{Kind: RevokePeer, Key: KeyOf(idOf(seedKey(9)))}, {Kind: RevokeDelegate, Key: KeyOf(idOf(seedKey(8))), Until: epoch.Add(RevokedFor * 2), Before: epoch}}
	if !slices.Equal(l.Entries(), want) {
		t.Errorf("%+v", l.Entries())
	}
}

// Every byte of a list counts, and all of them are needed.
func TestListFlips(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	for what, b := range map[string][]byte{"with signatures": goldenList(t).Bytes(), "of a change": c.list.Bytes()} {
		for i := range b {
			for _, mask := range []byte{1, 0x80, 0xff} {
				bad := bytes.Clone(b)
				bad[i] ^= mask
				if l, err := OpenRevocationList(bad, c.o); err == nil || l != nil {
					t.Fatalf("a list %s with byte %d of %d changed: %+v", what, i, len(b), l)
				}
			}
			if _, err := OpenRevocationList(b[:i], c.o); err == nil {
				t.Fatalf("a list %s cut to %d of %d", what, i, len(b))
			}
		}
		if _, err := OpenRevocationList(append(bytes.Clone(b), 0), c.o); err == nil {
			t.Errorf("a list %s with a byte more", what)
		}
		if _, err := OpenRevocationList(b, c.o); err != nil {
			t.Errorf("a list %s: %v", what, err)
		}
	}
}

// FuzzList reads whole lists, and changes behind their signatures.
func FuzzList(f *testing.F) {
	c := newCouncil(f, 2)
	for _, l := range []*RevocationList{testList(f), c.list, goldenList(f)} {
		f.Add(l.Bytes())
	}
	for _, ch := range goldenList(f).Changes() {
		f.Add(appendChange(nil, ch, [32]byte{1, 2, 3}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := OpenRevocationList(b, c.o); err == nil && !bytes.Equal(l.Bytes(), b) {
			t.Fatalf("two forms of one list: %x, %x", b, l.Bytes())
		}
		if ch, content, err := readChange(b); err == nil && !bytes.Equal(appendChange(nil, ch, content), b) {
			t.Fatalf("two forms of one change: %x, %+v", b, ch)
		}
		if l, err := c.list.Told(c.o, b); l == nil {
			t.Fatalf("nothing is known any more: %v", err)
		}
	})
}
