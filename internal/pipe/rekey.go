package pipe

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/pipe/handshake"
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
	x      *handshake.Exchange
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
	r.x.Wipe()
	p.drop(r.kp)
	p.keys.rekey = nil
}

// rekeyDue begins an exchange when it is time, and repeats the offer. The
// caller holds mu.
func (p *Pipe) rekeyDue(now int64) (next int64) {
	k := p.keys.cur
	if p.state != stateUp || k == nil || !k.usable() {
		return 0
	}
	if p.keys.rekey == nil {
		at := k.created + rekeyAfter
		if !p.keys.sess.initiator {
			at = k.created + rekeyAfterResponder
		}
		if k.next.Load() >= p.e.limits.rekeyAfterPackets {
			at = now
		}
		if p.keys.answered.kp != nil {
			at = max(at, k.created+forceAfter, p.keys.answered.at+rekeyPause)
		}
		at = max(at, p.keys.rekeyAt)
		if now < at {
			return at
		}
		if err := p.beginRekey(now); err != nil {
			p.e.log.Error("rekey failed", "peer", p.peer, "err", err)
			p.keys.rekeyAt = now + rekeyPause
			return p.keys.rekeyAt
		}
	}
	if now >= k.created+forceAfter {
		if o := p.otherSession(); o != nil {
			p.promote(o)
			for _, old := range p.keys.all {
				if old.sess != p.keys.sess {
					old.retired(now)
				}
			}
			return now
		}
	}
	r := p.keys.rekey
	if r.try.at <= now {
		p.queue(k, p.paths.best.Load(), r.frame)
		r.try.at = now + max(int64(initialRTT), 2*p.rtt())<<min(r.try.tries, 4)
		r.try.tries++
	}
	return r.try.at
}

// otherSession returns the newest keys of a session that crossed the present
// one. A peer that answers no rekey may hold that session for the one that
// stays. The caller holds mu.
func (p *Pipe) otherSession() *keypair {
	for _, k := range slices.Backward(p.keys.all) {
		if k.sess != p.keys.sess && k.retire == 0 && k.confirmed.Load() && k.usable() {
			return k
		}
	}
	return nil
}

func (p *Pipe) beginRekey(now int64) error {
	if p.keys.answered.kp != nil {
		p.removeKeys(p.keys.answered.kp)
	}
	if p.keys.cur.number == maxRekeys {
		return errors.New("pipe: rekey numbers used up")
	}
	r := &rekeying{number: p.keys.cur.number + 1, began: now, try: retry{at: now}, kp: &keypair{}}
	var err error
	if r.x, err = p.e.id.Initiate(p.e.cfg.Overlay, p.peer, p.nextRekey(), p.e.ent); err != nil {
		return err
	}
	offer := wire.Rekey{Kind: wire.Offer, Number: r.number}
	defer func() {
		if p.keys.rekey != r {
			r.x.Wipe()
		}
	}()
	if r.number%kemEvery == 0 {
		if offer.KEM, err = r.x.KEMKey(); err != nil {
			return err
		}
	}
	if err := p.e.table.reserve(r.kp); err != nil {
		return err
	}
	offer.Index = r.kp.recvIndex
	msg, err := r.x.WriteFirst(nil, offer.Append(nil))
	if err != nil {
		p.drop(r.kp)
		return err
	}
	r.frame = wire.Frame{Type: wire.FrameRekeyOffer, Number: r.number, Message: msg}
	p.keys.rekey = r
	return nil
}

// nextRekey is the one that follows the present keys. The caller holds mu.
func (p *Pipe) nextRekey() *handshake.Rekey {
	return &handshake.Rekey{Number: p.keys.cur.number + 1, Chaining: p.keys.cur.chaining}
}

// rekeyOffered answers a peer's offer. The same offer again draws the same
// answer. Where two offers cross, that of the smaller peer ID stays. newest
// says that it came in the newest packet so far. The caller holds mu.
func (p *Pipe) rekeyOffered(kp *keypair, t *path, f wire.Frame, newest bool, now int64) {
	if p.keys.cur == nil || kp.sess != p.keys.sess || f.Number != p.keys.cur.number+1 || p.keys.cur.dead() {
		return
	}
	hash := sha256.Sum256(f.Message)
	if a := &p.keys.answered; a.kp != nil {
		if a.number == f.Number && a.offer == hash {
			p.queue(kp, t, a.frame)
			return
		}
		if !newest {
			return // an offer given up before, overtaken on its way by the one answered
		}
	}
	if p.keys.rekey != nil && p.e.id.ID.Compare(p.peer) < 0 {
		return
	}
	if !p.keys.work.take(now) {
		p.drops.count(DropHandshake)
		return // the peer repeats it
	}
	fresh, msg, err := p.answerRekey(f, now)
	if err != nil {
		p.e.log.Warn("rekey offer refused", "peer", p.peer, "err", err)
		return
	}
	p.keys.rekey.abort(p)
	if p.keys.answered.kp != nil {
		p.removeKeys(p.keys.answered.kp)
	}
	p.keys.all = append(p.keys.all, fresh)
	p.keys.answered = answered{
		number: f.Number,
		at:     now,
		offer:  hash,
		frame:  wire.Frame{Type: wire.FrameRekeyAnswer, Number: f.Number, Message: msg},
		kp:     fresh,
	}
	p.queue(kp, t, p.keys.answered.frame)
}

// answerRekey makes the responder's keys and message. f is of the number that
// nextRekey has.
func (p *Pipe) answerRekey(f wire.Frame, now int64) (*keypair, []byte, error) {
	x, err := p.e.id.Respond(p.e.cfg.Overlay, p.peer, p.nextRekey(), p.e.ent)
	if err != nil {
		return nil, nil, err
	}
	defer x.Wipe()
	b, err := x.ReadFirst(f.Message)
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
	if answer.KEM, err = x.Encapsulate(offer.KEM); err != nil {
		return nil, nil, err
	}
	fresh := &keypair{sess: p.keys.sess, number: f.Number, created: now, sendIndex: offer.Index}
	fresh.pipe.Store(p)
	if err := p.e.table.reserve(fresh); err != nil {
		return nil, nil, err
	}
	answer.Index = fresh.recvIndex
	msg, keys, err := x.WriteSecond(nil, answer.Append(nil), p.keys.sess.aead)
	if err == nil {
		err = fresh.setKeys(&keys, p.keys.sess.aead, false)
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
	r := p.keys.rekey
	if r == nil || kp.sess != p.keys.sess || f.Number != r.number {
		return
	}
	// One that does not open leaves the exchange as it is, so that there may be
	// any number of them.
	if !p.keys.work.take(now) {
		p.drops.count(DropHandshake)
		return
	}
	var answer wire.Rekey
	keys, err := r.x.ReadSecond(f.Message, func(b []byte) (_ []byte, _ wire.AEADs, err error) {
		if answer, err = wire.ParseRekey(b); err != nil {
			return nil, 0, err
		}
		if answer.Kind != wire.Answer || answer.Number != r.number {
			return nil, 0, errors.New("answers another rekey")
		}
		return answer.KEM, p.keys.sess.aead, nil
	})
	if err != nil {
		p.e.log.Warn("rekey answer refused", "peer", p.peer, "err", err)
		if !r.x.Waiting() {
			r.abort(p)
			p.keys.rekeyAt = now + rekeyPause
		}
		return
	}
	k := r.kp
	k.sess, k.number, k.created, k.sendIndex = p.keys.sess, r.number, r.began, answer.Index
	k.pipe.Store(p)
	if err := k.setKeys(&keys, p.keys.sess.aead, true); err != nil {
		r.abort(p)
		return
	}
	p.keys.rekey = nil
	p.keys.all = append(p.keys.all, k)
	p.promote(k)
	p.keys.confirm = retry{at: now}
	p.e.timers.plan(&p.timed, now)
}
