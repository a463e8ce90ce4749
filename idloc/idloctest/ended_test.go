package idloctest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

// both are the two ends of a connection.
type both struct{ dialled, accepted net.Conn }

// connect makes connections from a to b, with a byte for the other to read in
// every second one.
func connect(t *testing.T, a, b *Node, n int) []both {
	t.Helper()
	l, err := b.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var all []both
	for i := range n {
		c, err := a.Dial(t.Context(), "tcp", net.JoinHostPort(b.Name(), port))
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); s.Close() })
		if i%2 == 0 {
			for _, c := range []net.Conn{c, s} {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		all = append(all, both{c, s})
	}
	return all
}

// heardWithin is how soon a conn ends whose peer's node has, whatever was lost.
const heardWithin = 2 * time.Second

// TestEndIsHeard: a node ends, leaves the overlay or is put out of it, while a
// tenth of all datagrams is lost. All its connections, whoever dialled them, end
// at the other side, and at its own, and no other connection does.
func TestEndIsHeard(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(ctx context.Context, earth, mars *Node) error{
		"close":  func(_ context.Context, _, mars *Node) error { return mars.Node.Close() },
		"leave":  func(ctx context.Context, _, mars *Node) error { return mars.Leave(ctx) },
		"revoke": func(ctx context.Context, earth, mars *Node) error { return earth.Revoke(ctx, mars.Name()) },
	} {
		for _, seed := range []uint64{1, 2, 3} {
			t.Run(what, func(t *testing.T) {
				lab := New(t, Seed(seed))
				earth, mars, venus := lab.Node("earth"), lab.Node("mars"), lab.Node("venus")
				const conns = 20
				var theirs, own []net.Conn // the ends at others, and at mars
				for _, other := range []*Node{earth, venus} {
					for _, c := range connect(t, mars, other, conns) {
						theirs, own = append(theirs, c.accepted), append(own, c.dialled)
					}
					for _, c := range connect(t, other, mars, conns) {
						theirs, own = append(theirs, c.dialled), append(own, c.accepted)
					}
				}
				bystander := connect(t, venus, earth, 1)[0]
				for _, n := range []*Node{earth, mars, venus} {
					n.SetLink(Link{Delay: 5 * time.Millisecond, Loss: 0.1})
				}
				var wg sync.WaitGroup
				var mu sync.Mutex
				var slowest [2]time.Duration
				took := yardstick.Start()
				defer took.Stop()
				for i, c := range slices.Concat(theirs, own) {
					wg.Go(func() {
						c.SetReadDeadline(time.Now().Add(patience))
						var err error
						for b := make([]byte, 10); err == nil; {
							_, err = c.Read(b)
						}
						at := took.Elapsed()
						if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) && !(i >= len(theirs) && errors.Is(err, net.ErrClosed)) {
							t.Errorf("conn %d ended with %v", i, err)
						}
						mu.Lock()
						defer mu.Unlock()
						side := min(i/len(theirs), 1)
						slowest[side] = max(slowest[side], at)
					})
				}
				if err := end(t.Context(), earth, mars); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				t.Logf("%s returned after %v", what, took.Elapsed())
				wg.Wait()
				t.Logf("the last of %d conns at the others ended after %v, at its own side after %v", len(theirs), slowest[0], slowest[1])
				if slowest[0] > heardWithin || slowest[1] > heardWithin {
					t.Errorf("the last conn ended after %v, at its own side after %v", slowest[0], slowest[1])
				}
				bystander.dialled.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(bystander.dialled, make([]byte, 1)); err != nil {
					t.Errorf("a conn between the others: %v", err)
				}
				if _, err := bystander.dialled.Write([]byte("y")); err != nil {
					t.Errorf("a conn between the others: %v", err)
				}
			})
		}
	}
}

// TestUnreachableIsNotTheEnd: connections to a peer that cannot be reached for
// 20 s stand still, and go on.
func TestUnreachableIsNotTheEnd(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	lab := New(t, Seed(1))
	earth, mars, venus := lab.Node("earth"), lab.Node("mars"), lab.Node("venus")
	all := slices.Concat(connect(t, mars, venus, 20), connect(t, venus, mars, 20))
	lab.Partition([]*Host{earth.Host, venus.Host}, []*Host{mars.Host})
	quiet, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	deadline, _ := quiet.Deadline()
	var wg sync.WaitGroup
	for i, c := range all {
		if i%2 == 0 {
			continue // whose bytes are there
		}
		wg.Go(func() {
			if i%4 == 1 { // somebody has something to say meanwhile
				if _, err := c.accepted.Write([]byte("y")); err != nil {
					t.Error(err)
				}
			}
			c.dialled.SetReadDeadline(deadline)
			if _, err := c.dialled.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("conn %d while its peer is unreachable: %v", i, err)
			}
		})
	}
	wg.Wait()
	lab.Partition()
	for i, c := range all {
		wg.Go(func() {
			c.dialled.SetDeadline(time.Now().Add(patience))
			c.accepted.SetDeadline(time.Now().Add(patience))
			if _, err := c.dialled.Write([]byte("z")); err != nil {
				t.Errorf("conn %d afterwards: %v", i, err)
			}
			want := map[bool]string{true: "xz", false: "z"}[i%2 == 0]
			b := make([]byte, len(want))
			if _, err := io.ReadFull(c.accepted, b); err != nil || string(b) != want {
				t.Errorf("conn %d afterwards: %q, %v", i, b, err)
			}
		})
	}
	wg.Wait()
}
