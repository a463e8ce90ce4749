package pipe

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// queued is the types of the frames that p has queued since it was asked last.
func (p *Pipe) queued() (types []wire.FrameType) {
	for _, o := range p.outbox.datagrams {
		types = append(types, wire.FrameType(o.plain[0]))
	}
	p.outbox.datagrams = nil
	return types
}

func only(types []wire.FrameType, want wire.FrameType, n int) bool {
	for _, typ := range types {
		if typ != want {
			return false
		}
	}
	return len(types) == n
}

// An address is challenged five times, with doubling pauses, and forgotten then; the
// answer to a challenge is good for the path that was challenged, and no other's is.
func TestChallenges(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		other := add(nil)
		c := add(func(t *path) { t.validated.Store(false); t.heard.Store(0) })
		p.startChallenge(c, now)
		if p.challengePaths(now); len(p.queued()) != 0 || c.sentAt != 0 {
			t.Error("challenged without keys")
		}
		p.answeredChallenge(c, c.challenge, now)
		if c.validated.Load() {
			t.Error("what was not sent was answered")
		}
		p.sealingTest()
		p.startChallenge(c, now)
		at := now
		for i, pause := range []time.Duration{200, 400, 800, 1600, 3200} {
			if next := p.challengePaths(at - 1); i > 0 && (next != at || len(p.queued()) != 0) {
				t.Errorf("challenge %d is too early", i)
			}
			if next := p.challengePaths(at); next != at+int64(pause*time.Millisecond) || !only(p.queued(), wire.FramePathChallenge, 1) || c.sentAt != at {
				t.Errorf("challenge %d: the next after %v", i, time.Duration(next-at))
			}
			at += int64(pause * time.Millisecond)
		}
		if next := p.challengePaths(at); next != 0 || p.find(c.Local, c.Remote) != nil || len(p.queued()) != 0 {
			t.Error("it is not given up")
		}
		c = add(func(t *path) { t.validated.Store(false); t.heard.Store(0) })
		p.startChallenge(c, now)
		p.challengePaths(now)
		if p.answeredChallenge(c, c.challenge+1, now+7); c.validated.Load() {
			t.Error("a wrong answer is as good")
		}
		if p.answeredChallenge(other, c.challenge, now+7); !c.validated.Load() || c.srtt != 0 || other.srtt != 0 {
			t.Error("an answer that came elsewhere is none, or measures something")
		}
		if p.answeredChallenge(c, c.challenge, now+9); c.srtt != 0 {
			t.Error("answered twice")
		}
		c = add(func(t *path) { t.validated.Store(false); t.heard.Store(0) })
		p.startChallenge(c, now)
		p.challengePaths(now)
		if p.answeredChallenge(c, c.challenge, now+int64(5*time.Millisecond)); !c.validated.Load() || c.srtt != 5*time.Millisecond {
			t.Errorf("validated %v, round trip %v", c.validated.Load(), c.srtt)
		}
		c = add(func(t *path) { t.validated.Store(false); t.heard.Store(0) })
		p.startChallenge(c, now)
		at = p.challengePaths(now)
		p.challengePaths(at)
		if p.answeredChallenge(c, c.challenge, at+1); !c.validated.Load() || c.srtt != 0 {
			t.Error("of two challenges it is clear which one was answered")
		}
	})
	// A stranger, once, has the present path asked whether it lives.
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		p.sealingTest()
		p.paths.best.Store(add(nil))
		c := add(func(t *path) { t.validated.Store(false); t.stranger = true })
		p.startChallenge(c, now)
		next := p.challengePaths(now)
		if got := p.queued(); len(got) != 2 || got[0] != wire.FramePathChallenge || got[1] != wire.FramePing {
			t.Errorf("%v", got)
		}
		if p.challengePaths(next); !only(p.queued(), wire.FramePathChallenge, 1) {
			t.Error("asked again")
		}
	})
}

// When a path is pinged: one that is not measured each second, one that has failed
// each three, the best one when it was silent for 15 seconds, and again each three.
func TestKeepPaths(t *testing.T) {
	const s = int64(time.Second)
	for what, c := range map[string]struct {
		best  bool
		f     func(t *path, p *Pipe, now int64)
		after int64 // from the last ping on
		gone  bool
	}{
		"not measured":          {true, func(t *path, _ *Pipe, _ int64) { t.srtt = 0 }, s, false},
		"failed":                {true, func(t *path, _ *Pipe, now int64) { t.doubt = now }, 3 * s, false},
		"in use":                {true, func(_ *path, p *Pipe, now int64) { p.life.data.Store(now + 1) }, 15 * s, false},
		"nothing is sent":       {true, func(*path, *Pipe, int64) {}, 15 * s, false},
		"silent for long":       {true, func(t *path, _ *Pipe, now int64) { t.heard.Store(now - 20*s) }, 3 * s, false},
		"nothing sent for long": {true, func(t *path, _ *Pipe, now int64) { t.sent.Store(now - 20*s) }, 3 * s, false},
		"beside":                {false, func(*path, *Pipe, int64) {}, 15 * s, false},
		"in use, silent for long": {true, func(t *path, p *Pipe, now int64) {
			p.life.data.Store(now + 1)
			t.heard.Store(now - 20*s)
		}, 3 * s, false},
		"in use, soon silent for long": {true, func(t *path, p *Pipe, now int64) {
			p.life.data.Store(now + 1)
			t.heard.Store(now - 5*s)
		}, 10 * s, false},
		"beside, silent for long": {false, func(t *path, _ *Pipe, now int64) { t.heard.Store(now - 20*s) }, 3 * s, false},
		"beside, without consent": {false, func(t *path, _ *Pipe, now int64) { t.heard.Store(now - 30*s) }, 0, true},
		"relayed, beside a direct one for long": {false, func(t *path, p *Pipe, now int64) {
			t.relayed.Store(true)
			p.paths.moved = now - 10*s
		}, 0, true},
		"not for long": {false, func(t *path, p *Pipe, now int64) {
			t.relayed.Store(true)
			p.paths.moved = now - 10*s + 1
		}, 0, false},
		"not answered yet": {false, func(t *path, _ *Pipe, _ int64) { t.validated.Store(false) }, 0, false},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			p.sealingTest()
			now := p.e.now()
			p.life.data.Store(0)
			fresh := func(t *path) {
				t.srtt, t.pinged = time.Millisecond, now
				t.heard.Store(now)
				t.sent.Store(now)
			}
			best := add(fresh)
			x := best
			if !c.best {
				x = add(fresh)
			}
			p.paths.best.Store(best)
			c.f(x, p, now)
			if p.keepPaths(now); len(p.queued()) != 0 {
				t.Errorf("%s: kept alive while the pipe is not up", what)
			}
			p.state = stateUp
			next := p.keepPaths(now)
			if gone := p.find(x.Local, x.Remote) == nil; gone != c.gone {
				t.Errorf("%s: gone %v", what, gone)
			}
			if c.after == 0 {
				return
			}
			if next > now+c.after || len(p.queued()) != 0 {
				t.Errorf("%s: the next after %v", what, time.Duration(next-now))
			}
			if p.keepPaths(now + c.after - 1); x.pinged != now {
				t.Errorf("%s: pinged too early", what)
			}
			if p.keepPaths(now + c.after); x.pinged != p.e.now() && x.pinged != now+c.after {
				t.Errorf("%s: pinged at %v", what, time.Duration(x.pinged-now))
			}
		})
	}
}

// A flow of the peer's that stops is asked after, once, and less than a flow is not.
func TestFlowDue(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		p.sealingTest()
		now := p.e.now()
		p.paths.best.Store(add(nil))
		p.life.heard.Store(now)
		p.traffic.packetsIn.Store(flowPackets)
		if next := p.flowDue(now + flowStopped); next != 0 || len(p.queued()) != 0 {
			t.Error("asked while the pipe is not up")
		}
		p.state = stateUp
		p.traffic.packetsIn.Store(flowPackets - 1)
		if next := p.flowDue(now + flowStopped); next != 0 || len(p.queued()) != 0 {
			t.Error("asked after what is no flow")
		}
		p.traffic.packetsIn.Store(flowPackets)
		if next := p.flowDue(now + flowStopped - 1); next != now+flowStopped || len(p.queued()) != 0 {
			t.Errorf("asked after %v", time.Duration(next-now))
		}
		if next := p.flowDue(now + flowStopped); next != 0 || !only(p.queued(), wire.FramePing, 1) || p.life.awaiting.Load() == 0 {
			t.Error("not asked")
		}
		p.traffic.packetsIn.Store(2 * flowPackets) // the answer, and one less than a flow
		if p.flowDue(now + 2*flowStopped); len(p.queued()) != 0 {
			t.Error("asked after the answer to what was asked")
		}
		p.traffic.packetsIn.Store(2*flowPackets + 1)
		if p.flowDue(now + 2*flowStopped); len(p.queued()) != 1 {
			t.Error("the next flow is not asked after")
		}
	})
}

// A silent peer is pinged each second on the paths that have consent, and not at all
// when that is over.
func TestSilent(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		p.sealingTest()
		now := p.e.now()
		p.state = stateSilent
		p.life.heard.Store(now)
		add(nil)
		add(func(t *path) { t.heard.Store(now - consentFor) })
		if next := p.probeDue(now); next != now+silentEvery || p.life.probeAt != now || !only(p.queued(), wire.FramePing, 1) {
			t.Errorf("the next after %v", time.Duration(next-now))
		}
		if next := p.probeDue(now + silentEvery - 1); next != now+silentEvery || len(p.queued()) != 0 {
			t.Error("pinged too early")
		}
		if p.probeDue(now + silentEvery); len(p.queued()) != 1 || p.life.probeAt != now {
			t.Error("not pinged again")
		}
		if next := p.probeDue(now + consentFor); next != 0 || len(p.queued()) != 0 {
			t.Error("pinged after consent is over")
		}
	})
}

// A pipe that is suspected is asked at once, whatever was sent, and once.
func TestProbeNow(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		now := p.e.now()
		p.mu.Unlock()
		p.probeNow()
		p.mu.Lock()
		if p.life.probeAt != 0 {
			t.Error("of a pipe that is not up")
		}
		p.state = stateUp
		p.mu.Unlock()
		p.probeNow()
		p.mu.Lock()
		if p.life.probeAt != now || !p.life.suspected || !p.life.alert.Load() || p.life.awaiting.Load() != now || p.life.probe != (retry{at: now}) {
			t.Errorf("%+v", &p.life)
		}
		p.life.probe.tries, p.life.suspected = 3, false
		p.mu.Unlock()
		p.probeNow()
		p.mu.Lock()
		if p.life.probe.tries != 3 || p.life.suspected {
			t.Error("begun anew")
		}
	})
}

// Keys end at their age, those of a handshake that nobody confirmed earlier, and those
// that were taken over when nothing comes under them any more.
func TestExpireKeys(t *testing.T) {
	for what, c := range map[string]struct {
		f     func(k *keypair)
		after int64
	}{
		"of an initiator":    {func(k *keypair) { k.initiator = true }, rejectAfter},
		"confirmed":          {func(k *keypair) { k.confirmed.Store(true) }, rejectAfter},
		"of a rekey":         {func(k *keypair) { k.number = 1 }, rejectAfter},
		"nobody's yet":       {func(*keypair) {}, halfOpenFor},
		"taken over":         {func(k *keypair) { k.confirmed.Store(true); k.retired(k.created) }, retireAfter},
		"taken over at last": {func(k *keypair) { k.confirmed.Store(true); k.retired(k.created + rejectAfter) }, rejectAfter},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			now := p.e.now()
			stays := &keypair{initiator: true, created: now + rejectAfter, sess: &Session{}}
			stays.keys.Store(&aeads{})
			k := &keypair{created: now, sess: &Session{}}
			k.keys.Store(&aeads{})
			c.f(k)
			p.keys.all = []*keypair{k, stays}
			p.keys.cur, p.keys.sess = stays, stays.sess
			if next := p.expireKeys(now + c.after - 1); next != now+c.after || k.dead() || len(p.keys.all) != 2 {
				t.Errorf("%s: ends after %v", what, time.Duration(next-now))
			}
			if p.expireKeys(now + c.after); !k.dead() || len(p.keys.all) != 1 {
				t.Errorf("%s: it goes on", what)
			}
		})
	}
	// What comes under keys that were taken over keeps them, each time.
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		now := p.e.now()
		k := &keypair{initiator: true, created: now, sess: &Session{}}
		k.keys.Store(&aeads{})
		p.keys.all = []*keypair{k}
		k.retired(now)
		k.highest.Store(5)
		if next := p.expireKeys(now + retireAfter); k.dead() || next != now+2*retireAfter {
			t.Errorf("ends after %v although it is used", time.Duration(next-now))
		}
		if p.expireKeys(now + 2*retireAfter); !k.dead() {
			t.Error("it goes on without a use")
		}
		if p.state != stateClosed || !errors.Is(p.err, ErrExpired) {
			t.Errorf("a pipe without keys: %v", p.err)
		}
	})
}

// Of two sessions the later one seals, and of two that crossed the one that the peer
// with the smaller ID began, on both sides.
func TestNewer(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		key := func(created, confirmed int64, initiator bool) *keypair {
			k := &keypair{sess: &Session{created: created, confirmed: confirmed, initiator: initiator}}
			k.keys.Store(&aeads{})
			return k
		}
		smaller := p.e.id.ID.Compare(p.peer) < 0
		for what, c := range map[string]struct {
			cur, k *keypair
			want   bool
		}{
			"a later one":                      {key(5, 6, true), key(7, 0, true), true},
			"an earlier one":                   {key(7, 8, true), key(5, 0, true), false},
			"of the same time":                 {key(5, 6, true), key(5, 0, true), false},
			"the peer's, later":                {key(5, 6, true), key(6, 0, false), true},
			"the peer's, crossed":              {key(5, 7, true), key(6, 0, false), !smaller},
			"ours, crossed":                    {key(5, 7, false), key(6, 0, true), smaller},
			"ours, crossed, earlier":           {key(6, 0, false), key(5, 0, true), smaller},
			"the peer's, begun in that moment": {key(5, 6, true), key(6, 7, false), true},
		} {
			p.keys.cur = c.cur
			if got := p.newer(c.k); got != c.want {
				t.Errorf("%s: newer %v", what, got)
			}
		}
		a, b := key(1, 0, true), key(1, 0, true)
		b.sess = a.sess
		a.number, b.number = 4, 5
		if p.keys.cur = a; !p.newer(b) || p.newer(a) {
			t.Error("of two rekeys of a session")
		}
		if p.keys.cur = b; p.newer(a) {
			t.Error("an older rekey")
		}
		if b.wipe(); !p.newer(a) {
			t.Error("than keys that are dead")
		}
	})
}

// Why a pipe is closed that the peer has closed.
func TestReasons(t *testing.T) {
	for reason, want := range map[uint8]error{
		closeOther: ErrPeerClosed, closeIdle: ErrIdle, closeEnded: ErrPeerEnded, closeExpelled: ErrPeerEnded, closeDelivered: ErrPeerDelivered, 99: ErrPeerEnded,
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			_, b, pa, pb := inUse(t, n)
			settle(time.Second)
			pa.mu.Lock()
			pa.end(errors.New("enough"), reason)
			pa.unlock()
			settle(100 * time.Millisecond)
			if !errors.Is(pb.Err(), want) {
				t.Errorf("reason %d: %v", reason, pb.Err())
			}
			gone := 0
			if reason >= closeEnded {
				gone = 1
			}
			if n := b.r.wentAway(); n != gone {
				t.Errorf("reason %d: told %d times that the peer is gone", reason, n)
			}
		})
	}
}

// What a session held that nobody used is let go of: its keys and its place.
func TestCancelSession(t *testing.T) {
	n := newNetwork(0)
	a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	sa, sb := sessions(t, a, b)
	ka, kb := sa.kp, sb.kp
	if a.table.live != 1 || b.table.live != 1 {
		t.Fatalf("%d and %d places", a.table.live, b.table.live)
	}
	for range 2 {
		sa.Cancel()
		sb.Cancel()
	}
	if a.table.live != 0 || b.table.live != 0 || !ka.dead() || !kb.dead() {
		t.Errorf("%d and %d places", a.table.live, b.table.live)
	}
	if _, err := a.Up(sa, a.path(b)); !errors.Is(err, ErrSession) {
		t.Errorf("Up of what was cancelled: %v", err)
	}
	sa, sb = sessions(t, a, b)
	up(t, a, b, sa, sb)
	sa.Cancel()
	sb.Cancel()
	if len(a.Pipes()) != 1 || a.table.live != 1 || b.table.live != 1 {
		t.Error("what is in use was cancelled")
	}
}

// Data follows the peer to a path that it was heard on first, if the present one has
// been silent since; and to a stranger's not before the present one had its time.
func TestFollowDue(t *testing.T) {
	for what, c := range map[string]struct {
		f     func(best, x *path, p *Pipe)
		moves bool
		waits bool
	}{
		"silent since":            {func(*path, *path, *Pipe) {}, true, false},
		"heard since":             {func(best, x *path, _ *Pipe) { best.heard.Store(x.created + 1) }, false, false},
		"not validated":           {func(_, x *path, _ *Pipe) { x.validated.Store(false) }, false, true},
		"a stranger, so soon":     {func(_, x *path, _ *Pipe) { x.stranger = true }, false, true},
		"a stranger, a while ago": {func(best, x *path, p *Pipe) { x.stranger = true; x.created -= p.askFor(); best.heard.Store(x.created) }, true, false},
		"no path before":          {func(_, _ *path, p *Pipe) { p.paths.best.Store(nil) }, false, false},
		"it is the present one":   {func(_, x *path, p *Pipe) { p.paths.best.Store(x) }, false, false},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			now := p.e.now()
			best := add(nil)
			p.paths.best.Store(best)
			x := add(func(t *path) { t.follow = true })
			c.f(best, x, p)
			was := p.paths.best.Load()
			p.followDue(now)
			if moved := p.paths.best.Load() != was; moved != c.moves || moved != (best.doubt == now) {
				t.Errorf("%s: moved %v, doubted %v", what, moved, best.doubt == now)
			}
			if x.follow != c.waits {
				t.Errorf("%s: decided %v", what, !x.follow)
			}
		})
	}
}

// What a peer says of itself in answer to a question, or unasked; and the round trip
// that its answer shows, if it came where the question went.
func TestRepairTold(t *testing.T) {
	for what, c := range map[string]struct {
		message []byte
		other   bool // it came by another path
		off     bool // repairing is off here
		can     byte
		asked   bool // it is asked no more
		rtt     time.Duration
		answers int
		told    bool
	}{
		"an answer":             {[]byte{1, 1, canDatagrams}, false, false, canDatagrams, true, 5 * time.Millisecond, 0, true},
		"by another path":       {[]byte{1, 1, canMarks}, true, false, canMarks, true, 0, 0, true},
		"to what was not asked": {[]byte{1, 2, canDatagrams}, false, false, canDatagrams, true, 0, 0, true},
		"to what cannot be":     {[]byte{1, repairTries, canDatagrams}, false, false, canDatagrams, false, 0, 0, true},
		"of an older peer":      {[]byte{1, 1}, false, false, 0, true, 5 * time.Millisecond, 0, true},
		"a question":            {[]byte{0, 3, canDatagrams}, false, false, canDatagrams, false, 0, 1, true},
		"nothing":               {[]byte{1}, false, false, 0, false, 0, 0, false},
		"who does not repair":   {[]byte{0, 3, canDatagrams}, false, true, 0, false, 0, 0, false},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			k := p.sealingTest()
			best, other := add(nil), add(nil)
			p.paths.best.Store(best)
			p.e.cfg.NoRepair = c.off
			now := p.e.now()
			p.repair.session = k.sess
			p.repair.question = &question{retry: retry{tries: 2}}
			p.repair.question.asked[0], p.repair.question.asked[1] = now-int64(time.Second), now-int64(5*time.Millisecond)
			from := best
			if c.other {
				from = other
			}
			p.repairTold(k, from, wire.Frame{Type: wire.FrameRepair, Message: c.message}, now)
			if k.sess.can != c.can || k.sess.told != c.told || k.sess.repairs.Load() != c.told {
				t.Errorf("%s: can %d, told %v, repairs %v", what, k.sess.can, k.sess.told, k.sess.repairs.Load())
			}
			if p.repair.answered != c.asked || (p.repair.question == nil) != c.asked {
				t.Errorf("%s: answered %v", what, p.repair.answered)
			}
			if best.srtt != c.rtt || other.srtt != 0 || c.rtt != 0 && time.Duration(p.paths.rtt.Load()) != c.rtt {
				t.Errorf("%s: round trips %v and %v", what, best.srtt, other.srtt)
			}
			if n := len(p.outbox.datagrams); n != c.answers || n > 0 && p.outbox.datagrams[0].plain[len(p.outbox.datagrams[0].plain)-2] != 3 {
				t.Errorf("%s: %d answers", what, n)
			}
		})
	}
}
