package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestListen(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	unspecified4 := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	for _, tt := range []struct {
		what     string
		listen   func() (net.Listener, error)
		ok4, ok6 bool
	}{
		{"both families", func() (net.Listener, error) { return r.b.ListenTCP("tcp", netip.AddrPort{}, 0) }, true, true},
		{"::", func() (net.Listener, error) {
			return r.b.ListenTCP("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), 0), 0)
		}, true, true},
		{"tcp4, 0.0.0.0", func() (net.Listener, error) { return r.b.ListenTCP("tcp4", unspecified4, 0) }, true, false},
		{"0.0.0.0, both families as in package net", func() (net.Listener, error) { return r.b.ListenTCP("tcp", unspecified4, 0) }, true, true},
		{"tcp6", func() (net.Listener, error) { return r.b.ListenTCP("tcp6", netip.AddrPort{}, 0) }, false, true},
		{"own IPv4 LSI", func() (net.Listener, error) { return r.b.ListenTCP("tcp", netip.AddrPortFrom(r.b.v4, 0), 5) }, true, false},
		{"own IPv6 LSI", func() (net.Listener, error) { return r.b.ListenTCP("tcp", netip.AddrPortFrom(r.b.v6, 0), 5) }, false, true},
	} {
		l, err := tt.listen()
		if err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		if port(l.Addr()) == 0 {
			t.Errorf("%s: %v", tt.what, l.Addr())
		}
		for at, want := range map[netip.Addr]bool{r.b4: tt.ok4, r.b6: tt.ok6} {
			c, err := r.a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
			if (err == nil) != want {
				t.Errorf("%s: dial %v: %v", tt.what, at, err)
			}
			if err != nil {
				continue
			}
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			mine := r.a4
			if at.Is6() {
				mine = r.a6
			}
			if got := s.RemoteAddr().(*net.TCPAddr).AddrPort(); got.Addr() != mine {
				t.Errorf("%s: accepted from %v, want %v", tt.what, got, mine)
			}
			_, _ = c.Close(), s.Close()
		}
		_ = l.Close()
	}
}

func TestAddressInUse(t *testing.T) {
	r := newRig(t)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	same := netip.AddrPortFrom(r.b.v4, port(l.Addr()))
	for _, at := range []netip.AddrPort{same, netip.AddrPortFrom(netip.Addr{}, same.Port())} {
		_, err := r.b.ListenTCP("tcp", at, 0)
		wantOpError(t, at.String(), err, syscall.EADDRINUSE)
	}
	_, err = r.b.ListenTCP("tcp", netip.AddrPortFrom(r.a4, 80), 0)
	wantOpError(t, "not our address", err, syscall.EADDRNOTAVAIL)
	// Free at once after Close, even with a connection still open.
	c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, same.Port()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if l, err = r.b.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, same.Port()), 0); err != nil {
		t.Fatal(err)
	}
	_, _, _ = c.Close(), s.Close(), l.Close()

	u, err := r.b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.b.ListenUDP("udp", netip.AddrPortFrom(r.b.v4, port(u.LocalAddr())))
	wantOpError(t, "UDP", err, syscall.EADDRINUSE)
	_ = u.Close()
}

func TestAcceptErrors(t *testing.T) {
	r := newRig(t)
	nl, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := nl.(*listener)
	if err := l.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Error(err)
	}
	_, err = l.Accept()
	wantOpError(t, "deadline", err, os.ErrDeadlineExceeded)
	_ = l.SetDeadline(time.Time{})
	failed := make(chan error)
	go func() { _, err := l.Accept(); failed <- err }()
	_ = l.Close()
	wantOpError(t, "Accept while closing", <-failed, net.ErrClosed)
	_, err = l.Accept()
	wantOpError(t, "Accept after Close", err, net.ErrClosed)
	wantOpError(t, "Close after Close", l.Close(), net.ErrClosed)
	wantOpError(t, "SetDeadline after Close", l.SetDeadline(time.Time{}), net.ErrClosed)
}

// Several goroutines in Accept each get their connections.
func TestManyConns(t *testing.T) {
	r := newRig(t)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
			}
		})
	}
	const conns = 300
	var dials sync.WaitGroup
	for range conns {
		dials.Go(func() {
			c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var b [5]byte
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	dials.Wait()
	_ = l.Close()
	wg.Wait()
	if n := r.a.Stats().Conns; n != 0 {
		t.Errorf("%d conns tracked after all were closed", n)
	}
}

func TestAdmit(t *testing.T) {
	type question struct {
		network       string
		local, remote netip.AddrPort
	}
	var mu sync.Mutex
	var asked []question
	r := newRigWith(t, func(network string, local, remote netip.AddrPort) bool {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, question{network, local, remote})
		return local.Port() != 22
	})
	listen := func(p uint16) {
		l, err := r.b.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, p), 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		u, err := r.b.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(buf[:n], from)
			}
		}()
	}
	listen(22)
	listen(80)
	for _, at := range []netip.Addr{r.b4, r.b6} {
		mine, theirs := r.a4, r.b.v4
		if at.Is6() {
			mine, theirs = r.a6, r.b.v6
		}
		asked = nil
		_, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, 22))
		wantOpError(t, "refused", err, syscall.ECONNREFUSED)
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, 80))
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if len(asked) != 2 || asked[0].network != "tcp" || asked[0].local != netip.AddrPortFrom(theirs, 22) ||
			asked[1].remote != netip.AddrPortFrom(mine, port(c.LocalAddr())) {
			t.Errorf("asked %v", asked)
		}
		asked = nil
		mu.Unlock()
		_ = c.Close()

		buf := make([]byte, 10)
		u, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, 80))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, _ = u.Write([]byte("x"))
			_ = u.SetReadDeadline(time.Now().Add(2 * time.Minute))
			if n, err := u.Read(buf); n != 1 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		_ = u.Close()
		u, err = r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, 22))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = u.Write([]byte("x"))
		_ = u.SetReadDeadline(time.Now().Add(2 * time.Minute))
		_, err = u.Read(buf)
		wantOpError(t, "refused datagram", err, syscall.ECONNREFUSED)
		_ = u.Close()
		mu.Lock()
		if len(asked) != 2 {
			t.Errorf("asked %v", asked)
		}
		mu.Unlock()
	}
	// A flow that b began is b's: nobody is asked about the answers.
	mu.Lock()
	asked = nil
	mu.Unlock()
	echo, err := r.a.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	u, err := r.b.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(echo.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_, _ = u.Write([]byte("x"))
	buf := make([]byte, 10)
	n, from, err := echo.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = echo.WriteTo(buf[:n], from)
	if _, err := u.Read(buf); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 0 || r.b.Stats().Refused != 4 {
		t.Errorf("asked %v, refused %d", asked, r.b.Stats().Refused)
	}
}

// Many calls of Accept at once, some of which end while a connection comes,
// have each connection once, and none waits while one of them does.
func TestManyAccepts(t *testing.T) {
	const conns, accepts = 100, 4
	r := newRig(t)
	nl, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := nl.(*listener)
	var accepted atomic.Int64
	all := make(chan struct{})
	var wg sync.WaitGroup
	for range accepts {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				switch {
				case err == nil:
					if accepted.Add(1) == conns {
						close(all)
					}
					_ = c.Close()
				case errors.Is(err, net.ErrClosed):
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	wg.Go(func() { // wakes those that wait, with nothing for them
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for !isClosed(stop) {
			<-tick.C
			_ = l.SetDeadline(time.Unix(1, 0))
			_ = l.SetDeadline(time.Time{})
		}
	})
	var dials sync.WaitGroup
	for range 10 {
		dials.Go(func() {
			for range conns / 10 {
				c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.Close()
			}
		})
	}
	dials.Wait()
	select {
	case <-all:
	case <-testContext(t).Done():
		t.Errorf("%d accepted of %d", accepted.Load(), conns)
	}
	close(stop)
	_ = l.Close()
	wg.Wait()
	if n := accepted.Load(); n != conns {
		t.Errorf("%d accepted of %d", n, conns)
	}
}
