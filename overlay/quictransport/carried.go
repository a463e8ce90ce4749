package quictransport

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
)

// Carriers are streams to members, on which QUIC runs as over UDP. Its methods may be
// called by any number of goroutines.
type Carriers interface {
	// At returns where the far end of a carrier is, on the port; false if m is not the
	// address of one.
	At(m ma.Multiaddr) (netip.AddrPort, bool)
	// Connect makes sure that the carrier stands.
	Connect(ctx context.Context, m ma.Multiaddr) error
}

// Carried is a Transport for the addresses of carriers. To libp2p it is one through a
// proxy: a connection over UDP is preferred to one of it, and made beside it where
// network.WithForceDirectDial asks for one.
type Carried struct {
	*Transport
	carriers Carriers
}

var (
	_ transport.Transport    = (*Carried)(nil)
	_ transport.SkipResolver = (*Carried)(nil)
)

// Carried returns the part of t that dials carriers.
func (t *Transport) Carried(c Carriers) *Carried { return &Carried{t, c} }

// Dial implements transport.Transport. The gate is asked before anything is sent.
func (t *Carried) Dial(ctx context.Context, raddr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	remote, ok := t.carriers.At(raddr)
	if !ok {
		return nil, fmt.Errorf("quictransport: not the address of a carrier: %v", raddr)
	}
	return t.dialTo(ctx, remote, raddr, p, t)
}

// CanDial implements transport.Transport.
func (t *Carried) CanDial(a ma.Multiaddr) bool {
	_, ok := t.carriers.At(a)
	return ok
}

// SkipResolve implements transport.SkipResolver: names are looked up when a carrier is
// opened, by the proxy if there is one.
func (t *Carried) SkipResolve(context.Context, ma.Multiaddr) bool { return true }

// Listen implements transport.Transport: what comes in by carriers comes in at the
// port's own address for them.
func (t *Carried) Listen(ma.Multiaddr) (transport.Listener, error) {
	return nil, fmt.Errorf("quictransport: %v", t)
}

// Protocols implements transport.Transport.
func (t *Carried) Protocols() []int { return []int{ma.P_TLS, ma.P_WS} }

// Proxy implements transport.Transport.
func (t *Carried) Proxy() bool { return true }

// Close implements transport.Transport: the Transport is closed as such.
func (t *Carried) Close() error { return nil }

func (t *Carried) String() string { return "QUIC on carriers" }
