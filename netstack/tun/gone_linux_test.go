package tun

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/shim/shimtest"
)

// The connections that the host's programs have with a peer whose process has
// ended without a word of TCP end at once: what had come can be read, then there
// is the end where the peer had said so, and an error everywhere else. Nobody is
// asked for a pipe, and those with other peers go on.
func TestPeerEnds(t *testing.T) {
	n := shimtest.NewNet()
	a, b, other := newHost(t, n, nil), newStack(t, n), newStack(t, n)
	b4, b6 := a.LSI(t, b.Node)
	other4, _ := a.LSI(t, other.Node)
	if err := destroyable(a); err != nil {
		t.Skip("the kernel ends no sockets: ", err)
	}
	dial := func(to *stack, at netip.Addr) (client, server net.Conn) {
		ln, err := to.ListenTCP("tcp", netip.AddrPort{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		a.in(func() {
			client, err = net.Dial("tcp", netip.AddrPortFrom(at, addrOf(ln.Addr()).Port()).String())
		})
		if err != nil {
			t.Fatal(err)
		}
		if server, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		_ = client.SetDeadline(time.Now().Add(time.Minute))
		return client, server
	}
	open, s1 := dial(b, b4)
	ended, s2 := dial(b, b6)
	apart, s3 := dial(other, other4)
	for _, s := range []net.Conn{s1, s2} {
		if _, err := s.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s2.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6)
	for _, c := range []net.Conn{open, ended} {
		if _, err := io.ReadFull(c, got[:3]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ended.Read(got[:3]); err != nil {
		t.Fatal(err)
	}
	if _, err := ended.Read(got); err != io.EOF {
		t.Fatal(err)
	}
	connects := a.Connects.Load()
	_ = b.Pipes.Close() // as a process ends whose stack says nothing
	if got, err := io.ReadAll(open); string(got) != "ore" || !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("open: %q, %v", got, err)
	}
	if n, err := ended.Read(got); n != 0 || err != io.EOF {
		t.Errorf("ended: %d, %v", n, err)
	}
	if _, err := s3.Write([]byte("on")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(apart, got[:2]); err != nil {
		t.Errorf("a conn with another peer: %v", err)
	}
	if n := a.Connects.Load(); n != connects {
		t.Errorf("%d pipes were asked for", n-connects)
	}
}

// destroyable asks the kernel to end a socket that there is not.
func destroyable(h *host) error {
	_, err := h.dev.diag.ask(sockDestroy, unix.NLM_F_ACK, 0, diag(unix.AF_INET, make([]byte, diagSockID)))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
