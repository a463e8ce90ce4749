package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

const (
	// connectTimeout bounds an establishment until the answer, so that a Dial
	// to a dead peer fails within ten seconds. openTimeout bounds it from then
	// on until the pipe is up: a peer that has answered is worth it.
	connectTimeout = 8 * time.Second
	openTimeout    = 12 * time.Second
	// checkTimeout bounds the connectivity checks of one attempt.
	checkTimeout = 5 * time.Second
	// yieldTimeout is how long we wait for the offer that shall come instead
	// of ours (DESIGN §14.7) before we try again.
	yieldTimeout = 2 * time.Second
	// readyTimeout bounds the wait for key confirmation; a responder's is
	// longer, since its answer may be lost on the way and come once more.
	readyTimeout  = 3 * time.Second
	answeredReady = offerPatience
	// respondMax bounds the establishments that others have begun here.
	respondMax = 256
	// recentMax bounds the answers kept for offers that come once more.
	recentMax = 256
	// maxMTU is the largest UDP payload that a socket takes.
	maxMTU = 65507
)

var (
	errYield      = errors.New("the peer's offer replaces ours")
	errSuperseded = errors.New("replaced by a newer offer")
)

// establishment is one way to a pipe, under way: an offer of ours (initiator)
// or one that was accepted. Its goroutine ends it; done is closed then.
//
//	initiator:  offering → checking → up
//	                └ glare: yielded (the responder's establishment goes on)
//	responder:  answered → checking → up
type establishment struct {
	peer      peerid.ID
	initiator bool
	direct    bool          // uses no relay; the initiator's: quietly
	turn      bool          // may use TURN servers
	session   [16]byte      // responder: of the offer; initiator: once it was answered
	checking  *checking     // nil until both sides are known
	relays    []peerid.ID   // responder: those it named
	answered  chan struct{} // responder: closed when answer is set or never will be
	answer    []byte
	ctx       context.Context
	cancel    context.CancelCauseFunc
	replaced  chan struct{} // closed when another of the same peer stands instead
	done      chan struct{}
	pipe      *pipe.Pipe
	err       error
}

// connects makes pipes: at most one establishment for each peer at a time. It
// is safe for concurrent use.
type connects struct {
	o *Overlay

	mu         sync.Mutex // guards the rest
	byPeer     map[peerid.ID]*establishment
	arrived    map[peerid.ID]chan struct{} // who waits for an offer of this peer
	improving  map[peerid.ID]bool          // relayed pipes whose direct path is looked for
	recent     map[[16]byte][]byte         // answers to offers whose establishment has ended
	responding int
	closed     bool
	ctx        context.Context
	cancel     context.CancelFunc
	wg         sync.WaitGroup
}

func newConnects(o *Overlay) *connects {
	c := &connects{o: o, byPeer: map[peerid.ID]*establishment{}, improving: map[peerid.ID]bool{}, arrived: map[peerid.ID]chan struct{}{}, recent: map[[16]byte][]byte{}}
	c.ctx, c.cancel = context.WithCancel(o.ctx)
	return c
}

func (c *connects) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// Connect returns a pipe to the peer that can carry data, making one if there
// is none: an offer through the overlay, connectivity checks, keys (draft
// §4.2). All who ask for one peer wait for the same pipe. It gives up after
// connectTimeout and openTimeout; errors are *StageError.
func (o *Overlay) Connect(ctx context.Context, p peerid.ID) (*pipe.Pipe, error) {
	if p == o.self {
		return nil, &StageError{StageOffer, p, errors.New("a pipe to oneself")}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+openTimeout)
	defer cancel()
	return o.connects.connect(ctx, p, false)
}

// up returns the pipe to a peer if it can carry data.
func (c *connects) up(p peerid.ID) *pipe.Pipe {
	pp := c.o.pipes.Pipe(p)
	if pp == nil || pp.Err() != nil {
		return nil
	}
	select {
	case <-pp.Ready():
		return pp
	default:
		return nil
	}
}

// connect is Connect. With direct an establishment that it begins uses no
// relay: it is the way to one.
func (c *connects) connect(ctx context.Context, p peerid.ID, direct bool) (*pipe.Pipe, error) {
	var last error
	for {
		if pp := c.up(p); pp != nil {
			return pp, nil
		}
		e, err := c.begin(p, direct)
		if err != nil {
			return nil, err
		}
		// A pipe that went silent may come back by itself before.
		var revived <-chan struct{}
		if pp := c.o.pipes.Pipe(p); pp != nil {
			revived = pp.Ready()
		}
		select {
		case <-e.done:
		case <-revived:
			continue
		case <-e.replaced:
			continue
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			var stage *StageError
			if errors.As(last, &stage) {
				return nil, last
			}
			return nil, &StageError{StageOffer, p, last}
		}
		switch {
		case e.err == nil:
			return e.pipe, nil
		case errors.Is(e.err, errYield), errors.Is(e.err, errSuperseded), !e.initiator:
			// Somebody else's establishment goes on, or has failed: look
			// again. The peer's failure is not an answer to our question.
			last = e.err
			continue
		}
		return nil, e.err
	}
}

// begin returns the establishment for p, starting one if there is none.
func (c *connects) begin(p peerid.ID, direct bool) (*establishment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &StageError{StageOffer, p, ErrClosed}
	}
	if e := c.byPeer[p]; e != nil {
		return e, nil
	}
	turn := !direct && c.o.cfg.Paths != PathDirectOnly
	e := &establishment{peer: p, initiator: true, direct: direct, turn: turn, replaced: make(chan struct{}), done: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(c.ctx)
	c.byPeer[p] = e
	c.wg.Go(func() {
		pp, err := c.initiate(e.ctx, e)
		c.finish(e, pp, err)
		e.cancel(nil)
	})
	return e, nil
}

// finish ends an establishment.
func (c *connects) finish(e *establishment, pp *pipe.Pipe, err error) {
	c.mu.Lock()
	e.pipe, e.err = pp, err
	if c.byPeer[e.peer] == e {
		delete(c.byPeer, e.peer)
	}
	if e.answer != nil {
		if len(c.recent) >= recentMax {
			clear(c.recent)
		}
		c.recent[e.session] = e.answer
	}
	c.mu.Unlock()
	close(e.done)
	if err == nil || e.direct && e.initiator || errors.Is(err, errYield) || errors.Is(err, errSuperseded) {
		return
	}
	stage := ""
	var se *StageError
	if errors.As(err, &se) {
		stage = se.Stage
	}
	c.o.cfg.Events.Emit(event.Event{Kind: event.PipeFailed, Peer: e.peer, Stage: stage, Err: err.Error()})
}

// initiate makes a pipe by an offer of ours.
func (c *connects) initiate(ctx context.Context, e *establishment) (*pipe.Pipe, error) {
	whole := ctx
	ctx, stop := context.WithTimeout(whole, connectTimeout)
	defer stop()
	fail := func(stage string, err error) (*pipe.Pipe, error) {
		if cause := context.Cause(ctx); errors.Is(cause, errYield) {
			return nil, errYield
		}
		return nil, &StageError{stage, e.peer, err}
	}
	c.o.settling.wait(ctx, settleMax)
	agent, err := c.newAgent(e, 0)
	if err != nil {
		return fail(StageOffer, err)
	}
	owned := true // by open, once there is a session
	defer func() {
		if owned {
			c.retire(agent, e.peer)
		}
	}()
	var relays []peerid.ID
	if !e.direct {
		relays = c.relays(e.peer)
	}
	offer, err := c.o.pipes.NewOffer(e.peer, c.local(agent, e, relays))
	if err != nil {
		return fail(StageOffer, err)
	}
	answer, via, err := c.o.router.deliver(ctx, e.peer, offer.Bytes())
	if errors.Is(err, errGlare) {
		offer.Cancel()
		c.awaitOffer(ctx, e.peer)
		return nil, errYield
	}
	if err != nil {
		offer.Cancel()
		c.o.names.forget(e.peer)
		return fail(StageOffer, err)
	}
	session, err := offer.Finish(answer)
	if err != nil {
		offer.Cancel()
		return fail(StageHandshake, err)
	}
	remote := session.Remote()
	m, err := c.o.verify(remote.Chain, e.peer)
	if err != nil {
		session.Cancel()
		return fail(StageHandshake, err)
	}
	c.o.names.saw(m)
	ctx, stop = context.WithTimeout(whole, openTimeout)
	defer stop()
	owned = false
	c.attach(e, agent, session, via)
	o := opening{e: e, agent: agent, session: session, remote: remote}
	if len(relays) > 0 {
		o.relays = c.both(e.peer, relays, remote.Relays)
	}
	pp, err := c.open(ctx, o)
	if err != nil && errors.Is(context.Cause(ctx), errYield) {
		return nil, errYield
	}
	return pp, err
}

// ready waits until a pipe can carry data.
func (e *establishment) ready(ctx context.Context, pp *pipe.Pipe) error {
	patience := readyTimeout
	if !e.initiator {
		patience = answeredReady
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-pp.Ready():
		return nil
	case <-pp.Closed():
		return pp.Err()
	case <-t.C:
		return errors.New("the peer did not confirm the keys")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitOffer waits, bounded, for the peer's offer that stands instead of ours.
func (c *connects) awaitOffer(ctx context.Context, p peerid.ID) {
	c.mu.Lock()
	ch := c.arrived[p]
	if ch == nil {
		ch = make(chan struct{})
		c.arrived[p] = ch
	}
	c.mu.Unlock()
	t := time.NewTimer(yieldTimeout)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
		c.mu.Lock()
		if c.arrived[p] == ch {
			delete(c.arrived, p)
		}
		c.mu.Unlock()
	case <-ctx.Done():
	}
}

// newAgent makes the agent of one establishment; pairs is how many remote
// candidates are known already.
func (c *connects) newAgent(e *establishment, pairs int) (*iceAgent, error) {
	var lent []*turnLink
	if e.turn {
		lent = c.o.turn.links()
	}
	a, err := newICE(c.o.demux, c.o.cfg.Socket.Conns(), c.o.outer, lent, c.o.cfg.Net, pairs)
	if err == nil && c.hides(e) {
		a.session.silence()
	}
	if err == nil && e.turn {
		a.turn = c.o.demux.newTURNSession(a.ufrag, a.pwd)
	}
	return a, err
}

// retire closes an agent after a grace in which it still answers the peer, and
// takes what else it has found.
func (c *connects) retire(a *iceAgent, p peerid.ID) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.wg.Go(func() {
			for _, wait := range []time.Duration{iceGrace / 5, iceGrace * 4 / 5} {
				if pause(c.ctx, wait) {
					c.standby(a, p)
				}
			}
			a.close()
		})
	}
	c.mu.Unlock()
	if closed {
		a.close()
	}
}

// local is what we say of ourselves in an offer or an answer.
func (c *connects) local(a *iceAgent, e *establishment, relays []peerid.ID) pipe.Local {
	c.o.mu.Lock()
	chain := c.o.chain
	c.o.mu.Unlock()
	l := pipe.Local{Chain: chain, Ufrag: a.ufrag, Pwd: a.pwd, Candidates: a.candidates, Relays: relays, MTU: maxMTU}
	if c.hides(e) {
		_, l.Candidates = splitRelayed(l.Candidates)
	}
	return l
}

// hides says whether an establishment names none of this node's addresses and
// checks none of the peer's: all but the way of a PathRelayOnly node to its
// own relays.
func (c *connects) hides(e *establishment) bool {
	return c.o.cfg.Paths == PathRelayOnly && !(e.direct && e.initiator)
}

// check runs the connectivity checks with what the peer said of itself.
func (c *connects) check(ctx context.Context, a *iceAgent, p peerid.ID, controlling bool, remote pipe.Remote) (pipe.Path, error) {
	start := time.Now()
	candidates, lent := splitRelayed(c.o.filter.keep(remote.Candidates))
	c.o.cfg.Events.Emit(event.Event{Kind: event.Candidates, Peer: p,
		Detail: "local " + describe(a.candidates) + "; remote " + describe(append(lent, candidates...))})
	if len(candidates) == 0 {
		return pipe.Path{}, fmt.Errorf("%w: none of the peer's %d addresses is usable", errNoPair, len(remote.Candidates))
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	path, err := a.run(ctx, controlling, remote, candidates)
	if err != nil {
		return pipe.Path{}, err
	}
	c.o.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: p,
		Local: path.Local.LocalAddr(), Remote: path.Remote, Duration: time.Since(start)})
	return path, nil
}

// offered handles an offer for this peer that came from a member (the
// initiator itself, or a forwarder).
func (c *connects) offered(q offerRequest, from peerid.ID) offerResponse {
	if len(q.offer) > 0 && q.offer[0] == trickleTag {
		if err := c.trickled(q.from, q.offer); err != nil {
			return offerResponse{status: offerNotHere}
		}
		return offerResponse{status: offerAnswered}
	}
	in, err := c.o.pipes.ReadOffer(q.offer)
	if err != nil {
		c.o.log.Debug("offer not readable", "from", from, "err", err)
		if errors.Is(err, pipe.ErrBusy) || errors.Is(err, pipe.ErrReplayed) {
			return offerResponse{status: offerBusy} // a newer offer of the peer's may have overtaken it
		}
		return offerResponse{status: offerRefused}
	}
	m, err := c.o.verify(in.Remote.Chain, in.Peer)
	if err != nil {
		in.Reject()
		c.o.log.Debug("offer without membership", "peer", in.Peer, "err", err)
		return offerResponse{status: offerRefused}
	}
	via := from
	if from == in.Peer {
		via = peerid.ID{}
	}
	c.o.cfg.Events.Emit(event.Event{Kind: event.OfferReceived, Peer: in.Peer, Via: via})
	c.o.names.saw(m)
	if in.Remote.Encapsulation == wire.Null {
		return c.o.nulls.offered(in)
	}
	e, again, status := c.admit(in)
	if e == nil {
		if len(again) > 0 {
			return offerResponse{status: offerAnswered, answer: again}
		}
		in.Reject()
		return offerResponse{status: status}
	}
	if status == offerLoop { // the same offer by another way
		select {
		case <-e.answered:
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.answer == nil {
			return offerResponse{status: offerRefused}
		}
		return offerResponse{status: offerAnswered, answer: e.answer}
	}
	answer, err := c.respond(e, in, via)
	if err != nil {
		c.o.log.Debug("offer not accepted", "peer", in.Peer, "err", err)
		return offerResponse{status: offerRefused}
	}
	return offerResponse{status: offerAnswered, answer: answer}
}

// admit decides about an offer by what is under way with its peer (DESIGN
// §14.7): one from a smaller ID replaces ours, one from a larger yields to it.
// It returns a new establishment to answer with; or, with offerLoop, the one
// that the same offer has begun; or the answer of one that has ended.
func (c *connects) admit(in *pipe.Incoming) (e *establishment, again []byte, status uint8) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, offerRefused
	}
	old := c.byPeer[in.Peer]
	if old != nil && !old.initiator && old.session == in.Session {
		return old, nil, offerLoop
	}
	if a := c.recent[in.Session]; a != nil {
		return nil, a, offerAnswered
	}
	if c.responding >= respondMax {
		return nil, nil, offerBusy
	}
	if old != nil {
		switch {
		case !old.initiator:
			old.cancel(errSuperseded)
		case in.Peer.Compare(c.o.self) > 0:
			return nil, nil, offerGlare
		default:
			old.cancel(errYield)
		}
		close(old.replaced) // whoever waits for it waits for the new one
	}
	c.responding++
	e = &establishment{peer: in.Peer, session: in.Session, answered: make(chan struct{}), replaced: make(chan struct{}), done: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(c.ctx)
	c.byPeer[in.Peer] = e
	if ch := c.arrived[e.peer]; ch != nil {
		close(ch)
		delete(c.arrived, e.peer)
	}
	return e, nil, offerAnswered
}

// respond answers an offer and leaves the checks to a goroutine.
func (c *connects) respond(e *establishment, in *pipe.Incoming, via peerid.ID) ([]byte, error) {
	agent, session, err := c.answer(e, in)
	if err == nil {
		remote := in.Remote
		c.attach(e, agent, session, via)
		c.mu.Lock()
		if c.closed {
			err = ErrClosed
		} else {
			c.wg.Go(func() {
				pp, err := c.accept(e.ctx, e, agent, session, remote)
				c.end(e, pp, err)
			})
		}
		c.mu.Unlock()
		if err != nil {
			session.Cancel()
			agent.close()
		}
	}
	if err != nil {
		c.end(e, nil, &StageError{StageOffer, e.peer, err})
		return nil, err
	}
	return e.answer, nil
}

// end is finish for a responder.
func (c *connects) end(e *establishment, pp *pipe.Pipe, err error) {
	c.mu.Lock()
	c.responding--
	c.mu.Unlock()
	c.finish(e, pp, err)
	e.cancel(nil)
}

// answer accepts an offer.
func (c *connects) answer(e *establishment, in *pipe.Incoming) (*iceAgent, *pipe.Session, error) {
	defer close(e.answered)
	c.o.settling.wait(e.ctx, settleAnswer)
	// An offer that names no relay of members wants none.
	e.direct = len(in.Remote.Relays) == 0
	e.turn = c.o.cfg.Paths != PathDirectOnly
	agent, err := c.newAgent(e, len(in.Remote.Candidates))
	if err != nil {
		in.Reject()
		return nil, nil, err
	}
	if _, lent := splitRelayed(in.Remote.Candidates); c.hides(e) && e.direct && len(lent) == 0 && len(c.o.turn.links()) == 0 {
		in.Reject()
		agent.close()
		return nil, nil, errRelayOnly // it wants to see our addresses
	}
	if !e.direct {
		e.relays = c.relays(e.peer)
	}
	answer, session, err := in.Accept(c.local(agent, e, e.relays))
	if err != nil {
		agent.close()
		return nil, nil, err
	}
	c.mu.Lock()
	e.answer = answer
	c.mu.Unlock()
	return agent, session, nil
}

// accept finds the controlled side's path and brings the pipe up.
func (c *connects) accept(ctx context.Context, e *establishment, agent *iceAgent, session *pipe.Session, remote pipe.Remote) (*pipe.Pipe, error) {
	ctx, stop := context.WithTimeout(ctx, openTimeout)
	defer stop()
	o := opening{e: e, agent: agent, session: session, remote: remote}
	if !e.direct {
		o.relays = c.both(e.peer, e.relays, remote.Relays)
	}
	pp, err := c.open(ctx, o)
	if err != nil && errors.Is(context.Cause(ctx), errSuperseded) {
		return nil, errSuperseded
	}
	if pp == nil && err == nil {
		pp = c.up(e.peer) // the initiator's first packet has told a path
	}
	return pp, err
}
