package establish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/offers"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// In the lab offers take 50 ms each way and datagrams 10 ms, by the clock of a
// synctest bubble; pipes are real, and connectivity checks do as they are told.
const (
	offerLatency    = 50 * time.Millisecond
	datagramLatency = 10 * time.Millisecond
)

type lab struct {
	t     *testing.T
	begun time.Time

	mu    sync.Mutex // guards what follows
	peers []*peer
	at    map[netip.AddrPort]*peer
	block func(from, to netip.AddrPort) bool // datagrams; nil: none
	used  map[state]states                   // transitions that have been

	account string // of all peers, in their pipes; "": none
}

// script is what the agent of one establishment does.
type script struct {
	check    time.Duration // after which the checks succeed; negative: fail; 0: at once
	never    bool          // they come to no end by themselves
	heard    bool          // the peer was heard before
	turn     time.Duration // after which a pair through a server works; 0: there are no servers
	turnFail bool          // it does not work, after that time
	turnIdle bool          // there are servers, and no pair with them
	guess    time.Duration // after which a guessed port answers; 0: none does
	err      error         // of NewAgent
}

// peer is a member of the lab.
type peer struct {
	*Establisher
	lab   *lab
	name  string
	addr  netip.AddrPort
	pipes *pipe.Endpoint

	mu          sync.Mutex // guards what follows
	scripts     []script   // of its agents to come; the last one repeats
	agents      []*agent
	deliver     func(n int) error                         // the error of its n-th offer, from 0, instead of delivery
	delay       func(n int) time.Duration                 // before its n-th offer leaves
	offers      []time.Duration                           // when they were made
	answerAfter time.Duration                             // how long answers take to it, besides the usual
	told        []error                                   // messages with late candidates, and what came of them
	noMember    map[peerid.ID]bool                        // whom it does not verify
	relays      []peerid.ID                               // Config.Relays
	candidates  []wire.Candidate                          // its own, now
	lent        bool                                      //
	unreached   int                                       // Config.Unreached
	sighted     []netip.Addr                              // what Config.SeenAt was asked about
	seen        func(by, p peerid.ID, at netip.Addr) bool // what it says; nil: no
	events      []event.Event                             //
	steps       map[*establishment]string                 // states, and when they were entered
	order       []*establishment                          // in which they began
	flow        func(*pipe.Incoming) offers.Response
}

// agent is the Agent of an establishment and its TURNChecks.
type agent struct {
	p          *peer
	script     script
	made       time.Duration
	candidates []wire.Candidate
	pwd        string
	turn       bool // asked for
	silent     bool

	mu         sync.Mutex // guards what follows
	remote     pipe.Remote
	added      []wire.Candidate // by AddRemote
	turnAdded  int              // candidates, by both of TURN's
	succeeded  []pipe.Path
	closed     time.Duration // when; 0: it is not
	turnBegan  time.Duration
	guessBegan time.Duration
	guessEnded time.Duration // its answers to the peer
	guessSides [2]ice.Outside
	turnClosed time.Duration
}

type handler struct{}

func (handler) Data(*pipe.Pipe, []byte, int)   {}
func (handler) Large(*pipe.Pipe, bool, []byte) {}
func (handler) Up(*pipe.Pipe)                  {}
func (handler) Down(*pipe.Pipe, error)         {}
func (handler) Gone(peerid.ID, error)          {}

func newLab(t *testing.T) *lab {
	return &lab{t: t, begun: time.Now(), at: map[netip.AddrPort]*peer{}, used: map[state]states{}}
}

// now is the time since the lab began.
func (l *lab) now() time.Duration { return time.Since(l.begun) }

// keys are those of the lab's peers, in the order of their IDs: who is added first
// has the smallest ID.
var keys = sync.OnceValue(func() (keys []ed25519.PrivateKey) {
	for i := range 4 {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i)
		keys = append(keys, ed25519.NewKeyFromSeed(seed))
	}
	slices.SortFunc(keys, func(a, b ed25519.PrivateKey) int {
		return slices.Compare(a.Public().(ed25519.PublicKey), b.Public().(ed25519.PublicKey))
	})
	return keys
})

// add makes a peer. Each has a larger ID than those before it.
func (l *lab) add(name string, policy Policy, scripts ...script) *peer {
	l.t.Helper()
	n := len(l.peers)
	key := keys()[n]
	id, err := peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		l.t.Fatal(err)
	}
	p := &peer{lab: l, name: name, addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n + 1)}), 7000),
		scripts: scripts, noMember: map[peerid.ID]bool{}, steps: map[*establishment]string{}}
	p.candidates = []wire.Candidate{{Type: wire.Host, Addr: p.addr, Foundation: "h", Priority: 1}}
	p.pipes, err = pipe.NewEndpoint(pipe.Config{Key: key, Handler: handler{}, IdleTimeout: 2 * time.Hour,
		Account: func(peerid.ID) account.Account { return account.Account{Invitation: l.account} },
		Relay:   func(from, to peerid.ID) (account.Account, bool) { return account.Account{Invitation: "all"}, true }})
	if err != nil {
		l.t.Fatal(err)
	}
	p.Establisher, err = New(Config{
		Self: id, Pipes: p.pipes, Offers: p, Policy: policy, NewAgent: p.newAgent,
		Candidates: func() []wire.Candidate { p.mu.Lock(); defer p.mu.Unlock(); return slices.Clone(p.candidates) },
		Allocated:  func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.lent },
		Usable:     slices.Clone[[]wire.Candidate], Allowed: func(netip.AddrPort) bool { return true },
		Chain: func() []byte { return []byte("chain") },
		Verify: func(_ []byte, q peerid.ID) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.noMember[q] {
				return membership.ErrNotMember
			}
			return nil
		},
		Relays: func() (out []Relay) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, r := range p.relays {
				out = append(out, Relay{Peer: r})
			}
			return out
		},
		SeenAt: func(_ context.Context, by, q peerid.ID, at netip.Addr) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sighted = append(p.sighted, at)
			return p.seen != nil && p.seen(by, q, at)
		},
		Unreached: func(peerid.ID) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.unreached++
		},
		Flow: func(in *pipe.Incoming) offers.Response { return p.flow(in) },
		Events: func(e event.Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, e)
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	p.observe = p.saw
	l.mu.Lock()
	l.peers = append(l.peers, p)
	l.at[p.addr] = p
	l.mu.Unlock()
	l.t.Cleanup(func() {
		p.Close()
		_ = p.pipes.Close()
	})
	return p
}

// saw notes a transition, and holds it to the table.
func (p *peer) saw(e *establishment, from, to state) {
	if !transitions[from].has(to) {
		p.lab.t.Errorf("%s: from %v to %v", p.name, from, to)
	}
	p.lab.mu.Lock()
	p.lab.used[from] |= in(to)
	p.lab.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.steps[e] == "" {
		p.order = append(p.order, e)
	}
	p.steps[e] = strings.TrimSpace(fmt.Sprintf("%s %v@%d", p.steps[e], to, p.lab.now().Milliseconds()))
}

// trace is the states of p's n-th establishment, each with the time in ms when it
// was entered.
func (p *peer) trace(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n >= len(p.order) {
		return ""
	}
	return p.steps[p.order[n]]
}

// LocalAddr and WriteBatch are pipe.Sender.
func (p *peer) LocalAddr() netip.AddrPort { return p.addr }

func (p *peer) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	p.lab.mu.Lock()
	q, block := p.lab.at[to], p.lab.block
	p.lab.mu.Unlock()
	if q == nil || block != nil && block(p.addr, to) {
		return nil
	}
	b = slices.Clone(b)
	time.AfterFunc(datagramLatency, func() { q.pipes.Receive(q, p.addr, b, seg) })
	return nil
}

// setBlock has datagrams lost.
func (l *lab) setBlock(block func(from, to netip.AddrPort) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.block = block
}

func (l *lab) peer(id peerid.ID) *peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.peers {
		if p.cfg.Self == id {
			return p
		}
	}
	return nil
}

// Deliver and Tell are Offers.
func (p *peer) Deliver(ctx context.Context, target peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error) {
	p.mu.Lock()
	n := len(p.offers)
	p.offers = append(p.offers, p.lab.now())
	deliver, delay := p.deliver, p.delay
	p.mu.Unlock()
	if delay != nil && !pause.For(ctx, delay(n)) {
		return nil, peerid.ID{}, ctx.Err()
	}
	if deliver != nil {
		if err := deliver(n); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				<-ctx.Done()
				err = ctx.Err()
			}
			return nil, peerid.ID{}, err
		}
	}
	if !pause.For(ctx, offerLatency) {
		return nil, peerid.ID{}, ctx.Err()
	}
	a := p.lab.peer(target).Offered(offers.Request{Target: target, From: p.cfg.Self, Offer: offer.Bytes()}, p.cfg.Self)
	if !pause.For(ctx, offerLatency+p.answerAfter) {
		return nil, peerid.ID{}, ctx.Err()
	}
	if len(a.Answer) == 0 {
		return nil, peerid.ID{}, a.Err()
	}
	s, err := offer.Finish(a.Answer)
	var no *pipe.RefusedError
	if errors.As(err, &no) {
		err = a.Err()
	}
	return s, peerid.ID{}, err
}

func (p *peer) Tell(ctx context.Context, target, via peerid.ID, message []byte) error {
	if !pause.For(ctx, offerLatency) {
		return ctx.Err()
	}
	a := p.lab.peer(target).Offered(offers.Request{Target: target, From: p.cfg.Self, Offer: message}, via)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, a.Err())
	return a.Err()
}

func (p *peer) newAgent(turn, silent bool) (Agent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.scripts[min(len(p.agents), len(p.scripts)-1)]
	a := &agent{p: p, script: s, made: p.lab.now(), candidates: slices.Clone(p.candidates), turn: turn, silent: silent,
		pwd: password(p.name, len(p.agents))}
	p.agents = append(p.agents, a)
	return a, s.err
}

// password is one that is valid.
func password(name string, n int) string {
	s := fmt.Sprintf("%s/%d/", name, n)
	return s + strings.Repeat("x", wire.PwdLen-len(s))
}

// agent returns p's n-th agent.
func (p *peer) agent(n int) *agent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.agents[n]
}

func (a *agent) Credentials() (string, string) { return wire.Ufrag(a.pwd), a.pwd }
func (a *agent) Candidates() []wire.Candidate  { return a.candidates }

func (a *agent) Begin(_ bool, remote pipe.Remote) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remote = remote
}

// path is the one to the peer's first address.
func (a *agent) path() pipe.Path {
	a.mu.Lock()
	defer a.mu.Unlock()
	return pipe.Path{Local: a.p, Remote: a.remote.Candidates[0].Addr}
}

func (a *agent) Heard() []Heard {
	if !a.script.heard {
		return nil
	}
	return []Heard{{a.path(), 100}}
}

func (a *agent) Check(ctx context.Context, _ bool, remote pipe.Remote, _ []wire.Candidate) (pipe.Path, error) {
	wait := a.script.check.Abs()
	if a.script.never {
		wait = time.Hour
	}
	if !pause.For(ctx, wait) || a.script.check < 0 {
		return pipe.Path{}, ice.ErrNoPair
	}
	return a.path(), nil
}

func (a *agent) Guess(ctx context.Context, _ pipe.Remote, mine, theirs ice.Outside) (path pipe.Path, done func(), err error) {
	done = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.guessEnded = a.p.lab.now()
	}
	a.mu.Lock()
	a.guessBegan, a.guessSides = a.p.lab.now(), [2]ice.Outside{mine, theirs}
	a.mu.Unlock()
	if a.script.guess == 0 {
		<-ctx.Done()
		return path, done, ice.ErrNoPair
	}
	if !pause.For(ctx, a.script.guess) {
		return path, done, ice.ErrNoPair
	}
	return a.path(), done, nil
}

func (a *agent) AddRemote(c []wire.Candidate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.added = append(a.added, c...)
}

func (a *agent) Succeeded() []pipe.Path {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.succeeded
}

func (a *agent) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed == 0 {
		a.closed = a.p.lab.now()
	}
}

func (a *agent) TURN() TURNChecks {
	if !a.turn || a.script.turn == 0 && !a.script.turnIdle {
		return nil
	}
	return turnAgent{a}
}

type turnAgent struct{ a *agent }

func (t turnAgent) Pairs([]wire.Candidate) bool { return !t.a.script.turnIdle }

// Check finds a path that is told from direct ones by its address.
func (t turnAgent) Check(ctx context.Context, _ pipe.Remote, _ []wire.Candidate) (pipe.Path, error) {
	t.a.mu.Lock()
	t.a.turnBegan = t.a.p.lab.now()
	t.a.mu.Unlock()
	if t.a.script.turnIdle {
		<-ctx.Done()
		return pipe.Path{}, ctx.Err()
	}
	if !pause.For(ctx, t.a.script.turn) || t.a.script.turnFail {
		return pipe.Path{}, errors.New("no pair through a server")
	}
	return t.a.path(), nil
}

func (t turnAgent) AddRemote(c []wire.Candidate) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.a.turnAdded += len(c)
}
func (t turnAgent) AddLocal(c []wire.Candidate) { t.AddRemote(c) }

func (t turnAgent) Close() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	t.a.turnClosed = t.a.p.lab.now()
}

// connectTo is Connect, for who wants to know when it returned, and at which stage
// it failed.
func (p *peer) connectTo(q *peer) (pp *pipe.Pipe, took time.Duration, stage string, err error) {
	before := time.Now()
	pp, err = p.Connect(p.lab.t.Context(), q.cfg.Self)
	var s *offers.StageError
	if errors.As(err, &s) {
		stage = s.Stage
	}
	took = time.Since(before)
	synctest.Wait() // for what is done beside
	return pp, took, stage, err
}

// sleep lets time pass, and what is due then be done.
func (l *lab) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// lasting waits until all establishments have ended by themselves.
func (l *lab) lasting() { l.sleep(30 * time.Second) }
