package membership

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

const day = 24 * time.Hour

// issued returns a membership that an issuer gives at a time.
func issued(t testing.TB, i *Issuer, n byte, at time.Time) []byte {
	t.Helper()
	return must(i.Issue(idOf(seedKey(n)), MemberOptions{Label: "x"}, at))(t)
}

// delegateOf is a delegate by an authority's word.
func delegateOf(t testing.TB, s *Signer, l *RevocationList, n byte, at time.Time) *Issuer {
	t.Helper()
	b := must(s.Issuer().Delegate(idOf(seedKey(n)), RoleRelay, "", time.Time{}, at))(t)
	return must(NewDelegate(seedKey(n), b, s.overlay, at, l))(t)
}

// What an authority has signed counts before it was removed, and its own past afterwards for
// a time, as that of its delegates does; nothing does if it is void.
func TestWordOfTheRemoved(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	delegate := delegateOf(t, c.mars, c.list, 70, epoch)
	at := epoch.Add(10 * day)
	retired := must(pass(c.list, demote(c.mars, false, at), c.f))(t)
	void := must(pass(c.list, demote(c.mars, true, at), c.f))(t)
	before, after := issued(t, c.mars.Issuer(), 71, at.Add(-day)), issued(t, c.mars.Issuer(), 71, at.Add(day))
	below := func(when time.Time) []byte { return issued(t, delegate, 72, when) }
	late := must(c.mars.Issuer().Delegate(idOf(seedKey(70)), 0, "", time.Time{}, at.Add(day)))(t)
	if _, err := NewDelegate(seedKey(70), late, c.o, at.Add(day), retired); !errors.Is(err, ErrRevoked) {
		t.Errorf("a delegate made after its removal: %v", err)
	}
	token := must(c.mars.Issuer().Invite(InviteOptions{Expires: 60 * day}, epoch))(t)
	entered := must(token.SelfIssue(seedKey(73), "y", at.Add(20*day)))(t)
	for what, p := range map[string]struct {
		chain []byte
		now   time.Time
		rev   *RevocationList
		want  error
	}{
		"while it is one":                     {before, at, c.list, nil},
		"of before, retired":                  {before, at.Add(29*day - backdate), retired, nil},
		"of before, void":                     {before, at.Add(time.Minute), void, ErrRevoked},
		"of after, not heard of":              {after, at.Add(day), c.list, nil},
		"of after, retired":                   {after, at.Add(day), retired, ErrRevoked},
		"of after, void":                      {after, at.Add(day), void, ErrRevoked},
		"of another one, retired":             {issued(t, c.moon.Issuer(), 71, at.Add(day)), at.Add(day), retired, nil},
		"its delegate's":                      {below(epoch), at, c.list, nil},
		"its delegate's, retired":             {below(at.Add(20 * day)), at.Add(20 * day), retired, nil},
		"its delegate's, retired, at the end": {below(at.Add(20 * day)), at.Add(RetiredFor + Tolerance), retired, nil},
		"its delegate's, retired for longer":  {below(at.Add(20 * day)), at.Add(RetiredFor + Tolerance + time.Second), retired, ErrSignature},
		"its delegate's, void":                {below(at.Add(day)), at.Add(day), void, ErrRevoked},
		"its token's":                         {entered, at.Add(20 * day), c.list, nil},
		"its token's, retired":                {entered, at.Add(20 * day), retired, nil},
		"its token's, retired for longer":     {entered, at.Add(RetiredFor + day), retired, ErrSignature},
		"its token's, void":                   {entered, at.Add(20 * day), void, ErrRevoked},
		"with no list":                        {before, at, nil, ErrSignature},
	} {
		m, err := VerifyChain(p.chain, c.o, p.now, p.rev)
		if !errors.Is(err, p.want) || (err == nil) != (m != nil) {
			t.Errorf("%s: %v, want %v", what, err, p.want)
		}
		revoked := errors.Is(p.want, ErrRevoked) || p.rev == void
		if revoked {
			m = must(VerifyChain(p.chain, c.o, p.now, c.list))(t)
		}
		if m != nil && (p.rev.Revokes(m) != revoked || m.Authority == c.f.Key()) {
			t.Errorf("%s: revoked by the list: %v", what, p.rev.Revokes(m))
		}
	}
	// Nobody who rules has ever made them a member: a connection ends by that, too.
	if m := must(VerifyChain(after, c.o, at.Add(day), c.list))(t); !testList(t).Revokes(m) || c.list.Revokes(m) {
		t.Error("a member by the word of nobody who rules")
	}
}

// The same of assurances, when they are opened and when they are asked for again.
func TestAssuranceOfTheRemoved(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	at := epoch.Add(10 * day)
	retired := must(pass(c.list, demote(c.mars, false, at), c.f))(t)
	void := must(pass(c.list, demote(c.mars, true, at), c.f))(t)
	for what, i := range map[string]*Issuer{"its own": c.mars.Issuer(), "its delegate's": delegateOf(t, c.mars, c.list, 70, epoch)} {
		early, late := must(i.Assure(c.list, at.Add(-time.Hour)))(t), must(i.Assure(c.list, at.Add(time.Hour)))(t)
		own := i.IsRoot()
		for when, p := range map[string]struct {
			b     []byte
			l     *RevocationList
			stays bool
		}{
			"before": {early, c.list, true}, "before, retired": {early, retired, true}, "before, void": {early, void, false},
			"after, not heard of": {late, c.list, true}, "after, retired": {late, retired, !own}, "after, void": {late, void, false},
		} {
			if _, err := OpenAssurance(p.b, c.o, at.Add(time.Hour), p.l); (err == nil) != p.stays || err != nil && !errors.Is(err, ErrRevoked) && (p.l != void || !errors.Is(err, ErrSignature)) {
				t.Errorf("%s, of %s: %v", what, when, err)
			}
			if a := must(OpenAssurance(p.b, c.o, at.Add(time.Hour), c.list))(t); a.Stands(p.l) != p.stays || a.Number != c.list.Rank() {
				t.Errorf("%s, of %s, opened before: stands: %v, number %d", what, when, !p.stays, a.Number)
			}
		}
		if _, err := OpenAssurance(early, c.o, at, nil); !errors.Is(err, ErrSignature) {
			t.Errorf("%s, with no list: %v", what, err)
		}
		if _, err := OpenAssurance(early, c.o, at.Add(RetiredFor+time.Hour), retired); !errors.Is(err, ErrSignature) {
			t.Errorf("%s, long after: %v", what, err)
		}
	}
}

// Every authority says who has used an invitation, and its delegates, while they are ones.
func TestUseByAuthorities(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	retired := must(pass(c.list, demote(c.mars, false, epoch.Add(time.Hour)), c.f))(t)
	void := must(pass(c.list, demote(c.mars, true, epoch.Add(time.Hour)), c.f))(t)
	peer, inv := idOf(seedKey(71)), KeyOf(idOf(seedKey(72)))
	own := must(c.mars.Issuer().Attest(peer, inv, epoch))(t)
	below := must(delegateOf(t, c.mars, c.list, 70, epoch).Attest(peer, inv, epoch))(t)
	stranger := must(signer(t, 62).Issuer().Attest(peer, inv, epoch))(t)
	for what, p := range map[string]struct {
		b    []byte
		now  time.Time
		rev  *RevocationList
		want error
	}{
		"its own": {own, epoch, c.list, nil}, "its own, with no list": {own, epoch, nil, ErrSignature}, "a stranger's": {stranger, epoch, c.list, ErrSignature},
		"its own, retired": {own, epoch.Add(day), retired, ErrRevoked}, "its own, void": {own, epoch.Add(day), void, ErrRevoked},
		"its delegate's": {below, epoch, c.list, nil}, "its delegate's, retired": {below, epoch.Add(day), retired, nil}, "its delegate's, void": {below, epoch.Add(day), void, ErrRevoked},
		"its delegate's, retired for long": {below, epoch.Add(RetiredFor + day), retired, ErrRevoked},
		"its own, by who has its token":    {own, epoch, Trusting(c.o, c.mars.Key()), nil},
	} {
		if m, err := VerifyUse(p.b, c.o, p.now, p.rev); !errors.Is(err, p.want) || err == nil && (m.Peer != peer || m.Invitation != inv) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What others show of a charter makes a new authority's chains good before the list has
// come; a charter that is not what is known and more is not taken, and the list stays.
func TestTold(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	venus := signer(t, 62)
	more := must(pass(c.list, promote(venus, "venus", epoch), c.mars))(t)
	fork := must(pass(must(pass(c.list, promote(signer(t, 63), "x", epoch), c.moon))(t), promote(signer(t, 64), "y", epoch), c.moon))(t)
	chain := issued(t, venus.Issuer(), 71, epoch)
	if _, err := VerifyChain(chain, c.o, epoch, c.list); !errors.Is(err, ErrSignature) {
		t.Fatalf("of who is none yet: %v", err)
	}
	for _, l := range []*RevocationList{nil, Trusting(c.o, c.mars.Key()), testList(t), c.list} {
		told := must(l.Told(c.o, more.Charter()))(t)
		if m, err := VerifyChain(chain, c.o, epoch, told); err != nil || m.Authority != venus.Key() {
			t.Errorf("told with list %d: %v", l.Seq(), err)
		}
		if !bytes.Equal(told.Bytes(), l.Bytes()) || !bytes.Equal(told.Charter(), more.Charter()) || told.Seq() != l.Seq() || told.Rank() != l.Rank() || !told.IsAuthority(c.o, venus.Key()) || len(told.Changes()) != 3 {
			t.Errorf("told with list %d it is another", l.Seq())
		}
		if u := told.Untold(); !bytes.Equal(u.Bytes(), l.Bytes()) || u.IsAuthority(c.o, venus.Key()) || (u == nil) != (l.Seq() == 0) {
			t.Errorf("untold, list %d is another", l.Seq())
		}
		// A list that comes then keeps what was told, as far as that goes on from it.
		if next := must(c.root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: Key{1}}))(t).After(told); !next.IsAuthority(c.o, venus.Key()) {
			t.Error("the next list forgets what was told")
		}
		if fork.After(told).IsAuthority(c.o, venus.Key()) || !more.After(told).IsAuthority(c.o, venus.Key()) {
			t.Error("a list that forks is told of the other")
		}
		for what, b := range map[string][]byte{"nothing": nil, "a part": more.Charter()[:200], "a part that ends well": testList(t).Charter(), "one cut": more.Charter()[:len(more.Charter())-1], "bytes": make([]byte, 2000)} {
			if got, _ := l.Told(c.o, b); got != l {
				t.Errorf("%s is taken with list %d", what, l.Seq())
			}
		}
	}
	for what, b := range map[string][]byte{"a fork": fork.Charter(), "fewer changes": c.list.Charter(), "the same": more.Charter()} {
		if got, err := more.Told(c.o, b); got != more || err != nil {
			t.Errorf("%s is taken: %v", what, err)
		}
	}
	b := more.Charter()
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if got, err := c.list.Told(c.o, bad); got != c.list || err == nil {
			t.Fatalf("with byte %d changed it is taken: %v", i, err)
		}
	}
	// Who was told of it and who has it agree on who is removed.
	told := must(more.Told(c.o, must(pass(more, demote(venus, true, epoch), c.f))(t).Charter()))(t)
	if _, err := VerifyChain(chain, c.o, epoch, told); !errors.Is(err, ErrRevoked) || !told.WasAuthority(venus.Key()) {
		t.Errorf("told of its removal: %v", err)
	}
}

// A token by an authority that is not the founder says so: who enters by it, or by one of its
// delegate's, takes its word until it knows more, and everybody that knows the authority
// takes the member.
func TestTokenOfAnAuthority(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	delegate := delegateOf(t, c.mars, c.list, 70, epoch)
	for what, i := range map[string]*Issuer{"its own": c.mars.Issuer(), "its delegate's": delegate} {
		if i.Authority() != c.mars.Key() {
			t.Errorf("%s is %v's", what, i.Authority())
		}
		made := must(i.Invite(InviteOptions{Label: "venus"}, epoch))(t)
		token := must(ParseToken(made.String()))(t)
		if token.Maker() != c.mars.Key() || token.Overlay() != c.o || token.Delegate().IsZero() != (what == "its own") {
			t.Errorf("%s: of %v", what, token.Maker())
		}
		chain := must(token.SelfIssue(seedKey(71), "", epoch))(t)
		trusting := Trusting(c.o, token.Maker())
		if trusting.Trusted() != c.mars.Key() || trusting.Seq() != 0 || trusting.Bytes() != nil || trusting.Untold() != nil || trusting.IsAuthority(c.o, c.mars.Key()) {
			t.Error("a list that trusts says more")
		}
		for _, p := range []struct {
			knows string
			rev   *RevocationList
			want  error
		}{
			{"the authorities", c.list, nil}, {"the token", trusting, nil}, {"nothing", nil, ErrSignature}, {"an older list", testList(t), ErrSignature},
			{"another's token", Trusting(c.o, c.moon.Key()), ErrSignature}, {"what came since", Merge(trusting, testList(t)), ErrSignature}, {"what came, too", Merge(c.list, trusting), nil},
			{"its removal", must(trusting.Told(c.o, must(pass(c.list, demote(c.mars, true, epoch), c.f))(t).Charter()))(t), ErrRevoked},
		} {
			if m, err := VerifyChain(chain, c.o, epoch, p.rev); !errors.Is(err, p.want) || err == nil && m.Authority != c.mars.Key() {
				t.Errorf("%s, by who knows %s: %v", what, p.knows, err)
			}
		}
		body := must(made.append(nil))(t)
		for i := range body[:len(body)-2] { // the rest are addresses: none
			bad := bytes.Clone(body)
			bad[i] ^= 1
			if _, err := parseToken(bad); err == nil {
				t.Fatalf("%s: byte %d may be another", what, i)
			}
		}
	}
	if Trusting(c.o, Key{}) != nil || Trusting(c.o, c.o.Root) != nil || c.list.Trusted() != (Key{}) {
		t.Error("trust where none is needed")
	}
	// Nobody is trusted besides the founder by the founder's token, and no founder is named.
	for what, maker := range map[string]Key{"another": c.mars.Key(), "the founder": c.o.Root, "no key": {1}} {
		forged := testToken(t)
		forged.maker = maker
		if tok, err := parseToken(must(forged.append(nil))(t)); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("the founder's token says that it is by %s: %v, %v", what, tok, err)
		}
	}
}

// Who was removed shows a change of its own to somebody that has not heard of its removal:
// what the others show afterwards counts all the same, whichever of the two it would have to
// settle on.
func TestToldForks(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	for seed := range byte(8) { // so that the lower hash is now the one and now the other
		forked := must(pass(c.list, promote(signer(t, 80+seed), "mine", epoch), c.mars))(t)
		removed := must(pass(c.list, demote(c.mars, false, epoch), c.f))(t)
		after := must(pass(removed, promote(signer(t, 90+seed), "venus", epoch), c.f))(t)
		l := must(c.list.Told(c.o, forked.Charter()))(t)
		if !l.IsAuthority(c.o, signer(t, 80+seed).Key()) {
			t.Fatal("it is not told")
		}
		for _, shown := range []*RevocationList{removed, after} {
			if l = must(l.Told(c.o, shown.Charter()))(t); l.IsAuthority(c.o, signer(t, 80+seed).Key()) || !l.WasAuthority(c.mars.Key()) {
				t.Fatal("what was shown first keeps the others from being heard")
			}
		}
		if again := must(l.Told(c.o, removed.Charter()))(t); again != l {
			t.Error("what was shown is forgotten for less of the same")
		}
		if l.Digest() != c.list.Digest() || l.Untold().IsAuthority(c.o, signer(t, 90+seed).Key()) {
			t.Error("the list itself is another one")
		}
	}
}
