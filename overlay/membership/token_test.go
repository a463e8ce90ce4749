package membership

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

func testToken(t testing.TB) *Token {
	t.Helper()
	p, q := idOf(seedKey(30)).String(), idOf(seedKey(31)).String()
	return must(testRoot(t).Issuer().invite(InviteOptions{Label: "mars", Roles: RoleRelay, Addrs: []string{
		"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/" + p,
		"/ip6/2001:db8::1/udp/4001/quic-v1/p2p/" + p,
		"/dns4/a.example.net/udp/4001/quic-v1/p2p/" + q,
	}}, epoch, bytes.Repeat([]byte{5}, 32)))(t)
}

func TestTokenText(t *testing.T) {
	token := testToken(t)
	s := token.String()
	t.Logf("%d characters", len(s))
	if len(s) > 500 || strings.ContainsAny(s, " \n=") || !strings.HasPrefix(s, "idloc1") {
		t.Errorf("%d characters: %s", len(s), s)
	}
	for _, text := range []string{s, " \t" + s + "\r\n", strings.ToUpper(s), s[:76] + "\n  " + s[76:]} {
		again, err := ParseToken(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again.String() != s || again.Overlay() != token.Overlay() || again.Label() != "mars" ||
			!again.Expires().Equal(epoch.Add(DefaultInvitation)) || strings.Join(again.Addrs(), " ") != strings.Join(token.Addrs(), " ") {
			t.Errorf("%q differs", text)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	s := testToken(t).String()
	swapped := []byte(s)
	for i := 40; ; i++ {
		if swapped[i] != swapped[i+1] {
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			break
		}
	}
	for _, test := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"empty", "", ErrNotToken, "idloc1"},
		{"a name", "mars.example.com", ErrNotToken, ""},
		{"a word that begins alike", "idlocal", ErrNotToken, ""},
		{"prefix only", "idloc", ErrNotToken, ""},
		{"newer", "idloc2" + s[6:], ErrTokenVersion, "newer version"},
		{"nothing behind the version", "idloc1", ErrTokenDamaged, "cut"},
		{"character of no token", s[:50] + "!" + s[51:], ErrTokenDamaged, "character 51"},
		{"two swapped", string(swapped), ErrTokenDamaged, "checksum"},
		{"cut", s[:len(s)-8], ErrTokenDamaged, ""},
		{"twice", s + s, ErrTokenDamaged, ""},
		{"huge", strings.Repeat("a", 1<<20), ErrNotToken, ""},
	} {
		if _, err := ParseToken(test.text); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// Each single wrong, missing or doubled character is told as damage.
func TestTokenEveryTypo(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	s := testToken(t).String()
	for i := len("idloc1"); i < len(s); i++ {
		for _, c := range alphabet {
			if byte(c) == s[i] {
				continue
			}
			if _, err := ParseToken(s[:i] + string(c) + s[i+1:]); !errors.Is(err, ErrTokenDamaged) {
				t.Fatalf("%c at %d: %v", c, i, err)
			}
		}
		for _, text := range []string{s[:i] + s[i+1:], s[:i] + s[i:i+1] + s[i:]} {
			if _, err := ParseToken(text); !errors.Is(err, ErrTokenDamaged) {
				t.Fatalf("at %d: %v", i, err)
			}
		}
	}
}

// Behind a right checksum, too: the certificate's signature covers what
// grants; what is left over are hints (addresses) and the domain and root,
// which define another overlay, one that this invitation is not of.
func TestTokenForgedBody(t *testing.T) {
	token := testToken(t)
	body := must(token.append(nil))(t)
	addrs := must(appendAddrs(nil, token.addrs))(t)
	for i := range len(body) - len(addrs) {
		for bit := range 8 {
			b := bytes.Clone(body)
			b[i] ^= 1 << bit
			if u, err := parseToken(b); err == nil {
				t.Fatalf("bit %d of byte %d: %+v", bit, i, u)
			}
		}
	}
}

// A token says which delegate has made it.
func TestTokenDelegate(t *testing.T) {
	if by := testToken(t).Delegate(); by != (peerid.ID{}) {
		t.Errorf("the founder's token is %v's", by)
	}
	key, root := seedKey(32), testRoot(t)
	delegation := must(root.Delegate(idOf(key), RoleRelay, "", epoch.Add(24*time.Hour), epoch))(t)
	token := must(must(NewDelegate(key, delegation, root.Overlay(), epoch, nil))(t).Invite(InviteOptions{Label: "mars"}, epoch))(t)
	if by := must(ParseToken(token.String()))(t).Delegate(); by != idOf(key) {
		t.Errorf("the delegate %v's token is %v's", idOf(key), by)
	}
}

func TestTokenAddrs(t *testing.T) {
	i := testRoot(t).Issuer()
	p := "/p2p/" + idOf(seedKey(30)).String()
	for _, addrs := range [][]string{
		{"/ip4/192.0.2.1/udp/1/quic-v1"},
		{p},
		{"192.0.2.1:1"},
		{"/ip4/192.0.2.1/udp/1/quic-v1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"},
		{"/ip4/1.1.1.1/udp/1" + p, "/ip4/1.1.1.1/udp/2" + p, "/ip4/1.1.1.1/udp/3" + p, "/ip4/1.1.1.1/udp/4" + p, "/ip4/1.1.1.1/udp/5" + p},
	} {
		if _, err := i.Invite(InviteOptions{Addrs: addrs}, epoch); err == nil {
			t.Errorf("%v: taken", addrs)
		}
	}
	if u := must(i.Invite(InviteOptions{}, epoch))(t); len(must(ParseToken(u.String()))(t).Addrs()) != 0 {
		t.Error("addresses out of nothing")
	}
}

func testList(t testing.TB) *RevocationList {
	l := must(testRoot(t).Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(seedKey(9)))}))(t)
	return must(testRoot(t).Revoke(l, epoch, Revocation{Kind: RevokeInvitation, Key: KeyOf(idOf(seedKey(8))), Until: epoch.Add(time.Hour)},
		Revocation{Kind: RevokeDelegate, Key: KeyOf(idOf(seedKey(7))), Until: epoch.Add(time.Hour), Before: epoch}))(t)
}

func TestRevocationList(t *testing.T) {
	root := testRoot(t)
	l := testList(t)
	if l.Seq() != 2 || len(l.Entries()) != 3 || !l.Has(RevokePeer, KeyOf(idOf(seedKey(9)))) {
		t.Errorf("%+v", l)
	}
	for i := range l.Bytes() {
		b := bytes.Clone(l.Bytes())
		b[i] ^= 0x10
		if _, err := OpenRevocationList(b, root.Overlay()); err == nil {
			t.Errorf("byte %d flipped", i)
		}
		if _, err := OpenRevocationList(l.Bytes()[:i], root.Overlay()); err == nil {
			t.Errorf("cut at %d", i)
		}
	}
	next := follow(t, root, l, epoch.Add(2*time.Hour))
	if next.Seq() != 3 || len(next.Entries()) != 2 {
		t.Errorf("pruned: %+v", next.Entries())
	}
	fork := follow(t, root, l, epoch) // number 3 again, one entry more
	for _, test := range [][3]*RevocationList{{nil, nil, nil}, {l, nil, l}, {l, next, next}, {next, fork, fork}} {
		if Merge(test[0], test[1]) != test[2] || Merge(test[1], test[0]) != test[2] {
			t.Errorf("merge of %d and %d", test[0].Seq(), test[1].Seq())
		}
	}
	unsigned := unverified(next)
	if Merge(l, unsigned) != l {
		t.Error("an unverified list was merged")
	}
	if _, err := root.Revoke(unsigned, epoch); !errors.Is(err, ErrListUnverified) {
		t.Errorf("next after an unverified list: %v", err)
	}
	var many []Revocation
	for i := range MaxRevocations + 1 {
		many = append(many, Revocation{Kind: RevokePeer, Key: Key{byte(i), byte(i >> 8), byte(i >> 16)}, Until: time.Unix(maxUnix, 0)})
	}
	if _, err := root.Revoke(nil, epoch, many...); !errors.Is(err, ErrListFull) {
		t.Errorf("%d entries: %v", len(many), err)
	}
	if full := must(root.Revoke(nil, epoch, many[1:]...))(t); len(full.Bytes()) > MaxRevocationList {
		t.Errorf("%d bytes", len(full.Bytes()))
	}
}

// The vectors pin the formats: a change of a layout is a new version.
func TestVectors(t *testing.T) {
	token := testToken(t)
	provisional := must(token.SelfIssue(seedKey(9), "", epoch))(t)
	confirmed := must(Confirm(testRoot(t).Issuer(), provisional, "mars", 7, epoch, nil))(t)
	vectors := map[string]string{
		"token.txt":             token.String(),
		"chain-provisional.hex": hexOf(provisional),
		"chain-confirmed.hex":   hexOf(confirmed),
		"revocation.hex":        hexOf(testList(t).Bytes()),
		"root.hex":              hexOf(testRoot(t).Marshal()),
	}
	for name, got := range vectors {
		file := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_VECTORS") != "" {
			if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(want)) != got {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	if found, _ := filepath.Glob("testdata/*.*"); len(found) != len(vectors) {
		t.Errorf("%d vectors, want %d", len(found), len(vectors))
	}
}

// A token whose last certificate is a delegate's is none, whoever has its key.
func TestTokenOfADelegate(t *testing.T) {
	root, key := testRoot(t), seedKey(7)
	delegation := must(root.Delegate(idOf(key), 0, "", time.Time{}, epoch))(t)
	delegate := must(NewDelegate(key, delegation, root.Overlay(), epoch, nil))(t)
	b := must((&Token{overlay: root.Overlay(), seed: Key(key.Seed()), chain: delegate.chain}).append(nil))(t)
	if _, err := parseToken(b); !errors.Is(err, ErrKind) {
		t.Errorf("%v, not ErrKind", err)
	}
}
