package quictransport

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	p2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
)

// PacketSize is the largest UDP payload that is sent, the least that QUIC
// works with (RFC 9000 §14): an IPv4 packet of 1228 bytes, an IPv6 one of 1248.
const PacketSize = 1200

// alpn is what libp2p calls itself in TLS.
const alpn = "libp2p"

// config is libp2p's own but for the sizes, and for what it has for
// WebTransport.
var config = quic.Config{
	Versions:                   []quic.Version{quic.Version1},
	InitialPacketSize:          PacketSize,
	DisablePathMTUDiscovery:    true,
	MaxIncomingStreams:         256,
	MaxIncomingUniStreams:      -1,
	MaxStreamReceiveWindow:     10 << 20,
	MaxConnectionReceiveWindow: 15 << 20,
	KeepAlivePeriod:            15 * time.Second,
}

// Transport is libp2p's transport over one port. It may be used by any number
// of goroutines.
type Transport struct {
	port     *socket.Port
	source   func(netip.AddrPort) netip.Addr
	gate     Gate // nil: everything may be sent
	self     peer.ID
	identity *p2ptls.Identity
	limits   network.ResourceManager
	secret   []byte // the keys of resets are made of it; nil: there are none
	tokenKey quic.TokenGeneratorKey
	ids      *connIDs // nil: random ones

	mu        sync.Mutex // guards the rest
	closed    bool
	endpoints map[netip.Addr]*endpoint
	conns     map[*quic.Conn]*conn
}

var _ transport.Transport = (*Transport)(nil)

// New returns a Transport over port, for the peer whose key this is. A source,
// if not nil, may know from which of the port's addresses somebody is reached;
// the zero address means that the port decides. A gate, if not nil, decides what
// may be sent to whom. The caller keeps the port and the limits.
func New(port *socket.Port, key crypto.PrivKey, limits network.ResourceManager, source func(netip.AddrPort) netip.Addr, gate Gate, identity ...p2ptls.IdentityOption) (*Transport, error) {
	t, err := newTransport(port, key, limits, identity...)
	if err != nil {
		return nil, err
	}
	t.source, t.gate = source, gate
	// The keys are the same after a restart: a peer that comes back can reset the
	// connections of its former life (RFC 9000 §10.3), which it knows by their IDs
	// (ids.go), and takes the tokens that it gave out (§8.1.3).
	if t.secret, err = key.Raw(); err != nil {
		return nil, err
	}
	var idKey [16]byte // AES-128
	if err := errors.Join(t.derive(t.tokenKey[:], "idloc quic address token"), t.derive(idKey[:], "idloc quic connection ID")); err != nil {
		return nil, err
	}
	if t.ids, err = newConnIDs(idKey[:]); err != nil {
		return nil, err
	}
	port.KnowIDs(t.ids.own)
	return t, nil
}

// derive fills out with a key of this peer's for one purpose.
func (t *Transport) derive(out []byte, purpose string) error {
	derived, err := hkdf.Key(sha256.New, t.secret, nil, purpose, len(out))
	copy(out, derived)
	return err
}

// resetKey is the key of stateless resets that come from one local address. Each address
// has another: a packet of a live connection that somebody has seen and sends to where it
// does not belong draws a reset there, and that must not be good for the connection
// (RFC 9000 §21.11).
func (t *Transport) resetKey(local netip.Addr) (*quic.StatelessResetKey, error) {
	if t.secret == nil {
		return nil, nil
	}
	var k quic.StatelessResetKey
	return &k, t.derive(k[:], "idloc quic stateless reset "+local.WithZone("").String())
}

func newTransport(port *socket.Port, key crypto.PrivKey, limits network.ResourceManager, opts ...p2ptls.IdentityOption) (*Transport, error) {
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	identity, err := p2ptls.NewIdentity(key, opts...)
	if err != nil {
		return nil, err
	}
	return &Transport{
		port: port, self: self, identity: identity, limits: limits,
		endpoints: map[netip.Addr]*endpoint{}, conns: map[*quic.Conn]*conn{},
	}, nil
}

// endpoint is the QUIC stack on one of the port's sockets. Who uses it holds
// it; the last one to release it ends it.
type endpoint struct {
	local netip.AddrPort
	view  net.PacketConn
	gated *gatedConn // the view behind the gate; nil: there is none
	quic  *quic.Transport
	users int // guarded by Transport.mu
}

// acquire returns the endpoint of a local address.
func (t *Transport) acquire(local netip.AddrPort) (*endpoint, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	if e := t.endpoints[local.Addr()]; e != nil {
		e.users++
		return e, nil
	}
	network := "udp4"
	if local.Addr().Is6() {
		network = "udp6"
	}
	resets, err := t.resetKey(local.Addr())
	if err != nil {
		return nil, err
	}
	view, err := t.port.ListenQUIC(network, net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, err
	}
	e := &endpoint{local: local, view: view, users: 1}
	if c, ok := view.(packetConn); ok && t.gate != nil {
		e.gated = newGatedConn(c, t.gate)
		view = e.gated
	}
	e.quic = &quic.Transport{
		Conn: view, StatelessResetKey: resets, TokenGeneratorKey: &t.tokenKey,
		VerifySourceAddress: t.limits.VerifySourceAddress,
		ConnContext:         t.accepting,
	}
	if t.ids != nil {
		e.quic.ConnectionIDGenerator = t.ids
	}
	t.endpoints[local.Addr()] = e
	return e, nil
}

// release undoes one acquire.
func (t *Transport) release(e *endpoint) {
	t.mu.Lock()
	e.users--
	last := e.users == 0
	if last && t.endpoints[e.local.Addr()] == e {
		delete(t.endpoints, e.local.Addr())
	}
	t.mu.Unlock()
	if last {
		e.close()
	}
}

func (e *endpoint) close() {
	_ = e.quic.Close()
	_ = e.view.Close()
}

// Close ends what is left of the endpoints. libp2p calls it when it has closed
// all listeners and connections.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	left := t.endpoints
	t.endpoints = map[netip.Addr]*endpoint{}
	t.mu.Unlock()
	for _, e := range left {
		e.close()
	}
	return nil
}

// Dial implements transport.Transport.
func (t *Transport) Dial(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	remote, ok := addrPort(raddr)
	if !ok {
		return nil, fmt.Errorf("quictransport: not an address for QUIC: %v", raddr)
	}
	return t.dialTo(ctx, remote, raddr, p, nil)
}

// dialTo dials a peer at a place of the port, over a carrier if that is not nil.
func (t *Transport) dialTo(ctx context.Context, remote netip.AddrPort, raddr ma.Multiaddr, p peer.ID, over *Carried) (transport.CapableConn, error) {
	from := t.socketFor(remote)
	if from == nil {
		return nil, fmt.Errorf("quictransport: %v: %w", remote, t.port.NoSource(remote.Addr()))
	}
	scope, err := t.limits.OpenConnection(network.DirOutbound, false, raddr)
	if err != nil {
		return nil, err
	}
	if err := scope.SetPeer(p); err != nil {
		scope.Done()
		return nil, err
	}
	e, err := t.acquire(from.LocalAddr())
	if err != nil {
		scope.Done()
		return nil, err
	}
	c, err := t.dial(ctx, e, remote, raddr, p, scope, over)
	if err != nil {
		t.release(e)
		scope.Done()
		return nil, err
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, e *endpoint, remote netip.AddrPort, raddr ma.Multiaddr, p peer.ID, scope network.ConnManagementScope, over *Carried) (*conn, error) {
	tlsConf, keys := t.identity.ConfigForPeer(p)
	conf := config.Clone()
	conf.AllowConnectionWindowIncrease = t.allowWindow
	if e.gated != nil {
		if err := t.gate.Begin(ctx, p, remote, firstFlight, firstFlight*PacketSize); err != nil {
			return nil, err
		}
		defer e.gated.end(e.gated.begin(p, remote), remote)
	}
	if over != nil {
		if err := over.carriers.Connect(ctx, raddr); err != nil {
			return nil, err
		}
	}
	qc, err := e.quic.Dial(ctx, net.UDPAddrFromAddrPort(remote), tlsConf, conf)
	if err != nil {
		return nil, err
	}
	select {
	case key := <-keys:
		if key != nil {
			t.answered(p, remote)
			return t.adopt(e, qc, p, key, raddr, scope, over)
		}
	default:
	}
	_ = qc.CloseWithError(1, "")
	return nil, errors.New("quictransport: a handshake without the peer's key")
}

// answered tells the gate that p was at an address.
func (t *Transport) answered(p peer.ID, at netip.AddrPort) {
	if t.gate != nil {
		t.gate.Proven(p, at)
	}
}

// socketFor returns the socket that reaches remote, nil if none does.
func (t *Transport) socketFor(remote netip.AddrPort) *socket.Conn {
	if t.source != nil {
		if src := t.source(remote); src.IsValid() {
			for _, c := range t.port.Conns() {
				if c.LocalAddr().Addr() == src {
					return c
				}
			}
		}
	}
	return t.port.ConnFor(remote.Addr())
}

// adopt makes a libp2p connection of qc, which holds e until it ends.
func (t *Transport) adopt(e *endpoint, qc *quic.Conn, p peer.ID, key crypto.PubKey, remote ma.Multiaddr, scope network.ConnManagementScope, over *Carried) (*conn, error) {
	local, err := quicreuse.ToQuicMultiaddr(net.UDPAddrFromAddrPort(e.local), quic.Version1)
	if err != nil {
		_ = qc.CloseWithError(1, "")
		return nil, err
	}
	c := &conn{t: t, over: over, qc: qc, scope: scope, peer: p, key: key, local: local, remote: remote}
	t.mu.Lock()
	t.conns[qc] = c
	t.mu.Unlock()
	context.AfterFunc(qc.Context(), func() {
		t.mu.Lock()
		delete(t.conns, qc)
		t.mu.Unlock()
		t.release(e)
	})
	return c, nil
}

// allowWindow asks the resource manager whether a connection may have more
// memory. One that is not adopted yet may ask again later.
func (t *Transport) allowWindow(qc *quic.Conn, more uint64) bool {
	t.mu.Lock()
	c := t.conns[qc]
	t.mu.Unlock()
	return c != nil && c.scope.ReserveMemory(int(more), network.ReservationPriorityMedium) == nil
}

// CanDial implements transport.Transport.
func (t *Transport) CanDial(a ma.Multiaddr) bool {
	_, ok := addrPort(a)
	return ok
}

// addrPort reads /ip4 or ip6/udp/quic-v1.
func addrPort(m ma.Multiaddr) (netip.AddrPort, bool) {
	if len(m) != 3 || m[1].Protocol().Code != ma.P_UDP || m[2].Protocol().Code != ma.P_QUIC_V1 {
		return netip.AddrPort{}, false
	}
	if c := m[0].Protocol().Code; c != ma.P_IP4 && c != ma.P_IP6 {
		return netip.AddrPort{}, false
	}
	ip, ok := netip.AddrFromSlice(m[0].RawValue())
	port := m[1].RawValue()
	if !ok || len(port) != 2 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port[0])<<8|uint16(port[1])), true
}

// Protocols implements transport.Transport.
func (t *Transport) Protocols() []int { return []int{ma.P_QUIC_V1} }

// Proxy implements transport.Transport.
func (t *Transport) Proxy() bool { return false }

func (t *Transport) String() string { return "QUIC" }

// serverTLS verifies that a client's certificate is its key's; who it is comes
// with the connection.
func (t *Transport) serverTLS() *tls.Config {
	return &tls.Config{
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c, _ := t.identity.ConfigForPeer("")
			return c, nil
		},
	}
}
