package pipe

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/wire"
)

const (
	maxPaths         = 8
	maxUnvalidated   = 3
	challengeTries   = 5
	challengeLen     = wire.HeaderLen + 9 + wire.TagLen // bytes of its datagram
	amplification    = 3                                // bytes sent per byte received, before a path is validated
	initialRTT       = 200 * time.Millisecond
	betterRTT        = 0.7 // of the present RTT: what another path must show to be switched to
	betterRTTAtLeast = 5 * time.Millisecond
	elsewhereAfter   = int64(150 * time.Millisecond) // the peer heard on other paths only
	elsewhereRTTs    = 2
	askAtLeast       = int64(20 * time.Millisecond) // how long the present path has to show that it lives
)

// pathSet is the paths of a pipe. What is atomic the data path reads; it is
// changed, and all else guarded, by the pipe's mu.
type pathSet struct {
	best  atomic.Pointer[path]    // takes data; nil if there is none
	list  atomic.Pointer[[]*path] // copied on write
	rtt   atomic.Int64            // of the best one, as tick last saw it
	large atomic.Bool             // data above the base size was sent since the last check; set by the data path

	moved int64            // when data last changed its path
	pings map[uint64]*ping // not answered yet
	early early            // what waits until best is validated
}

// path is one pair of addresses of a pipe. Its atomics belong to the data
// path; the rest is guarded by the pipe's mu.
type path struct {
	Path
	validated atomic.Bool   // the peer answered from there, or ICE vouches for it
	budget    atomic.Int64  // bytes that may be sent; matters until validated
	heard     atomic.Int64  // last authenticated packet from there: consent (RFC 7675)
	mark      atomic.Uint64 // what had come by then: see heardUnder
	sent      atomic.Int64  // last datagram sent there
	fresh     atomic.Bool   // checks have found it, and the peer was not heard there yet
	mtu       atomic.Int32  // UDP payload that gets through

	turn      atomic.Bool // through a TURN server
	relayed   atomic.Bool // through a relay, a TURN server or a carrier: only while there is no direct one
	created   int64
	doubt     int64 // when it failed; it is not preferred until heard after that
	follow    bool  // the peer may have moved here: see followDue
	stranger  bool  // known only from the source of a packet
	asked     int64 // when it was pinged because the peer is heard from a stranger only
	challenge uint64
	sentAt    int64 // of the challenge
	try       retry // of the challenge
	srtt      time.Duration
	rttvar    time.Duration
	pinged    int64 // last ping sent
	search    search
}

// find returns the path with these addresses, or nil. It takes no lock and
// does not allocate.
func (p *Pipe) find(from Sender, remote netip.AddrPort) *path {
	if b := p.paths.best.Load(); b != nil && b.Remote == remote && b.Local == from {
		return b
	}
	for _, t := range *p.paths.list.Load() {
		if t.Remote == remote && t.Local == from {
			return t
		}
	}
	return nil
}

// Direct returns the paths that lead to the peer itself, through no relay and
// no TURN server, and on which it was heard of late; the one that takes data
// first.
func (p *Pipe) Direct() []Path {
	now, best := p.e.now(), p.paths.best.Load()
	var out []Path
	for _, t := range *p.paths.list.Load() {
		switch {
		case !t.validated.Load() || t.relayed.Load() || !t.live(now):
		case t == best:
			out = slices.Insert(out, 0, t.Path)
		default:
			out = append(out, t.Path)
		}
	}
	return out
}

// newPath adds a path, making room if there are too many; nil if there is no
// room. The caller holds mu.
func (p *Pipe) newPath(at Path, now int64) *path {
	paths := *p.paths.list.Load()
	if len(paths) >= maxPaths && !p.evict() {
		return nil
	}
	t := &path{Path: at, created: now}
	t.turn.Store(p.lent(at))
	t.relayed.Store(at.relayed() || at.Carried() || t.turn.Load())
	t.mtu.Store(int32(baseMTU(at.Local)))
	paths = append(slices.Clone(*p.paths.list.Load()), t)
	p.paths.list.Store(&paths)
	return t
}

// evict removes the path that was heard longest ago, a stranger's if there is
// one, not the best one.
func (p *Pipe) evict() bool {
	var oldest *path
	for _, t := range *p.paths.list.Load() {
		switch {
		case t == p.paths.best.Load():
		case oldest == nil, t.stranger && !oldest.stranger, t.stranger == oldest.stranger && t.heard.Load() < oldest.heard.Load():
			oldest = t
		}
	}
	if oldest == nil {
		return false
	}
	p.removePath(oldest)
	return true
}

func (p *Pipe) removePath(gone *path) {
	paths := slices.DeleteFunc(slices.Clone(*p.paths.list.Load()), func(t *path) bool { return t == gone })
	p.paths.list.Store(&paths)
	if p.paths.best.Load() == gone {
		p.paths.best.Store(nil)
	}
	for id, g := range p.paths.pings {
		if g.path == gone {
			delete(p.paths.pings, id)
		}
	}
}

// trustPath adds a path that others have validated. The caller holds mu.
func (p *Pipe) trustPath(at Path, now int64) {
	t := p.find(at.Local, at.Remote)
	if t == nil {
		if t = p.newPath(at, now); t == nil {
			return
		}
		t.fresh.Store(true)
	}
	t.stranger = false
	t.heard.Store(now)
	p.validate(t, now)
	p.e.timers.plan(&p.timed, max(now, p.followDue(now)))
}

// followDue moves data to validated paths that the peer was heard on first, if
// the present one has been silent since. Somebody beside the way can send
// copies of the peer's packets from an address of its own, and be faster; but the
// packets themselves then come later on the present path (lateCopy). So a
// stranger waits as long as those may take. It returns when to come again. The
// caller holds mu.
func (p *Pipe) followDue(now int64) (next int64) {
	for _, t := range *p.paths.list.Load() {
		if !t.follow || !t.validated.Load() {
			continue
		}
		best := p.paths.best.Load()
		if best != nil && best != t && best.heard.Load() <= t.created {
			if at := t.created + p.askFor(); t.stranger && now < at {
				next = earlier(next, at)
				continue
			}
			best.doubt = now
			p.switchTo(t)
		}
		t.follow = false
	}
	return next
}

// askFor is how long the present path has to show that it lives: what has left
// by it before the question, or its answer, has come by then. The caller holds
// mu.
func (p *Pipe) askFor() int64 {
	rtt := p.rtt()
	return max(askAtLeast, rtt+rtt/4)
}

// heardUnder notes a packet of the peer's under kp on t. mark keeps how far kp's
// counters had come then, on any path: what comes on t later and is older proves
// nothing.
func (t *path) heardUnder(kp *keypair, now int64) {
	t.heard.Store(now)
	t.mark.Store(uint64(kp.recvIndex)<<32 | kp.received())
}

// lateCopy notes that a packet of the peer's came from at, authentic, but not for
// the first time: it had come by another path, faster. If it is newer than all
// that had come when this path was last heard, the peer itself sends on this
// path too, and that lives; as a sign of the peer's life the copy does not count.
func (p *Pipe) lateCopy(kp *keypair, at Path, counter uint32) {
	t := p.find(at.Local, at.Remote)
	if t == nil || !t.validated.Load() {
		return
	}
	now := p.e.now()
	p.mu.Lock()
	defer p.unlock()
	mark := t.mark.Load()
	if kp != p.keys.cur || uint32(mark>>32) == kp.recvIndex && counter < uint32(mark) {
		return
	}
	t.heard.Store(now)
	t.mark.Store(uint64(kp.recvIndex)<<32 | uint64(counter) + 1)
	if best := p.paths.best.Load(); best != nil && best != t && best.stranger && p.state == stateUp {
		p.choose(now)
	}
}

func (p *Pipe) validate(t *path, now int64) {
	if t.validated.Load() {
		return
	}
	t.budget.Store(math.MaxInt64)
	t.validated.Store(true)
	t.try = retry{}
	t.search.begin(now)
	if t == p.paths.best.Load() && p.state == stateUp {
		p.repairUp()
	}
}

// AddPath challenges the peer on a path that may work, from a fresh ICE
// exchange or a guess. It is used once the peer answers there.
func (p *Pipe) AddPath(at Path) {
	if at.Local == nil || !at.Remote.IsValid() {
		return
	}
	now := p.e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state == stateClosed {
		return
	}
	if t := p.find(at.Local, at.Remote); t != nil {
		t.stranger = false
		return
	}
	if t := p.newPath(at, now); t != nil {
		t.budget.Store(challengeTries * challengeLen)
		p.startChallenge(t, now)
	}
}

// addLocal challenges every remote address from a new local one.
func (p *Pipe) addLocal(s Sender) {
	now := p.e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state == stateClosed {
		return
	}
	for _, old := range *p.paths.list.Load() {
		at := Path{Local: s, Remote: old.Remote}
		if old.relayed.Load() || s.LocalAddr().Addr().Is4() != old.Remote.Addr().Is4() || !old.validated.Load() || p.find(s, old.Remote) != nil {
			continue
		}
		if t := p.newPath(at, now); t != nil {
			t.budget.Store(challengeTries * challengeLen)
			t.follow = true
			p.startChallenge(t, now)
		}
	}
}

// removeLocal forgets the paths of a local address that is gone.
func (p *Pipe) removeLocal(s Sender) {
	now := p.e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state == stateClosed {
		return
	}
	for _, t := range *p.paths.list.Load() {
		if t.Local == s {
			p.removePath(t)
		}
	}
	p.update(now)
	p.e.timers.plan(&p.timed, now)
}

// sawUnknown starts a challenge to an address that an authenticated packet
// with a higher counter came from (DESIGN §9). The caller holds mu.
func (p *Pipe) sawUnknown(at Path, now int64) *path {
	n := 0
	for _, t := range *p.paths.list.Load() {
		if !t.validated.Load() {
			n++
		}
	}
	if n >= maxUnvalidated {
		return nil
	}
	t := p.newPath(at, now)
	if t == nil {
		return nil
	}
	t.follow, t.stranger = true, true
	p.startChallenge(t, now)
	return t
}

func (p *Pipe) startChallenge(t *path, now int64) {
	t.challenge = randomUint64()
	t.try = retry{at: now}
	p.e.timers.plan(&p.timed, now)
}

// challengePaths sends what challenges are due, and gives up on those that
// nobody answered. It returns when to come again. The caller holds mu.
func (p *Pipe) challengePaths(now int64) (next int64) {
	for _, t := range *p.paths.list.Load() {
		if t.try.at == 0 {
			continue
		}
		if t.try.at <= now {
			if t.try.tries >= challengeTries {
				p.removePath(t)
				continue
			}
			if kp := p.sealing(); kp != nil {
				t.sentAt = now
				p.queue(kp, t, wire.Frame{Type: wire.FramePathChallenge, ID: t.challenge})
				if best := p.paths.best.Load(); t.stranger && t.try.tries == 0 && best != nil && best.validated.Load() {
					p.sendPing(best, now, nil) // does it live?
				}
			}
			t.try.at = now + max(int64(initialRTT), 2*p.rtt())<<t.try.tries
			t.try.tries++
		}
		next = earlier(next, t.try.at)
	}
	return next
}

// answeredChallenge validates the path whose challenge id was; the answer came
// on from. The caller holds mu.
func (p *Pipe) answeredChallenge(from *path, id uint64, now int64) {
	for _, t := range *p.paths.list.Load() {
		if t.try.at == 0 || t.challenge != id || t.sentAt == 0 {
			continue
		}
		if from == t && t.try.tries == 1 { // else it is unclear which one was answered
			t.sample(time.Duration(now - t.sentAt))
			p.repairSoon(now)
		}
		p.validate(t, now)
		p.e.timers.plan(&p.timed, max(now, p.followDue(now)))
		p.update(now)
		return
	}
}

// sample takes one RTT measurement (RFC 6298 §2).
func (t *path) sample(rtt time.Duration) {
	if t.srtt == 0 {
		t.srtt, t.rttvar = rtt, rtt/2
		return
	}
	t.rttvar = (3*t.rttvar + (t.srtt - rtt).Abs()) / 4
	t.srtt = (7*t.srtt + rtt) / 8
}

// live says whether the peer's consent to be sent to on t is fresh
// (RFC 7675 §5.1).
func (t *path) live(now int64) bool {
	heard := t.heard.Load()
	return heard != 0 && now-heard < consentFor
}

// choose picks the path that takes data: the present one while it is live,
// unless another is better. The caller holds mu.
func (p *Pipe) choose(now int64) {
	best := p.paths.best.Load()
	if best != nil && !best.live(now) {
		best = nil
	}
	if best != nil {
		p.suspect(best, now)
	}
	for _, t := range *p.paths.list.Load() {
		if t != best && t.live(now) && (best == nil || t.better(best, now)) {
			best = t
		}
	}
	if best != p.paths.best.Load() {
		p.switchTo(best)
	}
}

// better says whether data is to move from best to t, both live. What has
// failed and was not heard since comes last, then what the peer has not
// answered on, then what is known only from a packet's source, then relayed
// paths, of which carriers go first; among equals t must be clearly faster. A stranger never is: whoever
// forwards copies of packets faster than the network does could draw all of them
// to itself.
func (t *path) better(best *path, now int64) bool {
	switch {
	case t.doubted() != best.doubted():
		return best.doubted()
	case t.validated.Load() != best.validated.Load():
		return t.validated.Load()
	case t.stranger != best.stranger:
		return best.stranger
	case t.relayed.Load() != best.relayed.Load():
		return best.relayed.Load()
	case t.Carried() != best.Carried(): // nobody else has to pass it on
		return t.Carried()
	}
	return !t.stranger && t.srtt > 0 && best.srtt > 0 && t.srtt < best.srtt-betterRTTAtLeast &&
		float64(t.srtt) < betterRTT*float64(best.srtt) && t.heard.Load()+int64(5*time.Second) > now
}

// doubted says whether t has failed and was not heard since.
func (t *path) doubted() bool { return t.doubt != 0 && t.heard.Load() <= t.doubt }

// suspect doubts the path that takes data if the peer is heard on another
// one only: it has moved there, and what we send may come to nobody. The pipe
// as a whole is alive then, so the rule for dead peers does not find it. The
// caller holds mu.
func (p *Pipe) suspect(best *path, now int64) {
	wait := max(elsewhereAfter, elsewhereRTTs*p.rtt())
	heard := best.heard.Load()
	if best.doubted() || best.sent.Load() <= heard || now < heard+wait {
		return
	}
	for _, t := range *p.paths.list.Load() {
		if t == best || !t.validated.Load() || t.doubted() || t.heard.Load() <= heard+wait || now >= t.heard.Load()+max(deadAfter, wait) {
			continue
		}
		if t.stranger && !p.askedInVain(best, now) {
			continue
		}
		best.doubt = now
		return
	}
}

// askedInVain pings best, unless that was done since it was last heard, and says
// whether the answer is overdue. The caller holds mu.
func (p *Pipe) askedInVain(best *path, now int64) bool {
	if best.asked <= best.heard.Load() {
		best.asked = now
		p.sendPing(best, now, nil)
	}
	if at := best.asked + p.askFor(); now < at {
		p.e.timers.plan(&p.timed, at)
		return false
	}
	return true
}

// followPeer moves data to a path that checks have found when the peer is first
// heard there, if the present one was silent since. The caller holds mu.
func (p *Pipe) followPeer(t *path, now int64) {
	t.fresh.Store(false)
	if best := p.paths.best.Load(); best != nil && best != t && best.heard.Load() <= t.created && best.relayed.Load() == t.relayed.Load() {
		best.doubt = now
		p.switchTo(t)
	}
}

// switchTo sends data on t from now on. The caller holds mu.
func (p *Pipe) switchTo(t *path) {
	defer func() { p.paths.rtt.Store(p.rtt()) }()
	old := p.paths.best.Swap(t)
	p.paths.moved = p.e.now()
	if old != nil && t != nil && old != t {
		p.outbox.calls = append(p.outbox.calls, call{event: p.event(event.PipeMoved, nil)})
	}
}

// spend takes n bytes off the budget of a path that is not validated; false:
// it does not last for that, and stays as it is.
func (t *path) spend(n int) bool {
	for !t.validated.Load() {
		left := t.budget.Load()
		if left < int64(n) {
			return false
		}
		if t.budget.CompareAndSwap(left, left-int64(n)) {
			return true
		}
	}
	return true
}

// earlier returns the earlier of two times, where zero is never.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
