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
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/quictransport"
)

const (
	userAgent = "idloc"
	// Connections above the high mark are trimmed to the low one, the least
	// useful to the DHT first; those that one end is found by do not count
	// (keep.go). A connection costs each end some 100 KiB, stacks included.
	ConnsLow, connsHigh = 96, 128
)

// newHost makes the libp2p host of a peer: QUIC only, on the views of the
// shared port (quictransport, DESIGN §5), with the peer's own key as its
// identity. Nothing of libp2p that talks on its own is on: no relay, AutoNAT
// service, hole punching, mDNS, ping or port mapping, and no collector goes into
// the process-wide metrics registry.
func newHost(key ed25519.PrivateKey, port *socket.Port, addrs func([]ma.Multiaddr) []ma.Multiaddr, source func(netip.AddrPort) netip.Addr, gate dialGate, carriers carrierDialer, metrics prometheus.Registerer) (host.Host, error) {
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
	h, err := assemble(priv, peers, swarmParts{limits: limits, conns: conns, gate: gate, metrics: metrics, addrs: addrs, rank: carriers.rank})
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
	h.Start()
	return h, nil
}

// swarmParts are what a host is assembled of.
type swarmParts struct {
	limits  network.ResourceManager
	conns   connmgr.ConnManager
	gate    dialGate
	metrics prometheus.Registerer
	addrs   func([]ma.Multiaddr) []ma.Multiaddr
	rank    network.DialRanker
}

// assemble does what libp2p.New would, for a host with one transport: libp2p.New
// links all transports that libp2p has, WebRTC and WebSocket among them, into
// each program, a third of its size. The host, once there is one, closes the
// peerstore and what is in parts.
func assemble(key crypto.PrivKey, peers peerstore.Peerstore, parts swarmParts) (*basichost.BasicHost, error) {
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
	h, err := basichost.NewHost(s, &basichost.HostOpts{
		EventBus:             bus,
		ConnManager:          parts.conns,
		AddrsFactory:         parts.addrs,
		UserAgent:            userAgent,
		EnableMetrics:        true,
		PrometheusRegisterer: parts.metrics,
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.SetStreamHandler(func(s network.Stream) { _ = s.Reset() }) // until there is a gate
	return h, nil
}

// advertised writes addresses as libp2p has them.
func advertised(choose func(listening []netip.AddrPort) []netip.AddrPort) func([]ma.Multiaddr) []ma.Multiaddr {
	return func(listening []ma.Multiaddr) []ma.Multiaddr {
		var at []netip.AddrPort
		for _, m := range listening {
			if a, ok := p2p.AddrPort(m); ok {
				at = append(at, a)
			}
		}
		return p2p.QUICs(choose(at))
	}
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
