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
	p := must(root.SignPolicy(nil, "allow venus to open tcp 80 at mars\n", epoch))(t)
	again := must(OpenPolicy(p.Bytes(), root.Overlay()))(t)
	if again.Text() != p.Text() || again.Number() != p.Number() || !again.At().Equal(epoch) || !bytes.Equal(again.Bytes(), p.Bytes()) {
		t.Errorf("%+v, %+v", p, again)
	}
	var none *Policy
	if none.Number() != 0 || none.Text() != "" || none.Bytes() != nil || !none.At().IsZero() {
		t.Error("a nil policy says something")
	}
}

// A policy stands after the one before it, whatever the founder's clock says.
func TestPolicyNumbersGrow(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	var last *Policy
	for _, now := range []time.Time{epoch, epoch, epoch.Add(-100 * 24 * time.Hour), epoch.Add(time.Hour), epoch} {
		next := must(root.SignPolicy(last, "", now))(t)
		if next.Number() <= last.Number() {
			t.Fatalf("%d after %d", next.Number(), last.Number())
		}
		last = next
	}
	restored := must(root.SignPolicy(nil, "", epoch.Add(2*time.Hour)))(t)
	if restored.Number() <= last.Number() {
		t.Errorf("a founder that has lost its policy signs number %d, and there is %d", restored.Number(), last.Number())
	}
}

func TestPolicyBounds(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	longest := strings.Repeat("#", MaxPolicyText)
	p := must(root.SignPolicy(nil, longest, epoch.Add(100*365*24*time.Hour)))(t)
	if len(p.Bytes()) > MaxPolicy {
		t.Errorf("%d bytes, %d are taken", len(p.Bytes()), MaxPolicy)
	}
	if _, err := root.SignPolicy(nil, longest+"#", epoch); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a longer one: %v", err)
	}
	if _, err := OpenPolicy(make([]byte, MaxPolicy+1), root.Overlay()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a longer one: %v", err)
	}
}

// Nobody but the founder of this overlay makes one, and each byte counts.
func TestPolicyForged(t *testing.T) {
	t.Parallel()
	root, other := testRoot(t), must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t)
	theirs := must(other.SignPolicy(nil, "allow everybody to open everything at everybody", epoch))(t)
	if _, err := OpenPolicy(theirs.Bytes(), root.Overlay()); !errors.Is(err, ErrSignature) {
		t.Errorf("another founder's: %v", err)
	}
	good := must(root.SignPolicy(nil, "allow venus to open tcp at mars", epoch))(t).Bytes()
	for i := range good {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= bit
			if p, err := OpenPolicy(b, root.Overlay()); err == nil {
				t.Fatalf("byte %d flipped: %+v", i, p)
			}
		}
	}
	for n := range good {
		if _, err := OpenPolicy(good[:n], root.Overlay()); err == nil {
			t.Fatalf("cut to %d bytes", n)
		}
	}
	if _, err := OpenPolicy(append(bytes.Clone(good), 0), root.Overlay()); err == nil {
		t.Error("a byte too many")
	}
}

func FuzzPolicy(f *testing.F) {
	root := testRoot(f)
	f.Add(must(root.SignPolicy(nil, "allow venus to open tcp 80 at mars", epoch))(f).Bytes())
	f.Add(must(root.SignPolicy(nil, "", epoch))(f).Bytes())
	f.Add([]byte{policyVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := OpenPolicy(b, root.Overlay())
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), b) || p.Number() == 0 || len(p.Text()) > MaxPolicyText {
			t.Fatalf("%x: %+v", b, p)
		}
	})
}
