package pipe

import (
	"encoding/hex"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// state is where a pipe stands; only setState changes it.
type state uint8

const (
	stateOpening state = iota // no usable keys or no path yet: nothing is sent but CTRL
	stateUp                   // Handler.Up was called: data flows
	stateSilent               // Handler.Down was called: the peer is looked for, data is not sent
	stateClosed               // for good; the Endpoint has forgotten the pipe
)

// Pipe is the one UDP association with a peer (draft §2): its keys, its paths
// and the data path over them. It may be used concurrently.
//
// Locks: the data path (Batch, Open, the fast half of Receive) takes none but
// a keypair's replay lock; it reads the atomics that update and choose set
// under mu. Datagrams and calls to the Handler that arise under mu are queued
// and leave in unlock.
type Pipe struct {
	e    *Endpoint
	peer peerid.ID

	send     atomic.Pointer[keypair] // seals data; nil unless up
	best     atomic.Pointer[path]    // takes data; nil if there is none
	paths    atomic.Pointer[[]*path] // copied on write
	awaiting atomic.Int64            // first data sent since the peer was heard; 0: none
	heard    atomic.Int64            // last authenticated packet
	data     atomic.Int64            // last data in either direction
	alert    atomic.Bool             // probing or silent: tell mu when the peer is heard
	slow     atomic.Int64            // RTT of the best path, for the data path
	large    atomic.Bool             // data above the base size was sent since the last check
	message  atomic.Uint32           // ID of the last message sent in pieces

	runs, running atomic.Uint64 // see receiveData
	opened        atomic.Uint64 // bytes of DATA datagrams authenticated
	packetsIn     atomic.Uint64
	packetsOut    atomic.Uint64
	bytesIn       atomic.Uint64
	bytesOut      atomic.Uint64
	drops         drops

	links atomic.Pointer[map[uint16]*relayLink] // what the peer relays for us, by channel
	legs  atomic.Pointer[map[uint16]*leg]       // what we relay for the peer, by channel

	timed // planned for the next thing to do

	mu       sync.Mutex // guards what follows
	state    state
	err      error         // why it is silent or closed
	ready    chan struct{} // closed while up
	closed   chan struct{}
	keys     []*keypair // all that can open, in order of arrival
	cur      *keypair   // seals, if usable
	sess     *Session   // of cur
	rekeys   uint64
	rekey    *rekeying // an exchange of ours under way
	answered answered  // the last exchange of the peer
	offers   bucket    // rekey offers that are worked on
	confirm  retry     // of a CONFIRM not answered yet
	probeAt  int64     // when dead-pipe probing began; 0: not
	probe    retry
	again    again
	early    early
	hurry    bool   // there is a reason to expect the worst of it
	tailed   uint64 // packets that had come when a flow was last seen to stop
	pings    map[uint64]*ping
	pieces   []*pending // messages not complete yet
	rekeyAt  int64      // no rekey before: the last one failed
	out      []outgoing
	calls    []call
	calling  bool // a goroutine is delivering calls
	settled  []*Session
	binds    map[[16]byte]*bind // channels wanted of the peer, by session
	asked    []wire.Frame       // RELAY-BINDs for the Endpoint
	moved    int64              // when data last changed its path
}

// call is one thing to tell the Handler or the event sink, in order.
type call struct {
	up, down bool
	failed   bool // the path that took data, but there is another
	err      error
	event    event.Event
}

// retry paces repetitions of something unanswered.
type retry struct {
	at    int64 // next time; 0: nothing to repeat
	tries int
}

func newPipe(e *Endpoint, peer peerid.ID) *Pipe {
	p := &Pipe{e: e, peer: peer, ready: make(chan struct{}), closed: make(chan struct{}), offers: newBucket(e.now())}
	p.paths.Store(new([]*path))
	p.timed.fire = p.tick
	p.data.Store(e.now())
	p.err = ErrNotUp
	return p
}

// Peer is the authenticated other side.
func (p *Pipe) Peer() peerid.ID { return p.peer }

// Err says why the pipe is not up, nil if it is.
func (p *Pipe) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Ready returns a channel that is closed once the pipe is up. When the pipe
// goes down, a later call returns a new one.
func (p *Pipe) Ready() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// Closed returns a channel that is closed when the pipe has ended for good.
func (p *Pipe) Closed() <-chan struct{} { return p.closed }

// Chain is the membership chain that the peer showed in its newest confirmed
// session; it must not be changed.
func (p *Pipe) Chain() []byte { return p.Remote().Chain }

// Remote is what the peer said of itself in its newest session.
func (p *Pipe) Remote() Remote {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sess == nil {
		if len(p.keys) > 0 {
			return p.keys[0].sess.remote
		}
		return Remote{}
	}
	return p.sess.remote
}

// Close tells the peer and ends the pipe. err is what Err and Handler.Down
// say; nil is ErrClosed. It is idempotent.
func (p *Pipe) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	p.mu.Lock()
	p.end(err, closeOther)
	p.unlock()
}

// The reasons in a CLOSE frame.
const (
	closeOther uint8 = 0
	closeIdle  uint8 = 1
)

// end closes p after a CLOSE on the best path. The caller holds mu.
func (p *Pipe) end(err error, reason uint8) {
	if p.state == stateClosed {
		return
	}
	kp := p.cur
	if kp == nil || !kp.usable() {
		kp = nil
		for _, k := range p.keys {
			if k.usable() {
				kp = k
			}
		}
	}
	if b := p.best.Load(); b != nil && kp != nil {
		p.queue(kp, b, wire.Frame{Type: wire.FrameClose, Flag: reason})
	}
	p.setState(stateClosed, err)
}

// setState moves to s and does what belongs to entering it. The caller holds
// mu.
func (p *Pipe) setState(s state, err error) {
	if p.state == s || p.state == stateClosed {
		return
	}
	was := p.state
	p.state, p.err = s, err
	switch s {
	case stateUp:
		close(p.ready)
		p.send.Store(p.cur)
		p.alert.Store(false)
		p.probeAt = 0
		p.sendAgain()
		// The event first: what Up sets free may be answered before it returns.
		p.calls = append(p.calls, call{event: p.event(event.PipeUp, nil)}, call{up: true})
	case stateSilent:
		p.ready = make(chan struct{})
		p.send.Store(nil)
		p.alert.Store(true)
		p.awaiting.Store(0)
		p.rekey.abort(p)
		p.hurry = false
		p.calls = append(p.calls, call{down: true, err: err})
	case stateClosed:
		p.send.Store(nil)
		p.alert.Store(false)
		p.rekey.abort(p)
		if was == stateUp {
			p.ready = make(chan struct{})
			p.calls = append(p.calls, call{down: true, err: err})
		}
		p.calls = append(p.calls, call{event: p.event(event.PipeClosed, err)})
		close(p.closed)
	}
}

func (p *Pipe) event(kind event.Kind, err error) event.Event {
	ev := event.Event{Kind: kind, Peer: p.peer}
	if b := p.best.Load(); b != nil {
		ev.Local, ev.Remote = b.Addrs()
		ev.Via = b.Via()
	}
	if p.sess != nil && kind == event.PipeUp {
		ev.Detail = aeadName(p.sess.aead)
	}
	if err != nil {
		ev.Err = err.Error()
	}
	return ev
}

// unlock releases mu and then sends and tells what was queued under it.
func (p *Pipe) unlock() {
	if len(p.early.queue) > 0 {
		if p.state == stateUp {
			p.out = append(p.out, p.takeEarly()...)
		} else {
			p.dropEarly()
		}
	}
	out, settled, asked := p.out, p.settled, p.asked
	p.out, p.settled, p.asked = nil, nil, nil
	closed := p.state == stateClosed
	var keys []*keypair
	if closed {
		keys, p.keys, p.cur = p.keys, nil, nil
		p.best.Store(nil)
		p.pieces, p.pings, p.binds = nil, nil, nil
		p.again = again{}
	}
	deliver := !p.calling && len(p.calls) > 0
	if deliver {
		p.calling = true
	}
	p.mu.Unlock()
	for i := range out {
		p.write(&out[i])
	}
	for _, k := range keys {
		p.drop(k)
	}
	for _, s := range settled {
		p.e.settleSession(s)
	}
	if closed {
		p.e.dropPipe(p)
	} else {
		for _, f := range asked {
			p.e.relayAsked(p, f.Peer, f.Session)
		}
	}
	if deliver {
		p.deliver()
	}
}

// deliver calls the Handler until nothing is queued. Only one goroutine does
// so at a time, so that Up and Down keep their order.
func (p *Pipe) deliver() {
	for {
		p.mu.Lock()
		if len(p.calls) == 0 {
			p.calling = false
			p.mu.Unlock()
			return
		}
		c := p.calls[0]
		p.calls = p.calls[1:]
		if len(p.calls) == 0 {
			p.calls = nil
		}
		p.mu.Unlock()
		switch {
		case c.up:
			p.e.cfg.Handler.Up(p)
		case c.down:
			p.e.cfg.Handler.Down(p, c.err)
			if c.err == ErrDead && p.e.cfg.Dead != nil {
				p.e.cfg.Dead(p, p.e.now() < p.data.Load()+wantedFor)
			}
		case c.failed:
			if p.e.cfg.Dead != nil {
				p.e.cfg.Dead(p, false)
			}
		default:
			p.e.emit(c.event)
		}
	}
}

// admit gives a session's keys to p; false: p is closed. It may be called
// with the Endpoint's mu held.
func (p *Pipe) admit(kp *keypair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stateClosed {
		return false
	}
	p.keys = append(p.keys, kp)
	kp.pipe.Store(p)
	return true
}

// adopt puts a session's keys to use when Up was called. The caller holds mu.
func (p *Pipe) adopt(kp *keypair, now int64) {
	if kp.usable() && (p.cur == nil || p.state != stateUp) && (p.cur == nil || p.newer(kp)) {
		p.promote(kp)
		p.alert.Store(false)
	}
	if kp.initiator && !kp.confirmed.Load() {
		p.confirm = retry{at: now}
	}
	p.update(now)
	p.e.timers.plan(&p.timed, now)
}

// setConfirmed notes that the peer was heard under kp. The caller holds mu.
func (p *Pipe) setConfirmed(kp *keypair, now int64) {
	kp.confirmed.Store(true)
	if kp.number == 0 {
		kp.sess.confirmed = now
		p.settled = append(p.settled, kp.sess)
	}
	if p.answered.kp == kp {
		p.answered = answered{}
	}
	if p.cur == nil || kp != p.cur && p.newer(kp) {
		p.promote(kp)
	}
	if kp == p.cur && kp.number == 0 {
		p.takeover(now)
	}
}

// newer says whether kp is to seal instead of cur: it comes from a later
// rekey of the same session or from a later session. Where two sessions
// crossed, that of the smaller peer ID stays, on both sides.
func (p *Pipe) newer(kp *keypair) bool {
	old := p.cur.sess
	switch {
	case p.cur.dead.Load():
		return true
	case kp.sess == old:
		return kp.number > p.cur.number
	case kp.sess.initiator != old.initiator && p.crossed(kp.sess, old):
		return kp.sess.initiator == (p.e.id.id.Compare(p.peer) < 0)
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
	old := p.cur
	p.cur, p.sess = kp, kp.sess
	if old != nil && old.sess != kp.sess {
		p.rekey.abort(p)
	} else if old != nil {
		p.rekeys++
		p.calls = append(p.calls, call{event: p.event(event.PipeRekeyed, nil)})
	}
	if p.state == stateUp {
		p.send.Store(kp)
	}
}

// takeover ends the keys of older sessions than the confirmed one that seals:
// at once if the peer's process is a new one and has lost them, else when
// nothing has come in under them for a while: the peer may still seal with
// them, and may go on with that if it holds the two sessions crossed. The
// caller holds mu.
func (p *Pipe) takeover(now int64) {
	retired := 0
	for _, k := range slices.Backward(slices.Clone(p.keys)) {
		switch {
		case k.sess == p.sess || p.crossed(k.sess, p.sess):
		case k.sess.remote.Start != p.sess.remote.Start || retired >= maxRetired:
			p.removeKeys(k)
		default:
			retired++
			k.retired(now)
		}
	}
	p.e.timers.plan(&p.timed, now+retireAfter)
}

// removeKeys forgets k. The caller holds mu.
func (p *Pipe) removeKeys(k *keypair) {
	p.keys = slices.DeleteFunc(p.keys, func(o *keypair) bool { return o == k })
	if p.answered.kp == k {
		p.answered = answered{}
	}
	p.drop(k)
}

// drop ends k and frees its index.
func (p *Pipe) drop(k *keypair) {
	k.wipe()
	p.e.table.remove(k)
}

// update goes up if keys and a path allow it, and down if they no longer do.
// The caller holds mu.
func (p *Pipe) update(now int64) {
	p.choose(now)
	best := p.best.Load()
	able := p.cur != nil && p.cur.usable() && best != nil
	if p.state == stateSilent && able && !best.validated.Load() {
		able = false // what waits is more than such a path takes
	}
	switch {
	case p.state == stateUp && !able:
		err := ErrDead
		switch {
		case p.cur == nil || !p.cur.usable():
			err = ErrExpired
		case len(*p.paths.Load()) == 0:
			err = ErrNoPath
		}
		p.setState(stateSilent, err)
	case able && (p.state == stateOpening || p.state == stateSilent && !p.alert.Load()):
		p.setState(stateUp, nil)
	}
}

// Status returns a snapshot.
func (p *Pipe) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		Peer:            p.peer,
		Up:              p.state == stateUp,
		Rekeys:          p.rekeys,
		MTU:             p.datagram(),
		BytesSent:       p.bytesOut.Load(),
		BytesReceived:   p.bytesIn.Load(),
		PacketsSent:     p.packetsOut.Load(),
		PacketsReceived: p.packetsIn.Load(),
		Drops:           p.drops.snapshot(),
	}
	if p.cur != nil {
		s.Initiator = p.sess.initiator
		s.Session = hex.EncodeToString(p.sess.id[:])
		s.AEAD = aeadName(p.sess.aead)
		s.Handshake = p.e.time(p.cur.created)
	}
	best := p.best.Load()
	for _, t := range *p.paths.Load() {
		if t == best {
			s.RTT = t.srtt
		}
		local, remote := t.Addrs()
		s.Paths = append(s.Paths, PathStatus{
			Local:     local,
			Remote:    remote,
			Via:       t.Via(),
			TURN:      t.turn.Load(),
			Active:    t == best,
			Validated: t.validated.Load(),
			RTT:       t.srtt,
			MTU:       int(t.mtu.Load()),
			Heard:     p.e.time(t.heard.Load()),
		})
	}
	return s
}

// rtt is the smoothed RTT of the best path, a guess if there is none. The
// caller holds mu.
func (p *Pipe) rtt() int64 {
	if b := p.best.Load(); b != nil && b.srtt > 0 {
		return int64(b.srtt)
	}
	return int64(100 * time.Millisecond)
}
