package socket

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockopt runs f on the descriptor of c's socket.
func sockopt(t *testing.T, c *Conn, f func(fd int) error) {
	t.Helper()
	rc, err := c.link.(*kernelLink).conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { err = f(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSocketOptions(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4, lo6}})
	for _, c := range p.Conns() {
		sockopt(t, c, func(fd int) error {
			n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			if err != nil {
				return err
			}
			t.Logf("%v: receive buffer %d", c, n)
			level, opt := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
			if c.LocalAddr().Addr().Is6() {
				level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
			}
			if n, err = unix.GetsockoptInt(fd, level, opt); n != unix.IP_PMTUDISC_PROBE {
				t.Errorf("%v: MTU discovery %d", c, n)
			}
			return err
		})
	}
}

// Without checksums the kernel refuses UDP_SEGMENT, as it does on interfaces
// that cannot compute them.
func TestGSORefusedByTheKernel(t *testing.T) {
	a, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	b, ch := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	c := a.Conns()[0]
	if gso, _ := c.link.offloads(); !gso {
		t.Skip("this kernel has no UDP_SEGMENT")
	}
	sockopt(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	want := batch(20, 1200, 33)
	for range 2 {
		if err := c.WriteBatch(want, 1200, b.Conns()[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		collect(t, ch, want, 1200)
		if gso, _ := c.link.offloads(); gso {
			t.Error("the refusal was not remembered")
		}
	}
	if a.Stats().Sockets[0].GSO {
		t.Error("Stats says GSO")
	}
}

// faulty makes c's send fail with err as long as bad says so.
func faulty(c *Conn, bad func(n int, b, oob []byte) error) *atomic.Int64 {
	l, calls := c.link.(*kernelLink), new(atomic.Int64)
	send := l.send
	l.send = func(b, oob []byte, to netip.AddrPort) (int, int, error) {
		if err := bad(int(calls.Add(1)), b, oob); err != nil {
			return 0, 0, err
		}
		return send(b, oob, to)
	}
	return calls
}

func TestSendFaults(t *testing.T) {
	for _, x := range []struct {
		what  string
		bad   func(n int, b, oob []byte) error
		want  error
		calls int64 // for 3 datagrams of 100 bytes
		gso   bool  // still on
	}{
		{"none", func(int, []byte, []byte) error { return nil }, nil, 1, true},
		{"driver without checksums", func(_ int, _, oob []byte) error {
			if oob != nil {
				return syscall.EIO
			}
			return nil
		}, nil, 4, false},
		{"segment longer than the MTU", func(_ int, b, oob []byte) error {
			if oob != nil {
				return syscall.EINVAL
			}
			return syscall.EMSGSIZE
		}, ErrMessageTooLong, 2, true},
		{"queue of the interface full for a moment", func(n int, _, _ []byte) error {
			if n < 3 {
				return syscall.ENOBUFS
			}
			return nil
		}, nil, 3, true},
		{"queue of the interface full", func(int, []byte, []byte) error { return syscall.ENOBUFS }, ErrBusy, 5, true},
		{"error of an earlier datagram", func(n int, _, _ []byte) error {
			if n == 1 {
				return syscall.ECONNREFUSED
			}
			return nil
		}, nil, 2, true},
		{"send buffer full", func(int, []byte, []byte) error { return os.ErrDeadlineExceeded }, ErrBusy, 1, true},
		{"no route", func(int, []byte, []byte) error { return syscall.ENETUNREACH }, syscall.ENETUNREACH, 1, true},
	} {
		t.Run(x.what, func(t *testing.T) {
			a, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
			b, ch := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
			c := a.Conns()[0]
			if gso, _ := c.link.offloads(); !gso {
				t.Skip("this kernel has no UDP_SEGMENT")
			}
			calls := faulty(c, x.bad)
			want := batch(3, 100, 0)
			if err := c.WriteBatch(want, 100, b.Conns()[0].LocalAddr()); !errors.Is(err, x.want) {
				t.Errorf("%v, want %v", err, x.want)
			}
			if x.want == nil {
				collect(t, ch, want, 100)
			}
			if calls.Load() != x.calls {
				t.Errorf("%d send calls, want %d", calls.Load(), x.calls)
			}
			if gso, _ := c.link.offloads(); gso != x.gso {
				t.Errorf("GSO %v, want %v", gso, x.gso)
			}
		})
	}
}

// The plain paths, which other systems take.
func TestWithoutOffloads(t *testing.T) {
	a, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	pair, err := listenKernel(netip.AddrPortFrom(lo4, 0), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer pair.close()
	rc, _ := pair.conn.SyscallConn()
	rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0) })
	pair.gro = false
	c := a.Conns()[0]
	c.link.(*kernelLink).gso.Store(false)
	n, _ := pair.port()
	if err := c.WriteBatch(batch(5, 100, 3), 100, netip.AddrPortFrom(lo4, n)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxRead)
	for i := range 6 {
		want := 100
		if i == 5 {
			want = 3
		}
		if n, seg, from, err := pair.read(b); n != want || seg != want || from != c.LocalAddr() || err != nil {
			t.Errorf("%d %d %v %v", n, seg, from, err)
		}
	}
}

// A blocked write ends: the deadline is always between one and two
// writePatience ahead.
func TestWriteDeadlineIsKeptAhead(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	l := p.Conns()[0].link.(*kernelLink)
	l.epoch = l.epoch.Add(-time.Hour) // an old deadline passed long ago
	l.armed.Store(int64(time.Minute))
	rc, err := l.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	wait := func() error { return rc.Write(func(uintptr) bool { return true }) } // as one that waits, asks first
	_ = l.conn.SetWriteDeadline(time.Now().Add(-time.Minute))
	if err := wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	if err := p.Conns()[0].WriteTo([]byte{1}, netip.AddrPortFrom(lo4, 9)); err != nil {
		t.Error(err)
	}
	if err := wait(); err != nil {
		t.Errorf("a passed deadline was not renewed: %v", err)
	}
}

func TestGROSegmentParsing(t *testing.T) {
	if n, class := told(nil); n != 0 || class != 0 {
		t.Error(n, class)
	}
	good := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&good[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_GRO
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(good[unix.CmsgLen(0):], 1200)
	for n := range good {
		told(good[:n]) // must not panic
	}
	if n, _ := told(good); n != 1200 {
		t.Error(n)
	}
}
