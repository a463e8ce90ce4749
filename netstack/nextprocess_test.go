package netstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/pipe"
)

// pairOf is rig.pair between any two nodes.
func pairOf(t *testing.T, from, to *node) (client, server *tcpConn) {
	t.Helper()
	r := &rig{a: from, b: to}
	at, _ := from.LSI(t, to.Node)
	return r.pair(t, at)
}

// holds has c's endpoint do nothing until the function it returns is called, as if a
// packet of its was on its way for so long.
func holds(t *testing.T, c *tcpConn) (end func()) {
	ep := c.ep.(*tcp.Endpoint)
	ep.LockUser()
	end = sync.OnceFunc(ep.UnlockUser)
	t.Cleanup(end)
	return end
}

// talks has a byte go each way.
func talks(t *testing.T, c, s *tcpConn) {
	t.Helper()
	for _, p := range [][2]*tcpConn{{c, s}, {s, c}} {
		if _, err := p[0].Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if n, err := p[1].Read(make([]byte, 2)); n != 1 || err != nil {
			t.Error(n, err)
		}
	}
}

// The end of a peer waits for no endpoint, of another peer's or its own, nor for the end
// of another peer.
func TestPeerEndsBesideOneThatStandsStill(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other, third := newNode(t, r.net, nil), newNode(t, r.net, nil)
	c, _ := r.pair(t, r.b4)
	oc, os := pairOf(t, r.a, other)
	tc, _ := pairOf(t, r.a, third)
	endC, endT := holds(t, c), holds(t, tc)
	r.a.Shim.Gone(r.b.ID, pipe.ErrPeerEnded)
	r.a.Shim.Gone(r.b.ID, pipe.ErrPeerDelivered) // what was said first holds
	talks(t, oc, os)
	r.a.Shim.Gone(other.ID, pipe.ErrPeerEnded)
	if _, err := oc.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read of another's: %v", err)
	}
	endC()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %v", err)
	}
	endT()
}

// What belongs to the peer's next process goes on, also while what was open with the
// one before is being ended, and what is learned of it meanwhile is not forgotten.
func TestPeerEndsBesideItsNextProcess(t *testing.T) {
	t.Parallel()
	for _, why := range []error{pipe.ErrPeerDelivered, pipe.ErrPeerEnded} {
		r := newRig(t)
		old, _ := r.pair(t, r.b4)
		end := holds(t, old)
		r.a.Shim.Gone(r.b.ID, why)
		c, s := r.pair(t, r.b4)
		talks(t, c, s)
		r.a.link.deliveries.doubt(r.b.ID)
		end()
		want := error(syscall.ECONNRESET)
		if why == pipe.ErrPeerDelivered {
			want = io.EOF
		}
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("of the process before: %v", err)
		}
		eventually(t, "the one before goes on", func() bool {
			state := old.ep.(*tcp.Endpoint).EndpointState()
			return state == tcp.StateError || state == tcp.StateClose
		})
		talks(t, c, s)
		if r.a.link.deliveries.sure(r.b.ID) {
			t.Error("what was learned of the next process is forgotten")
		}
	}
}

// A new connection may have the addresses and ports of one that has ended so.
func TestPeerEndsAndTheSamePortsAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	local, to := netip.AddrPortFrom(r.b.v4, 40000), netip.AddrPortFrom(r.a4, port(l.Addr()))
	dial := func() (c, s *tcpConn) {
		t.Helper()
		dialled, err := r.b.DialTCP(testContext(t), "tcp", local, to)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return dialled.(*tcpConn), accepted.(*tcpConn)
	}
	c, s := dial()
	other, _ := r.pair(t, r.b4)
	end := holds(t, other) // so that it is not over
	r.a.Shim.Gone(r.b.ID, pipe.ErrPeerEnded)
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	_ = c.SetLinger(0)
	c.Close() // b's process has it no more
	c, s = dial()
	talks(t, c, s)
	_ = s.SetLinger(0)
	s.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset of the new one: %v", err)
	}
	l.Close()
	if c, err := r.b.DialTCP(testContext(t), "tcp", local, to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v, %v", c, err)
	}
	end()
}

// What a peer has said of all its connections is not believed of one that lacks
// something.
func TestPeerEndsBehindAGap(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	var lost, gap atomic.Uint64 // the number of the first segment, which never comes; whether c has told of it
	r.a.Shim.Attach(&faulty{link: r.a.link, fault: func(th header.TCP, n int) bool {
		seq := uint64(th.SequenceNumber())
		return n > 0 && (lost.CompareAndSwap(0, seq) || lost.Load() == seq)
	}})
	r.a.SetTap(func(outbound bool, p []byte) {
		th := header.TCP(p[header.IPv4MinimumSize:])
		if outbound && selective(th[header.TCPMinimumSize:th.DataOffset()]) {
			gap.Store(1)
		}
	})
	_ = s.SetNoDelay(true)
	for range 2 {
		if _, err := s.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nothing comes after the gap", func() bool { return gap.Load() == 1 })
	r.a.peerGone(r.b4, r.b6, true)
	if got, err := io.ReadAll(c); len(got) != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.SetLinger(0)
	s.Close()
}

// What does not answer in time is aborted. That discards what has come, also of one whose
// end has come: it does not look whole, however often it is read.
func TestPeerEndsAndNothingAnswers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.a.endings.within = -time.Second
	c, s := r.pair(t, r.b4)
	if _, err := s.Write(bytes.Repeat([]byte("lost"), 20<<10)); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	eventually(t, "no FIN", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateCloseWait })
	r.loses(allFlags) // the peer does not acknowledge any more
	_ = c.CloseWrite()
	r.a.peerGone(r.b4, r.b6, true)
	for range 2 {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	_ = s.SetLinger(0)
	s.Close()
}

// Who closes a conn with a process that is over has no reason to doubt the next.
func TestDeliveriesAfterPeerEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	r.a.peerGone(r.b4, r.b6, false)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	c.Close()
	if !r.a.link.deliveries.sure(r.b.ID) {
		t.Error("not sure of the peer's next process because of a conn with the one before")
	}
}

// closeWith is Stack.Close that waits for nobody, with something that happens before it
// ends what is open, and something before the peers are told.
func closeWith(s *Stack, begun, told func()) {
	open, _ := s.shut()
	s.doubtOpening()
	begun()
	s.quit(open)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.orphans.cut(s.orphans.flush(ctx))
	told()
	s.finish()
}

// What times out after Close has looked for the last time has discarded what the peer
// lacks: it is not told that it has all.
func TestCloseBesideATimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	c2, _ := r.pair(t, r.b4) // has something left: its end
	acknowledged(t, c, "before")
	acknowledged(t, c2, "x")
	r.loses(allFlags)
	if _, err := c.Write([]byte(" and after")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetUserTimeout(200 * time.Millisecond)
	ep := c.ep.(*tcp.Endpoint)
	closeWith(r.a.Stack, func() {}, func() {
		eventually(t, "no timeout", func() bool { return ep.EndpointState() == tcp.StateError })
	})
	r.a.Node.Close()
	if got, err := io.ReadAll(s); string(got) != "before" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q of %q, %v", got, "before and after", err)
	}
}

// One that fails is not taken for one whose peer has all, however the two meet.
func TestBareBesideAFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 50 {
		r.loses(0)
		c, _ := r.pair(t, r.b4)
		r.loses(allFlags)
		if _, err := c.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
		var failing sync.WaitGroup
		failing.Go(c.ep.Abort) // as a timeout does
		if bare(c.ep.(*tcp.Endpoint), c.wq) {
			t.Error("it has discarded a byte, and is bare")
		}
		failing.Wait()
		c.Close()
	}
}

// A SYN may come when Close has begun: nobody has accepted the connection.
func TestCloseBesideADial(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := r.pair(t, r.b4)
	acknowledged(t, first, "x")
	r.loses(flagFIN | flagRST)
	var c net.Conn
	closeWith(r.a.Stack, func() {
		if c, err = r.b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(l.Addr()))); err != nil {
			t.Fatal(err)
		}
	}, func() {})
	r.a.Node.Close()
	if got, err := io.ReadAll(c); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
}

// Close beside the ends of peers.
func TestCloseBesidePeerEnds(t *testing.T) {
	t.Parallel()
	for range 3 {
		r := newRig(t)
		var wg sync.WaitGroup
		for range 10 {
			c, s := r.pair(t, r.b4)
			wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
			wg.Go(func() { _, _ = s.Write(make([]byte, 1<<20)) })
		}
		for i := range 3 {
			wg.Go(func() { r.a.peerGone(r.b4, r.b6, i == 1) })
		}
		wg.Go(func() { _ = r.a.Close() })
		wg.Go(func() { r.a.Stats() })
		_ = r.b.Pipes.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.b.Stack.Close(ctx)
		wg.Wait()
	}
}

func TestSelective(t *testing.T) {
	for _, x := range []struct {
		o    []byte
		want bool
	}{
		{nil, false},
		{[]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		{[]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}, true},
		{[]byte{0, 5, 10}, false},
		{[]byte{8}, false},
		{[]byte{8, 0, 5, 10}, false},
		{[]byte{8, 200, 5, 10}, false},
		{[]byte{5}, true},
	} {
		if got := selective(x.o); got != x.want {
			t.Errorf("% x: %v", x.o, got)
		}
	}
}
