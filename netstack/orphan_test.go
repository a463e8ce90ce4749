package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/shim/shimtest"
)

// fill writes to c until nothing more is taken, and returns what was. On a busy machine
// that is more than a Write gets rid of in a while: the peer's window is closed, and the
// send buffer full behind it.
func fill(t *testing.T, c *tcpConn) []byte {
	t.Helper()
	return fillUntil(t, c, c.window.closed)
}

// fillUntil is fill with another way to know that the peer has no room.
func fillUntil(t *testing.T, c *tcpConn, noRoom func() bool) []byte {
	t.Helper()
	want := bytes.Repeat([]byte("orphan"), 4<<20)
	n, full := 0, false
	for n == 0 || !full {
		full = noRoom()
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		k, err := c.Write(want[n:])
		if n += k; n == len(want) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d bytes, %v", n, err)
		}
	}
	return want[:n]
}

// closed says whether the peer has no room for a packet as they are sent to it.
func (w *window) closed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began && int(w.size)<<w.scale < superPacket
}

// A closed connection whose reader stands still lives as long as the reader's
// node acknowledges its window probes, and not for long after.
func TestOrphanOfAStalledReader(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	want := fill(t, c)
	ep := c.ep.(*tcp.Endpoint)
	c.Close()
	at := time.Now()
	for range 4 {
		heard := received(ep)
		eventually(t, "no window probe was answered", func() bool { return received(ep) > heard })
		at = at.Add(orphanFor - time.Second)
		r.a.orphans.sweep(at)
		if !delivering(ep) {
			t.Fatalf("%v: the connection is in state %v", at, ep.EndpointState())
		}
	}
	if got, err := io.ReadAll(s); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	s.Close()
	eventually(t, "the orphan is not forgotten", func() bool {
		r.a.orphans.sweep(at)
		r.a.orphans.mu.Lock()
		defer r.a.orphans.mu.Unlock()
		return len(r.a.orphans.all) == 0
	})
}

// One whose peer says nothing any more is reset after orphanFor.
func TestOrphanOfAPeerThatIsGone(t *testing.T) {
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	fill(t, c)
	ep := c.ep.(*tcp.Endpoint)
	r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
	at := time.Now()
	c.Close()
	r.a.orphans.sweep(at.Add(orphanFor / 2)) // what was heard before the cut is noted
	r.a.orphans.sweep(at.Add(orphanFor))
	if !delivering(ep) {
		t.Errorf("state %v after half of the time", ep.EndpointState())
	}
	r.a.orphans.sweep(at.Add(2 * orphanFor))
	if delivering(ep) {
		t.Errorf("state %v", ep.EndpointState())
	}
}

// A peer that acknowledges and never reads holds no more than maxOrphans.
func TestOrphansOfOnePeer(t *testing.T) {
	r := newRig(t)
	var all []*tcp.Endpoint
	for range maxOrphans + 3 {
		c, _ := r.pair(t, r.b4)
		if err := c.SetWriteBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		if err := c.SetLinger(-1); err != nil {
			t.Fatal(err)
		}
		r.a.orphans.adopt(c.ep.(*tcp.Endpoint), &orphan{peer: c.pinned, wq: c.wq, window: c.window})
		all = append(all, c.ep.(*tcp.Endpoint))
	}
	r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil }) // the FINs stay unacknowledged
	for _, ep := range all {
		ep.Close()
	}
	at := time.Now().Add(orphanFor)
	r.a.orphans.mu.Lock()
	for i, ep := range all {
		c := r.a.orphans.all[ep]
		c.closed = time.Now().Add(time.Duration(i-len(all)) * time.Millisecond)
		c.heard = at // it acknowledges
	}
	r.a.orphans.mu.Unlock()
	r.a.orphans.sweep(at)
	for i, ep := range all {
		if i < 3 {
			// gVisor resets it when what it was just doing for it is done.
			eventually(t, "one too many is kept", func() bool { return !delivering(ep) })
		} else if !delivering(ep) {
			t.Errorf("of %d, number %d is reset", len(all), i)
		}
	}
}

// Who opens and closes one connection after the other holds none of those that are over,
// though nobody sweeps.
func TestOrphansThatAreOver(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		c, s := r.pair(t, r.b4)
		ep := c.ep.(*tcp.Endpoint)
		c.Close()
		s.Close()
		eventually(t, "not over", func() bool { return over(ep) })
		r.a.orphans.mu.Lock()
		n := len(r.a.orphans.all)
		r.a.orphans.mu.Unlock()
		if n > 1 {
			t.Fatalf("%d after %d connections", n, i+1)
		}
	}
}

// SetLinger has Close wait until the peer has everything, and no longer than
// was said.
func TestLinger(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	want := fill(t, c)
	if err := c.SetLinger(60); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	eventually(t, "Close has not begun", func() bool { return c.closed.Load() })
	select {
	case err := <-closed:
		t.Fatalf("Close returned before the peer had everything: %v", err)
	case <-c.s.done:
	default:
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := io.ReadAll(s); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
		}
	})
	if err := <-closed; err != nil {
		t.Error(err)
	}
	wg.Wait()
	if delivering(c.ep.(*tcp.Endpoint)) {
		t.Error("Close returned before the peer had everything")
	}
	// The time is over: the rest goes on in the background.
	c, s = r.pair(t, r.b4)
	want = fill(t, c)
	if err := c.SetLinger(1); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !delivering(c.ep.(*tcp.Endpoint)) {
		t.Error("Close ended the connection")
	}
	if got, err := io.ReadAll(s); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	// Nothing is open any more: there is nothing to wait for.
	c, _ = r.pair(t, r.b4)
	r.b.Close()
	r.b.Node.Close()
	_ = c.SetLinger(60)
	c.Close()
}

// Close of a Stack is the end of a process: what was written arrives, and then
// the end, on conns that were closed and on those that were not; unread data is
// a reset.
func TestStackCloseDelivers(t *testing.T) {
	r := newRig(t)
	type ends struct{ c, s *tcpConn }
	closed, open, unread := ends{}, ends{}, ends{}
	closed.c, closed.s = r.pair(t, r.b4)
	open.c, open.s = r.pair(t, r.b6)
	unread.c, unread.s = r.pair(t, r.b4)
	if _, err := unread.s.Write([]byte("nobody reads this")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing came", func() bool { return readable(unread.c) })
	want := map[*tcpConn][]byte{closed.s: fill(t, closed.c), open.s: fill(t, open.c)}
	closed.c.Close()
	done := make(chan error, 1)
	go func() { done <- r.a.Stack.Close(context.Background()) }()
	eventually(t, "Close has not begun", func() bool { return isClosed(r.a.done) })
	for s, want := range want {
		if got, err := io.ReadAll(s); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
		}
	}
	if _, err := io.ReadAll(unread.s); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer of a conn with unread data: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func readable(c *tcpConn) bool {
	n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return err == nil && n > 0
}

// Close waits for what was written longer than for the end alone, which the notice
// of the pipe makes up for.
func TestFlushWaitsForData(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ended, _ := r.pair(t, r.b4)
	wrote, _ := r.pair(t, r.b4)
	r.a.link.deliveries.doubt(ended.pinned)
	r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
	if _, err := wrote.Write(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ended.Close()
	ends := max(flushEnds, 4*r.a.link.shim.RTT(r.b4)) // on a busy machine this path is a long one
	for _, x := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {ends - time.Millisecond, true}, {ends + 100*time.Millisecond, false}} {
		if got := r.a.orphans.awaited(now, now.Add(x.after)); got != x.want {
			t.Errorf("the end alone after %v: %v", x.after, got)
		}
	}
	wrote.Close()
	for _, x := range []struct {
		after time.Duration
		want  bool
	}{{ends + 100*time.Millisecond, true}, {flushStalled + 10*time.Second, false}} {
		if got := r.a.orphans.awaited(now, now.Add(x.after)); got != x.want {
			t.Errorf("data after %v: %v", x.after, got)
		}
	}
	// The peer answers on another connection.
	r.a.orphans.mu.Lock()
	r.a.orphans.all[ended.ep.(*tcp.Endpoint)].heard = now.Add(flushStalled + 9*time.Second)
	r.a.orphans.mu.Unlock()
	if !r.a.orphans.awaited(now, now.Add(flushStalled+10*time.Second)) {
		t.Error("a peer that answers on one connection is not waited for on another")
	}
}

// It waits no longer than its context for a reader that stands still.
func TestStackCloseIsBounded(t *testing.T) {
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	fill(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.a.Stack.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Drain closes listeners, waits for the conns and takes nothing from them.
func TestDrain(t *testing.T) {
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.b.Drain(t.Context()); err != nil {
		t.Errorf("with nothing open: %v", err)
	}
	c, s := r.pair(t, r.b4)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.a.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a conn open: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	drained := make(chan error, 1)
	go func() { drained <- r.a.Drain(context.Background()) }()
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 100)
	if n, err := s.Read(b); string(b[:n]) != "still here" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	c.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// What waits for Accept when the Stack is closed is reset, as when its listener
// is, however many there are.
func TestStackCloseResetsWhatWaits(t *testing.T) {
	r := newRig(t)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []net.Conn
	for range 20 {
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	eventually(t, "not all wait", func() bool { return l.(*listener).waiting.len() == len(all) })
	r.b.Close()
	for _, c := range all {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
	}
}

// A reset does not undo the end: once the peer's FIN is known to have come, reads
// go on to say so.
func TestResetAfterEnd(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("to nobody")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite() // the reset may have come before: gVisor has another state for that
	eventually(t, "no reset came", func() bool {
		state := c.ep.(*tcp.Endpoint).EndpointState()
		return state == tcp.StateError || state == tcp.StateClose
	})
	if r.a.stack.Stats().TCP.ResetsReceived.Value() == 0 {
		t.Error("it ended without a reset")
	}
	for range 2 {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read: %v", err)
		}
	}
}

// Data for one who has called CloseRead and CloseWrite resets the connection, at
// this end too, and the error has the name that the kernel has for it.
func TestDataAfterBothShut(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	_, _ = c.CloseRead(), c.CloseWrite()
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing was reset", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateError })
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write: %v", err)
	}
}

// To the kernel a connection in TIME-WAIT is closed.
func TestShutdownInTimeWait(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	_ = c.CloseWrite()
	s.Close()
	eventually(t, "not over", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateTimeWait })
	for _, err := range []error{c.CloseRead(), c.CloseWrite()} {
		if !errors.Is(err, syscall.ENOTCONN) {
			t.Error(err)
		}
	}
}
