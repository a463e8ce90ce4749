package directory

import (
	"context"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
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
// only, and an event bus of its own, on which a peer appears once it is
// through the gate and on which reachability is what we say (DESIGN §14.6).
type memberHost struct {
	host.Host
	mesh  Mesh
	kad   protocol.ID
	found func(peer.ID) // is told of each member that turns out to be a server
	bus   event.Bus

	sub       event.Subscription
	protocols event.Emitter
	addrs     event.Emitter
	connected event.Emitter
	done      chan struct{}
}

var _ host.Host = (*memberHost)(nil)

func newMemberHost(m Mesh, kad protocol.ID, found func(peer.ID)) (*memberHost, error) {
	h := &memberHost{Host: m.Host(), mesh: m, kad: kad, found: found, bus: eventbus.NewBus(), done: make(chan struct{})}
	var err error
	if h.protocols, err = h.bus.Emitter(new(event.EvtPeerProtocolsUpdated)); err != nil {
		return nil, err
	}
	if h.addrs, err = h.bus.Emitter(new(event.EvtLocalAddressesUpdated)); err != nil {
		return nil, err
	}
	if h.connected, err = h.bus.Emitter(new(event.EvtPeerConnectednessChanged)); err != nil {
		return nil, err
	}
	h.sub, err = h.Host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted),
		new(event.EvtPeerProtocolsUpdated),
		new(event.EvtLocalAddressesUpdated),
		new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256))
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
		switch e := e.(type) {
		case event.EvtPeerIdentificationCompleted:
			h.admitted(e.Peer)
		case event.EvtPeerProtocolsUpdated:
			h.admitted(e.Peer)
		case event.EvtLocalAddressesUpdated:
			_ = h.addrs.Emit(e)
		case event.EvtPeerConnectednessChanged:
			_ = h.connected.Emit(e)
		}
	}
}

// admitted shows p to the DHT if it is a member. It is called when p came
// through the gate and when identify learned something, in either order.
func (h *memberHost) admitted(p peer.ID) {
	if _, ok := h.mesh.Member(p); !ok {
		return
	}
	if has, err := h.Peerstore().SupportsProtocols(p, h.kad); err == nil && len(has) > 0 && h.mesh.MarkServer(p) {
		h.found(p)
	}
	_ = h.protocols.Emit(event.EvtPeerProtocolsUpdated{Peer: p})
}

func (h *memberHost) stop() {
	_ = h.sub.Close()
	<-h.done
	_ = h.protocols.Close()
	_ = h.addrs.Close()
	_ = h.connected.Close()
}

func (h *memberHost) EventBus() event.Bus { return h.bus }

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
