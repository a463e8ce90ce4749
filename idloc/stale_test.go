package idloc

import (
	"errors"
	"fmt"
	"testing"

	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/membership"
)

// What Config.MaxListAge refuses is refused by policy, at its stage, and no Dial goes on,
// with null encapsulation either.
func TestStaleIsPolicy(t *testing.T) {
	t.Parallel()
	cause := error(&overlay.StageError{Stage: StageHandshake, Err: fmt.Errorf("%w: as of then", membership.ErrStale)})
	if !final(cause) || passes(&flowError{cause}) {
		t.Error("a Dial goes on")
	}
	var n Node
	for _, err := range []error{n.stageOf(target{}, cause), n.nullError(target{}, cause)} {
		var stage *StageError
		if !errors.Is(err, ErrRefusedByPolicy) || !errors.Is(err, membership.ErrStale) || !errors.As(err, &stage) || stage.Stage != StageHandshake {
			t.Errorf("%v", err)
		}
	}
}
