package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// third adds a peer to r and returns it with b's IPv4 LSI there.
func (r *rig) third(t *testing.T) (n *node, b4 netip.Addr) {
	t.Helper()
	n = newNode(t, r.net, nil)
	b4, _ = n.LSI(t, r.b.Node)
	r.b.LSI(t, n.Node)
	return n, b4
}

// limits sets those of n.
func (n *node) limits(conns, waiting int) {
	sh := &n.link.shares
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.conns, sh.waiting = conns, waiting
}

// share returns what n counts of a peer.
func (n *node) share(id peerid.ID) (waiting, open, closing int) {
	sh := &n.link.shares
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if h := sh.byPeer[id]; h != nil {
		h.sweep(time.Now())
		return h.waiting, h.open, len(h.closing)
	}
	return 0, 0, 0
}

// A peer that has its share of connections is refused; others are not, and the
// peer may go on when it has given some back.
func TestConnsPerPeer(t *testing.T) {
	r := newRig(t)
	other, b4 := r.third(t)
	const limit = 10
	r.b.limits(limit, 1000)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mine, theirs []net.Conn
	dial := func(n *node, at netip.Addr) error {
		c, err := n.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
		if err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); s.Close() })
		mine, theirs = append(mine, c), append(theirs, s)
		return nil
	}
	for i := range limit {
		at := r.b4
		if i%2 == 0 {
			at = r.b6 // it is one peer by both LSIs
		}
		if err := dial(r.a, at); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	for _, at := range []netip.Addr{r.b4, r.b6} {
		if err := dial(r.a, at); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("one too many to %v: %v, want ECONNREFUSED", at, err)
		}
	}
	if n := r.b.Stats().Limited; n < 2 { // one that the pipe has sent again, late, counts as well
		t.Errorf("%d counted as beyond the limit, want 2", n)
	}
	for range 3 {
		if err := dial(other, b4); err != nil {
			t.Errorf("another peer meanwhile: %v", err)
		}
	}
	// b's own dials to a are not a's doing.
	al, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer al.Close()
	if c, err := r.b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(al.Addr()))); err != nil {
		t.Errorf("from the full node: %v", err)
	} else {
		c.Close()
	}
	// A connection that was closed on one side only still counts.
	theirs[0].Close()
	if _, err := io.Copy(io.Discard, mine[0]); err != nil {
		t.Error(err)
	}
	if err := dial(r.a, r.b4); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with one half closed: %v, want ECONNREFUSED", err)
	}
	mine[0].Close()
	eventually(t, "a connection that is over still counts", func() bool {
		_, open, closing := r.b.share(r.a.ID)
		return open == limit-1 && closing == 0
	})
	if err := dial(r.a, r.b4); err != nil {
		t.Errorf("after one was given back: %v", err)
	}
	for i := range mine {
		mine[i].(*tcpConn).SetLinger(0)
		theirs[i].(*tcpConn).SetLinger(0)
		theirs[i].Close()
		mine[i].Close()
	}
	for _, id := range []peerid.ID{r.a.ID, other.ID} {
		// gVisor resets one when what it was just doing for it is done.
		eventually(t, "a connection that was reset still counts", func() bool {
			w, o, c := r.b.share(id)
			return w+o+c == 0
		})
	}
}

// A peer whose connections nobody accepts does not fill the backlog for
// others, and they take turns. What it may not begin now it may later.
func TestWaitingPerPeer(t *testing.T) {
	r := newRig(t)
	other, b4 := r.third(t)
	const limit = 5
	r.b.limits(1000, limit)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(n *node, at netip.Addr) net.Conn {
		t.Helper()
		c, err := n.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for range limit {
		dial(r.a, r.b4)
	}
	eventually(t, "connections are not counted", func() bool {
		waiting, _, _ := r.b.share(r.a.ID)
		return waiting == limit
	})
	late := make(chan error, 1)
	go func() {
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
		if err == nil {
			c.Close()
		}
		late <- err
	}()
	eventually(t, "one too many is let in", func() bool { return r.b.Stats().Limited > 0 })
	dial(other, b4)
	eventually(t, "the other peer's connection is not there", func() bool {
		waiting, _, _ := r.b.share(other.ID)
		return waiting == 1
	})
	for i := range 2 { // a's first, then the other's
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.(*tcpConn).pinned != []peerid.ID{r.a.ID, other.ID}[i] {
			t.Errorf("connection %d is from %v", i, c.RemoteAddr())
		}
	}
	if err := <-late; err != nil { // its SYN comes again
		t.Errorf("the one that was too many: %v", err)
	}
}

// Peers take turns whatever they have in the backlog.
func TestBacklogTurns(t *testing.T) {
	var q backlog
	conns := map[*tcpConn]string{}
	put := func(peer byte, name string) {
		c := &tcpConn{pinned: peerid.ID{peer}}
		conns[c] = name
		if !q.push(c) {
			t.Fatal("not taken")
		}
	}
	for _, name := range []string{"a1", "a2", "a3", "b1", "c1", "b2"} {
		put(name[0], name)
	}
	var got string
	take := func() {
		c, _ := q.pop()
		got += conns[c] + " "
	}
	take()
	take()
	put('d', "d1")
	for q.len() > 0 {
		take()
	}
	if want := "a1 b1 c1 a2 b2 d1 a3 "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if c, left := q.pop(); c != nil || left != 0 {
		t.Errorf("popped %v, %d left", c, left)
	}
	put('a', "a4")
	if left := q.close(); len(left) != 1 || conns[left[0]] != "a4" {
		t.Errorf("left %v", left)
	}
	if q.push(&tcpConn{}) {
		t.Error("a closed backlog takes a connection")
	}
}
