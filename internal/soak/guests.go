package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/wallclock"
)

// revokedWithin is how long a member that was revoked may be served: a minute is promised,
// and here datagrams are lost and processors are busy.
const revokedWithin = 2 * time.Minute

// guests enter the overlay one after the other, until ctx ends. Each has a stream returned
// by a member, and leaves, or is revoked.
func (c *crew) guests(ctx context.Context, rnd *rand.Rand) {
	for k := 0; ctx.Err() == nil; k++ {
		if err := c.guest(ctx, fmt.Sprintf("guest%d", k), k, rnd); err != nil && ctx.Err() == nil {
			c.t.guestsFailed.Add(1)
			c.t.first("guest", err)
		}
		pause(ctx, time.Duration(1+rnd.IntN(10))*time.Second)
	}
}

func (c *crew) guest(ctx context.Context, name string, k int, rnd *rand.Rand) error {
	founder, _ := c.posts[0].now() // which neither moves nor restarts
	w, err := newWire(c.t, 200+k%50)
	if err != nil {
		return err
	}
	token, err := founder.Invite(idloc.InviteOptions{Name: name})
	if err != nil {
		return err
	}
	jctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g, err := idloc.Join(jctx, token, idloc.Config{Net: w, Addrs: w.addrs})
	if err != nil {
		return err
	}
	defer g.Close()
	c.t.guests.Add(1)
	host := c.posts[min(1, len(c.posts)-2)] // the second of more than two is always up as well
	addr := net.JoinHostPort(host.name+".soak.example", port)
	conn, err := dialWithin(ctx, g, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if rnd.IntN(2) == 0 {
		if err := echoed(conn, rnd.Uint64(), 1+rnd.Int64N(1<<20)); err != nil {
			return err
		}
		c.t.left.Add(1)
		return g.Leave(ctx)
	}
	if err := founder.Revoke(ctx, name); err != nil {
		return err
	}
	c.t.revoked.Add(1)
	if err := conn.SetReadDeadline(time.Now().Add(revokedWithin)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); isTimeout(err) && ctx.Err() == nil {
		c.t.complain(&c.t.letIn, "%s was revoked, and its conn to %s is open %v later", name, host.name, revokedWithin)
		return nil
	}
	if again, err := dialWithin(ctx, g, addr); err == nil {
		_ = again.Close()
		c.t.complain(&c.t.letIn, "%s was revoked, and lost its conn to %s, and has another", name, host.name)
	}
	return nil
}

func dialWithin(ctx context.Context, n *idloc.Node, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return n.Dial(ctx, "tcp", addr)
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// jumps are how far the clock of the process, and so of all nodes, is set from the host's.
var jumps = []time.Duration{0, 9 * time.Minute, -9 * time.Minute, time.Hour}

// clocks sets the clock now and then, until ctx ends.
func (c *crew) clocks(ctx context.Context, rnd *rand.Rand) {
	defer wallclock.Shift(0)
	for {
		pause(ctx, time.Duration(5+rnd.IntN(25))*time.Second)
		if ctx.Err() != nil {
			return
		}
		wallclock.Shift(jumps[rnd.IntN(len(jumps))])
		c.t.jumps.Add(1)
	}
}

// memory watches what the process has from the system, as GOMEMLIMIT counts it, until ctx
// ends. A limit is a wish to the garbage collector, so a tenth more is no fault.
func memory(ctx context.Context, t *tally) {
	const all, released = "/memory/classes/total:bytes", "/memory/classes/heap/released:bytes"
	s := []metrics.Sample{{Name: all}, {Name: released}}
	limit := debug.SetMemoryLimit(-1)
	for ctx.Err() == nil {
		metrics.Read(s)
		used := s[0].Value.Uint64() - s[1].Value.Uint64()
		t.memory.Store(max(t.memory.Load(), used))
		if over := int64(used); over > limit+limit/10 && limit < 1<<50 {
			t.complain(&t.overLimit, "%d MiB of memory with a limit of %d", used>>20, limit>>20)
		}
		pause(ctx, time.Second)
	}
}
