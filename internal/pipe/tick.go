package pipe

import (
	"slices"
	"sync/atomic"
	"time"
)

// The dead-pipe and consent rules (DESIGN §14.8, RFC 7675).
const (
	deadAfter    = int64(500 * time.Millisecond) // data without a sign of life, at least
	deadRTTs     = 3
	probeFor     = int64(500 * time.Millisecond) // probing without one, at least
	probeRTTs    = 2
	suspectFor   = int64(150 * time.Millisecond) // the same after a change of the network
	wantedFor    = int64(10 * time.Second)       // a pipe without data for longer is not missed
	flowStopped  = int64(300 * time.Millisecond) // a flow of the peer's that pauses is asked after
	flowPackets  = 16                            // what makes a flow
	silentEvery  = int64(time.Second)            // pings while the peer is silent
	pingEvery    = int64(3 * time.Second)        // pings for consent that is running out
	measureEvery = int64(time.Second)            // pings of a path whose RTT is unknown
)

// liveness is what a pipe knows of whether its peer answers. What is atomic the
// data path writes as well; the pipe's mu guards the others.
type liveness struct {
	awaiting atomic.Int64 // first data sent since the peer was heard; 0: none
	heard    atomic.Int64 // last authenticated packet
	data     atomic.Int64 // last data in either direction
	alert    atomic.Bool  // probing or silent: tell mu when the peer is heard
	silentAt int64        // when the pipe went silent last; mu guards it

	probeAt   int64  // when dead-pipe probing began; 0: not
	probe     retry  // of its pings
	suspected bool   // there is a reason to expect the worst of it
	tailed    uint64 // packets that had come when a flow was last seen to stop
	again     again  // what was sent since an answer is overdue
}

// tick does what is due and says when there is something to do again. It is
// called by the Endpoint's timer goroutine.
func (p *Pipe) tick(now int64) (next int64) {
	p.mu.Lock()
	defer p.unlock()
	p.paths.rtt.Store(p.rtt())
	for _, due := range [...]func(int64) int64{
		p.expireKeys,
		p.idleDue,
		p.rekeyDue,
		p.repeatConfirms,
		p.challengePaths,
		p.followDue,
		p.flowDue,
		p.probeDue,
		p.keepPaths,
		p.searchMTU,
		p.relayDue,
		p.repairDue,
		p.expirePieces,
	} {
		if p.state == stateClosed {
			return 0
		}
		next = earlier(next, due(now))
	}
	return next
}

// expireKeys ends keys at their age. A pipe without keys is closed.
func (p *Pipe) expireKeys(now int64) (next int64) {
	for _, k := range slices.Clone(p.keys.all) {
		at := k.created + rejectAfter
		if k.number == 0 && !k.initiator && !k.confirmed.Load() {
			at = k.created + halfOpenFor
		}
		if k.retire != 0 {
			if n := k.received(); now >= k.retire && n != k.mark {
				k.retire, k.mark = now+retireAfter, n
			}
			at = min(at, k.retire)
		}
		if now >= at {
			p.removeKeys(k)
		} else {
			next = earlier(next, at)
		}
	}
	if len(p.keys.all) == 0 {
		err := p.err
		if err == nil || p.state == stateOpening {
			err = ErrExpired
		}
		p.setState(stateClosed, err)
		return 0
	}
	if p.keys.cur != nil && p.keys.cur.dead() {
		if k := p.sealing(); k != nil {
			p.promote(k)
		}
	}
	p.update(now)
	return next
}

// idleDue closes a pipe that carried no data for long.
func (p *Pipe) idleDue(now int64) (next int64) {
	at := p.life.data.Load() + p.e.idle
	if now >= at {
		p.end(ErrIdle, closeIdle)
		return 0
	}
	return at
}

// probeDue looks for a peer that owes a sign of life, and gives it up.
func (p *Pipe) probeDue(now int64) (next int64) {
	switch p.state {
	case stateUp:
		if p.life.probeAt == 0 {
			first := p.life.awaiting.Load()
			if first == 0 {
				return 0
			}
			if at := first + max(deadAfter, deadRTTs*p.rtt()); now < at {
				return at
			}
			p.life.probeAt, p.life.probe = now, retry{at: now}
			p.life.alert.Store(true)
			p.outbox.calls = append(p.outbox.calls, call{spare: true})
		}
		wait := max(probeFor, probeRTTs*p.rtt())
		if p.life.suspected {
			wait = max(suspectFor, probeRTTs*p.rtt())
		}
		if now >= p.life.probeAt+wait {
			for _, t := range *p.paths.list.Load() {
				t.doubt = now // whatever is heard, or comes new, goes before them
			}
			p.setState(stateSilent, ErrDead)
			p.life.probe = retry{at: now}
			return now + silentEvery
		}
		if p.life.probe.at <= now {
			p.pingAll(now)
			p.life.probe.at = now + wait/3
		}
		return earlier(p.life.probe.at, p.life.probeAt+wait)
	case stateSilent:
		// Consent is over 30 s after the peer was last heard: nothing at
		// all is sent then.
		if now >= p.life.heard.Load()+consentFor {
			return 0
		}
		if p.life.probe.at <= now {
			if p.life.probeAt == 0 {
				p.life.probeAt = now
			}
			p.pingAll(now)
			p.life.probe.at = now + silentEvery
		}
		return p.life.probe.at
	}
	return 0
}

// probeNow begins to look for the peer without waiting for data that is not
// answered.
func (p *Pipe) probeNow() {
	now := p.e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state != stateUp || p.life.probeAt != 0 {
		return
	}
	p.life.probeAt, p.life.probe, p.life.suspected = now, retry{at: now}, true
	p.life.alert.Store(true)
	p.life.awaiting.CompareAndSwap(0, now)
	p.outbox.calls = append(p.outbox.calls, call{spare: true})
	p.e.timers.plan(&p.timed, now)
}

// flowDue asks after the peer when a flow from it stops. If this side is the
// one whose NAT has forgotten it, only something that it sends can tell the
// peer where it is now, and a receiver has nothing else to send.
func (p *Pipe) flowDue(now int64) (next int64) {
	n := p.traffic.packetsIn.Load()
	if p.state != stateUp || n < p.life.tailed+flowPackets {
		return 0
	}
	if at := p.life.heard.Load() + flowStopped; now < at {
		return at
	}
	p.life.tailed = n + 1 // with the answer
	p.sendPing(p.paths.best.Load(), now, nil)
	p.awaitLife(now)
	return 0
}

func (p *Pipe) pingAll(now int64) {
	for _, t := range *p.paths.list.Load() {
		if t.live(now) {
			p.sendPing(t, now, nil)
		}
	}
}

// keepPaths measures paths, keeps their NAT mappings and consent alive, and
// forgets those that are dead beside the best.
func (p *Pipe) keepPaths(now int64) (next int64) {
	if p.state != stateUp {
		return 0
	}
	best := p.paths.best.Load()
	for _, t := range *p.paths.list.Load() {
		if !t.validated.Load() {
			continue
		}
		if t != best && (!t.live(now) || t.relayed.Load() && best != nil && !best.relayed.Load() && now >= p.paths.moved+relayGrace) {
			p.removePath(t)
			continue
		}
		at := t.pinged + keepaliveAfter
		switch {
		case t.doubted(): // is it back?
			at = t.pinged + pingEvery
		case t.srtt == 0:
			at = t.pinged + measureEvery
		case t != best:
		case p.life.data.Load() > t.pinged:
			// The RTT is kept fresh while there is traffic.
		default:
			at = max(t.pinged+pingEvery, min(t.heard.Load(), t.sent.Load())+keepaliveAfter)
		}
		if t.heard.Load()+keepaliveAfter < at {
			at = max(t.pinged+pingEvery, t.heard.Load()+keepaliveAfter)
		}
		if now >= at {
			p.sendPing(t, now, nil)
			at = now + pingEvery
		}
		next = earlier(next, at)
		next = earlier(next, t.heard.Load()+consentFor)
	}
	return next
}
