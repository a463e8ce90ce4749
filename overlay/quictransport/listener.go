package quictransport

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	p2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// listener takes what comes in on one endpoint. It may be used by any number
// of goroutines.
type listener struct {
	t    *Transport
	e    *endpoint
	quic *quic.Listener
	addr ma.Multiaddr
}

var _ transport.Listener = (*listener)(nil)

// Listen implements transport.Transport. The address is one of the port's own.
func (t *Transport) Listen(addr ma.Multiaddr) (transport.Listener, error) {
	at, ok := addrPort(addr)
	if !ok {
		return nil, fmt.Errorf("quictransport: not an address for QUIC: %v", addr)
	}
	e, err := t.acquire(at)
	if err != nil {
		return nil, err
	}
	conf := config.Clone()
	conf.AllowConnectionWindowIncrease = t.allowWindow
	ln, err := e.quic.Listen(t.serverTLS(), conf)
	if err != nil {
		t.release(e)
		return nil, err
	}
	return &listener{t: t, e: e, quic: ln, addr: addr}, nil
}

// accepting is asked before a handshake begins. The scope rides in the
// connection's context, with which it ends.
func (t *Transport) accepting(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	addr, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quic.Version1)
	if err != nil {
		return ctx, err
	}
	scope, err := t.limits.OpenConnection(network.DirInbound, false, addr)
	if err != nil {
		return ctx, err
	}
	ctx = network.WithConnManagementScope(ctx, scope)
	context.AfterFunc(ctx, scope.Done)
	return ctx, nil
}

// Accept implements transport.Listener.
func (l *listener) Accept() (transport.CapableConn, error) {
	for {
		qc, err := l.quic.Accept(context.Background())
		switch {
		case errors.Is(err, quic.ErrServerClosed), errors.Is(err, net.ErrClosed):
			return nil, transport.ErrListenerClosed
		case err != nil:
			return nil, err
		}
		c, err := l.take(qc)
		if err != nil {
			_ = qc.CloseWithError(quic.ApplicationErrorCode(network.ConnResourceLimitExceeded), "")
			continue
		}
		return c, nil
	}
}

// take makes a libp2p connection of one whose handshake is done.
func (l *listener) take(qc *quic.Conn) (*conn, error) {
	remote, err := quicreuse.ToQuicMultiaddr(qc.RemoteAddr(), quic.Version1)
	if err != nil {
		return nil, err
	}
	scope, err := network.UnwrapConnManagementScope(qc.Context())
	if err != nil {
		return nil, err
	}
	key, err := p2ptls.PubKeyFromCertChain(qc.ConnectionState().TLS.PeerCertificates)
	if err != nil {
		return nil, err
	}
	p, err := peer.IDFromPublicKey(key)
	if err != nil {
		return nil, err
	}
	if err := scope.SetPeer(p); err != nil {
		return nil, err
	}
	if from, ok := addrPort(remote); ok {
		l.t.answered(p, from)
	}
	e, err := l.t.acquire(l.e.local)
	if err != nil {
		return nil, err
	}
	c, err := l.t.adopt(e, qc, p, key, remote, scope, nil)
	if err != nil {
		l.t.release(e)
	}
	return c, err
}

// Close implements transport.Listener. Connections go on.
func (l *listener) Close() error {
	err := l.quic.Close()
	l.t.release(l.e)
	return err
}

// Addr implements transport.Listener.
func (l *listener) Addr() net.Addr { return l.quic.Addr() }

// Multiaddr implements transport.Listener.
func (l *listener) Multiaddr() ma.Multiaddr { return l.addr }
