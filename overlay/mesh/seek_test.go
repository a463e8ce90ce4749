package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/overlay/p2p"
)

// TestInTurn: the most useful is dialled first, the next when it has failed or
// is silent, and not while it answers.
func TestInTurn(t *testing.T) {
	peers := []peer.AddrInfo{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	never := func(peer.AddrInfo) bool { return false }
	for name, c := range map[string]struct {
		heard func(peer.AddrInfo) bool
		fails time.Duration // after which a dial does; zero: never
		want  []time.Duration
	}{
		"silent":    {never, 0, []time.Duration{0, seekPace, 2 * seekPace}},
		"fail":      {never, seekPace / 4, []time.Duration{0, seekPace / 4, seekPace / 2}},
		"answering": {func(ai peer.AddrInfo) bool { return ai.ID == "a" }, 0, []time.Duration{0, seekPatience, 2 * seekPatience}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				begun := make(chan time.Duration, len(peers))
				order := make(chan peer.ID, len(peers))
				inTurn(ctx, peers, c.heard, func(ai peer.AddrInfo) bool {
					begun <- time.Since(start)
					order <- ai.ID
					if c.fails > 0 {
						pause.For(ctx, c.fails)
					} else {
						<-ctx.Done()
					}
					return true
				})
				var at []time.Duration
				for _, p := range peers {
					at = append(at, <-begun)
					if got := <-order; got != p.ID {
						t.Errorf("%q is dialled before %q", got, p.ID)
					}
				}
				if !slices.Equal(at, c.want) {
					t.Errorf("dialled after %v, not %v", at, c.want)
				}
			})
		})
	}
}

// No more than dialWidth are dialled at a time, however many there are.
func TestInTurnBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most, all atomic.Int32
		inTurn(t.Context(), make([]peer.AddrInfo, 40), func(peer.AddrInfo) bool { return false }, func(peer.AddrInfo) bool {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(DialTimeout)
			now.Add(-1)
			all.Add(1)
			return true
		})
		if most.Load() != dialWidth || all.Load() != 40 {
			t.Errorf("%d at a time, %d in all", most.Load(), all.Load())
		}
	})
}

// The first half of a list is in each round, and the others have their turns.
func TestTakeTurns(t *testing.T) {
	t.Parallel()
	var list []peer.AddrInfo
	for i := range 21 {
		list = append(list, peer.AddrInfo{ID: peer.ID(fmt.Sprint(i))})
	}
	seen := map[peer.ID]int{}
	for turn := range 5 {
		got := takeTurns(list, 8, turn)
		if len(got) != 8 {
			t.Errorf("%d in a round", len(got))
		}
		for _, ai := range got {
			seen[ai.ID]++
		}
	}
	for i, ai := range list {
		if n := seen[ai.ID]; n == 0 || i < 4 && n != 5 {
			t.Errorf("%d was in %d rounds", i, n)
		}
	}
	if got := takeTurns(list[:8], 8, 3); len(got) != 8 {
		t.Errorf("%d of 8", len(got))
	}
}

// Rounds are a quarter of a second apart, soon a second, and fifteen after ten
// minutes; what went wrong is said once, and forgotten with the first member.
func TestAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &attempts{}
		for _, want := range []time.Duration{seekPause, 2 * seekPause, seekPauseSoon, seekPauseSoon} {
			if got := a.pause(); got != want {
				t.Errorf("a pause of %v, not %v", got, want)
			}
		}
		if !a.justAlone() {
			t.Error("alone for long")
		}
		time.Sleep(AloneAfter)
		if a.justAlone() {
			t.Error("alone for a moment")
		}
		time.Sleep(seekSoon)
		for range 2 { // the doubling goes on
			a.pause()
		}
		if got := a.pause(); got != seekPauseMax {
			t.Errorf("a pause of %v later", got)
		}
		ai := peer.AddrInfo{ID: "mars", Addrs: []ma.Multiaddr{p2p.QUIC(netip.MustParseAddrPort("192.0.2.1:443"))}}
		if a.text() != "none tried yet" || a.final() != nil {
			t.Errorf("%q, %v", a.text(), a.final())
		}
		a.note(ai, errors.New("no route"), false)
		a.note(ai, context.Canceled, true) // cut short: the reason before is the better one
		if got := a.text(); !strings.Contains(got, "1 member tried at 1 address") || !strings.Contains(got, "192.0.2.1:443: no route") {
			t.Errorf("%q", got)
		}
		a.note(peer.AddrInfo{ID: "earth", Addrs: ai.Addrs}, fmt.Errorf("hello: %w", &RefusedError{Reason: "expired", Final: true}), false)
		if err := a.final(); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("final: %v", err)
		}
		if !a.sayOnce() || a.sayOnce() || !a.reached() || a.reached() {
			t.Error("not said once, or not forgotten")
		}
		if a.text() != "none tried yet" || a.pause() != seekPause {
			t.Error("something is left")
		}
	})
}

// A peer that knows an address of a member reaches it as soon as that is there.
func TestSeek(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	known := func() []peer.AddrInfo { return a.Given([]peer.AddrInfo{b.info()}) }
	var wg sync.WaitGroup
	defer wg.Wait()
	rounds := 0
	wg.Go(func() {
		err := a.Seek(t.Context(), known, func() error {
			if rounds++; rounds == 2 {
				b.say(Hello{Chain: f.chain(b.id)})
				b.Start()
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	await(t, "b reached", func() bool { _, ok := a.Member(b.peer()); return ok })
}

// What ends a search is in its error: the caller's time, what is not ready, a member
// that refuses this peer for good, the end of the mesh.
func TestSeekEnds(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	ready := func() error { return nil }
	nobody := func() []peer.AddrInfo {
		return []peer.AddrInfo{{ID: p2p.ID(f.quiet().id), Addrs: []ma.Multiaddr{p2p.QUIC(netip.MustParseAddrPort("127.0.0.1:9"))}}}
	}()
	a := f.launch()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var not *UnreachedError
	if err := a.Seek(ctx, func() []peer.AddrInfo { return nobody }, ready); !errors.As(err, &not) || !errors.Is(err, context.Canceled) {
		t.Errorf("the caller has gone: %v", err)
	}
	errNot := errors.New("not ready")
	if err := a.Seek(t.Context(), func() []peer.AddrInfo { return nobody }, func() error { return errNot }); !errors.Is(err, errNot) {
		t.Errorf("not ready: %v", err)
	}
	if err := a.Seek(t.Context(), func() []peer.AddrInfo { return nil }, ready); err == nil {
		t.Error("nobody is known")
	}
	thief := f.quiet()
	thief.say(Hello{Chain: f.chain(a.id)})
	thief.Start()
	var no *RefusedError
	if err := thief.Seek(t.Context(), func() []peer.AddrInfo { return []peer.AddrInfo{a.info()} }, ready); !errors.As(err, &no) {
		t.Errorf("refused for good: %v", err)
	}
	a.Leave()
	if err := a.Seek(t.Context(), func() []peer.AddrInfo { return nobody }, ready); !errors.As(err, &not) {
		t.Errorf("after the end: %v", err)
	}
}

// Who knows members and is connected to none says so once, with the reasons.
func TestAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	if alone, _ := a.Alone(); alone {
		t.Error("alone without knowing anybody")
	}
	a.meet(b)
	if alone, _ := a.Alone(); alone || !a.Online() {
		t.Error("alone with a member")
	}
	b.Stop()
	_ = b.Close()
	await(t, "b gone", func() bool { return len(a.Members()) == 0 })
	a.SayAlone(false)
	a.mu.Lock()
	early := a.alone
	a.mu.Unlock()
	a.SayAlone(true)
	a.mu.Lock()
	defer a.mu.Unlock()
	if alone, why := a.Alone(); !alone || early != "" || a.alone != why {
		t.Errorf("%v, %q at first, then %q and %q", alone, early, a.alone, why)
	}
}

// TestServerHeard: a packet from a server that this peer was connected to counts, and
// neither one of a member that serves nothing, nor that a server is remembered.
func TestServerHeard(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	server, other, met, remembers, between := f.launch(), f.launch(), f.launch(), f.launch(), f.launch()
	server.serve()
	met.meet(server)
	await(t, "the server is known as one", func() bool { return len(met.known.Servers()) == 1 })
	await(t, "a server that has just answered is heard", func() bool {
		_, _ = met.Ask(t.Context(), server.peer(), peersProtocol, nil)
		return met.ServerHeard()
	})
	remembers.known.NoteMet(server.id, server.Host().Addrs(), true, account.Account{})
	if len(remembers.known.Servers()) != 1 || remembers.ServerHeard() {
		t.Error("a server that is remembered is heard")
	}
	between.meet(other)
	if between.ServerHeard() {
		t.Error("a member that serves nothing is a server that is heard")
	}
}
