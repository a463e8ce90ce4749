package overlay

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/adapter"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/mesh"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	msmux "github.com/multiformats/go-multistream"
)

// stranger is the host of a node without a membership, which says nothing.
func (n *node) stranger(t testing.TB) host.Host {
	t.Helper()
	m, err := mesh.New(mesh.Config{
		Key: n.key, Port: n.sock, Log: slog.New(slog.DiscardHandler), Pipes: adapter.Pipes{Endpoint: new(pipe.Endpoint)},
		Hearsay: hearsay.New(func(netip.AddrPort) bool { return true }, time.Now),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m.Host()
}

// openStream opens a stream of a host whose protocol is told with the first bytes.
func openStream(ctx context.Context, h host.Host, p peer.ID, pid protocol.ID) (*rawStream, error) {
	conns := h.Network().ConnsToPeer(p)
	if len(conns) == 0 {
		return nil, network.ErrNoConn
	}
	s, err := conns[0].NewStream(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.SetProtocol(pid); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return &rawStream{s, msmux.NewMSSelect(s, pid)}, nil
}

type rawStream struct {
	network.Stream
	rw msmux.LazyConn
}

func (s *rawStream) Read(b []byte) (int, error)  { return s.rw.Read(b) }
func (s *rawStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

// TestStrangersExhaustNothing: libp2p peers without a chain open all the
// streams that they can, on every protocol, and say half a word on each. What
// the founder holds for them stays within the resource manager's limits; a
// member gets in meanwhile and finds a name; and in the end nothing is left.
func TestStrangersExhaustNothing(t *testing.T) {
	earth := founded(t, "earth")
	ai := peer.AddrInfo{ID: earth.mesh.Host().ID(), Addrs: earth.mesh.Host().Addrs()}
	state := earth.mesh.Host().Network().ResourceManager().(rcmgr.ResourceManagerState)
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
		h := n.stranger(t)
		h.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.TempAddrTTL)
		if _, err := h.Network().DialPeer(t.Context(), ai.ID); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID())
		pids := []protocol.ID{earth.kad(), earth.proto("hello"), earth.proto("offer"), earth.proto("confirm"), earth.proto("revocation"), earth.proto("peers")}
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
	await(t, "the strangers gone", 15*time.Second, func() bool {
		left := 0
		peers := state.Stat().Peers
		for _, id := range ids {
			st := peers[id]
			most.NumStreamsInbound = max(most.NumStreamsInbound, st.NumStreamsInbound)
			most.NumConnsInbound = max(most.NumConnsInbound, st.NumConnsInbound)
			most.Memory = max(most.Memory, st.Memory)
			if earth.mesh.Host().Network().Connectedness(id) == network.Connected || st.NumStreamsInbound > 0 {
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
