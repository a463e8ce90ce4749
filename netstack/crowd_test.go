package netstack

import (
	"context"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/shim/shimtest"
)

var (
	crowdPeers = flag.Int("crowd.peers", 10, "peers in TestCloseOfACrowd")
	crowdConns = flag.Int("crowd.conns", 20, "conns to each of them")
)

// TestCloseOfACrowd: a node with many conns to many peers ends while a twentieth
// of all datagrams is lost. Every conn's other side has its end.
func TestCloseOfACrowd(t *testing.T) {
	n := shimtest.NewNet()
	hub := newNode(t, n, nil)
	l, err := hub.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
			accepted.Add(1)
		}
	}()
	var conns []net.Conn
	for range *crowdPeers {
		peer := newNode(t, n, nil)
		at, _ := peer.LSI(t, hub.Node)
		for range *crowdConns {
			c, err := peer.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
	}
	eventually(t, "not all were accepted", func() bool { return accepted.Load() == int64(len(conns)) })
	var mu sync.Mutex // guards random
	random := rand.New(rand.NewPCG(5, 5))
	n.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(20) == 0 {
			return nil
		}
		return b
	})
	began, used := time.Now(), cpuTime()
	closing, knowing := yardstick.Start(), yardstick.Start()
	defer closing.Stop()
	defer knowing.Stop()
	var wg sync.WaitGroup
	knew := make([]time.Duration, len(conns))
	for i, c := range conns {
		wg.Go(func() {
			if n, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%d bytes, %v", n, err)
			}
			knew[i] = time.Since(began)
			c.Close()
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := hub.Stack.Close(ctx); err != nil {
		t.Error(err)
	}
	stack, stackUsed := time.Since(began), cpuTime()-used
	hub.Node.Close()
	closed := closing.Stop()
	whole := time.Since(began)
	wg.Wait()
	var last time.Duration
	for _, d := range knew {
		last = max(last, d)
	}
	known, used := knowing.Stop(), cpuTime()-used
	if known > 2*time.Second {
		t.Errorf("the last conn knew after %v", known)
	}
	t.Logf("%d conns to %d peers: the stack was closed after %v, the node after %v, the last conn knew after %v", len(conns), *crowdPeers, stack, whole, last)
	t.Logf("on a machine with nothing else to do the node after %v, the last conn knew after %v; all nodes together used %v of its processors, %v until the stack was closed", closed, known, used, stackUsed)
}
