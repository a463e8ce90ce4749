package establish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
)

// errUnseen: no port of the peer's is guessed, because nobody we have chosen sees it there.
var errUnseen = errors.New("no member of our choice sees the peer at its address")

// guessDue is what happens guessStart after the search has begun, and again as long as it
// goes on: while a pipe carries data through a relay, the port is guessed that no check
// has found, if one side's is unknown and the other's is not.
func (e *establishment) guessDue() {
	s := &e.search
	if s.direct || s.guessing || s.stalled || e.hides() || e.agent == nil || e.c.cfg.SeenAt == nil {
		return
	}
	remote := s.remote
	remote.Candidates = slices.Concat(e.c.cfg.Usable(remote.Candidates), e.late.learnt)
	mine, theirs := ice.OutsideOf(e.mine()), ice.OutsideOf(remote.Candidates)
	if !mine.Addr.IsValid() || !theirs.Addr.IsValid() || mine.Dependent() == theirs.Dependent() || e.c.up(e.peer) == nil {
		e.alarms.set(guessStart)
		return
	}
	s.guessing = true
	s.waiting++
	agent := e.agent
	e.children.Go(func() {
		path, done, err := e.guess(s.ctx, agent, remote, mine, theirs)
		defer done()
		if e.post(guessed{path, err}); err == nil {
			pause.For(e.c.ctx, ice.Grace) // the last response to the peer may have been lost
		}
	})
}

// mine are the candidates that the peer knows of this side.
func (e *establishment) mine() []wire.Candidate {
	if len(e.late.told) > 0 {
		return e.late.told
	}
	return e.agent.Candidates()
}

func (e *establishment) guess(ctx context.Context, agent Agent, remote pipe.Remote, mine, theirs ice.Outside) (path pipe.Path, done func(), err error) {
	seen := false
	for _, r := range e.c.nameRelays(e.peer) {
		if seen = e.c.cfg.SeenAt(ctx, r, e.peer, theirs.Addr); seen {
			break
		}
	}
	if !seen {
		return path, func() {}, fmt.Errorf("%w: %v", errUnseen, theirs.Addr)
	}
	path, done, err = agent.Guess(ctx, remote, mine, theirs)
	if err == nil {
		e.emitPair(path, event.Event{Detail: "by a guessed port"})
	}
	return path, done, err
}

// guessed is what came of guessing a port.
type guessed struct {
	path pipe.Path
	err  error
}

func (in guessed) apply(e *establishment) {
	e.search.waiting--
	if in.err == nil {
		e.found(in.path, true)
	} else {
		e.c.log.Debug("no port was guessed", "peer", e.peer, "err", in.err)
	}
	e.endIfNothingLeft()
}
