package membership

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// history is an overlay that random things happen to.
type history struct {
	t      testing.TB
	r      *rand.Rand
	root   *Root
	now    time.Time
	list   *RevocationList
	keys   int
	issuer []*Issuer // the root, then delegates
	tokens []*Token
	chains []*held
}

// held is a chain that somebody keeps, and tries again and again.
type held struct {
	bytes   []byte
	revoked time.Time // when it was first refused as revoked
}

func (h *history) key() ed25519.PrivateKey {
	h.keys++
	return ed25519.NewKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(h.keys)))
}

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

// happen lets one thing happen. Honest issuers do not name whom they know to be
// revoked, so what they refuse to make is not there.
func (h *history) happen() {
	keep := func(chain []byte, err error) {
		if err == nil {
			h.chains = append(h.chains, &held{bytes: chain})
		}
	}
	switch h.r.IntN(6) {
	case 0: // a delegate
		key := h.key()
		d, err := h.root.Delegate(idOf(key), RoleRelay, h.now.Add(time.Duration(1+h.r.IntN(366*24))*time.Hour), h.now)
		if err != nil {
			h.t.Fatal(err)
		}
		i, err := NewDelegate(key, d, h.root.Overlay(), h.now, h.list)
		if err != nil {
			h.t.Fatal(err)
		}
		h.issuer = append(h.issuer, i)
		keep(h.root.Issuer().Issue(idOf(key), MemberOptions{Label: "d", Serial: 1}, h.now))
	case 1: // a token
		t, err := pick(h.r, h.issuer).Invite(InviteOptions{Expires: time.Duration(1+h.r.IntN(366*24)) * time.Hour}, h.now)
		if err == nil {
			h.tokens = append(h.tokens, t)
		}
	case 2, 3: // somebody enters, and perhaps is confirmed
		if len(h.tokens) == 0 {
			return
		}
		chain, err := pick(h.r, h.tokens).SelfIssue(h.key(), "x", h.now)
		if err != nil {
			return
		}
		keep(chain, nil)
		if h.r.IntN(2) == 0 {
			keep(Confirm(pick(h.r, h.issuer), chain, "x", uint64(h.keys), h.now, h.list))
		}
	default:
		h.revoke()
	}
}

// revoke takes something back: a delegate by preference.
func (h *history) revoke() {
	var keys []Key
	for _, i := range h.issuer[1:] {
		keys = append(keys, i.chain.leaf().Subject)
	}
	for _, c := range h.chains {
		certs, err := Certificates(c.bytes)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, c := range certs {
			keys = append(keys, c.Subject)
		}
	}
	var entries []Revocation
	if len(keys) > 0 && h.r.IntN(2) == 0 {
		e := Revocation{Kind: RevocationKind(1 + h.r.IntN(4)), Key: pick(h.r, keys)}
		switch e.Kind {
		case RevokePeer, RevokeDelegate: // whatever its caller thinks of
			e.Until = h.now.Add(time.Duration(h.r.IntN(40*24)) * time.Hour)
			if h.r.IntN(2) == 0 {
				e.Before = h.now.Add(time.Duration(h.r.IntN(40*24)-20*24) * time.Hour)
			}
		default:
			e.Until = h.now.Add(LongestLife)
		}
		entries = append(entries, e)
	}
	l, err := h.root.Revoke(h.list, h.now, entries...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.list = Merge(h.list, l)
}

// check tries all chains.
func (h *history) check() {
	for i, c := range h.chains {
		m, err := VerifyChain(c.bytes, h.root.Overlay(), h.now, h.list)
		switch {
		case errors.Is(err, ErrRevoked) && c.revoked.IsZero():
			c.revoked = h.now
		case err == nil && !c.revoked.IsZero():
			h.t.Fatalf("chain %d of %v, revoked %v, is good again after %v", i, m.Peer, c.revoked, h.now.Sub(c.revoked))
		}
	}
}

// TestRevokedOnce: what has been revoked once is revoked at every later date,
// whatever else happens, for whoever still holds a chain.
func TestRevokedOnce(t *testing.T) {
	for seed := range uint64(12) {
		h := &history{t: t, r: rand.New(rand.NewPCG(18, seed)), root: testRoot(t), now: epoch}
		h.issuer = []*Issuer{h.root.Issuer()}
		for h.now.Before(epoch.Add(800 * 24 * time.Hour)) {
			h.now = h.now.Add(time.Duration(h.r.IntN(20*24)) * time.Hour)
			h.happen()
			h.check()
		}
	}
}

// TestRevokedDelegate is the attack: a delegate whose own membership has ended
// waits for the list to forget it.
func TestRevokedDelegate(t *testing.T) {
	root, key, mars := testRoot(t), seedKey(5), seedKey(6)
	delegation := must(root.Delegate(idOf(key), RoleRelay, time.Time{}, epoch))(t)
	list := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(key)), Until: epoch.Add(MaxMember + time.Hour)}))(t)
	for day := range 380 {
		now := epoch.Add(time.Duration(day) * 24 * time.Hour)
		list = must(root.Revoke(list, now))(t)
		i, err := NewDelegate(key, delegation, root.Overlay(), now, nil) // it does not ask for the list
		if err != nil {
			break
		}
		chain, err := i.Issue(idOf(mars), MemberOptions{Label: "mars"}, now)
		if err != nil {
			break
		}
		if _, err := VerifyChain(chain, root.Overlay(), now, list); !errors.Is(err, ErrRevoked) {
			t.Fatalf("day %d: the revoked delegate makes members again: %v", day, err)
		}
	}
	// Revoked again, for less: that takes nothing back.
	never := must(root.Revoke(nil, epoch, Revocation{Kind: RevokeInvitation, Key: Key{1}}, Revocation{Kind: RevokeInvitation, Key: Key{2}, Until: epoch.Add(48 * time.Hour)}))(t)
	less := must(root.Revoke(never, epoch, Revocation{Kind: RevokeInvitation, Key: Key{1}, Until: epoch.Add(time.Hour)}, Revocation{Kind: RevokeInvitation, Key: Key{2}, Until: epoch.Add(time.Hour)}))(t)
	for i, e := range less.Entries() {
		if e != never.Entries()[i] {
			t.Errorf("%v becomes %v", never.Entries()[i], e)
		}
	}
	// The root's clock was set back: the entry lives by the later of the two.
	later := must(root.Revoke(nil, epoch))(t)
	back := must(root.Revoke(later, epoch.Add(-100*24*time.Hour), Revocation{Kind: RevokeDelegate, Key: Key{3}, Until: epoch}))(t)
	if u := back.Entries()[0].Until; u.Before(epoch.Add(MaxInvitation)) {
		t.Errorf("with a clock set back the entry ends %v", u)
	}
}

// A delegate that is revoked for what it did up to now can be made one again: what it
// has signed stays void, what it signs by its new delegation is good.
func TestDelegateAgain(t *testing.T) {
	root, key, mars := testRoot(t), seedKey(5), seedKey(6)
	delegate := func(at time.Time) *Issuer {
		t.Helper()
		return must(NewDelegate(key, must(root.Delegate(idOf(key), RoleRelay, time.Time{}, at))(t), root.Overlay(), at, nil))(t)
	}
	old := delegate(epoch)
	at := epoch.Add(24 * time.Hour)
	list := must(root.Revoke(nil, at, Revocation{Kind: RevokeDelegate, Key: KeyOf(idOf(key)), Until: at.Add(LongestLife), Before: at}))(t)
	again := delegate(at.Add(2 * backdate))
	for _, now := range []time.Time{at.Add(time.Hour), at.Add(300 * 24 * time.Hour)} {
		for what, i := range map[string]*Issuer{"old": old, "new": again} {
			chain := must(i.Issue(idOf(mars), MemberOptions{Label: "mars"}, now))(t)
			m, err := VerifyChain(chain, root.Overlay(), now, list)
			if want := what == "old"; (errors.Is(err, ErrRevoked)) != want || !want && err != nil {
				t.Errorf("by the %s delegation: %v", what, err)
			}
			if m == nil {
				m = must(VerifyChain(chain, root.Overlay(), now, nil))(t)
			}
			if list.Revokes(m) != (what == "old") {
				t.Errorf("by the %s delegation: the member is revoked: %v", what, what != "old")
			}
		}
	}
}

// TestYearOfRevocations counts what a list costs that gets a peer and its invitation
// with each of many revocations over a year.
func TestYearOfRevocations(t *testing.T) {
	root := testRoot(t)
	const n, year = 12000, 365 * 24 * time.Hour
	var list *RevocationList
	var batch []Revocation
	for i := range n {
		now := epoch.Add(year / n * time.Duration(i))
		key := Key{1: byte(i), 2: byte(i >> 8), 3: byte(i >> 16)}
		batch = append(batch, Revocation{Kind: RevokePeer, Key: key, Until: now.Add(LongestLife)},
			Revocation{Kind: RevokeInvitation, Key: key, Until: now.Add(24*time.Hour + Grace)})
		if len(batch) == 200 || i == n-1 { // one after the other would sign as often
			list = must(root.Revoke(list, now, batch...))(t)
			batch = batch[:0]
		}
	}
	invitations := 0
	for _, e := range list.Entries() {
		if e.Kind == RevokeInvitation {
			invitations++
		}
	}
	if size := len(list.Bytes()); size > 1<<20 || MaxRevocationList > 1<<20 {
		t.Errorf("%d bytes", size)
	}
	if len(list.Entries())-invitations != n || invitations > n/30 {
		t.Errorf("%d entries, of which %d are of invitations", len(list.Entries()), invitations)
	}
}

// A list covers what it was made of, whatever part of a second that was in: who signs
// one goes on until it does.
func TestCoversItsEntries(t *testing.T) {
	now := epoch.Add(123456789 * time.Nanosecond)
	e := Revocation{Kind: RevokeDelegate, Key: Key{1}, Until: now.Add(LongestLife), Before: now}
	if l := must(testRoot(t).Revoke(nil, now, e))(t); !l.Covers(e) {
		t.Errorf("%+v is not covered by %+v", e, l.Entries())
	}
}
