package libtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/rpc"
	"os"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/idloc/idloc/idloc"
)

var venus, mars *idloc.Node

func TestMain(m *testing.M) { os.Exit(withNodes(m.Run)) }

func withNodes(f func() int) int {
	ctx := context.Background()
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	var err error
	if mars, err = idloc.Create(ctx, "example.com", idloc.Config{Name: "mars", Addrs: loopback}); err != nil {
		return fail(err)
	}
	defer mars.Close()
	token, err := mars.Invite(idloc.InviteOptions{})
	if err != nil {
		return fail(err)
	}
	if venus, err = idloc.Join(ctx, token, idloc.Config{Name: "venus", Addrs: loopback}); err != nil {
		return fail(err)
	}
	defer venus.Close()
	return f()
}

// listen returns a listener on mars and what venus dials to reach it.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	l, err := mars.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return l, "mars.example.com:" + port
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	return venus.Dial(ctx, "tcp", address)
}

// within is a context that a hang does not outlive.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// identity is a certificate for mars and who believes it.
func identity(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mars.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool}
}

func TestHTTP(t *testing.T) {
	serverTLS, clientTLS := identity(t)
	for _, x := range []struct {
		proto     string
		encrypted bool
		set       func(*http.Protocols)
	}{
		{"HTTP/1.1", false, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"HTTP/1.1", true, func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"HTTP/2.0", false, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"HTTP/2.0", true, func(p *http.Protocols) { p.SetHTTP2(true) }},
	} {
		t.Run(fmt.Sprintf("%s TLS %v", x.proto, x.encrypted), func(t *testing.T) {
			l, addr := listen(t)
			protocols := new(http.Protocols)
			x.set(protocols)
			srv := &http.Server{Protocols: protocols, TLSConfig: serverTLS.Clone(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Seen", r.Proto)
				io.Copy(w, r.Body)
			})}
			ended := make(chan error, 1)
			url := "http://" + addr
			if x.encrypted {
				url = "https://" + addr
				go func() { ended <- srv.ServeTLS(l, "", "") }()
			} else {
				go func() { ended <- srv.Serve(l) }()
			}
			tr := &http.Transport{
				Protocols: protocols, TLSClientConfig: clientTLS.Clone(),
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					return venus.Dial(ctx, network, address)
				},
			}
			body := bytes.Repeat([]byte("body"), 100_000)
			for range 5 {
				req, err := http.NewRequestWithContext(within(t), "POST", url, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := (&http.Client{Transport: tr}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, body) || resp.Header.Get("Seen") != x.proto {
					t.Fatalf("%d bytes over %q: %v", len(got), resp.Header.Get("Seen"), err)
				}
			}
			tr.CloseIdleConnections()
			if err := srv.Shutdown(within(t)); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			if err := <-ended; err != http.ErrServerClosed {
				t.Errorf("Serve ended with %v", err)
			}
		})
	}
}

func TestWebSocket(t *testing.T) {
	l, addr := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for {
			kind, msg, err := c.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Error(err)
				}
				return
			}
			if err := c.WriteMessage(kind, msg); err != nil {
				t.Error(err)
				return
			}
		}
	})}
	go srv.Serve(l)
	defer srv.Close()
	d := websocket.Dialer{NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return venus.Dial(ctx, network, address)
	}}
	c, _, err := d.DialContext(within(t), "ws://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, size := range []int{0, 1, 125, 126, 65_536, 1_000_000} {
		want := bytes.Repeat([]byte{'w'}, size)
		if err := c.WriteMessage(websocket.BinaryMessage, want); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.ReadMessage(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d of %d bytes: %v", len(got), size, err)
		}
	}
	if err := c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("the end is %v", err)
	}
}

func TestGRPC(t *testing.T) {
	l, addr := listen(t)
	srv := grpc.NewServer()
	status := health.NewServer()
	healthpb.RegisterHealthServer(srv, status)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	for range 10 {
		if r, err := healthpb.NewHealthClient(c).Check(ctx, new(healthpb.HealthCheckRequest)); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("%v, %v", r, err)
		}
	}
	watch, err := healthpb.NewHealthClient(c).Watch(ctx, new(healthpb.HealthCheckRequest))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if r, err := watch.Recv(); err != nil || r.Status != want {
			t.Fatalf("%v, %v; want %v", r, err, want)
		}
		status.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	}
	cancel()
	srv.GracefulStop()
	if err := <-ended; err != nil {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestSSH(t *testing.T) {
	l, addr := listen(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		if string(password) != "sesame" {
			return nil, fmt.Errorf("wrong password")
		}
		return nil, nil
	}}
	cfg.AddHostKey(signer)
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			_, chans, reqs, err := ssh.NewServerConn(c, cfg)
			if err != nil {
				return err
			}
			go ssh.DiscardRequests(reqs)
			for ch := range chans {
				channel, reqs, err := ch.Accept()
				if err != nil {
					return err
				}
				for req := range reqs {
					if req.Type != "exec" {
						req.Reply(false, nil)
						continue
					}
					req.Reply(true, nil)
					io.Copy(channel, channel)
					channel.SendRequest("exit-status", false, make([]byte, 4))
					channel.Close()
				}
			}
			return nil
		}()
	}()
	conn, err := dial(within(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	cc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "venus", Auth: []ssh.AuthMethod{ssh.Password("sesame")}, HostKeyCallback: ssh.FixedHostKey(signer.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(cc, chans, reqs)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("ssh"), 300_000)
	session.Stdin = bytes.NewReader(want)
	if got, err := session.Output("cat"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes: %v", len(got), len(want), err)
	}
	client.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Arith is the service of the rpc package's documentation.
type Arith struct{}

// Multiply implements it.
func (Arith) Multiply(args [2]int, reply *int) error { *reply = args[0] * args[1]; return nil }

func TestRPC(t *testing.T) {
	l, addr := listen(t)
	srv := rpc.NewServer()
	if err := srv.Register(Arith{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		srv.ServeConn(c)
	}()
	conn, err := dial(within(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	c := rpc.NewClient(conn)
	defer c.Close()
	for i := range 100 {
		var got int
		if err := c.Call("Arith.Multiply", [2]int{i, 7}, &got); err != nil || got != 7*i {
			t.Fatalf("%d, %v", got, err)
		}
	}
}
