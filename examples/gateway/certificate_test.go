package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCertificate: curl takes https://mars.example.com by what gateway ca prints, with a server
// that has what gateway certificate prints; with venus' certificate at mars it does not, nor
// without the authority.
func TestCertificate(t *testing.T) {
	t.Parallel()
	curl := program(t, "curl")
	secure, stolen := listen(t), listen(t)
	earth, mars := pair(t, "-R", fmt.Sprintf("443:127.0.0.1:%d", port(secure)), "-R", fmt.Sprintf("8443:127.0.0.1:%d", port(stolen)))
	serveWith(t, secure, must(t)(tell(t, mars.dir, "certificate")))
	serveWith(t, stolen, must(t)(tell(t, earth.dir, "certificate")))

	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(must(t)(tell(t, earth.dir, "ca"))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := must(t)(tell(t, mars.dir, "ca")); again != strings.TrimSpace(read(t, ca)) {
		t.Error("earth and mars have heard of other authorities")
	}
	get := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--max-time", "60", "--socks5-hostname", earth.at(t, "SOCKS5 proxy")}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := get("--cacert", ca, "https://mars.example.com/"); err != nil || out != "hello over TLS" {
		t.Errorf("curl --cacert: %v: %s", err, out)
	}
	if out, err := get("https://mars.example.com/"); err == nil || !strings.Contains(out, "certificate") {
		t.Errorf("without the authority: %v: %s", err, out)
	}
	if out, err := get("--cacert", ca, "https://mars.example.com:8443/"); err == nil || !strings.Contains(out, "mars.example.com") {
		t.Errorf("another member's certificate: %v: %s", err, out)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// serveWith serves https by what gateway certificate has printed.
func serveWith(t *testing.T, l net.Listener, text string) {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	srv := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello over TLS") }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
}
