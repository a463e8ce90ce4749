package membership

import (
	"errors"
	"testing"
	"time"
)

// TestAssurance: what the root and a delegate sign is read, and what anybody else signs,
// or changes, or has signed when it was no delegate any more, is not.
func TestAssurance(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	root, other := testRoot(t), must(NewRoot("example.com"))(t)
	o := root.Overlay()
	venus, mars := seedKey(5), seedKey(6)
	delegation, err := root.Delegate(idOf(venus), RoleRelay, "", time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	delegate, err := NewDelegate(venus, delegation, o, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := root.Revoke(nil, now, Revocation{Kind: RevokePeer, Key: KeyOf(idOf(mars))})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := root.Revoke(list, now.Add(time.Minute), Revocation{Kind: RevokeDelegate, Key: KeyOf(idOf(venus)), Before: now.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	assure := func(i *Issuer, l *RevocationList) []byte {
		t.Helper()
		b, err := i.Assure(l, now)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, i := range map[string]*Issuer{"root": root.Issuer(), "delegate": delegate} {
		for _, l := range []*RevocationList{nil, list} {
			b := assure(i, l)
			t.Logf("the %s's has %d bytes", name, len(b))
			a, err := OpenAssurance(b, o, now, l)
			if err != nil || a.Number != l.Seq() || !a.At.Equal(now) || a.Delegate.IsZero() != (name == "root") || !a.Stands(l) {
				t.Errorf("%s: %+v, %v", name, a, err)
			}
			for at := range b {
				for bit := range 8 {
					flipped := append([]byte(nil), b...)
					flipped[at] ^= 1 << bit
					if _, err := OpenAssurance(flipped, o, now, l); err == nil {
						t.Fatalf("%s: bit %d of byte %d may be another", name, bit, at)
					}
				}
				if _, err := OpenAssurance(b[:at], o, now, l); err == nil {
					t.Fatalf("%s: %d bytes suffice", name, at)
				}
			}
		}
	}
	if _, err := OpenAssurance(assure(other.Issuer(), nil), o, now, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("another overlay's root: %v", err)
	}
	b := assure(root.Issuer(), list)
	if _, err := OpenAssurance(b, o, now.Add(-Tolerance-time.Second), list); !errors.Is(err, ErrNotYetValid) {
		t.Errorf("of the future: %v", err)
	}
	if len(b) > 100 {
		t.Errorf("the root's has %d bytes", len(b))
	}
	b = assure(delegate, list)
	if _, err := OpenAssurance(b, o, now, gone); !errors.Is(err, ErrRevoked) {
		t.Errorf("a delegate's that is revoked: %v", err)
	}
	a, err := OpenAssurance(b, o, now, list)
	if err != nil || a.Stands(gone) {
		t.Errorf("it stands after the delegate was revoked: %v", err)
	}
	if _, err := OpenAssurance(b, o, now.Add(MaxInvitation+time.Hour), list); !errors.Is(err, ErrExpired) {
		t.Errorf("a delegate's whose delegation has ended: %v", err)
	}
	if _, err := delegate.Assure(list, now.Add(MaxInvitation+time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("it gives one when it has ended: %v", err)
	}
}
