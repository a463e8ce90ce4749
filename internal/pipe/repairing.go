package pipe

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/pipe/congestion"
	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wire"
)

// A pipe over a path of some length makes good what that loses, so that TCP above
// sees a path without loss, and sends at the rate that the path has (packages repair
// and congestion have the rules). Here is what joins them to keys, paths and sockets:
//
//	idle ──a TCP segment──> asking ──the peer is able, RTT ≥ 2 ms──> on
//	 ^                        │ 8 questions in vain                   │ RTT < 1.5 ms
//	 │ another session        v                                       v
//	 └────────────────────── off <──all was sent──────────────── leaving
//
// Sending is done by one goroutine at a time: whoever queues something, brings an
// acknowledgement, or is the pacer. Others that come meanwhile leave word. What is
// sealed and sent is so without the lock held.

const (
	repairFrom  = 2 * time.Millisecond    // RTT: on shorter paths nothing is gained
	repairUntil = 1500 * time.Microsecond // and given up again below
	repairTries = 8                       // questions whether the peer is able
	repairSoons = 3                       // of these, that follow each other soon: a segment must not be first
	repairAgain = int64(20 * time.Millisecond)

	defaultRepairBudget = 64 << 20

	// repairShare is how many times what the path holds TCP may have written and not
	// acknowledged: gVisor wakes a writer when half of its buffer is free, what is
	// repaired is acknowledged one to two round trips later, and what waits behind
	// it as well.
	repairShare = 6
	repairLeast = 2 << 20 // of that, in bytes, before the path's rate is known

	// repairStall is when sending is tried again that keys or a path were missing for;
	// it doubles so many times. A pipe that comes up tries at once.
	repairStall  = int64(10 * time.Millisecond)
	repairStalls = 7

	// repairLeaves is how long what waits may hold up the end of repairing: one who
	// writes without a pause has always more waiting. Beyond, what is new overtakes it
	// once, which TCP takes for a loss at most.
	repairLeaves = int64(time.Second)

	// A receiver waits for what is missing for so many round trips and a while: three
	// copies, the last of them after a probe.
	repairWaits      = 5
	repairWaitsLeast = 150 * time.Millisecond
	repairWaitsMost  = 3 * time.Second

	// What a peer can beside repairing TCP, in REPAIR frames.
	canDatagrams = 1 // it acknowledges UDP
	canMarks     = 2 // it says how many datagrams routers have marked, and understands that

	// Of a traffic class (RFC 3168 §5): not to be dropped but marked, and marked.
	ecnECT = 2
	ecnCE  = 3

	around = wire.HeaderLen + wire.TagLen
)

type repairMode uint32

const (
	repairIdle repairMode = iota
	repairAsking
	repairOn
	repairLeaving
	repairOff
)

var repairModes = [...]string{"idle", "asking", "on", "leaving", "off"}

// repairing is a pipe's part in it. The atomics are the data path's; the pipe's mu
// guards the rest.
type repairing struct {
	mode      atomic.Uint32
	datagrams atomic.Bool             // the peer acknowledges UDP too
	marks     atomic.Bool             // and says what of DATA routers have marked, and so do we
	unmarked  atomic.Bool             // the path may not take what could be marked
	sender    atomic.Pointer[sending] // nil until needed
	acking    atomic.Pointer[acking]  // nil until needed

	leaves   int64     // when repairing is left at the latest; 0: it is not being left
	question *question // nil: the peer is not being asked, or has answered
	answered bool
	session  *Session // that the mode is about
	refused  bool     // the peer has lied
}

// acking is the keys under which something came that the pacer is to acknowledge.
type acking struct {
	timed // of the pacer
	keys  [2]atomic.Pointer[keypair]
}

// question is whether the peer is able.
type question struct {
	retry
	asked [repairTries]int64 // when each left
}

// sending is what a pipe keeps and sends.
type sending struct {
	timed // of the pacer
	share atomic.Int64

	mu      sync.Mutex // guards what follows; taken after no other but a Handler's
	s       *repair.Sender
	path    *path // that it knows
	sending bool  // somebody is at it
	more    bool  // and is to look again
	closed  bool
	stalled bool     // there were no keys or no path
	stalls  int      // how often in a row
	old     *keypair // the one before key
	key     *keypair // that sealed last

	*leaving // of the one that is sending, nil in between
}

// leaving is packets on their way from what is kept to the socket.
type leaving struct {
	taken    [maxSegments]*repair.Packet
	counters [maxSegments]uint32
}

var (
	leavingPool = sync.Pool{New: func() any { return new(leaving) }}
	ackPool     = sync.Pool{New: func() any { return new(repair.Ack) }}
)

// pacerLingers is how long the pacer's goroutine, whose stack is as much as some pipes,
// waits for another plan.
const pacerLingers = 20 * time.Millisecond

// pacer is timers whose goroutine begins with the first plan, and ends when there is none
// for a while.
type pacer struct {
	timers
	once sync.Once
}

func (t *pacer) pace(e *Endpoint, x *timed, at int64) {
	t.once.Do(func() {
		t.lingers = pacerLingers
		t.start(e.now)
	})
	t.plan(x, at)
}

// close ends the goroutine, if there is one, and waits for it.
func (t *pacer) close() {
	t.once.Do(func() {
		t.stopped, t.done = true, make(chan struct{})
		close(t.done)
	})
	t.timers.close()
}

// Repairs says whether TCP segments are to be given to Keep.
func (p *Pipe) Repairs() bool {
	switch repairMode(p.repair.mode.Load()) {
	case repairOn, repairLeaving:
		return true
	case repairIdle:
		if !p.e.cfg.NoRepair && p.repair.mode.CompareAndSwap(uint32(repairIdle), uint32(repairAsking)) {
			p.e.timers.plan(&p.timed, p.e.now())
		}
	}
	return false
}

// repairSoon has repairDue called if it waits for a round trip to be known. The caller
// holds mu.
func (p *Pipe) repairSoon(now int64) {
	if m := repairMode(p.repair.mode.Load()); m != repairIdle {
		p.e.timers.plan(&p.timed, now)
	}
}

// repairDue decides the mode. The caller holds mu.
func (p *Pipe) repairDue(now int64) (next int64) {
	r := &p.repair
	mode := repairMode(r.mode.Load())
	if p.e.cfg.NoRepair || r.refused || mode == repairIdle || p.state != stateUp || p.keys.cur == nil {
		return 0
	}
	if r.begins(p.keys.sess) && mode == repairOff {
		mode = repairAsking
	}
	short, known := p.isShort(mode)
	able := r.session.repairs.Load()
	both := r.session.can & p.can()
	r.datagrams.Store(both&canDatagrams != 0)
	r.marks.Store(both&canMarks != 0)
	switch {
	case mode == repairOn || mode == repairLeaving:
		if short && known || !able {
			mode, next = r.leave(now)
		} else if !short {
			mode, r.leaves = repairOn, 0
		}
	case short:
		mode = repairAsking
	case able:
		mode = repairOn
	case r.tries() >= repairTries:
		mode = repairOff
	default:
		mode, next = repairAsking, p.askRepair(now)
	}
	if mode == repairOn && p.asksMore() {
		next = earlier(next, p.askRepair(now))
	}
	r.mode.Store(uint32(mode))
	return next
}

// leave ends repairing when nothing waits any more, or that has lasted.
func (r *repairing) leave(now int64) (mode repairMode, next int64) {
	if r.leaves == 0 {
		r.leaves = now + repairLeaves
	}
	if now < r.leaves && !r.empty() {
		return repairLeaving, now + repairStall
	}
	r.leaves = 0
	return repairAsking, 0
}

// isShort says whether nothing is repaired on the best path because it is short, or
// may be, and whether that is known. The caller holds mu.
func (p *Pipe) isShort(mode repairMode) (short, known bool) {
	best := p.paths.best.Load()
	switch {
	case best == nil || !best.validated.Load():
		return true, false
	case p.relayedOverCarrier(), best.mtu.Load() > repair.MaxPlain+around:
		return true, true // TCP repairs the first part of the way; or it is a link that takes more than Ethernet's frames do
	case best.srtt == 0:
		return near(best), false
	case mode == repairOn:
		// What acknowledgements show is newer than what the last ping did.
		if rtt := p.repair.measured(best); rtt > 0 && rtt < min(best.srtt, repairUntil) {
			best.srtt = rtt
		}
		return best.srtt < repairUntil, true
	}
	return best.srtt < repairFrom, true
}

// begins is told the session that seals now, true if it is another one than before.
func (r *repairing) begins(s *Session) bool {
	old := r.session
	if s == old {
		return false
	}
	if old != nil && old.remote.Start == s.remote.Start && old.repairs.Load() {
		s.repairs.Store(true)
		s.told, s.can = s.told || old.told, s.can|old.can
	}
	r.session, r.question, r.answered = s, nil, false
	return true
}

// can is what this side can beside repairing TCP. The caller holds mu.
func (p *Pipe) can() byte {
	if t := p.paths.best.Load(); t != nil {
		if s, ok := t.Local.(interface{ Marks() bool }); ok && s.Marks() {
			return canDatagrams | canMarks
		}
	}
	return canDatagrams
}

// ecn is the bits of ECN of what is kept and leaves on t: where marks come back from.
func (r *repairing) ecn(t *path) uint8 {
	if !r.marks.Load() || r.unmarked.Load() || t.relayed.Load() {
		return 0
	}
	return ecnECT
}

// asksMore says whether a peer that is known to be able is to be asked what else it can,
// and how far it is. The caller holds mu.
func (p *Pipe) asksMore() bool {
	r, best := &p.repair, p.paths.best.Load()
	return best != nil && !r.answered && (!r.session.told || best.srtt == 0) && r.tries() < repairTries
}

// tries is how often the peer was asked.
func (r *repairing) tries() int {
	if r.question == nil {
		return 0
	}
	return r.question.tries
}

// askRepair asks whether the peer is able if it is time. The caller holds mu.
func (p *Pipe) askRepair(now int64) (next int64) {
	q := p.repair.question
	if q == nil {
		q = new(question)
		p.repair.question = q
	}
	if now < q.at {
		return q.at
	}
	ask := wire.Frame{Type: wire.FrameRepair, Message: []byte{0, byte(q.tries), p.can()}}
	p.queue(p.keys.cur, p.paths.best.Load(), ask)
	if q.tries == 0 {
		p.queue(p.keys.cur, p.paths.best.Load(), ask) // one of the two may be lost
	}
	q.asked[q.tries] = now
	if q.tries++; q.tries < repairSoons {
		q.at = now + repairAgain
	} else {
		q.at = now + max(int64(initialRTT), 2*p.rtt())<<(q.tries-repairSoons)
	}
	return q.at
}

// repairSeen is told that something came under kp that the peer keeps: so it is able.
func (p *Pipe) repairSeen(kp *keypair) {
	p.mu.Lock()
	defer p.unlock()
	kp.sess.repairs.Store(true)
	if !p.e.cfg.NoRepair && p.state == stateUp {
		p.repair.mode.CompareAndSwap(uint32(repairIdle), uint32(repairAsking))
		p.repairDue(p.e.now())
	}
}

// near says whether t cannot be long.
func near(t *path) bool {
	a := t.Local.LocalAddr().Addr()
	return a.IsLoopback() || a == t.Remote.Addr()
}

// repairTold takes a REPAIR frame that came under kp. The caller holds mu.
func (p *Pipe) repairTold(kp *keypair, t *path, f wire.Frame, now int64) {
	if p.e.cfg.NoRepair || len(f.Message) < 2 {
		return
	}
	r := &p.repair
	kp.sess.repairs.Store(true)
	kp.sess.told = true
	if len(f.Message) > 2 {
		kp.sess.can = f.Message[2]
	}
	switch n := f.Message[1]; {
	case f.Message[0] == 0:
		p.queue(kp, t, wire.Frame{Type: wire.FrameRepair, Message: []byte{1, n, p.can()}})
	case n < repairTries && r.question != nil:
		if at := r.question.asked[n]; at != 0 && t != nil && t == p.paths.best.Load() {
			t.sample(time.Duration(now - at))
			p.paths.rtt.Store(p.rtt())
		}
		r.question, r.answered = nil, true
	}
	if repairMode(p.repair.mode.Load()) != repairIdle {
		p.repairDue(now) // at once: what follows is a segment
		p.repairSoon(now)
	}
}

// startSending makes what keeps and sends, once. The caller holds mu.
func (p *Pipe) startSending() {
	if p.repair.sender.Load() != nil {
		return
	}
	x := new(sending)
	x.closed = p.state == stateClosed // one who still knows the pipe was late
	c := congestion.Config{Segment: p.datagram(), Random: rand.Float64}
	if p.e.cfg.Cubic {
		c.New = func(c congestion.Config) congestion.Controller { return congestion.NewCubic(c) }
	}
	if t := p.paths.best.Load(); t != nil {
		x.path, c.RTT, c.Stream = t, t.srtt, p.Carried()
	}
	x.s = repair.NewSender(repair.Config{Path: c, Budget: p.e.budget})
	x.share.Store(repairLeast)
	x.fire = func(now int64) int64 { return p.paced(x, now) }
	p.repair.sender.Store(x)
}

// repairUp asks, when the pipe comes up, whether the peer is able, before anything
// else leaves, and goes on with what is kept. The caller holds mu.
func (p *Pipe) repairUp() {
	if t := p.paths.best.Load(); t != nil && t.validated.Load() && !near(t) && !p.relayedOverCarrier() {
		p.repair.mode.CompareAndSwap(uint32(repairIdle), uint32(repairAsking))
		p.e.timers.plan(&p.timed, p.e.now()+1)
		p.repairDue(p.e.now())
	}
	if x := p.repair.sender.Load(); x != nil {
		p.e.pacer.pace(p.e, &x.timed, p.e.now())
	}
}

// close lets go of what is kept.
func (r *repairing) close(p *Pipe) {
	if a := r.acking.Load(); a != nil {
		p.e.pacer.forget(&a.timed)
	}
	r.mode.Store(uint32(repairOff))
	x := r.sender.Load()
	if x == nil {
		return
	}
	x.mu.Lock()
	x.closed = true
	if !x.sending {
		x.s.Close()
	}
	x.mu.Unlock()
	p.e.pacer.forget(&x.timed)
}

// measured is the round trip of t that acknowledgements have shown, 0 if none has.
func (r *repairing) measured(t *path) time.Duration {
	x := r.sender.Load()
	if x == nil {
		return 0
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.path != t {
		return 0
	}
	_, smoothed, _ := x.s.Path().RTT()
	return smoothed
}

// empty says whether nothing waits to be sent.
func (r *repairing) empty() bool {
	x := r.sender.Load()
	if x == nil {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.s.Waiting()
}

// Repairing says how many bytes TCP may have written to the peer and not acknowledged,
// by all its connections together; false: what it writes is not kept, and as many as
// TCP says.
func (p *Pipe) Repairing() (share int, ok bool) {
	x := p.repair.sender.Load()
	if x == nil || repairMode(p.repair.mode.Load()) != repairOn {
		return 0, false
	}
	return int(x.share.Load()), true
}

// Awaits is how long what is missing may still come, if the peer repairs.
func (p *Pipe) Awaits() time.Duration {
	return min(repairWaits*time.Duration(p.paths.rtt.Load())+repairWaitsLeast, repairWaitsMost)
}

// repairStatus is part of Status. The caller holds mu.
func (p *Pipe) repairStatus() RepairStatus {
	mode := repairMode(p.repair.mode.Load())
	s := RepairStatus{On: mode == repairOn, State: repairModes[mode]}
	x := p.repair.sender.Load()
	if x == nil {
		return s
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	path, st := x.s.Path(), &x.s.Stats
	if s.On {
		s.State += ", " + path.State()
	}
	s.Rate = 8 * path.Rate()
	s.RTT, s.Smoothed, _ = path.RTT()
	s.InFlight, s.Window, s.Kept = path.InFlight(), path.Window(), x.s.Kept()
	s.Sent, s.Repaired, s.Late, s.Probes, s.Refused = st.Sent, st.Repaired, st.Late, st.Probes, st.Refused
	s.Datagrams, s.Shed, s.Marked = st.Once, st.Shed, st.Marked
	return s
}

// MayRepair says whether TCP is repaired, or will be if the peer turns out to be able
// and the path not to be short.
func (p *Pipe) MayRepair() bool {
	switch repairMode(p.repair.mode.Load()) {
	case repairOn, repairLeaving:
		return true
	case repairAsking:
		t := p.paths.best.Load()
		rtt := time.Duration(p.paths.rtt.Load())
		return t != nil && !near(t) && !p.relayedOverCarrier() && (rtt == 0 || rtt >= repairFrom)
	}
	return false
}

// repairStats is what was counted.
func (p *Pipe) repairStats() repair.Stats {
	x := p.repair.sender.Load()
	if x == nil {
		return repair.Stats{}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.s.Stats
}
