package carrier

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
)

const patience = 30 * time.Second

// got is what came out of a Set.
type got struct {
	datagrams chan []byte
	mu        sync.Mutex
	from      netip.AddrPort
}

func newGot() *got { return &got{datagrams: make(chan []byte, 4096)} }

func (g *got) take(b []byte, seg int, from netip.AddrPort) {
	g.mu.Lock()
	g.from = from
	g.mu.Unlock()
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		select {
		case g.datagrams <- bytes.Clone(d):
		default:
		}
	}
}

func (g *got) far() netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.from
}

// awaitSent writes to a far end until something has come: a carrier drops what a busy
// machine was late to send.
func (g *got) awaitSent(t *testing.T, s *Set, b []byte, seg int, to netip.AddrPort, want string) {
	t.Helper()
	send := func() {
		if err := s.Write(b, seg, to); err != nil {
			t.Fatal(err)
		}
	}
	send()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	end := time.After(patience)
	for {
		select {
		case d := <-g.datagrams:
			if string(d) == want {
				return
			}
		case <-again.C:
			send()
		case <-end:
			t.Fatalf("%q did not come", want)
		}
	}
}

// started is a Set and what comes out of it.
func started(t *testing.T, cfg Config) (*Set, *got) {
	t.Helper()
	s, g := New(cfg), newGot()
	s.Start(g.take)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, g
}

// direct is the proxy of who has none.
func direct(*url.URL) (*url.URL, error) { return nil, nil }

// listening serves a Set over TLS and returns its address.
func listening(t *testing.T, s *Set) Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Fatal(err)
	}
	a, err := ParseAddress("tls://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// web serves a Set in a web server and returns its address, and what verifies it.
func web(t *testing.T, s *Set) (Address, *x509.CertPool) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/idloc", s.Handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") })
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	a, err := ParseAddress(strings.Replace(srv.URL, "https", "wss", 1) + "/idloc")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return a, pool
}

// exchange sends datagrams both ways.
func exchange(t *testing.T, client, server *Set, in, back *got, at Address) {
	t.Helper()
	run := append(bytes.Repeat([]byte{0x80}, 2400), "end"...)
	in.awaitSent(t, client, run, 1200, at.Remote(), "end")
	far := in.far()
	if !Accepted(far.Addr()) {
		t.Fatalf("it came from %v", far)
	}
	back.awaitSent(t, server, []byte("there and back"), 14, far, "there and back")
	if back.far() != at.Remote() {
		t.Errorf("the answer came from %v", back.far())
	}
	if n := len(server.Status()); n != 1 {
		t.Errorf("%d carriers at the server", n)
	}
	if name := client.Name(at.Remote()); name != at.String() {
		t.Errorf("the carrier's name is %q", name)
	}
	if name := server.Name(far); !strings.HasPrefix(name, "127.0.0.1:") {
		t.Errorf("at the other end its name is %q", name)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, in := started(t, Config{})
	client, back := started(t, Config{Proxy: direct})
	at := listening(t, server)
	client.Know(at)
	exchange(t, client, server, in, back, at) // opened by what is written
	if err := client.Connect(t.Context(), at); err != nil {
		t.Error(err)
	}
	if n := client.Stats().Opened; n != 1 {
		t.Errorf("%d carriers were opened", n)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	server, in := started(t, Config{})
	at, roots := web(t, server)
	client, back := started(t, Config{Proxy: direct, Roots: roots})
	if err := client.Connect(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	exchange(t, client, server, in, back, at)
}

// A web server whose certificate is not good for the name sees no request.
func TestWebSocketVerifies(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()
	at, _ := ParseAddress(strings.Replace(srv.URL, "https", "wss", 1) + "/idloc")
	client, _ := started(t, Config{Proxy: direct, Roots: x509.NewCertPool()})
	err := client.Connect(t.Context(), at)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("Connect: %v", err)
	}
	select {
	case <-asked:
		t.Error("it was asked")
	default:
	}
}

// nobody is where nobody listens, nor will: a connection goes out of this port. One that was
// only closed is soon another test's.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), l.Close() })
	return c.LocalAddr().String()
}

// What is no carrier says so, and is not asked again at once.
func TestConnectFails(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	client, _ := started(t, Config{Proxy: direct, Roots: roots})
	page, _ := ParseAddress(strings.Replace(srv.URL, "https", "wss", 1) + "/idloc")
	if err := client.Connect(t.Context(), page); !errors.Is(err, ErrNotServed) || !strings.Contains(err.Error(), "404") {
		t.Errorf("a web server without carriers: %v", err)
	}
	plain, _ := ParseAddress(strings.Replace(srv.URL, "https", "tls", 1))
	if err := client.Connect(t.Context(), plain); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("a server of another protocol: %v", err)
	}
	closed, _ := ParseAddress("tls://" + nobody(t))
	for range 5 {
		if err := client.Connect(t.Context(), closed); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("where nobody listens: %v", err)
		}
	}
	if n := client.Stats().Failed; n > 2+2+2 {
		t.Errorf("%d attempts", n)
	}
	never := New(Config{Allowed: func(netip.AddrPort) bool { return false }, Proxy: direct})
	defer never.Close()
	if err := never.Connect(t.Context(), plain); err == nil || !strings.Contains(err.Error(), "not the address of another host") {
		t.Errorf("an address that is not allowed: %v", err)
	}
}

// proxy is an HTTP proxy that wants a password, and counts.
func proxy(t *testing.T, answer string) (at *url.URL, asked chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = make(chan string, 16)
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveProxy(c, answer, asked) })
		}
	})
	return &url.URL{Scheme: "http", Host: l.Addr().String(), User: url.UserPassword("fred", "secret")}, asked
}

func serveProxy(c net.Conn, answer string, asked chan<- string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	asked <- req.Method + " " + req.RequestURI
	if answer != "" {
		_, _ = io.WriteString(c, answer)
		return
	}
	if req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("fred:secret")) {
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	}
	out, err := net.Dial("tcp", req.RequestURI)
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer out.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(out, r); _ = out.Close() }()
	_, _ = io.Copy(c, out)
}

// Both forms go through a proxy, which is shown the password.
func TestProxy(t *testing.T) {
	t.Parallel()
	at, asked := proxy(t, "")
	server, in := started(t, Config{})
	page, roots := web(t, server)
	for _, a := range []Address{listening(t, server), page} {
		client, back := started(t, Config{Proxy: func(*url.URL) (*url.URL, error) { return at, nil }, Roots: roots})
		if err := client.Connect(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		exchange(t, client, server, in, back, a)
		if got := <-asked; got != "CONNECT "+a.HostPort() {
			t.Errorf("the proxy was asked to %q", got)
		}
		_ = client.Close()
		if !yardstick.Await(patience, func() bool { return len(server.Status()) == 0 }) {
			t.Fatal("the server keeps a carrier whose client is closed")
		}
	}
	at.User = nil
	client, _ := started(t, Config{Proxy: func(*url.URL) (*url.URL, error) { return at, nil }})
	if err := client.Connect(t.Context(), page); !errors.Is(err, ErrProxy) || !strings.Contains(err.Error(), "407") {
		t.Errorf("without the password: %v", err)
	}
}

// Whatever a proxy answers is an error in time, and does not go on for ever.
func TestProxyLies(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing of HTTP": "SSH-2.0-x\r\n", "an endless head": "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<15), "no": "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!",
	} {
		at, _ := proxy(t, answer)
		client, _ := started(t, Config{Proxy: func(*url.URL) (*url.URL, error) { return at, nil }})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		a, _ := ParseAddress("tls://192.0.2.1")
		if err := client.Connect(ctx, a); err == nil || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func FuzzProxyAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nmore"))
	f.Add([]byte("HTTP/1.1 407 No\r\nContent-Length: 9999999999\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		resp, err := readAnswer(bufio.NewReader(io.LimitReader(bytes.NewReader(answer), maxAnswer)))
		if err == nil && resp.StatusCode/100 == 2 && !bytes.HasPrefix(answer, []byte("HTTP/")) {
			t.Fatalf("%q is a yes", answer)
		}
	})
}

// Datagrams for nobody, of no bytes, or too long, harm nobody.
func TestWriteNowhere(t *testing.T) {
	t.Parallel()
	s, _ := started(t, Config{Proxy: direct})
	for _, to := range []netip.AddrPort{farEnd(1), farEnd(acceptedBit | 1), netip.MustParseAddrPort("192.0.2.1:1"), {}} {
		if err := s.Write([]byte("x"), 1, to); err != nil {
			t.Errorf("to %v: %v", to, err)
		}
	}
	if err := s.Write(nil, 0, farEnd(1)); err != nil {
		t.Errorf("nothing: %v", err)
	}
	if err := s.Write(make([]byte, MaxDatagram+1), MaxDatagram+1, farEnd(1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("too much: %v", err)
	}
}

// Of too many addresses the oldest are forgotten.
func TestKnowBounds(t *testing.T) {
	t.Parallel()
	s, _ := started(t, Config{})
	for i := range 3 * knownMax {
		s.Know(Address{TLS, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String(), 443, ""})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) > knownMax {
		t.Errorf("%d addresses are known", len(s.known))
	}
}

// Closing ends carriers, dials and handlers, from either side; leaktest sees what is left.
func TestClose(t *testing.T) {
	t.Parallel()
	server, in := started(t, Config{})
	at, roots := web(t, server)
	client, _ := started(t, Config{Proxy: direct, Roots: roots})
	client.Know(at)
	in.awaitSent(t, client, []byte("hello"), 5, at.Remote(), "hello")
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if !yardstick.Await(patience, func() bool { return len(client.Status()) == 0 }) {
		t.Fatal("the other end does not notice")
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Connect(t.Context(), at); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
