package carrier

import (
	"crypto/tls"
	"crypto/x509"
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
	"testing/synctest"
	"time"
)

// A client that drips bytes, and never a whole frame, is let go as soon as one that
// says nothing.
func TestDrippedFrames(t *testing.T) {
	for name, c := range map[string]struct {
		frames int // whole ones, before
		want   time.Duration
	}{"the first": {0, firstFor}, "a later one": {1, idleFor}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := served(t, nothing)
				defer s.Close()
				k := greet(t, l.dial("192.0.2.1:1"), protocol)
				defer k.Close()
				for range c.frames {
					if _, err := k.Write(appendFrame(nil, []byte("\x80"))); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				for _, b := range appendFrame(nil, make([]byte, MaxDatagram)) {
					if _, err := k.Write([]byte{b}); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				if got := time.Since(start); got > c.want+2*time.Second {
					t.Errorf("let go after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// dialled is a carrier of s over a stream that stands already.
func dialled(s *Set, stream net.Conn) (c *conn, ended chan error) {
	a := Address{TLS, "192.0.2.1", 443, ""}
	c, ended = s.newConn(a.Remote()), make(chan error, 1)
	c.address, c.stream = a, stream
	close(c.ready)
	go func() { ended <- c.run() }()
	return c, ended
}

// Whoever has said the last word for now, an acknowledgement say, and goes on a while
// later, is on the same carrier. One that goes on without an answer leaves it.
func TestPauseIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		s.Start(nothing)
		near, far := net.Pipe()
		c, ended := dialled(s, near)
		go func() { _, _ = io.Copy(io.Discard, far) }()
		for range 5 {
			if _, err := far.Write(appendFrame(nil, []byte("answer"))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.send([]byte("acknowledgement"), 15)
			time.Sleep(2 * deadFor)
			c.send([]byte("question"), 8)
			synctest.Wait()
			select {
			case err := <-ended:
				t.Fatalf("it ended: %v", err)
			default:
			}
		}
		start := time.Now()
		for len(ended) == 0 && time.Since(start) < time.Minute {
			c.send([]byte("question"), 8)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if err := <-ended; !errors.Is(err, errDead) || time.Since(start) > deadFor+3*time.Second {
			t.Errorf("nobody answers: %v after %v", err, time.Since(start))
		}
		_ = far.Close()
		_ = s.Close()
	})
}

// slowly is a stream that takes its time to close, as WebSocket does when nobody answers.
type slowly struct{ net.Conn }

const farewell = 5 * time.Second

func (c slowly) Close() error {
	time.Sleep(farewell)
	return c.Conn.Close()
}

// Carriers whose streams close slowly do it beside each other, and keep nobody else
// waiting.
func TestCloseOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		s.Start(nothing)
		var ended []chan error
		for i := range uint16(20) {
			near, far := net.Pipe()
			defer far.Close()
			c, end := dialled(s, slowly{near})
			ended = append(ended, end)
			s.mu.Lock()
			s.putLocked(netip.AddrPortFrom(c.remote.Addr(), 1+i), c)
			s.mu.Unlock()
		}
		start := time.Now()
		closed := make(chan struct{})
		go func() { defer close(closed); _ = s.Close() }()
		time.Sleep(time.Second)
		if got := len(s.Status()); got != 20 { // takes the lock, or needs none
			t.Errorf("%d carriers are left", got)
		}
		s.NetworkChanged(nil)
		if got := time.Since(start); got != time.Second {
			t.Errorf("a change of the network is taken after %v", got)
		}
		<-closed
		for _, end := range ended {
			<-end
		}
		if got := time.Since(start); got != farewell {
			t.Errorf("closed after %v", got)
		}
	})
}

// One IPv6 subscriber has many networks, and no more carriers for it. Nor do few
// addresses hold all places of those in TLS.
func TestServeBoundsNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := served(t, nothing)
		defer s.Close()
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		for i := range perAddress {
			a := netip.MustParseAddr("2001:db8::1").As16()
			a[7] = byte(i) // the same /56
			c := l.dial(netip.AddrPortFrom(netip.AddrFrom16(a), 1).String())
			open = append(open, greet(t, c, protocol))
		}
		if d := closedAfter(t, l.dial("[2001:db8:0:ff::1]:1")); d != 0 {
			t.Errorf("one more network of that subscriber: closed after %v", d)
		}
		for i := range 2 * perAddress {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 2)}), 1)
			open = append(open, l.dial(at.String())) // says nothing
		}
		synctest.Wait()
		k := greet(t, l.dial("198.51.100.1:1"), protocol)
		open = append(open, k)
	})
}

// Whoever names a host that serves no carrier, by as many addresses as he likes, has it
// see few connections.
func TestAttemptsBounded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	seen := 0
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			mu.Lock()
			seen++
			mu.Unlock()
		}
	}()
	s, _ := started(t, Config{Proxy: direct})
	start := time.Now()
	for i := range 100 {
		a := Address{WSS, "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port), "/" + string(rune('a'+i%26)) + string(rune('a'+i/26))}
		if err := s.Connect(t.Context(), a); err == nil {
			t.Fatal("that is no carrier")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if most := 16; seen > most && time.Since(start) < time.Minute {
		t.Errorf("%d connections, more than %d, in %v", seen, most, time.Since(start))
	}
}

// Not all that a node knows is dialled at once.
func TestDialsBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var mu sync.Mutex
	asked := map[string]bool{}
	s, _ := started(t, Config{Proxy: func(u *url.URL) (*url.URL, error) {
		mu.Lock()
		asked[u.Host] = true
		mu.Unlock()
		<-release
		return nil, errors.New("no way")
	}})
	defer close(release)
	for i := range 3 * knownMax {
		a := Address{TLS, netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).String(), 443, ""}
		s.Know(a)
		if err := s.Write([]byte("x"), 1, a.Remote()); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	known, conns := len(s.known), len(*s.conns.Load())
	s.mu.Unlock()
	if known > knownMax || conns > 64 {
		t.Errorf("%d are known, %d are dialled at once", known, conns)
	}
}

// A name that some systems read as an IP address is no name: what is refused as an
// address is not reached by it.
func TestNumbersAreNoNames(t *testing.T) {
	for _, s := range []string{"tls://2852039166", "tls://0xa9fea9fe", "wss://169.254.43518/latest", "tls://0251.0376.0251.0376", "tls://x.0x7f", "tls://127.1"} {
		if a, err := ParseAddress(s); err == nil {
			t.Errorf("%s is %v", s, a)
		}
	}
	for _, s := range []string{"tls://1.example.com", "tls://0xcafe.example", "tls://x1", "tls://cafe"} {
		if _, err := ParseAddress(s); err != nil {
			t.Error(err)
		}
	}
}

// Carriers of one address are told apart, and are known to be of one.
func TestOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := make(chan netip.AddrPort, 2)
		s, l := served(t, func(_ []byte, _ int, from netip.AddrPort) { far <- from })
		defer s.Close()
		seen := map[netip.AddrPort]bool{}
		for range 2 {
			k := greet(t, l.dial("[::ffff:192.0.2.1]:1"), protocol)
			defer k.Close()
			if _, err := k.Write(appendFrame(nil, []byte("\x80"))); err != nil {
				t.Fatal(err)
			}
			at := <-far
			seen[at] = true
			if got := s.Origin(at.Addr()); got != netip.MustParseAddr("192.0.2.1") {
				t.Errorf("%v comes from %v", at, got)
			}
		}
		if len(seen) != 2 {
			t.Errorf("two carriers at %v", seen)
		}
		for _, a := range []netip.Addr{farEnd(acceptedBit | 5).Addr(), Local, netip.MustParseAddr("192.0.2.9"), {}} {
			if got := s.Origin(a); got != a {
				t.Errorf("%v comes from %v", a, got)
			}
		}
	})
}

// One address may begin an office's worth of handshakes at once, and then a few a second,
// however soon it ends them; others are not held up.
func TestHandshakesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := served(t, nothing)
		defer s.Close()
		begun := func(from string, tries int) (n int) {
			for range tries {
				k := tls.Client(l.dial(from), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
				if k.HandshakeContext(t.Context()) == nil {
					n++
				}
				_ = k.NetConn().Close()
				synctest.Wait()
			}
			return n
		}
		if n := begun("192.0.2.1:1", 2*handshakeBurst); n != handshakeBurst {
			t.Errorf("%d handshakes at once", n)
		}
		if n := begun("192.0.2.2:1", 1); n != 1 {
			t.Error("another address is held up")
		}
		time.Sleep(time.Second)
		if n := begun("192.0.2.1:1", 20); n != int(time.Second/handshakeEvery) {
			t.Errorf("%d handshakes a second later", n)
		}
		if n := begun("[2a00::1]:1", handshakeBurst); n != handshakeBurst {
			t.Errorf("%d handshakes of an IPv6 address", n)
		}
		if n := begun("[2a00:0:0:ff::2]:1", 1); n != 0 {
			t.Error("a subscriber with many addresses has one more")
		}
		now := time.Now()
		for i := range 3 * pacedMax {
			s.pace.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
		}
		if n := len(s.pace.spent); n > pacedMax {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}

// A web server whose answer has no end costs no more than the head of one.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	sent := make(chan int, 1)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		n, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n")
		line := []byte("X-Filler: " + strings.Repeat("x", 4000) + "\r\n")
		for total := n; ; total += n {
			if err != nil || total > 64<<20 {
				sent <- total
				return
			}
			n, err = c.Write(line)
		}
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	at, err := ParseAddress(strings.Replace(srv.URL, "https", "wss", 1) + "/idloc")
	if err != nil {
		t.Fatal(err)
	}
	client, _ := started(t, Config{Proxy: direct, Roots: roots})
	if err := client.Connect(t.Context(), at); err == nil {
		t.Error("a carrier over it")
	}
	if n := <-sent; n > 8<<20 { // what the two kernels' buffers hold, too
		t.Errorf("%d bytes were taken", n)
	}
}
