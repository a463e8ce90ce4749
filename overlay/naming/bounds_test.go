package naming

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// What stands in records and in the node's state.
func TestConstants(t *testing.T) {
	if MaxRecord != 2048 || MaxLife != 4*time.Hour || MaxContactLife != time.Hour || MaxMembers != 3 || MaxRelays != 2 || MaxAddrs != 8 ||
		Replicas != 3 || MaxPins != 4096 || highWaterVersion != 1 || version != 1 || kindName != 'N' || kindContact != 'C' || kindRevocation != 'R' ||
		provisionalWildcard != 1 || provisionalNamed != 2 || confirmedWildcard != 3 || confirmedNamed != 4 || membership.Tolerance != 10*time.Minute {
		t.Error("a constant changed: that is another version of the format")
	}
}

// Both sides of each bound of time and of seq.
func TestTimeBounds(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	r := w.record(chain, "mars")
	name := w.sign(t, mk, r)
	ms := uint64(w.now.UnixMilli())
	for _, c := range []struct {
		off  time.Duration
		want error
	}{
		{-10 * time.Minute, nil}, {-10*time.Minute - time.Nanosecond, ErrNotYetValid},
		{MaxLife + 10*time.Minute, nil}, {MaxLife + 10*time.Minute + time.Nanosecond, ErrExpired},
	} {
		at := w.now
		w.now = at.Add(c.off)
		if err := w.v.Validate(Key(w.o.ID, "mars", 0), name); !errors.Is(err, c.want) {
			t.Errorf("%v off: %v", c.off, err)
		}
		w.now = at
	}
	for seq, want := range map[uint64]error{0: nil, ms + 10*60*1000: nil, ms + 10*60*1000 + 1: ErrFuture} {
		r := w.record(chain, "mars")
		r.Seq = seq
		if err := w.v.Validate(Key(w.o.ID, "mars", 0), w.sign(t, mk, r)); !errors.Is(err, want) {
			t.Errorf("seq %d: %v", seq, err)
		}
	}
	for life, want := range map[time.Duration]error{time.Second: nil, MaxLife: nil, MaxLife + time.Second: ErrLifetime, 0: ErrLifetime, -time.Second: ErrLifetime} {
		r := w.record(chain, "mars")
		r.Expires = r.Issued.Add(life)
		if err := w.v.Validate(Key(w.o.ID, "mars", 0), w.sign(t, mk, r)); !errors.Is(err, want) {
			t.Errorf("a life of %v: %v", life, err)
		}
		c := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(min(life, MaxContactLife)), Chain: chain}
		if life > MaxContactLife {
			c.Expires = c.Issued.Add(MaxContactLife)
			want = nil
		}
		if err := w.v.Validate(ContactKey(w.o.ID, idOf(mk)), must(c.Sign(mk, w.o))(t)); !errors.Is(err, want) {
			t.Errorf("a contact's life of %v: %v", life, err)
		}
	}
	if err := checkTimes("x", time.Unix(-1e9, 0), time.Unix(-1e9+1, 0), 0, MaxLife, time.Unix(-1e9, 0)); !errors.Is(err, ErrFuture) {
		t.Errorf("a clock before 1970: %v", err)
	}
	// A contact record from the future, and one of a revoked peer.
	c := &ContactRecord{Seq: ms + 10*60*1000 + 1, Issued: w.now, Expires: w.now.Add(time.Hour), Chain: chain}
	value := must(c.Sign(mk, w.o))(t)
	if _, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), value); !errors.Is(err, ErrFuture) {
		t.Errorf("a contact's seq: %v", err)
	}
	c.Seq = 1
	value = must(c.Sign(mk, w.o))(t)
	got, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), value)
	if err != nil || got.Member() == nil || got.Member().Peer != idOf(mk) || got.Peer != idOf(mk) || c.Peer != idOf(mk) || c.Member() != nil {
		t.Errorf("%+v, %v", got, err)
	}
	w.rev = must(w.root.Revoke(nil, w.now, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(idOf(mk))}))(t)
	if _, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), value); !errors.Is(err, membership.ErrRevoked) {
		t.Errorf("a revoked peer's contact: %v", err)
	}
	w.v.Revoked = nil
	if _, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), value); err != nil {
		t.Errorf("without a list: %v", err)
	}
	bad := bytes.Clone(value)
	bad[len(bad)-1] ^= 1
	if _, err := w.v.OpenContact(ContactKey(w.o.ID, idOf(mk)), bad); !errors.Is(err, ErrSignature) {
		t.Errorf("a contact's signature: %v", err)
	}
}

// As many hints as there may be, and one more, by who signs and by who reads.
func TestNumbers(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	ids := func(n int) (out []peerid.ID) {
		for i := range n {
			out = append(out, idOf(seedKey(byte(10+i))))
		}
		return out
	}
	addrs := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("/ip4/192.0.2.%d/udp/4001/quic-v1", i))
		}
		return out
	}
	noSig := make([]byte, canon.SignatureSize)
	for _, c := range []struct {
		members, relays, addrs int
		ok                     bool
	}{{3, 2, 8, true}, {0, 0, 0, true}, {4, 0, 0, false}, {0, 3, 0, false}, {3, 3, 0, false}, {4, 2, 0, false}, {3, 2, 9, false}, {0, 0, 255, false}} {
		r := w.record(chain, "mars")
		r.Contact = Contact{ids(c.members), ids(c.relays)}
		named := c.ok || c.addrs > 8 // a name has no addresses
		if _, err := r.Sign(mk, w.o); (err == nil) != named || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: a name is signed: %v", c, err)
		}
		got, err := Parse(append(r.appendBody(nil), noSig...))
		if (err == nil) != named || err != nil && !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%+v: a name is read: %v", c, err)
		}
		if err == nil && (!slices.Equal(got.Contact.Members, r.Contact.Members) || !slices.Equal(got.Contact.Relays, r.Contact.Relays) || !bytes.Equal(got.Chain, chain)) {
			t.Errorf("%+v: %+v", c, got)
		}
		k := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Contact: r.Contact, Addrs: addrs(c.addrs), Chain: chain}
		if _, err := k.Sign(mk, w.o); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%+v: a contact is signed: %v", c, err)
		}
		if c.addrs == 255 {
			continue
		}
		body, err := k.appendBody(nil)
		if err != nil {
			t.Fatal(err)
		}
		gotC, err := ParseContact(append(body, noSig...))
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%+v: a contact is read: %v", c, err)
		}
		if err == nil && (!slices.Equal(gotC.Addrs, k.Addrs) || gotC.Seq != 1 || !gotC.Expires.Equal(k.Expires)) {
			t.Errorf("%+v: %+v", c, gotC)
		}
	}
	for what, addr := range map[string]string{"no address": "192.0.2.1", "a long one": "/dns4/" + strings.Repeat("a", 300) + "/udp/1"} {
		k := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Addrs: []string{addr}, Chain: chain}
		if _, err := k.Sign(mk, w.o); err == nil {
			t.Errorf("%s is signed", what)
		}
	}
	// The length of an address stands in one byte.
	for n, want := range map[int]error{255: nil, 256: ErrTooLarge} {
		addr := ma.StringCast("/dns4/" + strings.Repeat("a", n-7) + "/udp/1")
		if len(addr.Bytes()) != n {
			t.Fatalf("%d bytes, not %d", len(addr.Bytes()), n)
		}
		k := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Addrs: []string{addr.String()}, Chain: chain}
		if _, err := k.Sign(mk, w.o); !errors.Is(err, want) {
			t.Errorf("an address of %d bytes is signed: %v", n, err)
		}
	}
	k := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Addrs: addrs(1), Chain: chain}
	body, _ := k.appendBody(nil)
	at := bytes.Index(body, []byte{4, 192, 0, 2, 0})
	body[at] = 0xff // no protocol
	if _, err := ParseContact(append(body, noSig...)); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("an address that is none is read: %v", err)
	}
}

// Sizes, kinds and versions, both sides of each, and chains that are no member's.
func TestForms(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	for n, want := range map[int]error{MaxRecord: ErrNonCanonical, MaxRecord + 1: ErrTooLarge} {
		for _, kind := range []byte{kindName, kindContact} {
			b := append([]byte{kind, version}, make([]byte, n-2)...)
			parse := func() error { _, err := Parse(b); return err }
			if kind == kindContact {
				parse = func() error { _, err := ParseContact(b); return err }
			}
			if err := parse(); !errors.Is(err, want) || want == ErrNonCanonical && errors.Is(err, ErrTooLarge) {
				t.Errorf("%c of %d bytes: %v", kind, n, err)
			}
		}
	}
	for what, b := range map[string][]byte{"nothing": nil, "another kind": {kindContact, version}, "a kind only": {kindName}} {
		if _, err := Parse(b); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Parse([]byte{kindContact, 2}); !errors.Is(err, ErrNonCanonical) || errors.Is(err, ErrVersion) {
		t.Errorf("another kind's version: %v", err)
	}
	invitation := must(membership.Certificates(w.provisional(t, mk, "mars", "")))(t)
	for what, chain := range map[string][]byte{"none": nil, "garbage": {1, 2, 3}, "half": chain[:len(chain)/2]} {
		if _, err := w.record(chain, "mars").Sign(mk, w.o); err == nil {
			t.Errorf("a chain that is %s is signed", what)
		}
		if _, err := (&ContactRecord{Issued: w.now, Expires: w.now.Add(1e9), Chain: chain}).Sign(mk, w.o); err == nil {
			t.Errorf("a contact with a chain that is %s is signed", what)
		}
		if _, err := Parse(append(w.record(chain, "mars").appendBody(nil), make([]byte, 64)...)); err == nil {
			t.Errorf("a chain that is %s is read", what)
		}
	}
	_ = invitation
	for what, key := range map[string]ed25519.PrivateKey{"short": mk[:63], "none": nil, "another's": seedKey(2), "another's half": append(bytes.Clone(mk[:32]), seedKey(2)[32:]...)} {
		if _, err := w.record(chain, "mars").Sign(key, w.o); !errors.Is(err, ErrSignature) {
			t.Errorf("a key that is %s: %v", what, err)
		}
	}
	if _, err := w.record(chain, "Mars!").Sign(mk, w.o); !errors.Is(err, membership.ErrBadLabel) {
		t.Errorf("a bad label is signed: %v", err)
	}
	bad := w.record(chain, "Mars!")
	if _, err := Parse(append(bad.appendBody(nil), make([]byte, 64)...)); !errors.Is(err, membership.ErrBadLabel) {
		t.Errorf("a bad label is read: %v", err)
	}
	// A record keeps the bytes that it came as.
	value := w.sign(t, mk, w.record(chain, "mars"))
	r := must(Parse(value))(t)
	value[0] ^= 1
	if r.value[0] != kindName || r.Member() != nil || r.Peer != idOf(mk) {
		t.Error("a record aliases what was parsed")
	}
}

func TestRevocationForms(t *testing.T) {
	w := newWorld(t)
	list := w.follow(t, nil)
	good := RevocationValue(list)
	key := RevocationKey(w.o.ID)
	got, err := w.v.OpenRevocation(key, good)
	if err != nil || !bytes.Equal(got.Bytes(), list.Bytes()) || good[0] != 'R' || good[1] != 1 {
		t.Errorf("%v", err)
	}
	for what, c := range map[string]struct {
		key   string
		value []byte
		want  error
	}{
		"another key": {Key(w.o.ID, "mars", 0), good, ErrWrongKey}, "nothing": {key, nil, ErrNonCanonical}, "one byte": {key, good[:1], ErrNonCanonical},
		"two bytes": {key, good[:2], ErrNonCanonical}, "another kind": {key, append([]byte{'N'}, good[1:]...), ErrNonCanonical},
		"another version": {key, append([]byte{'R', 2}, good[2:]...), ErrVersion},
	} {
		if l, err := w.v.OpenRevocation(c.key, c.value); !errors.Is(err, c.want) || l != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Of equal lists none is before the other; else the newer counts, from both
	// sides.
	l2 := w.follow(t, list)
	a, b := rank{list: list, value: good}, rank{list: l2, value: RevocationValue(l2)}
	if a.compare(b) != -1 || b.compare(a) != 1 || a.compare(a) != 0 {
		t.Errorf("%d, %d, %d", a.compare(b), b.compare(a), a.compare(a))
	}
}

// Keys are ours in one spelling only.
func TestKeyForm(t *testing.T) {
	w := newWorld(t)
	good := Key(w.o.ID, "mars", 0)
	if !isKey(good) || len(good) != len("/idloc/")+64 {
		t.Errorf("%q", good)
	}
	for _, s := range []string{"", "/idloc/", good[1:], good[:len(good)-1], good + "0", good[:len(good)-1] + "g", strings.ToUpper(good), "/idloc2" + good[6:]} {
		if isKey(s) {
			t.Errorf("%q is a key", s)
		}
	}
	keys := Keys(w.o.ID, "mars")
	for i, k := range keys {
		if k != Key(w.o.ID, "mars", i) {
			t.Errorf("key %d", i)
		}
	}
	if keys[0] == keys[1] || keys[1] == keys[2] || keys[0] == keys[2] {
		t.Error("two replicas have one key")
	}
	if p, ok := PeerLabel("z" + idOf(seedKey(1)).Label()[1:]); ok {
		t.Errorf("another alphabet's spelling is %v", p)
	}
	if p, ok := PeerLabel("k"); ok || !p.IsZero() {
		t.Errorf("k is %v", p)
	}
}

// Authority, class, serial and tie, in this order, each from both sides.
func TestStanding(t *testing.T) {
	o := [32]byte{1}
	for _, c := range []struct {
		m      membership.Member
		class  class
		serial uint64
	}{
		{membership.Member{Confirmed: true, Wildcard: true, Serial: 7}, confirmedWildcard, 7},
		{membership.Member{Confirmed: true, Serial: 7}, confirmedNamed, 7},
		{membership.Member{Wildcard: true, Serial: 7}, provisionalWildcard, 0},
		{membership.Member{Serial: 7}, provisionalNamed, 0},
	} {
		s := standingOf(&c.m, o, "mars")
		if s.Class != c.class || !s.Root || s.Serial != c.serial || s.Tie != tie(o, "mars", c.m.Peer) {
			t.Errorf("%+v: %+v", c.m, s)
		}
	}
	order := []standing{ // the best first
		{Class: 4, Root: true, Serial: 8, Tie: membership.Key{9}}, {Class: 4, Root: true, Serial: 9, Tie: membership.Key{0}},
		{Class: 3, Root: true, Serial: 1, Tie: membership.Key{9}}, {Class: 3, Root: true, Serial: 2, Tie: membership.Key{1}},
		{Class: 3, Root: true, Serial: 2, Tie: membership.Key{2}}, {Class: 4, Serial: 0, Tie: membership.Key{0}}, {Class: 3, Serial: 0},
		{Class: 2, Root: true, Tie: membership.Key{0}}, {Class: 1, Root: true, Tie: membership.Key{0}}, {Class: 2, Tie: membership.Key{0}}, {Class: 1},
	}
	for i, a := range order {
		for j, b := range order {
			if got := a.compare(b); got != max(-1, min(1, j-i)) {
				t.Errorf("%d and %d: %d", i, j, got)
			}
		}
	}
	if tie(o, "mars", peerid.ID{1}) == tie(o, "venus", peerid.ID{1}) || tie(o, "mars", peerid.ID{1}) == tie(o, "mars", peerid.ID{2}) ||
		tie(o, "mars", peerid.ID{1}) == tie([32]byte{2}, "mars", peerid.ID{1}) {
		t.Error("two ties are one")
	}
}

// What a HighWater forgets first, each criterion by itself.
func TestPinOrder(t *testing.T) {
	now := time.Unix(1e9, 0)
	base := pin{Label: "m", Seen: now, Until: now.Add(time.Hour), standing: standing{Class: 2}}
	change := func(f func(*pin)) pin { p := base; f(&p); return p }
	if base.before(base, now) {
		t.Error("a pin goes before itself")
	}
	for what, earlier := range map[string]pin{
		"given up":     change(func(p *pin) { p.Released, p.Class, p.Seen = true, 4, now.Add(time.Hour) }),
		"ended":        change(func(p *pin) { p.Until, p.Class = now.Add(-10*time.Minute-1), 4 }),
		"weaker":       change(func(p *pin) { p.Class, p.Seen = 1, now.Add(time.Hour) }),
		"longer ago":   change(func(p *pin) { p.Seen, p.Label = now.Add(-1), "z" }),
		"by its label": change(func(p *pin) { p.Label = "a" }),
	} {
		if !earlier.before(base, now) || base.before(earlier, now) {
			t.Errorf("%s: not before", what)
		}
	}
	if edge := change(func(p *pin) { p.Until = now.Add(-10 * time.Minute) }); edge.free(now) {
		t.Error("a label is free within the tolerance of its end")
	}
}

// What a HighWater says of labels, of records behind, and of others' tombstones.
func TestHighWaterAnswers(t *testing.T) {
	w := newWorld(t)
	a, b := seedKey(1), seedKey(2)
	confA, confB := w.confirmed(t, a, "mars", false, 1), w.confirmed(t, b, "mars", true, 2)
	rec := func(k ed25519.PrivateKey, chain []byte, seq uint64, dead bool) *Record {
		r := w.record(chain, "mars")
		r.Seq, r.Tombstone = seq, dead
		return w.open(t, "mars", w.sign(t, k, r))
	}
	h := &HighWater{Now: func() time.Time { return w.now }}
	if err := h.Accept(nil); !errors.Is(err, ErrUnverified) {
		t.Errorf("nothing: %v", err)
	}
	if h.Behind(rec(a, confA, 1, false)) {
		t.Error("behind nothing")
	}
	if id, ok := h.Peer("mars"); ok || !id.IsZero() {
		t.Errorf("nobody is %v", id)
	}
	if err := h.Accept(rec(a, confA, 5, false)); err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[uint64]bool{4: true, 5: false, 6: false} {
		if h.Behind(rec(a, confA, seq, false)) != want || h.Behind(rec(b, confB, seq, false)) {
			t.Errorf("seq %d", seq)
		}
	}
	h.Forget(idOf(b))
	if id, ok := h.Peer("mars"); !ok || id != idOf(a) || h.Len() != 1 {
		t.Errorf("%v after another was forgotten", id)
	}
	if err := h.Accept(rec(a, confA, 6, true)); err != nil {
		t.Fatal(err)
	}
	if _, ok := h.Peer("mars"); ok {
		t.Error("who gave it up has it")
	}
	// Another's tombstone on a free label is nothing to remember.
	if err := h.Accept(rec(b, confB, 1, true)); err != nil || h.pins["mars"].Peer != idOf(a) {
		t.Errorf("%v, %v", err, h.pins["mars"].Peer)
	}
	if err := h.Accept(rec(b, confB, 2, false)); err != nil || h.pins["mars"].Peer != idOf(b) {
		t.Errorf("%v, %v", err, h.pins["mars"].Peer)
	}
	p := h.pins["mars"]
	if p.Seq != 2 || p.Released || !p.Seen.Equal(w.now) || p.Class != confirmedWildcard || p.Serial != 2 || p.Until.IsZero() {
		t.Errorf("%+v", p)
	}
	var zero HighWater
	if d := time.Since(zero.now()); d < 0 || d > time.Minute {
		t.Errorf("a clock that is %v off", d)
	}
}

// The stored form: as many pins as there may be, and each thing that is wrong.
func TestHighWaterForm(t *testing.T) {
	many := func(n int) []byte {
		out := highWaterJSON{Version: 1}
		for i := range n {
			out.Pins = append(out.Pins, pin{Label: fmt.Sprint("x", i), Peer: peerid.ID{1}, standing: standing{Class: 1}})
		}
		return must(json.Marshal(out))(t)
	}
	h := new(HighWater)
	if err := json.Unmarshal(many(MaxPins), h); err != nil || h.Len() != MaxPins {
		t.Errorf("%d pins: %v", h.Len(), err)
	}
	if err := json.Unmarshal(many(MaxPins+1), h); !errors.Is(err, ErrTooLarge) || h.Len() != MaxPins {
		t.Errorf("one more: %v, %d", err, h.Len())
	}
	one := func(f func(*pin)) []byte {
		p := pin{Label: "mars", Peer: peerid.ID{1}, standing: standing{Class: 1}}
		f(&p)
		return must(json.Marshal(highWaterJSON{1, []pin{p}}))(t)
	}
	for what, c := range map[string]struct {
		f    func(*pin)
		want error
	}{
		"class 0": {func(p *pin) { p.Class = 0 }, ErrNonCanonical}, "class 5": {func(p *pin) { p.Class = 5 }, ErrNonCanonical},
		"nobody": {func(p *pin) { p.Peer = peerid.ID{} }, ErrNonCanonical}, "a bad label": {func(p *pin) { p.Label = "-" }, membership.ErrBadLabel},
	} {
		if err := json.Unmarshal(one(c.f), h); !errors.Is(err, c.want) || h.Len() != MaxPins {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, c := range []class{1, 4} {
		if err := json.Unmarshal(one(func(p *pin) { p.Class = c }), new(HighWater)); err != nil {
			t.Errorf("class %d: %v", c, err)
		}
	}
	twice := must(json.Marshal(highWaterJSON{1, []pin{{Label: "a", Peer: peerid.ID{1}, standing: standing{Class: 1}}, {Label: "a", Peer: peerid.ID{1}, standing: standing{Class: 1}}}}))(t)
	if err := json.Unmarshal(twice, h); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a label twice: %v", err)
	}
	if err := json.Unmarshal([]byte(`{"version":2,"pins":[]}`), h); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
	sorted := new(HighWater)
	if err := json.Unmarshal(many(12), sorted); err != nil {
		t.Fatal(err)
	}
	var out highWaterJSON
	if err := json.Unmarshal(must(json.Marshal(sorted))(t), &out); err != nil || out.Version != 1 ||
		!slices.IsSortedFunc(out.Pins, func(a, b pin) int { return strings.Compare(a.Label, b.Label) }) || len(out.Pins) != 12 {
		t.Errorf("%+v, %v", out, err)
	}
}
