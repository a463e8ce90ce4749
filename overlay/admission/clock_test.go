package admission

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// A clock that is wrong is said once: by how much, and whose it is as far as can
// be told. The median counts, so that one liar among many says nothing.
func TestHearTime(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	for _, c := range []struct {
		what  string
		ahead []time.Duration // of the others' clocks
		off   time.Duration
		said  string // "": nothing
	}{
		{"nobody", nil, 0, ""},
		{"right", []time.Duration{0, time.Minute, -time.Minute}, 0, ""},
		{"within the tolerance", []time.Duration{membership.Tolerance, membership.Tolerance}, -membership.Tolerance, ""},
		{"one other", []time.Duration{2 * hour}, -2 * hour, "one of them is wrong"},
		{"behind", []time.Duration{hour, hour, hour}, -hour, "this_one_is=behind"},
		{"ahead", []time.Duration{-hour, -hour}, hour, "this_one_is=ahead"},
		{"one liar of three", []time.Duration{0, 100 * hour, 0}, 0, ""},
		{"all differ", []time.Duration{0, 5 * hour, 9 * hour}, -5 * hour, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newTown(t)
			earth := w.found("earth")
			for range 2 {
				for i, d := range c.ahead {
					earth.HearTime(peerid.ID{byte(i + 1)}, uint64(time.Now().Add(d).Unix()))
				}
			}
			off, of := earth.ClockOff()
			if off != c.off || of != len(c.ahead) {
				t.Errorf("%s: off by %v of %d, want %v", c.what, off, of, c.off)
			}
			if wrong := earth.ClockWrong(); wrong != (c.off.Abs() > membership.Tolerance) {
				t.Errorf("%s: wrong %v", c.what, wrong)
			}
			got := warnings(earth.log())
			if c.said == "" && len(got) > 0 || c.said != "" && (len(got) != 1 || !strings.Contains(got[0], c.said)) {
				t.Errorf("%s: said %q, want %q", c.what, got, c.said)
			}
		})
	}
	earth := newTown(t).found("earth")
	earth.HearTime(peerid.ID{1}, 1<<63)
	if _, of := earth.ClockOff(); of != 0 {
		t.Error("a time that no clock has is taken")
	}
	for i := range 3 * clocksMax {
		earth.HearTime(peerid.ID{byte(i), byte(i >> 8), 1}, uint64(time.Now().Unix()))
	}
	if _, of := earth.ClockOff(); of != clocksMax {
		t.Errorf("%d clocks are remembered", of)
	}
}

// When the clock is set, what it dated wrongly is made again between what is ended
// and what is tried again; slewing is no setting.
func TestWatchClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.newPeer(nil, openDir(t))
		earth.setClock(365 * 24 * time.Hour)
		earth.run(Found(earth.config(), "example.com", "earth"))
		ctx, cancel := context.WithCancel(t.Context())
		var calls []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			earth.WatchClock(ctx, func() { calls = append(calls, "before") }, func() {
				calls = append(calls, "after")
				if m := earth.Own().Member; m.NotBefore.After(time.Now()) {
					t.Errorf("after: a membership from %v on", m.NotBefore)
				}
			})
		}()
		time.Sleep(3 * clockEvery)
		earth.setClock(365*24*time.Hour + clockJump/2)
		time.Sleep(3 * clockEvery)
		synctest.Wait()
		if len(calls) > 0 {
			t.Errorf("called %v", calls)
		}
		earth.HearTime(peerid.ID{1}, uint64(time.Now().Unix()))
		earth.setClock(0)
		time.Sleep(2 * clockEvery)
		synctest.Wait()
		if strings.Join(calls, " ") != "before after" || earth.renewals() != 1 {
			t.Errorf("called %v, told %d times", calls, earth.renewals())
		}
		if _, of := earth.ClockOff(); of != 0 {
			t.Error("what was measured with the old clock is kept")
		}
		if s, err := Load(earth.dir); err != nil || s == nil || string(s.Chain) != string(earth.Own().Chain) {
			t.Errorf("saved: %v", err)
		}
		cancel()
		<-done
	})
}

// A clock that is set between the start and the watch is noticed.
func TestClockSetAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.newPeer(nil, openDir(t))
		earth.setClock(365 * 24 * time.Hour)
		earth.run(Found(earth.config(), "example.com", "earth"))
		earth.setClock(0)
		ctx, cancel := context.WithCancel(t.Context())
		noticed := make(chan struct{})
		done := make(chan struct{})
		go func() { defer close(done); earth.WatchClock(ctx, func() {}, func() { close(noticed) }) }()
		select {
		case <-noticed:
		case <-time.After(2 * clockEvery):
			t.Error("not noticed")
		}
		cancel()
		<-done
	})
}

// A delegation that had not begun is one when the clock is set.
func TestDelegationBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		earth := w.found("earth")
		venus := w.newPeer(nil, openDir(t))
		w.joinAs(venus, earth.token(membership.InviteOptions{Roles: membership.RoleDelegate}), "venus")
		if err := venus.Save(); err != nil {
			t.Fatal(err)
		}
		venus.leave()
		s, _ := Load(venus.dir)
		again := w.newPeer(venus.key, venus.dir)
		again.setClock(-30 * 24 * time.Hour)
		again.run(Resume(again.config(), s, nil))
		if again.Own().Issuer {
			t.Error("a delegate before its delegation")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); again.WatchClock(ctx, func() {}, func() {}) }()
		time.Sleep(2 * clockEvery)
		again.setClock(0)
		time.Sleep(2 * clockEvery)
		synctest.Wait()
		if !again.Own().Issuer {
			t.Error("no delegate after its delegation has begun")
		}
		cancel()
		<-done
	})
}
