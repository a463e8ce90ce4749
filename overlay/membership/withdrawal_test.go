package membership

import (
	"bytes"
	"errors"
	"testing"
)

// A withdrawal is for one invitation in one overlay, and nobody without its secret
// makes it.
func TestWithdrawal(t *testing.T) {
	t.Parallel()
	token := testToken(t)
	o := token.Overlay()
	b := must(Withdrawal(o, token.Secret()))(t)
	if key, err := OpenWithdrawal(b, o); err != nil || key != token.Invitation().Subject || len(b) != WithdrawalSize {
		t.Errorf("%v, %v, %d bytes", key, err, len(b))
	}
	other := must(NewOverlay("example.org", o.Root))(t)
	if _, err := OpenWithdrawal(b, other); !errors.Is(err, ErrSignature) {
		t.Errorf("in another overlay: %v", err)
	}
	for i := range b {
		flipped := bytes.Clone(b)
		flipped[i] ^= 4
		if _, err := OpenWithdrawal(flipped, o); err == nil {
			t.Errorf("byte %d is changed, and it opens", i)
		}
		if _, err := OpenWithdrawal(b[:i], o); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
	if _, err := OpenWithdrawal(append(b, 0), o); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a byte too many: %v", err)
	}
}
