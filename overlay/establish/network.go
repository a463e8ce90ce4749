package establish

import "sync"

// network says whether this host's network is changing. After a change there is
// nobody to hand an offer to, and what this peer's addresses look like from outside
// is not known: offers and answers wait for that, for a while. It is safe for
// concurrent use.
type network struct {
	mu      sync.Mutex // guards what follows
	changes int        // under way
	settled chan struct{}
}

// NetworkChanging says that the network is changing, until the function that it
// returns is called; calls after the first do nothing.
func (c *Establisher) NetworkChanging() (settled func()) {
	n := &c.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes++; n.changes == 1 {
		n.settled = make(chan struct{})
	}
	return sync.OnceFunc(n.end)
}

func (n *network) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes--; n.changes == 0 {
		close(n.settled)
	}
}

// wait returns what is closed when no change is under way any more; nil if none
// is now.
func (n *network) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changes == 0 {
		return nil
	}
	return n.settled
}
