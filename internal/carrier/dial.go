package carrier

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http/httpproxy"
)

// protocol is the ALPN of TLS and the subprotocol of WebSocket.
const protocol = "idloc-carrier"

// ErrNotServed says that somebody has answered at a carrier's address who serves none:
// another server, or the network in its place (a captive portal, or a proxy that opens
// TLS).
var ErrNotServed = errors.New("no carrier is served there")

// notServed marks an error of TLS or HTTP that only an answer brings about as
// ErrNotServed. The network's own, a refusal and silence, say nothing of who is there.
func notServed(err error) error {
	var (
		noTLS       tls.RecordHeaderError
		alert       *net.OpError // as package tls has it when there is a connection
		certificate *tls.CertificateVerificationError
	)
	if errors.As(err, &noTLS) || errors.As(err, &alert) && alert.Op == "remote error" || errors.As(err, &certificate) ||
		errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("%w: %w", ErrNotServed, err)
	}
	return err
}

// dial opens the stream of a carrier; tcp is what it runs over.
func (s *Set) dial(ctx context.Context, a Address) (stream net.Conn, tcp *net.TCPConn, err error) {
	if !s.attempts.take(a.Host, time.Now()) {
		return nil, nil, errAttempts
	}
	if a.Form == WSS {
		return s.dialWebSocket(ctx, a)
	}
	raw, tcp, err := s.connect(ctx, a.HostPort())
	if err != nil {
		return nil, nil, err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol},
		InsecureSkipVerify: true, // a carrier authenticates nothing: see the package's documentation
	}
	if _, err := netip.ParseAddr(a.Host); err != nil {
		cfg.ServerName = a.Host
	}
	t := tls.Client(raw, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, notServed(fmt.Errorf("TLS: %w", err))
	}
	if t.ConnectionState().NegotiatedProtocol != protocol {
		_ = t.Close()
		return nil, nil, ErrNotServed
	}
	return t, tcp, nil
}

// dialWebSocket opens a stream of messages through a web server.
func (s *Set) dialWebSocket(ctx context.Context, a Address) (net.Conn, *net.TCPConn, error) {
	var tcp *net.TCPConn
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			c, under, err := s.connect(ctx, addr)
			tcp = under
			return c, err
		},
		MaxResponseHeaderBytes: maxAnswer,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.cfg.Roots, NextProtos: []string{"http/1.1"}},
		DisableKeepAlives:      false,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c, resp, err := websocket.Dial(ctx, a.String(), dialOptions(client))
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			return nil, nil, fmt.Errorf("the web server says %q: %w", resp.Status, ErrNotServed)
		}
		return nil, nil, notServed(err)
	}
	if c.Subprotocol() != protocol {
		_ = c.CloseNow()
		return nil, nil, ErrNotServed
	}
	return s.messages(c), tcp, nil
}

// messages makes a stream of the messages of a WebSocket, which is closed without a
// farewell.
func (s *Set) messages(c *websocket.Conn) net.Conn {
	stream := websocket.NetConn(s.ctx, c, websocket.MessageBinary)
	c.SetReadLimit(4 * batchMax)
	return messageConn{stream, c}
}

// messageConn is closed at once: the farewell of WebSocket waits for the peer's.
type messageConn struct {
	net.Conn
	ws *websocket.Conn
}

func (c messageConn) Close() error {
	err := c.ws.CloseNow()
	_ = c.Conn.Close()
	return err
}

// connect makes a TCP connection, or one through a proxy.
func (s *Set) connect(ctx context.Context, hostPort string) (stream net.Conn, tcp *net.TCPConn, err error) {
	find := s.cfg.Proxy
	if find == nil {
		find = httpproxy.FromEnvironment().ProxyFunc()
	}
	proxy, err := find(&url.URL{Scheme: "https", Host: hostPort})
	if err != nil {
		return nil, nil, fmt.Errorf("the proxy of the environment: %w", err)
	}
	if proxy != nil {
		return throughProxy(ctx, proxy, hostPort)
	}
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: s.allow}
	c, err := d.DialContext(ctx, "tcp", s.onWire(hostPort))
	if err != nil {
		return nil, nil, err
	}
	tcp, _ = c.(*net.TCPConn)
	return c, tcp, nil
}

// onWire is a host and port as they are dialled.
func (s *Set) onWire(hostPort string) string {
	at, err := netip.ParseAddrPort(hostPort)
	if err != nil || s.cfg.OnWire == nil {
		return hostPort // a name, or nothing to change
	}
	return netip.AddrPortFrom(s.cfg.OnWire(at.Addr()), at.Port()).String()
}

// keepAlive finds out in about 20 s that a host is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}
