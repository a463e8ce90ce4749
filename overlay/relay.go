package overlay

import (
	"context"
	"errors"
	"slices"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/membership"
)

// The relay of last resort (DESIGN §8, §14.4): members whose invitation lets
// them forward for others. The initiator names up to two in its offer, the
// responder in its answer, and both make pipes to all of them and ask for a
// channel; the first that stands carries the pipe while the checks go on.
//
// Relays are named and used when needed: a peer keeps no pipe to one in
// advance, as DESIGN §14.4 has it. That costs a relayed establishment one or
// two round trips to the relay, and saves each relay a pipe to every member
// that never needs it. For the same reason the checks have a head start, as
// RFC 8305 §5 gives the better address family one.
const (
	relayHeadStart = 200 * time.Millisecond
	// A relayed pipe looks for a direct path again after this, doubled up to
	// improveMax; and when this peer's addresses change.
	improveFirst = 10 * time.Second
	improveMax   = 5 * time.Minute
	// renewWidth is for how many peers at a time paths are looked for anew.
	renewWidth = 16
	// revivedHeadStart is what checks have before relays where a pipe was up:
	// somebody's data stands still.
	revivedHeadStart = 100 * time.Millisecond
)

// PathPolicy restricts the paths of pipes.
type PathPolicy uint8

// The policies.
const (
	PathAny        PathPolicy = iota
	PathDirectOnly            // name no relay, use none
	PathRelayOnly             // name no address, run no checks; pipes to relays themselves are direct
)

var (
	errRelayOnly = errors.New("direct paths are ruled out here")
)

// RelayFor says whether this peer forwards between two members, and to whom
// from's traffic is charged: its invitation. It is pipe.Config.Relay.
func (o *Overlay) RelayFor(from, to peerid.ID) (account string, ok bool) {
	if me := o.Member(); !o.relays() || me == nil || !me.Roles.Has(membership.RoleRelay) {
		return "", false
	}
	o.names.mu.Lock()
	defer o.names.mu.Unlock()
	m := o.names.members[from] // its pipe came with a chain
	if m == nil || !o.now().Before(m.NotAfter) || o.revoked.Load().Revokes(m) {
		return "", false
	}
	return string(m.Invitation[:]), true
}

// relays says whether this peer forwards for others at all: not if it hides its
// addresses, since those whom it relays for would have to know them.
func (o *Overlay) relays() bool { return !o.cfg.NoRelay && o.cfg.Paths != PathRelayOnly }

// relays are the members that this side names as relays towards a peer:
// those connected first, of these the servers, which others reach.
func (c *connects) relays(target peerid.ID) []peerid.ID {
	if c.o.cfg.Paths == PathDirectOnly {
		return nil
	}
	type candidate struct {
		id   peerid.ID
		rank int
		dist kb.ID
	}
	self := kb.ConvertPeerID(c.o.host.ID())
	var all []candidate
	add := func(id peerid.ID, rank int) {
		known := slices.ContainsFunc(all, func(k candidate) bool { return k.id == id })
		if id != target && id != c.o.self && !known {
			all = append(all, candidate{id, rank, distance(kb.ConvertPeerID(toLibp2p(id)), self)})
		}
	}
	refuses := map[peerid.ID]bool{}
	for _, d := range c.o.gate.members() {
		switch {
		case d.flags&flagNoRelay != 0:
			refuses[d.id] = true
		case !d.member.Roles.Has(membership.RoleRelay):
		case c.o.db.speaks(d):
			add(d.id, 0)
		default:
			add(d.id, 1)
		}
	}
	c.o.names.mu.Lock()
	for id, m := range c.o.names.members {
		if m.Roles.Has(membership.RoleRelay) && !refuses[id] && c.o.now().Before(m.NotAfter) {
			add(id, 2)
		}
	}
	c.o.names.mu.Unlock()
	slices.SortFunc(all, func(a, b candidate) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		return slices.Compare(a.dist, b.dist)
	})
	var out []peerid.ID
	for _, k := range all[:min(len(all), wire.MaxRelays)] {
		out = append(out, k.id)
	}
	return out
}

// opening is a session that needs a path. open owns its agent and session.
type opening struct {
	e       *establishment
	agent   *iceAgent
	session *pipe.Session
	remote  pipe.Remote
	relays  []peerid.ID // of both sides
}

// both joins what the two sides name. A side that names none wants none.
func (c *connects) both(target peerid.ID, mine, theirs []peerid.ID) []peerid.ID {
	if len(mine) == 0 && len(theirs) == 0 || c.o.cfg.Paths == PathDirectOnly {
		return nil
	}
	out := slices.Clone(mine)
	for _, r := range theirs {
		if r != c.o.self && r != target && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// tried is a path, or why there is none.
type tried struct {
	path pipe.Path
	turn bool // it leads through a TURN server
	// extra: nobody waits for it.
	extra bool
	err   error
}

// open finds a path for a session: by checks, or through a relay while they
// run. When a relay was first the checks go on, and what they find is added.
func (c *connects) open(ctx context.Context, o opening) (*pipe.Pipe, error) {
	checks, stopChecks := context.WithTimeout(c.ctx, checkTimeout)
	unhook := context.AfterFunc(ctx, stopChecks)
	binds, stopBinds := context.WithTimeout(c.ctx, openTimeout)
	turn := o.agent.turn
	o.agent.turn = nil // ours: it lives as long as the search, and answers a little longer
	later := false     // the rest of the search goes on after the return
	defer func() {
		if !later {
			stopBinds()
			stopChecks()
		}
	}()
	o.agent.session.run(o.remote.Pwd, o.e.initiator)
	heard, heardUp := c.tryHeard(o)
	checked := make(chan tried, 1)
	c.wg.Go(func() {
		defer func() {
			if !o.e.initiator {
				// Its checks begin with our answer, which may not be there yet.
				select {
				case <-o.e.done:
				case <-c.ctx.Done():
				}
			}
			c.retire(o.agent, o.e.peer)
		}()
		if c.hides(o.e) {
			checked <- tried{err: errRelayOnly}
			return
		}
		path, err := c.check(checks, o.agent, o.e.peer, o.e.initiator, o.remote)
		checked <- tried{path: path, err: err}
	})
	c.wg.Go(func() {
		<-binds.Done()
		pause(c.ctx, iceGrace)
		turn.close()
	})
	relayed := make(chan tried, len(o.relays)+1)
	waiting, relays := 1, o.relays
	turning, alone := false, false // checks through TURN servers have begun; and members wait for them
	bind := func() {
		for _, r := range relays {
			waiting++
			c.wg.Go(func() { relayed <- c.bind(binds, r, o) })
		}
		relays = nil
	}
	start := relayHeadStart
	if c.o.pipes.Pipe(o.e.peer) != nil {
		start = revivedHeadStart
	}
	head := time.NewTimer(start)
	defer head.Stop()
	throughTURN := func() {
		if !turning && turn != nil {
			turning = true
			pairs := c.pairsOf(o)
			if alone = len(pairs) > 0; alone {
				waiting++
				head.Reset(turnAlone)
			}
			c.wg.Go(func() {
				f := c.throughTURN(binds, o, turn, pairs)
				f.extra = len(pairs) == 0 // for addresses that the peer tells late
				relayed <- f
			})
		}
	}
	turnHead := time.NewTimer(turnHeadStart)
	defer turnHead.Stop()
	// The rest of the search goes on beside a pipe that is up.
	goOn := func(pp *pipe.Pipe, failed bool) {
		later = true
		unhook()
		c.wg.Go(func() {
			defer stopBinds()
			defer stopChecks()
			c.goOn(o, pp, checked, relayed, waiting, failed)
		})
	}
	var checkErr, relayErr error
	for waiting > 0 {
		var f tried
		select {
		case <-turnHead.C:
			throughTURN()
			continue
		case <-head.C:
			bind()
			continue
		case <-heardUp:
			goOn(heard, false)
			return heard, nil
		case f = <-checked:
			if f.err != nil {
				checkErr = f.err
				throughTURN()
				if !alone {
					bind()
				}
			}
		case f = <-relayed:
			if f.err != nil {
				relayErr = f.err
				if f.turn {
					bind()
				}
			}
			if f.extra {
				waiting++
			}
		case <-ctx.Done():
			if checkErr == nil {
				checkErr = context.Cause(ctx)
			}
			return nil, c.unopened(o, checkErr, relayErr)
		}
		waiting--
		if f.err != nil {
			continue
		}
		pp, err := c.o.pipes.Up(o.session, f.path)
		if err == nil {
			err = o.e.ready(ctx, pp)
		}
		direct := f.path.Via().IsZero() && !f.turn
		if err != nil {
			if direct {
				return nil, &StageError{StageHandshake, o.e.peer, err}
			}
			relayErr = err
			continue
		}
		if !direct {
			goOn(pp, checkErr != nil)
		}
		return pp, nil
	}
	return nil, c.unopened(o, checkErr, relayErr)
}

// tryHeard uses the address that a check of the peer came from while its answer
// was on the way, if there is one: only the peer knows the password in the
// check. That saves the round trip of our own checks, which go on: until the
// peer has answered from there the pipe sends it little (DESIGN §9). It returns
// the pipe, and what is closed when it is up.
func (c *connects) tryHeard(o opening) (*pipe.Pipe, <-chan struct{}) {
	if !o.e.initiator || c.hides(o.e) || c.o.pipes.Pipe(o.e.peer) != nil {
		return nil, nil
	}
	for _, h := range o.agent.session.early() {
		if !c.o.filter.allowed(h.remote) {
			continue
		}
		pp, err := c.o.pipes.Try(o.session, pipe.Path{Local: h.local, Remote: h.remote}, h.n)
		if err != nil {
			break
		}
		return pp, pp.Ready()
	}
	return nil, nil
}

// unopened ends a session without a path, unless the peer's first packet has
// told one.
func (c *connects) unopened(o opening, checkErr, relayErr error) error {
	if !o.e.initiator && c.up(o.e.peer) != nil {
		return nil
	}
	o.session.Cancel()
	if pp := c.o.pipes.Pipe(o.e.peer); pp != nil && o.session.In(pp) && pp.Err() != nil {
		pp.Close(nil) // of tryHeard, and nobody answered
	}
	if relayErr != nil && !errors.Is(relayErr, context.Canceled) {
		checkErr = errors.Join(checkErr, relayErr)
	}
	return &StageError{StageCheck, o.e.peer, checkErr}
}

// goOn takes what is found after a relay carries the pipe, and looks for a
// direct path again and again if the checks find none.
func (c *connects) goOn(o opening, pp *pipe.Pipe, checked, relayed <-chan tried, waiting int, failed bool) {
	for ; waiting > 0; waiting-- {
		var f tried
		select {
		case f = <-checked:
			failed = f.err != nil
		case f = <-relayed:
			if f.extra {
				waiting++
			}
		}
		if f.err == nil {
			_, _ = c.o.pipes.Up(o.session, f.path) // the pipe has ended, or has one path more
		}
	}
	if direct, _ := splitRelayed(o.remote.Candidates); failed && o.e.initiator && len(direct) > 0 && c.o.cfg.Paths == PathAny {
		c.improve(o.e.peer, pp)
	}
}

// bind makes a relayed path.
func (c *connects) bind(ctx context.Context, relay peerid.ID, o opening) tried {
	start := time.Now()
	hop, err := c.connect(ctx, relay, true)
	if err != nil {
		return tried{err: err}
	}
	path, err := hop.Bind(ctx, o.e.peer, o.session.ID())
	if err != nil {
		return tried{err: err}
	}
	local, remote := path.Addrs()
	c.o.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: o.e.peer, Via: relay,
		Local: local, Remote: remote, Duration: time.Since(start)})
	return tried{path: path}
}

// improve makes offers for a direct path as long as the pipe is relayed.
func (c *connects) improve(p peerid.ID, pp *pipe.Pipe) {
	c.mu.Lock()
	busy := c.improving[p]
	c.improving[p] = true
	c.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		c.mu.Lock()
		delete(c.improving, p)
		c.mu.Unlock()
	}()
	for wait := improveFirst; pause(c.ctx, wait); wait = min(2*wait, improveMax) {
		if c.o.pipes.Pipe(p) != pp || pp.Err() != nil || !pp.Relayed() {
			return
		}
		c.again(p)
	}
}

// again runs a new establishment for direct paths with a peer that has a pipe
// already (DESIGN §9: "a fresh ICE exchange").
func (c *connects) again(p peerid.ID) {
	e, err := c.begin(p, true)
	if err != nil {
		return
	}
	select {
	case <-e.done:
	case <-c.ctx.Done():
	}
}

// renew looks for new paths of the pipes that were up before this peer's
// addresses changed: direct ones for those that live, any for the others.
func (c *connects) renew(ctx context.Context, were []*pipe.Pipe) {
	sem := make(chan struct{}, renewWidth)
	for _, pp := range were {
		live := pp.Err() == nil
		if live && c.o.cfg.Paths == PathRelayOnly || c.o.pipes.Pipe(pp.Peer()) != pp {
			continue
		}
		select {
		case sem <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !c.o.spawn(func() {
			defer func() { <-sem }()
			if live {
				c.again(pp.Peer())
			} else {
				ctx, cancel := context.WithTimeout(ctx, connectTimeout)
				defer cancel()
				_, _ = c.connect(ctx, pp.Peer(), false) // else the next packet tries again
			}
		}) {
			return
		}
	}
}
