package nat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/internal/socket"
)

// turnOverStream runs pion's TURN server on a TCP or TLS listener.
func turnOverStream(t *testing.T, cfg *tls.Config) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: "lab", LoggerFactory: silent,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, "p"), user == "u"
		},
		ListenerConfigs: []turn.ListenerConfig{{Listener: l, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1",
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return at
}

// selfSigned is a certificate for localhost, and who trusts it.
func selfSigned(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// TestTURNOverStreams gets an address from a server over TCP and over TLS,
// and sends a datagram through it and back; whom TLS does not trust gets no
// password.
func TestTURNOverStreams(t *testing.T) {
	cfg, pool := selfSigned(t)
	for name, c := range map[string]struct {
		server string
		tls    *tls.Config
		roots  *x509.CertPool
		fails  bool
	}{
		"TCP":           {server: "turn:u:p@localhost:PORT?transport=tcp"},
		"TLS":           {server: "turns:u:p@localhost:PORT", tls: cfg, roots: pool},
		"TLS, a forger": {server: "turns:u:p@localhost:PORT", tls: cfg, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			at := turnOverStream(t, c.tls)
			port, err := socket.Listen(socket.Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
			if err != nil {
				t.Fatal(err)
			}
			defer port.Close()
			text := strings.Replace(c.server, "PORT", strconv.Itoa(int(at.Port())), 1)
			spec, err := ParseICEServer(text)
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan []byte, 1)
			s := &turnServer{ICEServer: spec, roots: c.roots, cfg: &AllocationsConfig{
				Sockets: port, STUN: func(_ *Allocation, _ netip.AddrPort, b []byte) { got <- append([]byte(nil), b...) },
			}}
			l, err := s.allocate(t.Context())
			if (err != nil) != c.fails {
				t.Fatalf("allocate: %v", err)
			}
			if err != nil {
				return
			}
			served := make(chan error, 1)
			go func() { served <- l.serve(t.Context(), nil) }()
			peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			there := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			// STUN by its first byte, and as long as any: pion's framing holds
			// back shorter ones.
			ping, pong := append([]byte{0}, "there, twenty bytes"...), append([]byte{3}, "back, twenty bytes."...)
			if err := l.WriteTo(ping, there); err != errNoPermit {
				t.Errorf("before a check: %v", err)
			}
			if err := l.Open(ping, there); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, from, err := peer.ReadFromUDPAddrPort(b)
			if err != nil || string(b[:n]) != string(ping) || from != l.at {
				t.Errorf("%q from %v, not %v; %v", b[:n], from, l.at, err)
			}
			if _, err := peer.WriteToUDPAddrPort(pong, l.at); err != nil {
				t.Fatal(err)
			}
			if b := <-got; string(b) != string(pong) {
				t.Errorf("back came %q", b)
			}
			_ = l.base.Close() // the connection to the server ends
			if err := <-served; err == nil {
				t.Error("an address without its server goes on")
			}
			if err := l.WriteTo([]byte{0}, there); err == nil {
				t.Error("and sends")
			}
		})
	}
}
