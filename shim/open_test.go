package shim_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
)

// All who wait for a pipe to one peer share one attempt and hear of its end
// together, far more than the shim would hold packets of; one more waits as well.
func TestOpenTogether(t *testing.T) {
	for _, why := range []error{errors.New("nobody answers"), nil} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			released := ""
			p := newPair(t, func(e event.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Kind == event.PacketsReleased {
					released = e.Detail
				}
			})
			p.a.OnConnect = func(context.Context, peerid.ID) error {
				time.Sleep(7 * time.Second)
				return why
			}
			const n = 10_000
			start := time.Now()
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					up, err := p.a.Shim.Open(t.Context(), p.dst, false)
					if !errors.Is(err, why) || (up != nil) != (why == nil) || time.Since(start) != 7*time.Second {
						t.Errorf("after %v: %v, %v", time.Since(start), up, err)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if got := p.a.Connects.Load(); got != 1 {
				t.Errorf("%d Connects", got)
			}
			mu.Lock()
			defer mu.Unlock()
			if want := map[bool]string{true: "10000"}[why == nil]; released != want {
				t.Errorf("released %q, want %q", released, want)
			}
		})
	}
}

// Those who try again do so together, after pauses that grow, and at once when
// the peer comes.
func TestOpenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.a.OnConnect = func(context.Context, peerid.ID) error { return errors.New("nobody answers") }
		start := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for again := false; ; again = true {
					if up, err := p.a.Shim.Open(t.Context(), p.dst, again); err == nil {
						if up.Err() != nil {
							t.Error("the pipe is gone")
						}
						return
					}
				}
			})
		}
		time.Sleep(20 * time.Second) // 0.1, 0.2, 0.4, 0.8, 1.6, then every 2 s
		if n := p.a.Connects.Load(); n != 14 {
			t.Errorf("%d Connects in 20 s", n)
		}
		// The peer comes to us in the middle of a pause.
		src, _ := p.b.Table.Self()
		dst, _ := p.b.LSI(t, p.a)
		if err := p.b.Shim.Output(udp(src, dst, "x")); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if took := time.Since(start); took > 20*time.Second+100*time.Millisecond {
			t.Errorf("after %v", took)
		}
		if err := p.a.Shim.LastError(p.b.ID); err != nil {
			t.Errorf("LastError of a peer that has come: %v", err)
		}
	})
}

// What Open returned ends with the pipe.
func TestOpenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		first, err := p.a.Shim.Open(t.Context(), p.dst, false)
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.a.Shim.Open(t.Context(), p.dst, false)
		if err != nil || first.Err() != nil || second.Err() != nil {
			t.Fatal(err, first.Err(), second.Err())
		}
		time.Sleep(time.Millisecond) // of the bubble: sessions are told apart by when they began
		for _, pipe := range p.a.Pipes.Pipes() {
			pipe.Close(nil)
		}
		synctest.Wait()
		if first.Err() == nil || second.Err() == nil {
			t.Error("the pipe is gone, and nobody is told")
		}
		third, err := p.a.Shim.Open(t.Context(), p.dst, false)
		if err != nil || third.Err() != nil || p.a.Connects.Load() != 2 {
			t.Errorf("%v after %d Connects", err, p.a.Connects.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.a.Shim.Close()
		if third.Err() == nil {
			t.Error("the shim is closed, and nobody is told")
		}
		if _, err := p.a.Shim.Open(ctx, p.dst, false); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		if up, err := p.a.Shim.Open(ctx, p.src, false); up != nil || err != nil {
			t.Errorf("Open of oneself: %v, %v", up, err)
		}
	})
}

// Open ends with its context, and with the shim, and nothing else does.
func TestOpenContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.a.OnConnect = func(ctx context.Context, _ peerid.ID) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.a.Shim.Open(ctx, p.dst, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		failed := make(chan error)
		go func() { _, err := p.a.Shim.Open(t.Context(), p.dst, false); failed <- err }()
		synctest.Wait()
		p.a.Shim.Close()
		if err := <-failed; err == nil {
			t.Error("open after Close")
		}
	})
}

// One who has not waited yet is not told of a failure before: it asks anew.
func TestOpenAsksAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		why := errors.New("nobody answers")
		p.a.OnConnect = func(context.Context, peerid.ID) error { return why }
		for want := int64(1); want <= 3; want++ {
			if _, err := p.a.Shim.Open(t.Context(), p.dst, false); !errors.Is(err, why) {
				t.Error(err)
			}
			if n := p.a.Connects.Load(); n != want {
				t.Errorf("%d Connects, want %d", n, want)
			}
		}
	})
}

// A pipe that is gone as soon as it was there: what has come since has another made for
// it, three times in all, and is answered then; if nothing has come, nobody failed.
func TestPipeGoneAtOnce(t *testing.T) {
	for more, want := range map[int]struct {
		connects int64
		answers  int
		misses   uint64
	}{0: {1, 0, 1}, 1: {2, 0, 2}, 2: {3, 0, 3}, 3: {3, 1, 3}, 100: {3, 1, 3}} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, nil)
			sent := 0
			p.a.OnConnected = func(pipe *pipe.Pipe) {
				synctest.Wait() // it is up, and has what was held
				pipe.Close(nil)
				synctest.Wait()
				time.Sleep(time.Millisecond) // of the bubble: sessions are told apart by when they began
				if sent < more {
					sent++
					if err := p.a.Shim.Output(udp(p.src, p.dst, "again")); err != nil {
						t.Error(err)
					}
				}
			}
			if err := p.a.Shim.Output(udp(p.src, p.dst, "first")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if n := p.a.Connects.Load(); n != want.connects {
				t.Errorf("%d packets more: %d Connects, want %d", more, n, want.connects)
			}
			st := p.a.Shim.Stats()
			if len(p.ua.got) != want.answers || st.Drops["out-failed"] != uint64(want.answers) || st.Misses != want.misses {
				t.Errorf("%d packets more: %d answers, %+v", more, len(p.ua.got), st)
			}
			if err := p.a.Shim.LastError(p.b.ID); (err != nil) != (want.answers > 0) {
				t.Errorf("%d packets more: LastError %v", more, err)
			}
			if p.a.Shim.HasPipe(p.dst) {
				t.Errorf("%d packets more: a pipe that is closed is said to be there", more)
			}
		})
	}
}
