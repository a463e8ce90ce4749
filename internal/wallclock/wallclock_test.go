package wallclock

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestShift: the process's clock goes on from where it was set, and whoever
// watches it is told how far that was, once.
func TestShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer Shift(0)
		var j Jumps
		if d := j.Since(Now()); d != 0 {
			t.Errorf("at first: %v", d)
		}
		for _, step := range []struct{ to, jump time.Duration }{
			{0, 0}, {time.Hour, time.Hour}, {time.Hour, 0}, {-time.Hour, -2 * time.Hour}, {-time.Hour, 0}, {0, time.Hour},
		} {
			time.Sleep(time.Minute)
			Shift(step.to)
			if got := time.Until(Now()); got != step.to {
				t.Errorf("set %v ahead: %v ahead", step.to, got)
			}
			if d := j.Since(Now()); d != step.jump {
				t.Errorf("set %v ahead: a jump of %v, want %v", step.to, d, step.jump)
			}
		}
	})
}
