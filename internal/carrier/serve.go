package carrier

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/coder/websocket"
)

const (
	handshakeFor  = 5 * time.Second
	perAddress    = 64
	serveMax      = 1024
	handshakesMax = 128
	handshakeEach = 16
	// One address may begin handshakeBurst handshakes at once and then one every
	// handshakeEvery: an office comes back whole, and nobody has a processor busy.
	handshakeBurst = 64
	handshakeEvery = time.Second / 4
	// pacedMax bounds the addresses that this is counted for.
	pacedMax = 4096
)

// network is what is counted as one address: of IPv6, what one subscriber has.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		p, _ := a.Prefix(56)
		return p.Addr()
	}
	return a
}

// admit counts a connection that came in; false: there are too many. each says that
// the bound per address holds.
func (s *Set) admit(from netip.Addr, each bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := network(from)
	if s.closed || s.serving >= serveMax || each && s.served[n] >= perAddress {
		s.refused.Add(1)
		return false
	}
	s.serving++
	s.served[n]++
	return true
}

// dismiss undoes admit.
func (s *Set) dismiss(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := network(from)
	s.serving--
	if s.served[n]--; s.served[n] == 0 {
		delete(s.served, n)
	}
}

// pace is how many handshakes each network may begin. The zero one has seen none.
type pace struct {
	spent map[netip.Addr]time.Time // until when a network has used its share
}

// take notes a handshake; false: it comes too soon.
func (p *pace) take(n netip.Addr, now time.Time) bool {
	at := p.spent[n]
	if at.Before(now) {
		at = now
	}
	if at.Sub(now) > (handshakeBurst-1)*handshakeEvery {
		return false
	}
	if len(p.spent) >= pacedMax {
		for old, at := range p.spent {
			if !at.After(now) {
				delete(p.spent, old)
			}
		}
		if len(p.spent) >= pacedMax {
			p.spent = nil // so many at once are no one's doing alone
		}
	}
	if p.spent == nil {
		p.spent = map[netip.Addr]time.Time{}
	}
	p.spent[n] = at.Add(handshakeEvery)
	return true
}

// greet counts one more in TLS; false: there are too many, or come too fast.
func (s *Set) greet(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := network(from)
	if s.greeting >= handshakesMax || s.greeters[n] >= handshakeEach || !s.pace.take(n, time.Now()) {
		s.refused.Add(1)
		return false
	}
	s.greeting++
	s.greeters[n]++
	return true
}

// greeted undoes greet.
func (s *Set) greeted(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := network(from)
	s.greeting--
	if s.greeters[n]--; s.greeters[n] == 0 {
		delete(s.greeters, n)
	}
}

// Serve serves carriers over TLS on what l accepts, until Close, which closes l. It
// returns at once.
func (s *Set) Serve(l net.Listener) error {
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Certificates: []tls.Certificate{*cert},
		SessionTicketsDisabled: true,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.listeners = append(s.listeners, l)
	s.wg.Go(func() { s.accept(l, cfg) })
	return nil
}

func (s *Set) accept(l net.Listener, cfg *tls.Config) {
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, perhaps: do not spin.
			pause = min(max(2*pause, time.Millisecond), time.Second)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
				continue
			case <-s.ctx.Done():
				t.Stop()
				return
			}
		}
		pause = 0
		from := addrPort(c.RemoteAddr())
		if !s.admit(from.Addr(), true) {
			_ = c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.dismiss(from.Addr())
			s.serveTLS(c, cfg, from)
		})
	}
}

// serveTLS carries on a connection that was admitted.
func (s *Set) serveTLS(c net.Conn, cfg *tls.Config, from netip.AddrPort) {
	if !s.greet(from.Addr()) {
		_ = c.Close()
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(keepAlive)
	}
	t := tls.Server(c, cfg)
	ctx, cancel := context.WithTimeout(s.ctx, handshakeFor)
	err := t.HandshakeContext(ctx)
	cancel()
	s.greeted(from.Addr())
	if err != nil || t.ConnectionState().NegotiatedProtocol != protocol {
		s.refused.Add(1)
		_ = c.Close() // without TLS's farewell, for which it would wait
		return
	}
	s.carry(t, from, false)
}

// Handler serves carriers as WebSockets, in a web server with its own certificate, or
// behind what ends TLS. Other requests get 426 or what else RFC 6455 has for them. The
// server's own time-outs do not hold for what has become a carrier; Close ends it.
func (s *Set) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		ip := from.Addr().Unmap()
		shared := !ip.IsValid() || ip.IsPrivate() || ip.IsLoopback() // behind a proxy all come from its address
		if !s.admit(ip, !shared) {
			http.Error(w, "too many carriers", http.StatusServiceUnavailable)
			return
		}
		defer s.dismiss(ip)
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols:       []string{protocol},
			InsecureSkipVerify: true, // of the Origin: what is carried authenticates itself, no cookie does
			CompressionMode:    websocket.CompressionDisabled,
		})
		if err != nil {
			s.refused.Add(1)
			return // Accept has answered
		}
		if c.Subprotocol() != protocol {
			s.refused.Add(1)
			_ = c.CloseNow()
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = c.CloseNow()
			return
		}
		s.wg.Add(1)
		s.mu.Unlock()
		defer s.wg.Done()
		s.carry(s.messages(c), from, shared)
	})
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// certificate makes the certificate of tls://, once: nobody looks at it.
func (s *Set) certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil {
		return s.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var serial [16]byte
	rand.Read(serial[:])
	now := time.Now()
	like := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial[:]), NotBefore: now.AddDate(0, 0, -7), NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, like, like, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	s.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return s.cert, nil
}
