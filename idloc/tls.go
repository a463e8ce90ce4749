package idloc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/idloc/idloc/overlay/pki"
)

// ErrNoCertificate: a node has no TLS certificate now. Its name is not confirmed yet, or
// neither an authority nor a delegate was reached when one was needed.
var ErrNoCertificate = pki.ErrNoCertificate

// ErrOtherCertificate: a TLS certificate is good, and another member shows it.
var ErrOtherCertificate = pki.ErrOther

// CACertificate returns what programs that know nothing of idloc, browsers and phones, have
// to import to take the certificates of this overlay: PEM, the certificate of each authority
// that this node has heard of, which are good for ten years and for names below the overlay's
// domain only. Members tell them each other; where this node knows none some are asked. An
// authority that was promoted since then has one more.
func (n *Node) CACertificate(ctx context.Context) ([]byte, error) {
	if err := n.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	all, err := n.certs.Roots(ctx, true)
	if err != nil {
		return nil, n.ended(fmt.Errorf("idloc: %w", err))
	}
	return pki.PEM(all), nil
}

// ListenTLS is Listen with TLS (RFC 8446; 1.2 at least) and this node's certificate, for its
// own name: browsers and curl that have imported CACertificate take it, and members. The
// certificate is asked for with the first connection, lasts a week, and is renewed by itself;
// where there is none the handshake fails with ErrNoCertificate. A client may show one too,
// and if it does it must be its own. For HTTP/2, or to want one of each client, take Listen, and
// TLSConfig with tls.NewListener.
func (n *Node) ListenTLS(network, address string) (net.Listener, error) {
	l, err := n.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, n.TLSConfig()), nil
}

// TLSConfig returns a configuration by which the node's certificate is shown and those of other
// members are taken, for servers and clients. Its fields may be set before it is used: NextProtos,
// or ClientAuth to want a certificate of each client; what a copy has is not seen by
// servers. A client has to set ServerName to the name that it has dialled; it trusts the authorities that
// are known now, so take another one for later connections.
//
// A certificate of who was revoked is refused at once. A server refuses with
// ErrOtherCertificate the certificate of another member than the one whose pipe the
// connection came by; a client does by the name, which HTTPClient does by the pipe too.
func (n *Node) TLSConfig() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.VerifyClientCertIfGiven,
		Time: n.certs.Now, RootCAs: n.rootPool(nil), ClientCAs: n.rootPool(nil),
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return n.certificate(h.Context()) },
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c, err := n.certificate(r.Context()); err == nil {
				return c, nil
			}
			return new(tls.Certificate), nil // shows none; the server may do with that
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			return n.verify(s, pki.Want{Name: s.ServerName})
		},
	}
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		who, err := n.WhoIs(h.Conn.RemoteAddr())
		if err != nil {
			return nil, fmt.Errorf("idloc: a TLS client that is no member: %w", err)
		}
		_, _ = n.certificate(h.Context()) // with it come the authorities that clients' are judged by
		its := c.Clone()
		its.GetConfigForClient, its.ClientCAs = nil, n.rootPool(nil)
		its.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return nil // ClientAuth says whether that will do
			}
			return n.verify(s, pki.Want{Peer: who.ID, Client: true})
		}
		return its, nil
	}
	return c
}

func (n *Node) verify(s tls.ConnectionState, w pki.Want) error {
	if _, err := n.certs.Verify(s.PeerCertificates, w); err != nil {
		return fmt.Errorf("idloc: %w", err)
	}
	return nil
}

// certificate is this node's. ctx may be nil: a ClientHelloInfo that somebody has made has
// none.
func (n *Node) certificate(ctx context.Context) (*tls.Certificate, error) {
	if err := n.alive(); err != nil {
		return nil, err
	}
	if ctx == nil {
		ctx = n.ctx
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	c, err := n.certs.Certificate(ctx)
	if err != nil {
		return nil, n.ended(fmt.Errorf("idloc: %w", err))
	}
	return c, nil
}

// rootPool is the authorities' certificates that are known, added to a pool, which may be nil.
func (n *Node) rootPool(pool *x509.CertPool) *x509.CertPool {
	if pool == nil {
		pool = x509.NewCertPool()
	}
	for _, c := range n.certs.Known() {
		pool.AddCert(c)
	}
	return pool
}

// rootsWithin bounds how long a client looks for authorities' certificates before it tries
// with those that it has.
const rootsWithin = 5 * time.Second

// dialHTTPS is http.Transport.DialTLSContext.
func (n *Node) dialHTTPS(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := n.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c, err := n.secure(ctx, conn, address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// secure does the handshake of a client. What an overlay's authority has signed has to be
// the peer's own. Other certificates, which a member has from elsewhere, are what they are
// on any network.
func (n *Node) secure(ctx context.Context, conn net.Conn, address string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	who, err := n.WhoIs(conn.RemoteAddr())
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, rootsWithin)
	_, _ = n.certs.Roots(asking, false)
	cancel()
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	cfg := n.TLSConfig()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	cfg.RootCAs, cfg.ServerName = n.rootPool(pool), n.serverName(host)
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if !n.certs.Issued(s.PeerCertificates) {
			return nil // good by the system's roots, or it had failed before
		}
		return n.verify(s, pki.Want{Peer: who.ID, Name: s.ServerName})
	}
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			_, _ = n.certs.Roots(ctx, true) // of an authority that is new: for the next time
		}
		return nil, err
	}
	return c, nil
}

// serverName is the name that a certificate of host is for: of a label alone the member's.
func (n *Node) serverName(host string) string {
	if net.ParseIP(host) == nil {
		if label, err := n.label(host); err == nil {
			return label + "." + n.ov.Domain()
		}
	}
	return strings.TrimSuffix(host, ".")
}
