package establish

import (
	"context"
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
)

// improve makes offers for a direct path as long as the pipe is relayed. It
// returns at once, and does nothing where that is under way.
func (c *Establisher) improve(p peerid.ID, pp *pipe.Pipe) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.improving[p] {
		return
	}
	c.improving[p] = true
	c.wg.Go(func() {
		defer func() {
			c.mu.Lock()
			delete(c.improving, p)
			c.mu.Unlock()
		}()
		for wait := table[improveFirst].after; pause.For(c.ctx, wait); wait = c.nextImprove(wait, pp) {
			if c.cfg.Pipes.Pipe(p) != pp || pp.Err() != nil || !pp.Relayed() {
				return
			}
			c.again(c.ctx, p)
		}
	})
}

// nextImprove is how long to wait for the next attempt.
func (c *Establisher) nextImprove(wait time.Duration, pp *pipe.Pipe) time.Duration {
	if pp.OverCarrier() {
		return table[improveCarried].after
	}
	return min(2*wait, table[improveMax].after)
}

// Uncarry looks for a direct path as long as a pipe goes over a carrier, be it to a relay:
// the one whose network lets no UDP out is who will know that it does. It returns at once.
func (c *Establisher) Uncarry(pp *pipe.Pipe) {
	if c.cfg.Policy == AnyPath && pp.OverCarrier() {
		c.improve(pp.Peer(), pp)
	}
}

// again runs a new establishment for direct paths with a peer that has a pipe
// already (DESIGN §9: "a fresh ICE exchange").
func (c *Establisher) again(ctx context.Context, p peerid.ID) {
	e, err := c.begin(p, true)
	if err != nil {
		return
	}
	select {
	case <-e.done:
	case <-ctx.Done():
	}
}

// Renew looks for new paths of the pipes that were up before this peer's
// addresses changed: direct ones for those that live, any for the others. It
// returns when all were begun, renewWidth at a time, or ctx ends.
func (c *Establisher) Renew(ctx context.Context, pipes []*pipe.Pipe) {
	turns := make(chan struct{}, renewWidth)
	for _, pp := range pipes {
		live := pp.Err() == nil
		if live && c.cfg.Policy == RelayOnly || c.cfg.Pipes.Pipe(pp.Peer()) != pp {
			continue
		}
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !c.spawn(func() {
			defer func() { <-turns }()
			if live {
				c.again(c.ctx, pp.Peer())
				return
			}
			ctx, cancel := context.WithTimeout(c.ctx, c.after(answerBy))
			defer cancel()
			_, _ = c.connect(ctx, pp.Peer(), false) // else the next packet tries again
		}) {
			return
		}
	}
}
