package idloc_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/yardstick"
)

// firewall is the kernel's network, which lets UDP out, or does not.
type firewall struct {
	*stdnet.Net
	blocked atomic.Bool
	lost    atomic.Int64
}

type firewalledConn struct {
	transport.UDPConn
	f *firewall
}

func newFirewall(t *testing.T) *firewall {
	t.Helper()
	std, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	return &firewall{Net: std}
}

func (f *firewall) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := f.Net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return &firewalledConn{c, f}, nil
}

func (f *firewall) drops() bool {
	if !f.blocked.Load() {
		return false
	}
	f.lost.Add(1)
	return true
}

func (c *firewalledConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.f.drops() {
		return len(b), nil
	}
	return c.UDPConn.WriteTo(b, to)
}

func (c *firewalledConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.UDPConn.ReadFrom(b)
		if err != nil || !c.f.drops() {
			return n, from, err
		}
	}
}

// behind is the Config of a node behind f, which has carriers all the same.
func behind(f *firewall) idloc.Config {
	cfg := idloc.Config{Addrs: loopback, Net: f}
	cfg.Carry(carrier.Config{})
	return cfg
}

// awaitKind waits until data to a peer takes a path of a kind.
func awaitKind(t *testing.T, n *idloc.Node, name, kind string) idloc.PathStatus {
	t.Helper()
	var found idloc.PathStatus
	within(t, fmt.Sprintf("a path of kind %q to %s", kind, name), patience, func() bool {
		for _, p := range n.Status().Peers {
			for _, path := range p.Paths {
				if p.Name == name && path.Active && path.Kind == kind {
					found = path
					return true
				}
			}
		}
		return false
	})
	return found
}

// A node that no UDP gets in or out of joins, dials, and is dialled, over a carrier.
func TestCarrierWithoutUDP(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Name: "earth", Addrs: loopback, Carrier: "127.0.0.1:0"})
	mars := join(t, earth, "mars", idloc.Config{Addrs: loopback})
	wall := newFirewall(t)
	wall.blocked.Store(true)
	venus := join(t, earth, "venus", behind(wall))
	st := venus.Status().Self
	if st.Carried == 0 || len(st.CarriedBy) == 0 {
		t.Errorf("no member is carried: %+v", st)
	}
	for _, to := range []*idloc.Node{earth, mars} {
		port := echo(t, to)
		c, err := dialTimeout(t, venus, "tcp", to.Name()+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c, []byte("over a carrier")); err != nil {
			t.Errorf("%s: %v", to.Name(), err)
		}
		_ = c.Close()
	}
	if p := awaitKind(t, venus, earth.Name(), "tcp"); p.Carrier == "" {
		t.Errorf("a path of kind tcp without its carrier: %+v", p)
	}
	awaitKind(t, venus, mars.Name(), "relayed")
	port := echo(t, venus)
	for _, from := range []*idloc.Node{earth, mars} {
		c, err := dialTimeout(t, from, "tcp", venus.Name()+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c, []byte("to who is carried")); err != nil {
			t.Errorf("from %s: %v", from.Name(), err)
		}
		_ = c.Close()
	}
	if wall.lost.Load() == 0 {
		t.Error("the firewall has had nothing to do")
	}
	within(t, "UDP is silent", patience, func() bool { return venus.Status().Self.UDP == "silent" })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := venus.Ping(ctx, earth.Name()); err != nil {
		t.Error(err)
	}
}

// pump sends numbered blocks to an echo and checks what comes back, until stopped. It
// says how long nothing came, at most, since it was last asked.
type pump struct {
	conn  net.Conn
	stop  atomic.Bool
	last  atomic.Int64 // when something last came, in ns since start
	worst atomic.Int64
	bytes atomic.Int64
	start time.Time
	done  chan error
}

func startPump(c net.Conn) *pump {
	p := &pump{conn: c, start: time.Now(), done: make(chan error, 2)}
	block := func(i int64, b []byte) []byte {
		for j := range b {
			b[j] = byte(i + int64(j)*7)
		}
		return b
	}
	go func() {
		b := make([]byte, 4096)
		pace := time.NewTicker(2 * time.Millisecond) // 2 MB/s: the stream is to be there, not to fill the machine
		defer pace.Stop()
		var i int64
		for ; !p.stop.Load(); i++ {
			if _, err := c.Write(block(i, b)); err != nil {
				p.done <- err
				return
			}
			<-pace.C
		}
		p.done <- c.(idloc.TCPConn).CloseWrite()
	}()
	go func() {
		got, want := make([]byte, 4096), make([]byte, 4096)
		for i := int64(0); ; i++ {
			for n := 0; n < len(got); {
				k, err := c.Read(got[n:])
				now := int64(time.Since(p.start))
				p.worst.Store(max(p.worst.Load(), now-p.last.Swap(now)))
				p.bytes.Add(int64(k))
				if n += k; err == io.EOF && n == 0 {
					p.done <- nil
					return
				} else if err != nil {
					p.done <- err
					return
				}
			}
			if !bytes.Equal(got, block(i, want)) {
				p.done <- fmt.Errorf("block %d is damaged", i)
				return
			}
		}
	}()
	return p
}

// gap is the longest silence since it was last asked, one that lasts included.
func (p *pump) gap() time.Duration {
	return time.Duration(max(p.worst.Swap(0), int64(time.Since(p.start))-p.last.Load()))
}

// end ends the stream and says whether all has come back.
func (p *pump) end() error {
	p.stop.Store(true)
	return errors.Join(<-p.done, <-p.done)
}

// UDP is blocked in the middle of a stream: it goes on over a carrier. It is allowed
// again: the stream goes back. Nothing is lost.
func TestCarrierInMidStream(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Name: "earth", Addrs: loopback, Carrier: "127.0.0.1:0"})
	wall := newFirewall(t)
	venus := join(t, earth, "venus", behind(wall))
	c, err := dialTimeout(t, venus, "tcp", earth.Name()+":"+echo(t, earth))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	awaitKind(t, venus, earth.Name(), "direct")
	p := startPump(c)
	within(t, "the stream goes on", patience, func() bool { return p.bytes.Load() >= 1<<20 })
	p.gap()
	idle := yardstick.Start()
	defer idle.Stop()
	wall.blocked.Store(true)
	awaitKind(t, venus, earth.Name(), "tcp")
	before := p.bytes.Load()
	within(t, "the stream goes on", patience, func() bool { return p.bytes.Load() != before })
	if took := idle.Elapsed(); took > 3*time.Second {
		t.Errorf("the stream goes on after %v", took)
	}
	within(t, "the stream goes on", patience, func() bool { return p.bytes.Load() >= before+1<<20 })
	stopped := p.gap()
	wall.blocked.Store(false)
	allowed := yardstick.Start()
	defer allowed.Stop()
	awaitKind(t, venus, earth.Name(), "direct")
	back := allowed.Elapsed()
	if back > 30*time.Second {
		t.Errorf("back on UDP after %v", back)
	}
	after := p.bytes.Load()
	within(t, "the stream goes on", patience, func() bool { return p.bytes.Load() >= after+1<<20 })
	if err := p.end(); err != nil {
		t.Errorf("the stream: %v", err)
	}
	t.Logf("%v without a byte when UDP was blocked; back on UDP %v after it was allowed, %v without a byte", stopped, back, p.gap())
}

// What Config.Carrier and Reached cannot be is said by field.
func TestCarrierConfig(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "vpn.example.org", "http://vpn.example.org", "ws://vpn.example.org/x", "tls://", "tls://h:0", "tls://h/x", "wss://u@h/x",
		"udp://192.0.2.1:0", "udp://192.0.2.1/x", "udp://0.0.0.0:1", "udp://[ff02::1]:1", "udp://[fe80::1%25eth0]:1", "udp://[100::1]:1", "::",
	} {
		_, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", Addrs: loopback, Reached: []string{bad}})
		var wrong *idloc.ConfigError
		if !errors.As(err, &wrong) || wrong.Field != "Reached" {
			t.Errorf("Reached %q: %v", bad, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", Addrs: loopback, Carrier: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), "Config.Carrier") {
		t.Errorf("an address that is taken: %v", err)
	}
	wall := newFirewall(t)
	if _, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", Addrs: loopback, Net: wall, Carrier: "127.0.0.1:0"}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("on a simulated network: %v", err)
	}
}

// A token names what Reached says, UDP addresses and carriers both.
func TestReachedInToken(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Name: "earth", Addrs: loopback, Reached: []string{"tls://vpn.example.org", "wss://vpn.example.org/idloc", "udp://127.0.0.9:443"}})
	text, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := idloc.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"tls://vpn.example.org:443", "wss://vpn.example.org/idloc"}; !slices.Equal(tok.Carriers, want) {
		t.Errorf("the token names the carriers %v, want %v", tok.Carriers, want)
	}
	if !slices.Contains(tok.Members, netip.MustParseAddrPort("127.0.0.9:443")) {
		t.Errorf("the token names %v", tok.Members)
	}
}

// A member of which nothing but a carrier in a web server is reached.
func TestCarrierHandler(t *testing.T) {
	t.Parallel()
	web := httptest.NewUnstartedServer(nil)
	at := "wss://" + web.Listener.Addr().String() + "/idloc"
	earth := found(t, idloc.Config{Name: "earth", Addrs: loopback, Reached: []string{at}})
	mux := http.NewServeMux()
	mux.Handle("/idloc", earth.CarrierHandler())
	web.Config.Handler = mux
	web.StartTLS()
	t.Cleanup(web.Close)
	wall := newFirewall(t)
	wall.blocked.Store(true)
	cfg := idloc.Config{Net: wall}
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	cfg.Carry(carrier.Config{Roots: roots})
	venus := join(t, earth, "venus", cfg)
	if by := venus.Status().Self.CarriedBy; len(by) != 1 || by[0] != at {
		t.Errorf("carried by %v, want %s", by, at)
	}
	if n := earth.Status().Self.Carriers; n != 1 {
		t.Errorf("%d carriers are served", n)
	}
	c, err := dialTimeout(t, venus, "tcp", earth.Name()+":"+echo(t, earth))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, bytes.Repeat([]byte("through a web server "), 10000)); err != nil {
		t.Error(err)
	}
}
