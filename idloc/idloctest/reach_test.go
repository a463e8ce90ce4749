package idloctest_test

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestMovedAfterJoin: an address changes as soon as the second peer of an
// overlay has joined and made a pipe. There is nobody else to ask; the pipe
// leads back into the overlay.
func TestMovedAfterJoin(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(earth, mars *Node) *Node{
		"the founder":           func(earth, _ *Node) *Node { earth.Move(); return earth },
		"the other":             func(_, mars *Node) *Node { mars.Move(); return mars },
		"the other, into a NAT": func(_, mars *Node) *Node { mars.Move(nat...); return mars },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			earth, mars := lab.Node("earth", Over(hop)), lab.Node("mars", Over(hop))
			echo(t, mars)
			if err := call(t.Context(), earth, mars, []byte("before")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			events := map[*Node]iter.Seq[idloc.Event]{}
			for _, n := range []*Node{earth, mars} {
				events[n] = n.Watch(ctx)
			}
			start := time.Now()
			// It closes the connection by its old address, and makes one.
			gone, back := false, false
			for e := range events[move(earth, mars)] {
				gone = gone || e.Kind == idloc.EventPeerGone
				if back = gone && e.Kind == idloc.EventPeerConnected; back {
					break
				}
			}
			if !back {
				t.Fatal("the peers do not meet again")
			}
			t.Logf("a member again after %v", time.Since(start).Round(time.Millisecond))
			if err := call(t.Context(), earth, mars, []byte("after")); err != nil {
				t.Error(err)
			}
			await(t, "each has the other as its one member", 20*time.Second, func() bool {
				return earth.Status().Self.Members == 1 && mars.Status().Self.Members == 1
			}, earth, mars)
		})
	}
}
