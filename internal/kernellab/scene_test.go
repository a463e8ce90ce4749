//go:build linux

package kernellab

import (
	"errors"
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
)

// The scenes are short by default; these make them long.
var (
	strict     = flag.Bool("strict", false, "hold the nodes to their times by the clock, not by the yardstick, which takes a quiet machine")
	logs       = flag.String("logs", "", "existing `folder` for debug logs of all nodes")
	powerCuts  = flag.Int("powercuts", 1, "how often TestPowerCut kills everybody")
	office     = flag.Int("office", 24, "members behind one NAT in TestOffice")
	firstDials = flag.Int("firstdials", 2, "rounds of starting and dialling at once, in TestUselessInterfaces")
)

// patience is how long a scene waits for what is promised within a time: what
// is late is told from what never happens, on a machine that may be busy.
func patience(promise time.Duration) time.Duration {
	return time.Duration(yardstick.Slowness() * float64(5*promise+5*time.Second))
}

// watch measures how soon something happens: by the yardstick, so that it is
// about the nodes and not about how busy the machine is, or with -strict by the
// clock.
type watch struct {
	start time.Time
	idle  *yardstick.Clock
}

// measure starts a watch.
func measure(t *testing.T) *watch {
	w := &watch{time.Now(), yardstick.Start()}
	t.Cleanup(func() { w.idle.Stop() })
	return w
}

func (w *watch) took() time.Duration {
	d := w.idle.Elapsed()
	if *strict {
		d = time.Since(w.start)
	}
	return d.Round(time.Millisecond)
}

// bound is how long what is promised may take: twice as long without -strict, for
// the nodes are processes that wait for each other in turn, each for its share of
// the processors, and the yardstick knows how long this process waits.
func bound(promise time.Duration) time.Duration {
	if *strict {
		return promise
	}
	return 2 * promise
}

// until is when whoever waits for what is promised gives up.
func (w *watch) until(promise time.Duration) time.Time { return w.start.Add(patience(promise)) }

// reach calls a peer again and again, as somebody does who wants to speak to
// it, until it answers or the time is over.
func (n *node) reach(peer string, until time.Time) error {
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for err := errors.New("no time was left"); ; <-tick.C {
		left := time.Until(until)
		if left <= 0 {
			return err
		}
		if _, err = n.ask(request{Op: "call", Name: peer, Within: left}); err == nil {
			return nil
		}
	}
}

// meet has everybody call everybody until they answer, within what is promised
// since w was started, and returns how long the last pair took.
func meet(t *testing.T, w *watch, promise time.Duration, up ...*node) time.Duration {
	t.Helper()
	type pair struct{ from, to *node }
	var pairs []pair
	for _, a := range up {
		for _, b := range up {
			if a != b {
				pairs = append(pairs, pair{a, b})
			}
		}
	}
	return together(t, w, promise, pairs, func(p pair, until time.Time) error { return p.from.reach(p.to.name, until) })
}

// together does something for all of a list at once, within what is promised
// since w was started, and returns how long the last one took.
func together[T any](t *testing.T, w *watch, promise time.Duration, list []T, do func(T, time.Time) error) time.Duration {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, len(list))
	for _, x := range list {
		wg.Go(func() {
			if err := do(x, w.until(promise)); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	took := w.took()
	close(errs)
	if failed := len(errs); failed > 0 {
		t.Errorf("%d of %d failed in %v, one of them: %v", failed, len(list), took, <-errs)
	} else if limit := bound(promise); took > limit {
		t.Errorf("the last of %d took %v, more than %v", len(list), took, limit)
	}
	return took
}
