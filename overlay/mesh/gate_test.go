package mesh

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/overlay/membership"
)

// Two members that meet know of each other what their hellos say, and hear of it
// when that changes and when the connection ends.
func TestMeet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	n := b.Members()
	if len(n) != 1 || n[0].Peer != a.peer() || n[0].ID != a.id || n[0].Member.Peer != a.id || n[0].Server || n[0].Remote == nil {
		t.Errorf("a as b has it: %+v", n)
	}
	if a.RTT(b.peer()) <= 0 {
		t.Error("no round trip time")
	}
	a.say(Hello{Chain: n[0].Chain, Roles: Roles{Server: true, Issuer: true}, Young: true, Revocation: 9})
	a.Greet()
	await(t, "b hears the new hello", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.heard, func(h Hello) bool { return h.Revocation == 9 })
	})
	if n := b.Members(); !n[0].Server || !n[0].Issuer || !b.Young(a.peer()) || !b.IsServer(a.peer()) || a.IsServer(b.peer()) {
		t.Errorf("a as b has it then: %+v", n)
	}
	_ = b.Host().Network().ClosePeer(a.peer())
	await(t, "both know of the end", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, left := a.left[b.peer()]
		return left && len(a.Members()) == 0 && len(b.Members()) == 0
	})
	if b.mu.Lock(); len(b.entered) != 1 || len(b.clocks) < 2 {
		t.Errorf("b was told of %d members and %d times", len(b.entered), len(b.clocks))
	}
	b.mu.Unlock()
}

// A member that was dialled has not proved that others reach this one.
func TestReached(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.launch(), f.launch(), f.launch()
	a.meet(b)
	if a.Reached().Unasked() || !b.Reached().Unasked() {
		t.Errorf("a was reached: %+v; b: %+v", a.Reached(), b.Reached())
	}
	_ = a.Host().Network().ClosePeer(b.peer())
	await(t, "the connection ended", func() bool { return len(a.Members()) == 0 && len(b.Members()) == 0 })
	b.meet(a)
	if a.Reached().Unasked() {
		t.Error("b was known to a before")
	}
	c.meet(a)
	r := a.Reached()
	if !r.Unasked() {
		t.Fatal("c has come unasked")
	}
	a.ForgetReached(map[string]bool{"192.0.2.1:1": true})
	if a.Reached() != r {
		t.Error("forgotten with another address")
	}
	a.ForgetReached(map[string]bool{r.Local.String(): true})
	if a.Reached().Unasked() {
		t.Error("not forgotten with the address")
	}
}

// A peer that takes the connection and says nothing, and one that ends it, are not
// said to be no members: who tries again may succeed. A peer without a chain is.
func TestUnansweredIsNoRefusal(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	for desc, serve := range map[string]func(network.Stream){
		"closes": func(s network.Stream) { _ = s.Conn().Close() },
		"resets": func(s network.Stream) { _ = s.Reset() },
		"stranger": func(s network.Stream) {
			_, _ = s.Write(Hello{}.appendTo([]byte{helloWelcome}))
			_ = s.CloseWrite()
		},
	} {
		b := f.quiet()
		b.Host().SetStreamHandler(testPrefix+"/hello/1", serve)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := a.Connect(ctx, b.info())
		cancel()
		if err == nil || errors.Is(err, membership.ErrNotMember) != (desc == "stranger") {
			t.Errorf("%s: %v", desc, err)
		}
		var temporary interface{ Temporary() bool }
		if desc == "closes" && !errors.As(err, &temporary) {
			t.Errorf("%s is for good: %v", desc, err)
		}
	}
}

// Who shows another's chain is told why it is refused, at once, and for good.
func TestStolenChain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	stolen := f.chain(a.id)
	b.say(Hello{Chain: stolen})
	b.Start()
	_, err := b.Connect(t.Context(), a.info())
	var no *RefusedError
	if !errors.As(err, &no) || !no.Final {
		t.Errorf("refused with %v", err)
	}
	if _, ok := a.Member(b.peer()); ok {
		t.Error("the thief is a member")
	}
	// Who waits comes when the connection is gone, and learns the reason still.
	await(t, "the connection closed", func() bool { return a.Host().Network().Connectedness(b.peer()) != network.Connected })
	if _, err := b.Wait(t.Context(), a.peer()); !errors.As(err, &no) {
		t.Errorf("afterwards: %v", err)
	}
	b.Forgive()
	if _, err := b.Wait(t.Context(), a.peer()); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("forgiven: %v", err)
	}
	b.say(Hello{Chain: f.chain(b.id)})
	b.meet(a)
}

// Nothing is served to a stranger, which is closed when its time is over.
func TestStranger(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	a.Serve(echo, func(_ context.Context, _ *membership.Member, q []byte) ([]byte, error) {
		t.Error("a stranger is served")
		return q, nil
	})
	if err := b.Dial(t.Context(), a.info()); err != nil {
		t.Fatal(err)
	}
	s, err := stream(t.Context(), b.Host(), a.peer(), echo.ID(testPrefix))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := echo.Exchange(t.Context(), s, []byte("question")); err == nil {
		t.Errorf("answered with %q", got)
	}
	await(t, "the stranger closed", func() bool { return b.Host().Network().Connectedness(a.peer()) != network.Connected })
	await(t, "no stranger counted", func() bool { return a.Strangers() == 0 })
}

// A question is answered by the member that it is put to, knows who asks, and has
// an end with the mesh.
func TestAsk(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	held := make(chan struct{})
	b.Serve(echo, func(ctx context.Context, from *membership.Member, q []byte) ([]byte, error) {
		if from.Peer != a.id {
			t.Errorf("asked by %v", from.Peer)
		}
		if string(q) == "hold" {
			close(held)
			<-ctx.Done()
		}
		return q, ctx.Err()
	})
	if _, err := a.Ask(t.Context(), b.peer(), echo, nil); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("without a connection: %v", err)
	}
	a.meet(b)
	for _, q := range []string{"question", ""} {
		if got, err := a.Ask(t.Context(), b.peer(), echo, []byte(q)); err != nil || string(got) != q {
			t.Errorf("%q is answered with %q, %v", q, got, err)
		}
	}
	if _, err := a.Ask(t.Context(), b.peer(), Protocol{Name: "unheard-of", Timeout: time.Second}, nil); err == nil {
		t.Error("nobody serves that")
	}
	failed := make(chan error, 1)
	go func() {
		_, err := a.Ask(t.Context(), b.peer(), echo, []byte("hold"))
		failed <- err
	}()
	<-held
	b.Stop()
	if err := <-failed; err == nil {
		t.Error("answered after the end")
	}
}

// A context for the latest connection ends when the member comes in by another.
func TestLatest(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	if ctx := a.Latest(b.peer()); ctx.Done() != nil {
		t.Error("of a peer that is not there it never ends")
	}
	a.meet(b)
	ctx := a.Latest(b.peer())
	if ctx.Err() != nil || a.Latest(b.peer()) != ctx {
		t.Errorf("ended before anything has happened: %v", ctx.Err())
	}
	if err := a.Host().Network().ClosePeer(b.peer()); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

// Who is no member any more is none here, before its connection is closed, and no
// other is closed.
func TestExpel(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.launch(), f.launch(), f.launch()
	b.meet(a)
	c.meet(a)
	f.mu.Lock()
	f.out[b.id] = true
	f.mu.Unlock()
	if n := a.Members(); len(n) != 1 || n[0].ID != c.id {
		t.Errorf("members: %+v", n)
	}
	if _, ok := a.Member(b.peer()); ok {
		t.Error("b is a member")
	}
	if _, err := a.Wait(t.Context(), b.peer()); !errors.Is(err, membership.ErrNotMember) {
		t.Errorf("b is waited for: %v", err)
	}
	a.Expel()
	await(t, "b is closed", func() bool { return a.Host().Network().Connectedness(b.peer()) != network.Connected })
	if a.Host().Network().Connectedness(c.peer()) != network.Connected {
		t.Error("c is closed too")
	}
}

// What is found after a stop is that nothing is done any more.
func TestStopped(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	a.Stop()
	a.Go(func() { t.Error("run after the stop") })
	a.Greet()
	if len(a.Members()) != 0 {
		t.Error("members after the stop")
	}
	a.Stop() // is idempotent
	if _, ok := a.Member(peer.ID("nobody")); ok {
		t.Error("nobody is a member")
	}
}
