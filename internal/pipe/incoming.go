package pipe

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// Errors of ReadOffer and Accept beside ErrHandshake.
var (
	ErrReplayed = errors.New("pipe: offer is not newer than one before it")
	ErrClock    = errors.New("pipe: offer of another time: one of the two clocks is wrong, or it was recorded")
	ErrBusy     = errors.New("pipe: too many offers")
	ErrRejected = errors.New("pipe: offer was rejected")
)

// RefusedError is an error of Finish: the peer itself, by its key, does not
// accept the offer.
type RefusedError struct{ Reason wire.Refusal }

func (e *RefusedError) Error() string { return "pipe: the peer's answer: " + e.Reason.String() }

// Incoming is an offer that was read and authenticated: the peer holds the
// key of Peer. Whether it is a member is for the caller to check, from
// Remote.Chain, before Accept. It may be used concurrently.
type Incoming struct {
	Peer    peerid.ID
	Remote  Remote
	Session [16]byte

	e       *Endpoint
	hash    [32]byte // of the offer
	expires int64    // of the cached answer
	open    bool     // counts as half open; guarded by e.mu
	offer   *wire.Payload
	stamp   uint64 // the offer's timestamp
	created int64

	kept func() error // waits until a restart knows the offer; nil: nothing to wait for

	mu       sync.Mutex // guards what follows
	x        *handshake.Exchange
	rejected bool
	answer   []byte
	session  *Session
	refusal  []byte
	reason   wire.Refusal
}

// ReadOffer authenticates an offer and checks that it is new. The very same
// offer again gives the very same Incoming, and its Accept the same answer.
// Nothing is to be sent to anybody on an error.
func (e *Endpoint) ReadOffer(offer []byte) (*Incoming, error) {
	initiator, msg, err := handshake.ParseOffer(offer)
	if err != nil {
		return nil, err
	}
	if initiator == e.id.ID {
		return nil, fmt.Errorf("%w: offer from self", ErrHandshake)
	}
	hash := sha256.Sum256(offer)
	e.mu.Lock()
	in, closed := e.responder.cached[hash], e.closed
	e.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case in != nil:
		return in, nil
	}

	x, err := e.id.Respond(e.cfg.Overlay, initiator, nil, e.ent)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrHandshake, err)
	}
	b, err := x.ReadFirst(msg)
	if err != nil {
		return nil, err
	}
	p, err := wire.ParsePayload(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	if p.Kind != wire.Offer {
		return nil, fmt.Errorf("%w: not an offer", ErrHandshake)
	}
	if err := timely(p.Timestamp); err != nil {
		return nil, err
	}
	now := e.now()
	in = &Incoming{
		Peer: initiator, Remote: remoteOf(p), Session: p.Session,
		e: e, hash: hash, expires: now + halfOpenFor, offer: p, stamp: p.Timestamp, created: now, x: x,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	again, ended, err := e.responder.admit(in, now)
	for _, old := range ended {
		e.endHalfOpen(old)
	}
	if err != nil {
		return nil, err
	}
	e.timers.plan(&e.half, now+halfOpenFor)
	if again == in {
		in.kept = e.keep(readRecord(in))
	}
	return again, nil
}

// Accept answers the offer. Called again it returns the same answer and
// session, whatever local is then.
func (in *Incoming) Accept(local Local) (answer []byte, s *Session, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.rejected:
		return nil, nil, ErrRejected
	case in.session != nil:
		return in.answer, in.session, nil
	case in.x == nil:
		return nil, nil, ErrSession
	}
	e := in.e
	if err := in.Charge(); err != nil {
		return nil, nil, err
	}
	kp := &keypair{}
	if err := e.table.reserve(kp); err != nil {
		return nil, nil, err
	}
	answer, s, err = in.write(local, kp)
	if err == nil {
		e.mu.Lock()
		if e.closed || !in.open {
			err = ErrSession
		} else {
			e.addSession(s)
		}
		e.mu.Unlock()
	}
	if err != nil {
		kp.wipe()
		e.table.remove(kp)
		if in.x.Ended() { // the answer was written, and is not to be sent: there is nothing to make another with
			in.x, in.offer = nil, nil
		}
		return nil, nil, err
	}
	in.answer, in.session = answer, s
	in.x, in.offer = nil, nil
	e.await(in.kept)
	return answer, s, nil
}

func (in *Incoming) write(local Local, kp *keypair) ([]byte, *Session, error) {
	e := in.e
	aead, err := handshake.ChooseAEAD(in.offer.AEADs, e.aeads)
	if err != nil {
		return nil, nil, err
	}
	p := local.payload(wire.Answer)
	p.Session = in.offer.Session
	p.Timestamp = in.offer.Timestamp
	p.Start = e.start
	p.Index = kp.recvIndex
	p.AEADs = aead
	if p.KEM, err = in.x.Encapsulate(in.offer.KEM); err != nil {
		return nil, nil, err
	}
	if err := p.Check(); err != nil {
		return nil, nil, err
	}
	payload := p.Append(nil)
	if n := handshake.AnswerOverhead + len(payload); n > handshake.MaxMessage {
		return nil, nil, fmt.Errorf("pipe: answer of %d bytes, more than %d", n, handshake.MaxMessage)
	}
	answer, keys, err := in.x.WriteSecond(handshake.AppendAnswerHeader(nil), payload, aead)
	if err != nil {
		return nil, nil, err
	}
	s := &Session{
		e: e, peer: in.Peer, id: in.Session, aead: aead,
		remote: in.Remote, created: in.created, kp: kp,
	}
	kp.sess = s
	kp.created = e.now()
	kp.sendIndex = in.offer.Index
	if err := kp.setKeys(&keys, aead, false); err != nil {
		return nil, nil, err
	}
	return answer, s, nil
}

// Reject refuses the offer for good: the same bytes are refused again.
func (in *Incoming) Reject() {
	in.mu.Lock()
	in.reject()
}

// Refuse is Reject with words: the initiator's Finish knows the message as this
// peer's, so that nobody on the way can refuse in its name. It is nil if there
// is nothing to say it with: the offer was accepted, or rejected, or Accept has failed
// when the answer was written, as for an offer that newer ones had displaced.
func (in *Incoming) Refuse(reason wire.Refusal) []byte {
	in.mu.Lock()
	if in.x != nil && in.session == nil {
		if b, err := in.x.WriteRefusal(handshake.AppendAnswerHeader(nil), reason); err == nil {
			in.refusal, in.reason = b, reason
		}
	}
	b := in.refusal
	in.reject()
	return b
}

// Refusal is what Refuse has said, nil if it has not been called.
func (in *Incoming) Refusal() (reason wire.Refusal, message []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.reason, in.refusal
}

// Rejected says whether the offer was, by whatever way it came: Accept answers it no more.
func (in *Incoming) Rejected() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rejected
}

// reject ends the exchange and unlocks mu, which the caller holds.
func (in *Incoming) reject() {
	if in.session == nil {
		in.rejected = true
		if in.x != nil {
			in.x.Wipe()
			in.x = nil
		}
		in.offer = nil
	}
	rejected := in.rejected
	in.mu.Unlock()
	if rejected {
		in.e.mu.Lock()
		in.e.responder.settle(in)
		in.e.mu.Unlock()
	}
}

// addSession keeps s until it is installed or half-open time ends. The caller
// holds mu.
func (e *Endpoint) addSession(s *Session) {
	e.sessions[s] = e.now() + halfOpenFor
	e.timers.plan(&e.half, e.now()+halfOpenFor)
}

// endHalfOpen gives up an offer that had to make room. The caller holds mu;
// the session, if one was made, is ended by the same rule as any other.
func (e *Endpoint) endHalfOpen(in *Incoming) {
	for s := range e.sessions {
		if !s.initiator && s.id == in.Session && s.peer == in.Peer {
			delete(e.sessions, s)
			s.release()
		}
	}
}

// expireHalfOpen ends what stayed half open too long.
func (e *Endpoint) expireHalfOpen(now int64) (next int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	later := func(at int64) {
		if next == 0 || at < next {
			next = at
		}
	}
	for s, at := range e.sessions {
		if at > now {
			later(at)
			continue
		}
		delete(e.sessions, s)
		s.release()
	}
	if at := e.responder.expire(now); at > 0 {
		later(at)
	}
	return next
}

// The responder's limits (issue of the pipe, DESIGN §7).
const (
	// maxHalfOpen is how many are half open that were charged, and how many that were not:
	// of those it is not known yet whether their peers are members.
	maxHalfOpen        = 256
	maxHalfOpenPerPeer = 4
	// maxHalfOpenPerAccount is how many that were charged are of one invitation.
	maxHalfOpenPerAccount = maxHalfOpen / 4
	maxCached             = 1024
	maxInitiators         = 4096
	offersPerSecond       = 20
	offersBurst           = 5
	maxSeen               = 16 // offers of one initiator that are known again

	// clockTolerance is how far the timestamp of an offer may be from this
	// side's clock, in µs: as far as those of certificates.
	clockTolerance = uint64(10 * time.Minute / time.Microsecond)
)

// responder remembers initiators and their offers. It is guarded by the
// Endpoint's mu.
type responder struct {
	cached     map[[32]byte]*Incoming // by hash of the offer
	initiators map[peerid.ID]*initiator
	halfOpen   int
	charged    account.Holders[*Incoming] // of those half open
}

// initiator is one peer that has made an authenticated offer.
type initiator struct {
	timestamp uint64     // of its newest offer that it has confirmed
	seen      [][32]byte // hashes of its last offers
	offers    bucket
	open      []*Incoming // half open, oldest first
	confirmed bool        // it has had a session
}

// bucket holds tokens for offers.
type bucket struct {
	tokens   float64
	refilled int64
}

func newBucket(now int64) bucket { return bucket{offersBurst, now} }

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	refill := float64(now-b.refilled) / float64(time.Second) * offersPerSecond
	b.tokens, b.refilled = min(b.tokens+refill, offersBurst), now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func newResponder() responder {
	return responder{
		cached:     make(map[[32]byte]*Incoming),
		initiators: make(map[peerid.ID]*initiator),
	}
}

func (r *responder) clear() { *r = newResponder() }

// admit lets a new offer in, or returns the one already there under the same
// bytes. ended are older offers of the same peer that made room.
func (r *responder) admit(in *Incoming, now int64) (_ *Incoming, ended []*Incoming, err error) {
	if again := r.cached[in.hash]; again != nil {
		return again, nil, nil
	}
	from := r.initiators[in.Peer]
	if from == nil {
		if len(r.initiators) >= maxInitiators && !r.forgetOne() {
			return nil, nil, ErrBusy
		}
		from = r.initiator(in.Peer, now)
	}
	// A replay is not the initiator's doing and costs it no token.
	if in.stamp <= from.timestamp || slices.Contains(from.seen, in.hash) {
		return nil, nil, ErrReplayed
	}
	if !from.offers.take(now) {
		return nil, nil, fmt.Errorf("%w: of %v", ErrBusy, in.Peer)
	}
	// A peer's newest offers count: it has given up on the oldest.
	for len(from.open) >= maxHalfOpenPerPeer {
		ended = append(ended, from.open[0])
		r.displace(from.open[0])
	}
	if r.halfOpen-r.charged.Len() >= maxHalfOpen {
		return nil, ended, ErrBusy
	}
	if len(r.cached) >= maxCached {
		r.forgetSettled()
	}
	// The timestamp counts once the keys are confirmed: who has stolen this
	// peer's key can make an offer in anybody's name, and must not be able to
	// make those of the peer it names look old.
	from.remember(in.hash)
	from.open = append(from.open, in)
	in.open = true
	r.halfOpen++
	r.cached[in.hash] = in
	return in, ended, nil
}

// initiator returns what is known of a peer, and begins it.
func (r *responder) initiator(peer peerid.ID, now int64) *initiator {
	from := r.initiators[peer]
	if from == nil {
		from = &initiator{offers: newBucket(now)}
		r.initiators[peer] = from
	}
	return from
}

// settle takes in off the half-open ones: it is confirmed, rejected or given
// up. The answer stays cached.
func (r *responder) settle(in *Incoming) {
	if !in.open {
		return
	}
	in.open = false
	r.halfOpen--
	r.charged.Remove(in)
	from := r.initiators[in.Peer]
	if from == nil {
		return
	}
	for i, o := range from.open {
		if o == in {
			from.open = append(from.open[:i:i], from.open[i+1:]...)
			break
		}
	}
}

// displace gives up a half-open one, its answer too: it has to make room. endHalfOpen ends
// what was made of it.
func (r *responder) displace(in *Incoming) {
	delete(r.cached, in.hash)
	r.settle(in)
}

// Charge has an offer, of a peer that is a member, count for the account of that while it
// is half open: before anything is done for it that takes long. Accept does so too. Where
// there are as many as may be, one of those who have most gives way. The error is ErrBusy;
// the offer is to be rejected then.
func (in *Incoming) Charge() error {
	e := in.e
	if e.cfg.Account == nil {
		return nil
	}
	payer := e.cfg.Account(in.Peer)
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &e.responder
	if !in.open || r.charged.Has(in) {
		return nil
	}
	if r.charged.Full(payer, maxHalfOpenPerAccount) {
		return fmt.Errorf("%w: of those who came as %v did", ErrBusy, in.Peer)
	}
	if r.charged.Len() >= maxHalfOpen {
		old, ok := r.charged.Yields(payer)
		if !ok {
			return ErrBusy
		}
		r.displace(old)
		e.endHalfOpen(old)
	}
	r.charged.Add(in, payer)
	return nil
}

// settleSession does so for the offer of a confirmed session.
func (e *Endpoint) settleSession(s *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.responder.initiators[s.peer]
	if from == nil {
		return
	}
	for _, in := range from.open {
		if in.Session == s.id {
			e.responder.confirm(in)
			e.keep(recordOf(recordConfirmed, in)) // nobody waits for it
			return
		}
	}
}

// giveUp takes the offer of a cancelled session off the half-open ones.
func (e *Endpoint) giveUp(s *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	from := e.responder.initiators[s.peer]
	if s.initiator || from == nil {
		return
	}
	for _, in := range from.open {
		if in.Session == s.id {
			e.responder.settle(in)
			return
		}
	}
}

// confirm takes in off the half-open ones after its initiator was heard.
func (r *responder) confirm(in *Incoming) {
	r.settle(in)
	if from := r.initiators[in.Peer]; from != nil {
		from.confirmed = true
		from.timestamp = max(from.timestamp, in.stamp)
	}
}

// forgetSettled makes room among the cached answers. There are always more of
// them than may be half open.
func (r *responder) forgetSettled() {
	for hash, in := range r.cached {
		if !in.open {
			delete(r.cached, hash)
			return
		}
	}
}

// forgetOne makes room by forgetting an initiator without a half-open offer,
// one that never had a session if there is any: keys made up for the purpose
// do not push out real peers. Its timestamp is lost with it: an old offer of
// that peer then draws an answer, and nothing else, since it cannot be
// confirmed.
func (r *responder) forgetOne() bool {
	var peer *peerid.ID
	for id, from := range r.initiators {
		if len(from.open) > 0 {
			continue
		}
		if peer = &id; !from.confirmed {
			break
		}
	}
	if peer == nil {
		return false
	}
	delete(r.initiators, *peer)
	return true
}

// expire ends cached offers and says when the next one ends.
func (r *responder) expire(now int64) (next int64) {
	for hash, in := range r.cached {
		if in.expires <= now {
			r.settle(in)
			delete(r.cached, hash)
		} else if next == 0 || in.expires < next {
			next = in.expires
		}
	}
	return next
}
