package socket_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
)

func listen(t *testing.T, addrs ...string) *socket.Port {
	t.Helper()
	return listenSTUN(t, nil, addrs...)
}

// listenSTUN is listen with a handler of STUN.
func listenSTUN(t *testing.T, stun func(*socket.Conn, netip.AddrPort, []byte), addrs ...string) *socket.Port {
	t.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	p, err := socket.Listen(socket.Config{Addrs: list, OnSTUN: stun})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"x"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: priv}}, NextProtos: []string{"t"}}
	return server, &tls.Config{RootCAs: pool, ServerName: "x", NextProtos: []string{"t"}}
}

// A quic.Transport works on a view, says nothing about buffers, and carries
// bulk data; garbage draws no answer from it.
func TestQUICTransport(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	serverTLS, clientTLS := tlsConfigs(t)
	after := make(chan struct{}, 1) // what came before is dealt with
	a, b := listen(t, "127.0.0.1"), listenSTUN(t, func(*socket.Conn, netip.AddrPort, []byte) { after <- struct{}{} }, "127.0.0.1", "127.0.0.2")

	pc, err := b.ListenQUIC("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	st := &quic.Transport{Conn: pc, StatelessResetKey: &quic.StatelessResetKey{1}}
	defer pc.Close()
	defer st.Close()
	ln, err := st.Listen(serverTLS, nil)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			for range 2 {
				c, err := ln.Accept(ctx)
				if err != nil {
					return err
				}
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return err
				}
				if _, err := io.Copy(s, s); err != nil {
					return err
				}
				if err := s.Close(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()

	cc, err := a.ListenQUIC("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ct := &quic.Transport{Conn: cc}
	defer cc.Close()
	defer ct.Close()
	for _, ip := range []string{"127.0.0.2", "127.0.0.1"} { // the answer comes from where it was asked
		addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), b.Number()))
		c, err := ct.Dial(ctx, addr, clientTLS, nil)
		if err != nil {
			t.Fatalf("%s: %v", ip, err)
		}
		s, err := c.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1<<20)
		rand.Read(data)
		sent := make(chan error, 1)
		go func() {
			_, err := s.Write(data)
			if err == nil {
				err = s.Close()
			}
			sent <- err
		}()
		back, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%s: %d bytes back, %v", ip, len(back), err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		defer c.CloseWithError(0, "")
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if strings.Contains(logged.String(), "buffer") {
		t.Errorf("the QUIC stack complains: %s", logged.String())
	}

	// What would draw a stateless reset or a version negotiation packet.
	probe, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.Number()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	short := make([]byte, 200)
	short[0] = 0x41
	long := make([]byte, 1300)
	copy(long, []byte{0xc0, 0xba, 0xba, 0xba, 0xba, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0})
	before := b.Stats()
	stun := make([]byte, 20)
	for _, p := range [][]byte{short, long, stun} {
		if _, err := probe.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-after:
	case <-ctx.Done():
		t.Fatal("the last datagram did not arrive")
	}
	dropped := func(s socket.Stats) uint64 { return s.Dropped["quic-stranger"] + s.Dropped["quic-version"] }
	if n := dropped(b.Stats()) - dropped(before); n != 2 {
		t.Fatalf("%d of 2 pieces of garbage were dropped: %+v", n, b.Stats())
	}
	probe.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := probe.Read(make([]byte, 2000)); err == nil {
		t.Errorf("garbage drew an answer of %d bytes", n)
	}
}

func newHost(t *testing.T, p *socket.Port, listen string) host.Host {
	t.Helper()
	h, err := libp2p.New(
		libp2p.NoTransports, libp2p.Transport(libp2pquic.NewTransport),
		libp2p.QUICReuse(quicreuse.NewConnManager,
			quicreuse.OverrideListenUDP(p.ListenQUIC),
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return selector{p}, nil }),
		),
		libp2p.ListenAddrStrings(listen),
		libp2p.DisableRelay(), libp2p.PrometheusRegisterer(prometheus.NewRegistry()),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

type selector struct{ p *socket.Port }

func (s selector) PreferredSourceIPForDestination(dst *net.UDPAddr) (net.IP, error) {
	c := s.p.ConnFor(dst.AddrPort().Addr())
	if c == nil {
		return nil, socket.ErrNoSource
	}
	return c.LocalAddr().Addr().AsSlice(), nil
}

// Two libp2p hosts on two ports, each listening and dialling through it, at
// the same time and in both directions.
func TestLibp2p(t *testing.T) {
	for _, x := range []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/0.0.0.0/udp/0/quic-v1"} {
		t.Run(x, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			ports := [2]*socket.Port{listen(t, "127.0.0.1"), listen(t, "127.0.0.1")}
			var hosts [2]host.Host
			for i, p := range ports {
				hosts[i] = newHost(t, p, x)
				hosts[i].SetStreamHandler("/echo", func(s network.Stream) {
					defer s.Close()
					io.Copy(s, s)
				})
			}
			errs := make(chan error, 2)
			for i := range hosts {
				to := hosts[1-i]
				go func() {
					errs <- func() error {
						addr := to.Network().ListenAddresses()
						resolved, err := to.Network().InterfaceListenAddresses()
						if err == nil {
							addr = resolved
						}
						if err := hosts[i].Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: addr}); err != nil {
							return err
						}
						s, err := hosts[i].NewStream(ctx, to.ID(), "/echo")
						if err != nil {
							return err
						}
						defer s.Reset()
						data := bytes.Repeat([]byte("idloc"), 20000)
						go func() { s.Write(data); s.CloseWrite() }()
						back, err := io.ReadAll(s)
						if err == nil && !bytes.Equal(back, data) {
							err = io.ErrUnexpectedEOF
						}
						return err
					}()
				}()
			}
			for range hosts {
				if err := <-errs; err != nil {
					t.Fatal(err)
				}
			}
			for i, h := range hosts {
				c := h.Network().ConnsToPeer(hosts[1-i].ID())[0]
				if a := c.RemoteMultiaddr().String(); !strings.Contains(a, "/udp/"+itoa(ports[1-i].Number())+"/") {
					t.Errorf("host %d reaches the other at %s, which is not the shared port %d", i, a, ports[1-i].Number())
				}
			}
		})
	}
}

func itoa(n uint16) string { return big.NewInt(int64(n)).String() }
