package overlay

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/yardstick"
)

func TestManyFirstConnects(t *testing.T) {
	if testing.Short() {
		t.Skip("21 nodes")
	}
	earth, peers := crowd(t, 21)
	one, rest := peers[0], peers[1:]
	got := make([][]*pipe.Pipe, len(rest))
	var wg sync.WaitGroup
	for i, p := range rest {
		got[i] = make([]*pipe.Pipe, 200)
		for j := range got[i] {
			wg.Go(func() {
				pp, err := one.Connect(t.Context(), p.Self())
				if err != nil {
					t.Errorf("peer %d: %v", i, err)
				}
				got[i][j] = pp
			})
		}
	}
	wg.Wait()
	for i := range got {
		for _, pp := range got[i] {
			if pp != got[i][0] {
				t.Fatalf("two pipes to peer %d", i)
			}
		}
		direct := 0
		for _, e := range one.seen(event.PairChosen, rest[i].Self()) {
			if e.Via.IsZero() {
				direct++
			}
		}
		if direct > 1 {
			t.Errorf("%d establishments to peer %d", direct, i)
		}
	}
	n := len(one.pipes.Load().Pipes())
	if one.pipes.Load().Pipe(earth.Self()) != nil {
		n-- // on a slow machine the founder relays for a while
	}
	if n != len(rest) {
		t.Errorf("%d pipes to %d peers", n, len(rest))
	}
}

// pipesTo returns n's pipes to a peer. On a slow machine there is one to the
// founder besides, which relays for a while.
func (n *node) pipesTo(to *node) (out []*pipe.Pipe) {
	for _, p := range n.pipes.Load().Pipes() {
		if p.Peer() == to.Self() {
			out = append(out, p)
		}
	}
	return out
}

// TestCrossConnects lets two peers connect to each other a thousand times at
// once: offers cross, and one session must come of it on both sides.
func TestCrossConnects(t *testing.T) {
	_, peers := crowd(t, 2)
	a, b := peers[0], peers[1]
	for round := range 5 {
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 1000 {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			wg.Go(func() {
				<-start
				if _, err := from.Connect(t.Context(), to.Self()); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		close(start)
		wg.Wait()
		pa, pb := a.pipesTo(b), b.pipesTo(a)
		if len(pa) != 1 || len(pb) != 1 {
			t.Fatalf("round %d: %d and %d pipes", round, len(pa), len(pb))
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for _, p := range []*pipe.Pipe{pa[0], pb[0]} {
			if _, _, err := p.Ping(ctx); err != nil {
				t.Errorf("round %d: Ping: %v", round, err)
			}
		}
		cancel()
		// Who has answered a handshake uses its keys when the other one has.
		if !yardstick.Await(patience, func() bool {
			sa, sb := pa[0].Status(), pb[0].Status()
			return sa.Session == sb.Session && sa.Initiator != sb.Initiator
		}) {
			t.Errorf("round %d: not the same session: %+v and %+v", round, pa[0].Status(), pb[0].Status())
		}
		pa[0].Close(nil)
		pb[0].Close(nil)
		await(t, "pipes gone", 5*time.Second, func() bool {
			return len(a.pipesTo(b)) == 0 && len(b.pipesTo(a)) == 0
		})
	}
}

// TestSilentPeer connects to a peer that is gone without a word: its
// forwarder still believes in the connection.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	_, peers := crowd(t, 2)
	dead := peers[1]
	_ = dead.sock.Close()
	took := yardstick.Start()
	_, err := peers[0].Connect(t.Context(), dead.Self())
	d := took.Stop()
	if err == nil {
		t.Fatal("Connect to a dead peer")
	}
	if d > 9*time.Second {
		t.Errorf("took %v", d)
	}
	t.Logf("failed after %v: %v", d, err)
}

func TestConnectAfterPipeClosed(t *testing.T) {
	t.Parallel()
	_, peers := crowd(t, 2)
	a, b := peers[0], peers[1]
	for i := range 5 {
		p, err := a.Connect(t.Context(), b.Self())
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		p.Close(nil)
	}
}

// TestRemoteRestart: the peer comes back with its key and state, and the pipe
// of its former run is no obstacle.
func TestRemoteRestart(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 1)
	dir := memory(t)
	mars := earth.joinWith(t, newNode(t, dir), "mars", InviteOptions{})
	if _, err := peers[0].Connect(t.Context(), mars.Self()); err != nil {
		t.Fatal(err)
	}
	mars.shut()
	again := newNodeWith(t, mars.key, dir)
	again.run(Open(t.Context(), again.config("mars")))
	if again.Self() != mars.Self() || again.Name() != "mars.example.com" {
		t.Errorf("came back as %v, %q", again.Self(), again.Name())
	}
	await(t, "a pipe to the restarted peer", 8*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		p, err := peers[0].Connect(ctx, mars.Self())
		if err != nil {
			t.Log(err)
			return false
		}
		_, _, err = p.Ping(ctx)
		return err == nil
	})
}

// TestRemoteCrash: as a restart, but nobody was told. The founder still has
// the connection of the former run.
func TestRemoteCrash(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 1)
	dir := memory(t)
	mars := earth.joinWith(t, newNode(t, dir), "mars", InviteOptions{})
	if _, err := peers[0].Connect(t.Context(), mars.Self()); err != nil {
		t.Fatal(err)
	}
	old := earth.mesh.Host().Network().ConnsToPeer(mars.mesh.Host().ID())[0].Stat().Opened
	_ = mars.sock.Close()
	peers[0].pipes.Load().Pipe(mars.Self()).Close(nil)
	await(t, "the connection not taken for simultaneous with the next", 5000*time.Millisecond, func() bool { return time.Since(old) > 500*time.Millisecond })
	again := newNodeWith(t, mars.key, dir)
	again.run(Open(t.Context(), again.config("mars")))
	took := yardstick.Start()
	defer took.Stop()
	p, err := peers[0].Connect(t.Context(), mars.Self())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("connected to the restarted peer in %v", took.Elapsed())
	if _, _, err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if d := took.Stop(); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	await(t, "the dead connection closed", 8*time.Second, func() bool {
		return len(earth.mesh.Host().Network().ConnsToPeer(again.mesh.Host().ID())) == 1
	})
}

// TestFounderGone: with the only server gone, the others take over its part,
// and come back to each other by what they remember.
func TestFounderGone(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 3)
	a, b := peers[0], peers[1]
	for _, p := range peers {
		p.mesh.AskPeers(t.Context())
		await(t, "other members known", 5*time.Second, func() bool { return len(p.mesh.Known().AddrInfos()) >= 3 })
	}
	earth.shut()
	await(t, "servers and each other", 20*time.Second, func() bool {
		return (a.Server() || b.Server() || peers[2].Server()) && len(a.Peers()) > 0 && len(b.Peers()) > 0
	})
	await(t, "the name found again", 20*time.Second, func() bool {
		f, err := a.Resolve(t.Context(), "peer1")
		return err == nil && f.Peer == b.Self()
	})
	if _, err := a.Connect(t.Context(), b.Self()); err != nil {
		t.Error(err)
	}
}

func TestServerRole(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 1)
	if !earth.Server() || peers[0].Server() {
		t.Errorf("servers: founder %v, joiner %v", earth.Server(), peers[0].Server())
	}
}
