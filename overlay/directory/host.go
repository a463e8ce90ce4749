package directory

import (
	"context"
	"slices"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// kadProtocol is kad-dht's protocol, after the overlay's prefix. Who speaks it is a
// server.
const kadProtocol = protocol.ID("/kad/1.0.0")

// memberHost is the libp2p host as the DHT sees it: streams to and from members
// only, and an event bus of its own, on which reachability is what we say
// (DESIGN §14.6). Who speaks the DHT's protocol is known by the hellos.
type memberHost struct {
	host.Host
	mesh Mesh
	kad  protocol.ID
	bus  event.Bus

	sub       event.Subscription
	connected event.Emitter
	done      chan struct{}
}

var _ host.Host = (*memberHost)(nil)

func newMemberHost(m Mesh, kad protocol.ID) (*memberHost, error) {
	h := &memberHost{Host: m.Host(), mesh: m, kad: kad, bus: eventbus.NewBus(), done: make(chan struct{})}
	var err error
	if h.connected, err = h.bus.Emitter(new(event.EvtPeerConnectednessChanged)); err != nil {
		return nil, err
	}
	h.sub, err = h.Host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged), eventbus.BufSize(256))
	if err != nil {
		return nil, err
	}
	go h.forward()
	return h, nil
}

// forward copies the events that the DHT may see.
func (h *memberHost) forward() {
	defer close(h.done)
	for e := range h.sub.Out() {
		_ = h.connected.Emit(e)
	}
}

func (h *memberHost) stop() {
	_ = h.sub.Close()
	<-h.done
	_ = h.connected.Close()
}

func (h *memberHost) EventBus() event.Bus { return h.bus }

func (h *memberHost) Peerstore() peerstore.Peerstore {
	return memberStore{h.Host.Peerstore(), h.mesh, h.kad}
}

// memberStore knows which members are servers of the database.
type memberStore struct {
	peerstore.Peerstore
	mesh Mesh
	kad  protocol.ID
}

func (s memberStore) FirstSupportedProtocol(p peer.ID, of ...protocol.ID) (protocol.ID, error) {
	if slices.Contains(of, s.kad) && s.mesh.IsServer(p) {
		return s.kad, nil
	}
	return "", nil
}

func (h *memberHost) Connect(ctx context.Context, ai peer.AddrInfo) error {
	_, err := h.mesh.Connect(ctx, ai)
	return err
}

func (h *memberHost) NewStream(ctx context.Context, p peer.ID, pids ...protocol.ID) (network.Stream, error) {
	if noDial, _ := network.GetNoDial(ctx); !noDial {
		if err := h.mesh.Dial(ctx, peer.AddrInfo{ID: p}); err != nil {
			return nil, err
		}
	}
	if len(pids) == 1 {
		return h.mesh.Stream(ctx, p, pids[0])
	}
	if _, err := h.mesh.Wait(ctx, p); err != nil {
		return nil, err
	}
	return h.Host.NewStream(ctx, p, pids...)
}

func (h *memberHost) SetStreamHandler(pid protocol.ID, f network.StreamHandler) {
	h.mesh.HandleStreams(pid, func(s network.Stream, _ *membership.Member) { f(s) })
}

func (h *memberHost) SetStreamHandlerMatch(pid protocol.ID, match func(protocol.ID) bool, f network.StreamHandler) {
	h.Host.SetStreamHandlerMatch(pid, match, func(s network.Stream) {
		if !h.mesh.Admitted(s) {
			_ = s.Reset()
			return
		}
		f(s)
	})
}

// toPeer is a peer's ID as libp2p has it.
func toPeer(id peerid.ID) peer.ID { return p2p.ID(id) }

// fromPeer is a member's ID; zero if p can be none.
func fromPeer(p peer.ID) peerid.ID {
	id, err := p2p.PeerID(p)
	if err != nil {
		return peerid.ID{}
	}
	return id
}
