package null

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// rig is two streams joined by links that die one after the other.
type rig struct {
	t        testing.TB
	rcv, snd int
	streams  [2]*Stream

	mu     sync.Mutex
	faults []fault // of the links to come; healthy when there are no more
	links  []*link
	// dial makes a connection in place of a link.
	dial func() (a, b Conn)
	gone [2]bool
	// broken says what goes wrong with attempt n to resume: nothing, or one
	// of the constants below.
	broken func(n int) int
	tries  int
	// paths says whether an offer gets through now.
	deaf bool

	one  sync.Mutex // one attempt at a time, as epochs have it
	stop chan struct{}
	wg   sync.WaitGroup
}

const (
	works       = iota
	offerLost   // the peer never hears of it
	answerLost  // the peer has stopped, and waits in vain
	oneSided    // the peer has a connection, this side does not
	oneSidedRev // this side has a connection, the peer does not
)

var errNoWay = errors.New("no way")

func newRig(t testing.TB, rcv, snd int, faults ...fault) *rig {
	r := &rig{t: t, rcv: rcv, snd: snd, faults: faults, stop: make(chan struct{})}
	r.start()
	return r
}

func (r *rig) start() {
	_, a, b := r.link()
	for i, c := range []Conn{a, b} {
		r.streams[i] = New(Config{
			Local: &net.TCPAddr{Port: i}, Remote: &net.TCPAddr{Port: 1 - i}, Unread: r.rcv,
			Resume: func(ctx context.Context, rep Report) error { return r.resume(ctx, i, rep) },
			Ended: func(error) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.gone[i] = true
			},
		}, c, r.rcv)
	}
	r.wg.Go(r.watch)
}

func (r *rig) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
			for _, s := range r.streams {
				s.Check()
			}
		}
	}
}

func (r *rig) link() (*link, Conn, Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dial != nil {
		a, b := r.dial()
		return nil, a, b
	}
	f := healthy
	if len(r.faults) > 0 {
		f, r.faults = r.faults[0], r.faults[1:]
	}
	l, a, b := newLink(r.rcv, r.snd, f)
	r.links = append(r.links, l)
	return l, a, b
}

// resume is the offer and the answer.
func (r *rig) resume(_ context.Context, i int, rep Report) error {
	r.one.Lock()
	defer r.one.Unlock()
	if !r.streams[i].Fresh(rep) {
		return nil
	}
	r.mu.Lock()
	what := works
	if r.broken != nil {
		what = r.broken(r.tries)
	}
	r.tries++
	gone, deaf := r.gone[1-i], r.deaf
	r.mu.Unlock()
	switch {
	case deaf || what == offerLost:
		return errNoWay
	case gone:
		return ErrReset
	}
	peer, ok := r.streams[1-i].Pause()
	if !ok {
		return ErrReset
	}
	if what == answerLost {
		return errNoWay
	}
	_, a, b := r.link()
	mine, theirs := a, b
	if i == 1 {
		mine, theirs = b, a
	}
	switch what {
	case oneSided:
		if err := r.streams[1-i].Install(theirs, peer, rep); err != nil {
			return err
		}
		mine.Abort()
		return errNoWay
	case oneSidedRev:
		if err := r.streams[i].Install(mine, rep, peer); err != nil {
			return err
		}
		theirs.Abort()
		return nil
	}
	if err := r.streams[1-i].Install(theirs, peer, rep); err != nil {
		return err
	}
	return r.streams[i].Install(mine, rep, peer)
}

// close aborts both and waits for all of theirs.
func (r *rig) close() {
	for _, s := range r.streams {
		s.Abort()
	}
	for _, s := range r.streams {
		s.Wait()
	}
	close(r.stop)
	r.wg.Wait()
}

func (r *rig) switches() int {
	s := r.streams[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.installs
}
