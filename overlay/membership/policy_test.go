package membership

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	const text = "allow venus to open tcp 80 at mars\n"
	l := must(root.SetPolicy(testList(t), text, epoch))(t)
	p := l.Policy()
	again := must(OpenRevocationList(l.Bytes(), root.Overlay()))(t).Policy()
	if p.Text() != text || again.Text() != text || again.Number() != p.Number() || p.Number() == 0 || !again.At().Equal(epoch) {
		t.Errorf("%+v, %+v", p, again)
	}
	if l.Seq() != testList(t).Seq()+1 || len(l.Entries()) != len(testList(t).Entries()) {
		t.Errorf("list %d with %d entries", l.Seq(), len(l.Entries()))
	}
	// It stays when something else is said, and "" is a policy, too.
	if next := must(root.Revoke(l, epoch, Revocation{Kind: RevokePeer, Key: Key{1}}))(t); next.Policy().Text() != text || next.Policy().Number() != p.Number() {
		t.Errorf("after a revocation: %+v", next.Policy())
	}
	if _, err := root.SetPolicy(l, text, epoch.Add(time.Hour)); !errors.Is(err, ErrNothing) {
		t.Errorf("the same once more: %v", err)
	}
	if empty := must(root.SetPolicy(nil, "", epoch))(t); empty.Policy().Number() == 0 {
		t.Error("an empty policy is none")
	}
	var none *Policy
	if none.Number() != 0 || none.Text() != "" || !none.At().IsZero() || testList(t).Policy() != nil {
		t.Error("a nil policy says something")
	}
}

// A policy stands after the one before it, whatever the founder's clock says.
func TestPolicyNumbersGrow(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	var last *RevocationList
	for i, now := range []time.Time{epoch, epoch, epoch.Add(-100 * 24 * time.Hour), epoch.Add(time.Hour), epoch} {
		next := must(root.SetPolicy(last, strings.Repeat("#", i), now))(t)
		if next.Policy().Number() <= last.Policy().Number() {
			t.Fatalf("%d after %d", next.Policy().Number(), last.Policy().Number())
		}
		last = next
	}
	restored := must(root.SetPolicy(nil, "", epoch.Add(2*time.Hour)))(t)
	if restored.Policy().Number() <= last.Policy().Number() {
		t.Errorf("a founder that has lost its policy signs number %d, and there is %d", restored.Policy().Number(), last.Policy().Number())
	}
}

func TestPolicyBounds(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	longest := strings.Repeat("#", MaxPolicyText)
	l := must(root.SetPolicy(nil, longest, epoch.Add(100*365*24*time.Hour)))(t)
	if again := must(OpenRevocationList(l.Bytes(), root.Overlay()))(t); again.Policy().Text() != longest {
		t.Error("the longest is not read")
	}
	if _, err := root.SetPolicy(nil, longest+"#", epoch); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a longer one: %v", err)
	}
	if _, err := root.Signer().Propose(Motion{Kind: MovePolicy, At: epoch, Policy: longest + "#"}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a longer one is proposed: %v", err)
	}
}

// Nobody but the founder of this overlay makes one, and each byte counts.
func TestPolicyForged(t *testing.T) {
	t.Parallel()
	root, other := testRoot(t), must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t)
	theirs := must(other.SetPolicy(nil, "allow everybody to open everything at everybody", epoch))(t).Bytes()
	if _, err := OpenRevocationList(theirs, root.Overlay()); !errors.Is(err, ErrWrongOverlay) {
		t.Errorf("another founder's: %v", err)
	}
	ours := root.Overlay()
	copy(theirs[1:], ours.ID[:])
	if _, err := OpenRevocationList(theirs, ours); !errors.Is(err, ErrSignature) {
		t.Errorf("another founder's under our ID: %v", err)
	}
	good := must(root.SetPolicy(nil, "allow venus to open tcp at mars", epoch))(t).Bytes()
	for i := range good {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= bit
			if l, err := OpenRevocationList(b, ours); err == nil {
				t.Fatalf("byte %d flipped: %+v", i, l.Policy())
			}
		}
	}
	for n := range good {
		if _, err := OpenRevocationList(good[:n], ours); err == nil {
			t.Fatalf("cut to %d bytes", n)
		}
	}
	if _, err := OpenRevocationList(append(bytes.Clone(good), 0), ours); err == nil {
		t.Error("a byte too many")
	}
}
