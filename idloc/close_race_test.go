package idloc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/yardstick"
)

var closeRounds = flag.Int("close.rounds", 4, "how many rounds TestCloseRaces goes; 200 take two minutes")

// Close at any moment, twice at once, while every method is at work, addresses
// change, and peers dial: all calls return, those that can tell say
// net.ErrClosed from then on, and nothing is left (TestMain looks). Entering is
// cut short in the same way, by its context. What was saved stays good: the
// node is opened again.
func TestCloseRaces(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	earth := found(t, idloc.Config{})
	port := echo(t, earth)
	dir := filepath.Join(t.TempDir(), "venus")
	host := newWired(t, "127.1.0.1")
	cfg := idloc.Config{Name: "venus", Dir: dir, Net: host}
	if runtime.GOOS != "linux" { // which has the whole of 127.0.0.0/8
		host = newWired(t, "127.0.0.1")
		cfg.Net = host
	}
	token, err := earth.Invite(idloc.InviteOptions{Name: "venus"})
	if err != nil {
		t.Fatal(err)
	}
	enter := func(ctx context.Context) (*idloc.Node, error) { return idloc.Join(ctx, token, cfg) }
	for i := range *closeRounds {
		// First a start that is given up somewhere on its way.
		ctx, cancel := context.WithTimeout(t.Context(), upTo(rnd, 30*time.Millisecond))
		n, err := enter(ctx)
		if err == nil {
			err = n.Close()
		} else if ctx.Err() == nil {
			t.Fatalf("round %d: %v before its context ended", i, err)
		} else {
			err = nil
		}
		cancel()
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), patience)
		if n, err = enter(ctx); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		cancel()
		enter = func(ctx context.Context) (*idloc.Node, error) { return idloc.Open(ctx, cfg) }
		closeRace(t, earth, n, host, port, rnd)
		if t.Failed() {
			return
		}
	}
	// The end of the last venus may have gone unheard, between addresses as it was. Then
	// earth has conns with nobody, and says so when it closes. With no other.
	var cut *idloc.CutError
	if err := earth.Close(); errors.As(err, &cut) {
		for _, c := range cut.Cuts {
			if c.Name != "venus.example.com" {
				t.Errorf("closing earth: %v", err)
			}
		}
		t.Log(err)
	} else if err != nil {
		t.Errorf("closing earth: %v", err)
	}
}

// closeRace closes n in the middle of everything.
func closeRace(t *testing.T, earth, n *idloc.Node, host *wired, port string, rnd *rand.Rand) {
	closed := make(chan struct{}) // n.Close has returned
	var busy sync.WaitGroup
	// until calls f again and again. Once n is closed, f must say so; an f that
	// has no error to tell with ends then.
	until := func(what string, f func() error) {
		busy.Go(func() {
			for {
				after := isClosed(closed)
				err := f()
				switch {
				case errors.Is(err, net.ErrClosed):
					return
				case after && err != nil:
					t.Errorf("%s after Close: %v, want net.ErrClosed", what, err)
					return
				case after:
					t.Errorf("%s after Close has no error", what)
					return
				}
			}
		})
	}
	quiet := func(f func()) {
		busy.Go(func() {
			for !isClosed(closed) {
				f()
			}
			f() // also after Close
		})
	}
	background := context.Background()
	for _, network := range []string{"tcp", "udp"} {
		until("Dial "+network, func() error {
			c, err := n.Dial(background, network, "earth.example.com:"+port)
			if err != nil {
				return err
			}
			defer c.Close()
			_, _ = c.Write([]byte("x"))
			return nil
		})
	}
	until("a conn", func() error {
		c, err := n.Dial(background, "tcp", "earth:"+port)
		if err != nil {
			return err
		}
		defer c.Close()
		return talk(c)
	})
	until("Listen", func() error {
		l, err := n.Listen("tcp", ":0")
		if err != nil {
			return err
		}
		go l.Close()
		_, err = l.Accept() // closed by whoever is first
		if c, derr := n.Dial(background, "tcp", l.Addr().String()); derr == nil {
			c.Close()
		} else if errors.Is(derr, net.ErrClosed) {
			return derr
		}
		if !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	until("ListenPacket", func() error {
		pc, err := n.ListenPacket("udp", ":0")
		if err != nil {
			return err
		}
		defer pc.Close()
		_ = pc.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, _, err = pc.ReadFrom(make([]byte, 1)); errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	until("Ping", func() error { _, err := n.Ping(background, "earth"); return ignore(err) })
	until("Invite", func() error { _, err := n.Invite(idloc.InviteOptions{}); return ignore(err) })
	until("Capture", func() error {
		stop, err := n.Capture(io.Discard)
		if err == nil {
			stop()
		}
		return err
	})
	quiet(func() { _, _ = n.Resolver().LookupHost(background, "earth.example.com") })
	quiet(func() {
		host.move()
		n.NetworkChanged()
		<-time.After(40 * time.Millisecond) // one that goes as soon as it has come serves nobody
	})
	quiet(func() { _ = n.Status() })
	quiet(func() {
		ctx, cancel := context.WithTimeout(background, time.Millisecond)
		defer cancel()
		for range n.Watch(ctx) {
		}
	})
	busy.Go(func() {
		for range n.Watch(background) { // ends with the node
		}
	})
	page := n.Handler()
	quiet(func() { page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/status.json", nil)) })
	quiet(func() { // a peer calls
		ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
		defer cancel()
		if c, err := earth.Dial(ctx, "tcp", "venus.example.com:9"); err == nil {
			c.Close()
		}
	})

	<-time.After(upTo(rnd, 150*time.Millisecond)) // the moment is what varies
	ended := make(chan error)
	begun, clock := time.Now(), yardstick.Start()
	for range 2 {
		go func() {
			err := n.Close()
			var cut *idloc.CutError
			// Close waits for ten seconds for what was written. Where others had the
			// processors for most of them it may cut; else it may not.
			if errors.As(err, &cut) && time.Since(begun) >= 10*time.Second && clock.Elapsed() < 10*time.Second {
				t.Logf("a busy machine: %v", err)
				err = nil
			}
			ended <- err
		}()
	}
	for range 2 {
		await(t, "Close", ended)
	}
	clock.Stop()
	close(closed)
	all := make(chan error)
	go func() { busy.Wait(); close(all) }()
	await(t, "a call that began before Close", all)
}

// talk wants bytes back until it fails.
func talk(c net.Conn) error {
	for {
		if err := roundTrip(c, []byte("ping")); err != nil {
			return ignore(err)
		}
	}
}

// ignore leaves net.ErrClosed of an error: the others are for other tests.
func ignore(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// await fails with all stacks if nothing comes from got.
func await(t *testing.T, what string, got <-chan error) {
	t.Helper()
	select {
	case err := <-got:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(patience):
		b := make([]byte, 1<<22)
		panic(fmt.Sprintf("%s does not return\n%s", what, b[:runtime.Stack(b, true)]))
	}
}

func upTo(rnd *rand.Rand, d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
