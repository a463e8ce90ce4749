package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/host/pstoremanager"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/quictransport"
)

// Connections above the high mark are trimmed to the low one, the least
// useful to the DHT first; those that one end is found by do not count
// (keep.go). A connection costs each end some 100 KiB, stacks included.
const ConnsLow, connsHigh = 96, 128

// newHost makes the libp2p host of a peer: QUIC only, on the views of the
// shared port (quictransport, DESIGN §5), with the peer's own key as its
// identity. Nothing of libp2p that talks on its own is there: no identify (what a
// member has to know of another is in its hello), relay, AutoNAT, hole punching, mDNS,
// ping or port mapping, and no collector goes into the process-wide metrics registry.
func newHost(key ed25519.PrivateKey, port *socket.Port, source func(netip.AddrPort) netip.Addr, gate dialGate, carriers carrierDialer, metrics prometheus.Registerer) (host.Host, error) {
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity key: %w", err)
	}
	var listen []ma.Multiaddr
	for _, c := range port.Conns() {
		listen = append(listen, p2p.QUIC(c.LocalAddr()))
	}
	if c := port.Carrier(); c != nil && len(listen) > 0 {
		listen = append(listen, p2p.QUIC(c.LocalAddr()))
	}
	if len(listen) == 0 {
		return nil, errors.New("no local address to listen on")
	}
	limits, err := newLimits()
	if err != nil {
		return nil, fmt.Errorf("resource limits: %w", err)
	}
	if carriers.set != nil {
		limits.origin = carriers.set.Origin
	}
	conns, err := libp2pconnmgr.NewConnManager(ConnsLow, connsHigh, libp2pconnmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, errors.Join(err, conns.Close(), limits.Close())
	}
	h, err := assemble(priv, peers, swarmParts{limits: limits, conns: conns, gate: gate, metrics: metrics, rank: carriers.rank})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("libp2p: %w", err), conns.Close(), peers.Close(), limits.Close())
	}
	quic, err := quictransport.New(port, priv, limits, source, gate, quictransport.Timeless())
	if err == nil {
		err = h.Network().(*swarm.Swarm).AddTransport(quic)
	}
	if err == nil && carriers.set != nil {
		err = h.Network().(*swarm.Swarm).AddTransport(quic.Carried(carriers))
	}
	if err == nil {
		err = h.Network().Listen(listen...)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("libp2p: %w", err), h.Close())
	}
	return h, nil
}

// swarmParts are what a host is assembled of.
type swarmParts struct {
	limits  network.ResourceManager
	conns   connmgr.ConnManager
	gate    dialGate
	metrics prometheus.Registerer
	rank    network.DialRanker
}

// assembled is a host and what it was assembled of.
type assembled struct {
	*blankhost.BlankHost
	cleaner *pstoremanager.PeerstoreManager // forgets the keys of who has left
	limits  network.ResourceManager
}

// Close implements host.Host.
func (h *assembled) Close() error {
	err := errors.Join(h.ConnManager().Close(), h.BlankHost.Close(), h.cleaner.Close())
	return errors.Join(err, h.Peerstore().Close(), h.limits.Close())
}

// assemble does what libp2p.New would, for a host with one transport and without
// identify: libp2p.New links all transports that libp2p has, WebRTC and WebSocket among
// them, into each program, a third of its size. The host, once there is one, closes the
// peerstore and what is in parts.
func assemble(key crypto.PrivKey, peers peerstore.Peerstore, parts swarmParts) (*assembled, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(peers.AddPrivKey(id, key), peers.AddPubKey(id, key.GetPublic())); err != nil {
		return nil, err
	}
	rcmgr.MustRegisterWith(parts.metrics)
	bus := eventbus.NewBus(eventbus.WithMetricsTracer(eventbus.NewMetricsTracer(eventbus.WithRegisterer(parts.metrics))))
	s, err := swarm.NewSwarm(id, peers, bus,
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil),
		swarm.WithConnectionGater(parts.gate),
		swarm.WithDialTimeout(DialTimeout),
		swarm.WithDialTimeoutLocal(DialTimeout),
		swarm.WithDialRanker(parts.rank),
		swarm.WithResourceManager(parts.limits),
		swarm.WithMetricsTracer(swarm.NewMetricsTracer(swarm.WithRegisterer(parts.metrics))))
	if err != nil {
		return nil, err
	}
	cleaner, err := pstoremanager.NewPeerstoreManager(peers, bus, s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	h := blankhost.NewBlankHost(s, blankhost.WithEventBus(bus), blankhost.WithConnectionManager(parts.conns))
	if h == nil { // it logs why
		return nil, errors.Join(errors.New("no host"), s.Close())
	}
	s.SetStreamHandler(func(s network.Stream) { _ = s.Reset() }) // until there is a gate
	cleaner.Start()
	return &assembled{h, cleaner, parts.limits}, nil
}

// Listen has libp2p listen on sockets of the port that are new, and no more on those
// that are gone.
func (m *Mesh) Listen(added, gone []netip.AddrPort) {
	if sw, ok := m.host.Network().(*swarm.Swarm); ok && len(gone) > 0 {
		sw.ListenClose(p2p.QUICs(gone)...)
	}
	for _, a := range added {
		if err := m.host.Network().Listen(p2p.QUIC(a)); err != nil {
			m.cfg.Log.Warn("listening on a new address", "addr", a, "err", err)
		}
	}
}
