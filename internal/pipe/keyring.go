package pipe

import (
	"slices"
	"sync/atomic"

	"github.com/idloc/idloc/internal/event"
)

// keyring is the keys of a pipe: those of its session and of its rekeys, and of
// sessions that come or go. send is atomic; the pipe's mu guards the others.
type keyring struct {
	send atomic.Pointer[keypair] // seals data; nil unless up

	all    []*keypair // all that can open, in order of arrival
	cur    *keypair   // seals, if usable
	sess   *Session   // of cur
	rekeys uint64     // how many there were

	rekey    *rekeying // an exchange of ours under way
	rekeyAt  int64     // no rekey before: the last one failed
	answered answered  // the last exchange of the peer
	work     bucket    // rekey offers and answers that are worked on
	confirm  retry     // of a CONFIRM not answered yet
}

// admit gives a session's keys to p; false: p is closed. It may be called
// with the Endpoint's mu held.
func (p *Pipe) admit(kp *keypair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stateClosed {
		return false
	}
	p.keys.all = append(p.keys.all, kp)
	kp.pipe.Store(p)
	return true
}

// adopt puts a session's keys to use when Up was called, unless they have been
// dropped since. The caller holds mu.
func (p *Pipe) adopt(s *Session, now int64) {
	i := slices.IndexFunc(p.keys.all, func(k *keypair) bool { return k.sess == s && k.number == 0 })
	if i < 0 {
		p.update(now)
		return
	}
	kp := p.keys.all[i]
	if kp.usable() && (p.keys.cur == nil || p.state != stateUp) && (p.keys.cur == nil || p.newer(kp)) {
		p.promote(kp)
		p.life.alert.Store(false)
	}
	if kp.initiator && !kp.confirmed.Load() {
		p.keys.confirm = retry{at: now}
	}
	p.update(now)
	p.e.timers.plan(&p.timed, now)
}

// setConfirmed notes that the peer was heard under kp. The caller holds mu.
func (p *Pipe) setConfirmed(kp *keypair, now int64) {
	kp.confirmed.Store(true)
	if kp.number == 0 {
		kp.sess.confirmed = now
		p.outbox.settled = append(p.outbox.settled, kp.sess)
	}
	if p.keys.answered.kp == kp {
		p.keys.answered = answered{}
	}
	if p.keys.cur == nil || kp != p.keys.cur && p.newer(kp) {
		p.promote(kp)
	}
	if kp == p.keys.cur && kp.number == 0 {
		p.takeover(now)
	}
}

// newer says whether kp is to seal instead of cur: it comes from a later
// rekey of the same session or from a later session. Where two sessions
// crossed, that of the smaller peer ID stays, on both sides.
func (p *Pipe) newer(kp *keypair) bool {
	old := p.keys.cur.sess
	switch {
	case p.keys.cur.dead():
		return true
	case kp.sess == old:
		return kp.number > p.keys.cur.number
	case kp.sess.initiator != old.initiator && p.crossed(kp.sess, old):
		return kp.sess.initiator == (p.e.id.ID.Compare(p.peer) < 0)
	}
	return kp.sess.created > old.created
}

// crossed says whether two sessions were under way at once: each was begun
// before the other was confirmed.
func (p *Pipe) crossed(a, b *Session) bool {
	return (a.confirmed == 0 || b.created < a.confirmed) && (b.confirmed == 0 || a.created < b.confirmed)
}

// promote makes kp the one that seals. The caller holds mu.
func (p *Pipe) promote(kp *keypair) {
	old := p.keys.cur
	p.keys.cur, p.keys.sess = kp, kp.sess
	if old != nil && old.sess != kp.sess {
		p.keys.rekey.abort(p)
	} else if old != nil {
		p.keys.rekeys++
		p.outbox.calls = append(p.outbox.calls, call{event: p.event(event.PipeRekeyed, nil)})
		p.removeBefore(kp)
	}
	if p.state == stateUp {
		p.keys.send.Store(kp)
	}
}

// takeover ends the keys of older sessions than the confirmed one that seals:
// at once if the peer's process is a new one and has lost them, else when
// nothing has come in under them for a while: the peer may still seal with
// them, and may go on with that if it holds the two sessions crossed. The
// caller holds mu.
func (p *Pipe) takeover(now int64) {
	retired := 0
	for _, k := range slices.Backward(slices.Clone(p.keys.all)) {
		switch {
		case k.sess == p.keys.sess || p.crossed(k.sess, p.keys.sess):
		case k.sess.remote.Start != p.keys.sess.remote.Start || retired >= maxRetired:
			p.removeKeys(k)
		default:
			retired++
			k.retired(now)
		}
	}
	p.e.timers.plan(&p.timed, now+retireAfter)
}

// removeBefore ends the keys that the last but one rekey took over from: both
// sides have sealed with the later ones since before kp's rekey began. The
// caller holds mu.
func (p *Pipe) removeBefore(kp *keypair) {
	for _, k := range slices.Clone(p.keys.all) {
		if k.sess == kp.sess && uint64(k.number)+1 < uint64(kp.number) {
			p.removeKeys(k)
		}
	}
}

// removeKeys forgets k. The caller holds mu.
func (p *Pipe) removeKeys(k *keypair) {
	p.keys.all = slices.DeleteFunc(p.keys.all, func(o *keypair) bool { return o == k })
	if p.keys.answered.kp == k {
		p.keys.answered = answered{}
	}
	p.drop(k)
}

// drop ends k and frees its index.
func (p *Pipe) drop(k *keypair) {
	k.wipe()
	p.e.table.remove(k)
}
