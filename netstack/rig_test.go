package netstack

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// node is a peer of the rig with its stack.
type node struct {
	*shimtest.Node
	*Stack
	v4, v6 netip.Addr // own LSIs
}

// rig is two nodes that can reach each other, and the names they have for
// each other.
type rig struct {
	net    *shimtest.Net
	a, b   *node
	b4, b6 netip.Addr // b's LSIs at a
	a4, a6 netip.Addr // a's at b
}

// deliver gives u a packet as the shim does: with what its headers say.
func deliver(u shim.Upper, b buffer.Buffer) {
	var h inner.Header
	h.Parse(b.Flatten())
	u.Deliver(&h, b)
}

func newRig(tb testing.TB) *rig { return newRigWith(tb, nil) }

// newRigWith lets b's stack ask admit.
func newRigWith(tb testing.TB, admit func(string, netip.AddrPort, netip.AddrPort) bool) *rig {
	tb.Helper()
	return newRigOn(tb, shimtest.NewNet(), admit)
}

// newBareRig is a rig whose pipes repair nothing.
func newBareRig(tb testing.TB) *rig {
	tb.Helper()
	n := shimtest.NewNet()
	n.NoRepair = true
	return newRigOn(tb, n, nil)
}

func newRigOn(tb testing.TB, n *shimtest.Net, admit func(string, netip.AddrPort, netip.AddrPort) bool) *rig {
	tb.Helper()
	r := &rig{net: n, a: newNode(tb, n, nil), b: newNode(tb, n, admit)}
	r.b4, r.b6 = r.a.LSI(tb, r.b.Node)
	r.a4, r.a6 = r.b.LSI(tb, r.a.Node)
	return r
}

func newNode(tb testing.TB, n *shimtest.Net, admit func(string, netip.AddrPort, netip.AddrPort) bool) *node {
	tb.Helper()
	d := n.Node(tb, nil)
	s, err := New(Config{Shim: d.Shim, Admit: admit})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		// Some tests' peers answer nothing that would end a connection.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	v4, v6 := d.Table.Self()
	return &node{Node: d, Stack: s, v4: v4, v6: v6}
}

// Close is ambiguous between the embedded two; tests mean the stack's.
func (n *node) Close() error { return n.Stack.Close(context.Background()) }

// peerGone is Stack.peerGone, and returns when all is over.
func (n *node) peerGone(v4, v6 netip.Addr, delivered bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, w := range n.Stack.peerGone(v4, v6, delivered) {
		for !w.over.Load() && !isClosed(n.ended) {
			<-tick.C
		}
	}
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

// pair returns both ends of a TCP connection from a to b at b's address.
func (r *rig) pair(tb testing.TB, at netip.Addr) (client, server *tcpConn) {
	tb.Helper()
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			tb.Error(err)
		}
		accepted <- c
	}()
	c, err := r.a.DialTCP(testContext(tb), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
	if err != nil {
		tb.Fatal(err)
	}
	s := <-accepted
	if s == nil {
		tb.FailNow()
	}
	tb.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c.(*tcpConn), s.(*tcpConn)
}

func port(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.TCPAddr:
		return uint16(a.Port)
	case *net.UDPAddr:
		return uint16(a.Port)
	}
	return 0
}

// eventually waits for what nothing tells of, and fails with otherwise if it
// does not come about.
func eventually(tb testing.TB, otherwise string, f func() bool) {
	tb.Helper()
	ctx := testContext(tb)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatal(otherwise)
		}
	}
}
