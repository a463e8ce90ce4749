package membership

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
)

func mustTags(t testing.TB, words ...string) Tags {
	t.Helper()
	tags, err := NewTags(words)
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

var longestTags = []string{strings.Repeat("a", 63), strings.Repeat("b", 64-1)}

// A chain with as many certificates, and as long names and tags, as there can be is one
// that offers carry.
func TestLongestChain(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	tags := mustTags(t, longestTags...)
	key := seedKey(10)
	delegation := must(root.Delegate(idOf(key), RoleRelay, tags, time.Time{}, epoch))(t)
	delegate := must(NewDelegate(key, delegation, root.Overlay(), epoch, nil))(t)
	label := strings.Repeat("m", maxLabel)
	token := must(delegate.Invite(InviteOptions{Label: label, Roles: RoleRelay, Tags: tags, Expires: 30 * 24 * time.Hour}, epoch))(t)
	chain := must(token.SelfIssue(seedKey(9), "", epoch))(t)
	if len(chain) > MaxChain {
		t.Errorf("%d bytes, %d are carried", len(chain), MaxChain)
	}
	if m, err := VerifyChain(chain, root.Overlay(), epoch, nil); err != nil || m.Tags != tags || m.Label != label {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestNewTags(t *testing.T) {
	t.Parallel()
	many := make([]string, MaxTags+1)
	for i := range many {
		many[i] = fmt.Sprintf("t%d", i)
	}
	for _, c := range []struct {
		words []string
		want  Tags
		bad   bool
	}{
		{nil, "", false},
		{[]string{"web"}, "web", false},
		{[]string{"web", "db", "web"}, "db,web", false},
		{[]string{"a-1"}, "a-1", false},
		{[]string{""}, "", true},
		{[]string{"Web"}, "", true},
		{[]string{"a,b"}, "", true},
		{[]string{"-a"}, "", true},
		{[]string{"tag:web"}, "", true},
		{[]string{strings.Repeat("a", 64)}, "", true},
		{many, "", true},
		{many[:MaxTags], Tags(strings.Join(sorted(many[:MaxTags]), ",")), false},
		{longestTags, Tags(strings.Join(longestTags, ",")), false},
		{append(slices.Clone(longestTags), "c"), "", true},
	} {
		got, err := NewTags(c.words)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%q: %q, %v", c.words, got, err)
		}
		if err != nil && !errors.Is(err, ErrTags) {
			t.Errorf("%q: %v is no ErrTags", c.words, err)
		}
	}
}

func sorted(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return words
}

func TestTagsAsSets(t *testing.T) {
	t.Parallel()
	some := mustTags(t, "web", "db", "ci")
	if !some.Has("db") || some.Has("d") || some.Has("") || Tags("").Has("") {
		t.Error("Has")
	}
	if got := some.Beyond(mustTags(t, "web", "ops")); !slices.Equal(got, []string{"ci", "db"}) {
		t.Errorf("beyond: %q", got)
	}
	if got := mustTags(t, "web").Beyond(some); got != nil {
		t.Errorf("beyond: %q", got)
	}
	if got := slices.Collect(some.All()); !slices.Equal(got, some.Words()) {
		t.Errorf("%q, %q", got, some.Words())
	}
}

func TestTagsAllocateNothing(t *testing.T) {
	some := mustTags(t, "web", "db", "ci")
	if n := yardstick.Allocs(100, func() { some.Has("web") }); n != 0 {
		t.Errorf("Has allocates %v times", n)
	}
}

// Tags go from an invitation to who comes by it, and stay when it is confirmed and
// renewed. On the way they may become fewer, and no more.
func TestTagsNarrow(t *testing.T) {
	t.Parallel()
	now := epoch
	root := testRoot(t)
	o := root.Overlay()
	member := seedKey(9)
	token, err := root.Issuer().Invite(InviteOptions{Label: "mars", Tags: mustTags(t, "web", "db")}, now)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseToken(token.String()); err != nil || again.Invitation().Tags != "db,web" {
		t.Fatalf("the token read again: %v", err)
	}
	chain, err := token.SelfIssue(member, "", now)
	if err != nil {
		t.Fatal(err)
	}
	m, err := VerifyChain(chain, o, now, nil)
	if err != nil || m.Tags != "db,web" {
		t.Fatalf("provisional: %+v, %v", m, err)
	}
	chain, err = Confirm(root.Issuer(), chain, "mars", 0, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = VerifyChain(chain, o, now, nil); err != nil || m.Tags != "db,web" {
		t.Fatalf("confirmed: %+v, %v", m, err)
	}
	if chain, err = Confirm(root.Issuer(), chain, "mars", 0, now.Add(MaxMember/2), nil); err != nil {
		t.Fatal(err)
	}
	if m, err = VerifyChain(chain, o, now.Add(MaxMember/2), nil); err != nil || m.Tags != "db,web" {
		t.Fatalf("renewed: %+v, %v", m, err)
	}
}

func TestDelegatesWidenNoTags(t *testing.T) {
	t.Parallel()
	now := epoch
	root := testRoot(t)
	o := root.Overlay()
	key := seedKey(10)
	delegation, err := root.Delegate(idOf(key), RoleRelay, mustTags(t, "web", "db"), time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	delegate, err := NewDelegate(key, delegation, o, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := delegate.Invite(InviteOptions{Tags: mustTags(t, "ops", "web")}, now); !errors.Is(err, ErrTags) || !strings.Contains(err.Error(), "ops") || strings.Contains(err.Error(), `"web"`) {
		t.Errorf("an invitation with a tag that the delegate lacks: %v", err)
	}
	if _, err := delegate.Issue(idOf(seedKey(9)), MemberOptions{Label: "mars", Tags: "ops"}, now); !errors.Is(err, ErrTags) {
		t.Errorf("a member with a tag that the delegate lacks: %v", err)
	}
	token, err := delegate.Invite(InviteOptions{Tags: "web"}, now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := token.SelfIssue(seedKey(9), "mars", now)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := VerifyChain(chain, o, now, nil); err != nil || m.Tags != "web" {
		t.Errorf("below a delegate: %+v, %v", m, err)
	}

	// By hand: what the invitation key would sign for its holder.
	inv := token.chain.leaf()
	for _, tags := range []Tags{"db", "db,web", "ops"} {
		c := &Certificate{Subject: KeyOf(idOf(key)), Kind: KindMember, Label: "mars", Tags: tags}
		c.NotBefore, c.NotAfter = span(now, inv.NotAfter, MaxMember)
		if c.Proof, err = token.proof(key, c); err != nil {
			t.Fatal(err)
		}
		l, err := signLink(ed25519.NewKeyFromSeed(token.seed[:]), o, c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyChain(token.chain.with(l).append(nil), o, now, nil); !errors.Is(err, ErrTags) {
			t.Errorf("a member that gives itself %q of %q: %v", tags, inv.Tags, err)
		}
	}
}

func TestTagsHaveOneForm(t *testing.T) {
	t.Parallel()
	now := epoch
	c := &Certificate{Subject: KeyOf(idOf(seedKey(9))), Kind: KindMember, Confirmed: true, Label: "mars", Tags: "db,web"}
	c.NotBefore, c.NotAfter = span(now, time.Time{}, MaxMember)
	good := c.Append(nil)
	if again, err := ParseCertificate(good); err != nil || again.Tags != c.Tags {
		t.Fatalf("%+v, %v", again, err)
	}
	for _, other := range []string{"web,db ", "db,,web", "db,Web", "web,db_", "db,web"[:5] + "\x00"} {
		b := bytes.Replace(bytes.Clone(good), []byte("\x06db,web"), append([]byte{byte(len(other))}, other...), 1)
		if _, err := ParseCertificate(b); err == nil {
			t.Errorf("%q is taken", other)
		}
	}
	b := bytes.Replace(bytes.Clone(good), []byte("\x06db,web"), []byte{0}, 1)
	if _, err := ParseCertificate(b); err == nil {
		t.Error("a flag for no tags is taken")
	}
	b = bytes.Replace(bytes.Clone(good), []byte("\x06db,web"), []byte("\x06web,db"), 1)
	if _, err := ParseCertificate(b); err == nil {
		t.Error("another order is taken")
	}
}
