package overlay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A key goes to a new server if that is among the nearest, from the two nearest
// of those that have it: what a sort by distance says, for random servers.
func TestHandOverResponsible(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	id := func() kb.ID {
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return kb.ID(b)
	}
	yes := 0
	for range 2000 {
		s := handOverSet{mine: id(), theirs: id()}
		for range rng.IntN(3 * replicas) {
			s.others = append(s.others, id())
		}
		key := string(id())
		target := kb.ConvertKey(key)
		before := func(x kb.ID) int {
			all := slices.Clone(s.others)
			slices.SortFunc(all, func(a, b kb.ID) int { return bytes.Compare(distance(a, target), distance(b, target)) })
			return slices.IndexFunc(append(all, nil), func(o kb.ID) bool {
				return o == nil || bytes.Compare(distance(o, target), distance(x, target)) > 0
			})
		}
		want := before(s.theirs) < replicas && before(s.mine) < 2
		if got := s.responsible(key); got != want {
			t.Fatalf("%d others: %v, want %v", len(s.others), got, want)
		}
		if want {
			yes++
		}
	}
	if yes < 100 || yes > 1900 {
		t.Errorf("%d of 2000 are to be handed over: the test tests little", yes)
	}
}

// "No such record" is believed if twice as many of the nearest have answered as
// have not.
func TestWalkComplete(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		answered, failed int
		self, want       bool
	}{
		{0, 0, false, false},
		{0, 0, true, true},
		{1, 0, false, true},
		{1, 1, false, false},
		{1, 1, true, true},
		{7, 4, false, false},
		{8, 4, false, true},
		{8, 5, false, false},
	} {
		r := walkResult{nearest: make([]peer.ID, tt.answered), answered: 16, failed: tt.failed, self: tt.self}
		if r.complete() != tt.want {
			t.Errorf("%+v: %v", tt, r.complete())
		}
	}
}

// A target that is connected and says nothing is not one that is not there: the
// forwarder tells it, and who made the offer may ask again.
func TestForwardToTheSilent(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars := earth.join(t, "mars")
	mars.host.SetStreamHandler(mars.proto("offer"), func(s network.Stream) {
		<-t.Context().Done()
		_ = s.Reset()
	})
	a := earth.router.forward(offerRequest{ttl: 1, target: mars.Self(), from: earth.Self()})
	if a.status != offerSilent || !errors.Is(a.err(), context.DeadlineExceeded) || final(a.err()) {
		t.Errorf("status %d, %v", a.status, a.err())
	}
	mars.shut()
	await(t, "mars is gone", offerTotal, func() bool { _, ok := earth.gate.member(mars.host.ID()); return !ok })
	if a := earth.router.forward(offerRequest{ttl: 1, target: mars.Self(), from: earth.Self()}); a.status != offerNotHere {
		t.Errorf("one that is gone: status %d", a.status)
	}
}
