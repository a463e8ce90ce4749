package establish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/offers"
)

// search is an establishment's looking for a path, from when both sides are known.
// Three look beside each other: the connectivity checks; those of pairs through
// TURN servers, turnStart later; and members that relay, after relayStart.
type search struct {
	session *pipe.Session
	remote  pipe.Remote
	relays  []peerid.ID // of both sides, not asked yet

	ctx       context.Context // of relays and TURN
	stop      context.CancelFunc
	stopCheck context.CancelFunc
	waiting   int  // results that may still bring a path
	checks    bool // the checks run
	turning   bool // those through TURN servers were begun
	turnPairs bool // and had pairs: members wait for them
	guessing  bool // ports are guessed, or were
	stalled   bool // nothing has come of our answer; the peer may be another process by now
	checkErr  error
	relayErr  error // the last one

	pipe    *pipe.Pipe      // that a path was found for
	direct  bool            // the path was checked and leads through nobody
	ready   <-chan struct{} // closed when the pipe is up
	heard   *pipe.Pipe      // that of tryHeard
	heardUp <-chan struct{}
}

// beginSearch is the entry to checking.
func (e *establishment) beginSearch() {
	s := &e.search
	s.ctx, s.stop = context.WithTimeout(e.c.ctx, e.c.after(openFor))
	ctx, cancel := context.WithTimeout(e.c.ctx, e.c.after(checkFor))
	s.stopCheck = cancel
	e.alarms.stop(answerBy)
	e.alarms.set(openFor)
	e.alarms.set(turnStart)
	e.alarms.set(guessStart)
	if !e.initiator {
		e.alarms.set(stallFor)
	}
	e.beginLate()
	e.agent.Begin(e.initiator, s.remote)
	e.tryHeard()
	if e.c.cfg.Pipes.Pipe(e.peer) != nil {
		e.alarms.set(relayStartRevived)
	} else {
		e.alarms.set(relayStart)
	}
	s.waiting, s.checks = 1, true
	agent := e.agent
	e.children.Go(func() {
		defer cancel()
		path, err := e.check(ctx, agent)
		e.post(checked{path, err})
	})
}

// check runs the connectivity checks with what the peer said of itself.
func (e *establishment) check(ctx context.Context, agent Agent) (pipe.Path, error) {
	if e.hides() {
		return pipe.Path{}, errRelayOnly
	}
	start, remote := time.Now(), e.search.remote
	candidates, lent := ice.SplitRelayed(e.c.cfg.Usable(remote.Candidates))
	e.c.cfg.Events.Emit(event.Event{Kind: event.Candidates, Peer: e.peer,
		Detail: "local " + ice.Describe(agent.Candidates()) + "; remote " + ice.Describe(append(lent, candidates...))})
	if len(candidates) == 0 {
		return pipe.Path{}, fmt.Errorf("%w: none of the peer's %d addresses is usable", ice.ErrNoPair, len(remote.Candidates))
	}
	path, err := agent.Check(ctx, e.initiator, remote, candidates)
	if err == nil {
		e.emitPair(path, event.Event{Duration: time.Since(start)})
	}
	return path, err
}

// emitPair tells of a path that was found.
func (e *establishment) emitPair(path pipe.Path, ev event.Event) {
	ev.Kind, ev.Peer = event.PairChosen, e.peer
	ev.Local, ev.Remote = path.Addrs()
	e.c.cfg.Events.Emit(ev)
}

// tryHeard uses the address that a check of the peer came from while its answer
// was on the way, if there is one: only the peer knows the password in the
// check. That saves the round trip of our own checks, which go on: until the
// peer has answered from there the pipe sends it little (DESIGN §9).
func (e *establishment) tryHeard() {
	s := &e.search
	if !e.initiator || e.hides() || e.c.cfg.Pipes.Pipe(e.peer) != nil {
		return
	}
	for _, h := range e.agent.Heard() {
		if !e.c.cfg.Allowed(h.Path.Remote) {
			continue
		}
		if pp, err := e.c.cfg.Pipes.Try(s.session, h.Path, h.Size); err == nil {
			s.heard, s.heardUp = pp, pp.Ready()
		}
		return
	}
}

// checked is what came of the connectivity checks.
type checked struct {
	path pipe.Path
	err  error
}

func (in checked) apply(e *establishment) {
	s := &e.search
	s.checks = false
	s.waiting--
	e.retireAgent()
	if in.err == nil {
		e.found(in.path, true)
	} else {
		s.checkErr = in.err
		if e.state == checking || e.state == confirming {
			e.startTURN()
			if !s.turnPairs {
				e.askRelays()
			}
		}
	}
	e.endIfNothingLeft()
}

// startTURN has pairs through TURN servers checked.
func (e *establishment) startTURN() {
	s, turns := &e.search, e.turns
	if s.turning || turns == nil {
		return
	}
	s.turning = true
	candidates := append(e.c.cfg.Usable(s.remote.Candidates), e.carriers()...)
	if s.turnPairs = turns.Pairs(candidates); s.turnPairs {
		s.waiting++
		e.alarms.stop(relayStart, relayStartRevived)
		e.alarms.set(relayStartTURN)
	}
	counted := s.turnPairs // else it waits for addresses that the peer tells late, and nobody for it
	e.children.Go(func() {
		start := time.Now()
		path, err := turns.Check(s.ctx, s.remote, candidates)
		if err == nil {
			detail := "through a TURN server"
			if path.Carried() {
				detail = "over a carrier"
			}
			e.emitPair(path, event.Event{Detail: detail, Duration: time.Since(start)})
		}
		e.post(relayed{path, true, counted, err})
	})
}

// carriers are the far ends of carriers to the peer, as candidates: their pairs are
// checked like those through TURN servers, because a pipe leaves them too when there is a
// direct path.
func (e *establishment) carriers() (out []wire.Candidate) {
	if e.c.cfg.Carriers == nil || e.hides() {
		return nil
	}
	for _, at := range e.c.cfg.Carriers(e.peer) {
		out = append(out, wire.Candidate{Type: wire.Relayed, Addr: at})
	}
	return out
}

// askRelays asks members for a channel to the peer.
func (e *establishment) askRelays() {
	s := &e.search
	for _, r := range s.relays {
		s.waiting++
		e.children.Go(func() {
			path, err := e.bind(s.ctx, r)
			e.post(relayed{path, false, true, err})
		})
	}
	s.relays = nil
}

// bind makes a relayed path.
func (e *establishment) bind(ctx context.Context, relay peerid.ID) (pipe.Path, error) {
	start := time.Now()
	hop, err := e.c.connect(ctx, relay, true)
	if err != nil {
		return pipe.Path{}, err
	}
	path, err := hop.Bind(ctx, e.peer, e.search.session.ID())
	if err == nil {
		e.emitPair(path, event.Event{Via: relay, Duration: time.Since(start)})
	}
	return path, err
}

// relayed is what came of a relay or of the checks through TURN servers.
type relayed struct {
	path    pipe.Path
	turn    bool
	counted bool // among those waited for
	err     error
}

func (in relayed) apply(e *establishment) {
	s := &e.search
	if in.counted {
		s.waiting--
	}
	if in.err == nil {
		e.found(in.path, false)
	} else {
		s.relayErr = in.err
		if in.turn && (e.state == checking || e.state == confirming) {
			e.askRelays()
		}
	}
	e.endIfNothingLeft()
}

// found takes a path.
func (e *establishment) found(path pipe.Path, direct bool) {
	s := &e.search
	switch e.state {
	case checking:
		pp, err := e.c.cfg.Pipes.Up(s.session, path)
		if s.direct = direct; err != nil {
			e.unconfirmed(err)
			return
		}
		s.pipe, s.ready = pp, pp.Ready()
		e.setState(confirming)
	case confirming:
		// A direct path that does not carry has failed for good; a relay's may
		// be helped by another.
		if s.direct {
			return
		}
		if _, err := e.c.cfg.Pipes.Up(s.session, path); err == nil && direct {
			s.direct = true
			e.alarms.set(e.patience())
		}
	case searching:
		_, _ = e.c.cfg.Pipes.Up(s.session, path) // the pipe has ended, or has one path more
	}
}

// patience is the timer of confirming.
func (e *establishment) patience() timer {
	if e.initiator {
		return confirmFor
	}
	return confirmAnswered
}

// confirmed leaves confirming: the pipe is up.
func (e *establishment) confirmed() {
	if e.search.direct {
		e.pipe = e.search.pipe
		e.setState(lingering)
		return
	}
	e.keepSearching()
}

// unconfirmed is called when the peer has not confirmed the keys over the path
// that was found. A direct one has shown that packets pass, so the keys are wrong.
func (e *establishment) unconfirmed(err error) {
	if e.search.direct {
		e.fail(offers.StageHandshake, err)
		return
	}
	e.search.relayErr = err
	e.alarms.stop(confirmFor, confirmAnswered)
	if e.state == confirming {
		e.setState(checking)
	}
	e.endIfNothingLeft()
}

// keepSearching goes on beside the pipe, which is up.
func (e *establishment) keepSearching() {
	e.pipe = e.search.pipe
	e.setState(searching)
	e.endIfNothingLeft()
}

// stall makes room for an offer of ours beside the peer's, which was answered for nothing
// so far: the peer's process may be another one since, that knows of no offer. If it is the
// same after all it says that its offer stands, or takes ours, and this one goes on.
func (e *establishment) stall() {
	c := e.c
	c.mu.Lock()
	if c.byPeer[e.peer] == e {
		delete(c.byPeer, e.peer)
		c.searching[e.peer] = e
	}
	c.mu.Unlock()
	e.search.stalled = true
	close(e.stalled)
}

// noteSearch notes that an establishment goes on beside its pipe, or does not any more.
func (c *Establisher) noteSearch(e *establishment, goesOn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if goesOn {
		c.searching[e.peer] = e
	} else if c.searching[e.peer] == e {
		delete(c.searching, e.peer)
	}
}

// endIfNothingLeft ends a search that has nothing to wait for.
func (e *establishment) endIfNothingLeft() {
	switch s := &e.search; {
	case s.waiting > 0:
	case e.state == checking:
		e.giveUp(s.checkErr)
	case e.state == searching:
		e.setState(lingering)
		direct, _ := ice.SplitRelayed(s.remote.Candidates)
		if s.checkErr != nil && (e.initiator || e.pipe.OverCarrier()) && len(direct) > 0 && e.c.cfg.Policy == AnyPath {
			e.c.improve(e.peer, e.pipe)
		}
	}
}

// giveUp ends a search without a path, unless the peer's first packet has told
// one. why counts if the checks have not said why.
func (e *establishment) giveUp(why error) {
	s := &e.search
	if e.state == confirming && s.direct {
		e.fail(offers.StageHandshake, why)
		return
	}
	if !e.initiator {
		if pp := e.c.up(e.peer); pp != nil {
			e.pipe = pp
			e.setState(lingering)
			return
		}
	}
	s.session.Cancel()
	if pp := e.c.cfg.Pipes.Pipe(e.peer); pp != nil && s.session.In(pp) && pp.Err() != nil {
		pp.Close(nil) // of tryHeard, and nobody answered
	}
	if s.checkErr != nil {
		why = s.checkErr
	}
	if s.relayErr != nil && !errors.Is(s.relayErr, context.Canceled) {
		why = errors.Join(why, s.relayErr)
	}
	e.fail(offers.StageCheck, why)
}

// endSearch ends what the search has begun.
func (e *establishment) endSearch() {
	if s := &e.search; s.stop != nil {
		s.stop()
		s.stopCheck()
	}
	e.alarms.stop(openFor, turnStart, guessStart, stallFor, relayStart, relayStartRevived, relayStartTURN, confirmFor, confirmAnswered)
}
