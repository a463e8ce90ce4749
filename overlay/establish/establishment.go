package establish

import (
	"context"
	"errors"
	"sync"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/offers"
)

// establishment is one way to a pipe, under way: an offer of ours (initiator) or
// one that is answered. Its goroutine, run, owns it: what takes time is done by
// others, which tell their results as inputs.
type establishment struct {
	// Fixed.
	c         *Establisher
	peer      peerid.ID
	initiator bool
	direct    bool           // uses no relay
	turn      bool           // may use TURN servers
	incoming  *pipe.Incoming // responder: the offer
	session   [16]byte       // responder: of the offer

	ctx      context.Context // ends with a reason when another takes its place
	cancel   context.CancelCauseFunc
	inputs   chan input
	changed  chan struct{} // capacity 1: this side's candidates have
	answered chan struct{} // responder: closed when answer is set or never will be
	replaced chan struct{} // closed when another of the same peer stands instead
	stalled  chan struct{} // responder: closed when the peer does nothing with the answer
	done     chan struct{} // closed when there is a result
	over     chan struct{} // closed when nothing takes inputs any more
	children sync.WaitGroup

	answer []byte // guarded by c.mu
	pipe   *pipe.Pipe
	err    error // both are set before done is closed

	// The owner's.
	state     state
	alarms    alarms
	published bool
	settled   <-chan struct{} // the network; nil: it is
	agent     Agent           // nil before it is made and after it was closed
	turns     TURNChecks      // likewise; and where there are none
	retiring  bool            // the agent's last timers run
	via       peerid.ID       // the member that carried offer and answer; zero: none
	named     []peerid.ID     // relays that this side has named
	deliverer context.CancelFunc
	search    search
	late      late
}

func (c *Establisher) newEstablishment(p peerid.ID) *establishment {
	e := &establishment{c: c, peer: p, alarms: newAlarms(c.after), inputs: make(chan input), changed: make(chan struct{}, 1),
		answered: make(chan struct{}), replaced: make(chan struct{}), stalled: make(chan struct{}), done: make(chan struct{}), over: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(c.ctx)
	return e
}

// input is something that has happened elsewhere.
type input interface{ apply(e *establishment) }

// post gives an input to the owner; false: too late.
func (e *establishment) post(in input) bool {
	select {
	case e.inputs <- in:
		return true
	case <-e.over:
		return false
	}
}

// run is the owner.
func (e *establishment) run() {
	defer e.children.Wait()
	defer e.cancel(nil)
	e.setState(settling)
	for e.state != ended {
		e.alarms.next(e.state)
		var heard, ready, gone <-chan struct{}
		stop := e.ctx.Done()
		switch e.state {
		case checking:
			heard = e.search.heardUp
		case confirming:
			ready, gone = e.search.ready, e.search.pipe.Closed()
		case searching, lingering: // has a result; nobody replaces it
			stop = e.c.ctx.Done()
		}
		select {
		case in := <-e.inputs:
			in.apply(e)
		case <-e.alarms.clock.C:
			if t, ok := e.alarms.expired(e.state); ok {
				e.expire(t)
			}
		case <-e.settled:
			e.proceed()
		case <-e.changed:
			e.tellLate()
		case <-heard:
			e.search.pipe = e.search.heard
			e.keepSearching()
		case <-ready:
			e.confirmed()
		case <-gone:
			e.unconfirmed(e.search.pipe.Err())
		case <-stop:
			e.stopped()
		}
	}
}

// expire is what happens when a timer ends.
func (e *establishment) expire(t timer) {
	switch t {
	case settleOffer, settleAnswer:
		e.proceed()
	case answerBy, yieldFor:
		e.fail(offers.StageOffer, errYield)
	case turnStart:
		e.startTURN()
	case relayStart, relayStartRevived, relayStartTURN:
		e.askRelays()
	case guessStart:
		e.guessDue()
	case stallFor:
		e.stall()
	case openFor:
		e.giveUp(context.DeadlineExceeded)
	case confirmFor, confirmAnswered:
		e.unconfirmed(errors.New("the peer did not confirm the keys"))
	case standbyFirst:
		e.c.addStandbys(e.peer, e.agent)
		e.alarms.set(standbyLast)
	case standbyLast:
		e.c.addStandbys(e.peer, e.agent)
		e.agent.Close()
		e.agent = nil
		e.endIfIdle()
	case turnGrace:
		e.turns.Close()
		e.turns = nil
		e.endIfIdle()
	}
}

// stopped is called when another establishment has taken this one's place, or
// the Establisher is closing.
func (e *establishment) stopped() {
	why := context.Cause(e.ctx)
	switch e.state {
	case settling, offering, yielding:
		e.fail(offers.StageOffer, why)
	case checking, confirming:
		e.giveUp(why)
	case searching:
		e.setState(lingering)
	}
	if e.state != lingering || e.c.ctx.Err() == nil {
		return
	}
	if e.agent != nil {
		e.agent.Close()
		e.agent = nil
	}
	if e.turns != nil {
		e.turns.Close()
		e.turns = nil
	}
	e.setState(ended)
}

// fail ends the establishment without a pipe. One whose place another has taken
// has not failed.
func (e *establishment) fail(stage string, err error) {
	e.err = stageError(stage, e.peer, err)
	for _, why := range []error{errYield, errSuperseded} {
		if errors.Is(context.Cause(e.ctx), why) || err == why {
			e.err = why
		}
	}
	e.pipe = nil
	e.setState(lingering)
}

// publish tells everybody the result.
func (e *establishment) publish() {
	if e.published {
		return
	}
	e.published = true
	c := e.c
	c.mu.Lock()
	if c.byPeer[e.peer] == e {
		delete(c.byPeer, e.peer)
	}
	c.responding.Remove(e)
	c.mu.Unlock()
	if !e.initiator && e.answer == nil {
		close(e.answered)
	}
	e.emitFailure()
	close(e.done)
	e.retireAgent()
}

// emitFailure tells of an establishment that has failed. The way to a relay is a
// part of another one.
func (e *establishment) emitFailure() {
	if e.err == nil || e.direct && e.initiator || e.err == errYield || e.err == errSuperseded {
		return
	}
	stage := ""
	var se *offers.StageError
	if errors.As(e.err, &se) {
		stage = se.Stage
	}
	e.c.cfg.Events.Emit(event.Event{Kind: event.PipeFailed, Peer: e.peer, Stage: stage, Err: e.err.Error()})
}

// retireAgent has the agent end a little later, once its checks are over. That of
// a responder waits for the result: its checks began with an answer that may not
// have arrived yet.
func (e *establishment) retireAgent() {
	if e.agent == nil || e.retiring || e.search.checks || !e.initiator && !e.published {
		return
	}
	e.retiring = true
	e.alarms.set(standbyFirst)
}

// linger is the entry to lingering, after endSearch and publish.
func (e *establishment) linger() {
	e.deliverer() // its result is not wanted any more
	if e.turns != nil {
		e.alarms.set(turnGrace)
	}
	e.endIfIdle()
}

// endIfIdle ends an establishment that has nothing left to do.
func (e *establishment) endIfIdle() {
	if e.state == lingering && e.agent == nil && e.turns == nil {
		e.setState(ended)
	}
}
