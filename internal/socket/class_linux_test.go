package socket

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/internal/yardstick"
)

// classReader is a socket of the kernel's that is told the traffic class of
// each datagram.
func classReader(t *testing.T, a netip.Addr) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVTOS
	if a.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS
	}
	if cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return c
}

// readClass returns a datagram's length and traffic class.
func readClass(t *testing.T, c *net.UDPConn) (n, class int) {
	t.Helper()
	b, oob := make([]byte, maxRead), make([]byte, 64)
	n, oobn, _, _, err := c.ReadMsgUDP(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS:
			return n, int(m.Data[0])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS:
			return n, int(m.Data[0])
		}
	}
	t.Fatal("no traffic class was told")
	return 0, 0
}

// The kernel sees the class of single datagrams and of runs that one call
// sends, by our own system calls and by package net's, and none beside it.
func TestTrafficClassOnTheWire(t *testing.T) {
	for _, a := range []netip.Addr{lo4, lo6} {
		for _, own := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v own %v", a, own), func(t *testing.T) {
				from, _ := linkOn(t, a, own)
				to := classReader(t, a)
				at := to.LocalAddr().(*net.UDPAddr).AddrPort()
				for _, class := range []uint8{0xb8, 0, 0x20, 0xfc, 0} {
					for _, n := range []int{100, 3*1000 + 1} {
						if err := from.write(bytes.Repeat([]byte{1}, n), min(n, 1000), at, class); err != nil {
							t.Fatal(err)
						}
						for left := n; left > 0; {
							k, got := readClass(t, to)
							if k != min(left, 1000) || got != int(class) {
								t.Fatalf("%d bytes of class %#x, want %d of %#x", k, got, min(left, 1000), class)
							}
							left -= k
						}
					}
				}
				if from.plain.Load() {
					t.Error("a class was refused")
				}
			})
		}
	}
}

// A link tells the class of what it has read, be it one datagram or a run.
func TestClassRead(t *testing.T) {
	for _, a := range []netip.Addr{lo4, netip.IPv6Loopback()} {
		from, err := listenKernel(netip.AddrPortFrom(a, 0), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Log(a, err)
			continue
		}
		to, err := listenKernel(netip.AddrPortFrom(a, 0), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		port, _ := to.port()
		b := make([]byte, maxRead)
		for _, class := range []uint8{2, 3, 0, 0xb8 | 2, 1} {
			if err := from.write(make([]byte, 3000), 1000, netip.AddrPortFrom(a, port), class); err != nil {
				t.Fatal(err)
			}
			for left := 3000; left > 0; {
				n, _, _, err := to.read(b)
				if err != nil {
					t.Fatal(err)
				}
				if left -= n; to.class != class {
					t.Errorf("%v: class %#x, want %#x", a, to.class, class)
				}
			}
		}
		_, _ = from.close(), to.close()
	}
}

// refusing is a link whose system refuses control messages with a class.
func refusing(t *testing.T, err error) (l *kernelLink, calls *[]int) {
	l, _ = linkOn(t, lo4, true)
	calls = new([]int)
	l.send = func(b, oob []byte, _ netip.AddrPort) (int, int, error) {
		*calls = append(*calls, len(oob))
		messages, perr := unix.ParseSocketControlMessage(oob)
		if perr != nil {
			t.Error(perr)
		}
		for _, m := range messages {
			if m.Header.Level == unix.IPPROTO_IP {
				return 0, 0, err
			}
		}
		return len(b), 0, nil
	}
	return l, calls
}

// Where the system refuses the class, what was to have it is sent without, and
// no class is tried again. Segmentation is not to blame.
func TestTrafficClassRefused(t *testing.T) {
	to := netip.AddrPortFrom(lo4, 9)
	for _, errno := range []syscall.Errno{unix.EINVAL, unix.EPERM} {
		l, calls := refusing(t, errno)
		if err := l.write(make([]byte, 50), 50, to, 0xb8); err != nil {
			t.Fatal(errno, err)
		}
		if err := l.write(make([]byte, 50), 50, to, 0xb8); err != nil {
			t.Fatal(errno, err)
		}
		space := unix.CmsgSpace(4)
		if got := *calls; fmt.Sprint(got) != fmt.Sprint([]int{space, 0, 0}) {
			t.Errorf("%v: control messages of %v bytes", errno, got)
		}
	}
	l, _ := refusing(t, unix.EINVAL)
	l.gso.Store(true)
	if err := l.write(make([]byte, 100), 50, to, 0xb8); err != nil {
		t.Fatal(err)
	}
	if !l.gso.Load() || !l.plain.Load() {
		t.Errorf("segmentation %v, no classes %v; want true, true", l.gso.Load(), l.plain.Load())
	}
	// What fails without a class too is no refusal of classes.
	l, _ = linkOn(t, lo4, true)
	l.log = slog.New(slog.DiscardHandler)
	l.send = func([]byte, []byte, netip.AddrPort) (int, int, error) { return 0, 0, unix.EPERM }
	if err := l.write(make([]byte, 50), 50, to, 0xb8); err != unix.EPERM || l.plain.Load() {
		t.Errorf("%v, no classes %v", err, l.plain.Load())
	}
}

func TestTrafficClassDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("pools lose what they hold under the race detector")
	}
	l, at := linkOn(t, lo4, true)
	b := make([]byte, 2000)
	for _, seg := range []int{1000, 2000} {
		if n := yardstick.Allocs(500, func() {
			if err := l.write(b, seg, at, 0xb8); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("in pieces of %d: %v allocations", seg, n)
		}
	}
}
