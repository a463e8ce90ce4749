package tun

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim/shimtest"
)

// eth0 is a network card of a host, with the default routes: whoever reads the
// device sees what leaves the host.
type eth0 struct {
	*device
	v4, v6 netip.Addr
}

func newEth0(tb testing.TB, s *space) *eth0 {
	tb.Helper()
	e := &eth0{v4: netip.MustParseAddr("192.0.2.1"), v6: netip.MustParseAddr("2001:db8::1")}
	var err error
	s.in(func() { e.device, err = openDevice("eth0") })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.discard)
	if err = e.up(); err == nil {
		err = errors.Join(e.addAddr(e.v4), e.addAddr(e.v6), e.route("0.0.0.0/0", 0), e.route("::/0", 0))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// route makes a route by the device, of somebody who is no node. With a kind
// it leads nowhere.
func (d *device) route(to string, kind byte) error {
	p := netip.MustParsePrefix(to)
	b := []byte{family(p.Addr()), byte(p.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, max(kind, unix.RTN_UNICAST), 0, 0, 0, 0}
	b = append(b, attributes(func(ae *nl.AttributeEncoder) { ae.Bytes(unix.RTA_DST, p.Addr().AsSlice()) })...)
	if kind == 0 {
		b = append(b, attr32(unix.RTA_OIF, uint32(d.index))...)
	} else {
		b[6] = unix.RT_SCOPE_UNIVERSE
		b = append(b, attr32(unix.RTA_PRIORITY, 5000)...)
	}
	_, err := d.netlink.ask(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, b)
	return err
}

// none fails if a packet to an LSI has left the host by e since the last call.
// The host sends one to another address last.
func (e *eth0) none(tb testing.TB, s *space) {
	tb.Helper()
	const end = "that was all"
	if err := send(s, netip.MustParseAddr("203.0.113.9"), netip.Addr{}, end); err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, 1<<16)
	for {
		n, err := e.read(b)
		if err != nil {
			tb.Fatal(err)
		}
		p := b[vnetLen:n]
		if bytes.HasSuffix(p, []byte(end)) {
			return
		}
		dst := netip.AddrFrom4([4]byte(p[16:]))
		if p[0]>>4 == 6 {
			dst = netip.AddrFrom16([16]byte(p[24:]))
		}
		if !dst.IsMulticast() {
			tb.Errorf("a packet to %v left the host", dst)
		}
	}
}

// send sends a datagram from a socket that is bound to from, if that is valid,
// and returns the error of the kernel, one that comes a little later too.
func send(s *space, to, from netip.Addr, text string) (err error) {
	s.in(func() {
		var d net.Dialer
		if from.IsValid() {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		var c net.Conn
		if c, err = d.Dial("udp", netip.AddrPortFrom(to, 9).String()); err != nil {
			return
		}
		defer c.Close()
		if _, err = c.Write([]byte(text)); err != nil || !from.IsValid() {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err = c.Read(make([]byte, 1))
	})
	return err
}

// dial connects by TCP from a socket that is bound to from.
func dial(s *space, to, from netip.Addr) (err error) {
	s.in(func() {
		d := net.Dialer{Timeout: 30 * time.Second}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		var c net.Conn
		if c, err = d.Dial("tcp", netip.AddrPortFrom(to, 80).String()); err == nil {
			c.Close()
		}
	})
	return err
}

// guards lists the unreachable routes that nodes made.
func guards(tb testing.TB, s *space) (list []string) {
	tb.Helper()
	s.in(func() {
		n, err := newNetlink()
		if err != nil {
			tb.Error(err)
			return
		}
		defer n.close()
		have, err := (&device{netlink: n}).networks()
		if err != nil {
			tb.Error(err)
		}
		for _, h := range have {
			if h.ours && h.reject {
				list = append(list, h.prefix.String())
			}
		}
	})
	return list
}

const victimEnv = "IDLOC_TUN_VICTIM" // the name of a device

// runVictim is a process with a Host that is killed.
func runVictim() int {
	fail := func(err error) int { fmt.Println("failed:", err); return 1 }
	n := shimtest.NewNet()
	tb := &testing.B{}
	d := n.Node(tb, nil)
	if _, err := New(Config{Shim: d.Shim, Name: os.Getenv(victimEnv)}); err != nil {
		return fail(err)
	}
	fmt.Println("up")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// victim starts a process with a Host in s. kill ends it as a crash does.
func victim(tb testing.TB, s *space, name string) (kill func()) {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimEnv+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // that it ends with this process
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	s.in(func() { err = cmd.Start() })
	if err != nil {
		tb.Fatal(err)
	}
	ended := false
	kill = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			in.Close()
		}
	}
	tb.Cleanup(kill)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		tb.Fatalf("a process with a Host: %s", line)
	}
	return kill
}

// While a node is down, however it ended, nothing that is sent to an LSI leaves
// the host; an orderly end is the host's own again.
func TestDown(t *testing.T) {
	s := newSpace(t)
	eth := newEth0(t, s)
	some := []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("2001:21::2")}
	kill := victim(t, s, "idloc0")
	for _, to := range some {
		if err := send(s, to, netip.Addr{}, "up"); err != nil {
			t.Errorf("%v while the node is up: %v", to, err)
		}
	}
	eth.none(t, s)
	kill()
	for range 2 {
		for _, to := range some {
			if err := send(s, to, netip.Addr{}, "down"); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("a datagram to %v while the node is down: %v", to, err)
			}
			if err := dial(s, to, netip.Addr{}); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("a connection to %v while the node is down: %v", to, err)
			}
			if err := send(s, to, map[bool]netip.Addr{true: eth.v4, false: eth.v6}[to.Is4()], "bound"); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("a datagram from another address to %v while the node is down: %v", to, err)
			}
		}
		eth.none(t, s)
		// Again, after a restart that ended in the same way.
		victim(t, s, "idloc0")()
	}
	if got := guards(t, s); len(got) != 2 {
		t.Errorf("a crash leaves %v", got)
	}

	h := &host{space: s, Node: shimtest.NewNet().Node(t, nil)}
	var err error
	s.in(func() { h.Host, err = New(Config{Shim: h.Shim}) })
	if err != nil {
		t.Fatal("a start after a crash:", err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if err := send(s, some[1], netip.Addr{}, "up again"); err != nil {
		t.Error(err)
	}
	eth.none(t, s)
	// Somebody sets the device down.
	if err := h.dev.netlink.change(h.dev.index, 0, nil, unix.IFF_UP); err != nil {
		t.Fatal(err)
	}
	v4, v6 := h.Table.Self()
	for _, to := range []netip.Addr{v4.Next(), v6.Next()} {
		if err := send(s, to, netip.Addr{}, "down"); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("a datagram to %v while the device is down: %v", to, err)
		}
	}
	eth.none(t, s)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	mine, _ := h.Table.Prefixes()
	for _, p := range guards(t, s) {
		if p == mine.String() || strings.HasPrefix(p, "2001:") {
			t.Errorf("an orderly end leaves %v", p)
		}
	}
}

// Two nodes of one host: the first that ends leaves what the other needs.
func TestDownBeside(t *testing.T) {
	n := shimtest.NewNet()
	s := newSpace(t)
	var hosts []*host
	for range 2 {
		h := &host{space: s, Node: n.Node(t, nil)}
		var err error
		s.in(func() { h.Host, err = New(Config{Shim: h.Shim}) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		hosts = append(hosts, h)
	}
	want := func(when string, list ...string) {
		t.Helper()
		if got := guards(t, s); !slices.Equal(got, list) {
			t.Errorf("%s: %v is unreachable, want %v", when, got, list)
		}
	}
	p0, six := hosts[0].Table.Prefixes()
	p1, _ := hosts[1].Table.Prefixes()
	both := []string{p0.String(), p1.String()}
	slices.Sort(both)
	want("two nodes", append(both, six.String())...)
	if err := hosts[0].Close(); err != nil {
		t.Error(err)
	}
	want("one has ended", p1.String(), six.String())
	if err := hosts[1].Close(); err != nil {
		t.Error(err)
	}
	want("both have ended")
}

// A host that has what would be hidden gets an error that says so, and nothing
// is left behind; what is only in the way to everything is no reason.
func TestHostHasIt(t *testing.T) {
	for _, c := range []struct {
		what, taken string
		do          func(e *eth0, p netip.Prefix) error
	}{
		{"a route", "198.18.0.0/15", func(e *eth0, _ netip.Prefix) error { return e.route("198.18.0.0/15", 0) }},
		{"an address", "", func(e *eth0, p netip.Prefix) error { return e.addAddr(p.Addr().Next().Next().Next()) }},
		{"a route, and what a crash left", "198.18.0.0/15", func(e *eth0, p netip.Prefix) error {
			return errors.Join(e.guard(p), e.route("198.18.0.0/15", 0))
		}},
		{"an IPv6 route", "2001:20::/28", func(e *eth0, _ netip.Prefix) error { return e.route("2001:20::/28", 0) }},
		{"an IPv6 address", "2001:2a::1/128", func(e *eth0, _ netip.Prefix) error { return e.addAddr(netip.MustParseAddr("2001:2a::1")) }},
		{"half of everything", "no", func(e *eth0, _ netip.Prefix) error { return e.route("128.0.0.0/1", 0) }},
		{"what is nobody's made unreachable", "no", func(e *eth0, _ netip.Prefix) error {
			return errors.Join(e.route("198.18.0.0/15", unix.RTN_BLACKHOLE), e.route("2001::/23", unix.RTN_UNREACHABLE))
		}},
		{"the LSIs made unreachable for good", "no", func(e *eth0, p netip.Prefix) error {
			return errors.Join(e.route(p.String(), unix.RTN_UNREACHABLE), e.route("2001:20::/28", unix.RTN_UNREACHABLE))
		}},
		{"a smaller prefix that a crash left", "no", func(e *eth0, p netip.Prefix) error {
			return e.guard(netip.PrefixFrom(p.Addr(), 24))
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newSpace(t)
			eth := newEth0(t, s)
			node := shimtest.NewNet().Node(t, nil)
			v4, v6 := node.Table.Prefixes()
			if err := c.do(eth, v4); err != nil {
				t.Fatal(err)
			}
			var h *Host
			var err error
			s.in(func() { h, err = New(Config{Shim: node.Shim, Name: "idloc0"}) })
			if c.taken == "no" {
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range []netip.Prefix{v4, v6} {
					if i, err := h.dev.netlink.leads(p.Addr().Next().Next()); err != nil || i != int(h.dev.index) {
						t.Errorf("%v goes to device %d: %v", p, i, err)
					}
				}
				s.in(func() { err = h.Close(t.Context()) })
				if err != nil {
					t.Error(err)
				}
				if got := guards(t, s); len(got) != 0 {
					t.Errorf("left behind: %v", got)
				}
				return
			}
			var p *PrefixError
			if !errors.As(err, &p) {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(err.Error(), "eth0") || c.taken != "" && p.Taken.String() != c.taken {
				t.Errorf("%v", err)
			}
			if p.Prefix == v4 && (!p.Free.IsValid() || !strings.Contains(err.Error(), p.Free.String())) {
				t.Errorf("it proposes nothing: %v", err)
			}
			s.in(func() {
				if _, err := net.InterfaceByName("idloc0"); err == nil {
					t.Error("a device is left behind")
				}
			})
			if got := guards(t, s); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

// A program that is bound to another address of the host, or another host that
// is behind this one, is told at once that it cannot.
func TestOtherSource(t *testing.T) {
	s := newSpace(t)
	eth := newEth0(t, s)
	h := &host{space: s, Node: shimtest.NewNet().Node(t, nil)}
	var err error
	s.in(func() { h.Host, err = New(Config{Shim: h.Shim}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	peer := shimtest.NewNet().Node(t, nil)
	v4, v6 := h.LSI(t, peer)
	for _, c := range []struct {
		to, from netip.Addr
		want     syscall.Errno
	}{{v4, eth.v4, syscall.EHOSTUNREACH}, {v6, eth.v6, syscall.EACCES}} {
		if err := dial(s, c.to, c.from); !errors.Is(err, c.want) {
			t.Errorf("a connection from %v to %v: %v", c.from, c.to, err)
		}
		if err := send(s, c.to, c.from, "hi"); !errors.Is(err, c.want) {
			t.Errorf("a datagram from %v to %v: %v", c.from, c.to, err)
		}
	}
	if n := h.Shim.Stats().Drops["out-source"]; n < 4 {
		t.Errorf("%d packets of other sources were counted", n)
	}
	if h.Connects.Load() != 0 {
		t.Error("a pipe was asked for")
	}
	eth.none(t, s)

	// A host behind this one, which forwards.
	s.in(func() {
		for _, f := range []string{"ipv4/ip_forward", "ipv4/conf/all/rp_filter"} {
			v := "1"
			if strings.HasSuffix(f, "filter") {
				v = "0"
			}
			if err := os.WriteFile("/proc/sys/net/"+f, []byte(v), 0); err != nil {
				t.Skip("forwarding: ", err)
			}
		}
	})
	other := netip.MustParseAddr("192.0.2.77")
	p := between(packet(false, inner.UDP, udpHeader(4), 4), other.String(), v4.String())
	p = append(p, "ping"...)
	var vnet [vnetLen]byte
	finish(&vnet, said(p), p[:inner.IPv4Len+8], p[inner.IPv4Len+8:], 0)
	binary.BigEndian.PutUint16(p[10:], headerSum(p[:inner.IPv4Len]))
	f := framePool.Get().(*frame)
	f.vnet = vnet
	if !eth.write(f, p, nil) {
		t.Fatal("the kernel does not take a packet of eth0")
	}
	b := make([]byte, 1<<16)
	for {
		n, err := eth.read(b)
		if err != nil {
			t.Fatal(err)
		}
		if a := b[vnetLen:n]; a[0]>>4 == 4 && a[9] == inner.ICMP {
			a[8] = ttl // it was forwarded
			a[10], a[11] = 0, 0
			binary.BigEndian.PutUint16(a[10:], headerSum(a[:inner.IPv4Len]))
			if netip.AddrFrom4([4]byte(a[16:])) != other || a[inner.IPv4Len] != 3 || a[inner.IPv4Len+1] != 13 {
				t.Errorf("the other host got % x", a)
			}
			return
		}
	}
}
