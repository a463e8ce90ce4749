package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// The offer protocol: one request, one response (DESIGN §8, draft §4.2 "routing
// the Offer/Answer through other peers in the overlay"). What it carries is
// sealed end to end; a forwarder sees who talks to whom.
//
//	request:  version 1 | TTL 1 | transaction ID 16 | target 32 | from 32 | length 2 | offer
//	response: status 1 | forwarder 32 (zero: none) | length 2 | answer
const (
	offerVersion = 1
	offerTTL     = 3
	maxOffer     = 4096

	offerAnswered = 0
	offerNotHere  = 1 // the forwarder has no connection to the target
	offerGlare    = 2 // the target's own offer, under way, stands
	offerBusy     = 3 // rate limit
	offerRefused  = 4 // the target does not accept it
	offerLoop     = 5 // seen before
	offerSilent   = 6 // the target, though connected, did not answer in time

	// offerTimeout bounds one way to the target, offerTotal all of them, and
	// offerPatience all tries where there was nothing but silence.
	offerTimeout  = 2500 * time.Millisecond
	offerTotal    = 5 * time.Second
	offerPatience = 7 * time.Second
	// offerStagger is when the next way is tried while one is quiet.
	offerStagger = 500 * time.Millisecond
	// offerHurry is the same where the pipe is dead: so may be the connection.
	offerHurry = 50 * time.Millisecond
	offerWays  = 8
	// offerTries is how often one way is tried whose connection ends under
	// the offer, offerAgain the pause between.
	offerTries = 4
	offerAgain = 50 * time.Millisecond

	// What a member may have forwarded or delivered a second.
	offerRate, offerBurst = 30, 100
	offersSeen            = 4096
)

// Why an offer was not answered.
var (
	errNotHere = errors.New("no member reached has a connection to the peer")
	errGlare   = errors.New("the peer's own offer is under way")
	errBusy    = errors.New("rate limit of the forwarder")
	errRefused = errors.New("refused by the peer")
	errLooped  = errors.New("offer went in a circle")
	errSilent  = fmt.Errorf("the peer does not answer its server: %w", context.DeadlineExceeded)
)

type offerRequest struct {
	ttl          uint8
	transaction  [16]byte
	target, from peerid.ID
	offer        []byte
}

type offerResponse struct {
	status    uint8
	forwarder peerid.ID
	answer    []byte
}

func (q offerRequest) append(b []byte) []byte {
	b = append(b, offerVersion, q.ttl)
	b = append(b, q.transaction[:]...)
	b = append(b, q.target[:]...)
	b = append(b, q.from[:]...)
	return appendShort16(b, q.offer)
}

func (a offerResponse) append(b []byte) []byte {
	b = append(b, a.status)
	b = append(b, a.forwarder[:]...)
	return appendShort16(b, a.answer)
}

func readOfferRequest(r io.Reader) (offerRequest, error) {
	var q offerRequest
	f := &fieldReader{r: r}
	if v := f.uint8(); f.err == nil && v != offerVersion {
		return q, fmt.Errorf("offer: version %d", v)
	}
	q.ttl = f.uint8()
	copy(q.transaction[:], f.bytes(len(q.transaction)))
	copy(q.target[:], f.bytes(peerid.Size))
	copy(q.from[:], f.bytes(peerid.Size))
	q.offer = f.short16(maxOffer)
	if f.err == nil && q.ttl > offerTTL {
		return q, fmt.Errorf("offer: TTL %d", q.ttl)
	}
	return q, f.err
}

func readOfferResponse(r io.Reader) (offerResponse, error) {
	var a offerResponse
	f := &fieldReader{r: r}
	a.status = f.uint8()
	copy(a.forwarder[:], f.bytes(peerid.Size))
	a.answer = f.short16(maxOffer)
	return a, f.err
}

// err is what the initiator makes of a status; nil for an answer.
func (a offerResponse) err() error {
	switch a.status {
	case offerAnswered:
		return nil
	case offerGlare:
		return errGlare
	case offerBusy:
		return errBusy
	case offerRefused:
		return errRefused
	case offerLoop:
		return errLooped
	case offerSilent:
		return errSilent
	}
	return errNotHere
}

// final says whether no other way would bring another result.
func final(err error) bool { return errors.Is(err, errGlare) || errors.Is(err, errRefused) }

// router takes offers to their target. It is safe for concurrent use.
type router struct {
	o *Overlay

	mu     sync.Mutex // guards the rest
	limits map[peerid.ID]*rate.Limiter
	seen   map[[16]byte]struct{}
	order  [][16]byte
}

func newRouter(o *Overlay) *router {
	return &router{o: o, limits: map[peerid.ID]*rate.Limiter{}, seen: map[[16]byte]struct{}{}}
}

// allow counts a request of a member.
func (r *router) allow(id peerid.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limits[id]
	if l == nil {
		if len(r.limits) >= cacheMax {
			clear(r.limits)
		}
		l = rate.NewLimiter(offerRate, offerBurst)
		r.limits[id] = l
	}
	return l.Allow()
}

// fresh notes a transaction and says whether it is new.
func (r *router) fresh(id [16]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen[id]; ok {
		return false
	}
	r.seen[id] = struct{}{}
	r.order = append(r.order, id)
	if len(r.order) > offersSeen {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
	return true
}

// serve handles a request: it is for us, or for somebody we are connected to.
func (r *router) serve(s network.Stream, m *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(offerTotal))
	q, err := readOfferRequest(s)
	if err != nil {
		_ = s.Reset()
		return
	}
	a := r.answer(q, m)
	if _, err := s.Write(a.append(nil)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (r *router) answer(q offerRequest, from *membership.Member) offerResponse {
	if !r.allow(from.Peer) {
		return offerResponse{status: offerBusy}
	}
	if q.target == r.o.self {
		return r.o.connects.offered(q, from.Peer)
	}
	if r.o.cfg.NoRelay || q.ttl == 0 {
		return offerResponse{status: offerNotHere}
	}
	if !r.fresh(q.transaction) {
		return offerResponse{status: offerLoop}
	}
	return r.forward(q)
}

// forward hands an offer to its target over the connection there is. A
// forwarder with none says so at once rather than keep the initiator waiting.
func (r *router) forward(q offerRequest) offerResponse {
	target := toLibp2p(q.target)
	if _, ok := r.o.gate.member(target); !ok {
		return offerResponse{status: offerNotHere}
	}
	ctx, cancel := context.WithTimeout(r.o.ctx, offerTimeout)
	defer cancel()
	q.ttl--
	r.o.cfg.Events.Emit(event.Event{Kind: event.OfferForwarded, From: q.from, Peer: q.target})
	a, err := r.ask(ctx, target, q)
	if err != nil {
		r.o.log.Debug("offer not delivered", "target", q.target, "err", err)
		if ctx.Err() != nil {
			return offerResponse{status: offerSilent}
		}
		return offerResponse{status: offerNotHere}
	}
	if a.forwarder.IsZero() {
		a.forwarder = r.o.self
	}
	return a
}

// ask sends one request to one connected member.
func (r *router) ask(ctx context.Context, p peer.ID, q offerRequest) (offerResponse, error) {
	s, err := r.o.gate.stream(ctx, p, r.o.proto("offer"))
	if err != nil {
		return offerResponse{}, err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if _, err := s.Write(q.append(nil)); err != nil {
		return offerResponse{}, err
	}
	_ = s.CloseWrite()
	a, err := readOfferResponse(s)
	if err != nil && ctx.Err() != nil {
		if err = ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			r.o.stale.check(p) // the target's silence, or the member's own?
		}
	}
	return a, err
}

// way is a member that may get an offer to its target: the target itself, or
// one that may be connected to it. addrs are for one that we have no
// connection to.
type way struct {
	peer   peer.ID
	direct bool
}

// deliver is route, again and again while nobody says anything: the network may
// lose much. An offer that comes twice gets the same answer.
func (r *router) deliver(ctx context.Context, target peerid.ID, offer []byte) (answer []byte, via peerid.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, offerPatience)
	defer cancel()
	for {
		answer, via, err = r.route(ctx, target, offer)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return answer, via, err
		}
	}
}

// route takes an offer to a peer and brings the answer back. Ways are tried
// one after the other, the next when one has failed or was quiet for
// offerStagger: the connection to the peer itself, the members that its
// record names, our own, and those nearest its ID.
func (r *router) route(ctx context.Context, target peerid.ID, offer []byte) (answer []byte, via peerid.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, offerTotal)
	defer cancel()
	q := offerRequest{ttl: offerTTL, target: target, from: r.o.self, offer: offer}

	type result struct {
		a   offerResponse
		via peerid.ID
		err error
	}
	results := make(chan result, offerWays+1) // each way's one result: no sender waits
	ways := make(chan way)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { defer close(ways); r.ways(ctx, target, ways) })

	start, pace := time.Now(), offerStagger
	if r.o.pipes.Pipe(target) != nil && r.o.connects.up(target) == nil {
		pace = offerHurry
	}
	var last error
	busy, more := 0, true
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	var next <-chan way // nil while the stagger runs
	for busy > 0 || more {
		select {
		case <-stagger.C:
			if more {
				next = ways
			}
		case w, ok := <-next:
			if !ok {
				more, next = false, nil
				continue
			}
			busy++
			next = nil
			stagger.Reset(pace)
			q := q
			var id peerid.ID
			if !w.direct {
				id, _ = fromLibp2p(w.peer)
			}
			r.o.cfg.Events.Emit(event.Event{Kind: event.OfferSent, Peer: target, Via: id})
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, offerTimeout)
				defer cancel()
				a, err := r.try(ctx, w, q)
				results <- result{a, id, err}
			})
		case res := <-results:
			busy--
			if res.err == nil {
				res.err = res.a.err()
			}
			if res.err == nil {
				if !res.a.forwarder.IsZero() {
					res.via = res.a.forwarder
				}
				r.o.cfg.Events.Emit(event.Event{Kind: event.AnswerReceived, Peer: target, Via: res.via, Duration: time.Since(start)})
				return res.a.answer, res.via, nil
			}
			if final(res.err) {
				return nil, res.via, res.err
			}
			if last == nil || !errors.Is(res.err, errNotHere) {
				last = res.err
			}
			if more {
				next = ways // do not wait for the stagger after a failure
			}
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return nil, peerid.ID{}, last
		}
	}
	if last == nil {
		last = errNotHere
	}
	return nil, peerid.ID{}, last
}

// try sends the offer one way, connecting first if need be, and again if the
// connection ends under it: that says nothing about the target. An offer that
// comes twice gets the same answer.
func (r *router) try(ctx context.Context, w way, q offerRequest) (a offerResponse, err error) {
	for n := range offerTries {
		if n > 0 && !pause(ctx, offerAgain) {
			break
		}
		if _, ok := r.o.gate.member(w.peer); !ok {
			if _, err = r.o.gate.connect(ctx, peer.AddrInfo{ID: w.peer}); err != nil {
				if n == 0 {
					break // it was not there before either
				}
				continue
			}
		}
		rand.Read(q.transaction[:])
		if a, err = r.ask(ctx, w.peer, q); err == nil || ctx.Err() != nil {
			break
		}
	}
	return a, err
}

// ways sends the ways to a target, the likeliest first, to out.
func (r *router) ways(ctx context.Context, target peerid.ID, out chan<- way) {
	p := toLibp2p(target)
	tried := map[peer.ID]bool{r.o.host.ID(): true}
	send := func(w way) bool {
		if tried[w.peer] || len(tried) > offerWays {
			return len(tried) <= offerWays
		}
		tried[w.peer] = true
		select {
		case out <- w:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if _, ok := r.o.gate.member(p); ok && !send(way{p, true}) {
		return
	}
	// What the peer's name record said, as far as we are connected there;
	// to connect elsewhere costs more than to ask those we have.
	hints := r.o.names.hint(target)
	for _, h := range hints {
		if _, ok := r.o.gate.member(toLibp2p(h)); ok && !send(way{toLibp2p(h), false}) {
			return
		}
	}
	if len(hints) == 0 {
		// Servers first: others connect to them.
		for _, s := range r.byDistance(r.o.db.servers(), p)[:min(2, len(r.o.db.servers()))] {
			if !send(way{s, false}) {
				return
			}
		}
	}
	for _, h := range hints {
		if !send(way{toLibp2p(h), false}) {
			return
		}
	}
	// The record in the database, newer than the hint.
	if rec, _, _ := r.o.names.contact(ctx, target); rec != nil {
		for _, h := range rec.Contact.Members {
			if !send(way{toLibp2p(h), false}) {
				return
			}
		}
		// The peer's own addresses: it may be reachable itself.
		if addrs := parseAddrs(rec.Addrs); len(addrs) > 0 && r.o.db.isServer() {
			r.o.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
		}
	}
	// The fallback: those nearest the target's ID, where it keeps its
	// connections.
	res := r.o.db.walk(ctx, string(p), nil)
	for _, n := range res.nearest[:min(len(res.nearest), nearServers)] {
		if !send(way{n, false}) {
			return
		}
	}
}

func (r *router) byDistance(peers []peer.ID, target peer.ID) []peer.ID {
	t := kb.ConvertPeerID(target)
	slices.SortFunc(peers, func(a, b peer.ID) int {
		return bytes.Compare(distance(kb.ConvertPeerID(a), t), distance(kb.ConvertPeerID(b), t))
	})
	return peers
}

func parseAddrs(texts []string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, s := range texts {
		if m, err := ma.NewMultiaddr(s); err == nil {
			out = append(out, m)
		}
	}
	return out
}
