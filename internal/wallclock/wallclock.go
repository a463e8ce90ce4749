// Package wallclock is the wall clock of the process: what certificates, tokens,
// records and offers are dated and judged by. It is the host's clock, unless a
// test shifts it: a laboratory of several processes on one machine gives each a
// clock of its own that way. No program of a user's does.
package wallclock

import (
	"sync/atomic"
	"time"
)

// shift is what the process's clock is ahead of the host's, in nanoseconds.
var shift atomic.Int64

// Now is time.Now on the process's clock.
func Now() time.Time { return time.Now().Add(time.Duration(shift.Load())) }

// Shift makes the clock of this process, and of nothing else, differ from the
// host's by d from now on: what setting the clock does to a running program. It
// is for the node processes of internal/kernellab, for internal/soak and their like.
func Shift(d time.Duration) { shift.Store(int64(d)) }

// Jumps tells how much a wall clock was set since it was last asked. The zero
// value is ready. It is not safe for concurrent use.
type Jumps struct {
	wall, steady time.Time
}

// Since compares now, a reading of the wall clock, with the time that has really
// passed since the last call, and returns how much further it went; negative if
// it was set back. The first call returns 0. A host that was suspended shows as
// a jump forward.
func (j *Jumps) Since(now time.Time) time.Duration {
	steady := time.Now()
	was := *j
	j.wall, j.steady = now.Round(0), steady
	if was.wall.IsZero() {
		return 0
	}
	return j.wall.Sub(was.wall) - steady.Sub(was.steady)
}
