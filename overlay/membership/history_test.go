package membership

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
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
	lists  []*RevocationList // all that there were
	keys   int
	issuer []*Issuer         // the root, then delegates
	since  []int             // of each issuer: the oldest of lists that it may still have
	out    map[Key]time.Time // peers that were revoked
	tokens []*Token
	chains []*held
	crowd  bool // many others are revoked
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
	switch h.r.IntN(8) {
	case 6, 7: // somebody comes back, maybe to a delegate that has heard of nothing since it is one
		if len(h.chains) > 0 {
			n := h.r.IntN(len(h.issuer))
			knows := h.list
			if n > 0 {
				knows = pick(h.r, h.lists[h.since[n]:])
			}
			keep(Readmit(h.issuer[n], pick(h.r, h.chains).bytes, "x", uint64(h.keys), h.now, knows))
		}
	case 0: // a delegate
		key := h.key()
		d, err := h.root.Delegate(idOf(key), RoleRelay, "", h.now.Add(time.Duration(1+h.r.IntN(366*24))*time.Hour), h.now)
		if err != nil {
			h.t.Fatal(err)
		}
		i, err := NewDelegate(key, d, h.root.Overlay(), h.now, h.list)
		if err != nil {
			h.t.Fatal(err)
		}
		h.issuer = append(h.issuer, i)
		h.since = append(h.since, len(h.lists)-1)
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
	if h.crowd { // so that most is folded soon
		for range entriesKept / 2 {
			entries = append(entries, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(h.key())), Until: h.now})
		}
	}
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
		if e.Kind == RevokePeer {
			h.out[e.Key] = h.now
		}
		entries = append(entries, e)
	}
	l, err := h.root.Revoke(h.list, h.now, entries...)
	if errors.Is(err, ErrNothing) {
		l, err = follow(h.t, h.root, h.list, h.now), nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.list = Merge(h.list, l)
	h.lists = append(h.lists, h.list)
}

// check tries all chains.
func (h *history) check() {
	for i, c := range h.chains {
		for what, verify := range map[string]func([]byte, Overlay, time.Time, *RevocationList) (*Member, error){"good": VerifyChain, "good to be renewed": VerifyLapsed} {
			m, err := verify(c.bytes, h.root.Overlay(), h.now, h.list)
			switch {
			case errors.Is(err, ErrRevoked) && c.revoked.IsZero():
				c.revoked = h.now
			case err == nil && !c.revoked.IsZero():
				h.t.Fatalf("chain %d of %v, revoked %v, is %s again after %v", i, m.Peer, c.revoked, what, h.now.Sub(c.revoked))
			case err == nil && !h.out[KeyOf(m.Peer)].IsZero():
				h.t.Fatalf("chain %d of %v, who was revoked, is %s after %v", i, m.Peer, what, h.now.Sub(h.out[KeyOf(m.Peer)]))
			}
		}
	}
}

// TestRevokedOnce: what has been revoked once is revoked at every later date,
// whatever else happens, for whoever still holds a chain, whether to be a member or to be
// made one again, and although delegates confirm that have not heard of it.
func TestRevokedOnce(t *testing.T) {
	for seed := range uint64(12) {
		h := &history{t: t, r: rand.New(rand.NewPCG(18, seed)), root: testRoot(t), now: epoch, crowd: seed%2 == 1, out: map[Key]time.Time{}}
		h.issuer, h.since, h.lists = []*Issuer{h.root.Issuer()}, []int{0}, []*RevocationList{nil}
		for h.now.Before(epoch.Add(1600 * 24 * time.Hour)) {
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
	delegation := must(root.Delegate(idOf(key), RoleRelay, "", time.Time{}, epoch))(t)
	list := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(key)), Until: epoch.Add(MaxMember + time.Hour)}))(t)
	for day := range 380 {
		now := epoch.Add(time.Duration(day) * 24 * time.Hour)
		list = follow(t, root, list, now)
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
	less := must(root.Revoke(never, epoch, Revocation{Kind: RevokeInvitation, Key: Key{1}, Until: epoch.Add(time.Hour)}, Revocation{Kind: RevokeInvitation, Key: Key{2}, Until: epoch.Add(time.Hour)}, Revocation{Kind: RevokeInvitation, Key: Key{3}}))(t)
	for i, e := range never.Entries() {
		if less.Entries()[i] != e {
			t.Errorf("%v becomes %v", e, less.Entries()[i])
		}
	}
	if _, err := root.Revoke(less, epoch, Revocation{Kind: RevokeInvitation, Key: Key{2}, Until: epoch.Add(time.Hour)}); !errors.Is(err, ErrNothing) {
		t.Errorf("once more: %v", err)
	}
	// The root's clock was set back: the entry lives by the later of the two.
	later := follow(t, root, nil, epoch)
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
		return must(NewDelegate(key, must(root.Delegate(idOf(key), RoleRelay, "", time.Time{}, at))(t), root.Overlay(), at, nil))(t)
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

// TestYearOfRevocations counts what a list costs a member that gets a peer and its
// invitation with each of 100,000 revocations over a year, and asks it for all of them. A
// hello has its number, of eight bytes, whatever is in it.
func TestYearOfRevocations(t *testing.T) {
	root := testRoot(t)
	const n, year = 100_000, 365 * 24 * time.Hour
	var list *RevocationList
	var batch []Revocation
	key := func(i int) Key { return Key{1: byte(i), 2: byte(i >> 8), 3: byte(i >> 16)} }
	for i := range n {
		now := epoch.Add(year / n * time.Duration(i))
		batch = append(batch, Revocation{Kind: RevokePeer, Key: key(i), Until: now.Add(LongestLife)},
			Revocation{Kind: RevokeInvitation, Key: key(i), Until: now.Add(DefaultInvitation + Grace)})
		if len(batch) == 2000 || i == n-1 { // one after the other would sign as often
			list = must(root.Revoke(list, now, batch...))(t)
			batch = batch[:0]
		}
	}
	wire := list.Bytes()
	before := heap()
	list = must(OpenRevocationList(wire, root.Overlay()))(t)
	cost := heap() - before
	t.Logf("%d entries, %d bytes on the wire, %d in memory", list.Len(), len(wire), cost)
	if len(wire) > 1<<20 || cost > 1<<20 {
		t.Errorf("%d bytes on the wire, %d in memory", len(wire), cost)
	}
	if got := list.Len(); got < n || got > n+n/12 {
		t.Errorf("%d entries: those of invitations do not end", got)
	}
	for i := range n {
		if !list.Has(RevokePeer, key(i)) {
			t.Fatalf("peer %d of %d is not revoked any more", i, n)
		}
	}
	if !list.Has(RevokeInvitation, key(n-1)) || list.Has(RevokeInvitation, key(0)) || list.Has(RevokePeer, key(n)) || list.Has(RevokeInvited, key(0)) {
		t.Error("an entry is there that is not, or is not that is")
	}
	// When all has ended nothing is left.
	if end := follow(t, root, list, epoch.Add(year+RevokedFor+week+Tolerance)); end.Len() != 0 {
		t.Errorf("%d entries when all has ended", end.Len())
	}
	runtime.KeepAlive(wire)
}

// heap returns the bytes that live.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestUnite: of two lists that both have what the other lacks, folded or not, comes one
// that has all, whichever was first.
func TestUnite(t *testing.T) {
	root := testRoot(t)
	key := func(list, i int) Key { return Key{byte(list), byte(i), byte(i >> 8)} }
	common := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: key(0, 1), Until: epoch}))(t)
	var lists []*RevocationList
	for n, many := range []int{3 * entriesMax, 5, 2 * entriesMax} {
		var entries []Revocation
		for i := range many {
			entries = append(entries, Revocation{Kind: RevocationKind(1 + i%3), Key: key(n+1, i), Until: epoch.Add(LongestLife - time.Duration(i)*time.Hour)})
		}
		entries = append(entries, Revocation{Kind: RevokeDelegate, Key: key(n+1, 0), Until: epoch.Add(time.Hour), Before: epoch})
		lists = append(lists, must(root.Revoke(common, epoch, entries...))(t))
	}
	for a := range lists {
		for b := range lists {
			both := must(unite(root, lists[a], lists[b], epoch))(t)
			if both.Lacks(lists[a], epoch) != 0 || both.Lacks(lists[b], epoch) != 0 {
				t.Errorf("%d and %d: %d and %d are lost", a, b, both.Lacks(lists[a], epoch), both.Lacks(lists[b], epoch))
			}
			if n := lists[a].Lacks(lists[b], epoch); a != b && n != lists[b].Len()-1 || a == b && n != 0 {
				t.Errorf("%d lacks %d of %d", a, n, b)
			}
			for n, many := range []int{3 * entriesMax, 5, 2 * entriesMax} {
				for i := range many {
					if got := both.Has(RevocationKind(1+i%3), key(n+1, i)); got != (n == a || n == b) {
						t.Fatalf("%d and %d: entry %d of %d: %v", a, b, i, n, got)
					}
				}
			}
			if a != b && both.Len() != lists[a].Len()+lists[b].Len()-1 {
				t.Errorf("%d and %d: %d entries", a, b, both.Len())
			}
			if n := both.Lacks(lists[a], epoch.Add(2*LongestLife)); n != 0 {
				t.Errorf("%d entries that have ended are missed", n)
			}
		}
	}
	var none *RevocationList
	if n := none.Lacks(lists[0], epoch); n != lists[0].Len() || lists[0].Lacks(nil, epoch) != 0 {
		t.Errorf("no list lacks %d of %d", n, lists[0].Len())
	}
	unsigned := unverified(lists[0])
	if _, err := lists[1].Unite(unsigned, epoch); !errors.Is(err, ErrListUnverified) {
		t.Errorf("with one that was not verified: %v", err)
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
