package overlay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/yardstick"
)

func TestResolveAcrossOverlay(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus, mars := earth.join(t, "venus"), earth.join(t, "mars")
	nodes := map[string]*node{"earth": earth, "venus": venus, "mars": mars}
	for asker, a := range nodes {
		for label, n := range nodes {
			f, err := a.Resolve(t.Context(), label)
			if err != nil {
				t.Errorf("%s resolves %s: %v", asker, label, err)
				continue
			}
			if f.Peer != n.Self() {
				t.Errorf("%s resolves %s to %v", asker, label, f.Peer)
			}
			// The database has it from earth; mars itself has shown it, if it is
			// connected by now.
			if asker == "venus" && label == "mars" && f.Via != earth.Self() && f.Via != mars.Self() {
				t.Errorf("record of mars came via %v, neither earth (%v) nor mars (%v)", f.Via, earth.Self(), mars.Self())
			}
		}
	}
	if got := mars.Name(); got != "mars.example.com" {
		t.Errorf("Name = %q", got)
	}
	if !mars.Member().Confirmed {
		t.Error("membership is provisional although the founder is there")
	}
	// No timeout ends it. The machine may have slept through one question, but
	// not through each.
	quickest := time.Hour
	for _, label := range []string{"pluto", "ceres", "eris"} {
		took := yardstick.Start()
		if _, err := venus.Resolve(t.Context(), label); !errors.Is(err, ErrNotFound) {
			t.Errorf("Resolve of a missing name: %v", err)
		}
		quickest = min(quickest, took.Stop())
	}
	if quickest > time.Second {
		t.Errorf("a missing name took %v", quickest)
	}
}

func TestResolvePeerLabel(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 2)
	f, err := peers[0].Resolve(t.Context(), peers[1].Self().Label())
	if err != nil || f.Peer != peers[1].Self() {
		t.Errorf("Resolve = %v, %v", f, err)
	}
	if _, err := peers[0].Resolve(t.Context(), peerid.ID{9: 1}.Label()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a peer that never was: %v", err)
	}
	_ = earth
}

func TestConnectThroughFounder(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus, mars := earth.join(t, "venus"), earth.join(t, "mars")
	start := time.Now()
	p, err := venus.Connect(t.Context(), mars.Self())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("connected in %v", time.Since(start))
	if p.Peer() != mars.Self() {
		t.Errorf("pipe to %v", p.Peer())
	}
	if again, err := venus.Connect(t.Context(), mars.Self()); err != nil || again != p {
		t.Errorf("second Connect: %v, %v", again, err)
	}
	if len(earth.seen(event.OfferForwarded, mars.Self())) == 0 {
		t.Error("earth has forwarded no offer")
	}
	if a := venus.seen(event.AnswerReceived, mars.Self()); len(a) != 1 || a[0].Via != earth.Self() {
		t.Errorf("answers: %+v", a)
	}
	back, err := mars.Connect(t.Context(), venus.Self())
	if err != nil {
		t.Fatal(err)
	}
	if len(mars.seen(event.OfferSent, venus.Self())) != 0 {
		t.Error("mars made an offer although there is a pipe")
	}
	if back.Peer() != venus.Self() {
		t.Errorf("pipe back to %v", back.Peer())
	}
	if got := mars.NameOf(venus.Self()); got != "venus.example.com" {
		t.Errorf("NameOf = %q", got)
	}
}

func TestConnectToDeadPeer(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 2)
	_ = earth
	dead := peers[1].Self()
	peers[1].shut()
	took := yardstick.Start()
	_, err := peers[0].Connect(t.Context(), dead)
	d := took.Stop()
	var stage *StageError
	if !errors.As(err, &stage) || stage.Stage != StageOffer || stage.Peer != dead {
		t.Errorf("Connect: %v", err)
	}
	if d > 8500*time.Millisecond {
		t.Errorf("took %v", d)
	}
	t.Logf("failed after %v: %v", d, err)
}

func TestLoneFoundersNameIsFound(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	await(t, "name published", 2*time.Second, func() bool { return len(earth.seen(event.NamePublished, peerid.ID{})) > 0 })
	first := earth.join(t, "venus")
	f, err := first.Resolve(t.Context(), "earth")
	if err != nil || f.Peer != earth.Self() {
		t.Errorf("Resolve = %v, %v", f, err)
	}
}

func TestCloseTwiceAndWhileConnecting(t *testing.T) {
	t.Parallel()
	_, peers := crowd(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := peers[0].Connect(ctx, peerid.ID{1: 7})
		failed <- err
	}()
	await(t, "an offer", 5*time.Second, func() bool { return len(peers[0].seen(event.OfferSent, peerid.ID{})) > 0 })
	if err := peers[0].Overlay.Close(); err != nil {
		t.Error(err)
	}
	if err := peers[0].Overlay.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("Connect to nobody has succeeded")
	}
	if _, err := peers[0].Connect(ctx, peers[1].Self()); !errors.Is(err, ErrClosed) {
		t.Errorf("Connect after Close: %v", err)
	}
	if _, err := peers[0].Resolve(ctx, "peer1"); !errors.Is(err, ErrClosed) {
		t.Errorf("Resolve after Close: %v", err)
	}
}
