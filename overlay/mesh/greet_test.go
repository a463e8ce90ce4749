package mesh

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/overlay/membership"
)

// old makes a chain for a ship that has ended.
func (f *fleet) old(s *ship) []byte {
	f.t.Helper()
	chain, err := f.root.Issuer().Issue(s.id, membership.MemberOptions{Label: "old", Serial: 1}, time.Now().Add(-300*24*time.Hour))
	if err != nil {
		f.t.Fatal(err)
	}
	return chain
}

// Who comes with a chain that has ended is answered with another, and is a stranger to
// whom nothing is served until it says hello with that: on the same connection.
func TestRenewedInHello(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	a.Serve(echo, func(_ context.Context, _ *membership.Member, q []byte) ([]byte, error) { return q, nil })
	a.mu.Lock()
	a.again = []byte("a new one")
	a.mu.Unlock()
	b.say(Hello{Chain: f.old(b)})
	b.mu.Lock()
	b.takes = func(answer []byte) error {
		if string(answer) != "a new one" {
			t.Errorf("it was given %q", answer)
		}
		if _, ok := a.Member(b.peer()); ok || a.Strangers() != 1 {
			t.Errorf("it is a member before it has said hello again; %d strangers", a.Strangers())
		}
		// It asks for something all the same.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if s, err := stream(ctx, b.Host(), a.peer(), echo.ID(testPrefix)); err == nil {
			if got, err := echo.Exchange(ctx, s, []byte("question")); err == nil {
				t.Errorf("who is no member yet is answered %q", got)
			}
		}
		b.say(Hello{Chain: f.chain(b.id)})
		return nil
	}
	b.mu.Unlock()
	b.Start()
	b.meet(a)
	if n := len(b.Host().Network().ConnsToPeer(a.peer())); n != 1 || a.Strangers() != 0 {
		t.Errorf("%d connections, %d strangers", n, a.Strangers())
	}
	if got, err := b.Ask(t.Context(), a.peer(), echo, []byte("question")); err != nil || string(got) != "question" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// Who gets no new chain is told why, and may come again. A chain that was not asked for
// is not taken, and who has nothing but an old one is let in nowhere.
func TestNotRenewed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for desc, c := range map[string]struct {
		again string
		takes func([]byte) error
		want  string
	}{
		"nobody gives one":  {"", func([]byte) error { return errors.New("there is none") }, "expired"},
		"it takes none":     {"a new one", nil, "it has asked for none"},
		"it is the old one": {"a new one", func([]byte) error { return nil }, "a new membership in place of a hello"},
	} {
		a, b := f.launch(), f.quiet()
		a.mu.Lock()
		a.again = []byte(c.again)
		a.mu.Unlock()
		b.say(Hello{Chain: f.old(b)})
		b.mu.Lock()
		b.takes = c.takes
		b.mu.Unlock()
		b.Start()
		_, err := b.Connect(t.Context(), a.info())
		var no *RefusedError
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &no) && no.Final {
			t.Errorf("%s: %v", desc, err)
		}
		if _, ok := a.Member(b.peer()); ok {
			t.Errorf("%s: it is a member", desc)
		}
		await(t, desc+": the stranger closed", func() bool { return b.Host().Network().Connectedness(a.peer()) != network.Connected })
	}
}

// Who is no member any more itself, and is called by one, says hello to that first. Its
// chain it shows to no stranger.
func TestCalledWhileLapsed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, stranger := f.launch(), f.quiet(), f.quiet()
	a.mu.Lock()
	a.again = []byte("a new one")
	a.mu.Unlock()
	lapsed := func(err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lapsed = err
	}
	lapsed(errors.New("own membership is over"))
	b.say(Hello{Chain: f.old(b)})
	b.mu.Lock()
	b.takes = func([]byte) error {
		b.say(Hello{Chain: f.chain(b.id)})
		lapsed(nil)
		return nil
	}
	b.mu.Unlock()
	b.Start()
	stranger.say(Hello{Chain: f.old(stranger)})
	stranger.Start()
	if _, err := stranger.Connect(t.Context(), b.info()); err == nil {
		t.Error("a stranger is let in")
	}
	if stranger.mu.Lock(); stranger.brought != 0 {
		t.Error("a stranger was shown the chain")
	}
	stranger.mu.Unlock()
	a.meet(b)
	if a.mu.Lock(); a.brought != 1 {
		t.Errorf("a was asked %d times", a.brought)
	}
	a.mu.Unlock()
}

// Who is no member any more itself, and gets no new membership, lets nobody in, and says
// why.
func TestLapsedLetsNobodyIn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	b.mu.Lock()
	b.lapsed = errors.New("own membership is over")
	b.mu.Unlock()
	b.say(Hello{Chain: f.old(b)})
	b.Start()
	_, err := a.Connect(t.Context(), b.info())
	var no *RefusedError
	if !errors.As(err, &no) || no.Final || !strings.Contains(no.Reason, "own membership is over") {
		t.Errorf("refused with %v", err)
	}
	if len(b.Members()) != 0 {
		t.Error("it has let somebody in")
	}
	if _, ok := a.Member(b.peer()); ok {
		t.Error("it is let in")
	}
}

// Stop waits for whoever is being answered: what that does belongs to somebody who ends
// next.
func TestStopWaitsForHellos(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.quiet(), f.quiet()
	asked, left := make(chan struct{}), make(chan struct{})
	a.fetches = func(ctx context.Context) {
		close(asked)
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // it takes a while to hear of it
		close(left)
	}
	a.say(Hello{Chain: f.chain(a.id)})
	a.Start()
	b.say(Hello{Chain: f.old(b)})
	b.Start()
	if err := b.Dial(t.Context(), a.info()); err != nil {
		t.Fatal(err)
	}
	<-asked
	a.Stop()
	select {
	case <-left:
	default:
		t.Error("a hello is being answered still")
	}
}

// A member that is late with its answer to news keeps its connection: it may be busy. Who
// is late with the first hello does not.
func TestLateWithNews(t *testing.T) {
	t.Parallel()
	for _, news := range []bool{true, false} {
		f := newFleet(t)
		a, b := f.launch(), f.launch()
		if news {
			a.meet(b) // with all the time that it takes
		}
		a.gate.mu.Lock()
		a.gate.stretch = func(time.Duration) time.Duration { return 300 * time.Millisecond }
		a.gate.mu.Unlock()
		asked, release := make(chan struct{}, 1), make(chan struct{})
		b.Host().SetStreamHandler(b.gate.proto, func(s network.Stream) {
			select {
			case asked <- struct{}{}:
			default:
			}
			<-release
			_ = s.Reset()
		})
		if news {
			a.gate.greetAgain(b.peer())
		} else if _, err := a.Connect(t.Context(), b.info()); err == nil {
			t.Error("who has answered no hello is a member")
		}
		<-asked
		await(t, "the hello given up", func() bool {
			a.gate.mu.Lock()
			defer a.gate.mu.Unlock()
			return len(a.gate.greeting) == 0
		})
		if !news {
			await(t, "the connection closed", func() bool { return a.Host().Network().Connectedness(b.peer()) != network.Connected })
		} else if _, ok := a.Member(b.peer()); !ok || a.Host().Network().Connectedness(b.peer()) != network.Connected {
			t.Error("a member that is late with its answer to news is put out")
		}
		close(release)
	}
}
