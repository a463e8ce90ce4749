package idloc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

func tlsContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// serveHTTPS has a node answer at port 443 with who asks, by its pipe and by its certificate.
func serveHTTPS(t *testing.T, n *Node, cfg *tls.Config) {
	t.Helper()
	l, err := n.Listen("tcp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := n.WhoIsString(r.RemoteAddr)
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, who.Name+" "+r.Proto)
		for _, c := range r.TLS.PeerCertificates {
			_, _ = io.WriteString(w, " shows "+c.DNSNames[0])
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(tls.NewListener(l, cfg))
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
}

// TestTLS: a member's https is taken by members, who show who they are, and by programs that
// have imported the authority's certificate alone.
func TestTLS(t *testing.T) {
	t.Parallel()
	lab, ctx := New(t), tlsContext(t)
	earth := lab.Node("earth")
	mars, venus := lab.Node("mars", Invited(idloc.InviteOptions{Name: "mars"})), lab.Node("venus", Invited(idloc.InviteOptions{Name: "venus"}))
	cfg := mars.TLSConfig()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	serveHTTPS(t, mars, cfg)
	for _, from := range []*Node{venus, earth} {
		for _, url := range []string{"https://mars.example.com/", "https://mars/"} {
			c := from.HTTPClient()
			res, err := c.Get(url)
			if err != nil {
				t.Errorf("%s, %s: %v", from.Name(), url, err)
				continue
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			c.CloseIdleConnections()
			if want := from.Name() + " HTTP/2.0 shows " + from.Name(); err != nil || string(b) != want {
				t.Errorf("%s reads %q, %v; want %q", from.Name(), b, err, want)
			}
		}
	}
	ca, err := venus.CACertificate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("no certificate: %s", ca)
	}
	conn, err := venus.Dial(ctx, "tcp", "mars.example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	plain := tls.Client(conn, &tls.Config{ServerName: "mars.example.com", RootCAs: pool})
	if err := plain.HandshakeContext(ctx); err != nil {
		t.Errorf("what knows nothing but the authority: %v", err)
	}
	openssl(t, ca, plain.ConnectionState().PeerCertificates)
}

// openssl wants openssl to verify a chain, where there is one.
func openssl(t *testing.T, ca []byte, chain []*x509.Certificate) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		return
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	var untrusted []byte
	for _, c := range chain {
		untrusted = append(untrusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0].Raw})
	args := []string{"verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "mars.example.com", "-CAfile", file("ca", ca), "-untrusted", file("untrusted", untrusted), file("leaf", leaf)}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Errorf("openssl: %s", out)
	}
	out, err := exec.CommandContext(t.Context(), path, "x509", "-noout", "-text", "-in", filepath.Join(dir, "ca")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Name Constraints: critical") || !strings.Contains(string(out), "DNS:example.com") {
		t.Errorf("the authority's certificate is not constrained: %s", out)
	}
}

// TestTLSOther: mars has got venus' certificate, with its key. It is refused as a server's under
// its own name and under venus', and as a client's.
func TestTLSOther(t *testing.T) {
	t.Parallel()
	lab, ctx := New(t), tlsContext(t)
	earth := lab.Node("earth")
	mars, venus := lab.Node("mars"), lab.Node("venus")
	stolen, err := venus.TLSConfig().GetCertificate(new(tls.ClientHelloInfo))
	if err != nil {
		t.Fatal(err)
	}
	thief := &tls.Config{Certificates: []tls.Certificate{*stolen}}
	serveHTTPS(t, mars, thief)
	serveHTTPS(t, earth, earth.TLSConfig())

	c := earth.HTTPClient()
	defer c.CloseIdleConnections()
	if _, err := c.Get("https://mars.example.com/"); err == nil {
		t.Error("mars is taken with venus' certificate")
	} else if !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("mars with venus' certificate: %v", err)
	}
	dial := func(from *Node, to string, cfg *tls.Config) error {
		conn, err := from.Dial(ctx, "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := tls.Client(conn, cfg)
		if err := client.HandshakeContext(ctx); err != nil {
			return err
		}
		_, err = client.Read(make([]byte, 1)) // in TLS 1.3 the server's refusal comes now
		return err
	}
	cfg := earth.TLSConfig()
	cfg.ServerName = "mars.example.com"
	if err := dial(earth, "mars.example.com:443", cfg); !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("by TLSConfig: %v", err)
	}
	// A name of venus that leads to mars, which DNS of the overlay never gives: the pipe tells.
	text := "pki: the certificate of another member"
	if err := venusAtMars(ctx, earth); !errors.Is(err, idloc.ErrOtherCertificate) || !strings.Contains(err.Error(), text) {
		t.Errorf("mars as venus: %v, want %s", err, text)
	}
	// As a client of earth.
	ca := x509.NewCertPool()
	pem, err := mars.CACertificate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ca.AppendCertsFromPEM(pem)
	thief.RootCAs, thief.ServerName = ca, "earth.example.com"
	if err := dial(mars, "earth.example.com:443", thief); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("earth takes mars with venus' certificate: %v", err)
	}
	// And who was revoked.
	if err := earth.Revoke(ctx, "venus"); err != nil {
		t.Fatal(err)
	}
	if err := venusAtMars(ctx, earth); err == nil || errors.Is(err, idloc.ErrOtherCertificate) {
		t.Errorf("a revoked member's certificate: %v", err)
	}
}

// venusAtMars is what HTTPClient says of a certificate for venus in a connection to mars.
func venusAtMars(ctx context.Context, n *Node) error {
	conn, err := n.Dial(ctx, "tcp", "mars.example.com:443")
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = idloc.Secure(ctx, n.Node, conn, "venus.example.com:443")
	return err
}

// TestListenTLS: a client that shows nothing is served, and one that does is known; a node
// that has ended has no certificate.
func TestListenTLS(t *testing.T) {
	t.Parallel()
	lab, ctx := New(t), tlsContext(t)
	earth, mars := lab.Node("earth"), lab.Node("mars")
	l, err := mars.ListenTLS("tcp", ":5061")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	conn, err := earth.Dial(ctx, "tcp", "mars:5061")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := earth.CACertificate(ctx); err != nil {
		t.Fatal(err)
	}
	cfg := earth.TLSConfig()
	cfg.ServerName, cfg.GetClientCertificate = "mars.example.com", nil
	c := tls.Client(conn, cfg)
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := mars.ListenTLS("tcp", ":5061"); err == nil {
		t.Error("two listeners at one port")
	}
	l.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	mars.Close()
	if _, err := cfgOf(mars); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a certificate of a node that has ended: %v", err)
	}
	if _, err := mars.CACertificate(ctx); !errors.Is(err, net.ErrClosed) {
		t.Errorf("authorities of a node that has ended: %v", err)
	}
}

func cfgOf(n *Node) (*tls.Certificate, error) {
	return n.TLSConfig().GetCertificate(new(tls.ClientHelloInfo))
}
