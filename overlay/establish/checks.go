package establish

import (
	"context"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
)

// Checks makes agents of package ice. Its functions may be called from any goroutine.
type Checks struct {
	// Config is that of an agent; with turn it has the addresses that TURN servers
	// lend.
	Config func(turn bool) ice.Config
	Demux  *ice.Demux
	// Pairs are those of this side with a peer's candidates through a TURN server, of
	// its own only with turn, and those with carriers; Allocated those with an address
	// that one lends to this peer only.
	Pairs     func(turn bool, candidates []wire.Candidate) []ice.TURNPair
	Allocated func(candidates []wire.Candidate) []ice.TURNPair
	// Sockets opens those from which ports are guessed; Ended is called when one that a pipe
	// has got is closed. nil Sockets: none are guessed.
	Sockets ice.Sockets
	Ended   func(ice.End)
	// Carriers says that there may be carriers: their pairs are checked with those of TURN
	// servers.
	Carriers bool
}

// New makes an agent: see Config.NewAgent.
func (c Checks) New(turn, silent bool) (Agent, error) {
	cfg := c.Config(turn)
	cfg.TURN, cfg.Silent = turn || c.Carriers, silent
	a, err := ice.NewAgent(cfg)
	if err != nil {
		return nil, err
	}
	return &iceAgent{Agent: a, checks: c, lent: turn, turn: a.DetachTURN()}, nil
}

// iceAgent is an Agent of package ice.
type iceAgent struct {
	*ice.Agent
	checks Checks
	lent   bool            // addresses of TURN servers may be used
	turn   *ice.TURNChecks // nil: none
}

var _ Agent = (*iceAgent)(nil)

func credentials(r pipe.Remote) ice.Credentials { return ice.Credentials{Ufrag: r.Ufrag, Pwd: r.Pwd} }

func pathOf(p ice.Pair) pipe.Path { return pipe.Path{Local: p.Local, Remote: p.Remote} }

func (a *iceAgent) Credentials() (ufrag, pwd string) {
	c := a.Agent.Credentials()
	return c.Ufrag, c.Pwd
}

func (a *iceAgent) Begin(controlling bool, remote pipe.Remote) {
	a.Agent.Begin(controlling, credentials(remote))
}

func (a *iceAgent) Heard() (out []Heard) {
	for _, h := range a.Agent.Heard() {
		out = append(out, Heard{Path: pathOf(h.Pair), Size: h.Size})
	}
	return out
}

func (a *iceAgent) Check(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	pair, err := a.Agent.Check(ctx, controlling, credentials(remote), candidates)
	if err != nil {
		return pipe.Path{}, err
	}
	return pathOf(pair), nil
}

func (a *iceAgent) Guess(ctx context.Context, remote pipe.Remote, mine, theirs ice.Outside) (path pipe.Path, done func(), err error) {
	if a.checks.Sockets == nil {
		return path, func() {}, ice.ErrNoPair
	}
	cfg := ice.GuessConfig{Demux: a.checks.Demux, Port: a.checks.Sockets, Ended: a.checks.Ended}
	g := ice.NewGuess(cfg, a.Agent.Credentials(), credentials(remote), theirs.Addr)
	pair, err := g.Run(ctx, mine, theirs)
	if err != nil {
		return path, g.Close, err
	}
	return pathOf(pair), g.Close, nil
}

func (a *iceAgent) Succeeded() (out []pipe.Path) {
	for _, p := range a.Agent.Succeeded() {
		out = append(out, pathOf(p))
	}
	return out
}

func (a *iceAgent) TURN() TURNChecks {
	if a.turn == nil {
		return nil
	}
	return iceTURN{a.turn, a.checks, a.lent}
}

// iceTURN is the TURNChecks of an iceAgent.
type iceTURN struct {
	*ice.TURNChecks
	checks Checks
	lent   bool
}

var _ TURNChecks = iceTURN{}

func (t iceTURN) Pairs(candidates []wire.Candidate) bool {
	return len(t.checks.Pairs(t.lent, candidates)) > 0
}

func (t iceTURN) Check(ctx context.Context, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	pair, err := t.Run(ctx, credentials(remote), t.checks.Pairs(t.lent, candidates))
	if err != nil {
		return pipe.Path{}, err
	}
	return pipe.Path{Local: pair.Local, Remote: pair.Remote}, nil
}

func (t iceTURN) AddRemote(candidates []wire.Candidate) { t.Add(t.checks.Pairs(t.lent, candidates)) }

func (t iceTURN) AddLocal(candidates []wire.Candidate) { t.Add(t.checks.Allocated(candidates)) }
