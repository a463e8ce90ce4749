package overlay

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/prometheus/client_golang/prometheus"
)

// TestStrangersExhaustNothing: libp2p peers without a chain open all the
// streams that they can, on every protocol, and say half a word on each. What
// the founder holds for them stays within the resource manager's limits; a
// member gets in meanwhile and finds a name; and in the end nothing is left.
func TestStrangersExhaustNothing(t *testing.T) {
	earth := founded(t, "earth")
	ai := peer.AddrInfo{ID: earth.host.ID(), Addrs: earth.host.Addrs()}
	state := earth.host.Network().ResourceManager().(rcmgr.ResourceManagerState)
	const strangers, tries = 4, 600
	goroutines := runtime.NumGoroutine()
	var ids []peer.ID
	var wg sync.WaitGroup
	var opened atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer wg.Wait()
	defer cancel()
	for range strangers {
		n := newNode(t, nil)
		t.Cleanup(n.shut)
		h, err := newHost(n.key, n.sock, noMapped, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		if err := h.Connect(t.Context(), ai); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID())
		pids := []protocol.ID{earth.db.proto, earth.proto("hello"), earth.proto("offer"), earth.proto("confirm"), earth.proto("revocation"), earth.proto("peers")}
		for i := range 16 {
			wg.Go(func() {
				for j := range tries / 16 {
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					s, err := openStream(ctx, h, ai.ID, pids[(i+j)%len(pids)])
					cancel()
					if err != nil {
						return // the limit, or the connection is closed
					}
					if _, err := s.Write(make([]byte, 8)); err == nil {
						opened.Add(1)
					}
				}
			})
		}
	}
	await(t, "hundreds of streams", 10*time.Second, func() bool { return opened.Load() > 200 })

	mars := earth.join(t, "mars")
	if f, err := mars.Resolve(t.Context(), "earth"); err != nil || f.Peer != earth.Self() {
		t.Errorf("while strangers are at it: %v, %v", f, err)
	}
	var most network.ScopeStat
	await(t, "the strangers gone", 2*helloTimeout+5*time.Second, func() bool {
		left := 0
		peers := state.Stat().Peers
		for _, id := range ids {
			st := peers[id]
			most.NumStreamsInbound = max(most.NumStreamsInbound, st.NumStreamsInbound)
			most.NumConnsInbound = max(most.NumConnsInbound, st.NumConnsInbound)
			most.Memory = max(most.Memory, st.Memory)
			if earth.host.Network().Connectedness(id) == network.Connected || st.NumStreamsInbound > 0 {
				left++
			}
		}
		return left == 0
	})
	t.Logf("%d streams; most for one stranger: %d streams, %d connections, %d KiB", opened.Load(), most.NumStreamsInbound, most.NumConnsInbound, most.Memory>>10)
	if most.NumStreamsInbound > 512 || most.NumConnsInbound > 6 || most.Memory > 32<<20 {
		t.Errorf("beyond the limits: %+v", most)
	}
	cancel()
	wg.Wait()
	await(t, "what they began ended", 15*time.Second, func() bool {
		st := state.Stat()
		return st.Transient.NumStreamsInbound == 0 && runtime.NumGoroutine() < goroutines+400
	})
	if len(earth.Peers()) != 1 {
		t.Errorf("members: %+v", earth.Peers())
	}
}
