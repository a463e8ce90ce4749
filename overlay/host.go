package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/socket"
)

const (
	userAgent = "idloc"
	// dialTimeout bounds one QUIC dial: a dead address must not eat the
	// time that Connect has for a dead peer.
	dialTimeout = 4 * time.Second
	// Connections above the high mark are trimmed to the low one, the least
	// useful to the DHT first; those that one end is found by do not count
	// (keep.go). A connection costs each end some 100 KiB, stacks included.
	connsLow, connsHigh = 96, 128
	connGrace           = 30 * time.Second
)

// toLibp2p returns the libp2p form of id. It cannot fail: every ID is 32
// bytes and libp2p's form is a prefix and these.
func toLibp2p(id peerid.ID) peer.ID { return peer.ID(id.Multihash()) }

// fromLibp2p returns the peer ID behind p; peers with other keys than Ed25519
// are no members of any overlay.
func fromLibp2p(p peer.ID) (peerid.ID, error) { return peerid.FromMultihash([]byte(p)) }

// newHost makes the libp2p host of a peer: QUIC only, on the views of the
// shared port (DESIGN §5), with the peer's own key as its identity. Nothing
// of libp2p that talks on its own is on: no relay, AutoNAT service, hole
// punching, mDNS, ping or port mapping, and no collector goes into the
// process-wide metrics registry.
func newHost(key ed25519.PrivateKey, port *socket.Port, addrs func([]ma.Multiaddr) []ma.Multiaddr, metrics prometheus.Registerer) (host.Host, error) {
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("overlay: identity key: %w", err)
	}
	var listen []ma.Multiaddr
	for _, c := range port.Conns() {
		listen = append(listen, quicAddr(c.LocalAddr()))
	}
	if len(listen) == 0 {
		return nil, errors.New("overlay: no local address to listen on")
	}
	limits, err := resourceManager()
	if err != nil {
		return nil, fmt.Errorf("overlay: resource limits: %w", err)
	}
	conns, err := connmgr.NewConnManager(connsLow, connsHigh, connmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, errors.Join(err, conns.Close(), limits.Close())
	}
	h, err := libp2p.New(
		libp2p.Identity(priv),
		libp2p.UserAgent(userAgent),
		libp2p.Peerstore(peers),
		libp2p.ListenAddrs(listen...),
		libp2p.AddrsFactory(addrs),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.QUICReuse(newConnManager(port)),
		libp2p.ResourceManager(limits),
		libp2p.ConnectionManager(conns),
		libp2p.DisableRelay(),
		libp2p.Ping(false),
		libp2p.ForceReachabilityPrivate(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialTimeoutLocal(dialTimeout), swarm.WithDialRanker(swarm.NoDelayDialRanker)),
		libp2p.PrometheusRegisterer(metrics),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("overlay: libp2p: %w", err), conns.Close(), peers.Close(), limits.Close())
	}
	return h, nil
}

// newConnManager returns the constructor of libp2p's QUIC connection manager
// over the shared port. What libp2p's own constructor does for the resource
// manager is done here too, because QUICReuse replaces it.
func newConnManager(port *socket.Port) any {
	return func(reset quic.StatelessResetKey, token quic.TokenGeneratorKey, limits network.ResourceManager, life fx.Lifecycle) (*quicreuse.ConnManager, error) {
		cm, err := quicreuse.NewConnManager(reset, token,
			quicreuse.OverrideListenUDP(port.ListenQUIC),
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) {
				return sourceSelector{port}, nil
			}),
			quicreuse.VerifySourceAddress(limits.VerifySourceAddress),
			quicreuse.ConnContext(func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
				addr, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quic.Version1)
				if err != nil {
					addr = nil // the resource manager decides about it
				}
				scope, err := limits.OpenConnection(network.DirInbound, false, addr)
				if err != nil {
					return ctx, err
				}
				ctx = network.WithConnManagementScope(ctx, scope)
				context.AfterFunc(ctx, scope.Done)
				return ctx, nil
			}))
		if err != nil {
			return nil, err
		}
		life.Append(fx.StopHook(cm.Close))
		return cm, nil
	}
}

// sourceSelector answers libp2p's question for a source address from the
// port's own sockets instead of the kernel's routing table, so that it holds
// on a simulated network too.
type sourceSelector struct{ port *socket.Port }

var _ quicreuse.SourceIPSelector = sourceSelector{}

func (s sourceSelector) PreferredSourceIPForDestination(dst *net.UDPAddr) (net.IP, error) {
	c := s.port.ConnFor(dst.AddrPort().Addr().Unmap())
	if c == nil {
		return nil, fmt.Errorf("overlay: no local address reaches %v", dst)
	}
	return c.LocalAddr().Addr().AsSlice(), nil
}

// resourceManager bounds what strangers and members can make libp2p hold.
// The limits are fixed, not a share of the machine: a node is a guest in its
// process. Many peers may sit behind one address (a NAT, or one machine), so
// the per-address limit is wider than libp2p's eight.
func resourceManager() (network.ResourceManager, error) {
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: 1024, ConnsInbound: 768, ConnsOutbound: 512,
			Streams: 8192, StreamsInbound: 4096, StreamsOutbound: 6144,
			Memory: 256 << 20,
		},
		// Connections that are still being set up: all that a stranger
		// reaches.
		Transient: rcmgr.ResourceLimits{
			Conns: 256, ConnsInbound: 192, ConnsOutbound: 192,
			Streams: 512, StreamsInbound: 384, StreamsOutbound: 384,
			Memory: 64 << 20,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 8, ConnsInbound: 6, ConnsOutbound: 6,
			Streams: 1024, StreamsInbound: 512, StreamsOutbound: 768,
			Memory: 32 << 20,
		},
		ProtocolDefault:     rcmgr.ResourceLimits{Streams: 4096, StreamsInbound: 3072, StreamsOutbound: 3072, Memory: 64 << 20},
		ProtocolPeerDefault: rcmgr.ResourceLimits{Streams: 512, StreamsInbound: 256, StreamsOutbound: 512, Memory: 16 << 20},
	}
	const perAddress = 128
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(limits.Build(rcmgr.DefaultLimits.Scale(256<<20, 1024))),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: perAddress}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: perAddress}, {PrefixLength: 48, ConnCount: 4 * perAddress}},
		),
		rcmgr.WithNetworkPrefixLimit(
			[]rcmgr.NetworkPrefixLimit{{Network: netip.MustParsePrefix("127.0.0.0/8"), ConnCount: math.MaxInt}},
			[]rcmgr.NetworkPrefixLimit{{Network: netip.MustParsePrefix("::1/128"), ConnCount: math.MaxInt}},
		),
	)
}

// quicAddr is the multiaddr of a QUIC listener at a.
func quicAddr(a netip.AddrPort) ma.Multiaddr {
	family := "ip4"
	if a.Addr().Is6() {
		family = "ip6"
	}
	m, err := ma.NewMultiaddr(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family, a.Addr().WithZone(""), a.Port()))
	if err != nil {
		panic("overlay: " + err.Error()) // an AddrPort always has this form
	}
	return m
}

// addrPort reads the UDP address at the head of m.
func addrPort(m ma.Multiaddr) (netip.AddrPort, bool) {
	var ip netip.Addr
	var ok bool
	var out netip.AddrPort
	ma.ForEach(m, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_IP4, ma.P_IP6:
			ip, ok = netip.AddrFromSlice(c.RawValue())
			return ok
		case ma.P_UDP:
			if b := c.RawValue(); ip.IsValid() && len(b) == 2 {
				out = netip.AddrPortFrom(ip, uint16(b[0])<<8|uint16(b[1]))
			}
		}
		return false
	})
	return out, out.IsValid()
}
