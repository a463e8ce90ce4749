package mesh

import (
	"context"
	"errors"
	"github.com/idloc/idloc/internal/pause"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// fakeLink is a connection on which packets come in as a test says.
type fakeLink struct {
	packets atomic.Uint64
	pto     time.Duration
	closed  bool
}

func (l *fakeLink) received() uint64            { return l.packets.Load() }
func (l *fakeLink) probeTimeout() time.Duration { return l.pto }
func (l *fakeLink) close()                      { l.closed = true }

// doubt asks a question on links that is answered as ask does, and says after how
// long it was over and whether connections were closed.
func doubt(ctx context.Context, ask func(context.Context) error, links ...*fakeLink) (took time.Duration, gone bool) {
	s := &suspects{
		asked: map[peer.ID]bool{},
		ask:   func(ctx context.Context, _ peer.ID) error { return ask(ctx) },
		gone:  func(peer.ID) { gone = true },
		links: func(peer.ID) (out []link) {
			for _, l := range links {
				out = append(out, l)
			}
			return out
		},
	}
	start := time.Now()
	s.question(ctx, "mars")
	return time.Since(start), gone
}

// never is a question that nobody answers.
func never(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A connection on which nothing at all comes back is closed, after two seconds or as
// long as its round trips need; no other is.
func TestSuspect(t *testing.T) {
	t.Parallel()
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { t.Parallel(); synctest.Test(t, f) })
	}
	run("nothing comes", func(t *testing.T) {
		l := &fakeLink{pto: 30 * time.Millisecond}
		if took, gone := doubt(t.Context(), never, l); took != suspectMin || !gone || !l.closed {
			t.Errorf("after %v: %v, %v", took, gone, l.closed)
		}
	})
	run("a long way", func(t *testing.T) {
		l := &fakeLink{pto: time.Second}
		if took, _ := doubt(t.Context(), never, l); took != suspectProbes*time.Second || !l.closed {
			t.Errorf("after %v: %v", took, l.closed)
		}
	})
	run("the answer", func(t *testing.T) {
		l := &fakeLink{}
		took, gone := doubt(t.Context(), func(ctx context.Context) error { pause.For(ctx, time.Second); return nil }, l)
		if took != time.Second || gone || l.closed {
			t.Errorf("after %v: %v, %v", took, gone, l.closed)
		}
	})
	run("another failure", func(t *testing.T) {
		l := &fakeLink{}
		if _, gone := doubt(t.Context(), func(context.Context) error { return network.ErrReset }, l); gone || l.closed {
			t.Errorf("%v, %v", gone, l.closed)
		}
	})
	run("no connection", func(t *testing.T) {
		if took, gone := doubt(t.Context(), never); took != 0 || gone {
			t.Errorf("after %v: %v", took, gone)
		}
	})
	run("the end of the node", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l := &fakeLink{}
		if took, gone := doubt(ctx, never, l); took != time.Second || gone || l.closed {
			t.Errorf("after %v: %v, %v", took, gone, l.closed)
		}
	})
	run("late, but packets come", func(t *testing.T) {
		l := &fakeLink{}
		took, gone := doubt(t.Context(), func(ctx context.Context) error {
			for range 8 { // each in less than the time of silence
				pause.For(ctx, suspectMin-time.Second/2)
				l.packets.Add(1)
			}
			return nil
		}, l)
		if took != 8*(suspectMin-time.Second/2) || gone || l.closed {
			t.Errorf("after %v: %v, %v", took, gone, l.closed)
		}
	})
	run("packets, and then none", func(t *testing.T) {
		l, other := &fakeLink{}, &fakeLink{}
		took, gone := doubt(t.Context(), func(ctx context.Context) error {
			pause.For(ctx, time.Second-suspectTick/2)
			l.packets.Add(1)
			return never(ctx)
		}, l, other)
		// The one on which something has come lives, or did until then.
		if took != time.Second+suspectMin || !gone || l.closed || !other.closed {
			t.Errorf("after %v: %v, %v, %v", took, gone, l.closed, other.closed)
		}
	})
	run("packets, and never an answer", func(t *testing.T) {
		l := &fakeLink{}
		took, gone := doubt(t.Context(), func(ctx context.Context) error {
			for pause.For(ctx, time.Second) {
				l.packets.Add(1)
			}
			return ctx.Err()
		}, l)
		if took != suspectMax || gone || l.closed {
			t.Errorf("after %v: %v, %v", took, gone, l.closed)
		}
	})
}

// A process that had no time has heard nothing because it did not listen: ticks
// that it has missed are not silence.
func TestSuspectStarved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &fakeLink{}
		stalls := 0
		l2 := &stallingLink{fakeLink: l, stall: func() {
			if stalls++; stalls == 5 {
				time.Sleep(20 * suspectMin) // the goroutine does not run
			}
		}}
		answered := make(chan struct{})
		go func() {
			// The answer has come in meanwhile; this process reads it a moment
			// after it runs again.
			time.Sleep(20*suspectMin + suspectMin/2)
			close(answered)
		}()
		if awaitSilence(t.Context(), []link{l2}, answered) {
			t.Error("the peer is blamed")
		}
	})
}

type stallingLink struct {
	*fakeLink
	stall func()
}

func (l *stallingLink) received() uint64 { l.stall(); return l.fakeLink.received() }

// One question at a time for each member, and one to everybody a second.
func TestSuspectOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &suspects{asked: map[peer.ID]bool{}}
		if !s.begin("mars") || s.begin("mars") || !s.begin("venus") {
			t.Error("not one for each")
		}
		if s.end("mars"); !s.begin("mars") {
			t.Error("not again afterwards")
		}
		if !s.due() || s.due() {
			t.Error("not once")
		}
		if time.Sleep(suspectPause); !s.due() {
			t.Error("not again a second later")
		}
	})
}

// A member that is there keeps its connection, however often it is suspected.
func TestSuspectNeighbor(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	c := a.Host().Network().ConnsToPeer(b.peer())[0]
	a.Suspect(b.peer())
	a.SuspectAllNowAndThen()
	a.PipeMoved(b.id, false)
	await(t, "nobody is asked any more", func() bool {
		a.suspects.mu.Lock()
		defer a.suspects.mu.Unlock()
		return len(a.suspects.asked) == 0
	})
	if c.IsClosed() {
		t.Error("the connection was closed")
	}
	if l := a.linksTo(b.peer()); len(l) != 1 || l[0].received() == 0 || l[0].probeTimeout() <= 0 {
		t.Errorf("its link: %+v", l)
	}
	if err := a.suspects.ask(t.Context(), a.peer()); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("itself: %v", err)
	}
}
