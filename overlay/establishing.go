package overlay

import (
	"context"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/ice"
)

// What package establish needs of the other rooms.

// PathPolicy restricts the paths of pipes.
type PathPolicy = establish.Policy

// The policies.
const (
	PathAny        = establish.AnyPath
	PathDirectOnly = establish.DirectOnly // name no relay, use none
	PathRelayOnly  = establish.RelayOnly  // name no address, run no checks; pipes to relays themselves are direct
)

// Connect returns a pipe to the peer that can carry data, making one if there
// is none: see establish.Establisher.Connect. Errors are *StageError.
func (o *Overlay) Connect(ctx context.Context, p peerid.ID) (*pipe.Pipe, error) {
	return o.establish.Connect(ctx, p)
}

func (o *Overlay) newEstablisher() (*establish.Establisher, error) {
	return establish.New(establish.Config{
		Self: o.self, Pipes: o.pipes, Offers: establishOffers{o}, Policy: o.cfg.Paths,
		NewAgent: o.newAgent,
		Candidates: func() []wire.Candidate {
			return ice.LocalCandidates(o.cfg.Socket.Conns(), o.nat.Outer, o.nat.Lent())
		},
		Lent:   func() bool { return len(o.nat.Allocations()) > 0 },
		Usable: o.filter.Keep, Allowed: o.filter.Allowed,
		Chain: func() []byte { return o.roster.Own().Chain },
		Verify: func(chain []byte, p peerid.ID) error {
			_, err := o.roster.Verify(chain, p)
			return err
		},
		Relays: o.mayRelay, Unreached: o.directory.Forget, Flow: o.answerFlow,
		Events: o.cfg.Events, Logger: o.log,
	})
}

// establishOffers is establish.Offers.
type establishOffers struct{ o *Overlay }

func (r establishOffers) Deliver(ctx context.Context, target peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error) {
	return r.o.router.Deliver(ctx, target, offer)
}

func (r establishOffers) Tell(ctx context.Context, target, via peerid.ID, message []byte) error {
	return r.o.router.Tell(ctx, target, via, message)
}

func (o *Overlay) newAgent(turn, silent bool) (establish.Agent, error) {
	cfg := ice.Config{
		Demux: o.demux, Conns: o.cfg.Socket.Conns(), Mapped: o.nat.Outer, Net: o.cfg.Net,
		TURN: turn, Silent: silent,
	}
	if turn {
		cfg.Lent = o.nat.Lent()
	}
	a, err := ice.NewAgent(cfg)
	if err != nil {
		return nil, err
	}
	return &pipeAgent{Agent: a, o: o, turn: a.DetachTURN()}, nil
}

// pipeAgent is establish.Agent.
type pipeAgent struct {
	*ice.Agent
	o    *Overlay
	turn *ice.TURNChecks // nil: none
}

func credentials(r pipe.Remote) ice.Credentials { return ice.Credentials{Ufrag: r.Ufrag, Pwd: r.Pwd} }

func pathOf(p ice.Pair) pipe.Path { return pipe.Path{Local: p.Local, Remote: p.Remote} }

func (a *pipeAgent) Credentials() (ufrag, pwd string) {
	c := a.Agent.Credentials()
	return c.Ufrag, c.Pwd
}

func (a *pipeAgent) Begin(controlling bool, remote pipe.Remote) {
	a.Agent.Begin(controlling, credentials(remote))
}

func (a *pipeAgent) Heard() (out []establish.Heard) {
	for _, h := range a.Agent.Heard() {
		out = append(out, establish.Heard{Path: pathOf(h.Pair), Size: h.Size})
	}
	return out
}

func (a *pipeAgent) Check(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	pair, err := a.Agent.Check(ctx, controlling, credentials(remote), candidates)
	if err != nil {
		return pipe.Path{}, err
	}
	return pathOf(pair), nil
}

func (a *pipeAgent) Succeeded() (out []pipe.Path) {
	for _, p := range a.Agent.Succeeded() {
		out = append(out, pathOf(p))
	}
	return out
}

func (a *pipeAgent) TURN() establish.TURNChecks {
	if a.turn == nil {
		return nil
	}
	return pipeTURN{a.turn, a.o}
}

// pipeTURN is establish.TURNChecks.
type pipeTURN struct {
	*ice.TURNChecks
	o *Overlay
}

func (t pipeTURN) pairs(candidates []wire.Candidate) []ice.TURNPair {
	return ice.TURNPairs(t.o.nat.Allocations(), t.o.cfg.Socket.Conns(), candidates)
}

func (t pipeTURN) Pairs(candidates []wire.Candidate) bool { return len(t.pairs(candidates)) > 0 }

func (t pipeTURN) Check(ctx context.Context, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	pair, err := t.Run(ctx, credentials(remote), t.pairs(candidates))
	if err != nil {
		return pipe.Path{}, err
	}
	return pipe.Path{Local: pair.Local, Remote: pair.Remote}, nil
}

func (t pipeTURN) AddRemote(candidates []wire.Candidate) { t.Add(t.pairs(candidates)) }

func (t pipeTURN) AddLocal(candidates []wire.Candidate) {
	t.Add(ice.TURNPairs(t.o.nat.Allocations(), nil, candidates))
}
