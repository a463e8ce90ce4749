package netstack

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/shim/shimtest"
)

// The conns to a peer whose process has ended without a word of TCP end at
// once: what had come can be read, then there is the end where the peer had
// said so, and a reset everywhere else. No reset is sent, and nobody asks for a
// pipe.
func TestPeerEnds(t *testing.T) {
	r := newRig(t)
	open, theirs := r.pair(t, r.b4)
	ended, theirs2 := r.pair(t, r.b6)
	waiting, _ := r.pair(t, r.b4)
	orphan, _ := r.pair(t, r.b4)
	for _, s := range []*tcpConn{theirs, theirs2} {
		if _, err := s.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
	}
	_ = theirs2.CloseWrite()
	eventually(t, "not all has come", func() bool {
		return readable(open) && readable(ended) && ended.ep.(*tcp.Endpoint).EndpointState() == tcp.StateCloseWait
	})
	fill(t, orphan)
	orphanEnds := orphan.ep.(*tcp.Endpoint)
	orphan.Close()
	read := make(chan error, 1)
	go func() { _, err := waiting.Read(make([]byte, 1)); read <- err }()
	// A tenth is lost on the way.
	random := rand.New(rand.NewPCG(1, 2))
	r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte {
		if random.IntN(10) == 0 {
			return nil
		}
		return b
	})
	connects := r.a.Connects.Load()
	_ = r.b.Pipes.Close() // as a process ends whose stack says nothing
	if err := <-read; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read that waited: %v", err)
	}
	if got, err := io.ReadAll(open); string(got) != "before" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("open: %q, %v", got, err)
	}
	if got, err := io.ReadAll(ended); string(got) != "before" || err != nil {
		t.Errorf("ended: %q, %v", got, err)
	}
	// As on the kernel the first call that fails says why.
	if _, err := open.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v", err)
	}
	if _, err := open.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read again: %v", err)
	}
	if _, err := ended.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write after the end: %v", err)
	}
	// The conns end first, each as it is come to, then what has no conn.
	eventually(t, "the orphan goes on", func() bool { return !delivering(orphanEnds) })
	for _, c := range []*tcpConn{open, ended, waiting} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := r.a.Connects.Load(); n != connects {
		t.Errorf("%d pipes were asked for", n-connects)
	}
	if err := r.a.orphans.awaited(time.Now(), time.Now()); err {
		t.Error("something is still being delivered")
	}
}

// Those that wait for Accept end too, and new ones do not.
func TestPeerEndsWhileAccepting(t *testing.T) {
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := r.b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, port(l.Addr()))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing waits", func() bool { return l.(*listener).waiting.len() > 0 })
	r.a.peerGone(r.b4, r.b6)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read of one that waited: %v", err)
	}
	c, s := r.pair(t, r.b4)
	if _, err := c.Write([]byte("new")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 10)
	if n, err := s.Read(b); string(b[:n]) != "new" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
}
