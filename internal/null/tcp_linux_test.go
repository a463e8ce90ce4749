package null

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disconnect makes the system forget a connection with all that it holds of
// it, and reset it at the other end: connect(2) with AF_UNSPEC.
func disconnect(t *testing.T, c *net.TCPConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Control(func(fd uintptr) { // closed meanwhile is fine
		nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere)); errno != 0 {
			t.Errorf("connect to nowhere: %v", errno)
		}
	})
}

// arrival waits until a connection has something to read, an error too, and
// reads nothing.
func arrival(t *testing.T, c *net.TCPConn) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	err = rc.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

// TestTakeTellsEndsApart: nothing there, data, a FIN and a reset are four
// things, and who asks after a reset was told does not get an end.
func TestTakeTellsEndsApart(t *testing.T) {
	t.Parallel()
	b := make([]byte, 10)
	a, p := kernelPair(t)
	defer p.Close()
	c := TCP(a)
	if n, err := c.Take(b); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	_, _ = p.Write([]byte("data"))
	arrival(t, a)
	if n, err := c.Take(b); string(b[:n]) != "data" || err != nil {
		t.Errorf("data: %q, %v", b[:n], err)
	}
	_ = p.CloseWrite()
	arrival(t, a)
	if n, err := c.Take(b); n != 0 || err != io.EOF || !c.Ended() {
		t.Errorf("FIN: %d, %v", n, err)
	}
	if c.Silent() {
		t.Error("half an end counts as silence")
	}
	c.Abort()
	if _, err := c.Take(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, ok := c.Unacked(); ok || c.Silent() {
		t.Error("a closed connection has something to tell")
	}
	if _, err := p.Write(b); err == nil { // the reset may be told now or to the next
		_, err = p.Read(b)
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer of an aborted one: %v", err)
		}
	}

	for name, tell := range map[string]func(Conn) (int, error){
		"Take":  func(c Conn) (int, error) { return c.Take(b) },
		"Read":  func(c Conn) (int, error) { return c.Read(b) },
		"Write": func(c Conn) (int, error) { return c.Write(b) },
	} {
		a, p := kernelPair(t)
		c := TCP(a)
		TCP(p).Abort()
		arrival(t, a)
		if !c.Silent() {
			t.Errorf("%s: a reset connection is not silent", name)
		}
		var op *net.OpError
		if n, err := tell(c); n != 0 || !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Addr == nil {
			t.Errorf("%s: reset: %d, %v", name, n, err)
		}
		if n, err := c.Take(b); n != 0 || err != io.EOF || c.Ended() {
			t.Errorf("after %s was told of a reset: %d, %v, taken for a FIN: %v", name, n, err, c.Ended())
		}
		_ = c.Close()
	}
}

// TestResetInWrite: a reset that comes while one call reads and another writes
// is told to one of them; the other's end is not taken for a FIN.
func TestResetInWrite(t *testing.T) {
	t.Parallel()
	for range 20 {
		a, p := kernelPair(t)
		c := TCP(a)
		var wg sync.WaitGroup
		wg.Go(func() {
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || err == io.EOF && c.Ended() {
				t.Errorf("%d, %v", n, err)
			}
		})
		arrival(t, p)
		TCP(p).Abort()
		wg.Wait()
		_ = c.Close()
	}
}

// TestHowMuchLies: what a system takes without an acknowledgement, and what it
// acknowledges while nobody reads, are within the bounds that "no byte is
// lost" rests on, with pieces that its bookkeeping likes and others.
func TestHowMuchLies(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{1, 1000, 64 << 10, 1 << 20} {
		a, p := kernelPair(t)
		c, d := TCP(a), TCP(p)
		b := make([]byte, piece)
		sent, err := 0, error(nil)
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for n := 0; err == nil && sent < 64<<20; sent += n {
			n, err = c.Write(b)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("pieces of %d: no end after %d bytes: %v", piece, sent, err)
		}
		unacked, ok := c.Unacked()
		if lie := sent - unacked; !ok || unacked > maxUnacked || lie > MaxUnread {
			t.Errorf("pieces of %d: %d bytes unacknowledged, bound %d; %d unread, bound %d", piece, unacked, maxUnacked, lie, MaxUnread)
		}
		c.Abort()
		d.Abort()
	}
}

// TestSharedPort: a listener and a connection out of the same port, both with
// the buffers of a stream from the handshake on.
func TestSharedPort(t *testing.T) {
	t.Parallel()
	control := func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) {
			PrepareFD(fd)
			err = ReusePort(fd)
		})
		return errors.Join(cerr, err)
	}
	l, err := (&net.ListenConfig{Control: control}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	dial := net.Dialer{LocalAddr: l.Addr(), Control: control}
	out, err := dial.Dial("tcp", far.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if out.LocalAddr().String() != l.Addr().String() {
		t.Errorf("out of %v, not %v", out.LocalAddr(), l.Addr())
	}
	in, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for _, c := range []net.Conn{out, accepted} {
		(&tcpConn{TCPConn: c.(*net.TCPConn)}).control(func(fd int) {
			for opt, most := range map[int]int{unix.SO_RCVBUF: 2 * receiveBuffer, unix.SO_SNDBUF: 2 * sendBuffer} {
				if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err != nil || n > most {
					t.Errorf("buffer of %d bytes, %v; %d were asked for", n, err, most)
				}
			}
		})
	}
	if err := ReusePort(^uintptr(0)); err == nil {
		t.Error("no socket, no error")
	}
}

// cutter takes what comes and cuts the connection of now every few bytes.
type cutter struct {
	bytes.Buffer
	next, every int
	cut         func()
}

func (w *cutter) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if w.Len() >= w.next {
		w.next = w.Len() + w.every
		w.cut()
	}
	return n, err
}

// TestKernelForgets: every byte arrives once although the system of one side
// or the other forgets the connection, with what it holds unread, again and
// again in the middle of a transfer both ways.
func TestKernelForgets(t *testing.T) {
	t.Parallel()
	const total, every = 6 << 20, 700 << 10
	var mu sync.Mutex // guards what follows
	var now [2]*net.TCPConn
	rng := rand.New(rand.NewPCG(4, 3))
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		disconnect(t, now[rng.IntN(2)])
	}
	r := &rig{t: t, rcv: MaxUnread, stop: make(chan struct{}), dial: func() (Conn, Conn) {
		mu.Lock()
		defer mu.Unlock()
		now[0], now[1] = kernelPair(t)
		return TCP(now[0]), TCP(now[1])
	}}
	r.start()
	var wg sync.WaitGroup
	for i, s := range r.streams {
		wg.Go(func() {
			if n, err := s.ReadFrom(bytes.NewReader(pattern(total, byte(i)))); n != total || err != nil {
				t.Errorf("stream %d: %d bytes written, %v", i, n, err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
		wg.Go(func() {
			w := &cutter{next: every, every: every, cut: cut}
			_, err := s.WriteTo(w)
			if want := pattern(total, byte(1-i)); err != nil || !bytes.Equal(w.Bytes(), want) {
				t.Errorf("stream %d: %d of %d bytes, equal prefix %d, %v", i, w.Len(), total, prefix(w.Bytes(), want), err)
			}
		})
	}
	wg.Wait()
	if n := r.switches(); n == 0 {
		t.Error("no connection was replaced")
	} else {
		t.Logf("%d connections replaced", n)
	}
	r.close()
}

// A path is given up when the kernel has sent the same three times and heard nothing
// for two seconds: neither alone.
func TestSilent(t *testing.T) {
	for what, c := range map[string]struct {
		info unix.TCPInfo
		want bool
	}{
		"at rest":                  {unix.TCPInfo{State: 1, Last_ack_recv: 3_600_000}, false},
		"closed":                   {unix.TCPInfo{State: tcpClose}, true},
		"sent again and again":     {unix.TCPInfo{State: 1, Retransmits: 3, Last_ack_recv: 2000}, true},
		"probed":                   {unix.TCPInfo{State: 1, Probes: 3, Last_ack_recv: 2000}, true},
		"backing off":              {unix.TCPInfo{State: 1, Backoff: 3, Last_ack_recv: 2000}, true},
		"twice":                    {unix.TCPInfo{State: 1, Retransmits: 2, Probes: 2, Backoff: 2, Last_ack_recv: 60_000}, false},
		"acknowledged a while ago": {unix.TCPInfo{State: 1, Retransmits: 9, Last_ack_recv: 1999}, false},
	} {
		if got := silent(&c.info); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	if c := keepAlive; !c.Enable || c.Idle+time.Duration(c.Count)*c.Interval > 20*time.Second {
		t.Errorf("who only receives finds a dead path after %+v", c)
	}
	a, p := kernelPair(t)
	defer p.Close()
	c := TCP(a).(*tcpConn)
	if c.over() {
		t.Error("over at its beginning")
	}
	disconnect(t, a)
	if !c.over() || !c.Silent() {
		t.Error("not over when the kernel has forgotten it")
	}
	_ = c.Close()
	if !c.over() || c.Silent() {
		t.Error("closed here: not over, or silent")
	}
}

// The options of a stream are those of the kernel's connection, and what it says of
// that, but for the stream's own bytes and addresses.
func TestKernelOptions(t *testing.T) {
	a, p := kernelPair(t)
	defer p.Close()
	s := New(Config{Local: &net.TCPAddr{Port: 1}, Remote: &net.TCPAddr{Port: 2}}, TCP(a), 64)
	if err := s.SetTrafficClass(0xb8); err != nil {
		t.Fatal(err)
	}
	(&tcpConn{TCPConn: a}).control(func(fd int) {
		if n, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS); n != 0xb8 || err != nil {
			t.Errorf("the socket's class is %#x, %v", n, err)
		}
	})
	if _, err := s.Write([]byte("twelve bytes")); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(); err != nil || info.State != "ESTABLISHED" || info.BytesWritten != 12 || info.BytesReceived != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	_ = a.Close() // under it
	var op *net.OpError
	for what, err := range map[string]error{"set": s.SetTrafficClass(0), "get": func() error { _, err := s.Info(); return err }()} {
		if !errors.As(err, &op) || op.Op != what || op.Source != s.cfg.Local || errors.As(op.Err, new(*net.OpError)) {
			t.Errorf("%s: %#v", what, err)
		}
	}
	s.Abort()
	s.Wait()
}
