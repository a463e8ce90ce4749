package tun

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/shim/shimtest"
)

// dialer is what both kinds of peers have.
type dialer interface {
	DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error)
	ListenTCP(network string, laddr netip.AddrPort, backlog int) (net.Listener, error)
	DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error)
	ListenUDP(network string, laddr netip.AddrPort) (net.PacketConn, error)
}

// in makes a host's sockets in its namespace.
type in struct{ *host }

func (h in) DialTCP(ctx context.Context, n string, l, r netip.AddrPort) (c net.Conn, err error) {
	h.in(func() { c, err = h.Host.DialTCP(ctx, n, l, r) })
	return
}
func (h in) ListenTCP(n string, l netip.AddrPort, k int) (c net.Listener, err error) {
	h.in(func() { c, err = h.Host.ListenTCP(n, l, k) })
	return
}
func (h in) DialUDP(ctx context.Context, n string, l, r netip.AddrPort) (c net.Conn, err error) {
	h.in(func() { c, err = h.Host.DialUDP(ctx, n, l, r) })
	return
}
func (h in) ListenUDP(n string, l netip.AddrPort) (c net.PacketConn, err error) {
	h.in(func() { c, err = h.Host.ListenUDP(n, l) })
	return
}

// snmp reads the kernel's counters of the namespace (proc_pid_net(5)), by group and name.
func (s *space) snmp(tb testing.TB) map[string]int {
	tb.Helper()
	all := map[string]int{}
	s.in(func() {
		for _, path := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6", "/proc/thread-self/net/netstat"} {
			b, err := os.ReadFile(path)
			if err != nil {
				tb.Error(err)
				return
			}
			var names []string
			for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
				w := strings.Fields(sc.Text())
				if len(w) == 2 {
					all[w[0]], _ = strconv.Atoi(w[1])
				} else if names == nil {
					names = w
				} else {
					for i := 1; i < len(w); i++ {
						all[strings.TrimSuffix(w[0], ":")+names[i]], _ = strconv.Atoi(w[i])
					}
					names = nil
				}
			}
		}
	})
	return all
}

// sound fails if the kernel found a checksum wrong, or any packet malformed.
func (s *space) sound(tb testing.TB) {
	tb.Helper()
	m := s.snmp(tb)
	if m["TcpInSegs"] == 0 {
		tb.Error("the kernel counts no TCP segments: the counters were not read")
	}
	// A SYN that comes once more, as from who was busy when it was answered, is an error too.
	if n := m["TcpInErrs"] - m["TcpExtTCPSYNChallenge"]; n > 0 {
		tb.Errorf("TcpInErrs = %d, of which %d were SYNs", m["TcpInErrs"], m["TcpExtTCPSYNChallenge"])
	}
	for _, name := range []string{"TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "IcmpInCsumErrors", "Icmp6InCsumErrors", "IpInHdrErrors", "Ip6InHdrErrors", "IpReasmFails", "Ip6ReasmFails"} {
		if m[name] != 0 {
			tb.Errorf("%s = %d", name, m[name])
		}
	}
}

// Every pair of kernel and gVisor, both families: bulk both ways at once over
// TCP, then datagrams from empty to the largest.
func TestTraffic(t *testing.T) {
	n := shimtest.NewNet()
	a, b, c := newHost(t, n, nil), newHost(t, n, nil), newStack(t, n)
	for _, p := range []struct {
		name   string
		d, l   dialer
		dn, ln *shimtest.Node
	}{
		{"kernel to kernel", in{a}, in{b}, a.Node, b.Node},
		{"kernel to gVisor", in{a}, c, a.Node, c.Node},
		{"gVisor to kernel", c, in{b}, c.Node, b.Node},
	} {
		v4, v6 := p.dn.LSI(t, p.ln)
		for _, to := range []netip.Addr{v4, v6} {
			t.Run(fmt.Sprintf("%s/%v", p.name, to.Is4()), func(t *testing.T) {
				bulk(t, p.d, p.l, to)
				datagrams(t, p.d, p.l, to)
			})
		}
	}
	a.sound(t)
	b.sound(t)
	for _, h := range []*host{a, b} {
		if d := h.Drops(); len(d) > 0 {
			t.Errorf("dropped at the device: %v", d)
		}
	}
	if merged := b.Shim.Stats().Merged; merged == 0 {
		t.Error("no run was merged for the kernel")
	}
}

func bulk(t *testing.T, d, l dialer, to netip.Addr) {
	ln, err := l.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := make([]byte, 2<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	want := sha256.Sum256(data)
	both := func(c net.Conn, done chan<- error) {
		go func() {
			_, err := c.Write(data)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			done <- err
		}()
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err == nil && [32]byte(h.Sum(nil)) != want {
			err = fmt.Errorf("%d bytes arrived, and not the right ones", n)
		}
		done <- err
	}
	done := make(chan error, 4)
	go func() {
		s, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer s.Close()
		_ = s.SetDeadline(time.Now().Add(2 * time.Minute))
		wait := make(chan error, 2)
		both(s, wait)
		done <- errors.Join(<-wait, <-wait)
	}()
	c, err := d.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, addrOf(ln.Addr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	both(c, done)
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func datagrams(t *testing.T, d, l dialer, to netip.Addr) {
	pc, err := l.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := d.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(to, addrOf(pc.LocalAddr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(2 * time.Minute)
	_, _ = c.SetDeadline(deadline), pc.SetDeadline(deadline)
	buf := make([]byte, 1<<16)
	for _, n := range []int{0, 1, 64, 1400, 1500, 9000, 65000} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i + n)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		k, from, err := pc.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:k], b) {
			t.Fatalf("%d bytes: %d came, %v", n, k, err)
		}
		if _, err := pc.WriteTo(b, from); err != nil {
			t.Fatal(err)
		}
		if k, err = c.Read(buf); err != nil || !bytes.Equal(buf[:k], b) {
			t.Fatalf("%d bytes: %d came back, %v", n, k, err)
		}
	}
}

func addrOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

// Datagrams that the kernel cuts itself come whole out of the other kernel,
// and out of gVisor: the checksum is right there though it covers other
// addresses.
func TestKernelFragments(t *testing.T) {
	n := shimtest.NewNet()
	a, b, c := newHost(t, n, nil), newHost(t, n, nil), newStack(t, n)
	if err := a.dev.netlink.link(a.dev.index, attr32(unix.IFLA_MTU, 1280)...); err != nil {
		t.Fatal(err)
	}
	before := a.snmp(t)
	for _, p := range []struct {
		l  dialer
		ln *shimtest.Node
	}{{in{b}, b.Node}, {c, c.Node}} {
		v4, v6 := a.LSI(t, p.ln)
		datagrams(t, in{a}, p.l, v4)
		datagrams(t, in{a}, p.l, v6)
	}
	after := a.snmp(t)
	for _, name := range []string{"IpFragOKs", "Ip6FragOKs"} {
		if after[name] == before[name] {
			t.Errorf("%s did not rise: the kernel sent no fragments", name)
		}
	}
	m := b.snmp(t)
	if m["IpReasmOKs"] == 0 || m["Ip6ReasmOKs"] == 0 {
		t.Error("the other kernel put nothing together")
	}
	for _, name := range []string{"UdpInCsumErrors", "Udp6InCsumErrors", "UdpInErrors", "Udp6InErrors", "IpReasmFails", "Ip6ReasmFails"} {
		if m[name] != 0 {
			t.Errorf("%s = %d", name, m[name])
		}
	}
}

// UDP_SEGMENT: one write of the program, a super packet of the kernel, and
// datagrams at the other end. What comes in together goes up together, and a
// program that knows nothing of UDP_GRO sees datagrams.
func TestUDPSuperPackets(t *testing.T) {
	n := shimtest.NewNet()
	a, b, c := newHost(t, n, nil), newHost(t, n, nil), newStack(t, n)
	for _, p := range []struct {
		l  dialer
		ln *shimtest.Node
	}{{in{b}, b.Node}, {c, c.Node}} {
		v4, v6 := a.LSI(t, p.ln)
		for _, to := range []netip.Addr{v4, v6} {
			for _, size := range []int{1, 100, 1200, 2000} {
				segments(t, in{a}, p.l, to, size)
			}
		}
	}
	if a.dev.datagrams && b.Shim.Stats().Merged == 0 {
		t.Error("no run of datagrams was merged")
	}
}

func segments(t *testing.T, d, l dialer, to netip.Addr, size int) {
	pc, err := l.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := d.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(to, addrOf(pc.LocalAddr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(2 * time.Minute)
	_, _ = c.SetDeadline(deadline), pc.SetDeadline(deadline)
	buf := make([]byte, 1<<16)
	// The pipe first: what is held for one is bounded.
	_, _ = c.Write([]byte{0})
	if _, _, err := pc.ReadFrom(buf); err != nil {
		t.Fatal(err)
	}
	raw, err := c.(*udpConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	}); e != nil || err != nil {
		t.Skip("UDP_SEGMENT: ", e, err)
	}
	const count = 10
	super := make([]byte, count*size+size/2)
	for i := range super {
		super[i] = byte(i * 5)
	}
	if _, err := c.Write(super); err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(super); off += size {
		want := super[off:min(off+size, len(super))]
		if n, _, err := pc.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Fatalf("%v, %d bytes each: at %d came %d, %v", to, size, off, n, err)
		}
	}
}

// Whoever captures on the host sees correct checksums, not only the kernel,
// which would believe the mark of an offload.
func TestChecksumOnDelivery(t *testing.T) {
	n := shimtest.NewNet()
	a, c := newHost(t, n, nil), newStack(t, n)
	v4, _ := c.LSI(t, a.Node)
	var fd int
	var err error
	a.in(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Sec: 10}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	pc, err := in{a}.ListenUDP("udp", netip.AddrPort{}) // so that nobody is told of a closed port
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	u, err := c.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(v4, addrOf(pc.LocalAddr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	buf := make([]byte, 1<<16)
	for _, size := range []int{0, 1, 7, 1300, 30001} {
		if _, err := u.Write(bytes.Repeat([]byte{0xa7}, size)); err != nil {
			t.Fatal(err)
		}
		k, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatal(err)
		}
		ip := header.IPv4(buf[:k])
		udp := header.UDP(ip.Payload())
		if !ip.IsChecksumValid() || udp.Checksum() == 0 ||
			!udp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), checksumOf(udp.Payload())) {
			t.Errorf("%d bytes: checksum %#x is not right", size, udp.Checksum())
		}
	}
}

// A LSI that is nobody's, a peer that cannot be reached and one whose policy
// refuses are told by ICMP at once, to TCP and UDP.
func TestUnreachable(t *testing.T) {
	n := shimtest.NewNet()
	a, b := newHost(t, n, nil), newStack(t, n)
	why := errors.New("no path")
	a.OnConnect = func(context.Context, peerid.ID) error { return why }
	v4, v6 := a.LSI(t, b.Node)
	nobody := v4.Next().Next().Next()
	for _, to := range []netip.Addr{v4, v6, nobody} {
		_, err := in{a}.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, 80))
		if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%v: %v", to, err)
		}
		u, err := in{a}.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(to, 80))
		if err != nil {
			t.Fatal(err)
		}
		_ = u.SetDeadline(time.Now().Add(2 * time.Minute))
		raw, err := u.(*udpConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { // as programs do that want to know: ip(7)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		})
		if _, err := u.Write([]byte("x")); err == nil {
			_, err = u.Read(make([]byte, 1))
			if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("UDP to %v: %v", to, err)
			}
		}
		u.Close()
	}
	_, err := in{a}.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.1:80"))
	if !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("an address that is no LSI: %v", err)
	}
}

// A closed port of the kernel refuses at once, and one that Admit refuses looks
// the same; Admit is asked about both directions' first packet only.
func TestAdmit(t *testing.T) {
	n := shimtest.NewNet()
	asked := make(chan string, 100)
	a := newHost(t, n, func(network string, local, remote netip.AddrPort) bool {
		asked <- fmt.Sprint(network, " ", local.Port())
		return local.Port() == 2000
	})
	b := newStack(t, n)
	ln, err := in{a}.ListenTCP("tcp", netip.AddrPortFrom(a.v4, 2000), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	refused, err := in{a}.ListenTCP("tcp", netip.AddrPortFrom(a.v4, 2001), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	pc, err := in{a}.ListenUDP("udp", netip.AddrPortFrom(a.v4, 2000))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	v4, _ := b.LSI(t, a.Node)

	c, err := b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(v4, 2000))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(v4, 2001)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused TCP: %v", err)
	}
	u, err := b.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(v4, 2000))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	buf := make([]byte, 10)
	_ = pc.SetDeadline(time.Now().Add(2 * time.Minute))
	for range 3 {
		_, _ = u.Write([]byte("hi"))
		if _, _, err := pc.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	u2, err := b.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(v4, 2001))
	if err != nil {
		t.Fatal(err)
	}
	defer u2.Close()
	_ = u2.SetDeadline(time.Now().Add(2 * time.Minute))
	_, _ = u2.Write([]byte("hi"))
	if _, err := u2.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused UDP: %v", err)
	}
	// What the host begins is not asked about.
	vb, _ := a.LSI(t, b.Node)
	echo, err := b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	own, err := in{a}.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(vb, addrOf(echo.LocalAddr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	_, _ = own.SetDeadline(time.Now().Add(10*time.Second)), echo.SetDeadline(time.Now().Add(10*time.Second))
	_, _ = own.Write([]byte("hi"))
	_, from, err := echo.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = echo.WriteTo([]byte("ho"), from)
	if _, err := own.Read(buf); err != nil {
		t.Error(err)
	}
	close(asked)
	var all []string
	for s := range asked {
		all = append(all, s)
	}
	if got, want := strings.Join(all, ", "), "tcp 2000, tcp 2001, udp 2000, udp 2001"; got != want {
		t.Errorf("asked about %s; want %s", got, want)
	}
	if st := a.Stats(); st.Refused != 2 {
		t.Errorf("%d refused", st.Refused)
	}
}

// A flow that is refused does not come in as fragments either.
func TestAdmitFragments(t *testing.T) {
	n := shimtest.NewNet()
	refused := make(chan uint16, 100)
	a := newHost(t, n, func(_ string, local, _ netip.AddrPort) bool {
		refused <- local.Port()
		return false
	})
	b := newHost(t, n, nil)
	if err := b.dev.netlink.link(b.dev.index, attr32(unix.IFLA_MTU, 1280)...); err != nil {
		t.Fatal(err)
	}
	v4, v6 := b.LSI(t, a.Node)
	for _, to := range []netip.Addr{v4, v6} {
		pc, err := in{a}.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		port := addrOf(pc.LocalAddr()).Port()
		c, err := in{b}.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(to, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("fragments to a port that is refused: %v", err)
		}
		if p := <-refused; p != port {
			t.Errorf("asked about port %d, want %d", p, port)
		}
	}
	for name, n := range a.snmp(t) {
		if (name == "UdpInDatagrams" || name == "Udp6InDatagrams") && n != 0 {
			t.Errorf("%s = %d", name, n)
		}
	}
}
