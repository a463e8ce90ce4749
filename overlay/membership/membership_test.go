package membership

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// The fixed world of the tests: keys from seeds, one instant.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func idOf(key ed25519.PrivateKey) peerid.ID {
	return peerid.ID(key.Public().(ed25519.PublicKey))
}

func testRoot(t testing.TB) *Root {
	t.Helper()
	r, err := newRoot("example.com", bytes.Repeat([]byte{1}, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// follow returns a list after another that takes nothing back.
func follow(t testing.TB, root *Root, l *RevocationList, at time.Time) *RevocationList {
	t.Helper()
	m := Motion{Kind: MoveUnattended, At: at, Unattended: 100 * 24 * time.Hour}
	if l.Unattended() == m.Unattended {
		m.Unattended *= 2
	}
	return must(root.Signer().alone(l, m))(t)
}

// unite returns the list of what stands in either; a if that is all.
func unite(root *Root, a, b *RevocationList, at time.Time) (*RevocationList, error) {
	m, err := a.Unite(b, at)
	if err != nil {
		return nil, err
	}
	l, err := root.Signer().alone(a, m)
	if errors.Is(err, ErrNothing) {
		return a, nil
	}
	return l, err
}

// signList returns a list, however wrong, as the founder would sign it.
func signList(t testing.TB, root *Root, l *RevocationList) []byte {
	t.Helper()
	body := l.appendBody(nil)
	sig := must(canon.Sign(root.key, root.overlay.domain(revocationStatement), body))(t)
	return append(append(append(body, 1), 0), sig...)
}

// unverified is a list as it would be if its signatures were not asked for.
func unverified(l *RevocationList) *RevocationList {
	u := *l
	u.verified = false
	return &u
}

func TestJoin(t *testing.T) {
	root := testRoot(t)
	token := must(root.Issuer().Invite(InviteOptions{Label: "mars", Roles: RoleRelay}, epoch))(t)
	token = must(ParseToken("  " + token.String() + "\n"))(t)
	mars := seedKey(9)
	chain := must(token.SelfIssue(mars, "", epoch))(t)
	m := must(VerifyChain(chain, root.Overlay(), epoch, nil))(t)
	if m.Peer != idOf(mars) || m.Label != "mars" || m.Wildcard || m.Confirmed || m.Roles != RoleRelay {
		t.Errorf("provisional member: %+v", m)
	}
	chain = must(Confirm(root.Issuer(), chain, "mars", 7, epoch, nil))(t)
	m = must(VerifyChain(chain, root.Overlay(), epoch, nil))(t)
	if !m.Confirmed || m.Serial != 7 || m.Invitation != token.Invitation().Subject {
		t.Errorf("confirmed member: %+v", m)
	}
}

// forge signs a chain of certificates, each by the key given with it, however
// wrong: what an attacker with these keys could make.
type signed struct {
	cert *Certificate
	by   ed25519.PrivateKey
}

func forge(t testing.TB, o Overlay, links ...signed) []byte {
	t.Helper()
	ch := &chain{overlay: o.ID}
	for _, s := range links {
		payload := s.cert.Append(nil)
		sig := must(canon.Sign(s.by, o.domain(certificateStatement), payload))(t)
		ch.links = append(ch.links, link{s.cert, payload, sig})
	}
	return ch.append(nil)
}

// prove signs a provisional certificate's proof with the member's key.
func prove(t testing.TB, o Overlay, c *Certificate, member, invitation ed25519.PrivateKey) *Certificate {
	t.Helper()
	c.Proof = must(canon.Sign(member, o.domain(possessionStatement), c.possession(KeyOf(idOf(invitation)))))(t)
	return c
}

func TestVerifyChainAttacks(t *testing.T) {
	root, other := testRoot(t), must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t)
	renamed := must(newRoot("example.org", bytes.Repeat([]byte{1}, 32)))(t) // the same key for another domain
	o := root.Overlay()
	rk, dk, ik, mk, xk := root.key, seedKey(10), seedKey(11), seedKey(12), seedKey(13)
	key := func(k ed25519.PrivateKey) Key { return KeyOf(idOf(k)) }
	day := 24 * time.Hour

	delegate := func() *Certificate {
		return &Certificate{Subject: key(dk), Kind: KindDelegate, Roles: RoleDelegate, NotBefore: epoch.Add(-day), NotAfter: epoch.Add(100 * day)}
	}
	invite := func(label string) *Certificate {
		return &Certificate{Subject: key(ik), Kind: KindInvitation, Label: label, Uses: 1, NotBefore: epoch.Add(-day), NotAfter: epoch.Add(day)}
	}
	provisional := func(label string) *Certificate {
		return &Certificate{Subject: key(mk), Kind: KindMember, Label: label, NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(2 * day)}
	}
	proved := func(c *Certificate) *Certificate { return prove(t, o, c, mk, ik) }
	confirmed := func(label string) *Certificate {
		return &Certificate{Subject: key(mk), Kind: KindMember, Confirmed: true, Serial: serialAt(epoch.Add(-day)), Label: label,
			NotBefore: epoch.Add(-day), NotAfter: epoch.Add(20 * day), Invitation: key(ik)}
	}
	with := func(c *Certificate, f func(*Certificate)) *Certificate { f(c); return c }
	relay := func(c *Certificate) { c.Roles = RoleRelay }
	ends := func(d time.Duration) func(*Certificate) {
		return func(c *Certificate) { c.NotAfter = epoch.Add(d) }
	}
	revoke := func(kind RevocationKind, k ed25519.PrivateKey) *RevocationList {
		return must(root.Revoke(nil, epoch, Revocation{Kind: kind, Key: key(k)}))(t)
	}
	good := forge(t, o, signed{invite("mars"), rk}, signed{proved(provisional("mars")), ik})
	deep := forge(t, o, signed{delegate(), rk}, signed{invite("*"), dk}, signed{proved(provisional("mars")), ik})
	conf := forge(t, o, signed{delegate(), rk}, signed{confirmed("mars"), dk})
	direct := forge(t, o, signed{confirmed("mars"), rk})

	for _, test := range []struct {
		name  string
		chain []byte
		at    time.Duration // after epoch
		rev   *RevocationList
		want  error
	}{
		{name: "provisional", chain: good},
		{name: "provisional below a delegate", chain: deep},
		{name: "confirmed by a delegate", chain: conf},
		{name: "confirmed by the root", chain: direct},
		{name: "within tolerance of the end", chain: good, at: 2*day + 9*time.Minute},
		{name: "within tolerance of the begin", chain: good, at: -time.Hour - 9*time.Minute},
		{name: "invitation over, member in its grace", chain: good, at: day + time.Hour},
		{name: "another's revocation", chain: deep, rev: revoke(RevokePeer, xk)},
		{name: "confirmed stays when its invitation goes", chain: direct, rev: revoke(RevokeInvitation, ik)},

		{name: "empty", want: ErrNonCanonical},
		{name: "bytes after the end", chain: append(bytes.Clone(good), 0), want: ErrNonCanonical},
		{name: "newer version", chain: append([]byte{2}, good[1:]...), want: ErrVersion},
		{name: "oversized", chain: make([]byte, MaxChain+1), want: ErrTooLarge},
		{name: "no certificates", chain: forge(t, o), want: ErrIncomplete},
		{name: "ends in an invitation", chain: forge(t, o, signed{invite("mars"), rk}), want: ErrIncomplete},
		{name: "ends in a delegate", chain: forge(t, o, signed{delegate(), rk}), want: ErrIncomplete},
		{name: "expired", chain: good, at: 2*day + 11*time.Minute, want: ErrExpired},
		{name: "delegate expired", chain: forge(t, o,
			signed{with(delegate(), ends(day)), rk}, signed{with(confirmed("mars"), ends(day)), dk}), at: 2 * day, want: ErrExpired},
		{name: "not yet valid", chain: good, at: -time.Hour - 11*time.Minute, want: ErrNotYetValid},
		{name: "another root", chain: forge(t, other.Overlay(), signed{confirmed("mars"), other.key}), want: ErrWrongOverlay},
		{name: "another overlay of the same root", chain: forge(t, renamed.Overlay(), signed{confirmed("mars"), rk}), want: ErrWrongOverlay},
		{name: "another overlay's chain relabelled", chain: func() []byte {
			b := forge(t, renamed.Overlay(), signed{confirmed("mars"), rk})
			copy(b[1:], o.ID[:])
			return b
		}(), want: ErrSignature},
		{name: "another root under our ID", chain: forge(t, o, signed{confirmed("mars"), other.key}), want: ErrSignature},
		{name: "self-signed", chain: forge(t, o, signed{confirmed("mars"), mk}), want: ErrSignature},
		{name: "member not signed by the invitation", chain: forge(t, o, signed{invite("mars"), rk}, signed{proved(provisional("mars")), xk}), want: ErrSignature},
		{name: "invitation not signed by the delegate", chain: forge(t, o, signed{delegate(), rk}, signed{invite("*"), xk}, signed{proved(provisional("mars")), ik}), want: ErrSignature},
		{name: "proof by another key", chain: forge(t, o, signed{invite("mars"), rk}, signed{prove(t, o, provisional("mars"), xk, ik), ik}), want: ErrPossession},
		{name: "proof made for another invitation", chain: forge(t, o, signed{invite("mars"), rk}, signed{prove(t, o, provisional("mars"), mk, xk), ik}), want: ErrPossession},
		{name: "proof made for another label", chain: forge(t, o, signed{invite("*"), rk}, signed{func() *Certificate {
			c := proved(provisional("mars"))
			c.Label = "venus"
			return c
		}(), ik}), want: ErrPossession},
		{name: "invitation for another label", chain: forge(t, o, signed{invite("venus"), rk}, signed{proved(provisional("mars")), ik}), want: ErrLabel},
		{name: "any label out of a named invitation", chain: forge(t, o, signed{invite("mars"), rk}, signed{proved(provisional("*")), ik}), want: ErrLabel},
		{name: "member takes a role", chain: forge(t, o, signed{invite("mars"), rk}, signed{proved(with(provisional("mars"), relay)), ik}), want: ErrRole},
		{name: "delegate hands on a role it lacks", chain: forge(t, o, signed{delegate(), rk}, signed{with(confirmed("mars"), relay), dk}), want: ErrRole},
		{name: "delegate makes delegates", chain: forge(t, o, signed{delegate(), rk}, signed{with(confirmed("mars"), func(c *Certificate) { c.Roles = RoleDelegate }), dk}), want: ErrRole},
		{name: "delegate's delegate", chain: forge(t, o, signed{delegate(), rk}, signed{delegate(), dk}, signed{confirmed("mars"), dk}), want: ErrTooDeep},
		{name: "invitation's invitation", chain: forge(t, o, signed{invite("*"), rk}, signed{invite("mars"), ik}, signed{proved(provisional("mars")), ik}), want: ErrTooDeep},
		{name: "member's member", chain: forge(t, o, signed{confirmed("mars"), rk}, signed{confirmed("mars"), mk}), want: ErrTooDeep},
		{name: "member invites", chain: forge(t, o, signed{confirmed("mars"), rk}, signed{invite("*"), mk}, signed{proved(provisional("mars")), ik}), want: ErrTooDeep},
		{name: "four certificates", chain: forge(t, o, signed{delegate(), rk}, signed{invite("*"), dk}, signed{proved(provisional("mars")), ik}, signed{confirmed("mars"), mk}), want: ErrTooDeep},
		{name: "invitation makes a delegate", chain: forge(t, o, signed{invite("*"), rk}, signed{delegate(), ik}, signed{confirmed("mars"), dk}), want: ErrKind},
		{name: "invitation confirms", chain: forge(t, o, signed{invite("mars"), rk}, signed{with(confirmed("mars"), ends(day)), ik}), want: ErrKind},
		{name: "root self-issues", chain: forge(t, o, signed{proved(provisional("mars")), rk}), want: ErrKind},
		{name: "beyond the grace", chain: forge(t, o, signed{invite("mars"), rk}, signed{proved(with(provisional("mars"), ends(8*day+time.Second))), ik}), want: ErrLifetime},
		{name: "longer than a member may", chain: forge(t, o, signed{with(confirmed("mars"), ends(30*day)), rk}), want: ErrLifetime},
		{name: "outlasts the delegate", chain: forge(t, o, signed{with(delegate(), ends(10*day)), rk}, signed{confirmed("mars"), dk}), want: ErrLifetime},
		{name: "grace outlasts the delegate", chain: forge(t, o, signed{with(delegate(), ends(day)), rk}, signed{invite("mars"), dk}, signed{proved(provisional("mars")), ik}), want: ErrLifetime},
		{name: "invitation outlasts the delegate", chain: forge(t, o, signed{with(delegate(), ends(time.Hour)), rk}, signed{invite("mars"), dk}, signed{proved(with(provisional("mars"), ends(time.Hour))), ik}), want: ErrLifetime},
		{name: "label is no host label", chain: forge(t, o, signed{confirmed("Mars"), rk}), want: ErrBadLabel},
		{name: "label is a peer ID", chain: forge(t, o, signed{confirmed(idOf(xk).Label()), rk}), want: ErrBadLabel},
		{name: "confirmed for any label", chain: forge(t, o, signed{confirmed("*"), rk}), want: ErrBadLabel},
		{name: "subject of small order", chain: forge(t, o, signed{with(confirmed("mars"), func(c *Certificate) { c.Subject = Key{1} }), rk}), want: ErrKey},
		{name: "subject's encoding not canonical", chain: forge(t, o, signed{with(confirmed("mars"), func(c *Certificate) {
			c.Subject = Key(bytes.Repeat([]byte{0xff}, 32)) // y = 2^255-1-sign ≥ p
			c.Subject[0] = 0xf0
			c.Subject[31] = 0x7f
		}), rk}), want: ErrKey},
		{name: "confirmed before its delegate was one", chain: forge(t, o, signed{delegate(), rk}, signed{with(confirmed("mars"), func(c *Certificate) { c.Serial-- }), dk}), want: ErrSerial},
		{name: "confirmed by a delegate at the beginning of time", chain: forge(t, o, signed{delegate(), rk}, signed{with(confirmed("mars"), func(c *Certificate) { c.Serial = 0 }), dk}), want: ErrSerial},
		{name: "the root may say what it likes of the past", chain: forge(t, o, signed{with(confirmed("mars"), func(c *Certificate) { c.Serial = 0 }), rk})},
		{name: "confirmed as late as clocks differ", chain: forge(t, o, signed{with(confirmed("mars"), func(c *Certificate) { c.Serial += 15 * 60 * 1000 }), rk})},
		{name: "confirmed later than that", chain: forge(t, o, signed{with(confirmed("mars"), func(c *Certificate) { c.Serial += 15*60*1000 + 1 }), rk}), want: ErrSerial},
		{name: "peer revoked", chain: good, rev: revoke(RevokePeer, mk), want: ErrRevoked},
		{name: "confirmed peer revoked", chain: conf, rev: revoke(RevokePeer, mk), want: ErrRevoked},
		{name: "invitation revoked", chain: good, rev: revoke(RevokeInvitation, ik), want: ErrRevoked},
		{name: "invitation revoked with its members", chain: direct, rev: revoke(RevokeInvited, ik), want: ErrRevoked},
		{name: "delegate revoked", chain: deep, rev: revoke(RevokeDelegate, dk), want: ErrRevoked},
		{name: "delegate revoked as a peer", chain: conf, rev: revoke(RevokePeer, dk), want: ErrRevoked},
		{name: "list not verified", chain: good, rev: unverified(revoke(RevokePeer, xk)), want: ErrListUnverified},
		{name: "another overlay's list", chain: good, rev: follow(t, other, nil, epoch), want: ErrListUnverified},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := VerifyChain(test.chain, o, epoch.Add(test.at), test.rev)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v; want %v", err, test.want)
			}
			if (m == nil) != (err != nil) {
				t.Fatalf("member %v with error %v", m, err)
			}
			if err != nil && errors.Is(err, ErrRevoked) {
				whole := must(VerifyChain(test.chain, o, epoch, nil))(t)
				if !test.rev.Revokes(whole) {
					t.Error("Revokes does not agree")
				}
			}
		})
	}
}

func TestClockErrorsSayClock(t *testing.T) {
	root := testRoot(t)
	chain := must(root.Issuer().Issue(idOf(seedKey(3)), MemberOptions{Label: "mars", Serial: 1}, epoch))(t)
	for _, test := range []struct {
		off   time.Duration
		want  error
		clock bool
	}{
		{-9 * time.Minute, nil, false},
		{-20 * time.Minute, ErrNotYetValid, false},
		{-24 * time.Hour, ErrNotYetValid, true},
		{31 * 24 * time.Hour, ErrExpired, true},
	} {
		_, err := VerifyChain(chain, root.Overlay(), epoch.Add(test.off), nil)
		if !errors.Is(err, test.want) {
			t.Errorf("off by %v: %v", test.off, err)
		}
		if err != nil && strings.Contains(err.Error(), "wrong") != test.clock {
			t.Errorf("off by %v: text %q", test.off, err)
		}
	}
}

// Every byte of a chain counts: no bit of it may change and the chain still
// verify.
func TestChainFlips(t *testing.T) {
	root := testRoot(t)
	token := must(root.Issuer().invite(InviteOptions{}, epoch, bytes.Repeat([]byte{5}, 32)))(t)
	provisional := must(token.SelfIssue(seedKey(9), "mars", epoch))(t)
	confirmed := must(Confirm(root.Issuer(), provisional, "mars", 7, epoch, nil))(t)
	for _, chain := range [][]byte{provisional, confirmed} {
		for i := range chain {
			for bit := range 8 {
				b := bytes.Clone(chain)
				b[i] ^= 1 << bit
				if m, err := VerifyChain(b, root.Overlay(), epoch, nil); err == nil {
					t.Fatalf("bit %d of byte %d flipped: %+v", bit, i, m)
				}
			}
			if _, err := VerifyChain(chain[:i], root.Overlay(), epoch, nil); err == nil {
				t.Fatalf("cut at %d", i)
			}
		}
	}
}

func TestDelegate(t *testing.T) {
	root := testRoot(t)
	o := root.Overlay()
	dk := seedKey(20)
	delegation := must(root.Delegate(idOf(dk), RoleRelay, "", epoch.Add(48*time.Hour), epoch))(t)
	d := must(NewDelegate(dk, delegation, o, epoch, nil))(t)
	if _, err := NewDelegate(seedKey(21), delegation, o, epoch, nil); !errors.Is(err, ErrKey) {
		t.Errorf("delegation of another key: %v", err)
	}
	if _, err := d.Invite(InviteOptions{Roles: RoleDelegate}, epoch); !errors.Is(err, ErrRole) {
		t.Errorf("delegate invites a delegate: %v", err)
	}
	token := must(d.Invite(InviteOptions{Roles: RoleRelay, Expires: 30 * 24 * time.Hour}, epoch))(t)
	if end := epoch.Add(48 * time.Hour); !token.Expires().Equal(end) {
		t.Errorf("invitation until %v, delegate until %v", token.Expires(), end)
	}
	chain := must(token.SelfIssue(seedKey(22), "pluto", epoch))(t)
	m := must(VerifyChain(chain, o, epoch, nil))(t)
	if m.Delegate != KeyOf(idOf(dk)) || !m.Wildcard || m.NotAfter.After(epoch.Add(48*time.Hour)) {
		t.Errorf("%+v", m)
	}
	chain = must(Confirm(d, chain, "pluto", 5, epoch, nil))(t)
	chain = must(Confirm(root.Issuer(), chain, "pluto-2", 0, epoch, nil))(t) // renewed by the root, another label
	m = must(VerifyChain(chain, o, epoch, nil))(t)
	if m.Label != "pluto-2" || m.Serial != serialAt(epoch.Add(-backdate)) || !m.Delegate.IsZero() || !m.Wildcard {
		t.Errorf("%+v", m)
	}
	if _, err := d.Invite(InviteOptions{}, epoch.Add(72*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("expired delegate invites: %v", err)
	}
}

// TestDelegateIsCharged: what a member uses is charged to the delegate whose token it came by,
// or who has confirmed it, also when the founder has confirmed and renewed it; and no delegate
// writes that another is charged.
func TestDelegateIsCharged(t *testing.T) {
	root := testRoot(t)
	o := root.Overlay()
	dk, mk := seedKey(20), seedKey(22)
	d := must(NewDelegate(dk, must(root.Delegate(idOf(dk), 0, "", time.Time{}, epoch))(t), o, epoch, nil))(t)
	charged := func(chain []byte) Key {
		t.Helper()
		m, claimed := must(VerifyChain(chain, o, epoch, nil))(t), must(Claimed(chain))(t)
		if claimed.Account() != m.Account() || m.Account().Invitation != string(m.Invitation[:]) {
			t.Errorf("%+v, claimed %+v", m.Account(), claimed.Account())
		}
		return Key([]byte(m.Account().Delegate + string(make([]byte, 32)))[:32])
	}
	self := must(must(d.Invite(InviteOptions{}, epoch))(t).SelfIssue(mk, "pluto", epoch))(t)
	rooted := must(Confirm(root.Issuer(), self, "pluto", 0, epoch, nil))(t)
	renewed := must(Confirm(root.Issuer(), rooted, "pluto", 0, epoch, nil))(t)
	for what, chain := range map[string][]byte{
		"provisional":                       self,
		"confirmed by the delegate":         must(Confirm(d, self, "pluto", 0, epoch, nil))(t),
		"confirmed by the founder":          rooted,
		"and renewed":                       renewed,
		"renewed by the delegate":           must(Confirm(d, renewed, "pluto", 0, epoch, nil))(t),
		"confirmed by one after the other":  must(Confirm(root.Issuer(), must(Confirm(d, self, "pluto", 0, epoch, nil))(t), "pluto", 0, epoch, nil))(t),
		"of the founder's, by the delegate": must(Confirm(d, must(must(root.Issuer().Invite(InviteOptions{}, epoch))(t).SelfIssue(mk, "pluto", epoch))(t), "pluto", 0, epoch, nil))(t),
	} {
		if got := charged(chain); got != KeyOf(idOf(dk)) {
			t.Errorf("%s: %v is charged", what, got)
		}
	}
	direct := must(must(root.Issuer().Invite(InviteOptions{}, epoch))(t).SelfIssue(mk, "pluto", epoch))(t)
	for what, chain := range map[string][]byte{"the founder's": direct, "confirmed": must(Confirm(root.Issuer(), direct, "pluto", 0, epoch, nil))(t)} {
		if got := charged(chain); !got.IsZero() {
			t.Errorf("%s: %v is charged", what, got)
		}
	}
	framed := &Certificate{Subject: KeyOf(idOf(mk)), Kind: KindMember, Confirmed: true, Serial: serialAt(epoch), Inviter: KeyOf(idOf(seedKey(30))),
		NotBefore: epoch, NotAfter: epoch.Add(time.Hour)}
	if _, err := d.issue(framed, epoch); !errors.Is(err, ErrKind) {
		t.Errorf("a delegate has another charged: %v", err)
	}
	forged := forge(t, o, signed{d.chain.links[0].cert, root.key}, signed{framed, dk})
	if _, err := VerifyChain(forged, o, epoch, nil); !errors.Is(err, ErrKind) {
		t.Errorf("a delegate has another charged: %v", err)
	}
	if m := must(VerifyChain(forge(t, o, signed{framed, root.key}), o, epoch, nil))(t); m.Inviter != framed.Inviter || !m.Delegate.IsZero() {
		t.Errorf("%+v", m)
	}
}

func TestConfirmRefuses(t *testing.T) {
	root := testRoot(t)
	token := must(root.Issuer().Invite(InviteOptions{Label: "mars", Roles: RoleDelegate}, epoch))(t)
	chain := must(token.SelfIssue(seedKey(9), "", epoch))(t)
	if _, err := Confirm(root.Issuer(), chain, "venus", 1, epoch, nil); !errors.Is(err, ErrLabel) {
		t.Errorf("another label: %v", err)
	}
	rev := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(seedKey(9)))}))(t)
	if _, err := Confirm(root.Issuer(), chain, "mars", 1, epoch, rev); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	dk := seedKey(20)
	d := must(NewDelegate(dk, must(root.Delegate(idOf(dk), 0, "", time.Time{}, epoch))(t), root.Overlay(), epoch, nil))(t)
	if _, err := Confirm(d, chain, "mars", 1, epoch, nil); !errors.Is(err, ErrRole) {
		t.Errorf("delegate confirms a delegate: %v", err)
	}
	if _, err := token.SelfIssue(seedKey(9), "venus", epoch); !errors.Is(err, ErrLabel) {
		t.Errorf("self-issue of another label: %v", err)
	}
	if _, err := token.SelfIssue(seedKey(9), "", epoch.Add(25*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("self-issue after the end: %v", err)
	}
}

func TestNeedsRenewal(t *testing.T) {
	m := &Member{Confirmed: true, NotBefore: epoch, NotAfter: epoch.Add(MaxMember)}
	if NeedsRenewal(m, epoch.Add(14*24*time.Hour)) || !NeedsRenewal(m, epoch.Add(15*24*time.Hour)) {
		t.Error("half-life")
	}
	if m.Confirmed = false; !NeedsRenewal(m, epoch) {
		t.Error("provisional")
	}
}

func TestRootRoundTrip(t *testing.T) {
	root := must(NewRoot("Example.COM."))(t)
	again := must(ParseRoot(root.Marshal()))(t)
	if again.Overlay() != root.Overlay() || again.OverlayID() != root.OverlayID() || root.Overlay().Domain != "example.com" {
		t.Error("root differs")
	}
	for i := range root.Marshal() {
		if _, err := ParseRoot(root.Marshal()[:i]); err == nil {
			t.Errorf("cut at %d", i)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v", root, root, root); strings.Contains(s, string(root.key.Seed())) || len(s) > 100 {
		t.Errorf("secret printed: %q", s)
	}
}

func TestLabels(t *testing.T) {
	for _, s := range []string{"mars", "mars-2", "0", "k", "kitchen", "xn--mrs-pla", strings.Repeat("a", 63)} {
		if err := CheckLabel(s); err != nil {
			t.Error(err)
		}
	}
	id := idOf(seedKey(3)).Label()
	for _, s := range []string{"", "*", "-a", "a-", "Mars", "a.b", "a_b", "mäß", "a b", strings.Repeat("a", 64),
		id, id[:20], "k51qzi5uqu5dxyz", id[:61] + "0"} {
		if err := CheckLabel(s); !errors.Is(err, ErrBadLabel) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", ".", "a..b", "-a.com", strings.Repeat("a.", 100) + "com"} {
		if _, err := CleanDomain(s); !errors.Is(err, ErrBadDomain) {
			t.Errorf("domain %q: %v", s, err)
		}
	}
}

func TestFullName(t *testing.T) {
	o := Overlay{Domain: "example.com"}
	for label, want := range map[string]string{"mars": "mars.example.com", "": "", AnyLabel: ""} {
		if got := o.FullName(label); got != want {
			t.Errorf("%q is %q", label, got)
		}
	}
}
