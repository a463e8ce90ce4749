package realworld

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/rpc"
	"net/smtp"
	"net/textproto"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/idloc/idloc/idloc"
)

// venus and mars are two nodes of an overlay that earth founded.
var venus, mars *idloc.Node

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: loopback})
	if err != nil {
		return fail(err)
	}
	defer earth.Close()
	for name, n := range map[string]**idloc.Node{"venus": &venus, "mars": &mars} {
		token, err := earth.Invite(idloc.InviteOptions{Name: name})
		if err != nil {
			return fail(err)
		}
		if *n, err = idloc.Join(ctx, token, idloc.Config{Addrs: loopback}); err != nil {
			return fail(err)
		}
		defer (*n).Close()
	}
	return m.Run()
}

// listen listens on mars and returns the address that venus dials.
func listen(t testing.TB) (net.Listener, string) {
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
	return l, net.JoinHostPort("mars.example.com", port)
}

func dial(ctx context.Context, addr string) (net.Conn, error) { return venus.Dial(ctx, "tcp", addr) }

func certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestHTTP: 1.1, and 2 under TLS, with bodies both ways, many at a time.
func TestHTTP(t *testing.T) {
	t.Parallel()
	cert, pool := certificate(t, "mars.example.com")
	for _, major := range []int{1, 2} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			l, addr := listen(t)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != major {
					http.Error(w, r.Proto, http.StatusHTTPVersionNotSupported)
					return
				}
				io.Copy(w, r.Body)
			}))
			srv.Listener.Close()
			srv.Listener = l
			tr := &http.Transport{DialContext: venus.Dial, ForceAttemptHTTP2: major == 2, TLSClientConfig: &tls.Config{RootCAs: pool}}
			scheme := "http://"
			if major == 2 {
				scheme = "https://"
				srv.EnableHTTP2 = true
				srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: time.Minute}
			body := make([]byte, 300_000)
			rand.Read(body)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					resp, err := client.Post(scheme+addr, "application/octet-stream", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					got, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
						t.Errorf("%s, %d bytes, %v", resp.Status, len(got), err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestGRPC: unary calls and a stream that outlives them.
func TestGRPC(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	srv := grpc.NewServer()
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	go srv.Serve(l)
	defer srv.Stop()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := grpc_health_v1.NewHealthClient(conn)
	w, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if r, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("call %d: %v, %v", i, r, err)
		}
	}
	h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	for {
		r, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Status == grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			return
		}
	}
}

// TestSSH: x/crypto/ssh, both sides.
func TestSSH(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(signer)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for n := range chans {
			ch, reqs, err := n.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range reqs {
					r.Reply(r.Type == "exec", nil)
					if r.Type == "exec" {
						io.Copy(ch, ch)
						ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{0}))
						ch.Close()
					}
				}
			}()
		}
	}()
	c, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(c, addr, &ssh.ClientConfig{User: "fred", HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 2_000_000)
	rand.Read(data)
	s.Stdin = bytes.NewReader(data)
	got, err := s.Output("cat")
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		c.SetReadLimit(1 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})}
	go srv.Serve(l)
	defer srv.Close()
	client := venus.HTTPClient()
	defer client.CloseIdleConnections()
	c, _, err := websocket.Dial(t.Context(), "ws://"+addr, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	for _, size := range []int{0, 1, 125, 126, 65536, 500_000} {
		b := bytes.Repeat([]byte{'x'}, size)
		if err := c.Write(t.Context(), websocket.MessageBinary, b); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes: %d back, %v", size, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Error(err)
	}
}

// TestRedis: go-redis with its pool and pipelines, against a server that
// speaks the protocol on a listener of a node.
func TestRedis(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	srv, err := server.NewServer("127.0.0.1:0") // its commands; conns come from l
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	var mu sync.Mutex
	kept := map[string]string{}
	srv.Register("HELLO", func(c *server.Peer, cmd string, args []string) { c.WriteError("ERR unknown command") })
	srv.Register("CLIENT", func(c *server.Peer, cmd string, args []string) { c.WriteOK() })
	srv.Register("SET", func(c *server.Peer, cmd string, args []string) {
		mu.Lock()
		kept[args[0]] = args[1]
		mu.Unlock()
		c.WriteOK()
	})
	srv.Register("GET", func(c *server.Peer, cmd string, args []string) {
		mu.Lock()
		v := kept[args[0]]
		mu.Unlock()
		c.WriteBulk(v)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go srv.ServeConn(c)
		}
	}()
	db := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, PoolSize: 8,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return venus.Dial(ctx, network, addr)
		}})
	defer db.Close()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				key, value := fmt.Sprint("k", i, j), fmt.Sprint("v", i, j)
				if err := db.Set(t.Context(), key, value, 0).Err(); err != nil {
					t.Error(err)
					return
				}
				if got, err := db.Get(t.Context(), key).Result(); err != nil || got != value {
					t.Errorf("%s = %q, %v", key, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Arith is a service of net/rpc.
type Arith struct{}

// Multiply is its method.
func (Arith) Multiply(args [2]int, out *int) error { *out = args[0] * args[1]; return nil }

func TestRPC(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	srv := rpc.NewServer()
	if err := srv.Register(Arith{}); err != nil {
		t.Fatal(err)
	}
	go srv.Accept(l)
	c, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	client := rpc.NewClient(c)
	defer client.Close()
	for i := range 100 {
		var got int
		if err := client.Call("Arith.Multiply", [2]int{i, 7}, &got); err != nil || got != 7*i {
			t.Fatalf("%d × 7 = %d, %v", i, got, err)
		}
	}
}

// TestSMTP: net/smtp and net/textproto, which end conns line by line.
func TestSMTP(t *testing.T) {
	t.Parallel()
	l, addr := listen(t)
	mail := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p := textproto.NewConn(c)
		defer p.Close()
		p.PrintfLine("220 mars")
		for {
			line, err := p.ReadLine()
			if err != nil {
				return
			}
			switch verb := line[:min(4, len(line))]; verb {
			case "EHLO":
				p.PrintfLine("250 mars")
			case "DATA":
				p.PrintfLine("354 go on")
				b, err := p.ReadDotBytes()
				if err != nil {
					return
				}
				mail <- string(b)
				p.PrintfLine("250 kept")
			case "QUIT":
				p.PrintfLine("221 bye")
				return
			default:
				p.PrintfLine("250 ok")
			}
		}
	}()
	c, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	client, err := smtp.NewClient(c, "mars.example.com")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(client.Mail("wilma@venus.example.com"), client.Rcpt("fred@mars.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "Subject: dinner\r\n\r\nAt six.\r\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Quit(); err != nil {
		t.Error(err)
	}
	if got := <-mail; got != "Subject: dinner\n\nAt six.\n" {
		t.Errorf("mail %q", got)
	}
}
