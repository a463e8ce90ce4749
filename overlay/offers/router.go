package offers

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/lag"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Mesh is the connections to members, as a Router needs them. Its methods may be
// called concurrently.
type Mesh interface {
	// Members returns the members that are connected, in no order.
	Members() []*membership.Member
	// Member returns a connected member.
	Member(p peerid.ID) (*membership.Member, bool)
	// Arrival returns what is closed when a member is connected that was not.
	Arrival() <-chan struct{}
	// Connect connects to a peer where it is known to be, and returns once its
	// membership was verified, whoever of the two has connected.
	Connect(ctx context.Context, p peerid.ID) error
	// Latest returns a context that ends when p is connected by a newer
	// connection than now.
	Latest(p peerid.ID) context.Context
	// Ask sends a request to a connected member and returns its response.
	Ask(ctx context.Context, p peerid.ID, q Request) (Response, error)
	// Suspect is told of a member that has said nothing in time: its
	// connection may be dead. It returns at once.
	Suspect(p peerid.ID)
	// Received counts the packets that have come in on the connections there are to a
	// member; 0 if there is none.
	Received(p peerid.ID) uint64
	// Reachable says whether this peer knows an address where p itself may
	// answer.
	Reachable(p peerid.ID) bool
}

// Directory says which members may have a connection to a peer. Its methods may
// be called concurrently; those with a context may take as long as that lasts.
type Directory interface {
	// Hints returns the members that the record of a peer's name, or its last
	// contact record, has named.
	Hints(target peerid.ID) []peerid.ID
	// Contacts returns those that its contact record in the database names.
	Contacts(ctx context.Context, target peerid.ID) []peerid.ID
	// Servers returns the connected members that keep the database, in no
	// order; the slice is the caller's.
	Servers() []peerid.ID
	// Nearest returns the servers nearest the target's ID, connected or not.
	Nearest(ctx context.Context, target peerid.ID) []peerid.ID
}

// Config is what a Router works with. All but Events and Logger are required.
type Config struct {
	Self      peerid.ID
	Mesh      Mesh
	Directory Directory
	// Forward says whether this peer passes on what is for others.
	Forward bool
	// Offered answers an offer for this peer, which has come from a connected
	// member: the initiator or a forwarder. It may take as long as ctx lasts.
	Offered func(ctx context.Context, q Request, from peerid.ID) Response
	// PipeDead says whether there is a pipe to a peer that carries nothing.
	PipeDead func(p peerid.ID) bool
	// Stretch returns a timeout as it is on this machine now (package lag); nil: as it is.
	Stretch func(time.Duration) time.Duration

	Events event.Sink
	Logger *slog.Logger
}

// Router brings offers to their targets and the answers back, its own and those
// of others. It is safe for concurrent use.
type Router struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex // guards what follows: asked for and added in one step
	limits *lru.Cache[payer, *rate.Limiter]
	seen   *lru.Cache[[16]byte, struct{}]
}

// New returns a Router. It has no goroutine of its own.
func New(cfg Config) (*Router, error) {
	if cfg.Stretch == nil {
		cfg.Stretch = func(d time.Duration) time.Duration { return d }
	}
	r := &Router{cfg: cfg, log: logpace.New(cfg.Logger)}
	var err error
	if r.limits, err = lru.New[payer, *rate.Limiter](membersKept); err != nil {
		return nil, err
	}
	r.seen, err = lru.New[[16]byte, struct{}](requestsKept)
	return r, err
}

// payer is to whom requests are charged: a member, or one part of its account.
type payer struct {
	member peerid.ID
	part   account.Account
}

// Allow counts a request of a member and says whether it, and all who are charged with
// it, may have one more now.
func (r *Router) Allow(p peerid.ID) bool {
	m, ok := r.cfg.Mesh.Member(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.limitLocked(payer{member: p}, 1).Allow() {
		return false
	}
	if !ok {
		return true
	}
	for part, times := range m.Account().All() {
		if !r.limitLocked(payer{part: part}, times*accountTimes).Allow() {
			return false
		}
	}
	return true
}

// limitLocked returns the limit of a payer, so many times that of a member.
func (r *Router) limitLocked(k payer, times int) *rate.Limiter {
	l, ok := r.limits.Get(k)
	if !ok {
		l = rate.NewLimiter(requestRate*rate.Limit(times), requestBurst*times)
		r.limits.Add(k, l)
	}
	return l
}

// firstTime notes a transaction and says whether it is new.
func (r *Router) firstTime(id [16]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, _ := r.seen.ContainsOrAdd(id, struct{}{})
	return !known
}

// Serve answers a request of a member as it is on the wire, within ServeTimeout.
func (r *Router) Serve(ctx context.Context, from peerid.ID, request []byte) (response []byte, err error) {
	q, err := ParseRequest(request)
	if err != nil {
		return nil, err
	}
	return r.Answer(ctx, q, from).Append(nil), nil
}

// ServeTimeout is how long a member waits for a response at most: one that is busy has
// more patience than others.
const ServeTimeout = lag.Most * roundTimeout

// Answer answers a request of a member: for this peer, or for somebody it is
// connected to.
func (r *Router) Answer(ctx context.Context, q Request, from peerid.ID) Response {
	switch {
	case !r.Allow(from):
		return Response{Status: Busy}
	case q.Target == r.cfg.Self:
		return r.cfg.Offered(ctx, q, from)
	case !r.cfg.Forward || q.TTL == 0:
		return Response{Status: NotHere}
	case !r.firstTime(q.Transaction):
		return Response{Status: Loop}
	}
	return r.forward(ctx, q)
}

// forward hands an offer to its target over the connection there is. A
// forwarder with none says so at once rather than keep the initiator waiting.
func (r *Router) forward(ctx context.Context, q Request) Response {
	if _, ok := r.cfg.Mesh.Member(q.Target); !ok {
		return Response{Status: NotHere}
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stretch(wayTimeout))
	defer cancel()
	q.TTL--
	r.cfg.Events.Emit(event.Event{Kind: event.OfferForwarded, From: q.From, Peer: q.Target})
	a, err := r.ask(ctx, q.Target, q)
	if err != nil {
		r.log.Debug("offer not delivered", "target", q.Target, "err", err)
		if ctx.Err() != nil {
			return Response{Status: Silent}
		}
		return Response{Status: NotHere}
	}
	if a.Forwarder.IsZero() {
		a.Forwarder = r.cfg.Self
	}
	return a
}

// ask sends a request to a connected member. One that says nothing until ctx's
// deadline is suspected: it may be the target's silence, or its own.
func (r *Router) ask(ctx context.Context, p peerid.ID, q Request) (Response, error) {
	a, err := r.cfg.Mesh.Ask(ctx, p, q)
	if err == nil {
		return a, nil
	}
	if ended := ctx.Err(); ended != nil {
		if err = ended; errors.Is(err, context.DeadlineExceeded) {
			r.cfg.Mesh.Suspect(p)
		}
	}
	return a, err
}

// Tell sends a message that is no offer, but sealed for the target as one is, on
// one way: through a member, or to the target itself. It says what came back; nil
// is that the target has taken it.
func (r *Router) Tell(ctx context.Context, target, via peerid.ID, message []byte) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stretch(wayTimeout))
	defer cancel()
	q := Request{TTL: MaxTTL, Target: target, From: r.cfg.Self, Offer: message}
	rand.Read(q.Transaction[:]) // never fails, crypto/rand
	a, err := r.ask(ctx, via, q)
	if err != nil {
		return err
	}
	return a.Err()
}
