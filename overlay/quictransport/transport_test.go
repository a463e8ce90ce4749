package quictransport

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
	pion "github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/socket"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// narrow is loopback behind an interface that takes payloads up to max bytes,
// and says so of larger ones. It knows the largest that it was handed.
type narrow struct {
	pion.Net
	max, largest atomic.Int64
}

func newNarrow(t *testing.T, max int64) *narrow {
	nw, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	n := &narrow{Net: nw}
	n.max.Store(max)
	return n
}

func (n *narrow) ListenUDP(network string, laddr *net.UDPAddr) (pion.UDPConn, error) {
	c, err := net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return &narrowConn{UDPConn: c, n: n}, nil
}

type narrowConn struct {
	*net.UDPConn
	n *narrow
}

func (c *narrowConn) WriteTo(b []byte, a net.Addr) (int, error) {
	if int64(len(b)) > c.n.max.Load() {
		return 0, socket.ErrMessageTooLong
	}
	for {
		was := c.n.largest.Load()
		if int64(len(b)) <= was || c.n.largest.CompareAndSwap(was, int64(len(b))) {
			return c.UDPConn.WriteTo(b, a)
		}
	}
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// start makes a host whose only transport is the one in opts.
func start(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append(opts, libp2p.Identity(newKey(t)),
		libp2p.DisableRelay(), libp2p.PrometheusRegisterer(prometheus.NewRegistry()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	h.SetStreamHandler("/echo", func(s network.Stream) {
		defer s.Close()
		io.Copy(s, s)
	})
	return h
}

func newPort(t *testing.T, nw pion.Net, more ...netip.Addr) *socket.Port {
	t.Helper()
	port, err := socket.Listen(socket.Config{Net: nw, Addrs: append(more, loopback)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	return port
}

// listenAddr is the address of a port's socket.
func listenAddr(t *testing.T, port *socket.Port) ma.Multiaddr {
	t.Helper()
	a, err := quicreuse.ToQuicMultiaddr(net.UDPAddrFromAddrPort(port.Conns()[0].LocalAddr()), quic.Version1)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// construct returns what libp2p makes a Transport over port with.
func construct(port *socket.Port) func(crypto.PrivKey, network.ResourceManager) (*Transport, error) {
	return func(key crypto.PrivKey, limits network.ResourceManager) (*Transport, error) {
		return New(port, key, limits, nil, nil)
	}
}

// ours is a host on this transport. nw may be nil.
func ours(t *testing.T, nw pion.Net) host.Host {
	t.Helper()
	port := newPort(t, nw)
	return start(t, libp2p.ListenAddrs(listenAddr(t, port)), libp2p.Transport(construct(port)),
		libp2p.QUICReuse(quicreuse.NewConnManager, quicreuse.DisableReuseport()))
}

// theirs is a host on libp2p's own transport.
func theirs(t *testing.T) host.Host {
	t.Helper()
	return start(t, libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.Transport(libp2pquic.NewTransport))
}

func connect(t *testing.T, from, to host.Host) error {
	t.Helper()
	return from.Connect(t.Context(), peer.AddrInfo{ID: to.ID(), Addrs: to.Network().ListenAddresses()})
}

// exchange sends n bytes to the echo of a connected host and wants them back.
func exchange(t *testing.T, from, to host.Host, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := from.NewStream(network.WithNoDial(ctx, "the connection there is"), to.ID(), "/echo")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	data := bytes.Repeat([]byte("i"), n)
	go func() { s.Write(data); s.CloseWrite() }()
	back, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(back, data) {
		t.Fatalf("%d of %d bytes came back: %v", len(back), n, err)
	}
}

// TestWithLibp2p talks to libp2p's own transport, in both directions, and
// sends nothing that is larger than PacketSize.
func TestWithLibp2p(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"dialling", "dialled"} {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			nw := newNarrow(t, 1<<16)
			h := ours(t, nw)
			other := theirs(t)
			from, to := h, other
			if c == "dialled" {
				from, to = other, h
			}
			if err := connect(t, from, to); err != nil {
				t.Fatal(err)
			}
			exchange(t, h, other, 1<<20)
			exchange(t, other, h, 1<<20)
			if n := nw.largest.Load(); n != PacketSize {
				t.Errorf("the largest datagram has %d bytes", n)
			}
		})
	}
}

// TestInterfaceTooSmall: a dial over an interface that takes less than QUIC
// needs fails at once and says what it needs; a connection outlives that the
// interface shrinks for a while.
func TestInterfaceTooSmall(t *testing.T) {
	t.Parallel()
	nw := newNarrow(t, PacketSize-1)
	h := ours(t, nw)
	other := ours(t, nil)
	if err := connect(t, h, other); err == nil || !strings.Contains(err.Error(), "IP packets of 1228 bytes") {
		t.Fatalf("%v", err)
	}
	nw.max.Store(PacketSize)
	h = ours(t, nw) // libp2p waits before it dials again
	if err := connect(t, h, other); err != nil {
		t.Fatal(err)
	}
	nw.max.Store(100)
	s, err := h.NewStream(t.Context(), other.ID(), "/echo")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	if _, err := s.Write(make([]byte, 4000)); err != nil {
		t.Fatal(err)
	}
	nw.max.Store(PacketSize)
	_ = s.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(s, make([]byte, 4000)); err != nil {
		t.Fatal(err)
	}
	if n := len(h.Network().ConnsToPeer(other.ID())); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestEndpointEnds: who listens holds the endpoint, and who is connected; with
// the last of them it ends, and it comes back with the next.
func TestEndpointEnds(t *testing.T) {
	t.Parallel()
	port := newPort(t, nil)
	tr, err := newTransport(port, newKey(t), &network.NullResourceManager{})
	if err != nil {
		t.Fatal(err)
	}
	other := ours(t, nil)
	users := func() (n int) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for _, e := range tr.endpoints {
			n += e.users
		}
		return n
	}
	for range 2 {
		l, err := tr.Listen(listenAddr(t, port))
		if err != nil {
			t.Fatal(err)
		}
		c, err := tr.Dial(t.Context(), other.Network().ListenAddresses()[0], other.ID())
		if err != nil {
			t.Fatal(err)
		}
		if n := users(); n != 2 {
			t.Fatalf("%d hold it, a listener and a connection", n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); err != transport.ErrListenerClosed {
			t.Errorf("Accept after Close: %v", err)
		}
		s, err := c.OpenStream(t.Context())
		if err != nil {
			t.Fatalf("a connection after its listener: %v", err)
		}
		_ = s.Reset()
		_ = c.Close()
		for users() > 0 { // what a connection holds is given back in the background
			runtime.Gosched()
		}
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Listen(listenAddr(t, port)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close: %v", err)
	}
}

// TestAddresses: what is dialled and what is not.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for a, want := range map[string]string{
		"/ip4/20.0.0.2/udp/443/quic-v1":                         "20.0.0.2:443",
		"/ip6/2a00::2/udp/443/quic-v1":                          "[2a00::2]:443",
		"/ip6/::ffff:20.0.0.2/udp/443/quic-v1":                  "20.0.0.2:443",
		"/ip4/20.0.0.2/udp/443":                                 "",
		"/ip4/20.0.0.2/tcp/443":                                 "",
		"/ip4/20.0.0.2/udp/443/quic":                            "",
		"/dns4/example.com/udp/443/quic-v1":                     "",
		"/ip4/20.0.0.2/udp/443/quic-v1/webtransport":            "",
		"/ip6zone/eth0/ip6/fe80::2/udp/443/quic-v1":             "",
		"/ip4/20.0.0.2/udp/443/quic-v1/p2p-circuit/ip4/1.1.1.1": "",
	} {
		m, err := ma.NewMultiaddr(a)
		if err != nil {
			t.Fatal(err)
		}
		at, ok := addrPort(m)
		if got := at.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, %v", a, got, ok)
		}
		if (*Transport)(nil).CanDial(m) != ok {
			t.Errorf("%s: CanDial", a)
		}
	}
}

// TestSource: who knows from where somebody is reached decides, if the port has
// a socket there.
func TestSource(t *testing.T) {
	t.Parallel()
	second := loopback.Next()
	port := newPort(t, nil, second)
	tr, err := newTransport(port, newKey(t), &network.NullResourceManager{})
	if err != nil {
		t.Fatal(err)
	}
	remote := netip.AddrPortFrom(loopback, 9)
	for _, c := range []struct{ known, want netip.Addr }{
		{netip.Addr{}, loopback}, {second, second}, {netip.MustParseAddr("20.0.0.2"), loopback},
	} {
		tr.source = func(netip.AddrPort) netip.Addr { return c.known }
		if got := tr.socketFor(remote).LocalAddr().Addr(); got != c.want {
			t.Errorf("from %v, known is %v", got, c.known)
		}
	}
}
