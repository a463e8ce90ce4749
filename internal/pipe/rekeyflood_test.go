package pipe

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/curve25519"

	"github.com/idloc/idloc/internal/wire"
)

// lineCount is a log that counts its lines.
type lineCount struct {
	slog.Handler
	n atomic.Int64
}

func (l *lineCount) Enabled(context.Context, slog.Level) bool { return true }
func (l *lineCount) Handle(context.Context, slog.Record) error {
	l.n.Add(1)
	return nil
}

// A peer that answers a rekey with thousands of wrong answers costs no key
// agreement for each, nor a line of the log; the right one is taken after it.
func TestRekeyAnswerFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lineCount{Handler: slog.DiscardHandler}
		n := newNetwork(10 * time.Millisecond)
		a := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.Logger = slog.New(log) })
		b := newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		sendNumber(pa, 0)
		settle(time.Second)
		pa.mu.Lock()
		if err := pa.beginRekey(a.now()); err != nil {
			t.Fatal(err)
		}
		kp := pa.keys.cur
		pa.unlock()
		const flood = 5000
		wrong := wire.Frame{Type: wire.FrameRekeyAnswer, Number: 1, Message: make([]byte, 100)}
		for i := range flood {
			wrong.Message = append([]byte(nil), wrong.Message...)
			copy(wrong.Message, curve25519.Basepoint) // a point, so that it is worked on
			wrong.Message[99] = byte(i)
			pa.mu.Lock()
			pa.control(kp, pa.paths.best.Load(), wrong.Append(nil), 0, true, a.now())
			pa.unlock()
		}
		if n := log.n.Load(); n > 100 {
			t.Errorf("%d lines in the log for %d frames", n, flood)
		}
		if worked := flood - pa.drops[DropHandshake].Load(); worked > offersBurst {
			t.Errorf("%d of %d answers were worked on", worked, flood)
		}
		settle(2 * time.Second)
		pa.mu.Lock()
		pa.e.timers.plan(&pa.timed, a.now())
		pa.unlock()
		settle(2 * time.Second)
		if pa.keys.cur.number != 1 || pb.keys.cur.number != 1 {
			t.Errorf("rekeys %d and %d after it", pa.keys.cur.number, pb.keys.cur.number)
		}
	})
}
