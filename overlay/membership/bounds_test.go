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

	"github.com/idloc/idloc/internal/peerid"
)

// What stands in certificates, lists and tokens, and how long they last.
func TestConstants(t *testing.T) {
	const day = 24 * time.Hour
	if Tolerance != 10*time.Minute || backdate != 5*time.Minute || MaxMember != 30*day || Grace != 7*day || MaxInvitation != 366*day ||
		LongestLife != 374*day || RenewFor != 400*day || RevokedFor != 774*day || RetiredFor != 30*day || ProposalFor != 14*day || MinUnattended != day || MaxUnattended != RenewFor || DefaultUnattended != 365*day || DefaultInvitation != day || attestLife != time.Second || farOff != time.Hour {
		t.Error("a time changed")
	}
	for _, c := range []struct{ got, want int }{
		{int(KindDelegate), 1}, {int(KindInvitation), 2}, {int(KindMember), 3}, {int(RoleRelay), 1}, {int(RoleDelegate), 2}, {int(allRoles), 3},
		{certVersion, 1}, {int(flagRelay), 1}, {int(flagDelegate), 2}, {flagConfirmed, 4}, {flagWildcard, 8}, {flagInvited, 16}, {flagInviter, 32}, {flagTags, 64}, {int(flagsKnown), 127}, {MaxTags, 16}, {maxTagBytes, 128}, {MaxPolicyText, 32 << 10}, {MaxAssurance, 512},
		{chainVersion, 1}, {maxLinks, 3}, {MaxChain, 1024}, {listVersion, 3}, {proposalVersion, 1}, {MaxAuthorities, 16}, {MaxChanges, 256}, {MaxCharter, 48 << 10}, {MaxProposal, 48 << 10}, {MaxProposed, 64}, {MaxRevocations, 110000},
		{MaxRevocationList, 1 << 20}, {maxAuthorityName, 63}, {flagMaker, 128}, {flagRecovery, 1}, {flagVoid, 1}, {int(ChangePromote), 1}, {int(ChangeDemote), 2}, {int(ChangeThreshold), 3}, {int(MoveChange), 1}, {int(MoveRevoke), 2}, {int(MovePolicy), 3}, {int(MoveUnattended), 4},
		{tagSize, 9}, {entriesMax, 256}, {entriesKept, 128}, {weeksMax, 128},
		{int(RevokePeer), 1}, {int(RevokeInvitation), 2}, {int(RevokeInvited), 3}, {int(RevokeDelegate), 4},
		{maxLabel, 63}, {maxDomain, 189}, {peerRunes, 50}, {MaxAddrs, 4}, {maxAddr, 200}, {maxToken, 4096}, {tokenVersion, '1'},
	} {
		if c.got != c.want {
			t.Errorf("%d, not %d", c.got, c.want)
		}
	}
	if maxUnix != 1<<36 || maxSeq != 1<<40-1 {
		t.Error("the last time, or the last number, changed")
	}
	for _, c := range []struct {
		v    fmt.Stringer
		want string
	}{
		{KindDelegate, "delegate"}, {KindInvitation, "invitation"}, {KindMember, "member"}, {Kind(9), "kind 9"},
		{RoleRelay, "relay"}, {RoleDelegate, "delegate"}, {allRoles, "relay+delegate"}, {Roles(0), "none"}, {Roles(4), "none"},
		{RevokePeer, "peer"}, {RevokeInvitation, "invitation"}, {RevokeInvited, "invitation and its members"},
		{RevokeDelegate, "delegate"}, {RevocationKind(9), "kind 9"}, {Key{}, ""}, {Key{0xab}, "ab" + strings.Repeat("00", 31)},
	} {
		if c.v.String() != c.want {
			t.Errorf("%q, not %q", c.v, c.want)
		}
	}
	if !allRoles.Has(RoleRelay) || !allRoles.Has(allRoles) || RoleRelay.Has(RoleDelegate) || RoleRelay.Has(allRoles) || !Roles(0).Has(0) {
		t.Error("Has")
	}
}

// Domains that nobody can found an overlay for, and those beside them.
func TestNewDomain(t *testing.T) {
	for s, ok := range map[string]bool{
		"example.com": true, "a.b": true, "1.2.3.4.example": true, "1.2.3.4": false, "1.2.3.4.5": false, "example.0": false,
		"example.0x": false, "example.0xaf": false, "example.0xag": true, "example.x0": true, "0x": false, "7": false,
		"alt": true, "corp": true, "example": true, "home": true, "internal": true, "lan": true, "test": true,
		"com": false, "localhost": false, "local": false, "invalid": false, "a": false, "local.example": true,
	} {
		if err := CheckNewDomain(s); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadDomain) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Each character and length of a label that may and may not be.
func TestLabelBounds(t *testing.T) {
	for s, ok := range map[string]bool{
		"a": true, "z": true, "0": true, "9": true, "a-b": true, "az09": true, strings.Repeat("a", 63): true,
		strings.Repeat("a", 64): false, "": false, "-": false, "-a": false, "a-": false, "A": false, "a.b": false, "a_b": false,
		"a`b": false, "a{b": false, "a/b": false, "a:b": false, "ä": false, "a b": false,
		"k": true, "k" + strings.Repeat("a", 48): true, "k" + strings.Repeat("a", 49): false, "j" + strings.Repeat("a", 60): true,
		"k51qzi5uqu5": false, "k51qzi5uqu5x": false, "k51qzi5uqu": true, "xk51qzi5uqu5": true,
		peerid.ID{1}.Label(): false,
	} {
		if err := CheckLabel(s); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadLabel) {
			t.Errorf("%q: %v", s, err)
		}
	}
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 46)+".", 4), ".") // 187
	for s, want := range map[string]string{
		"Example.COM.": "example.com", "a": "a", "k51qzi5uqu5.x": "k51qzi5uqu5.x", long + "aa": long + "aa",
		"": "", ".": "", "a..b": "", ".a": "", "a.-b": "", long + "aaa": "", "a..": "", "a b": "",
	} {
		d, err := CleanDomain(s)
		if d != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrBadDomain) {
			t.Errorf("%q: %q, %v", s, d, err)
		}
	}
}

// What each kind of entry hits: certificates of each kind, and members, by each
// of the keys that they stand on. Everything else stays.
func TestRevokesMatrix(t *testing.T) {
	root := testRoot(t)
	peer, inv, del, other := KeyOf(idOf(seedKey(20))), KeyOf(idOf(seedKey(21))), KeyOf(idOf(seedKey(22))), KeyOf(idOf(seedKey(23)))
	certs := map[string]*Certificate{
		"delegate":    {Subject: del, Kind: KindDelegate},
		"invitation":  {Subject: inv, Kind: KindInvitation},
		"confirmed":   {Subject: peer, Kind: KindMember, Confirmed: true, Invitation: inv},
		"provisional": {Subject: peer, Kind: KindMember},
		"direct":      {Subject: peer, Kind: KindMember, Confirmed: true},
	}
	members := map[string]*Member{
		"confirmed":   {Peer: peer.Peer(), Confirmed: true, Invitation: inv, Delegate: del},
		"provisional": {Peer: peer.Peer(), Invitation: inv, Delegate: del},
		"direct":      {Peer: peer.Peer(), Confirmed: true},
	}
	for _, c := range []struct {
		kind    RevocationKind
		key     Key
		certs   string
		members string
	}{
		{RevokePeer, peer, "confirmed direct provisional", "confirmed direct provisional"},
		{RevokePeer, inv, "", ""},
		{RevokePeer, del, "delegate", "confirmed provisional"},
		{RevokeInvitation, peer, "", ""},
		{RevokeInvitation, inv, "invitation", "provisional"},
		{RevokeInvitation, del, "", ""},
		{RevokeInvited, peer, "", ""},
		{RevokeInvited, inv, "confirmed invitation", "confirmed provisional"},
		{RevokeInvited, del, "", ""},
		{RevokeDelegate, peer, "", ""},
		{RevokeDelegate, inv, "", ""},
		{RevokeDelegate, del, "delegate", "confirmed provisional"},
		{RevokePeer, other, "", ""}, {RevokeInvitation, other, "", ""}, {RevokeInvited, other, "", ""}, {RevokeDelegate, other, "", ""},
		// The key of none is nobody's.
		{RevokeInvited, Key{}, "", ""}, {RevokeInvitation, Key{}, "", ""}, {RevokeDelegate, Key{}, "", ""},
	} {
		l := must(root.Revoke(nil, epoch, Revocation{Kind: c.kind, Key: c.key}))(t)
		for name, cert := range certs {
			err := l.check(cert)
			if want := slices.Contains(strings.Fields(c.certs), name); want != errors.Is(err, ErrRevoked) || !want && err != nil {
				t.Errorf("%v of %v: certificate %s: %v", c.kind, c.key, name, err)
			}
		}
		for name, m := range members {
			if want := slices.Contains(strings.Fields(c.members), name); l.Revokes(m) != want {
				t.Errorf("%v of %v: member %s is revoked: %v", c.kind, c.key, name, !want)
			}
		}
		for _, kind := range []RevocationKind{RevokePeer, RevokeInvitation, RevokeInvited, RevokeDelegate} {
			if l.Has(kind, c.key) != (kind == c.kind) || l.Has(kind, Key{9}) {
				t.Errorf("%v of %v: has %v", c.kind, c.key, kind)
			}
		}
	}
	var none *RevocationList
	if none.Has(RevokePeer, peer) || none.check(certs["direct"]) != nil || none.Revokes(members["direct"]) || none.Seq() != 0 ||
		!none.Issued().IsZero() || none.Entries() != nil || none.Bytes() != nil {
		t.Error("no list revokes")
	}
}

// How long entries stay: at least as long as what they hit, and of two the longer.
func TestRevocationsEnd(t *testing.T) {
	root := testRoot(t)
	k := KeyOf(idOf(seedKey(30)))
	until := func(l *RevocationList, kind RevocationKind) time.Time {
		t.Helper()
		for _, e := range l.Entries() {
			if e.Kind == kind && e.Key == k {
				return e.Until
			}
		}
		t.Fatal("the entry is gone")
		return time.Time{}
	}
	soon := epoch.Add(time.Hour + 5*time.Millisecond)
	l := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: k, Until: soon}, Revocation{Kind: RevokeDelegate, Key: k, Until: soon},
		Revocation{Kind: RevokeInvitation, Key: k, Until: soon}, Revocation{Kind: RevokeInvited, Key: k, Until: time.Time{}}))(t)
	for kind, want := range map[RevocationKind]time.Time{
		RevokePeer: epoch.Add(RevokedFor), RevokeDelegate: epoch.Add(RevokedFor), RevokeInvitation: epoch.Add(time.Hour), RevokeInvited: {},
	} {
		if got := until(l, kind); !got.Equal(want.Truncate(time.Second)) {
			t.Errorf("%v: until %v, want %v", kind, got, want)
		}
	}
	if l.Seq() != 1 || !l.Issued().Equal(epoch.Truncate(time.Second)) {
		t.Errorf("list %d of %v", l.Seq(), l.Issued())
	}
	// An entry that has ended is dropped, after the tolerance and not before.
	end := until(l, RevokeInvitation)
	for _, c := range []struct {
		at   time.Time
		kept bool
	}{{end.Add(Tolerance - time.Second), true}, {end.Add(Tolerance), false}} {
		next := follow(t, root, l, c.at)
		if next.Has(RevokeInvitation, k) != c.kept || !next.Has(RevokeInvited, k) || next.Seq() != 2 {
			t.Errorf("at %v: kept %v", c.at, !c.kept)
		}
	}
	// A clock that is behind the list before it does not shorten.
	back := must(root.Revoke(l, epoch.Add(-1000*time.Hour), Revocation{Kind: RevokePeer, Key: Key{1}, Until: soon}))(t)
	for _, e := range back.Entries() {
		if e.Key == (Key{1}) && !e.Until.Equal(epoch.Add(RevokedFor).Truncate(time.Second)) {
			t.Errorf("with a clock that is behind: until %v", e.Until)
		}
	}
	far := epoch.Add(2 * RevokedFor).Truncate(time.Second)
	if l := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: k, Until: far}))(t); !until(l, RevokePeer).Equal(far) {
		t.Error("a longer life was cut")
	}
	for _, two := range [][]time.Time{{soon, {}}, {{}, soon}, {far, soon}, {soon, far}, {{}, {}}, {far, far}} {
		var es []Revocation
		longest := two[0]
		for _, u := range two {
			es = append(es, Revocation{Kind: RevokeInvitation, Key: k, Until: u})
			if u.IsZero() || !longest.IsZero() && u.After(longest) {
				longest = u
			}
		}
		l := must(root.Revoke(nil, epoch, es...))(t)
		if got := until(l, RevokeInvitation); !got.Equal(longest.Truncate(time.Second)) || len(l.Entries()) != 1 {
			t.Errorf("of %v: %v", two, got)
		}
	}
	// Of two ranges for one delegate the wider counts.
	t1, t2 := epoch.Add(time.Hour).Truncate(time.Second).UTC(), epoch.Add(2*time.Hour).Truncate(time.Second).UTC()
	for _, c := range []struct{ a, b, want time.Time }{{t1, t2, t2}, {t2, t1, t2}, {t1, time.Time{}, time.Time{}}, {time.Time{}, t1, time.Time{}}} {
		l := must(root.Revoke(nil, epoch, Revocation{Kind: RevokeDelegate, Key: k, Before: c.a, Until: far}))(t)
		if wider, err := root.Revoke(l, epoch, Revocation{Kind: RevokeDelegate, Key: k, Before: c.b}); err == nil {
			l = wider
		} else if !errors.Is(err, ErrNothing) {
			t.Fatal(err)
		}
		if e := l.Entries(); len(e) != 1 || !e[0].Before.Equal(c.want) {
			t.Errorf("%v and %v: %+v", c.a, c.b, e)
		}
		for _, before := range []time.Time{c.a, c.b} {
			if !l.Covers(Revocation{Kind: RevokeDelegate, Key: k, Before: before}) {
				t.Errorf("%v and %v: what began before %v is not hit", c.a, c.b, before)
			}
		}
		if l.Covers(Revocation{Kind: RevokeDelegate, Key: k}) != c.want.IsZero() || l.Covers(Revocation{Kind: RevokeDelegate, Key: Key{7}, Before: t1}) {
			t.Errorf("%v and %v: covers what it does not", c.a, c.b)
		}
	}
	// The list is full at its bound, and not before.
	many := make([]Revocation, MaxRevocations)
	for i := range many {
		binary.BigEndian.PutUint32(many[i].Key[:], uint32(i))
		many[i].Kind, many[i].Until = RevokePeer, far
	}
	full := must(root.Revoke(nil, epoch, many...))(t)
	if full.Len() != MaxRevocations || len(full.Entries()) != entriesKept || len(full.Bytes()) > MaxRevocationList {
		t.Errorf("%d entries, %d bytes", full.Len(), len(full.Bytes()))
	}
	if _, err := root.Revoke(full, epoch, Revocation{Kind: RevokeDelegate, Key: k}); !errors.Is(err, ErrListFull) {
		t.Errorf("one more: %v", err)
	}
	parsed := unverified(full)
	if _, err := root.Revoke(parsed, epoch); !errors.Is(err, ErrListUnverified) {
		t.Errorf("after a list that was not verified: %v", err)
	}
	other := must(newRoot("example.com", bytes.Repeat([]byte{5}, 32)))(t)
	if _, err := other.Revoke(full, epoch); !errors.Is(err, ErrListUnverified) {
		t.Errorf("after another's list: %v", err)
	}
}

// Each thing that is wrong with a list's form.
func TestRevocationListForm(t *testing.T) {
	root := testRoot(t)
	o := root.Overlay()
	base := func() *RevocationList {
		return &RevocationList{charter: founded(o), seq: 1, issued: epoch.Truncate(time.Second).UTC(),
			entries: []Revocation{{Kind: RevokePeer, Key: Key{1}}, {Kind: RevokePeer, Key: Key{2}, Until: time.Unix(1<<36, 0).UTC()}, {Kind: RevokeDelegate, Key: Key{1}}}}
	}
	parse := func(l *RevocationList) error {
		_, err := OpenRevocationList(signList(t, root, l), o)
		return err
	}
	if err := parse(base()); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(*RevocationList){
		"number 0": func(l *RevocationList) { l.seq = 0 }, "a number too high": func(l *RevocationList) { l.seq = maxSeq + 1 },
		"unattended too short": func(l *RevocationList) { l.unattended = MinUnattended - time.Second },
		"unattended too long":  func(l *RevocationList) { l.unattended = MaxUnattended + time.Second },
		"a policy too long":    func(l *RevocationList) { l.policy = &Policy{1, epoch, strings.Repeat("#", MaxPolicyText+1)} },
		"a policy of no time":  func(l *RevocationList) { l.policy = &Policy{1, time.Unix(0, 0), ""} },
		"issued never":         func(l *RevocationList) { l.issued = time.Unix(0, 0) },
		"kind 0":               func(l *RevocationList) { l.entries[0].Kind = 0 },
		"kind 5":               func(l *RevocationList) { l.entries[2].Kind = 5 },
		"order":                func(l *RevocationList) { l.entries[0], l.entries[1] = l.entries[1], l.entries[0] },
		"twice":                func(l *RevocationList) { l.entries[1] = l.entries[0] },
		"a time":               func(l *RevocationList) { l.entries[1].Until = time.Unix(1<<36+1, 0) },
		"issue time":           func(l *RevocationList) { l.issued = time.Unix(1<<36+1, 0) },
	} {
		l := base()
		f(l)
		if err := parse(l); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%s: %v", what, err)
		}
	}
	whole := signList(t, root, base())
	if _, err := OpenRevocationList(whole[:len(whole)-1], o); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a byte short: %v", err)
	}
	if _, err := OpenRevocationList(append(whole, 0), o); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := OpenRevocationList(append(base().appendBody(nil), 0), o); !errors.Is(err, ErrSignatures) {
		t.Errorf("no signature: %v", err)
	}
	for n, want := range map[int]error{MaxRevocationList: ErrNonCanonical, MaxRevocationList + 1: ErrTooLarge} {
		b := make([]byte, n)
		copy(b, append([]byte{listVersion}, o.ID[:]...))
		if _, err := OpenRevocationList(b, o); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, v := range []byte{0, 1, 2, 4} {
		if _, err := OpenRevocationList([]byte{v}, o); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	good := follow(t, root, nil, epoch)
	bad := good.Bytes()
	bad[len(bad)-1] ^= 1
	if _, err := OpenRevocationList(bad, o); !errors.Is(err, ErrSignature) {
		t.Errorf("the signature: %v", err)
	}
	if _, err := OpenRevocationList(good.Bytes(), Overlay{ID: o.ID}); !errors.Is(err, ErrWrongOverlay) {
		t.Errorf("an overlay without a root: %v", err)
	}
	if _, err := OpenRevocationList(good.Bytes(), Overlay{Root: o.Root}); !errors.Is(err, ErrWrongOverlay) {
		t.Errorf("another overlay: %v", err)
	}
}

// Which of two lists counts, from both sides.
func TestMergeOrder(t *testing.T) {
	root := testRoot(t)
	l1 := follow(t, root, nil, epoch)
	l2 := follow(t, root, l1, epoch)
	more := must(root.Revoke(l1, epoch, Revocation{Kind: RevokePeer, Key: Key{1}}))(t)
	later := follow(t, root, l1, epoch.Add(time.Hour))
	greater, lesser := l2, later
	if bytes.Compare(later.hash(), l2.hash()) < 0 {
		greater, lesser = later, l2
	}
	unsigned := unverified(more)
	for i, c := range []struct{ a, b, want *RevocationList }{
		{nil, nil, nil}, {l1, nil, l1}, {l1, l2, l2}, {more, l2, more}, {greater, lesser, greater}, {l1, unsigned, l1}, {unsigned, unsigned, nil},
		{nil, unsigned, nil}, {more, later, more},
	} {
		if Merge(c.a, c.b) != c.want || Merge(c.b, c.a) != c.want {
			t.Errorf("pair %d", i)
		}
	}
}

// A chain's size and depth, both sides.
func TestChainBounds(t *testing.T) {
	o := testRoot(t).Overlay()
	head := append([]byte{chainVersion}, o.ID[:]...)
	for n, want := range map[byte]error{0: ErrIncomplete, 1: ErrNonCanonical, 3: ErrNonCanonical, 4: ErrTooDeep} {
		if _, err := parseChain(append(bytes.Clone(head), n)); !errors.Is(err, want) {
			t.Errorf("%d links: %v", n, err)
		}
	}
	for n, want := range map[int]error{MaxChain: ErrNonCanonical, MaxChain + 1: ErrTooLarge} {
		b := make([]byte, n)
		copy(b, append(bytes.Clone(head), 1))
		if _, err := parseChain(b); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := parseChain(head[:10]); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("cut: %v", err)
	}
}

// What each link may hand on: until when, which roles, which label.
func TestGrantBounds(t *testing.T) {
	const day = 24 * time.Hour
	key := KeyOf(idOf(seedKey(50)))
	at := func(days int) time.Time { return epoch.Add(time.Duration(days) * day) }
	root := grant{root: true, roles: allRoles, label: AnyLabel}
	inv := &Certificate{Subject: key, Kind: KindInvitation, Roles: RoleRelay, Label: "mars", NotBefore: epoch, NotAfter: at(1)}
	for _, c := range []struct {
		end   time.Time // of the delegate; zero: the root
		grace time.Time
	}{{time.Time{}, at(8)}, {at(100), at(8)}, {at(8), at(8)}, {at(3), at(3)}} {
		g := root
		if !c.end.IsZero() {
			g = grant{kind: KindDelegate, roles: allRoles, label: AnyLabel, end: c.end}
		}
		next, err := g.allows(inv)
		if err != nil || !next.grace.Equal(c.grace) || !next.end.Equal(at(1)) || next.kind != KindInvitation || next.roles != RoleRelay || next.label != "mars" || next.root {
			t.Errorf("below one until %v: %+v, %v", c.end, next, err)
			continue
		}
		for until, ok := range map[time.Time]bool{c.grace: true, c.grace.Add(time.Second): false} {
			m := &Certificate{Subject: key, Kind: KindMember, Label: "mars", NotBefore: epoch, NotAfter: until}
			if _, err := next.allows(m); (err == nil) != ok || err != nil && !errors.Is(err, ErrLifetime) {
				t.Errorf("a member until %v of %v: %v", until, c.grace, err)
			}
		}
		for what, m := range map[string]struct {
			c    *Certificate
			want error
		}{
			"another label": {&Certificate{Kind: KindMember, Label: "venus", NotAfter: at(1)}, ErrLabel}, "no label": {&Certificate{Kind: KindMember, NotAfter: at(1)}, nil},
			"a role more": {&Certificate{Kind: KindMember, Label: "mars", Roles: RoleDelegate, NotAfter: at(1)}, ErrRole}, "confirmed": {&Certificate{Kind: KindMember, Label: "mars", Confirmed: true, NotAfter: at(1)}, ErrKind},
			"an invitation": {&Certificate{Kind: KindInvitation, Label: "mars", NotAfter: at(1)}, ErrTooDeep}, "a delegate": {&Certificate{Kind: KindDelegate, NotAfter: at(1)}, ErrKind},
		} {
			if _, err := next.allows(m.c); !errors.Is(err, m.want) {
				t.Errorf("%s below an invitation: %v", what, err)
			}
		}
	}
	delegate, err := root.allows(&Certificate{Kind: KindDelegate, Roles: allRoles, NotAfter: at(9)})
	if err != nil || delegate.roles != RoleRelay || delegate.label != AnyLabel || !delegate.end.Equal(at(9)) || delegate.kind != KindDelegate || !delegate.grace.IsZero() {
		t.Errorf("%+v, %v", delegate, err)
	}
	for _, g := range []grant{{kind: KindMember}, {kind: KindDelegate}} {
		if _, err := g.allows(&Certificate{Kind: KindDelegate}); !errors.Is(err, ErrTooDeep) {
			t.Errorf("a delegate below a %v: %v", g.kind, err)
		}
	}
	if _, err := root.allows(&Certificate{Kind: KindMember}); !errors.Is(err, ErrKind) {
		t.Errorf("a provisional member of the root: %v", err)
	}
}

// How long what is issued lasts, and who may issue.
func TestIssuedLives(t *testing.T) {
	const day = 24 * time.Hour
	root := testRoot(t)
	o := root.Overlay()
	from := epoch.Add(-backdate).Truncate(time.Second)
	dk, mk := seedKey(51), seedKey(52)
	for until, want := range map[time.Time]time.Time{
		{}: from.Add(MaxInvitation), epoch.Add(9 * day): epoch.Add(9 * day).Truncate(time.Second), from.Add(MaxInvitation): from.Add(MaxInvitation),
		from.Add(MaxInvitation + day): from.Add(MaxInvitation),
	} {
		b := must(root.Delegate(idOf(dk), RoleRelay, "", until, epoch))(t)
		c := must(Certificates(b))(t)[0]
		if !c.NotBefore.Equal(from) || !c.NotAfter.Equal(want) || c.Roles != allRoles {
			t.Errorf("until %v: %+v", until, c)
		}
	}
	delegation := must(root.Delegate(idOf(dk), 0, "", time.Time{}, epoch))(t)
	for what, f := range map[string]func() error{
		"garbage":     func() error { _, err := NewDelegate(dk, []byte{1, 2}, o, epoch, nil); return err },
		"another key": func() error { _, err := NewDelegate(mk, delegation, o, epoch, nil); return err },
		"a short key": func() error { _, err := NewDelegate(dk[:40], delegation, o, epoch, nil); return err },
		"too late":    func() error { _, err := NewDelegate(dk, delegation, o, epoch.Add(400*day), nil); return err },
		"revoked": func() error {
			l := must(root.Revoke(nil, epoch, Revocation{Kind: RevokeDelegate, Key: KeyOf(idOf(dk))}))(t)
			_, err := NewDelegate(dk, delegation, o, epoch, l)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("a delegate by %s", what)
		}
	}
	d := must(NewDelegate(dk, delegation, o, epoch, nil))(t)
	if d.IsRoot() || !root.Issuer().IsRoot() || d.Overlay() != o {
		t.Error("who is the root")
	}
	token := must(root.Issuer().Invite(InviteOptions{Label: "mars"}, epoch))(t)
	if !token.Expires().Equal(epoch.Add(DefaultInvitation).Truncate(time.Second)) || token.Label() != "mars" {
		t.Errorf("a token until %v", token.Expires())
	}
	m := must(VerifyChain(must(token.SelfIssue(mk, "", epoch))(t), o, epoch, nil))(t)
	if want := token.Expires().Add(Grace); !m.NotAfter.Equal(want) || !m.NotBefore.Equal(from) || m.Label != "mars" || m.Confirmed || m.Wildcard {
		t.Errorf("a member until %v, not %v: %+v", m.NotAfter, want, m)
	}
	long := must(root.Issuer().Invite(InviteOptions{Expires: 60 * day}, epoch))(t)
	if m := must(VerifyChain(must(long.SelfIssue(mk, "x", epoch))(t), o, epoch, nil))(t); !m.NotAfter.Equal(from.Add(MaxMember)) || m.Label != "x" {
		t.Errorf("a member until %v", m.NotAfter)
	}
	if _, err := root.Issuer().Invite(InviteOptions{Expires: -1}, epoch); !errors.Is(err, ErrLifetime) {
		t.Errorf("a token that is over: %v", err)
	}
	if _, err := token.SelfIssue(mk[:9], "", epoch); !errors.Is(err, ErrKey) {
		t.Errorf("a member of half a key: %v", err)
	}
	if _, err := CleanDomain("."); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("no domain: %v", err)
	}
	if _, _, err := splitAddr("x"); err == nil || !strings.Contains(err.Error(), `address "x"`) || strings.Contains(err.Error(), "end in") {
		t.Errorf("no address: %v", err)
	}
}

// What Attest makes is told from a certificate by each of its marks: a member whose
// membership is short, or who has no name, is still one.
func TestAttests(t *testing.T) {
	at := time.Unix(1e9, 0)
	good := Certificate{Kind: KindMember, Confirmed: true, NotBefore: at, NotAfter: at.Add(attestLife)}
	if !good.attests() {
		t.Error("a statement is none")
	}
	for what, change := range map[string]func(*Certificate){
		"a delegate":         func(c *Certificate) { c.Kind = KindDelegate },
		"a provisional one":  func(c *Certificate) { c.Confirmed = false },
		"a short membership": func(c *Certificate) { c.Label = "mars" },
		"without a name":     func(c *Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
	} {
		c := good
		if change(&c); c.attests() {
			t.Errorf("%s is a statement", what)
		}
	}
}

// The founder has no certificate above it, and a list unites with none.
func TestOfTheRoot(t *testing.T) {
	root, err := NewRoot("example.com")
	if err != nil {
		t.Fatal(err)
	}
	if c := root.Issuer().Certificate(); c.Kind != 0 || !c.Subject.IsZero() {
		t.Errorf("the root's certificate is %+v", c)
	}
	now := time.Unix(1e9, 0)
	first, err := root.Revoke(nil, now, Revocation{Kind: RevokePeer, Key: Key{1}})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := unite(root, first, nil, now); err != nil || !l.Has(RevokePeer, Key{1}) {
		t.Errorf("with none: %v", err)
	}
	if l, err := unite(root, nil, first, now); err != nil || !l.Has(RevokePeer, Key{1}) {
		t.Errorf("none with one: %v", err)
	}
}

// Who came by an invitation for one name that is used again and again: each mark.
func TestReused(t *testing.T) {
	good := Member{Invitation: Key{1}}
	if !good.Reused() {
		t.Error("it is none")
	}
	for what, change := range map[string]func(*Member){
		"confirmed": func(m *Member) { m.Confirmed = true }, "any name": func(m *Member) { m.Wildcard = true },
		"a number": func(m *Member) { m.Uses = 1 }, "no invitation": func(m *Member) { m.Invitation = Key{} },
	} {
		m := good
		if change(&m); m.Reused() {
			t.Errorf("%s: reused", what)
		}
	}
}

// A clock is suspected from an hour on, in either direction.
func TestFarOff(t *testing.T) {
	at := time.Unix(1e9, 0)
	for off, want := range map[time.Duration]bool{
		0: false, farOff - 1: false, farOff: true, 1 - farOff: false, -farOff: true,
	} {
		if e := (&TimeError{Limit: at, Now: at.Add(off)}); e.FarOff() != want {
			t.Errorf("%v: %v", off, !want)
		}
	}
}
