package lag

import (
	"testing"
	"testing/synctest"
	"time"
)

// A process that runs in time waits as long as was said, and is left alone once nobody
// waits.
func TestInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		for range 20 {
			if got := m.Stretch(time.Second); got != time.Second {
				t.Fatalf("a second is %v", got)
			}
			time.Sleep(700 * time.Millisecond)
		}
		time.Sleep(watchFor + 2*tick)
		m.mu.Lock()
		if m.timer != nil {
			t.Error("it still measures")
		}
		m.mu.Unlock()
		if got := (*Meter)(nil).Stretch(time.Second); got != time.Second {
			t.Errorf("without a meter a second is %v", got)
		}
	})
}

// Where ticks take several times as long timeouts do, up to Most; and are what they were
// when that is over.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		// late has so many ticks take so long.
		late := func(ticks int, each time.Duration) {
			for range ticks {
				m.mu.Lock()
				m.last = m.last.Add(tick - each)
				m.mu.Unlock()
				time.Sleep(tick)
				synctest.Wait()
			}
		}
		m.Stretch(0)
		late(1, 4*tick/3)
		if got := m.Stretch(time.Second); got != time.Second {
			t.Errorf("one tick that is a little late makes a second %v", got)
		}
		late(20, 3*tick)
		if got := m.Stretch(time.Second); got < 2900*time.Millisecond || got > 3*time.Second {
			t.Errorf("with ticks of three a second is %v", got)
		}
		late(20, time.Minute)
		if got := m.Stretch(time.Second); got > Most*time.Second || got < (Most-1)*time.Second {
			t.Errorf("with ticks of a minute a second is %v", got)
		}
		late(30, tick)
		if got := m.Stretch(time.Second); got != time.Second {
			t.Errorf("when it is over a second is %v", got)
		}
		time.Sleep(watchFor + 2*tick)
	})
}
