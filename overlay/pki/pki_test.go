package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

// want wants a chain to be good, or an error.
func want(t *testing.T, by *peer, chain []*x509.Certificate, w Want, err error) {
	t.Helper()
	if _, got := by.Keeper.Verify(chain, w); !errors.Is(got, err) || (got == nil) != (err == nil) {
		t.Errorf("%s says %v of %+v, want %v", by.Own().Label, got, w, err)
	}
}

// TestMember: a member is signed a certificate for its name, also through somebody who
// signs none, and every member takes it for that name, from that member and nobody else.
func TestMember(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars, venus := w.join(earth, "mars", membership.InviteOptions{}), w.join(earth, "venus", membership.InviteOptions{})
	w.set(func() { w.cuts[[2]peerid.ID{earth.Self(), mars.Self()}] = true })
	chain := mars.certificate()
	c := chain[0]
	if len(chain) != 1 || !slices.Equal(c.DNSNames, []string{"mars.example.com"}) || c.IsCA || c.Subject.SerialNumber != mars.Self().String() {
		t.Errorf("mars has %v of %v, %d in all", c.DNSNames, c.Subject, len(chain))
	}
	if life := c.NotAfter.Sub(w.now()); life > MemberLife || life < MemberLife-time.Hour {
		t.Errorf("it lasts %v", life)
	}
	if _, err := venus.Roots(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	mine := venus.certificate()
	for _, p := range []*peer{earth, mars, venus} {
		want(t, p, chain, Want{Peer: mars.Self(), Name: "mars.example.com"}, nil)
		want(t, p, chain, Want{Peer: mars.Self(), Client: true}, nil)
		want(t, p, chain, Want{Peer: venus.Self(), Name: "mars.example.com"}, ErrOther) // stolen, with its key
		if _, err := p.Keeper.Verify(mine, Want{Peer: mars.Self(), Name: "mars.example.com"}); !errors.As(err, new(x509.HostnameError)) {
			t.Errorf("%s takes venus' certificate for mars' name: %v", p.Own().Label, err)
		}
	}
	before := w.questions()
	if again := mars.certificate(); !again[0].Equal(c) || w.questions() != before {
		t.Error("it is asked for again")
	}
}

// TestRenewed: half of its life later a certificate is another one, and the membership
// bounds it.
func TestRenewed(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.join(earth, "mars", membership.InviteOptions{})
	first := mars.certificate()
	w.pass(MemberLife/2 + time.Hour)
	if err := mars.obtain(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := mars.certificate()
	if second[0].Equal(first[0]) || !second[0].NotAfter.After(first[0].NotAfter) {
		t.Errorf("it ends at %v, the one before at %v", second[0].NotAfter, first[0].NotAfter)
	}
	w.set(func() { w.away[earth.Self()] = true })
	w.pass(MemberLife / 2)
	if err := mars.obtain(t.Context()); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("nobody is reached: %v", err)
	}
	if again := mars.certificate(); !again[0].Equal(second[0]) {
		t.Error("the one that is good until then is not used")
	}
	w.pass(MemberLife)
	_, err := mars.Certificate(t.Context())
	if text := "pki: no certificate: no authority or delegate is reached"; !errors.Is(err, ErrNoCertificate) || err.Error() != text {
		t.Errorf("it has ended: %v, want %s", err, text)
	}
	w.set(func() { w.away[earth.Self()] = false })
	w.pass(mars.Own().Member.NotAfter.Sub(w.now()) - time.Hour)
	if c := mars.certificate()[0]; c.NotAfter.After(mars.Own().Member.NotAfter) {
		t.Errorf("it lasts until %v, the membership until %v", c.NotAfter, mars.Own().Member.NotAfter)
	}
}

// TestDelegate: while no authority is there a delegate signs, by a certificate that it was
// given before; what it has signed ends with its right to.
func TestDelegate(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth, "venus", delegate)
	mars, pluto := w.join(earth, "mars", membership.InviteOptions{}), w.join(venus, "pluto", membership.InviteOptions{})
	w.set(func() { w.cuts[[2]peerid.ID{earth.Self(), pluto.Self()}] = true })
	first := pluto.certificate()
	if len(first) != 2 || !first[1].IsCA || !first[1].MaxPathLenZero || first[1].Subject.SerialNumber != venus.Self().String() {
		t.Fatalf("pluto's chain has %d certificates", len(first))
	}
	w.set(func() { w.away[earth.Self()] = true })
	venus.restart()
	chain := mars.certificate()
	if len(chain) != 2 {
		t.Fatalf("venus has not signed for mars: %d certificates", len(chain))
	}
	for _, p := range []*peer{venus, mars, pluto} {
		want(t, p, chain, Want{Peer: mars.Self(), Name: "mars.example.com"}, nil)
	}
	w.set(func() { w.away[earth.Self()] = false })
	if _, err := earth.ownRoot(); err != nil {
		t.Fatal(err)
	}
	want(t, earth, chain, Want{Peer: mars.Self()}, nil)
	if err := earth.Revoke(venus.Self(), admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	w.learn(earth, mars)
	for _, p := range []*peer{earth, mars} {
		want(t, p, chain, Want{Peer: mars.Self()}, membership.ErrRevoked)
	}
}

// TestRevoked: a revoked member's certificate is refused at once, and it gets no other one.
func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars, venus := w.join(earth, "mars", membership.InviteOptions{}), w.join(earth, "venus", membership.InviteOptions{})
	chain := mars.certificate()
	venus.certificate()
	want(t, venus, chain, Want{Name: "mars.example.com"}, nil)
	if err := earth.Revoke(mars.Self(), admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	w.learn(earth, venus)
	want(t, venus, chain, Want{Name: "mars.example.com"}, membership.ErrRevoked)
	want(t, earth, chain, Want{Name: "mars.example.com"}, membership.ErrRevoked)
}

// TestAuthorities: each has a root of its own, which members hear of; that of one that was
// removed counts no more.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus := w.join(earth, "venus", delegate)
	mars, pluto := w.join(earth, "mars", membership.InviteOptions{}), w.join(earth, "pluto", membership.InviteOptions{})
	if err := earth.Promote(t.Context(), venus.Self(), "venus"); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.settle()
	w.set(func() { w.cuts[[2]peerid.ID{earth.Self(), pluto.Self()}] = true })
	ofVenus := pluto.certificate()
	if !venus.Roster.Authority() || len(ofVenus) != 1 {
		t.Fatalf("venus is no authority, or signs as none: %d certificates", len(ofVenus))
	}
	ofEarth := mars.certificate()
	if roots, err := mars.Roots(t.Context(), true); err != nil || len(roots) != 2 {
		t.Errorf("mars knows %d roots: %v", len(roots), err)
	}
	want(t, mars, ofVenus, Want{Peer: pluto.Self(), Name: "pluto.example.com"}, nil)
	if err := earth.Demote("venus", false); err != nil {
		t.Fatal(err)
	}
	w.learn(earth, mars)
	if _, err := mars.Keeper.Verify(ofVenus, Want{}); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("what an authority has signed that is none any more: %v", err)
	}
	want(t, mars, ofEarth, Want{Peer: mars.Self()}, nil)
}

// TestRestart: roots and certificates are what they were, and nobody is asked.
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars := w.join(earth, "mars", membership.InviteOptions{})
	chain := mars.certificate()
	roots, err := earth.Roots(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	before := w.questions()
	earth.restart()
	mars.restart()
	if c := mars.certificate(); !c[0].Equal(chain[0]) {
		t.Error("mars has another certificate")
	}
	for _, p := range []*peer{earth, mars} {
		if again, err := p.Roots(t.Context(), false); err != nil || len(again) != 1 || !again[0].Equal(roots[0]) {
			t.Errorf("%s has other roots: %v", p.Own().Label, err)
		}
	}
	if n := w.questions() - before; n > 0 {
		t.Errorf("%d questions", n)
	}
	_ = mars.dir.Save(stateFile, saved{Roots: []root{{DER: []byte("x")}}, Chain: [][]byte{{1}}, Above: []byte{2}})
	mars.restart()
	mars.certificate()
	if err := mars.dir.Save(stateFile, "no such thing"); err != nil {
		t.Fatal(err)
	}
	mars.restart()
	mars.certificate()
}

// TestRefused: what an issuer signs for nobody.
func TestRefused(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars, venus := w.join(earth, "mars", membership.InviteOptions{}), w.join(earth, "venus", membership.InviteOptions{})
	token, err := earth.Invite(membership.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	newcomer := w.newPeer()
	newcomer.run(admission.Enter(newcomer.config(), token, "mars"))
	spki := func(c elliptic.Curve) []byte {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ask := func(p *peer, w what, change func(*question)) question {
		q, err := p.ask(w, forTLS)
		if err != nil {
			t.Fatal(err)
		}
		change(&q)
		return q
	}
	resign := func(p *peer, q *question) { q.signature = ed25519.Sign(p.key, q.text(p.Overlay())) }
	for _, test := range []struct {
		what string
		q    question
		text string
	}{
		{"for another's name", ask(mars, wantMember, func(q *question) { q.chain = venus.Own().Chain }), "not signed by the member"},
		{"for another's name, and signed", ask(mars, wantMember, func(q *question) { q.chain = venus.Own().Chain; resign(mars, q) }), "not signed by the member"},
		{"with a key in another's question", ask(mars, wantMember, func(q *question) { q.key = spki(elliptic.P256()) }), "not signed by the member"},
		{"one that was signed to be a member", ask(mars, wantMember, func(q *question) { q.what = wantDelegate }), "not signed by the member"},
		{"to sign for others", ask(mars, wantDelegate, func(*question) {}), "only delegates"},
		{"of a member that nobody has confirmed", ask(newcomer, wantMember, func(*question) {}), "not confirmed"},
		{"on another curve", ask(mars, wantMember, func(q *question) { q.key = spki(elliptic.P384()); resign(mars, q) }), "P-256"},
		{"for no key", ask(mars, wantMember, func(q *question) { q.key = []byte("key"); resign(mars, q) }), "asn1"},
		{"of nobody", ask(mars, wantMember, func(q *question) { q.chain = nil }), "chain"},
	} {
		b, err := earth.Answer(t.Context(), venus.Own().Member, test.q.append(nil))
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if a, err := readAnswer(b); err != nil || a.status != statusRefused || len(a.certs) > 0 || !strings.Contains(a.text, test.text) {
			t.Errorf("%s: status %d, %q, %v; want %q", test.what, a.status, a.text, err, test.text)
		}
	}
	for _, b := range [][]byte{nil, {2, 1, 1}, ask(mars, 7, func(*question) {}).append(nil), append(ask(mars, wantMember, func(*question) {}).append(nil), 0)} {
		if _, err := earth.Answer(t.Context(), mars.Own().Member, b); err == nil {
			t.Errorf("%x is answered", b)
		}
	}
}

// TestLies: what members make up is not used, and others are asked.
func TestLies(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	mars, venus, pluto := w.join(earth, "mars", membership.InviteOptions{}), w.join(earth, "venus", membership.InviteOptions{}), w.join(earth, "pluto", membership.InviteOptions{})
	// Venus would be the authority: its word that it is, and one stolen from earth.
	o, err := earth.Roots(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	key, err := venus.Keeper.key(forSigning)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newRoot(key, venus.Overlay(), venus.Self(), w.now())
	if err != nil {
		t.Fatal(err)
	}
	own := root{DER: c.Raw}
	if own.Authority, own.Signature, err = venus.SignRoot(c.Raw); err != nil {
		t.Fatal(err)
	}
	stolen, foreign := own, own
	stolen.Authority = earth.Roster.Key()
	foreign.Authority, foreign.DER = earth.Roster.Key(), o[0].Raw
	leaf, err := issuer{cert: c, key: key}.member(venus.Overlay(), mars.Own().Member, key.Public(), w.now())
	if err != nil {
		t.Fatal(err)
	}
	w.set(func() {
		w.cuts[[2]peerid.ID{earth.Self(), mars.Self()}] = true
		w.lies[venus.Self()] = answer{status: statusOK, certs: []*x509.Certificate{leaf}, roots: []root{own, stolen, foreign}}.append(nil)
		w.lies[pluto.Self()] = []byte("no answer")
	})
	if _, err := mars.Certificate(t.Context()); err == nil {
		t.Error("mars takes what venus has signed")
	}
	if roots := mars.standing(); len(roots) > 0 {
		t.Errorf("mars takes %d roots for authorities'", len(roots))
	}
	w.set(func() { clear(w.lies) })
	mars.certificate()
	if _, err := mars.Keeper.Verify([]*x509.Certificate{leaf}, Want{}); err == nil {
		t.Error("a certificate of who is no authority is good")
	}
}

// TestConstraints: what a delegate, or whoever has its key, signs for names outside the
// overlay's domain is no good, to Go and to OpenSSL; what is inside it is.
func TestConstraints(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	earth := w.found("earth")
	venus, mars := w.join(earth, "venus", delegate), w.join(earth, "mars", membership.InviteOptions{})
	w.set(func() { w.cuts[[2]peerid.ID{earth.Self(), mars.Self()}] = true })
	chain := mars.certificate()
	key, err := venus.Keeper.key(forSigning)
	if err != nil {
		t.Fatal(err)
	}
	i := issuer{cert: chain[1], key: key}
	forge := func(change func(*x509.Certificate)) []*x509.Certificate {
		leaf := &x509.Certificate{
			Subject: subject("forged", venus.Self()), NotBefore: w.now().Add(-early), NotAfter: w.now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		change(leaf)
		c, err := sign(leaf, i.cert, key.Public(), i.key)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{c, chain[1]}
	}
	if _, err := earth.ownRoot(); err != nil {
		t.Fatal(err)
	}
	openssl := verifiers(t, w, earth)
	all := map[string][]*x509.Certificate{
		"a bank":          forge(func(c *x509.Certificate) { c.DNSNames = []string{"www.bank.example"} }),
		"a like name":     forge(func(c *x509.Certificate) { c.DNSNames = []string{"mars.notexample.com"} }),
		"one of each":     forge(func(c *x509.Certificate) { c.DNSNames = []string{"mars.example.com", "bank.example"} }),
		"an IPv4 address": forge(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }),
		"an IPv6 address": forge(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} }),
		"a mail address":  forge(func(c *x509.Certificate) { c.EmailAddresses = []string{"root@bank.example"} }),
	}
	for what, forged := range all {
		if _, err := mars.Keeper.Verify(forged, Want{}); err == nil {
			t.Errorf("%s is good", what)
		}
		if err := openssl(forged); err == nil {
			t.Errorf("%s is good to openssl", what)
		}
	}
	want(t, mars, chain, Want{Name: "mars.example.com"}, nil)
	if err := openssl(chain); err != nil {
		t.Errorf("openssl: %v", err)
	}
	// Venus makes somebody else an issuer.
	below, err := newRoot(key, venus.Overlay(), venus.Self(), w.now())
	if err != nil {
		t.Fatal(err)
	}
	second, err := sign(below, chain[1], key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := issuer{cert: second, key: key}.member(venus.Overlay(), mars.Own().Member, key.Public(), w.now())
	if err != nil {
		t.Fatal(err)
	}
	long := []*x509.Certificate{leaf, second, chain[1]}
	if _, err := mars.Keeper.Verify(long, Want{}); err == nil {
		t.Error("a delegate makes delegates")
	}
	if err := openssl(long); err == nil {
		t.Error("a delegate makes delegates, to openssl")
	}
}

// verifiers is what openssl verify says of a chain below a peer's root; where there is no
// openssl what Go says.
func verifiers(t *testing.T, w *town, earth *peer) func(chain []*x509.Certificate) error {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		return func(chain []*x509.Certificate) error { _, err := earth.Keeper.Verify(chain, Want{}); return err }
	}
	roots, err := earth.Roots(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, certs []*x509.Certificate) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, PEM(certs), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca := write("ca.pem", roots)
	return func(chain []*x509.Certificate) error {
		out, err := exec.CommandContext(t.Context(), path, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", ca,
			"-untrusted", write("untrusted.pem", chain), write("leaf.pem", chain[:1])).CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	}
}

// TestDerived: keys are derived as they always were, or imported roots and saved certificates
// would be another's.
func TestDerived(t *testing.T) {
	t.Parallel()
	identity := ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	for use, want := range map[string]string{forSigning: goldenSigning, forTLS: goldenTLS} {
		key, err := derive(identity, [32]byte{1}, use)
		if err != nil {
			t.Fatal(err)
		}
		b, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b[:8]); got != want {
			t.Errorf("%s: %s, want %s", use, got, want)
		}
	}
}

const goldenSigning, goldenTLS = "04d1665bba50bc48", "0405550766645547"

func FuzzMessages(f *testing.F) {
	f.Add(question{hops: 1, what: wantMember, chain: []byte("chain"), key: []byte("key"), signature: make([]byte, ed25519.SignatureSize)}.append(nil))
	f.Add(answer{status: statusRefused, text: "no", roots: []root{{DER: []byte("x"), Signature: make([]byte, ed25519.SignatureSize)}}}.append(nil))
	f.Add([]byte{0, 0, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := readQuestion(b); err == nil && string(q.append(nil)) != string(b) {
			t.Errorf("%x becomes %x", b, q.append(nil))
		}
		if a, err := readAnswer(b); err == nil && string(a.append(nil)) != string(b) {
			t.Errorf("%x becomes %x", b, a.append(nil))
		}
	})
}
