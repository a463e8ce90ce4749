package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// knows awaits that a has b's name record.
func (n *node) knows(t testing.TB, b *node) {
	t.Helper()
	await(t, "the name record", 10*time.Second, func() bool { return n.directory.Record(b.Self()) != nil })
}

// signedRecord is a name record by a chain.
func signedRecord(t testing.TB, o *node, key ed25519.PrivateKey, chain []byte, rec naming.Record) []byte {
	t.Helper()
	rec.Chain = chain
	if rec.Issued.IsZero() {
		rec.Issued = time.Now()
	}
	if rec.Seq == 0 {
		rec.Seq = naming.Seq(rec.Issued, 0)
	}
	rec.Expires = rec.Issued.Add(naming.MaxLife)
	v, err := rec.Sign(key, o.Overlay.roster.Overlay())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (n *node) chainNow() []byte { return n.roster.Own().Chain }

// provisional makes a member that no issuer has confirmed: its ID and a record
// in which it claims a label.
func provisional(t testing.TB, o *node, label string) (peerid.ID, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := o.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := membership.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := tok.SelfIssue(key, label, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := admission.PeerID(key)
	if err != nil {
		t.Fatal(err)
	}
	return id, signedRecord(t, o, key, chain, naming.Record{Label: label})
}

// TestFounderVanishes: two peers have just come in by the founder when that
// dies without a word, with the database and as the only one that either is
// connected to. They have each other's records and addresses: the first
// dial by name needs neither it nor a timeout.
func TestFounderVanishes(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars, venus := earth.join(t, "mars"), earth.join(t, "venus")
	mars.knows(t, venus)
	venus.knows(t, mars)
	_ = earth.sock.Close() // without a word
	for _, pair := range [][2]*node{{mars, venus}, {venus, mars}} {
		a, b := pair[0], pair[1]
		start := time.Now()
		f, err := a.Resolve(t.Context(), b.Label())
		if err != nil || f.Peer != b.Self() {
			t.Fatalf("%s asks for %s: %v, %v", a.Label(), b.Label(), f, err)
		}
		named := time.Since(start)
		if _, err := a.Connect(t.Context(), f.Peer); err != nil {
			t.Fatalf("%s connects to %s: %v", a.Label(), b.Label(), err)
		}
		t.Logf("%s to %s: name after %v, pipe after %v", a.Label(), b.Label(), named.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	}
}

// TestConnectedNeedsNoDatabase: the name of a peer that is connected is known
// from its hello, whatever the database does.
func TestConnectedNeedsNoDatabase(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	earth.knows(t, mars)
	mars.knows(t, earth)
	earth.lie(lieNone, nil) // says that there is no record of anybody
	f, err := mars.Resolve(t.Context(), "earth")
	if err != nil || f.Peer != earth.Self() || f.Via != earth.Self() {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestShownAndRevoked: a record that was good does not outlive its peer's
// membership.
func TestShownAndRevoked(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	earth.knows(t, mars)
	if err := earth.Revoke(t.Context(), "mars", admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	if _, err := earth.Resolve(t.Context(), "mars"); !errors.Is(err, ErrRevoked) {
		t.Errorf("Resolve: %v", err)
	}
}

// TestProvisionalClaim: a claim that nobody has confirmed is not believed before
// what the database says, whoever shows it; it is when the database says
// nothing.
func TestProvisionalClaim(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars, venus := earth.join(t, "mars"), earth.join(t, "venus")
	liar, claim := provisional(t, earth, "venus")
	if !mars.directory.Show(liar, claim) {
		t.Fatal("the claim is valid as such")
	}
	if f, err := mars.Resolve(t.Context(), "venus"); err != nil || f.Peer != venus.Self() {
		t.Errorf("venus: %v, %v", f, err)
	}
	alone, honest := provisional(t, earth, "pluto")
	if !mars.directory.Show(alone, honest) {
		t.Fatal("the claim is valid as such")
	}
	if _, err := mars.Resolve(t.Context(), "pluto"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the database knows no pluto: %v", err)
	}
	earth.shut() // says goodbye: nobody answers
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if f, err := mars.Resolve(ctx, "pluto"); err != nil || f.Peer != alone {
		t.Errorf("without a database: %v, %v", f, err)
	}
}
