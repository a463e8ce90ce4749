package netstack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
)

// loses has b lose what comes of a's TCP with any of these flags; the pipe lives.
func (r *rig) loses(flags header.TCPFlags) {
	r.b.Shim.Attach(&faulty{link: r.b.link, fault: func(th header.TCP, _ int) bool { return th.Flags()&flags != 0 }})
}

const allFlags = 0x3f

// acknowledged has c write, and the other side acknowledge that.
func acknowledged(t *testing.T, c *tcpConn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has not come", func() bool { return unacknowledged(c.ep.(*tcp.Endpoint), c.wq) == 0 })
	_ = c.SetWriteBuffer(64 << 10) // as before that looked
}

// A node that ends when its peers have all waits for none of its conns' ends, and
// every conn's other side has the end, though all FINs were lost.
func TestCloseTellsThatAllWasDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var theirs []*tcpConn
	for i, at := range []netip.Addr{r.b4, r.b6, r.b4, r.b6} {
		c, s := r.pair(t, at)
		acknowledged(t, c, "all of it")
		if i == 2 {
			_ = s.CloseWrite()
			eventually(t, "the peer's FIN has not come", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateCloseWait })
		}
		theirs = append(theirs, s)
	}
	silent, s := r.pair(t, r.b4) // nothing was ever written
	theirs = append(theirs, s)
	r.loses(flagFIN)
	silent.Close()
	now := time.Now()
	if r.a.orphans.awaited(now, now) {
		t.Error("a FIN alone is waited for")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.a.Stack.Close(ctx); err != nil {
		t.Error(err)
	}
	r.a.Node.Close()
	for i, s := range theirs {
		want := "all of it"
		if s == theirs[len(theirs)-1] {
			want = ""
		}
		if got, err := io.ReadAll(s); string(got) != want || err != nil {
			t.Errorf("conn %d: %q, %v", i, got, err)
		}
		eventually(t, "a conn lives on", func() bool {
			state := s.ep.(*tcp.Endpoint).EndpointState()
			return state == tcp.StateClose || state == tcp.StateError || state == tcp.StateTimeWait
		})
	}
}

// Where a peer may lack something, or a conn has not ended by a FIN, it is not told
// that all was delivered: what has no FIN is reset there.
func TestCloseTellsNoMoreThanIsTrue(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		what string
		do   func(t *testing.T, r *rig, c, s *tcpConn) // what happens to c while all is lost
	}{
		{"a reset was lost", func(t *testing.T, _ *rig, c, _ *tcpConn) {
			_ = c.SetLinger(0)
			c.Close()
		}},
		{"one with unread data", func(t *testing.T, r *rig, c, s *tcpConn) {
			r.loses(0)
			acknowledged(t, s, "nobody reads this")
			r.loses(allFlags)
		}},
		{"unacknowledged", func(t *testing.T, _ *rig, c, _ *tcpConn) {
			if _, err := c.Write([]byte("lost")); err != nil {
				t.Error(err)
			}
		}},
		{"timed out", func(t *testing.T, _ *rig, c, _ *tcpConn) {
			_ = c.SetUserTimeout(10 * time.Millisecond)
			if _, err := c.Write([]byte("lost")); err != nil {
				t.Error(err)
			}
			eventually(t, "no timeout", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateError })
		}},
		{"timed out in closing", func(t *testing.T, r *rig, c, _ *tcpConn) {
			_ = c.SetUserTimeout(10 * time.Millisecond)
			if _, err := c.Write([]byte("lost")); err != nil {
				t.Error(err)
			}
			c.Close()
			eventually(t, "no timeout", func() bool { return c.ep.(*tcp.Endpoint).EndpointState() == tcp.StateError })
		}},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			c, s := r.pair(t, r.b4)
			acknowledged(t, c, "before")
			r.loses(allFlags)
			x.do(t, r, c, s)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = r.a.Stack.Close(ctx)
			r.a.Node.Close()
			if got, err := io.ReadAll(s); string(got) != "before" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// Nor is one whose connection nobody has accepted.
func TestCloseOfWhatNobodyAccepted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(l.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing waits", func() bool { return l.(*listener).waiting.len() > 0 })
	r.loses(flagRST)
	r.a.Close()
	r.a.Node.Close()
	if got, err := io.ReadAll(c); len(got) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
}

// A peer to which there is no pipe has to be reached first: its conns' ends are
// waited for.
func TestCloseWithoutAPipe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var away atomic.Bool
	r.a.OnConnect = func(context.Context, peerid.ID) error {
		if away.Load() {
			return errors.New("away")
		}
		return nil
	}
	c, _ := r.pair(t, r.b4)
	away.Store(true)
	p := r.a.Pipes.Pipe(r.b.ID)
	p.Close(nil)
	eventually(t, "the pipe is there", func() bool { return !r.a.Shim.HasPipe(r.b4) })
	now := time.Now()
	c.Close()
	if !r.a.orphans.awaited(now, now) {
		t.Error("it is not waited for")
	}
}

// What is known of a peer's process does not hold for its next.
func TestDeliveriesForget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	_ = c.SetLinger(0)
	c.Close()
	d := &r.a.link.deliveries
	if d.sure(r.b.ID) {
		t.Error("sure of a peer whose connection was reset")
	}
	r.a.peerGone(r.b4, r.b6, false)
	if !d.sure(r.b.ID) {
		t.Error("not sure of its next process")
	}
	for i := range maxUnsure {
		id := r.b.ID
		id[0], id[1] = byte(i), byte(i>>8)
		d.doubt(id)
	}
	if id := r.b.ID; d.sure(id) {
		t.Error("sure of one that may have been forgotten")
	}
}

// Which resets say that a stream may not be whole, and which go to a peer that is
// told that all are.
func TestResets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, x := range []struct {
		what        string
		flags       byte
		seq         uint32
		doubt, goes bool // goes: also when the peer is told
	}{
		{"of a connection", inner.RST | inner.ACK, 1, true, false},
		{"in answer to what is late", inner.RST, 1, false, false},
		{"of a SYN", inner.RST | inner.ACK, 0, false, true},
	} {
		d := &r.a.link.deliveries
		h := &inner.Header{Src: r.a.v4, Dst: r.b4, Protocol: inner.TCP, Flags: x.flags, Seq: x.seq}
		if !r.a.link.resets(h) || d.sure(r.b.ID) == x.doubt {
			t.Errorf("%s: sure %v", x.what, d.sure(r.b.ID))
		}
		d.forget(r.b.ID)
		d.tell(map[peerid.ID]netip.Addr{r.b.ID: r.b4})
		if got := r.a.link.resets(h); got != x.goes || !d.sure(r.b.ID) {
			t.Errorf("%s, to one that is told: goes %v, sure %v", x.what, got, d.sure(r.b.ID))
		}
		d.tell(nil)
	}
}
