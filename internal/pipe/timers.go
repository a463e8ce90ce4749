package pipe

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// timed is something that wants to be called at a time. One goroutine of the
// Endpoint calls all of them. Times are Endpoint.now's.
type timed struct {
	fire func(now int64) (next int64) // 0: no next; called without locks
	due  atomic.Int64                 // when it will be called, 0 = not planned
	pos  int                          // in the heap, from 1; guarded by timers.mu
}

type timerHeap []*timed

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due.Load() < h[j].due.Load() }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i+1, j+1
}
func (h *timerHeap) Push(x any) {
	t := x.(*timed)
	*h = append(*h, t)
	t.pos = len(*h)
}
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.pos = 0
	return t
}

// timers is the schedule and its goroutine. Methods may be called
// concurrently.
type timers struct {
	now  func() int64
	kick chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex // guards what follows
	heap    timerHeap
	stopped bool
	lingers time.Duration // after which the goroutine ends if nothing is planned; 0: it stays
	asleep  bool          // it has ended so: the next plan begins another
}

func (ts *timers) start(now func() int64) {
	ts.now = now
	ts.kick = make(chan struct{}, 1)
	ts.stop = make(chan struct{})
	ts.done = make(chan struct{})
	go ts.run()
}

// plan has t called at at, or earlier if that was planned already; false: nothing
// is called any more.
func (ts *timers) plan(t *timed, at int64) bool {
	ts.mu.Lock()
	if ts.stopped || t.pos > 0 && t.due.Load() <= at {
		stopped := ts.stopped
		ts.mu.Unlock()
		return !stopped
	}
	t.due.Store(at)
	if t.pos > 0 {
		heap.Fix(&ts.heap, t.pos-1)
	} else {
		heap.Push(&ts.heap, t)
	}
	first := ts.heap[0] == t
	if ts.asleep {
		ts.asleep, first = false, false
		go ts.run()
	}
	ts.mu.Unlock()
	if first {
		select {
		case ts.kick <- struct{}{}:
		default:
		}
	}
	return true
}

// forget takes t out of the schedule. A call under way may still end after.
func (ts *timers) forget(t *timed) {
	ts.mu.Lock()
	if t.pos > 0 {
		heap.Remove(&ts.heap, t.pos-1)
	}
	t.due.Store(0)
	ts.mu.Unlock()
}

// take removes and returns the next that is due, or says how long to wait.
func (ts *timers) take() (t *timed, wait time.Duration) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	switch {
	case len(ts.heap) > 0:
	case ts.lingers > 0:
		return nil, ts.lingers
	default:
		return nil, time.Hour
	}
	if d := ts.heap[0].due.Load() - ts.now(); d > 0 {
		return nil, time.Duration(d)
	}
	t = heap.Pop(&ts.heap).(*timed)
	t.due.Store(0)
	return t, 0
}

// sleeps ends the goroutine, the caller, if it may and nothing is planned.
func (ts *timers) sleeps() bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.asleep = ts.lingers > 0 && len(ts.heap) == 0 && !ts.stopped
	return ts.asleep
}

func (ts *timers) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		t, wait := ts.take()
		if t != nil {
			if next := t.fire(ts.now()); next > 0 {
				ts.plan(t, next)
			}
			select {
			case <-ts.stop:
				close(ts.done)
				return
			default:
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
			if ts.sleeps() {
				return
			}
		case <-ts.kick:
		case <-ts.stop:
			close(ts.done)
			return
		}
	}
}

// close ends the goroutine and waits for it.
func (ts *timers) close() {
	ts.mu.Lock()
	stopped, asleep := ts.stopped, ts.asleep
	ts.stopped, ts.asleep = true, false
	for _, t := range ts.heap {
		t.pos = 0 // a pipe that ends later forgets itself
	}
	ts.heap = nil
	ts.mu.Unlock()
	if !stopped {
		close(ts.stop)
		if asleep {
			close(ts.done)
		}
	}
	<-ts.done
}
