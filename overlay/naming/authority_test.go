package naming

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// delegate returns an issuer that the founder has made one at w.now.
func (w *world) delegate(t testing.TB, key ed25519.PrivateKey) *membership.Issuer {
	t.Helper()
	return must(membership.NewDelegate(key, must(w.root.Delegate(idOf(key), membership.RoleRelay, "", time.Time{}, w.now))(t), w.o, w.now, nil))(t)
}

// claim is a record for mars by a chain that an issuer signs.
func (w *world) claim(t testing.TB, i *membership.Issuer, key ed25519.PrivateKey, opts membership.MemberOptions) *Record {
	t.Helper()
	opts.Label = "mars"
	return w.open(t, "mars", w.sign(t, key, w.record(must(i.Issue(idOf(key), opts, w.now))(t), "mars")))
}

// A delegate that confirms a key of its choice under a label that another has, as
// named, with the lowest serial that is taken from it, gets the label of nobody whom
// the founder or an earlier delegate has confirmed: whatever keys it grinds, and with
// readers that have never heard of the holder as with those that know it.
func TestDelegateTakesNoName(t *testing.T) {
	w := newWorld(t)
	early := w.delegate(t, seedKey(1))
	w.now = w.now.Add(time.Hour)
	holders := map[string]*Record{
		"the founder's":                  w.claim(t, w.root.Issuer(), seedKey(2), membership.MemberOptions{Serial: 1 << 40}),
		"the founder's, for any label":   w.claim(t, w.root.Issuer(), seedKey(3), membership.MemberOptions{Serial: uint64(w.now.UnixMilli()), Wildcard: true}),
		"that of an earlier delegate":    w.claim(t, early, seedKey(4), membership.MemberOptions{}),
		"that of one, confirmed earlier": w.claim(t, early, seedKey(5), membership.MemberOptions{Serial: uint64(w.now.Add(-time.Minute).UnixMilli())}),
	}
	w.now = w.now.Add(time.Hour)
	bad := w.delegate(t, seedKey(6))
	for what, holder := range holders {
		h := &HighWater{Now: w.v.Now}
		if err := h.Accept(holder); err != nil {
			t.Fatal(err)
		}
		for i := range byte(40) {
			thief := w.claim(t, bad, seedKey(100+i), membership.MemberOptions{Serial: 0})
			if r := must(w.v.SelectName("mars", [][]byte{thief.value, holder.value}))(t); r.Peer != holder.Peer {
				t.Errorf("%s: key %d has the name", what, i)
			}
			if err := h.Accept(thief); !errors.Is(err, ErrPinned) {
				t.Errorf("%s: a reader that knows the holder: %v", what, err)
			}
		}
	}
}

// Over any history of true records, by issuers of all kinds and at any times: a
// reader leaves a peer that it has pinned only for one whose issuer stands above the
// pinned one's, or that the founder itself has put before it; so no delegate moves
// it from whom an issuer has confirmed. And what readers pick that see all claims
// does not depend on the order in which they come.
func TestPinnedMovesOnAuthority(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 9))
		w := newWorld(t)
		issuers := []*membership.Issuer{w.root.Issuer()}
		for i := range byte(3) {
			issuers = append(issuers, w.delegate(t, seedKey(50+i)))
			w.now = w.now.Add(time.Duration(r.IntN(60)) * time.Minute)
		}
		h := &HighWater{Now: w.v.Now}
		var pinned *Record
		var all [][]byte
		for range 30 {
			w.now = w.now.Add(time.Duration(r.IntN(60)) * time.Second)
			key, issuer := seedKey(byte(r.IntN(6))), issuers[r.IntN(len(issuers))]
			var rec *Record
			if r.IntN(3) == 0 {
				token := must(issuer.Invite(membership.InviteOptions{Label: []string{"mars", "*"}[r.IntN(2)]}, w.now))(t)
				rec = w.open(t, "mars", w.sign(t, key, w.record(must(token.SelfIssue(key, "mars", w.now))(t), "mars")))
			} else {
				rec = w.claim(t, issuer, key, membership.MemberOptions{Serial: uint64(r.Int64N(w.now.UnixMilli())), Wildcard: r.IntN(2) == 0})
			}
			all = append(all, rec.value)
			err := h.Accept(rec)
			switch {
			case pinned == nil || rec.Peer == pinned.Peer:
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			case err == nil:
				was, is := pinned.member, rec.member
				byFounder := is.Confirmed && is.Delegate.IsZero()
				if !is.Confirmed || was.Confirmed && !byFounder {
					t.Fatalf("seed %d: moved from %+v to %+v", seed, was, is)
				}
			case !errors.Is(err, ErrPinned):
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err == nil {
				pinned = rec
			}
		}
		want := must(w.v.SelectName("mars", all))(t)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := must(w.v.SelectName("mars", all))(t); string(got.value) != string(want.value) {
			t.Errorf("seed %d: the order in which they came has decided", seed)
		}
	}
}

// follow returns a list after another that takes nothing back.
func (w *world) follow(t testing.TB, l *membership.RevocationList) *membership.RevocationList {
	t.Helper()
	return must(w.root.SetPolicy(l, fmt.Sprint(l.Seq()), w.now))(t)
}
