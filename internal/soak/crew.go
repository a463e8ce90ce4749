package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// port is where every node echoes.
const port = "7"

// crew is the nodes of one run.
type crew struct {
	t     *tally
	posts []*post
}

// post is one name in the overlay, and the node that has it now.
type post struct {
	name string
	dir  string
	wire *wire

	mu    sync.Mutex // guards what follows
	node  *idloc.Node
	term  int            // how often a node left, counted before it does
	serve sync.WaitGroup // its echo; only the one who changes node waits
}

func newCrew(ctx context.Context, cfg config, dir string, t *tally) (c *crew, err error) {
	c = &crew{t: t}
	defer func() {
		if err != nil {
			_ = c.close()
		}
	}()
	for i := range cfg.nodes {
		p := &post{name: fmt.Sprintf("node%d", i), dir: filepath.Join(dir, fmt.Sprint(i))}
		if p.wire, err = newWire(t, i); err != nil {
			return c, err
		}
		var n *idloc.Node
		if i == 0 {
			n, err = idloc.Create(ctx, "soak.example", p.config())
		} else {
			var token string
			if token, err = c.posts[0].node.Invite(idloc.InviteOptions{Name: p.name}); err == nil {
				n, err = idloc.Join(ctx, token, p.config())
			}
		}
		if err != nil {
			return c, err
		}
		c.posts = append(c.posts, p)
		if err = p.take(n, t); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (p *post) config() idloc.Config {
	return idloc.Config{Name: p.name, Dir: p.dir, Net: p.wire, Addrs: p.wire.addrs}
}

// take puts n in office: from now on it echoes.
func (p *post) take(n *idloc.Node, t *tally) error {
	p.mu.Lock()
	p.node = n
	p.mu.Unlock()
	l, err := n.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	pc, err := n.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	p.serve.Go(func() {
		for e := range n.Watch(context.Background()) { // until the node closes
			switch e.Kind {
			case idloc.EventPipeRekeyed:
				t.rekeys.Add(1)
			case idloc.EventPipeMoved:
				t.pipesMoved.Add(1)
			}
		}
	})
	p.serve.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve.Go(func() { defer conn.Close(); _, _ = io.Copy(conn, conn) })
		}
	})
	p.serve.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = pc.WriteTo(b[:n], from)
			}
		}
	})
	return nil
}

// now returns the node, nil if there is none, and its term.
func (p *post) now() (*idloc.Node, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node, p.term
}

// leave closes the node.
func (p *post) leave() error {
	p.mu.Lock()
	n := p.node
	p.node = nil
	p.term++
	p.mu.Unlock()
	if n == nil {
		return nil
	}
	err := n.Close()
	p.serve.Wait()
	return err
}

func (c *crew) close() error {
	var errs []error
	for _, p := range c.posts {
		errs = append(errs, p.leave())
	}
	return errors.Join(errs...)
}

// left judges what Close said of the node of p. A lossy link may be too slow for
// what was written to arrive while Close waits; a sound one may not.
func (c *crew) left(p *post, err error) {
	lossy := slices.ContainsFunc(c.posts, func(p *post) bool { return p.wire.percent.Load() > 0 })
	var cut *idloc.CutError
	switch {
	case err == nil:
	case lossy && errors.As(err, &cut):
		c.t.closesCut.Add(1)
	default:
		c.t.complain(&c.t.lost, "closing %s: %v", p.name, err)
	}
}

// settled says whether p neither moves nor restarts nor falls silent: the
// founder, so that the others find each other again, and the second of more
// than two, so that a pipe between two gets old enough for new keys.
func (c *crew) settled(p *post) bool {
	return len(c.posts) > 2 && p == c.posts[1] || p == c.posts[0]
}

// faults does harm until ctx ends, and leaves everything up.
func (c *crew) faults(ctx context.Context, rnd *rand.Rand) {
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for ctx.Err() == nil {
		p := c.posts[rnd.IntN(len(c.posts))]
		switch rnd.IntN(6) {
		case 0, 1:
			p.wire.percent.Store(rnd.Int32N(10))
		case 2:
			p.wire.percent.Store(0)
		case 3:
			if c.settled(p) {
				continue
			}
			c.t.blackouts.Add(1)
			p.wire.dark.Store(true)
			wait(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			p.wire.dark.Store(false)
		case 4:
			if n, _ := p.now(); n != nil && !c.settled(p) {
				c.t.moves.Add(1)
				p.wire.move()
				n.NetworkChanged()
			}
		case 5:
			if c.settled(p) {
				continue
			}
			c.t.restarts.Add(1)
			c.left(p, p.leave())
			// The run's end does not stop a node from coming back.
			n, err := idloc.Open(context.WithoutCancel(ctx), p.config())
			if err == nil {
				err = p.take(n, c.t)
			}
			if err != nil {
				c.t.complain(&c.t.lost, "%s does not come back: %v", p.name, err)
			}
		}
		wait(time.Duration(200+rnd.IntN(2000)) * time.Millisecond)
	}
	for _, p := range c.posts {
		p.wire.percent.Store(0)
	}
}
