package overlay

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// TestNoPipesWhenStale: a peer that has not heard for too long that nobody was revoked
// makes no new pipes and takes none. It hears so with the first hello.
func TestNoPipesWhenStale(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	var ahead atomic.Int64
	pluto := newNode(t, nil)
	cfg := pluto.config("pluto")
	cfg.MaxListAge = 2 * time.Hour
	cfg.clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	token, err := earth.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pluto.run(Join(t.Context(), token, cfg))
	if at := earth.roster.Assurance(); len(at) == 0 || string(pluto.roster.Assurance()) != string(at) {
		t.Errorf("of %d bytes that earth says pluto has %d", len(at), len(pluto.roster.Assurance()))
	}
	both := func() (out, in error) {
		_, out = pluto.Connect(t.Context(), mars.Self())
		for _, n := range []*node{pluto, mars} {
			for _, pp := range n.pipes.Load().Pipes() {
				pp.End(context.Canceled)
			}
		}
		_, in = mars.Connect(t.Context(), pluto.Self())
		for _, n := range []*node{pluto, mars} {
			for _, pp := range n.pipes.Load().Pipes() {
				pp.End(context.Canceled)
			}
		}
		return out, in
	}
	if out, in := both(); out != nil || in != nil {
		t.Fatalf("at first: %v, %v", out, in)
	}
	ahead.Store(int64(3 * time.Hour))
	out, in := both()
	var stage *StageError
	if !errors.Is(out, membership.ErrStale) || !errors.As(out, &stage) || !stage.Final() {
		t.Errorf("to mars: %v", out)
	}
	if in == nil {
		t.Error("from mars: it was taken")
	}
	ahead.Store(0)
	if out, in := both(); out != nil || in != nil {
		t.Errorf("in the end: %v, %v", out, in)
	}
}
