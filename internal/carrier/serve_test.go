package carrier

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes in memory, of clients with addresses.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// from is a pipe that says where it is from.
type from struct {
	net.Conn
	at netip.AddrPort
}

func (c from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.at) }

// dial connects a client.
func (l *pipes) dial(at string) net.Conn {
	client, server := net.Pipe()
	l.conns <- from{server, netip.MustParseAddrPort(at)}
	return client
}

// served is a Set that serves on pipes, in a bubble.
func served(t *testing.T, out func(b []byte, seg int, from netip.AddrPort)) (*Set, *pipes) {
	t.Helper()
	s, l := New(Config{}), newPipes()
	s.Start(out)
	if err := s.Serve(l); err != nil {
		t.Fatal(err)
	}
	return s, l
}

func nothing(b []byte, seg int, from netip.AddrPort) {}

// greet is the client's TLS.
func greet(t *testing.T, c net.Conn, protocols ...string) *tls.Conn {
	t.Helper()
	k := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	if err := k.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

// closedAfter waits until the other end is closed, and returns how long that took.
func closedAfter(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	b := make([]byte, 1<<16)
	for {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Minute)); err != nil {
			return time.Since(start) // it is closed
		}
		if _, err := c.Read(b); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("it is never closed")
			}
			return time.Since(start)
		}
	}
}

// Who opens a connection and says nothing, or says it slowly, is let go in time.
func TestSlowClients(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(t *testing.T, l *pipes) net.Conn
		want time.Duration
	}{
		"no TLS": {func(t *testing.T, l *pipes) net.Conn { return l.dial("192.0.2.1:1") }, handshakeFor},
		"half of TLS": {func(t *testing.T, l *pipes) net.Conn {
			c := l.dial("192.0.2.1:1")
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			wg.Go(func() { // a record of TLS, a byte a second
				for _, b := range []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 9, 9, 9, 9, 9} {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
			return c
		}, handshakeFor},
		"no frame": {func(t *testing.T, l *pipes) net.Conn { return greet(t, l.dial("192.0.2.1:1"), protocol) }, firstFor},
		"a frame and no more": {func(t *testing.T, l *pipes) net.Conn {
			k := greet(t, l.dial("192.0.2.1:1"), protocol)
			if _, err := k.Write(appendFrame(nil, []byte("\x80"))); err != nil {
				t.Fatal(err)
			}
			return k
		}, idleFor},
		"a huge frame": {func(t *testing.T, l *pipes) net.Conn {
			k := greet(t, l.dial("192.0.2.1:1"), protocol)
			if _, err := k.Write([]byte{0xff, 0xff, 1, 2, 3}); err != nil {
				t.Fatal(err)
			}
			return k
		}, 0},
		"another protocol": {func(t *testing.T, l *pipes) net.Conn {
			c := l.dial("192.0.2.1:1")
			k := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			_ = k.HandshakeContext(t.Context()) // may be hung up on before it is done
			return c
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := served(t, nothing)
				defer s.Close()
				if got := closedAfter(t, c.act(t, l)); got < c.want || got > c.want+time.Second {
					t.Errorf("let go after %v, want %v", got, c.want)
				}
				synctest.Wait()
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.serving != 0 || s.greeting != 0 || len(s.served) != 0 || len(*s.conns.Load()) != 0 {
					t.Errorf("still counted: %d, %d in TLS, %v, %v", s.serving, s.greeting, s.served, *s.conns.Load())
				}
			})
		})
	}
}

// A client that takes nothing is let go, and holds no more than a queue meanwhile.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := make(chan netip.AddrPort, 1)
		s, l := served(t, func(_ []byte, _ int, from netip.AddrPort) { far <- from })
		defer s.Close()
		k := greet(t, l.dial("192.0.2.1:1"), protocol)
		defer k.Close()
		if _, err := k.Write(appendFrame(nil, []byte("\x80"))); err != nil {
			t.Fatal(err)
		}
		to, start := <-far, time.Now()
		for range 3000 {
			if err := s.Write(make([]byte, 1200), 1200, to); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		c := (*s.conns.Load())[to]
		c.queue.mu.Lock()
		waiting := c.queue.bulk.bytes
		c.queue.mu.Unlock()
		if waiting == 0 || waiting > queueMax {
			t.Errorf("%d bytes wait for who takes none", waiting)
		}
		<-c.done
		if d := time.Since(start); d > writeFor+time.Second {
			t.Errorf("let go after %v", d)
		}
		synctest.Wait()
		if err := s.Write([]byte{1}, 1, to); err != nil {
			t.Errorf("to who is gone: %v", err)
		}
		if n := s.Stats().Unsent; n != 1 {
			t.Errorf("%d runs to nobody", n)
		}
	})
}

// There are bounds for one address, for all, and for those in TLS.
func TestServeBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := served(t, nothing)
		defer s.Close()
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		for range perAddress {
			open = append(open, greet(t, l.dial("192.0.2.1:1"), protocol))
		}
		if d := closedAfter(t, l.dial("192.0.2.1:2")); d != 0 {
			t.Errorf("one more of that address: closed after %v", d)
		}
		open = append(open, greet(t, l.dial("192.0.2.2:1"), protocol)) // another address
		for range perAddress {
			open = append(open, greet(t, l.dial("[2001:db8::1]:1"), protocol))
		}
		if d := closedAfter(t, l.dial("[2001:db8::2]:1")); d != 0 {
			t.Errorf("one more of that IPv6 network: closed after %v", d)
		}
		synctest.Wait() // the clients were done with TLS before the server was
		refused := s.Stats().Refused
		for i := range handshakesMax + 10 {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 1)
			open = append(open, l.dial(at.String())) // says nothing
		}
		synctest.Wait()
		if n := s.Stats().Refused - refused; n != 10 {
			t.Errorf("%d turned away of those in TLS", n)
		}
	})
}

// A request that is none of WebSocket, or of another protocol, gets what a web server
// answers, and leaves nothing.
func TestHandlerRefuses(t *testing.T) {
	s := New(Config{})
	s.Start(nothing)
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	defer s.Close()
	for name, head := range map[string]http.Header{
		"a page":           {},
		"another protocol": {"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-Websocket-Protocol": {"chat"}},
	} {
		r, err := http.NewRequest(http.MethodGet, web.URL+"/idloc", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = head
		resp, err := http.DefaultTransport.(*http.Transport).Clone().RoundTrip(r)
		if err != nil {
			continue // hung up on
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: %v", name, err)
		}
		_ = resp.Body.Close()
		if name == "a page" && resp.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	s.mu.Lock()
	n := len(*s.conns.Load())
	s.mu.Unlock()
	if n != 0 {
		t.Errorf("%d carriers", n)
	}
}
