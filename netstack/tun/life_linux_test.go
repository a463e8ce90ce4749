package tun

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/shim/shimtest"
)

// Listening on the wildcard address means the LSIs: the host's other addresses
// stay outside the overlay, and its own programs reach the LSIs.
func TestWildcardIsTheLSIs(t *testing.T) {
	n := shimtest.NewNet()
	a := newHost(t, n, nil)
	ln, err := in{a}.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	at := addrOf(ln.Addr())
	if !at.Addr().IsUnspecified() {
		t.Errorf("listener at %v", at)
	}
	dial := func(to netip.Addr) (err error) {
		a.in(func() {
			var c net.Conn
			if c, err = net.Dial("tcp", netip.AddrPortFrom(to, at.Port()).String()); err == nil {
				c.Close()
			}
		})
		return err
	}
	for _, to := range []netip.Addr{a.v4, a.v6} {
		if err := dial(to); err != nil {
			t.Errorf("the host's programs do not reach its LSI: %v", err)
		}
	}
	if err := dial(netip.MustParseAddr("127.0.0.1")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the listener is on loopback, too: %v", err)
	}
	if _, err := (in{a}).ListenTCP("tcp", netip.AddrPortFrom(a.v6, at.Port()), 0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the port twice: %v", err)
	}

	pc, err := in{a}.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	_ = pc.SetDeadline(time.Now().Add(2 * time.Minute))
	up := addrOf(pc.LocalAddr()).Port()
	for _, m := range []struct {
		to   string
		text string
	}{{"127.0.0.1", "not for us"}, {"::1", "nor this"}, {a.v4.String(), "four"}, {a.v6.String(), "six"}} {
		a.in(func() {
			c, err := net.Dial("udp", net.JoinHostPort(m.to, strconv.Itoa(int(up))))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte(m.text)); err != nil {
				t.Error(err)
			}
		})
	}
	buf := make([]byte, 100)
	for _, want := range []string{"four", "six"} {
		if n, _, err := pc.ReadFrom(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	if _, err := pc.WriteTo([]byte("out"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9"))); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("a datagram that leaves the overlay: %v", err)
	}
}

// A device that somebody sets down and up is what it was.
func TestDownAndUp(t *testing.T) {
	n := shimtest.NewNet()
	a, b := newHost(t, n, nil), newStack(t, n)
	v4, v6 := a.LSI(t, b.Node)
	bulk(t, in{a}, b, v4)
	if err := a.dev.netlink.change(a.dev.index, 0, nil, unix.IFF_UP); err != nil {
		t.Fatal(err)
	}
	if _, err := (in{a}).DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(v4, 80)); err == nil {
		t.Error("a device that is down carries a connection")
	}
	if err := a.dev.netlink.setUp(a.dev.index); err != nil {
		t.Fatal(err)
	}
	// The kernel tells the Host, which puts the routes back.
	for deadline := time.Now().Add(2 * time.Minute); ; {
		i4, e4 := a.dev.netlink.leads(v4)
		i6, e6 := a.dev.netlink.leads(v6)
		if e4 == nil && e6 == nil && i4 == int(a.dev.index) && i6 == int(a.dev.index) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("routes lead to %d, %d: %v, %v", i4, i6, e4, e6)
		}
		time.Sleep(5 * time.Millisecond)
	}
	bulk(t, in{a}, b, v4)
	bulk(t, in{a}, b, v6)
}

// A program may close its connection and the node right after: what it wrote
// arrives. What is open then ends with net.ErrClosed.
func TestClose(t *testing.T) {
	n := shimtest.NewNet()
	a, b := newHost(t, n, nil), newStack(t, n)
	v4, _ := a.LSI(t, b.Node)
	l, err := b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := netip.AddrPortFrom(v4, addrOf(l.Addr()).Port())
	c, err := in{a}.DialTCP(testContext(t), "tcp", netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open, err := in{a}.DialTCP(testContext(t), "tcp", netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := in{a}.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := in{a}.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 3)
	go func() { _, err := open.Read(make([]byte, 1)); ended <- err }()
	go func() { _, err := ln.Accept(); ended <- err }()
	go func() { _, _, err := pc.ReadFrom(make([]byte, 1)); ended <- err }()

	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 1)
	go func() { n, _ := io.Copy(io.Discard, s); got <- int(n) }()
	c.Close()
	a.in(func() { err = a.Host.Close(testContext(t)) }) // a busy machine has the time that it takes
	if err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error("the second time:", err)
	}
	if n := <-got; n != len(data) {
		t.Errorf("%d of %d bytes arrived", n, len(data))
	}
	for range 3 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	}
	if _, err := (in{a}).DialTCP(testContext(t), "tcp", netip.AddrPort{}, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
	if _, err := (in{a}).ListenTCP("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 0), 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close: %v", err)
	}
}

// Flows of the host's programs are found, so that their LSI is not given away.
func TestRemotes(t *testing.T) {
	n := shimtest.NewNet()
	a, b := newHost(t, n, nil), newStack(t, n)
	v4, v6 := a.LSI(t, b.Node)
	remotes := func() (m map[netip.Addr]bool) {
		a.in(func() { m = Remotes() })
		return m
	}
	if m := remotes(); m[v4] || m[v6] {
		t.Errorf("flows before there are any: %v", m)
	}
	l, err := b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := in{a}.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(v4, addrOf(l.Addr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, err := in{a}.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(v6, 9))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if m := remotes(); !m[v4] || !m[v6] {
		t.Errorf("found %v, want %v and %v", m, v4, v6)
	}
}

// Two devices cannot have one prefix, and the error says who has it.
func TestPrefixTaken(t *testing.T) {
	a := newHost(t, shimtest.NewNet(), nil)
	other, err := openDeviceIn(a)
	if err != nil {
		t.Fatal(err)
	}
	defer other.discard()
	if err := other.up(); err != nil {
		t.Fatal(err)
	}
	v4, _ := a.Table.Prefixes()
	if err := other.addAddr(a.v4); err != nil {
		t.Fatal(err)
	}
	a.in(func() { err = other.addRoute(route{v4, a.v4}) })
	if !errors.Is(err, syscall.EEXIST) || !strings.Contains(err.Error(), a.Name()) {
		t.Errorf("a prefix that another device has: %v", err)
	}
}

func openDeviceIn(h *host) (d *device, err error) {
	h.in(func() { d, err = openDevice("other%d") })
	return d, err
}

// Without the right the error says which.
func TestNoRight(t *testing.T) {
	if os.Getenv("IDLOC_TUN_NO_RIGHT") != "" {
		before, _ := os.ReadDir("/proc/self/fd")
		_, err := openDevice("idloc%d")
		if after, _ := os.ReadDir("/proc/self/fd"); len(after) != len(before) {
			t.Errorf("%d descriptors, %d before", len(after), len(before))
		}
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("without the right: %v", err)
		}
		return
	}
	newSpace(t) // or skip
	// Root in a user namespace that does not own the network.
	cmd := again(unix.CLONE_NEWUSER, "-test.run=^TestNoRight$")
	cmd.Env = append(os.Environ(), "IDLOC_TUN_NO_RIGHT=1")
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"a%sb", "much-too-long-for-a-device"} {
		if _, err := openDevice(name); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("device %q: %v", name, err)
		}
	}
}
