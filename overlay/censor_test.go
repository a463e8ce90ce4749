package overlay

import (
	"crypto/rand"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/offers"
)

// TestOneForwarderCensors: what a forwarder says in the target's name ends no
// offer that another would deliver: neither a refusal nor an answer of its own.
func TestOneForwarderCensors(t *testing.T) {
	forged := make([]byte, 1500)
	rand.Read(forged)
	forged[0] = 1
	for name, lie := range map[string]offers.Response{
		"refused":         {Status: offers.Refused},
		"glare":           {Status: offers.Glare},
		"its own answer":  {Status: offers.Answered, Answer: forged},
		"its own refusal": {Status: offers.Refused, Answer: forged[:60]},
		"nothing":         {Status: offers.Answered},
		"unknown":         {Status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			earth := founded(t, "earth")
			venus, mars, pluto := earth.join(t, "venus"), earth.join(t, "mars"), earth.join(t, "pluto")
			if _, err := pluto.mesh.Connect(t.Context(), peer.AddrInfo{ID: mars.mesh.Host().ID(), Addrs: mars.mesh.Host().Addrs()}); err != nil {
				t.Fatal(err)
			}
			asked := make(chan struct{}, 16)
			mars.mesh.Host().SetStreamHandler(earth.proto("offer"), func(s network.Stream) {
				_, _ = io.ReadAll(s)
				_, _ = s.Write(lie.Append(nil))
				_ = s.Close()
				asked <- struct{}{}
			})
			pluto.directory.Dismiss(venus.Self(), true) // as if it had not heard of it
			pluto.directory.Show(venus.Self(), signedRecord(t, earth, venus.key, venus.chainNow(), naming.Record{
				Label: "venus", Contact: naming.Contact{Members: []peerid.ID{mars.Self(), earth.Self()}},
			}))
			if _, err := pluto.Connect(t.Context(), venus.Self()); err != nil {
				t.Errorf("venus is up and earth would forward: %v", err)
			}
			// It may not have got to it when the other has answered.
			await(t, "the liar asked", 10*time.Second, func() bool { return len(asked) > 0 })
		})
	}
}
