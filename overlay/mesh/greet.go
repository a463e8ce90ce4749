package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	msmux "github.com/multiformats/go-multistream"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// errCrowds is why a member is refused for now.
var errCrowds = errors.New("too many members are connected that came by the same invitation or delegate: try again later")

// greet says hello on a connection and reads the answer. One that fails costs the
// connection, but for a member's only one by which it is late with its answer to news: it
// may be busy, and whether it is there is another question (suspect.go).
func (g *gate) greet(c network.Conn) {
	again := g.greeted(c)
	ctx, cancel := context.WithTimeout(g.ctx, g.patience())
	defer cancel()
	err := g.greetUntilIn(ctx, c)
	if err == nil || g.ctx.Err() != nil || c.IsClosed() {
		return
	}
	g.log.Debug("hello failed", "peer", c.RemotePeer(), "err", err)
	late := ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) // the stream's deadline, or ours
	if again && late && len(g.host.Network().ConnsToPeer(c.RemotePeer())) == 1 {
		return
	}
	g.refuse(c.RemotePeer(), err)
	_ = c.Close()
}

// greetUntilIn says hello, and again if the answer is a new membership.
func (g *gate) greetUntilIn(ctx context.Context, c network.Conn) error {
	err := g.greetOn(ctx, c)
	var again *renewal
	if !errors.As(err, &again) {
		return err
	}
	if err := g.readmitted(again.answer); err != nil {
		return err
	}
	return g.greetOn(ctx, c)
}

func (g *gate) greetOn(ctx context.Context, c network.Conn) error {
	asked := time.Now()
	s, err := c.NewStream(ctx)
	if err != nil {
		return fmt.Errorf("hello stream: %w", err)
	}
	defer s.Reset() // nothing is left to say when it returns
	if err := s.SetProtocol(g.proto); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	rw := msmux.NewMSSelect(s, g.proto)
	if _, err := rw.Write(g.mine(c.RemotePeer()).appendTo([]byte{helloWelcome})); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	// A peer that has answered already asks for no more, and then this fails:
	// the answer tells.
	_ = s.CloseWrite()
	h, err := readHello(rw)
	if err != nil {
		if errors.As(err, new(*renewal)) {
			return err
		}
		err = fmt.Errorf("hello: %w", err)
		// Before the stream ends: the peer closes the connection then, and
		// those who wait would not learn the reason.
		g.refuse(c.RemotePeer(), err)
		var no *RefusedError
		if errors.As(err, &no) {
			if id, err := p2p.PeerID(c.RemotePeer()); err == nil {
				g.clock(id, no.seconds)
			}
		}
		return err
	}
	return g.admit(c, h, asked)
}

// serveHello answers a hello: a valid one with ours, any other with the
// reason, so that a peer with a wrong clock or an expired chain can tell its
// user, or with the new chain that is to be had for it. Our chain is shown to members
// only.
func (g *gate) serveHello(s network.Stream) {
	end, ok := g.begin(s)
	if !ok {
		return
	}
	defer end()
	_ = s.SetDeadline(time.Now().Add(helloTimeout))
	c := s.Conn()
	h, err := readHello(s)
	if err == nil {
		err = g.returned(c, h)
	}
	if err == nil {
		if err = g.admit(c, h, time.Time{}); err != nil {
			var again *renewal
			if again, err = g.renewalFor(c, h, err); err == nil {
				// What it says next, on this connection, is a hello with its new chain.
				_, _ = s.Write(again.appendTo(nil))
				_ = s.CloseWrite()
				return
			}
		}
	}
	if err == nil {
		if _, err = s.Write(g.mine(c.RemotePeer()).appendTo([]byte{helloWelcome})); err == nil {
			_ = s.Close()
			return
		}
		_ = s.Reset()
		return
	}
	g.log.Debug("refusing a hello", "peer", c.RemotePeer(), "err", err)
	_, _ = s.Write((&RefusedError{err.Error(), refusedForGood(err), errors.Is(err, membership.ErrUsed), g.mine(c.RemotePeer()).Seconds}).appendTo(nil))
	_ = s.CloseWrite()
	// The peer closes the connection when it has read the reason; closing it
	// from here at once would overtake that. Do not wait for long.
	g.mu.Lock()
	d := g.doorLocked(c.RemotePeer())
	g.mu.Unlock()
	if d != nil {
		t := time.NewTimer(refusalGrace)
		defer t.Stop()
		select {
		case <-d.gone:
		case <-t.C:
		case <-g.ctx.Done():
		}
	}
	_ = s.Reset()
	_ = c.Close()
}

// admit verifies a hello and opens the peer's door. asked is when this peer has asked for
// the hello; zero if it did not.
func (g *gate) admit(c network.Conn, h Hello, asked time.Time) error {
	p := c.RemotePeer()
	id, err := p2p.PeerID(p)
	if err != nil {
		return fmt.Errorf("%w: %v", membership.ErrNotMember, err)
	}
	m, err := g.judge(h, id)
	if err == nil || errors.As(err, new(*membership.TimeError)) {
		g.clock(id, h.Seconds) // it is a member, or was, or will be one
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	d := g.doorLocked(p)
	crowds := d != nil && g.crowdsLocked(c, m)
	g.mu.Unlock()
	if crowds {
		return errCrowds
	}
	countMember(c, c.Stat().Direction != network.DirInbound || g.pace.connects(m))
	g.mu.Lock()
	d = g.doorLocked(p)
	if d == nil {
		g.mu.Unlock()
		return network.ErrNoConn
	}
	first := d.Member == nil
	d.Member, d.Chain, d.Roles = m, h.Chain, h.Roles
	d.Remote = c.RemoteMultiaddr()
	if h.Young {
		d.youngUntil = time.Now().Add(g.youngFor)
	}
	d.replace(c)
	if c.Stat().Direction == network.DirInbound && !g.dialled.Contains(p) {
		g.reach.note(c)
	}
	if t := g.timers[c]; t != nil {
		t.Stop()
		delete(g.timers, c)
	}
	g.refusals.Remove(p)
	if first {
		close(d.open)
	}
	now := d.Neighbor
	g.mu.Unlock()
	if first {
		g.entered(now)
	} else {
		g.probeOthers(c)
	}
	g.hearStart(p, h, asked)
	g.heard(now, h)
	return nil
}

// returned says why this peer is no member itself now. If a member has come to it, it
// says hello to that first: the answer may be a new membership.
func (g *gate) returned(c network.Conn, h Hello) error {
	lapsed := g.lapsed()
	if lapsed == nil {
		return nil
	}
	id, err := p2p.PeerID(c.RemotePeer())
	if err != nil {
		return lapsed
	}
	if _, err := g.judge(h, id); err != nil {
		return err // its chain is not shown to strangers
	}
	ctx, cancel := context.WithTimeout(g.ctx, helloTimeout)
	defer cancel()
	if err := g.greetUntilIn(ctx, c); err != nil {
		return fmt.Errorf("no member itself now: %w", lapsed)
	}
	return nil
}

// renewalFor is the answer to a hello that is refused for a reason, why, if its sender
// gets a new membership; else the error is why it is refused.
func (g *gate) renewalFor(c network.Conn, h Hello, why error) (*renewal, error) {
	id, err := p2p.PeerID(c.RemotePeer())
	if err != nil {
		return nil, why
	}
	ctx, cancel := context.WithTimeout(g.ctx, helloTimeout)
	defer cancel()
	b, err := g.readmit(ctx, h.Chain, id, why)
	return &renewal{b}, err
}

// refusedForGood says whether a peer that is refused for err need not come again.
func refusedForGood(err error) bool {
	return errors.Is(err, membership.ErrNotMember) && !errors.As(err, new(*membership.TimeError)) && !errors.Is(err, membership.ErrContested)
}

// judge says who a hello makes a member.
func (g *gate) judge(h Hello, id peerid.ID) (*membership.Member, error) {
	if g.charter != nil && len(h.Charter) > 0 {
		g.charter(id, h.Charter)
	}
	return g.verify(h.Chain, id)
}
