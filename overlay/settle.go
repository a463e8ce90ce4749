package overlay

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/idloc/idloc/internal/pipe"
)

// After a change of the network there is nobody to hand an offer to, and what
// this peer's addresses look like from outside is not known. Offers and answers
// wait for that, for a while: one that goes out too early fails, or names
// addresses that are gone.
const (
	settleMax    = time.Second            // an offer waits no longer
	settleAnswer = 300 * time.Millisecond // nor an answer, for which somebody waits
)

// settling says whether the network is changing. It is safe for concurrent
// use.
type settling struct {
	mu      sync.Mutex // guards what follows
	changes int        // under way
	done    chan struct{}
}

func (s *settling) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes++; s.changes == 1 {
		s.done = make(chan struct{})
	}
}

func (s *settling) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes--; s.changes == 0 {
		close(s.done)
	}
}

// wait returns when no change is under way, when it has waited for long, or
// when ctx ends.
func (s *settling) wait(ctx context.Context, at time.Duration) {
	s.mu.Lock()
	done, busy := s.done, s.changes > 0
	s.mu.Unlock()
	if !busy {
		return
	}
	t := time.NewTimer(at)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
}

// settle finds members and mapped addresses after a change, and then new paths
// for the pipes that were up before it.
func (o *Overlay) settle(were []*pipe.Pipe) {
	ended := sync.OnceFunc(o.settling.end)
	defer ended()
	measured := o.mapped.measured() // by those remembered, if nobody is connected
	for !o.online() {
		if !pause(o.ctx, srflxWait) {
			return
		}
	}
	for range 2 {
		select {
		case <-measured:
		case <-o.ctx.Done():
			return
		}
		if o.mapped.known() {
			break
		}
		measured = o.mapped.measured()
	}
	ended()
	o.connects.renew(o.ctx, were)
}

// online says whether there is a member to talk to, and tries those
// remembered if not. Dials that failed before the network changed do not count.
func (o *Overlay) online() bool {
	if len(o.gate.members()) > 0 {
		return true
	}
	known := o.peers.addrInfos()
	if sw, ok := o.host.Network().(*swarm.Swarm); ok {
		for _, ai := range known {
			sw.Backoff().Clear(ai.ID)
		}
	}
	return len(known) > 0 && o.bootstrap(o.ctx, known) == nil
}

// hangUp closes the connections from addresses that are gone: nobody answers
// on them, and QUIC would find that out in half a minute.
func (o *Overlay) hangUp(gone map[string]bool) {
	var wg sync.WaitGroup
	for _, c := range o.host.Network().Conns() {
		if at, ok := addrPort(c.LocalMultiaddr()); ok && gone[at.String()] {
			wg.Go(func() { closeConn(c) })
		}
	}
	wg.Wait()
}

func closeConn(c network.Conn) { _ = c.Close() }
