package naming

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

func (w *world) user(chain []byte, user string, slot int) *UserRecord {
	return &UserRecord{User: user, Slot: slot, Seq: Seq(w.now, 0), Issued: w.now, Expires: w.now.Add(MaxUserLife), Info: "q=0.7", Chain: chain}
}

// tagged is a member that has tags and a label.
func (w *world) tagged(t testing.TB, n byte, label string, tags ...string) []byte {
	t.Helper()
	set := must(membership.NewTags(tags))(t)
	return must(w.root.Issuer().Issue(idOf(seedKey(n)), membership.MemberOptions{Label: label, Serial: 1, Tags: set}, w.now))(t)
}

func TestUserAttacks(t *testing.T) {
	w, foreign := newWorld(t), newWorld(t)
	mk, xk := seedKey(1), seedKey(2)
	mars, venus := w.tagged(t, 1, "mars", "user-fred"), w.tagged(t, 2, "venus")
	with := func(change func(*UserRecord)) []byte {
		u := w.user(mars, "sip:fred", 0)
		change(u)
		return must(u.Sign(mk, w.o))(t)
	}
	good := with(func(*UserRecord) {})
	altered := append([]byte(nil), good...)
	altered[len(altered)-1] ^= 1
	revoked := must(w.root.Revoke(nil, w.now, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(idOf(mk))}))(t)
	theirs := must(foreign.user(foreign.tagged(t, 1, "mars", "user-fred"), "sip:fred", 0).Sign(mk, foreign.o))(t)
	for _, test := range []struct {
		name  string
		key   string
		value []byte
		off   time.Duration
		rev   *membership.RevocationList
		tags  []string // by the policy
		want  error
	}{
		{name: "good", value: good},
		{name: "tombstone", value: with(func(u *UserRecord) { u.Tombstone = true })},
		{name: "its own label, which the founder gave", key: UserKey(w.o.ID, "sip:mars", 0), value: with(func(u *UserRecord) { u.User = "sip:mars" })},
		{name: "of another service", key: UserKey(w.o.ID, "xmpp:fred", 0), value: with(func(u *UserRecord) { u.User = "xmpp:fred" })},
		{name: "by the policy", value: must(w.user(venus, "sip:fred", 0).Sign(xk, w.o))(t), tags: []string{"db", "user-fred"}},
		{name: "not granted", value: must(w.user(venus, "sip:fred", 0).Sign(xk, w.o))(t), want: ErrUser},
		{name: "the policy has taken the tag away", value: good, tags: []string{}, want: ErrUser},
		{name: "for another user", key: UserKey(w.o.ID, "sip:wilma", 0), value: with(func(u *UserRecord) { u.User = "sip:wilma" }), want: ErrUser},
		{name: "replayed under another slot's key", key: UserKey(w.o.ID, "sip:fred", 1), value: good, want: ErrWrongKey},
		{name: "under a name's key", key: Key(w.o.ID, "fred", 0), value: good, want: ErrWrongKey},
		{name: "of another overlay", value: theirs, want: membership.ErrWrongOverlay},
		{name: "altered", value: altered, want: ErrSignature},
		{name: "cut", value: good[:len(good)-1], want: ErrNonCanonical},
		{name: "expired", value: good, off: MaxUserLife + membership.Tolerance + time.Second, want: ErrExpired},
		{name: "lives too long", value: with(func(u *UserRecord) { u.Expires = u.Expires.Add(time.Second) }), want: ErrLifetime},
		{name: "seq from the future", value: with(func(u *UserRecord) { u.Seq += uint64(2 * membership.Tolerance.Milliseconds()) }), want: ErrFuture},
		{name: "revoked", value: good, rev: revoked, want: membership.ErrRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := &Validator{Overlay: w.o, Now: func() time.Time { return w.now.Add(test.off) }, Revoked: func() *membership.RevocationList { return test.rev }}
			if test.tags != nil {
				v.Tags = func(*membership.Member) []string { return test.tags }
			}
			if test.key == "" {
				test.key = UserKey(w.o.ID, "sip:fred", 0)
			}
			if err := v.Validate(test.key, test.value); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	for n := range good {
		if _, err := ParseUser(good[:n]); err == nil {
			t.Fatalf("%d of %d bytes are taken", n, len(good))
		}
	}
	if peer, _, ok := Origin(good); !ok || peer != idOf(mk) {
		t.Error("a user record is charged to nobody")
	}
}

// TestMaySay: the founder's word makes a user name, and nobody else's.
func TestMaySay(t *testing.T) {
	w := newWorld(t)
	dk, mk := seedKey(3), seedKey(1)
	delegate := must(membership.NewDelegate(dk, must(w.root.Delegate(idOf(dk), 0, "", w.now.Add(24*time.Hour), w.now))(t), w.o, w.now, nil))(t)
	byDelegate := must(delegate.Issue(idOf(mk), membership.MemberOptions{Label: "fred", Serial: uint64(w.now.UnixMilli())}, w.now))(t)
	wild := w.confirmed(t, mk, "fred", true, 1)
	for _, test := range []struct {
		name  string
		chain []byte
		tags  []string
		user  string
		want  bool
	}{
		{"named by the founder", w.confirmed(t, mk, "fred", false, 1), nil, "sip:fred", true},
		{"another's label", w.confirmed(t, mk, "fred", false, 1), nil, "sip:freda", false},
		{"named by an invitation, not confirmed", w.provisional(t, mk, "fred", "fred"), nil, "sip:fred", false},
		{"has chosen the label", wild, nil, "sip:fred", false},
		{"named by a delegate", byDelegate, nil, "sip:fred", false},
		{"has the tag", wild, []string{"user-wilma", "user-fred"}, "sip:fred", true},
		{"has a tag that is like it", wild, []string{"fred", "user-freda", "user-"}, "sip:fred", false},
		{"no service", wild, []string{"user-fred"}, "fred", false},
	} {
		m := must(membership.VerifyChain(test.chain, w.o, w.now, nil))(t)
		w.v.Tags = func(*membership.Member) []string { return test.tags }
		if err := w.v.MaySay(m, test.user); (err == nil) != test.want || err != nil && !errors.Is(err, ErrUser) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestCheckUser(t *testing.T) {
	for _, s := range []string{"sip:fred", "sip:1234", "xmpp:a-b", "a1:x", "sip:" + strings.Repeat("x", 58)} {
		if err := CheckUser(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "fred", ":fred", "sip:", "SIP:fred", "sip:Fred", "sip:fred@example.com", "1a:x", "sip:-x", "sip:x-", "sip:a.b",
		"sip:a:b", "s-p:x", "abcdefghijklmnopq:x", "sip:" + strings.Repeat("x", 59), "sip:fred\x00", "sip:fräd"} {
		if err := CheckUser(s); !errors.Is(err, ErrUser) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestUserNewest: under one key the newest counts, whose ever it is, in any order.
func TestUserNewest(t *testing.T) {
	w := newWorld(t)
	key := UserKey(w.o.ID, "sip:fred", 2)
	var values [][]byte
	for n := range byte(4) {
		u := w.user(w.tagged(t, n+1, fmt.Sprint("peer", n), "user-fred"), "sip:fred", 2)
		u.Seq -= uint64(n % 3)
		u.Tombstone = n == 1
		values = append(values, must(u.Sign(seedKey(n+1), w.o))(t))
	}
	best := string(values[must(w.v.Select(key, values))(t)])
	if u := must(ParseUser([]byte(best)))(t); u.Seq != Seq(w.now, 0) {
		t.Errorf("that of %v counts", u.Peer)
	}
	for range values {
		values = append(values[1:], values[0])
		if again := must(w.v.Select(key, values))(t); string(values[again]) != best {
			t.Error("the order of the values decides")
		}
	}
}
