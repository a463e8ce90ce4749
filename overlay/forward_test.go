package overlay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/overlay/adapter"
	"github.com/idloc/idloc/overlay/offers"
)

// A target that is connected and says nothing is not one that is not there: the
// forwarder tells it, and who made the offer may ask again.
func TestForwardToTheSilent(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	mars, venus := earth.join(t, "mars"), earth.join(t, "venus")
	ask := func(n byte) offers.Response {
		q := offers.Request{TTL: 1, Transaction: [16]byte{n}, Target: mars.Self(), From: venus.Self()}
		a, err := adapter.OfferMesh{Mesh: venus.mesh}.Ask(t.Context(), earth.Self(), q)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	mars.mesh.Host().SetStreamHandler(mars.proto("offer"), func(s network.Stream) {
		<-t.Context().Done()
		_ = s.Reset()
	})
	a := ask(1)
	if a.Status != offers.Silent || !errors.Is(a.Err(), context.DeadlineExceeded) {
		t.Errorf("status %d, %v", a.Status, a.Err())
	}
	mars.shut()
	await(t, "mars is gone", 5*time.Second, func() bool { _, ok := earth.mesh.Member(mars.mesh.Host().ID()); return !ok })
	if a := ask(2); a.Status != offers.NotHere {
		t.Errorf("one that is gone: status %d", a.Status)
	}
}
