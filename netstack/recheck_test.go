package netstack

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Recheck ends what keep does not want, and nothing else: not what this node has opened
// itself, not what it has opened at the same peer and port, and no listener.
func TestRecheckTCP(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool { return true })
	client, server := r.pair(t, r.b4)
	other, otherServer := r.pair(t, r.b6)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := r.b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(l.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()

	blocked := make(chan error, 1)
	go func() {
		_, err := server.Read(make([]byte, 1))
		blocked <- err
	}()
	ended := r.b.Recheck(func(network string, local, remote netip.AddrPort) bool {
		if network != "tcp" || remote.Addr() != r.a4 && remote.Addr() != r.a6 || local.Port() != port(server.LocalAddr()) && local.Port() != port(otherServer.LocalAddr()) {
			t.Errorf("asked about %s %v %v", network, local, remote)
		}
		return local.Port() != port(server.LocalAddr())
	})
	if ended != 1 {
		t.Errorf("%d flows have ended", ended)
	}
	if err := <-blocked; !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("a Read that was waiting: %v", err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("Write: %v", err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("at the other end: %v", err)
	}
	for _, c := range []struct {
		from, to *tcpConn
	}{{other, otherServer}, {otherServer, other}, {out.(*tcpConn), in.(*tcpConn)}, {in.(*tcpConn), out.(*tcpConn)}} {
		if _, err := c.from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.to.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Fatalf("another conn: %d, %v", n, err)
		}
	}
}

// A SYN that was let on before Recheck makes no connection after it.
func TestRecheckDuringHandshake(t *testing.T) {
	t.Parallel()
	var may atomic.Bool
	may.Store(true)
	var r *rig
	first := make(chan struct{}, 1)
	r = newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool {
		select {
		case first <- struct{}{}: // the SYN
			defer func() {
				may.Store(false)
				r.b.mu.Lock() // as Recheck does: it may not be called from here
				r.b.asked = time.Now()
				r.b.mu.Unlock()
			}()
		default:
		}
		return may.Load()
	})
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was let on before: %v", err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("what Accept has returned: %v", err)
	}
}

func TestRecheckUDP(t *testing.T) {
	t.Parallel()
	var may atomic.Bool
	may.Store(true)
	r := newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool { return may.Load() })
	echo, err := r.b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		b := make([]byte, 10)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	u, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(echo.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ask := func() error {
		_ = u.SetDeadline(time.Now().Add(time.Minute))
		if _, err := u.Write([]byte("x")); err != nil {
			return err
		}
		_, err := u.Read(make([]byte, 10))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	// The answer does not make it a flow of b's own.
	asked := 0
	if ended := r.b.Recheck(func(network string, local, remote netip.AddrPort) bool {
		asked++
		return network == "udp" && local.Port() == port(echo.LocalAddr())
	}); ended != 0 || asked != 1 {
		t.Fatalf("asked %d times, %d flows have ended", asked, ended)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	may.Store(false)
	if err := ask(); err != nil {
		t.Fatalf("without Recheck a flow goes on: %v", err)
	}
	if ended := r.b.Recheck(func(string, netip.AddrPort, netip.AddrPort) bool { return false }); ended != 1 {
		t.Errorf("%d flows have ended", ended)
	}
	if err := ask(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Recheck: %v", err)
	}
}

// While nothing is asked everything is let on, and what this node is connected to when
// that ends gets its answers.
func TestAskBeginsLate(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool { return false })
	r.b.Ask(false)
	_, server := r.pair(t, r.b4)
	if _, err := server.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	far, err := r.a.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	u, err := r.b.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(far.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_, from, err := far.ReadFrom(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	r.b.Ask(true)
	if _, err := far.WriteTo([]byte("y"), from); err != nil {
		t.Fatal(err)
	}
	_ = u.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := u.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("an answer: %d, %v", n, err)
	}
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
	wantOpError(t, "refused", err, syscall.ECONNREFUSED)
}

// While nothing is asked, datagrams cost no look at their flow: nobody asks, and nothing is noted.
func TestUnaskedDatagramsCostNothing(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	r := newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool {
		asked.Add(1)
		return false
	})
	r.b.Ask(false)
	far, err := r.b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(far.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	b := make([]byte, 10)
	for range 3 {
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, from, err := far.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := far.WriteTo([]byte("y"), from); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	a := r.b.link.admit
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.flows) != 0 || asked.Load() != 0 {
		t.Errorf("%d flows are noted, asked %d times", len(a.flows), asked.Load())
	}
	if u := &r.b.link.udp; u.in.Load() == 0 || u.out.Load() == 0 {
		t.Error("gVisor had them all")
	}
}
