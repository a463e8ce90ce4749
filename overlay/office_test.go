package overlay

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestOffice: many members behind one address join at once, nobody is refused,
// and they are no strangers afterwards. In this test loopback is the address.
func TestOffice(t *testing.T) {
	const n = 40
	earth := founded(t, "earth")
	peers := make([]*node, n)
	tokens := make([]string, n)
	for i := range peers {
		peers[i] = newNode(t, nil)
		var err error
		if tokens[i], err = earth.Invite(InviteOptions{Name: fmt.Sprint("desk", i)}); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	overlays := make([]*Overlay, n)
	errs := make([]error, n)
	for i, p := range peers {
		wg.Go(func() { overlays[i], errs[i] = Join(t.Context(), tokens[i], p.config(fmt.Sprint("desk", i))) })
	}
	wg.Wait()
	for i, p := range peers {
		p.run(overlays[i], errs[i])
	}
	await(t, "all are in, and none is a stranger", 30*time.Second, func() bool {
		return len(earth.Peers()) == n && earth.mesh.Strangers() == 0
	})
}

// TestRecall: a founder that starts again, where nobody looks for it, has all
// its members soon: it calls them.
func TestRecall(t *testing.T) {
	const n = 24
	earth := newNode(t, memory(t))
	earth.run(Create(t.Context(), "example.com", earth.config("earth")))
	for i := range n {
		earth.join(t, fmt.Sprint("desk", i))
	}
	await(t, "all are remembered", 30*time.Second, func() bool { return len(earth.mesh.Known().Met()) == n })
	earth.shut()
	again := newNodeWith(t, earth.key, earth.state) // on another port
	again.run(Create(t.Context(), "example.com", again.config("earth")))
	await(t, "all have been called", 30*time.Second, func() bool { return len(again.Peers()) == n })
}
