package netstack

import (
	"sync"
	"time"
)

// deadline is a point in time as a channel that is closed when it is reached.
// It is safe for concurrent use; the zero deadline is never. The channel is
// made when somebody needs it: most conns have no deadline, and many idle ones
// nobody who waits.
type deadline struct {
	mu     sync.Mutex // guards timer and cancel
	timer  *time.Timer
	cancel chan struct{} // nil: never, and nobody has waited
	tell   chan struct{} // gets a token when the deadline changes; may be nil, set before use
}

// set moves the deadline to t; the zero time is never. Whoever waits already
// is moved along.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.cancel // the timer's function is about to close it
	}
	d.timer = nil
	defer wake(d.tell)
	reached := d.cancel != nil && isClosed(d.cancel)
	left := time.Until(t)
	switch {
	case t.IsZero():
		if reached {
			d.cancel = nil
		}
		return
	case reached && left <= 0:
		return
	case reached || d.cancel == nil:
		d.cancel = make(chan struct{})
	}
	if left <= 0 {
		close(d.cancel)
		return
	}
	ch := d.cancel
	d.timer = time.AfterFunc(left, func() { close(ch) })
}

// wait returns a channel that is closed when the deadline is reached.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel == nil {
		d.cancel = make(chan struct{})
	}
	return d.cancel
}

// reached is wait for those who also wait for a token of tell: it returns nil,
// which blocks forever, while there is no deadline.
func (d *deadline) reached() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel
}

// passed says whether the deadline is reached.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cancel != nil && isClosed(d.cancel)
}

// wake puts a token into ch, whose capacity is 1, if there is room; ch may be
// nil.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
