package idloc

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// Every watcher sees one order, numbered, whose times do not go back; one that
// lags sees from the numbers what it has lost.
func TestEventOrder(t *testing.T) {
	t.Parallel()
	h := newHub()
	var watchers [2]*watcher
	for i := range watchers {
		watchers[i] = h.subscribe()
	}
	var wg sync.WaitGroup
	begin := time.Now()
	const emitters, each = 8, watchBuffer / 8
	for i := range emitters {
		wg.Go(func() {
			for j := range each { // those of one goroutine rise, those of two are mixed
				h.publish(Event{Time: begin.Add(time.Duration(j*emitters+i) * time.Microsecond)})
			}
		})
	}
	wg.Wait()
	var seen [2][]Event
	for i, w := range watchers {
		for e, ok := w.pop(); ok; e, ok = w.pop() {
			seen[i] = append(seen[i], e)
		}
	}
	if len(seen[0]) != emitters*each || !slices.Equal(seen[0], seen[1]) {
		t.Fatalf("%d and %d events, or not the same", len(seen[0]), len(seen[1]))
	}
	for i, e := range seen[0] {
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d has number %d", i, e.Seq)
		}
		if i > 0 && e.Time.Before(seen[0][i-1].Time) {
			t.Fatalf("event %d is %v before the last", i, seen[0][i-1].Time.Sub(e.Time))
		}
	}
	const more = 10
	for range watchBuffer + more {
		h.publish(Event{Time: begin})
	}
	if e, ok := watchers[0].pop(); !ok || e.Seq != emitters*each+more+1 {
		t.Errorf("after %d events too many the next is %d", more, e.Seq)
	}
}
