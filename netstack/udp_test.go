package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestUDP(t *testing.T) {
	r := newRig(t)
	for _, at := range []netip.Addr{r.b4, r.b6} {
		pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, port(pc.LocalAddr())))
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(2 * time.Minute)
		_, _ = pc.SetDeadline(deadline), c.SetDeadline(deadline)
		buf := make([]byte, 1<<16)
		for _, n := range []int{0, 1, 511, 1167, 1168, 1431, 1439, 1440, 1473, 4096, 9000, 65000, maxDatagram} {
			b := make([]byte, n)
			_, _ = rand.Read(b)
			if k, err := c.Write(b); k != n || err != nil {
				t.Fatalf("%v: write %d: %d, %v", at, n, k, err)
			}
			k, from, err := pc.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:k], b) {
				t.Fatalf("%v: %d bytes: got %d, %v", at, n, k, err)
			}
			if k, err := pc.WriteTo(b, from); k != n || err != nil {
				t.Fatalf("%v: answer %d: %d, %v", at, n, k, err)
			}
			if k, err := c.Read(buf); err != nil || !bytes.Equal(buf[:k], b) {
				t.Fatalf("%v: answer of %d bytes: got %d, %v", at, n, k, err)
			}
		}
		_, _ = c.Close(), pc.Close()
	}
}

func TestUDPErrors(t *testing.T) {
	r := newRig(t)
	past := time.Now().Add(-time.Hour)
	buf := make([]byte, 10)
	for _, tt := range []struct {
		what string
		do   func(c, l *udpConn) error
		want error
	}{
		{"Read after Close", func(c, _ *udpConn) error { c.Close(); _, err := c.Read(buf); return err }, net.ErrClosed},
		{"Write after Close", func(c, _ *udpConn) error { c.Close(); _, err := c.Write(buf); return err }, net.ErrClosed},
		{"Close after Close", func(c, _ *udpConn) error { c.Close(); return c.Close() }, net.ErrClosed},
		{"SetDeadline after Close", func(c, _ *udpConn) error { c.Close(); return c.SetDeadline(past) }, net.ErrClosed},
		{"ReadFrom past the deadline", func(_, l *udpConn) error { l.SetReadDeadline(past); _, _, err := l.ReadFrom(buf); return err }, os.ErrDeadlineExceeded},
		{"Write past the deadline", func(c, _ *udpConn) error { c.SetDeadline(past); _, err := c.Write(buf); return err }, os.ErrDeadlineExceeded},
		{"Close while Read is blocked", func(c, _ *udpConn) error {
			got := make(chan error)
			go func() { _, err := c.Read(buf); got <- err }()
			c.Close()
			return <-got
		}, net.ErrClosed},
		{"deadline set while Read is blocked", func(c, _ *udpConn) error {
			got := make(chan error)
			go func() { _, err := c.Read(buf); got <- err }()
			c.SetReadDeadline(past)
			return <-got
		}, os.ErrDeadlineExceeded},
		{"too large", func(c, _ *udpConn) error { _, err := c.Write(make([]byte, maxDatagram+1)); return err }, syscall.EMSGSIZE},
		{"Write, not connected", func(_, l *udpConn) error { _, err := l.Write(buf); return err }, syscall.EDESTADDRREQ},
		{"WriteTo, connected", func(c, _ *udpConn) error { _, err := c.WriteTo(buf, c.RemoteAddr()); return err }, net.ErrWriteToConnected},
		{"WriteTo nobody", func(_, l *udpConn) error { _, err := l.WriteTo(buf, &net.TCPAddr{}); return err }, syscall.EINVAL},
		{"closed port", func(c, l *udpConn) error {
			l.Close()
			if _, err := c.Write(buf); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(2 * time.Minute))
			_, err := c.Read(buf)
			return err
		}, syscall.ECONNREFUSED},
	} {
		for _, at := range []netip.Addr{r.b4, r.b6} {
			l, err := r.b.ListenUDP("udp", netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.LocalAddr())))
			if err != nil {
				t.Fatal(err)
			}
			wantOpError(t, tt.what, tt.do(c.(*udpConn), l.(*udpConn)), tt.want)
			_, _ = c.Close(), l.Close()
		}
	}
}

// A datagram that is larger than the buffer is cut, the next is whole.
func TestUDPTruncates(t *testing.T) {
	r := newRig(t)
	pc, err := r.a.ListenUDP("udp", netip.AddrPortFrom(r.a.v4, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for _, s := range []string{"0123456789", "abc"} {
		if _, err := pc.WriteTo([]byte(s), pc.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 5)
	for _, want := range []string{"01234", "abc"} {
		if n, _, err := pc.ReadFrom(buf); string(buf[:n]) != want || err != nil {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}
