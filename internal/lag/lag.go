// Package lag says how much slower than time a process runs: on a machine that has more
// to do than it can, a timer of a tenth of a second ends after half a second, and an
// answer that was here in time is read when nobody waits for it any more. What is given
// up then is done again, and the machine has still more to do. A timeout that is
// stretched by as much as timers come late breaks that circle, as a tick that comes late
// counts once where silence is counted (package mesh).
package lag

import (
	"sync"
	"time"
)

// Most is by how much a timeout is stretched at most: whoever waits hears of a peer that
// is gone, if late.
const Most = 4

const (
	// tick is the timer whose lateness is measured. Up to slack is what a machine that
	// is not busy has too.
	tick  = 100 * time.Millisecond
	slack = tick / 2
	// watchFor is how long it is measured after the last timeout that was asked for:
	// longer than most waits, so that a second one finds what the first went through. Nothing
	// wakes a process that waits for nothing.
	watchFor = 5 * time.Second
	// weight is that of one tick in the mean.
	weight = 0.25
)

// Meter measures one process, or one node of it. The zero value is ready. It is safe for
// concurrent use.
type Meter struct {
	mu     sync.Mutex
	factor float64   // ticks that a tick takes, in the mean; below 1: not measured
	until  time.Time // it is measured until then
	last   time.Time // when the timer was started
	timer  *time.Timer
}

// Stretch returns a timeout as it is on this machine now: d, or more where timers have
// just come late, Most times d at most. It has lateness measured for a while. A nil Meter
// returns d.
func (m *Meter) Stretch(d time.Duration) time.Duration {
	if m == nil {
		return d
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.until = now.Add(watchFor)
	if m.timer == nil {
		m.factor, m.last = 1, now
		m.timer = time.AfterFunc(tick, m.sample)
	}
	return time.Duration(float64(d) * m.factor)
}

// sample is the end of a tick.
func (m *Meter) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	took := now.Sub(m.last)
	if took < tick+slack {
		took = tick
	}
	m.factor += weight * (min(float64(took)/float64(tick), Most) - m.factor)
	if m.factor < 1.01 {
		m.factor = 1 // no timeout differs by nothing
	}
	if now.After(m.until) {
		m.timer = nil
		return
	}
	m.last = now
	m.timer.Reset(tick)
}
