package pipe

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// New keys inside a pipe (DESIGN §7, §14.3):
//
//	initiator                                responder
//	REKEY_OFFER under the old keys    ->
//	                                         opens with the new keys from here on
//	                                  <-     REKEY_ANSWER under the old keys
//	seals with the new keys
//	CONFIRM or data under the new     ->
//	                                         seals with the new keys
//
// Either side goes on opening with the old keys until they are 180 s old, so
// no packet is lost whatever the order of arrival. Offer and answer are
// repeated until the new keys are in use.

const (
	kemEvery   = 8                                   // rekeys; the others inherit by the chaining key
	rekeyPause = int64(10 * time.Second)             // after a rekey of ours that failed
	forceAfter = rejectAfter - int64(30*time.Second) // give up on a peer's exchange that does not end
	maxRekeys  = 1<<32 - 1                           // a session ends before its numbers run out
)

// rekeying is an exchange that this side began.
type rekeying struct {
	number uint32
	began  int64
	x      *exchange
	kp     *keypair
	frame  wire.Frame
	try    retry
}

// answered is an exchange that the peer began, until its keys are confirmed.
type answered struct {
	number uint32
	at     int64
	offer  [32]byte // hash of its message
	frame  wire.Frame
	kp     *keypair
}

// abort gives up an exchange; r may be nil. The caller holds p.mu.
func (r *rekeying) abort(p *Pipe) {
	if r == nil {
		return
	}
	r.x.wipe()
	p.drop(r.kp)
	p.rekey = nil
}

// rekeyDue begins an exchange when it is time, and repeats the offer. The
// caller holds mu.
func (p *Pipe) rekeyDue(now int64) (next int64) {
	k := p.cur
	if p.state != stateUp || k == nil || !k.usable() {
		return 0
	}
	if p.rekey == nil {
		at := k.created + rekeyAfter
		if !p.sess.initiator {
			at = k.created + rekeyAfterResponder
		}
		if k.next.Load() >= p.e.limits.rekeyAfterPackets {
			at = now
		}
		if p.answered.kp != nil {
			at = max(at, k.created+forceAfter, p.answered.at+rekeyPause)
		}
		at = max(at, p.rekeyAt)
		if now < at {
			return at
		}
		if err := p.beginRekey(now); err != nil {
			p.e.log.Error("rekey failed", "peer", p.peer, "err", err)
			p.rekeyAt = now + rekeyPause
			return p.rekeyAt
		}
	}
	if now >= k.created+forceAfter {
		if o := p.otherSession(); o != nil {
			p.promote(o)
			for _, old := range p.keys {
				if old.sess != p.sess {
					old.retired(now)
				}
			}
			return now
		}
	}
	r := p.rekey
	if r.try.at <= now {
		p.queue(k, p.best.Load(), r.frame)
		r.try.at = now + max(int64(initialRTT), 2*p.rtt())<<min(r.try.tries, 4)
		r.try.tries++
	}
	return r.try.at
}

// otherSession returns the newest keys of a session that crossed the present
// one. A peer that answers no rekey may hold that session for the one that
// stays. The caller holds mu.
func (p *Pipe) otherSession() *keypair {
	for _, k := range slices.Backward(p.keys) {
		if k.sess != p.sess && k.retire == 0 && k.confirmed.Load() && k.usable() {
			return k
		}
	}
	return nil
}

func (p *Pipe) beginRekey(now int64) error {
	if p.answered.kp != nil {
		p.removeKeys(p.answered.kp)
	}
	if p.cur.number == maxRekeys {
		return errors.New("pipe: rekey numbers used up")
	}
	static, err := montgomery(p.peer)
	if err != nil {
		return err
	}
	r := &rekeying{number: p.cur.number + 1, began: now, try: retry{at: now}, kp: &keypair{}}
	previous := p.cur.chaining
	pro := rekeyPrologue(p.e.cfg.Overlay, p.e.id.id, p.peer, r.number)
	if r.x, err = newExchange(p.e.id, static, true, pro, &previous, p.e.ent); err != nil {
		return err
	}
	offer := wire.Rekey{Kind: wire.Offer, Number: r.number}
	defer func() {
		if p.rekey != r {
			r.x.wipe()
		}
	}()
	if r.number%kemEvery == 0 {
		if offer.KEM, err = r.x.encapsulationKey(p.e.ent); err != nil {
			return err
		}
	}
	if err := p.e.table.reserve(r.kp); err != nil {
		return err
	}
	offer.Index = r.kp.recvIndex
	msg, err := r.x.first(nil, offer.Append(nil))
	if err != nil {
		p.drop(r.kp)
		return err
	}
	r.frame = wire.Frame{Type: wire.FrameRekeyOffer, Number: r.number, Message: msg}
	p.rekey = r
	return nil
}

// rekeyOffered answers a peer's offer. The same offer again draws the same
// answer. Where two offers cross, that of the smaller peer ID stays. newest
// says that it came in the newest packet so far. The caller holds mu.
func (p *Pipe) rekeyOffered(kp *keypair, t *path, f wire.Frame, newest bool, now int64) {
	if p.cur == nil || kp.sess != p.sess || f.Number != p.cur.number+1 || p.cur.dead.Load() {
		return
	}
	hash := sha256.Sum256(f.Message)
	if a := &p.answered; a.kp != nil {
		if a.number == f.Number && a.offer == hash {
			p.queue(kp, t, a.frame)
			return
		}
		if !newest {
			return // an offer given up before, overtaken on its way by the one answered
		}
	}
	if p.rekey != nil && p.e.id.id.Compare(p.peer) < 0 {
		return
	}
	if !p.offers.take(now) {
		return // the peer repeats it
	}
	fresh, msg, err := p.answerRekey(f, now)
	if err != nil {
		p.e.log.Warn("rekey offer refused", "peer", p.peer, "err", err)
		return
	}
	p.rekey.abort(p)
	if p.answered.kp != nil {
		p.removeKeys(p.answered.kp)
	}
	p.keys = append(p.keys, fresh)
	p.answered = answered{
		number: f.Number,
		at:     now,
		offer:  hash,
		frame:  wire.Frame{Type: wire.FrameRekeyAnswer, Number: f.Number, Message: msg},
		kp:     fresh,
	}
	p.queue(kp, t, p.answered.frame)
}

// answerRekey makes the responder's keys and message.
func (p *Pipe) answerRekey(f wire.Frame, now int64) (*keypair, []byte, error) {
	static, err := montgomery(p.peer)
	if err != nil {
		return nil, nil, err
	}
	previous := p.cur.chaining
	pro := rekeyPrologue(p.e.cfg.Overlay, p.peer, p.e.id.id, f.Number)
	x, err := newExchange(p.e.id, nil, false, pro, &previous, p.e.ent)
	if err != nil {
		return nil, nil, err
	}
	defer x.wipe()
	b, err := x.readFirst(f.Message, static)
	if err != nil {
		return nil, nil, err
	}
	offer, err := wire.ParseRekey(b)
	if err != nil {
		return nil, nil, err
	}
	if offer.Kind != wire.Offer || offer.Number != f.Number || (len(offer.KEM) > 0) != (f.Number%kemEvery == 0) {
		return nil, nil, errors.New("pipe: rekey offer does not fit")
	}
	answer := wire.Rekey{Kind: wire.Answer, Number: f.Number}
	secret, ciphertext, err := encapsulate(offer.KEM, p.e.ent)
	if err != nil {
		return nil, nil, err
	}
	answer.KEM = ciphertext
	fresh := &keypair{sess: p.sess, number: f.Number, created: now, sendIndex: offer.Index}
	fresh.pipe.Store(p)
	if err := p.e.table.reserve(fresh); err != nil {
		return nil, nil, err
	}
	answer.Index = fresh.recvIndex
	msg, keys, err := x.second(nil, answer.Append(nil), secret, p.sess.aead)
	if err == nil {
		err = fresh.setKeys(&keys, p.sess.aead, false)
	}
	if err != nil {
		p.drop(fresh)
		return nil, nil, err
	}
	return fresh, msg, nil
}

// rekeyAnswered ends an exchange of ours: the new keys seal from here on.
// The caller holds mu.
func (p *Pipe) rekeyAnswered(kp *keypair, f wire.Frame, now int64) {
	r := p.rekey
	if r == nil || kp.sess != p.sess || f.Number != r.number {
		return
	}
	var answer wire.Rekey
	keys, err := r.x.readSecond(f.Message, func(b []byte) (_ []byte, _ wire.AEADs, err error) {
		if answer, err = wire.ParseRekey(b); err != nil {
			return nil, 0, err
		}
		if answer.Kind != wire.Answer || answer.Number != r.number {
			return nil, 0, errors.New("answers another rekey")
		}
		return answer.KEM, p.sess.aead, nil
	})
	if err != nil {
		p.e.log.Warn("rekey answer refused", "peer", p.peer, "err", err)
		if r.x.hs == nil || r.x.hs.MessageIndex() > 1 {
			r.abort(p)
			p.rekeyAt = now + rekeyPause
		}
		return
	}
	k := r.kp
	k.sess, k.number, k.created, k.sendIndex = p.sess, r.number, r.began, answer.Index
	k.pipe.Store(p)
	if err := k.setKeys(&keys, p.sess.aead, true); err != nil {
		r.abort(p)
		return
	}
	p.rekey = nil
	p.keys = append(p.keys, k)
	p.promote(k)
	p.confirm = retry{at: now}
	p.e.timers.plan(&p.timed, now)
}
