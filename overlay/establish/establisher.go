package establish

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/offers"
)

// Offers brings offers to peers and answers back (package offers).
type Offers interface {
	// Deliver takes an offer to a peer and makes the session of its answer; via
	// is the member that passed both on, zero if none did.
	Deliver(ctx context.Context, target peerid.ID, offer *pipe.Offer) (s *pipe.Session, via peerid.ID, err error)
	// Tell sends a message the way that an offer went: through a member, or to
	// the target itself. nil is that the target has taken it.
	Tell(ctx context.Context, target, via peerid.ID, message []byte) error
}

// Agent is the connectivity checks of one establishment (RFC 8445; package ice).
// Its methods may be called from any goroutine.
type Agent interface {
	// Credentials are what the peer needs to check with this agent.
	Credentials() (ufrag, pwd string)
	// Candidates are this side's, and do not change.
	Candidates() []wire.Candidate
	// Begin tells the peer's side. Heard is complete then.
	Begin(controlling bool, remote pipe.Remote)
	// Heard is where the peer's checks came from, and were answered, before
	// Begin.
	Heard() []Heard
	// Check checks pairs with the peer's candidates and returns the first that
	// the peer has answered on. It is called once.
	Check(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error)
	// AddRemote has candidates checked that the peer has told late.
	AddRemote(candidates []wire.Candidate)
	// Guess looks for a pair where one side's port is unknown, as mine and theirs say, the
	// addresses outside of both. It is called once, if at all. The peer's checks are answered
	// until done is called, which has to be.
	Guess(ctx context.Context, remote pipe.Remote, mine, theirs ice.Outside) (path pipe.Path, done func(), err error)
	// Succeeded are the pairs on which the peer has answered.
	Succeeded() []pipe.Path
	// TURN returns the checks of pairs through TURN servers; nil without any.
	TURN() TURNChecks
	// Close ends the agent, but not its TURNChecks. It is idempotent.
	Close()
}

// TURNChecks is the checks of pairs with an address that a TURN server lends, on
// either side, of one establishment. Its methods may be called from any goroutine.
type TURNChecks interface {
	// Pairs says whether there are any with these candidates of the peer.
	Pairs(candidates []wire.Candidate) bool
	// Check checks them, and those that are added, until one works or ctx ends.
	// It is called once.
	Check(ctx context.Context, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error)
	// AddRemote has pairs checked with candidates that the peer has told late.
	AddRemote(candidates []wire.Candidate)
	// AddLocal has pairs of addresses that servers have lent late checked with
	// the peer's candidates.
	AddLocal(candidates []wire.Candidate)
	Close()
}

// Heard is where a check of the peer's, of Size bytes, came from.
type Heard struct {
	Path pipe.Path
	Size int
}

// Policy restricts the paths of pipes.
type Policy uint8

// The policies.
const (
	AnyPath    Policy = iota
	DirectOnly        // name no relay, use none
	RelayOnly         // name no address, run no checks; pipes to relays themselves are direct
)

// Config is what an Establisher works with. All but Events, Logger and Flow are
// required; functions may be called from any goroutine.
type Config struct {
	Self   peerid.ID
	Pipes  *pipe.Endpoint
	Offers Offers
	Policy Policy

	// NewAgent makes the agent of an establishment. With turn it names and
	// checks addresses that TURN servers lend; with silent checks that come
	// before it knows the peer's side get no answer.
	NewAgent func(turn, silent bool) (Agent, error)
	// Candidates are what an agent made now would have. Allocated says that TURN
	// servers lend addresses now.
	Candidates func() []wire.Candidate
	Allocated  func() bool
	// Usable leaves of a peer's candidates those that may be sent to; Allowed
	// says so of one address.
	Usable  func([]wire.Candidate) []wire.Candidate
	Allowed func(netip.AddrPort) bool

	// SeenAt says whether a member sees a peer at an IP address; nil: nobody is asked, and
	// no ports are guessed.
	SeenAt func(ctx context.Context, by, p peerid.ID, at netip.Addr) bool

	// Carriers are the far ends of carriers that may lead to a peer, see package carrier;
	// nil: there are none.
	Carriers func(p peerid.ID) []netip.AddrPort

	// Chain is this peer's membership.
	Chain func() []byte
	// Verify says whether a chain makes a member of a peer now, and remembers it
	// if so. Errors wrap membership.ErrNotMember.
	Verify func(chain []byte, p peerid.ID) error
	// Account is to whom, besides a member itself, its establishments are charged. It is
	// asked after Verify. nil charges nobody else.
	Account func(p peerid.ID) account.Account
	// Relays returns the members that may relay and have not refused, in no
	// order; of one that is there twice the better counts. The slice is the
	// caller's.
	Relays func() []Relay
	// Unreached is told of a peer that an offer has not reached: what is known
	// of where it is may be old.
	Unreached func(p peerid.ID)
	// Flow answers offers about flows with null encapsulation. nil refuses.
	Flow func(in *pipe.Incoming) offers.Response
	// Stretch returns a timeout as it is on this machine now (package lag); nil: as it is.
	Stretch func(time.Duration) time.Duration

	Events event.Sink
	Logger *slog.Logger
}

var (
	errYield      = errors.New("the peer's offer replaces ours")
	errSuperseded = errors.New("replaced by a newer offer")
	errCrowded    = errors.New("made room for others, of whom there are fewer")
	errRelayOnly  = errors.New("direct paths are ruled out here")
	errNotMine    = errors.New("late candidates of no session here")
)

// Establisher makes pipes: at most one establishment for each peer at a time. It
// is safe for concurrent use.
type Establisher struct {
	cfg     Config
	log     *slog.Logger
	network network
	observe func(e *establishment, from, to state) // tests watch; nil: nobody

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.Mutex // guards the rest
	byPeer     map[peerid.ID]*establishment
	searching  map[peerid.ID]*establishment     // the newest of a peer that has a pipe and looks for a better path, or has stalled
	improving  map[peerid.ID]bool               // relayed pipes whose direct path is looked for
	recent     *simplelru.LRU[[16]byte, []byte] // answers to offers that have begun an establishment, by session; nil: there was none yet
	responding account.Holders[*establishment]
	closed     bool
}

// New returns an Establisher that runs until Close.
func New(cfg Config) (*Establisher, error) {
	c := &Establisher{cfg: cfg, log: logpace.New(cfg.Logger), byPeer: map[peerid.ID]*establishment{}, searching: map[peerid.ID]*establishment{}, improving: map[peerid.ID]bool{}}
	var err error
	if c.recent, err = simplelru.NewLRU[[16]byte, []byte](recentMax, nil); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// after is how long a timer runs on this machine now.
func (c *Establisher) after(t timer) time.Duration {
	if c.cfg.Stretch == nil {
		return table[t].after
	}
	return c.cfg.Stretch(table[t].after)
}

// Close ends all establishments and waits for them. Pipes that are up stay. It is
// idempotent.
func (c *Establisher) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// spawn runs f in the life of c, which Close waits for. It says whether it was
// not too late.
func (c *Establisher) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// Connect returns a pipe to the peer that can carry data, making one if there
// is none: an offer through the overlay, connectivity checks, keys (draft
// §4.2). All who ask for one peer wait for the same pipe. It gives up after
// 20 s, later on a machine that is busy; errors are *offers.StageError.
func (c *Establisher) Connect(ctx context.Context, p peerid.ID) (*pipe.Pipe, error) {
	if p == c.cfg.Self {
		return nil, stageError(offers.StageOffer, p, errors.New("a pipe to oneself"))
	}
	ctx, cancel := context.WithTimeout(ctx, c.after(answerBy)+c.after(openFor))
	defer cancel()
	return c.connect(ctx, p, false)
}

// Reopen opens a pipe that was in use and went silent, without anybody who waits
// for it. It returns at once; if it fails the next packet tries again.
func (c *Establisher) Reopen(p peerid.ID) {
	c.spawn(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.after(answerBy))
		defer cancel()
		_, _ = c.connect(ctx, p, false)
	})
}

// up returns the pipe to a peer if it can carry data.
func (c *Establisher) up(p peerid.ID) *pipe.Pipe {
	pp := c.cfg.Pipes.Pipe(p)
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

// PipeDead says whether there is a pipe to a peer that carries nothing.
func (c *Establisher) PipeDead(p peerid.ID) bool { return c.cfg.Pipes.Pipe(p) != nil && c.up(p) == nil }

// connect is Connect. With direct an establishment that it begins uses no
// relay: it is the way to one. Nothing is retried here: it looks again when
// another establishment than the one it waited for leads to the pipe.
func (c *Establisher) connect(ctx context.Context, p peerid.ID, direct bool) (*pipe.Pipe, error) {
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
		if pp := c.cfg.Pipes.Pipe(p); pp != nil {
			revived = pp.Ready()
		}
		select {
		case <-e.done:
		case <-revived:
			continue
		case <-e.replaced:
			continue
		case <-e.stalled:
			continue
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			var stage *offers.StageError
			if errors.As(last, &stage) {
				return nil, last
			}
			return nil, stageError(offers.StageOffer, p, last)
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
func (c *Establisher) begin(p peerid.ID, direct bool) (*establishment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, stageError(offers.StageOffer, p, offers.ErrClosed)
	}
	if e := c.byPeer[p]; e != nil {
		return e, nil
	}
	e := c.newEstablishment(p)
	e.initiator, e.direct = true, direct
	e.turn = !direct && c.cfg.Policy != DirectOnly
	c.start(e)
	return e, nil
}

// start runs a new establishment; mu is held.
func (c *Establisher) start(e *establishment) {
	c.byPeer[e.peer] = e
	c.wg.Go(e.run)
}

// Offered answers what has come to this peer in place of an offer: an offer, or
// late candidates. from is the member that brought it, the initiator itself or a
// forwarder.
func (c *Establisher) Offered(q offers.Request, from peerid.ID) offers.Response {
	if len(q.Offer) > 0 && q.Offer[0] == lateTag {
		if err := c.takeLate(q.From, q.Offer); err != nil {
			return offers.Response{Status: offers.NotHere}
		}
		return offers.Response{Status: offers.Answered}
	}
	in, err := c.cfg.Pipes.ReadOffer(q.Offer)
	if err != nil {
		c.log.Debug("offer not readable", "from", from, "err", err)
		if errors.Is(err, pipe.ErrBusy) || errors.Is(err, pipe.ErrReplayed) {
			return offers.Response{Status: offers.Busy} // a newer offer of the peer's may have overtaken it
		}
		return offers.Response{Status: offers.Refused}
	}
	if a, ok := offers.Refusal(in); ok {
		return a // it comes by another way too
	}
	if in.Rejected() { // without words: then it was told that this peer is busy, or ending
		return offers.Response{Status: offers.Busy}
	}
	if err := c.cfg.Verify(in.Remote.Chain, in.Peer); err != nil {
		c.log.Debug("offer without membership", "peer", in.Peer, "err", err)
		return offers.Refuse(in, offers.Refused)
	}
	if err := in.Charge(); err != nil {
		c.log.Debug("offer not accepted", "peer", in.Peer, "err", err)
		return offers.Refuse(in, offers.Busy)
	}
	via := from
	if from == in.Peer {
		via = peerid.ID{}
	}
	c.cfg.Events.Emit(event.Event{Kind: event.OfferReceived, Peer: in.Peer, Via: via})
	if in.Remote.Encapsulation == wire.Null {
		if c.cfg.Flow == nil {
			return offers.Refuse(in, offers.Refused)
		}
		return c.cfg.Flow(in)
	}
	e, again, status := c.admit(in, via)
	switch {
	case e != nil:
		again = c.answerOf(e)
		status = c.refusal(e)
	case again != nil:
	default:
		return offers.Refuse(in, status)
	}
	if again == nil {
		return offers.Refuse(in, status)
	}
	return offers.Response{Status: offers.Answered, Answer: again}
}

// answerOf waits for a responder's answer; nil if it has none.
func (c *Establisher) answerOf(e *establishment) []byte {
	select {
	case <-e.answered:
	case <-c.ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.answer
}

// refusal is what an offer hears that is not accepted: of a peer that is ending
// that it is not there, of one that has too much to do that it is busy. It may be
// otherwise in a moment.
func (c *Establisher) refusal(e *establishment) offers.Status {
	switch {
	case c.ctx.Err() != nil:
		return offers.NotHere
	case errors.Is(context.Cause(e.ctx), errCrowded):
		return offers.Busy
	}
	return offers.Refused
}

// admit decides about an offer by what is under way with its peer (DESIGN
// §14.7): one from a smaller ID replaces ours, one from a larger yields to it.
// It returns the establishment that answers it, a new one or that which the same
// offer has begun; or the answer of one that has ended; or why there is none. Where
// there are as many as may be, one of those who have most gives way.
func (c *Establisher) admit(in *pipe.Incoming, via peerid.ID) (e *establishment, again []byte, status offers.Status) {
	var payer account.Account
	if c.cfg.Account != nil {
		payer = c.cfg.Account(in.Peer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, offers.NotHere
	}
	old := c.byPeer[in.Peer]
	if old != nil && !old.initiator && old.session == in.Session {
		return old, nil, offers.Answered
	}
	if a, ok := c.recent.Get(in.Session); ok {
		// It has come before. If a newer one has taken its place it does not take that
		// back: the peer has given it up.
		return nil, a, offers.Busy
	}
	if c.responding.Full(payer, respondPerAccount) {
		return nil, nil, offers.Busy
	}
	var crowded *establishment
	if c.responding.Len() >= respondMax {
		if crowded, _ = c.responding.Yields(payer); crowded == nil {
			return nil, nil, offers.Busy
		}
	}
	if old != nil {
		switch {
		case !old.initiator:
			old.cancel(errSuperseded)
		case in.Peer.Compare(c.cfg.Self) > 0:
			return nil, nil, offers.Glare
		default:
			old.cancel(errYield)
		}
		close(old.replaced) // whoever waits for it waits for the new one
	}
	if crowded != nil {
		c.responding.Remove(crowded)
		crowded.cancel(errCrowded)
	}
	c.recent.Add(in.Session, nil)
	e = c.newEstablishment(in.Peer)
	c.responding.Add(e, payer)
	e.incoming, e.via, e.session = in, via, in.Session
	// An offer that names no relay of members wants none.
	e.direct = len(in.Remote.Relays) == 0
	e.turn = c.cfg.Policy != DirectOnly
	c.start(e)
	return e, nil, offers.Answered
}

// CandidatesChanged says that this peer may have other candidates than before:
// peers of establishments under way are told. It returns at once.
func (c *Establisher) CandidatesChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range []map[peerid.ID]*establishment{c.byPeer, c.searching} {
		for _, e := range of {
			select {
			case e.changed <- struct{}{}:
			default:
			}
		}
	}
}

func stageError(stage string, p peerid.ID, err error) *offers.StageError {
	return &offers.StageError{Stage: stage, Peer: p, Err: err}
}
