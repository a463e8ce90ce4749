package idloc_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/yardstick"
)

// 200 first dials from one node to 20 peers: every one succeeds, and each
// peer has one pipe. No other test runs beside it: these 22 nodes alone keep all
// processors for a while, and each Dial has as long as the others.
func TestManyFirstDials(t *testing.T) {
	const peers, dials = 20, 200
	earth := found(t, directly)
	venus := join(t, earth, "venus", directly)
	var ports [peers]string
	var nodes [peers]*idloc.Node
	var pipes [peers]*pipeCount
	for i := range nodes {
		nodes[i] = join(t, earth, fmt.Sprintf("moon%d", i), directly)
		ports[i] = echo(t, nodes[i])
		pipes[i] = countPipes(t, nodes[i])
	}
	venusPipes := countPipes(t, venus)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for d := range dials {
		wg.Go(func() {
			<-begin
			i := d % peers
			c, err := dialTimeout(t, venus, "tcp", net.JoinHostPort(nodes[i].Name(), ports[i]))
			if err != nil {
				t.Errorf("dial %d to %s: %v", d, nodes[i].Name(), err)
				return
			}
			defer c.Close()
			if err := roundTrip(c, fmt.Appendf(nil, "dial %d", d)); err != nil {
				t.Errorf("dial %d to %s: %v", d, nodes[i].Name(), err)
			}
		})
	}
	for _, c := range append(pipes[:], venusPipes) {
		c.begin(t)
	}
	close(begin)
	wg.Wait()
	var ids []idloc.PeerID
	for i, n := range nodes {
		ids = append(ids, n.ID())
		pipes[i].wantOne(t, venus.ID())
	}
	venusPipes.wantOne(t, ids...)
}

// pipeCount counts the pipes that came up at a node, by peer.
type pipeCount struct {
	node *idloc.Node
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex // guards what follows
	up   map[idloc.PeerID]int
	last map[idloc.PeerID]time.Time // when a pipe came up

	again int // how often one that had been silent came up
	begun time.Time
	clock *yardstick.Clock // since then
}

func countPipes(t *testing.T, n *idloc.Node) *pipeCount {
	ctx, cancel := context.WithCancel(t.Context())
	c := &pipeCount{node: n, stop: cancel, done: make(chan struct{}), up: map[idloc.PeerID]int{}, last: map[idloc.PeerID]time.Time{}}
	events := n.Watch(ctx)
	go func() {
		defer close(c.done)
		for e := range events {
			if e.Kind != idloc.EventPipeUp {
				continue
			}
			// A pipe is silent after a second without an answer at the soonest
			// (package pipe); then it comes up again, and is no other pipe.
			c.mu.Lock()
			if last := c.last[e.Peer]; last.IsZero() || e.Time.Sub(last) < time.Second {
				c.up[e.Peer]++
			} else {
				c.again++
			}
			c.last[e.Peer] = e.Time
			c.mu.Unlock()
		}
	}()
	t.Cleanup(cancel)
	return c
}

// begin is told when the dials are: how busy the machine was while nodes joined says
// nothing about them.
func (c *pipeCount) begin(t *testing.T) {
	c.begun, c.clock = time.Now(), yardstick.Start()
	t.Cleanup(func() { c.clock.Stop() })
}

// wantOne ends the counting, when the pipe to each peer has been counted: what a
// watcher did not take before the end of its context is lost.
func (c *pipeCount) wantOne(t *testing.T, peers ...idloc.PeerID) {
	t.Helper()
	for _, peer := range peers {
		eventually(t, "a pipe is counted", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.up[peer] > 0
		})
	}
	c.stop()
	<-c.done
	took, own := time.Since(c.begun), c.clock.Stop()
	if c.again > 0 && took < 3*own/2 {
		t.Errorf("%s: pipes were silent and came again %d times in %v, on a machine that is not busy", c.node.Name(), c.again, took)
	}
	for _, peer := range peers {
		if c.up[peer] != 1 {
			t.Errorf("%s saw %d pipes to %s come up, want 1", c.node.Name(), c.up[peer], peer)
		}
		if p := connected(c.node, peer); p != 1 {
			t.Errorf("%s lists %d live pipes to %s, want 1", c.node.Name(), p, peer)
		}
	}
}

func connected(n *idloc.Node, peer idloc.PeerID) int {
	count := 0
	for _, p := range n.Status().Peers {
		if p.ID == peer && p.Connected {
			count++
		}
	}
	return count
}

// 1,000 dials, half from each side, at once: the offers cross, one pipe is
// left, and it is the same on both sides.
func TestCrossDials(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	dials := 1000
	if testing.Short() {
		dials = 200
	}
	ends := []struct {
		from, to *idloc.Node
		port     string
	}{{venus, mars, echo(t, mars)}, {mars, venus, echo(t, venus)}}
	pipes := []*pipeCount{countPipes(t, venus), countPipes(t, mars)}
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for d := range dials {
		wg.Go(func() {
			e := ends[d%2]
			<-begin
			c, err := dialTimeout(t, e.from, "tcp", net.JoinHostPort(e.to.Name(), e.port))
			if err != nil {
				t.Errorf("dial %d: %v", d, err)
				return
			}
			defer c.Close()
			if err := roundTrip(c, fmt.Appendf(nil, "dial %d", d)); err != nil {
				t.Errorf("dial %d: %v", d, err)
			}
		})
	}
	for _, c := range pipes {
		c.begin(t)
	}
	close(begin)
	wg.Wait()
	for i, e := range ends {
		pipes[i].wantOne(t, e.to.ID())
	}
	a, b := sessionOf(venus, mars.ID()), sessionOf(mars, venus.ID())
	if a == "" || a != b {
		t.Errorf("sessions differ: venus %q, mars %q", a, b)
	}
}

func sessionOf(n *idloc.Node, peer idloc.PeerID) string {
	for _, p := range n.Status().Peers {
		if p.ID == peer {
			return p.Session
		}
	}
	return ""
}
