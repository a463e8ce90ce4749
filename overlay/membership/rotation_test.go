package membership

import (
	"errors"
	"testing"
)

// Both keys say so, in this overlay, and nothing else can be made of it.
func TestRotation(t *testing.T) {
	t.Parallel()
	root, old, next := testRoot(t), seedKey(5), seedKey(6)
	b := must(Rotation(root.Overlay(), old, next))(t)
	if len(b) != RotationSize {
		t.Errorf("%d bytes", len(b))
	}
	from, to, err := OpenRotation(b, root.Overlay())
	if err != nil || from != KeyOf(idOf(old)) || to != KeyOf(idOf(next)) {
		t.Errorf("from %v to %v: %v", from, to, err)
	}
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 1
		if _, _, err := OpenRotation(bad, root.Overlay()); err == nil {
			t.Fatalf("with byte %d changed it is good", i)
		}
		if _, _, err := OpenRotation(b[:i], root.Overlay()); err == nil {
			t.Fatalf("cut to %d bytes it is good", i)
		}
	}
	other := must(NewRoot("example.com"))(t)
	if _, _, err := OpenRotation(b, other.Overlay()); !errors.Is(err, ErrSignature) {
		t.Errorf("in another overlay: %v", err)
	}
	if _, _, err := OpenRotation(append(b, 0), root.Overlay()); err == nil {
		t.Error("with a byte more it is good")
	}
	same := must(Rotation(root.Overlay(), old, old))(t)
	if _, _, err := OpenRotation(same, root.Overlay()); !errors.Is(err, ErrKey) {
		t.Errorf("to the same key: %v", err)
	}
}
