package idloc_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/difftest"
)

var (
	programs     = flag.Int("programs", 100, "how many random programs TestPrograms runs over each link")
	programSeed  = flag.Uint64("programs.seed", 1, "of the first of them")
	programLimit = flag.Duration("programs.limit", 2*time.Minute, "how long a call of them may take")
)

// lossyLink loses segments, and lets some overtake others.
var lossyLink = idloctest.Link{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.02}

// TestPrograms: random programs of two sides see on two nodes what they see on
// the kernel. Those whose processes do not end share two nodes.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, lossy := range []bool{false, true} {
		t.Run(fmt.Sprintf("lossy %v", lossy), func(t *testing.T) {
			t.Parallel()
			shared, _ := twoNodes(t, lossy)
			many, few := make(chan struct{}, 128), make(chan struct{}, 12)
			var wg sync.WaitGroup
			defer wg.Wait()
			for i := range *programs {
				p := difftest.Generate(*programSeed+uint64(i), difftest.Options{Exits: i%4 == 3})
				sem := many
				if p.Exits() {
					sem = few
				}
				sem <- struct{}{}
				wg.Go(func() {
					defer func() { <-sem }()
					var wire bytes.Buffer // what venus saw of the first run, if it had nodes of its own
					tap := &wire
					elsewhere := func(p *difftest.Program) *difftest.Transcript {
						defer func() { tap = nil }()
						return runProgram(t, p, shared, lossy, tap)
					}
					if d := p.Check(elsewhere, lossy); d != "" {
						t.Error(d + segments(wire.Bytes()))
					}
				})
			}
		})
	}
}

// runProgram runs a program on two nodes: shared ones, or two of its own, of which the
// first writes what it sends and receives to tap, if there is one.
func runProgram(t *testing.T, p *difftest.Program, shared *difftest.World, lossy bool, tap *bytes.Buffer) (seen *difftest.Transcript) {
	if !p.Exits() {
		return p.Run(shared)
	}
	err := idloctest.Run(func(tb testing.TB) error {
		world, venus := twoNodes(tb, lossy)
		if tap != nil {
			stop, err := venus.Capture(tap)
			if err != nil {
				return err
			}
			defer stop()
		}
		seen = p.Run(world)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if seen == nil {
		seen = new(difftest.Transcript) // there were no nodes
	}
	return seen
}

// twoNodes are two nodes that have a pipe. It returns the first one, too.
func twoNodes(tb testing.TB, lossy bool) (*difftest.World, *idloctest.Node) {
	lab := idloctest.New(tb)
	w := &difftest.World{Name: "nodes", Limit: *programLimit}
	var nodes [2]*idloctest.Node
	for i, name := range []string{"venus", "mars"} {
		nodes[i] = lab.Node(name)
		w.Sides[i] = side(tb, nodes[i].Node)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := nodes[0].Dial(ctx, "udp", "mars:9")
	if err == nil {
		_, err = c.Write([]byte{0})
		c.Close()
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	if lossy {
		for _, n := range nodes {
			n.SetLink(lossyLink)
		}
	}
	return w, nodes[0]
}

// side is a node as one side of programs.
func side(tb testing.TB, n *idloc.Node) difftest.Side {
	name := n.Name()
	return difftest.Side{
		Dial: n.Dial,
		Listen: func(network, address string) (net.Listener, error) {
			return n.Listen(network, address)
		},
		Far:  func(bool) string { return name },
		Exit: n.Close,
	}
}
