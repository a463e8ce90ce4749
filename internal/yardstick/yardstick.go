// Package yardstick is for tests whose point is how soon something happens. It
// tells time as a machine would have spent it that has nothing else to do: it
// does a piece of work of known length, a nap and some computing, again and
// again beside what is measured, and counts for each what it takes at best. On
// a machine where others compute too the piece takes longer, as everything in
// the process does, and the yardstick's time passes more slowly than the
// clock's; it never passes faster. So a budget in it is about the program and
// not about the machine:
//
//	took := yardstick.Start()
//	...
//	if d := took.Stop(); d > 5*time.Second {
//		t.Errorf("took %v", d)
//	}
//
// Where only that something happens counts there is no budget: go test's own
// limit finds what hangs. Await is between the two: it gives up what will not
// happen, later on a machine that is slow. Slowness is for what needs a number
// beforehand.
//
// It is of no use in a bubble of testing/synctest, whose time is exact.
package yardstick

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// A piece is a nap, and sums of a buffer that take about a third of it.
const (
	nap  = time.Millisecond
	sums = 8
)

// passed is the sum of the pieces that were done, each at its best.
var passed atomic.Int64

// runner is the one goroutine that does pieces for all Clocks of the process,
// as long as there are any.
var runner struct {
	sync.Mutex // guards all below
	clocks     int
	stop, done chan struct{}
	best       time.Duration // of the computing; the goroutine has it while it runs
}

// Clock is one measurement. It may be used concurrently.
type Clock struct {
	begin int64
	once  sync.Once
	took  time.Duration
}

// Start starts a Clock. Whoever starts one stops it.
func Start() *Clock {
	r := &runner
	r.Lock()
	defer r.Unlock()
	if r.clocks++; r.clocks == 1 {
		r.stop, r.done = make(chan struct{}), make(chan struct{})
		go run(r.stop, r.done, &r.best)
	}
	return &Clock{begin: passed.Load()}
}

// Elapsed is the time since Start.
func (c *Clock) Elapsed() time.Duration { return time.Duration(passed.Load() - c.begin) }

// Stop ends the measurement and returns the time since Start. A second call
// returns the same.
func (c *Clock) Stop() time.Duration {
	c.once.Do(func() {
		c.took = c.Elapsed()
		r := &runner
		r.Lock()
		defer r.Unlock()
		if r.clocks--; r.clocks == 0 {
			close(r.stop)
			<-r.done
		}
	})
	return c.took
}

// run does pieces until stop. best is the least that the computing has taken
// in this process.
func run(stop <-chan struct{}, done chan<- struct{}, best *time.Duration) {
	defer close(done)
	for range 20 {
		compute(best)
	}
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-time.After(nap):
		}
		compute(best)
		now := time.Now()
		passed.Add(int64(min(now.Sub(last), nap+*best)))
		last = now
	}
}

// Slowness says how many times longer than at best everything takes now, at
// least 1: for budgets that have to be fixed before, or that another process
// keeps.
func Slowness() float64 {
	begin := time.Now()
	c := Start()
	for c.Elapsed() < 50*time.Millisecond {
		time.Sleep(nap)
	}
	return max(1, float64(time.Since(begin))/float64(c.Stop()))
}

var buffer [64 << 10]byte

// compute computes for a while, and lowers best if it was quicker.
func compute(best *time.Duration) {
	begin := time.Now()
	for range sums {
		sha256.Sum256(buffer[:])
	}
	if d := time.Since(begin); *best == 0 || d < *best {
		*best = d
	}
}

// Await looks again and again whether ok, and gives up when it has not been so
// within a time by the yardstick. What it waits for is the program's own
// background work, which has no end to wait on.
func Await(within time.Duration, ok func() bool) bool {
	c := Start()
	defer c.Stop()
	for !ok() {
		if c.Elapsed() > within {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
	return true
}
