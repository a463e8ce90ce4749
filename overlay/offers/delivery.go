package offers

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/membership"
)

// Deliver takes an offer to a peer and makes the session of its answer; via is
// the member that passed both on, zero if none did. As long as nobody says
// anything it does so again, until Patience is over: the network may lose much,
// and an offer that comes twice gets the same answer.
func (r *Router) Deliver(ctx context.Context, target peerid.ID, offer *pipe.Offer) (s *pipe.Session, via peerid.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stretch(Patience))
	defer cancel()
	for {
		s, via, err = r.DeliverOnce(ctx, target, offer)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return s, via, err
		}
	}
}

// round is one try of all ways to a target. The goroutine of DeliverOnce owns it.
type round struct {
	r       *Router
	ctx     context.Context
	request Request
	offer   *pipe.Offer
	begun   time.Time

	ways    chan way
	next    <-chan way      // ways; nil while the stagger runs
	more    bool            // ways may come
	busy    int             // ways that have not come to a result
	asked   int             // of these, how many are members that should be able to pass the offer on
	direct  int             // of these, how many go to the target itself
	before  uint64          // Mesh.Received of the target when the newest of them began
	sentOn  context.Context // Mesh.Latest of the connection to the target that the newest of them began on
	arrival <-chan struct{} // Mesh.Arrival: the target may be connected now
	results chan result
	wg      sync.WaitGroup

	wait        *time.Timer
	first, pace time.Duration // before the second way; before others

	last              error // what the newest way said
	unconnected, mute int   // members that had no connection to the target, and that said nothing
}

// result is what came of one way.
type result struct {
	way    way
	answer Response
	via    peerid.ID // zero: none
	err    error
}

// DeliverOnce is one round of Deliver. Ways are tried one after the other, the
// next when one has failed or was quiet for the stagger. The first answer that the
// target has sealed makes the session.
func (r *Router) DeliverOnce(ctx context.Context, target peerid.ID, offer *pipe.Offer) (s *pipe.Session, via peerid.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stretch(roundTimeout))
	n := &round{
		r: r, ctx: ctx, offer: offer, begun: time.Now(),
		request: Request{TTL: MaxTTL, Target: target, From: r.cfg.Self, Offer: offer.Bytes()},
		ways:    make(chan way), more: true,
		results: make(chan result, waysMax+1), // a way's one result seldom waits
		arrival: r.cfg.Mesh.Arrival(),
		wait:    time.NewTimer(0), first: staggerFirst, pace: stagger,
	}
	defer n.wg.Wait()
	defer cancel()
	defer n.wait.Stop()
	if r.cfg.PipeDead(target) {
		n.first, n.pace = staggerDead, staggerDead
	}
	n.wg.Go(func() { r.findWays(ctx, target, n.ways) })
	for n.busy > 0 || n.more {
		select {
		case <-n.wait.C:
			n.overdue()
		case w, ok := <-n.next:
			if n.next = nil; ok {
				n.send(w)
			} else {
				n.more = false
			}
		case <-n.arrival:
			n.arrival = r.cfg.Mesh.Arrival()
			n.sendArrived()
		case res := <-n.results:
			if s, over := n.hear(&res); over {
				return s, res.via, res.err
			}
		case <-ctx.Done():
			if n.last == nil {
				n.last = ctx.Err()
			}
			n.mute += n.asked // they have said nothing until now
			return nil, peerid.ID{}, n.failed()
		}
	}
	if n.last == nil {
		n.last = ErrNotHere
	}
	return nil, peerid.ID{}, n.failed()
}

// letNext lets the next way come.
func (n *round) letNext() {
	if n.more {
		n.next = n.ways
	}
}

// overdue is the end of the stagger. A target that has the offer is waited for: members
// could only bring it the same offer again, which is no help where it has much to do. One
// of which nothing has come in since may be gone.
func (n *round) overdue() {
	switch {
	case n.delivered():
		n.wait.Reset(n.r.cfg.Stretch(n.pace))
		return
	case n.direct > 0:
		n.r.cfg.Mesh.Suspect(n.request.Target)
	}
	n.letNext()
}

// delivered says whether the offer is on its way to the target itself, on a connection by
// which something has come in since: QUIC brings the rest.
func (n *round) delivered() bool {
	return n.direct > 0 && n.r.cfg.Mesh.Received(n.request.Target) > n.before
}

// sendArrived sends the offer to the target itself if it has come in by a connection on
// which it was not sent: it waits for no other way's turn. A way to the target that is
// under way takes the new connection by itself (askLatest), and what has come in counts
// from there.
func (n *round) sendArrived() {
	latest := n.r.cfg.Mesh.Latest(n.request.Target)
	_, ok := n.r.cfg.Mesh.Member(n.request.Target)
	switch {
	case !ok || latest == n.sentOn:
	case n.direct > 0:
		n.sentOn, n.before = latest, n.r.cfg.Mesh.Received(n.request.Target)
	default:
		n.send(way{peer: n.request.Target, direct: true})
	}
}

// send begins one way; the next comes after the stagger. The offer is not sent twice on
// one connection to the target.
func (n *round) send(w way) {
	if w.direct {
		latest := n.r.cfg.Mesh.Latest(w.peer)
		if _, ok := n.r.cfg.Mesh.Member(w.peer); ok && (n.direct > 0 || latest == n.sentOn) {
			n.letNext()
			return
		}
		n.sentOn, n.before = latest, n.r.cfg.Mesh.Received(w.peer)
		n.direct++
	}
	n.busy++
	n.wait.Reset(n.r.cfg.Stretch(n.first))
	n.first = n.pace
	res := result{way: w}
	if !w.direct {
		res.via = w.peer
	}
	if w.known() {
		n.asked++
	}
	n.r.cfg.Events.Emit(event.Event{Kind: event.OfferSent, Peer: n.request.Target, Via: res.via})
	n.wg.Go(func() {
		res.answer, res.err = n.r.try(n.ctx, w, n.request)
		select {
		case n.results <- res:
		case <-n.ctx.Done():
		}
	})
}

// hear takes one way's result and says whether the round is over with it: there is
// a session, or no other way would bring another result.
func (n *round) hear(res *result) (s *pipe.Session, over bool) {
	n.busy--
	if res.way.direct {
		n.direct--
	}
	if res.way.known() {
		n.asked--
	}
	if res.err == nil {
		s, over, res.err = finish(n.offer, res.answer, res.way.direct)
	}
	if res.err == nil {
		if !res.answer.Forwarder.IsZero() {
			res.via = res.answer.Forwarder
		}
		n.r.cfg.Events.Emit(event.Event{Kind: event.AnswerReceived, Peer: n.request.Target, Via: res.via, Duration: time.Since(n.begun)})
		return s, true
	}
	if over {
		return nil, true
	}
	switch {
	case !res.way.known():
	case errors.Is(res.err, ErrNotHere), errors.Is(res.err, errSilent), errors.Is(res.err, errClaimed):
		n.unconnected++
	default:
		n.mute++
	}
	n.last = worse(n.last, res.err)
	if !n.delivered() {
		n.letNext() // do not wait for the stagger after a failure
	}
	return nil, false
}

func (n *round) failed() error {
	others := slices.ContainsFunc(n.r.cfg.Mesh.Members(), func(m *membership.Member) bool { return m.Peer != n.request.Target })
	return undelivered(n.last, n.unconnected, n.mute, others)
}

// try sends the offer one way, connecting first if need be, and again if the
// connection ends under it or the member comes in by a new one: that says nothing
// about the target. An offer that comes twice gets the same answer.
func (r *Router) try(ctx context.Context, w way, q Request) (a Response, err error) {
	for n := range resends {
		if n > 0 && !pause.For(ctx, resendPause) {
			break
		}
		if _, ok := r.cfg.Mesh.Member(w.peer); !ok {
			if err = r.connect(ctx, w.peer); err != nil {
				if n == 0 || errors.Is(err, context.DeadlineExceeded) {
					break // it was not there before either, or for long
				}
				continue
			}
		}
		if a, err = r.askLatest(ctx, w.peer, q); err == nil || errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	return a, err
}

// connect connects to a member within wayTimeout.
func (r *Router) connect(ctx context.Context, p peerid.ID) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Stretch(wayTimeout))
	defer cancel()
	return r.cfg.Mesh.Connect(ctx, p)
}

// askLatest asks a member until its newest connection is no longer that, for wayTimeout:
// what was left of it when a connection came in would be no measure of its silence.
func (r *Router) askLatest(ctx context.Context, p peerid.ID, q Request) (Response, error) {
	rand.Read(q.Transaction[:]) // never fails, crypto/rand
	once, end := context.WithTimeout(ctx, r.cfg.Stretch(wayTimeout))
	defer end()
	defer context.AfterFunc(r.cfg.Mesh.Latest(p), end)()
	return r.ask(once, p, q)
}
