package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// A part of the node that listens at an address of its own, as the resolver
// does at port 53, keeps nobody from serving on the same port.
func TestPortOfAddedAddress(t *testing.T) {
	r := newRig(t)
	own := r.a.Table.Resolver()
	if err := r.a.AddAddress(own); err != nil {
		t.Fatal(err)
	}
	const number = 53
	at := netip.AddrPortFrom(own, number)
	tcp, err := r.a.ListenTCP("tcp", at, 0)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := r.a.ListenUDP("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		l, err := r.a.ListenTCP(network, netip.AddrPortFrom(netip.Addr{}, number), 0)
		if err != nil {
			t.Errorf("%s: %v", network, err)
			continue
		}
		if _, err := r.a.ListenTCP(network, netip.AddrPortFrom(netip.Addr{}, number), 0); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: a second one: %v", network, err)
		}
		if network == "tcp" {
			for _, to := range []netip.Addr{own, r.a.v4, r.a.v6} {
				want := l
				if to == own {
					want = tcp
				}
				c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, number))
				if err != nil {
					t.Fatal(err)
				}
				s, err := want.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if s.RemoteAddr().String() != c.LocalAddr().String() {
					t.Errorf("%v: accepted %v, want %v", to, s.RemoteAddr(), c.LocalAddr())
				}
				c.Close()
				s.Close()
			}
		}
		l.Close()
	}
	for _, network := range []string{"udp", "udp4", "udp6"} {
		pc, err := r.a.ListenUDP(network, netip.AddrPortFrom(netip.Addr{}, number))
		if err != nil {
			t.Errorf("%s: %v", network, err)
			continue
		}
		if _, err := r.a.ListenUDP(network, netip.AddrPortFrom(netip.Addr{}, number)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: a second one: %v", network, err)
		}
		if _, err := r.a.ListenUDP("udp4", netip.AddrPortFrom(r.a.v4, number)); network != "udp6" && !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: another at one of the addresses: %v", network, err)
		}
		if network == "udp" {
			for from, to := range map[*node]netip.Addr{r.a: own, r.b: r.a4} {
				want := pc
				if to == own {
					want = udp
				}
				c, err := from.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(to, number))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(c, to.String()); err != nil {
					t.Fatal(err)
				}
				_ = want.SetReadDeadline(time.Now().Add(2 * time.Minute))
				b := make([]byte, 100)
				n, _, err := want.ReadFrom(b)
				if err != nil || string(b[:n]) != to.String() {
					t.Errorf("%v: %q, %v", to, b[:n], err)
				}
				c.Close()
			}
		}
		pc.Close()
	}
	if _, err := r.a.ListenUDP("udp", at); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one at the added address: %v", err)
	}
	if _, err := r.a.ListenTCP("tcp", at, 0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener at the added address: %v", err)
	}
}

// What a Dial says when no local port is free is what the kernel says.
func TestPortsExhausted(t *testing.T) {
	r := newRig(t)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := r.a.stack.SetPortRange(20000, 20001); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(r.b4, port(l.Addr()))
	tcp := func() (net.Conn, error) { return r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, to) }
	udp := func() (net.Conn, error) { return r.a.DialUDP(testContext(t), "udp", netip.AddrPort{}, to) }
	for what, c := range map[string]struct {
		dial func() (net.Conn, error)
		want syscall.Errno
	}{"tcp": {tcp, syscall.EADDRNOTAVAIL}, "udp": {udp, syscall.EAGAIN}} {
		for range 2 {
			conn, err := c.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		if _, err := c.dial(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// io.Copy to a conn succeeds when every byte was written before the write
// deadline, however long the source then takes to say that this was all.
func TestReadFromEndsLate(t *testing.T) {
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	late := readerFunc(func([]byte) (int, error) {
		_ = c.SetWriteDeadline(time.Unix(1, 0))
		return 0, io.EOF
	})
	n, err := c.ReadFrom(io.MultiReader(iotest.OneByteReader(strings.NewReader("all")), late))
	if n != 3 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
