package naming

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	record "github.com/libp2p/go-libp2p-record"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func idOf(key ed25519.PrivateKey) peerid.ID { return peerid.ID(key.Public().(ed25519.PublicKey)) }

// world is one overlay at one instant.
type world struct {
	root *membership.Root
	o    membership.Overlay
	now  time.Time
	rev  *membership.RevocationList
	v    *Validator
}

func newWorld(t testing.TB) *world {
	w := &world{root: must(membership.NewRoot("example.com"))(t), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.o = w.root.Overlay()
	w.v = &Validator{Overlay: w.o, Now: func() time.Time { return w.now }, Revoked: func() *membership.RevocationList { return w.rev }}
	return w
}

// provisional returns the chain of key by an invitation for label ("*": any).
func (w *world) provisional(t testing.TB, key ed25519.PrivateKey, invited, label string) []byte {
	t.Helper()
	token := must(w.root.Issuer().Invite(membership.InviteOptions{Label: invited}, w.now))(t)
	return must(token.SelfIssue(key, label, w.now))(t)
}

func (w *world) confirmed(t testing.TB, key ed25519.PrivateKey, label string, wildcard bool, serial uint64) []byte {
	t.Helper()
	return must(w.root.Issuer().Issue(idOf(key), membership.MemberOptions{Label: label, Wildcard: wildcard, Serial: serial}, w.now))(t)
}

func (w *world) record(chain []byte, label string) *Record {
	return &Record{Label: label, Seq: Seq(w.now, 0), Issued: w.now, Expires: w.now.Add(MaxLife), Chain: chain}
}

func (w *world) sign(t testing.TB, key ed25519.PrivateKey, r *Record) []byte {
	t.Helper()
	return must(r.Sign(key, w.o))(t)
}

func (w *world) open(t testing.TB, label string, value []byte) *Record {
	t.Helper()
	return must(w.v.Open(Key(w.o.ID, label, 0), value))(t)
}

func TestValidateAttacks(t *testing.T) {
	w, foreign := newWorld(t), newWorld(t)
	mk, xk, dk := seedKey(1), seedKey(2), seedKey(3)
	chain := w.provisional(t, mk, "mars", "")
	key := Key(w.o.ID, "mars", 0)
	with := func(f func(*Record)) []byte {
		r := w.record(chain, "mars")
		f(r)
		return w.sign(t, mk, r)
	}
	good := with(func(*Record) {})
	revoke := func(kind membership.RevocationKind, k membership.Key) *membership.RevocationList {
		return must(w.root.Revoke(nil, w.now, membership.Revocation{Kind: kind, Key: k}))(t)
	}
	delegation := must(w.root.Delegate(idOf(dk), 0, "", time.Time{}, w.now))(t)
	delegate := must(membership.NewDelegate(dk, delegation, w.o, w.now, nil))(t)
	token := must(delegate.Invite(membership.InviteOptions{Label: "mars"}, w.now))(t)
	below := w.sign(t, mk, w.record(must(token.SelfIssue(mk, "", w.now))(t), "mars"))
	wild := w.record(w.provisional(t, mk, "*", "*"), "mars")

	for _, test := range []struct {
		name  string
		key   string
		value []byte
		off   time.Duration
		rev   *membership.RevocationList
		want  error
	}{
		{name: "good", value: good},
		{name: "second key", key: Key(w.o.ID, "mars", 1), value: good},
		{name: "third key", key: Key(w.o.ID, "mars", 2), value: good},
		{name: "tombstone", value: with(func(r *Record) { r.Tombstone = true })},
		{name: "any label", value: w.sign(t, mk, wild)},
		{name: "below a delegate", value: below},
		{name: "storer's clock 9 min behind", value: good, off: -9 * time.Minute},
		{name: "storer's clock 9 min ahead of the end", value: good, off: MaxLife + 9*time.Minute},

		{name: "fourth key", key: Key(w.o.ID, "mars", 3), value: good, want: ErrWrongKey},
		{name: "another label's key", key: Key(w.o.ID, "venus", 0), value: good, want: ErrWrongKey},
		{name: "another overlay's key", key: Key(foreign.o.ID, "mars", 0), value: good, want: ErrWrongKey},
		{name: "contact's key", key: ContactKey(w.o.ID, idOf(mk)), value: good, want: ErrWrongKey},
		{name: "another namespace", key: "/pk/" + key[7:], value: good, want: ErrWrongKey},
		{name: "upper-case key", key: "/idloc/" + strings.ToUpper(key[7:]), value: good, want: ErrWrongKey},
		{name: "empty", value: nil, want: ErrNonCanonical},
		{name: "unknown kind", value: []byte("X"), want: ErrNonCanonical},
		{name: "newer version", value: append([]byte{'N', 2}, good[2:]...), want: ErrVersion},
		{name: "unknown flag", value: append([]byte{'N', 1, 2}, good[3:]...), want: ErrNonCanonical},
		{name: "bytes after the end", value: append(bytes.Clone(good), 0), want: ErrNonCanonical},
		{name: "oversized", value: append(bytes.Clone(good), make([]byte, MaxRecord)...), want: ErrTooLarge},
		{name: "expired", value: good, off: MaxLife + 11*time.Minute, want: ErrExpired},
		{name: "issued in the future", value: good, off: -11 * time.Minute, want: ErrNotYetValid},
		{name: "lives too long", value: with(func(r *Record) { r.Expires = r.Issued.Add(MaxLife + time.Second) }), want: ErrLifetime},
		{name: "ends before it begins", value: with(func(r *Record) { r.Expires = r.Issued }), want: ErrLifetime},
		{name: "seq from the future", value: with(func(r *Record) { r.Seq += 11 * 60 * 1000 }), want: ErrFuture},
		{name: "greatest seq", value: with(func(r *Record) { r.Seq = 1<<64 - 1 }), want: ErrFuture},
		{name: "signature of another record", value: append(bytes.Clone(good[:len(good)-64]), below[len(below)-64:]...), want: ErrSignature},
		{name: "label not in the certificate", key: Key(w.o.ID, "venus", 0), value: w.sign(t, mk, w.record(chain, "venus")), want: ErrLabel},
		{name: "signed for another overlay", value: must(w.record(chain, "mars").Sign(mk, foreign.o))(t), want: ErrSignature},
		{name: "another overlay's chain", value: must(w.record(foreign.provisional(t, mk, "mars", ""), "mars").Sign(mk, w.o))(t), want: membership.ErrWrongOverlay},
		{name: "peer revoked", value: good, rev: revoke(membership.RevokePeer, membership.KeyOf(idOf(mk))), want: membership.ErrRevoked},
		{name: "invitation revoked", value: below, rev: revoke(membership.RevokeInvitation, token.Invitation().Subject), want: membership.ErrRevoked},
		{name: "delegate revoked", value: below, rev: revoke(membership.RevokeDelegate, membership.KeyOf(idOf(dk))), want: membership.ErrRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := w.now
			w.now, w.rev = at.Add(test.off), test.rev
			defer func() { w.now, w.rev = at, nil }()
			k := test.key
			if k == "" {
				k = key
			}
			if err := w.v.Validate(k, test.value); !errors.Is(err, test.want) {
				t.Errorf("%v; want %v", err, test.want)
			}
			if _, err := w.v.Select(k, [][]byte{test.value}); (err != nil) != (test.want != nil) {
				t.Errorf("Select: %v", err)
			}
		})
	}
	if _, err := w.record(chain, "mars").Sign(xk, w.o); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by another peer: %v", err)
	}
	if _, err := w.record(chain, idOf(xk).Label()).Sign(mk, w.o); !errors.Is(err, membership.ErrBadLabel) {
		t.Errorf("a peer ID as label: %v", err)
	}
}

// Every bit of a value counts.
func TestFlips(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	r := w.record(w.provisional(t, mk, "mars", ""), "mars")
	r.Contact = Contact{Members: []peerid.ID{idOf(seedKey(5))}, Relays: []peerid.ID{idOf(seedKey(6))}}
	c := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(MaxContactLife), Chain: r.Chain, Addrs: []string{"/ip4/192.0.2.1/udp/4001/quic-v1"}}
	for key, value := range map[string][]byte{
		Key(w.o.ID, "mars", 1):       w.sign(t, mk, r),
		ContactKey(w.o.ID, idOf(mk)): must(c.Sign(mk, w.o))(t),
		RevocationKey(w.o.ID):        RevocationValue(w.follow(t, nil)),
	} {
		if err := w.v.Validate(key, value); err != nil {
			t.Fatal(err)
		}
		for i := range value {
			for bit := range 8 {
				b := bytes.Clone(value)
				b[i] ^= 1 << bit
				if w.v.Validate(key, b) == nil {
					t.Fatalf("%c: bit %d of byte %d flipped", value[0], bit, i)
				}
			}
			if w.v.Validate(key, value[:i]) == nil {
				t.Fatalf("%c: cut at %d", value[0], i)
			}
		}
	}
}

// The largest record there can be: longest label, delegate in the chain, all
// hints, stays within MaxRecord.
func TestLargestRecord(t *testing.T) {
	w := newWorld(t)
	mk, dk := seedKey(1), seedKey(2)
	label := strings.Repeat("a", 63)
	delegate := must(membership.NewDelegate(dk, must(w.root.Delegate(idOf(dk), membership.RoleRelay, "", time.Time{}, w.now))(t), w.o, w.now, nil))(t)
	token := must(delegate.Invite(membership.InviteOptions{Label: label, Roles: membership.RoleRelay}, w.now))(t)
	chain := must(token.SelfIssue(mk, "", w.now))(t)
	r := w.record(chain, label)
	for i := range MaxMembers {
		r.Contact.Members = append(r.Contact.Members, idOf(seedKey(byte(10+i))))
	}
	for i := range MaxRelays {
		r.Contact.Relays = append(r.Contact.Relays, idOf(seedKey(byte(20+i))))
	}
	value := w.sign(t, mk, r)
	w.open(t, label, value)
	c := &ContactRecord{Seq: r.Seq, Issued: w.now, Expires: w.now.Add(MaxContactLife), Contact: r.Contact, Chain: chain}
	for i := range MaxAddrs {
		c.Addrs = append(c.Addrs, fmt.Sprintf("/ip6/2001:db8::%d/udp/4001/quic-v1", i))
	}
	contact := must(c.Sign(mk, w.o))(t)
	if _, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), contact); err != nil {
		t.Error(err)
	}
	t.Logf("chain %d bytes, name record %d, contact record %d", len(chain), len(value), len(contact))
	if max(len(value), len(contact)) > MaxRecord {
		t.Error("too large")
	}
}

// contenders returns records for one label of each class, several peers, seqs,
// tombstones; the first is the one that must win.
func contenders(t testing.TB, w *world) (key string, values [][]byte) {
	add := func(k ed25519.PrivateKey, chain []byte, seq uint64, dead bool) {
		r := w.record(chain, "mars")
		r.Seq, r.Tombstone = seq, dead
		values = append(values, w.sign(t, k, r))
	}
	a := w.confirmed(t, seedKey(1), "mars", false, 9)
	add(seedKey(1), a, 3, false)
	add(seedKey(1), a, 2, false)
	add(seedKey(1), a, 2, true)
	add(seedKey(2), w.confirmed(t, seedKey(2), "mars", true, 4), 8, false)
	add(seedKey(3), w.confirmed(t, seedKey(3), "mars", true, 5), 9, false)
	add(seedKey(4), w.provisional(t, seedKey(4), "mars", ""), 7, false)
	add(seedKey(5), w.provisional(t, seedKey(5), "*", "mars"), 6, true)
	for i := byte(6); i < 9; i++ {
		add(seedKey(i), w.provisional(t, seedKey(i), "*", "*"), uint64(i), false)
	}
	add(seedKey(1), w.provisional(t, seedKey(1), "*", "mars"), 10, false) // newer, of a lower class
	return Key(w.o.ID, "mars", 0), values
}

func TestSelectIsATotalOrder(t *testing.T) {
	w := newWorld(t)
	key, values := contenders(t, w)
	var ranks []rank
	for _, v := range values {
		ranks = append(ranks, must(w.v.open(key, v))(t))
	}
	for i, a := range ranks {
		for j, b := range ranks {
			if ab, ba := a.compare(b), b.compare(a); ab != -ba || (ab == 0) != (i == j) {
				t.Errorf("%d and %d: %d, %d", i, j, ab, ba)
			}
			for k, c := range ranks {
				if a.compare(b) > 0 && b.compare(c) > 0 && a.compare(c) <= 0 {
					t.Errorf("%d > %d > %d, but not %d > %d", i, j, k, i, k)
				}
			}
		}
	}
	// Any order, at once or folded pairwise as kad-dht does, gives the first.
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		order := rng.Perm(len(values))
		var shuffled [][]byte
		best := values[order[0]]
		for _, i := range order {
			shuffled = append(shuffled, values[i])
			n := must(w.v.Select(key, [][]byte{best, values[i]}))(t)
			best = [][]byte{best, values[i]}[n]
		}
		if n := must(w.v.Select(key, shuffled))(t); order[n] != 0 || !bytes.Equal(best, values[0]) {
			t.Fatalf("order %v: %d", order, order[n])
		}
		if r := must(w.v.SelectName("mars", shuffled))(t); r.Peer != idOf(seedKey(1)) || r.Seq != 3 {
			t.Fatalf("order %v: %v", order, r.Peer)
		}
	}
}

func TestSelectIgnoresWhatIsNotValid(t *testing.T) {
	w := newWorld(t)
	key, values := contenders(t, w)
	forged := bytes.Clone(values[0])
	forged[len(forged)-1] ^= 1
	if n := must(w.v.Select(key, [][]byte{forged, nil, values[3]}))(t); n != 2 {
		t.Errorf("selected %d", n)
	}
	if _, err := w.v.Select(key, [][]byte{forged, nil}); !errors.Is(err, ErrNoRecord) {
		t.Errorf("nothing valid: %v", err)
	}
	nv := record.NamespacedValidator{Namespace: w.v}
	if err := nv.Validate(key, values[0]); err != nil {
		t.Errorf("through the namespace: %v", err)
	}
}

func TestSelectContactAndRevocation(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "", false, 1)
	contact := func(seq uint64) []byte {
		c := &ContactRecord{Seq: seq, Issued: w.now, Expires: w.now.Add(MaxContactLife), Chain: chain}
		return must(c.Sign(mk, w.o))(t)
	}
	if n := must(w.v.Select(ContactKey(w.o.ID, idOf(mk)), [][]byte{contact(1), contact(3), contact(2)}))(t); n != 1 {
		t.Errorf("contact %d", n)
	}
	l1 := w.follow(t, nil)
	l2 := w.follow(t, l1)
	if n := must(w.v.Select(RevocationKey(w.o.ID), [][]byte{RevocationValue(l1), RevocationValue(l2)}))(t); n != 1 {
		t.Errorf("list %d", n)
	}
	long := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(MaxContactLife + time.Second), Chain: chain}
	if err := w.v.Validate(ContactKey(w.o.ID, idOf(mk)), must(long.Sign(mk, w.o))(t)); !errors.Is(err, ErrLifetime) {
		t.Errorf("long contact: %v", err)
	}
	if err := w.v.Validate(ContactKey(w.o.ID, idOf(seedKey(2))), contact(1)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another peer's contact key: %v", err)
	}
}

func TestHighWater(t *testing.T) {
	w := newWorld(t)
	a, b, c := seedKey(1), seedKey(2), seedKey(3)
	provA, provB := w.provisional(t, a, "*", "mars"), w.provisional(t, b, "mars", "")
	rec := func(k ed25519.PrivateKey, chain []byte, seq uint64, dead bool) *Record {
		r := w.record(chain, "mars")
		r.Seq, r.Tombstone = seq, dead
		return w.open(t, "mars", w.sign(t, k, r))
	}
	confA, confB, confC := w.confirmed(t, a, "mars", true, 1), w.confirmed(t, b, "mars", true, 2), w.confirmed(t, c, "mars", false, 3)
	h := &HighWater{Now: func() time.Time { return w.now }}
	for i, step := range []struct {
		r    *Record
		want error
	}{
		{w.record(provA, "mars"), ErrUnverified},
		{rec(a, provA, 5, false), nil},
		{rec(a, provA, 5, false), nil},
		{rec(a, provA, 4, false), ErrRolledBack},
		{rec(b, provB, 9, false), ErrPinned}, // though named: provisional
		{rec(b, provB, 9, true), ErrPinned},
		{rec(b, confB, 9, false), nil},
		{rec(a, provA, 10, false), ErrPinned},
		{rec(a, confA, 10, false), nil}, // lower serial
		{rec(b, confB, 10, false), ErrPinned},
		{rec(c, confC, 1, false), nil}, // named before wildcard
		{rec(a, confA, 11, false), ErrPinned},
		{rec(c, confC, 2, true), nil}, // gives it up
		{rec(c, confC, 1, false), ErrRolledBack},
		{rec(b, provB, 1, false), nil},
	} {
		if err := h.Accept(step.r); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v; want %v", i, err, step.want)
		}
		text := must(json.Marshal(h))(t)
		again := &HighWater{Now: h.Now}
		if err := json.Unmarshal(text, again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(must(json.Marshal(again))(t), text) {
			t.Errorf("step %d: JSON differs", i)
		}
		h = again // as after a restart
	}
	if p, ok := h.Peer("mars"); !ok || p != idOf(b) {
		t.Errorf("pinned to %v", p)
	}
	h.Forget(idOf(b))
	if err := h.Accept(rec(a, provA, 1, false)); err != nil {
		t.Errorf("after Forget: %v", err)
	}
	w.now = w.now.Add(membership.MaxMember)
	if _, ok := h.Peer("mars"); ok {
		t.Error("pin outlasts the certificate")
	}
	if err := h.Accept(rec(b, w.provisional(t, b, "*", "mars"), 1, false)); err != nil {
		t.Errorf("after the certificate's end: %v", err)
	}
}

func TestHighWaterBounded(t *testing.T) {
	w := newWorld(t)
	h := &HighWater{Now: func() time.Time { return w.now }}
	named := w.open(t, "mars", w.sign(t, seedKey(1), w.record(w.confirmed(t, seedKey(1), "mars", false, 1), "mars")))
	if err := h.Accept(named); err != nil {
		t.Fatal(err)
	}
	wild := w.open(t, "x", w.sign(t, seedKey(2), w.record(w.provisional(t, seedKey(2), "*", "*"), "x")))
	for i := range MaxPins + 10 {
		r := *wild
		r.Label = fmt.Sprint("x", i)
		if err := h.Accept(&r); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := h.Peer("mars"); !ok || h.Len() != MaxPins {
		t.Errorf("%d pins, the named one kept: %v", h.Len(), ok)
	}
}

func TestHighWaterRefusesDamage(t *testing.T) {
	for _, s := range []string{`{}`, `{"version":2}`, `{"version":1,"pins":[{}]}`, `{"version":1,"x":1}`, `[]`,
		`{"version":1,"pins":[{"label":"mars"}]}`} {
		if err := json.Unmarshal([]byte(s), new(HighWater)); err == nil {
			t.Errorf("%s: taken", s)
		}
	}
}

func TestPeerLabel(t *testing.T) {
	id := idOf(seedKey(1))
	for _, s := range []string{id.Label(), strings.ToUpper(id.Label())} {
		if got, ok := PeerLabel(s); !ok || got != id {
			t.Errorf("%q: %v", s, got)
		}
	}
	for _, s := range []string{"", "mars", id.String(), id.Label()[:61]} {
		if _, ok := PeerLabel(s); ok {
			t.Errorf("%q is a peer", s)
		}
	}
}

func TestSeq(t *testing.T) {
	now := time.UnixMilli(1000)
	if Seq(now, 0) != 1000 || Seq(now, 1000) != 1001 || Seq(now, 5000) != 5001 || Seq(time.UnixMilli(-5), 0) != 1 {
		t.Error("seq")
	}
}

func FuzzValue(f *testing.F) {
	w := newWorld(f)
	_, values := contenders(f, w)
	for _, v := range values[:4] {
		f.Add(v)
	}
	c := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Chain: w.confirmed(f, seedKey(1), "", false, 1),
		Addrs: []string{"/ip4/192.0.2.1/udp/4001/quic-v1", "/dns4/a.example.net/udp/1/quic-v1"}}
	f.Add(must(c.Sign(seedKey(1), w.o))(f))
	f.Add(must(w.user(w.tagged(f, 1, "mars", "user-fred"), "sip:fred", 0).Sign(seedKey(1), w.o))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := Parse(b); err == nil {
			if again := r.appendBody(nil); !bytes.Equal(again, b[:len(b)-64]) {
				t.Fatalf("two forms: %x, %x", b, again)
			}
			w.v.Validate(Key(w.o.ID, r.Label, 0), b)
		}
		if c, err := ParseContact(b); err == nil {
			if again, err := c.appendBody(nil); err != nil || !bytes.Equal(again, b[:len(b)-64]) {
				t.Fatalf("two forms: %x, %x", b, again)
			}
			w.v.Validate(ContactKey(w.o.ID, c.Peer), b)
		}
		if u, err := ParseUser(b); err == nil {
			if again := u.appendBody(nil); !bytes.Equal(again, b[:len(b)-64]) {
				t.Fatalf("two forms: %x, %x", b, again)
			}
			w.v.Validate(UserKey(w.o.ID, u.User, u.Slot), b)
		}
	})
}

func FuzzHighWater(f *testing.F) {
	f.Add([]byte(`{"version":1,"pins":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := new(HighWater)
		if json.Unmarshal(b, h) != nil {
			return
		}
		if err := json.Unmarshal(must(json.Marshal(h))(t), new(HighWater)); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	w := newWorld(b)
	key, values := contenders(b, w)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.v.Validate(key, values[5]); err != nil {
			b.Fatal(err)
		}
	}
}
