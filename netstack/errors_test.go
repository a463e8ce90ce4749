package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// wantOpError checks that err is a *net.OpError with target inside.
func wantOpError(t *testing.T, what string, err, target error) {
	t.Helper()
	var op *net.OpError
	if !errors.As(err, &op) || !errors.Is(err, target) {
		t.Errorf("%s: %v (%T), want a *net.OpError with %v", what, err, err, target)
	}
	var ne net.Error
	if timeout := target == os.ErrDeadlineExceeded || target == context.DeadlineExceeded; errors.As(err, &ne) && ne.Timeout() != timeout {
		t.Errorf("%s: Timeout is %v", what, ne.Timeout())
	}
}

// The table of DESIGN §12: what a user of net asks with errors.Is.
func TestTCPErrors(t *testing.T) {
	r := newRig(t)
	buf := make([]byte, 10)
	past := time.Now().Add(-time.Hour)
	for _, tt := range []struct {
		what string
		do   func(c, s *tcpConn) error
		want error
	}{
		{"Read after Close", func(c, _ *tcpConn) error { c.Close(); _, err := c.Read(buf); return err }, net.ErrClosed},
		{"Write after Close", func(c, _ *tcpConn) error { c.Close(); _, err := c.Write(buf); return err }, net.ErrClosed},
		{"Close after Close", func(c, _ *tcpConn) error { c.Close(); return c.Close() }, net.ErrClosed},
		{"CloseWrite after Close", func(c, _ *tcpConn) error { c.Close(); return c.CloseWrite() }, net.ErrClosed},
		{"SetDeadline after Close", func(c, _ *tcpConn) error { c.Close(); return c.SetDeadline(past) }, net.ErrClosed},
		{"SetNoDelay after Close", func(c, _ *tcpConn) error { c.Close(); return c.SetNoDelay(true) }, net.ErrClosed},
		{"Read past the deadline", func(c, _ *tcpConn) error { c.SetReadDeadline(past); _, err := c.Read(buf); return err }, os.ErrDeadlineExceeded},
		{"Write past the deadline", func(c, _ *tcpConn) error { c.SetDeadline(past); _, err := c.Write(buf); return err }, os.ErrDeadlineExceeded},
		{"Read blocked until the deadline", func(c, _ *tcpConn) error {
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := c.Read(buf)
			return err
		}, os.ErrDeadlineExceeded},
		{"Write blocked until the deadline", func(c, _ *tcpConn) error {
			c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			for big := make([]byte, 1<<20); ; {
				if _, err := c.Write(big); err != nil {
					return err
				}
			}
		}, os.ErrDeadlineExceeded},
		{"deadline set while Read is blocked", func(c, _ *tcpConn) error {
			got := make(chan error)
			go func() { _, err := c.Read(buf); got <- err }()
			c.SetReadDeadline(past)
			return <-got
		}, os.ErrDeadlineExceeded},
		{"Close while Read is blocked", func(c, _ *tcpConn) error {
			got := make(chan error)
			go func() { _, err := c.Read(buf); got <- err }()
			c.Close()
			return <-got
		}, net.ErrClosed},
		{"Write after CloseWrite", func(c, _ *tcpConn) error { c.CloseWrite(); _, err := c.Write(buf); return err }, syscall.EPIPE},
		{"Read after the peer's reset", func(c, s *tcpConn) error {
			s.SetLinger(0)
			s.Close()
			_, err := c.Read(buf)
			return err
		}, syscall.ECONNRESET},
		{"Write after the peer's reset", func(c, s *tcpConn) error {
			s.SetLinger(0)
			s.Close()
			_, _ = c.Read(buf)
			_, err := c.Write(buf)
			return err
		}, syscall.EPIPE},
	} {
		c, s := r.pair(t, r.b4)
		wantOpError(t, tt.what, tt.do(c, s), tt.want)
	}

	c, s := r.pair(t, r.b6)
	_ = s.Close()
	if _, err := c.Read(buf); err != io.EOF {
		t.Errorf("Read after the peer's FIN: %v", err)
	}
	c, s = r.pair(t, r.b6)
	_ = c.CloseWrite()
	if _, err := s.Write([]byte("late")); err != nil {
		t.Errorf("Write after the peer's CloseWrite: %v", err)
	}
	if n, err := c.Read(buf); n != 4 || err != nil {
		t.Errorf("Read after own CloseWrite: %d, %v", n, err)
	}
	_ = c.SetReadDeadline(past)
	_, _ = c.Read(buf)
	_ = c.SetReadDeadline(time.Time{})
	if _, err := s.Write([]byte("more")); err != nil {
		t.Error(err)
	}
	if n, err := c.Read(buf); n != 4 || err != nil {
		t.Errorf("Read after the deadline was lifted: %d, %v", n, err)
	}
}

type refusal struct{}

func (refusal) Error() string { return "refused by policy" }
func (refusal) Refused() bool { return true }

func TestDialErrors(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nobody := netip.MustParseAddr("203.0.113.1")
	for _, at := range []netip.Addr{r.b4, r.b6, r.a.v4, r.a.v6} {
		_, err := r.a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, 9))
		wantOpError(t, "closed port at "+at.String(), err, syscall.ECONNREFUSED)
	}
	_, err = r.a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(nobody, 9))
	wantOpError(t, "outside the LSI prefixes", err, syscall.ENETUNREACH)
	_, err = r.a.DialTCP(ctx, "tcp", netip.AddrPortFrom(nobody, 0), netip.AddrPortFrom(r.b4, 9))
	wantOpError(t, "from an address not ours", err, syscall.EADDRNOTAVAIL)
	_, err = r.a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPort{})
	if err == nil {
		t.Error("dialed nothing")
	}

	// LSIs that nobody has.
	free4, free6 := r.a.v4, netip.MustParseAddr("2001:20::1234")
	for range 1000 {
		free4 = free4.Next()
	}
	for _, at := range []netip.Addr{free4, free6} {
		_, err := r.a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, 9))
		wantOpError(t, "nobody's LSI "+at.String(), err, syscall.EHOSTUNREACH)
		if !strings.HasSuffix(err.Error(), ": connect: no route to host") {
			t.Errorf("nobody's LSI: %v", err)
		}
		u, err := r.a.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(at, 9))
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.Write([]byte("x"))
		wantOpError(t, "datagram to nobody's LSI "+at.String(), err, syscall.EHOSTUNREACH)
		_ = u.Close()
	}

	// Peers to whom no pipe can be opened: Dial ends with the Connect.
	for _, why := range []error{errors.New("no answer"), refusal{}} {
		n := newNode(t, r.net, nil)
		n.OnConnect = func(context.Context, peerid.ID) error { return why }
		at4, at6 := n.LSI(t, r.b.Node)
		for _, at := range []netip.Addr{at4, at6} {
			_, err := n.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, 9))
			wantOpError(t, "no pipe to "+at.String(), err, syscall.EHOSTUNREACH)
			if got := n.Shim.LastError(r.b.ID); !errors.Is(got, why) {
				t.Errorf("LastError: %v", got)
			}
		}
		for _, at := range []netip.Addr{at4, at6} {
			u, err := n.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(at, 9))
			if err != nil {
				t.Fatal(err)
			}
			// The first is answered when the Connect has failed, or is
			// refused at once if one failed just before.
			if _, err = u.Write([]byte("x")); err == nil {
				_ = u.SetReadDeadline(time.Now().Add(2 * time.Minute))
				_, err = u.Read(make([]byte, 1))
			}
			wantOpError(t, "datagram without a pipe to "+at.String(), err, syscall.EHOSTUNREACH)
			_ = u.Close()
		}
		if n.Shim.LastError(r.a.ID) != nil {
			t.Error("LastError of a peer that was not asked for")
		}
	}
}

// Dial ends with its context, and with the stack, while Connect still runs.
func TestDialContext(t *testing.T) {
	r := newRig(t)
	n := newNode(t, r.net, nil)
	asked := make(chan struct{}, 10)
	n.OnConnect = func(ctx context.Context, _ peerid.ID) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	at, _ := n.LSI(t, r.b.Node)
	to := netip.AddrPortFrom(at, 9)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	_, err := n.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	wantOpError(t, "cancelled", err, context.Canceled)
	_, err = n.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	wantOpError(t, "cancelled before", err, context.Canceled)
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = n.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	wantOpError(t, "timed out", err, context.DeadlineExceeded)

	failed := make(chan error)
	go func() {
		_, err := n.DialTCP(context.Background(), "tcp", netip.AddrPort{}, to)
		failed <- err
	}()
	_ = n.Close()
	wantOpError(t, "stack closed", <-failed, net.ErrClosed)
	if got := n.Connects.Load(); got != 1 {
		t.Errorf("%d Connects for one peer", got)
	}
}

// Close unblocks whatever waits.
func TestCloseUnblocks(t *testing.T) {
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	w, _ := r.pair(t, r.b4)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	u, err := r.a.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.SetLinger(0) // else Close waits for as long as its peer acknowledges and does not read
	buf := make([]byte, 1<<20)
	calls := map[string]func() error{
		"Read":     func() error { _, err := c.Read(buf); return err },
		"Write":    func() error { _, err := w.Write(make([]byte, 64<<20)); return err },
		"Accept":   func() error { _, err := l.Accept(); return err },
		"ReadFrom": func() error { _, _, err := u.ReadFrom(make([]byte, 10)); return err },
	}
	var wg, started sync.WaitGroup
	for what, f := range calls {
		started.Add(1)
		wg.Go(func() { started.Done(); wantOpError(t, what, f(), net.ErrClosed) })
	}
	started.Wait()
	// Nobody reads what the Write has written, and the peer says so for as long
	// as it is asked: the first Close waits for that as long as it was told.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for range 3 {
		wg.Go(func() {
			if err := r.a.Stack.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for what, f := range calls {
		wantOpError(t, what+" afterwards", f(), net.ErrClosed)
	}
	_, err = r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	wantOpError(t, "ListenTCP afterwards", err, net.ErrClosed)
	_, err = r.a.ListenUDP("udp", netip.AddrPort{})
	wantOpError(t, "ListenUDP afterwards", err, net.ErrClosed)
	_, err = r.a.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, 9))
	wantOpError(t, "DialTCP afterwards", err, net.ErrClosed)
}
