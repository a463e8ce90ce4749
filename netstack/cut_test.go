package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/shim/shimtest"
)

// What an endpoint has in its send buffer is counted to the byte, before and
// after it is closed.
func TestUnacknowledged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sizes := []int{0, 1, 2, 3, 4, 1000, 1001, 65535, 1 << 20}
	conns := make([]*tcpConn, len(sizes))
	for i := range sizes {
		conns[i], _ = r.pair(t, r.b4)
	}
	r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
	for i, c := range conns {
		n := sizes[i]
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		ep := c.ep.(*tcp.Endpoint)
		if got := unacknowledged(ep, c.wq); got != int64(n) {
			t.Errorf("%d bytes: %d", n, got)
		}
		c.Close()
		if got := unacknowledged(ep, c.wq); got != int64(n) {
			t.Errorf("%d bytes and the FIN: %d", n, got)
		}
	}
}

// What the peer has acknowledged is not counted.
func TestUnacknowledgedOfAStalledReader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	if err := s.SetReadBuffer(32 << 10); err != nil {
		t.Fatal(err)
	}
	wrote := int64(len(fill(t, c)))
	ep := c.ep.(*tcp.Endpoint)
	eventually(t, "the peer's window does not close", func() bool {
		var took int64
		if n, err := s.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
			took = int64(n)
		}
		return took > 0 && unacknowledged(ep, c.wq) == wrote-took
	})
	s.Close() // with unread data: reset
}

// The error of Close says how much whom did not reach, whether the time ended or
// the peers said nothing.
func TestStackCloseSaysWhatWasCut(t *testing.T) {
	t.Parallel()
	n := shimtest.NewNet()
	a, b, c := newNode(t, n, nil), newNode(t, n, nil), newNode(t, n, nil)
	var conns []net.Conn
	for _, to := range []*node{b, c, c} {
		l, err := to.ListenTCP("tcp", netip.AddrPort{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := a.LSI(t, to.Node)
		conn, err := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	n.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
	for i, conn := range conns {
		if _, err := conn.Write(make([]byte, 1000*i+7)); err != nil {
			t.Fatal(err)
		}
	}
	err := a.Close()
	var cut *CutError
	if !errors.As(err, &cut) || !errors.Is(err, syscall.ETIMEDOUT) {
		t.Fatal(err)
	}
	want := []Cut{{Peer: c.self, Conns: 2, Bytes: 3014}, {Peer: b.self, Conns: 1, Bytes: 7}}
	if fmt.Sprint(cut.Cuts) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", cut.Cuts, want)
	}
}

// A peer that says nothing and lacks only the end of the stream is told by the
// notice that the node has ended: that is no error, unless the time was over.
func TestStackCloseWithEndsOnly(t *testing.T) {
	t.Parallel()
	for _, short := range []bool{false, true} {
		r := newRig(t)
		c, _ := r.pair(t, r.b4)
		r.a.link.deliveries.doubt(c.pinned) // else the notice says that nothing lacks
		r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if short {
			cancel()
		}
		err := r.a.Stack.Close(ctx)
		var cut *CutError
		if errors.As(err, &cut) != short || errors.Is(err, context.Canceled) != short {
			t.Errorf("short %v: %v", short, err)
		}
	}
}

func TestCutErrorText(t *testing.T) {
	t.Parallel()
	mars, venus := Cut{Name: "mars.example.com", Conns: 2, Bytes: 1_230_000}, Cut{Name: "venus.example.com", Conns: 1, Bytes: 80_499}
	for want, cuts := range map[string][]Cut{
		"2 conns to mars.example.com were cut, 1.2 MB not delivered":                                                                     {mars},
		"1 conn to venus.example.com was cut, 80 kB not delivered":                                                                       {venus},
		"3 conns to 2 peers were cut, 1.3 MB not delivered (mars.example.com 1.2 MB, venus.example.com 80 kB)":                           {mars, venus},
		"6 conns to 5 peers were cut, 1.3 MB not delivered (mars.example.com 1.2 MB, venus.example.com 80 kB, x.example 1 B and 2 more)": {mars, venus, {Name: "x.example", Conns: 1, Bytes: 1}, {Conns: 1}, {Conns: 1}},
		"1 conn to this node was cut, the end of the stream not delivered":                                                               {{Conns: 1}},
		"1 conn to this node was cut, 999 B not delivered":                                                                               {{Conns: 1, Bytes: 999}},
		"1 conn to this node was cut, 1.0 kB not delivered":                                                                              {{Conns: 1, Bytes: 1000}},
		"1 conn to this node was cut, 1.0 MB not delivered":                                                                              {{Conns: 1, Bytes: 999_700}},
		"1 conn to this node was cut, 17 MB not delivered":                                                                               {{Conns: 1, Bytes: 16 << 20}},
	} {
		if got := (&CutError{Cuts: cuts, Err: context.DeadlineExceeded}).Error(); got != want+": context deadline exceeded" {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	}
}
