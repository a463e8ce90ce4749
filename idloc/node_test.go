package idloc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/yardstick"
)

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// ownLoopback is an address of loopback that nobody else has, where there is one. A node
// that is closed there finds its port free when it comes back: those of 127.0.0.1 are
// given to the next who asks for any, in all tests that run.
func ownLoopback(n byte) []netip.Addr {
	if runtime.GOOS != "linux" { // which has the whole of 127.0.0.0/8
		return loopback
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 3, 0, n})}
}

// found creates the overlay example.com with earth.
func found(t testing.TB, cfg idloc.Config) *idloc.Node {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "earth"
	}
	if cfg.Addrs == nil {
		cfg.Addrs = loopback
	}
	n, err := idloc.Create(t.Context(), "example.com", cfg)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing %s: %v", n.Name(), err)
		}
	})
	return n
}

// join lets name in with a token of its own from by.
func join(t testing.TB, by *idloc.Node, name string, cfg idloc.Config) *idloc.Node {
	t.Helper()
	token, err := by.Invite(idloc.InviteOptions{Name: name})
	if err != nil {
		t.Fatalf("Invite(%s): %v", name, err)
	}
	cfg.Name = name
	if cfg.Addrs == nil {
		cfg.Addrs = loopback
	}
	n, err := idloc.Join(t.Context(), token, cfg)
	if err != nil {
		t.Fatalf("Join(%s): %v", name, err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing %s: %v", n.Name(), err)
		}
	})
	return n
}

// serveHTTP serves h on l until the test ends.
func serveHTTP(t testing.TB, l net.Listener, h http.HandlerFunc) {
	t.Helper()
	server, done := &http.Server{Handler: h}, make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// solar is the overlay of the draft.
func solar(t testing.TB) (earth, venus, mars *idloc.Node) {
	return solarWith(t, idloc.Config{})
}

// directly is for tests that count pipes, or datagrams, or want to see a path:
// on a machine that is slow enough a first dial would try a relay, too, which
// is another pipe.
var directly = idloc.Config{Paths: idloc.PathDirectOnly}

func solarWith(t testing.TB, cfg idloc.Config) (earth, venus, mars *idloc.Node) {
	earth = found(t, cfg)
	return earth, join(t, earth, "venus", cfg), join(t, earth, "mars", cfg)
}

// echo serves TCP and UDP echo on one port of n and returns the port.
func echo(t testing.TB, n *idloc.Node) string {
	t.Helper()
	l, err := n.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	pc, err := n.ListenPacket("udp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(func() { end(); l.Close(); pc.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				// A peer that has gone may not have been heard going.
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	wg.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	})
	return port
}

// roundTrip wants msg back over c.
func roundTrip(c net.Conn, msg []byte) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("echo of %q is %q", msg, got)
	}
	return nil
}

func dialTimeout(t testing.TB, n *idloc.Node, network, address string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return n.Dial(ctx, network, address)
}

func TestDialByEveryKindOfAddress(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	port := echo(t, mars)

	first, err := dialTimeout(t, venus, "tcp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	who, err := venus.WhoIs(first.RemoteAddr())
	if err != nil {
		t.Fatalf("WhoIs(%v): %v", first.RemoteAddr(), err)
	}
	if who.ID != mars.ID() || who.Name != "mars.example.com" {
		t.Fatalf("WhoIs = %+v, want %v mars.example.com", who, mars.ID())
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range []struct{ desc, network, host string }{
			{"name", network, "mars.example.com"},
			{"short name", network, "mars"},
			{"upper case with a final dot", network, "MARS.Example.COM."},
			{"name, IPv4 LSI wanted", network + "4", "mars.example.com"},
			{"name, IPv6 LSI wanted", network + "6", "mars.example.com"},
			{"IPv4 LSI", network, who.LSI4.String()},
			{"IPv6 LSI", network, who.LSI6.String()},
			{"peer ID label", network, mars.ID().Label() + ".example.com"},
		} {
			t.Run(network+"/"+to.desc, func(t *testing.T) {
				c, err := dialTimeout(t, venus, to.network, net.JoinHostPort(to.host, port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := roundTrip(c, []byte(to.desc)); err != nil {
					t.Fatal(err)
				}
				peer, err := venus.WhoIs(c.RemoteAddr())
				if err != nil || peer.ID != mars.ID() {
					t.Errorf("WhoIs(%v) = %+v, %v", c.RemoteAddr(), peer, err)
				}
			})
		}
	}
}

// Each side sees its own LSIs for both ends (draft §9.1), and knows who is
// behind the other.
func TestLSIsAreLocal(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := mars.Listen(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := dialTimeout(t, venus, network, "mars.example.com:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, end := range []struct {
			node, other *idloc.Node
			conn        net.Conn
		}{{venus, mars, c}, {mars, venus, s}} {
			v4, v6 := end.node.LSIs()
			own := v4
			if network == "tcp6" {
				own = v6
			}
			local := end.conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			if local != own {
				t.Errorf("%s on %s: local address %v, want its own LSI %v", network, end.node.Name(), local, own)
			}
			who, err := end.node.WhoIs(end.conn.RemoteAddr())
			if err != nil || who.ID != end.other.ID() || who.Name != end.other.Name() {
				t.Errorf("%s on %s: WhoIs(%v) = %+v, %v; want %s", network, end.node.Name(), end.conn.RemoteAddr(), who, err, end.other.Name())
			}
		}
	}
}

func TestListenOnOwnLSI(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	v4, v6 := mars.LSIs()
	for _, host := range []string{v4.String(), v6.String(), "mars.example.com", "mars"} {
		l, err := mars.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatalf("Listen on %s: %v", host, err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		network := "tcp4"
		if host == v6.String() {
			network = "tcp6"
		}
		c, err := dialTimeout(t, venus, network, "mars.example.com:"+port)
		if err != nil {
			t.Fatalf("dialling the listener on %s: %v", host, err)
		}
		c.Close()
		if _, err := mars.Listen("tcp", net.JoinHostPort(host, port)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second Listen on %s:%s: %v, want EADDRINUSE", host, port, err)
		}
		l.Close()
	}
	for _, host := range []string{"192.0.2.1", "venus.example.com", "198.18.77.77"} {
		if _, err := mars.Listen("tcp", net.JoinHostPort(host, "0")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("Listen on %s: %v, want EADDRNOTAVAIL", host, err)
		}
	}
	c, err := dialTimeout(t, mars, "tcp", "mars.example.com:"+echo(t, mars))
	if err != nil {
		t.Fatalf("dialling oneself: %v", err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("to myself")); err != nil {
		t.Fatal(err)
	}
}

func TestDialErrors(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	fast := func(desc string, d time.Duration, f func()) {
		c := yardstick.Start()
		f()
		if took := c.Stop(); took > d {
			t.Errorf("%s: took %v, bound %v", desc, took, d)
		}
	}
	fast("unknown name", 5*time.Second, func() {
		_, err := dialTimeout(t, venus, "tcp", "pluto.example.com:80")
		var op *net.OpError
		var dns *net.DNSError
		if !errors.As(err, &op) || !errors.As(err, &dns) || !dns.IsNotFound || dns.Name != "pluto.example.com" {
			t.Errorf("unknown name: %v", err)
		}
	})
	for _, address := range []string{"www.example.org:80", "a.b.example.com:80"} {
		_, err := dialTimeout(t, venus, "tcp", address)
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound {
			t.Errorf("%s: %v", address, err)
		}
	}
	fast("closed port", 5*time.Second, func() {
		_, err := dialTimeout(t, venus, "tcp", "mars.example.com:9999")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("closed port: %v", err)
		}
	})
	var addrErr *net.AddrError
	if _, err := dialTimeout(t, venus, "tcp", "198.18.200.200:80"); !errors.As(err, &addrErr) {
		t.Errorf("an LSI of nobody: %v", err)
	}
	if _, err := dialTimeout(t, venus, "tcp", "192.0.2.1:80"); !errors.As(err, &addrErr) {
		t.Errorf("a real address: %v", err)
	}
	var unknown net.UnknownNetworkError
	if _, err := dialTimeout(t, venus, "unix", "mars:80"); !errors.As(err, &unknown) {
		t.Errorf("network unix: %v", err)
	}
	if _, err := dialTimeout(t, venus, "tcp", "mars.example.com"); !errors.As(err, &addrErr) {
		t.Errorf("no port: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := venus.Dial(ctx, "tcp", "mars.example.com:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled context: %v", err)
	}

	// A peer that is gone: its record is still in the database.
	mars.Close()
	fast("gone peer", 12*time.Second, func() {
		_, err := venus.Dial(t.Context(), "tcp", "mars.example.com:80")
		var stage *idloc.StageError
		if err == nil || !errors.As(err, &stage) || !errors.Is(err, idloc.ErrUnreachable) {
			t.Fatalf("a peer that is gone: %v, want a StageError that is ErrUnreachable", err)
		}
		if stage.Peer != mars.ID() || !strings.Contains(err.Error(), stage.Stage) {
			t.Errorf("a peer that is gone: %v", err)
		}
	})
}

// Close with everything in use: each call returns net.ErrClosed.
func TestCloseUnblocksEverything(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	port := echo(t, mars)
	live, err := dialTimeout(t, venus, "tcp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := dialTimeout(t, venus, "udp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	l, err := venus.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := venus.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"Read":     func() error { _, err := live.Read(make([]byte, 1)); return err },
		"Read UDP": func() error { _, err := udp.Read(make([]byte, 1)); return err },
		"Accept":   func() error { _, err := l.Accept(); return err },
		"ReadFrom": func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err },
		"Dial in progress": func() error {
			for {
				c, err := venus.Dial(context.Background(), "tcp", "mars.example.com:"+port)
				if err != nil {
					return err
				}
				c.Close()
			}
		},
	}
	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	var started sync.WaitGroup
	for name, f := range calls {
		started.Add(1)
		go func() { started.Done(); results <- result{name, f()} }()
	}
	started.Wait()
	if err := venus.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for range calls {
		select {
		case r := <-results:
			if !errors.Is(r.err, net.ErrClosed) {
				t.Errorf("%s during Close: %v, want net.ErrClosed", r.name, r.err)
			}
		case <-time.After(patience):
			t.Fatal("a call did not return after Close")
		}
	}
	for name, f := range map[string]func() error{
		"Dial":         func() error { _, err := venus.Dial(context.Background(), "tcp", "mars:80"); return err },
		"Listen":       func() error { _, err := venus.Listen("tcp", ":0"); return err },
		"ListenPacket": func() error { _, err := venus.ListenPacket("udp", ":0"); return err },
		"Write":        func() error { _, err := live.Write([]byte("x")); return err },
		"Ping":         func() error { _, err := venus.Ping(context.Background(), "mars"); return err },
		"Invite":       func() error { _, err := venus.Invite(idloc.InviteOptions{}); return err },
	} {
		if err := f(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v, want net.ErrClosed", name, err)
		}
	}
	if err := venus.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A lone founder's record meets an empty routing table: it must be kept and
// put again, or the first peer would not find it.
func TestLoneFounderIsFound(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	port := echo(t, earth)
	venus := join(t, earth, "venus", idloc.Config{})
	c, err := dialTimeout(t, venus, "tcp", "earth.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("found you")); err != nil {
		t.Fatal(err)
	}
}

func TestDeadlineAndEOF(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	c, err := dialTimeout(t, venus, "tcp", "mars.example.com:"+echo(t, mars))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read after the deadline: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after both ends closed for writing: %v", err)
	}
}
