package establish

import (
	"context"
	"errors"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/offers"
)

// settle is the entry to settling.
func (e *establishment) settle() {
	patience := settleOffer
	if !e.initiator {
		patience = settleAnswer
	}
	e.alarms.set(answerBy)
	e.deliverer = func() {}
	if e.settled = e.c.network.wait(); e.settled == nil {
		e.proceed()
		return
	}
	e.alarms.set(patience)
}

// proceed leaves settling.
func (e *establishment) proceed() {
	e.settled = nil
	e.alarms.stop(settleOffer, settleAnswer)
	if e.initiator {
		e.setState(offering)
	} else {
		e.makeAnswer()
	}
}

// hides says whether an establishment names none of this node's addresses and
// checks none of the peer's: all but the way of a RelayOnly node to its own relays.
func (e *establishment) hides() bool {
	return e.c.cfg.Policy == RelayOnly && !(e.direct && e.initiator)
}

func (e *establishment) newAgent() error {
	a, err := e.c.cfg.NewAgent(e.turn, e.hides())
	if err == nil {
		e.agent, e.turns = a, a.TURN()
	}
	return err
}

// local is what this side says of itself in an offer or an answer.
func (e *establishment) local() pipe.Local {
	l := pipe.Local{Chain: e.c.cfg.Chain(), Candidates: e.agent.Candidates(), Relays: e.named, MTU: maxMTU}
	l.Ufrag, l.Pwd = e.agent.Credentials()
	if e.hides() {
		_, l.Candidates = ice.SplitRelayed(l.Candidates)
	}
	return l
}

// makeOffer is the entry to offering.
func (e *establishment) makeOffer() {
	if err := e.newAgent(); err != nil {
		e.fail(offers.StageOffer, err)
		return
	}
	if !e.direct {
		e.named = e.c.nameRelays(e.peer)
	}
	offer, err := e.c.cfg.Pipes.NewOffer(e.peer, e.local())
	if err != nil {
		e.fail(offers.StageOffer, err)
		return
	}
	deadline := e.alarms.due[answerBy]
	ctx, cancel := context.WithDeadline(e.ctx, deadline)
	e.deliverer = cancel
	e.children.Go(func() {
		defer cancel()
		s, via, err := e.c.cfg.Offers.Deliver(ctx, e.peer, offer)
		if err != nil {
			offer.Cancel()
		}
		if !e.post(delivered{s, via, err}) && err == nil {
			s.Cancel()
		}
	})
}

// delivered is what came of an offer of ours.
type delivered struct {
	session *pipe.Session
	via     peerid.ID
	err     error
}

func (in delivered) apply(e *establishment) {
	switch {
	case e.state != offering: // too late
		if in.err == nil {
			in.session.Cancel()
		}
	case errors.Is(in.err, offers.ErrGlare):
		e.setState(yielding)
	case errors.Is(in.err, pipe.ErrHandshake):
		e.fail(offers.StageHandshake, in.err)
	case in.err != nil:
		e.c.cfg.Unreached(e.peer)
		e.fail(offers.StageOffer, in.err)
	default:
		e.search.session, e.search.remote, e.via = in.session, in.session.Remote(), in.via
		if err := e.c.cfg.Verify(e.search.remote.Chain, e.peer); err != nil {
			in.session.Cancel()
			e.fail(offers.StageHandshake, err)
			return
		}
		if len(e.named) > 0 {
			e.search.relays = e.joinRelays(e.named, e.search.remote.Relays)
		}
		e.setState(checking)
	}
}

// makeAnswer accepts an offer. The checks begin with the answer.
func (e *establishment) makeAnswer() {
	if err := e.accept(); err != nil {
		e.c.log.Debug("offer not accepted", "peer", e.peer, "err", err)
		e.fail(offers.StageOffer, err)
		return
	}
	close(e.answered)
	if !e.direct {
		e.search.relays = e.joinRelays(e.named, e.search.remote.Relays)
	}
	e.setState(checking)
}

func (e *establishment) accept() error {
	if err := e.newAgent(); err != nil {
		return err
	}
	if _, lent := ice.SplitRelayed(e.incoming.Remote.Candidates); e.hides() && e.direct && len(lent) == 0 && !e.c.cfg.Allocated() {
		return errRelayOnly // it wants to see our addresses
	}
	if !e.direct {
		e.named = e.c.nameRelays(e.peer)
	}
	answer, session, err := e.incoming.Accept(e.local())
	if err != nil {
		return err
	}
	e.search.session, e.search.remote = session, e.incoming.Remote
	e.c.mu.Lock()
	e.answer = answer
	e.c.recent.Add(e.session, answer)
	e.c.mu.Unlock()
	return nil
}
