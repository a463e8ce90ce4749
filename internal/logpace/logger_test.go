package logpace

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
		lines := func() int { n := strings.Count(b.String(), "\n"); b.Reset(); return n }
		for i := range 1000 {
			l.Warn("refused", "peer", i)
			l.With("at", i).WithGroup("g").Warn("refused")
		}
		if n := lines(); n != burst {
			t.Errorf("%d lines of 2000", n)
		}
		l.Warn("another")
		l.Info("refused")
		if n := lines(); n != 2 {
			t.Errorf("%d lines of two other kinds", n)
		}
		for range 100 {
			l.Debug("refused")
		}
		if n := lines(); n != 100 {
			t.Errorf("%d lines of 100 for somebody who watches", n)
		}
		time.Sleep(every)
		l.Warn("refused")
		l.Warn("refused")
		if !strings.Contains(b.String(), "left_out=1950") || lines() != 1 {
			t.Error("the next line does not say what was left out")
		}
		time.Sleep(burst * every)
		for range 100 {
			l.Warn("refused")
		}
		if n := lines(); n != burst {
			t.Errorf("%d lines after a rest", n)
		}
		for i := range 3 * maxKept {
			l.Warn(strings.Repeat("x", i))
		}
		if n := len(l.Handler().(*handler).pace.kept); n > maxKept {
			t.Errorf("%d messages are kept", n)
		}
	})
}

func TestNew(t *testing.T) {
	New(nil).Error("is silent")
	l := New(slog.Default())
	if New(l) != l || New(l.With("a", 1)).Handler().(*handler).pace != l.Handler().(*handler).pace {
		t.Error("a bounded logger is bounded twice")
	}
}
