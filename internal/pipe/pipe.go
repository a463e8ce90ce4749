package pipe

import (
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe/handshake"
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
// Its state is in parts, each beside the code that changes it; each says who may
// touch it. Two rules hold for all:
//
//   - What is atomic is read by the data path (Batch, Open, the fast half of
//     Receive), which takes no lock but a keypair's replay lock. Who decides what
//     stands there holds mu.
//   - All else is guarded by mu. Datagrams and calls to the Handler that arise
//     under mu go to the outbox and leave in unlock.
type Pipe struct {
	e    *Endpoint // not changed after newPipe
	peer peerid.ID // not changed after newPipe

	keys    keyring    // what seals and opens (keyring.go, rekey.go)
	paths   pathSet    // where to (path.go)
	life    liveness   // whether the peer answers (tick.go)
	relay   relayState // channels of others' pipes (pathrelay.go, relay.go)
	pieces  reassembly // messages in pieces (fragment.go)
	traffic traffic    // what went through (receive.go, batch.go)
	repair  repairing  // what is sent again (repairing.go)
	drops   drops      // and what did not; atomic
	counted bool       // is in the Endpoint's history, whose mu guards it
	timed              // when tick is called next; the Endpoint's timers own it

	delivered atomic.Bool // see Delivered

	mu     sync.Mutex // guards what follows, and in the parts what is not atomic
	state  state
	err    error         // why it is silent or closed
	ready  chan struct{} // closed while up
	closed chan struct{} // closed in stateClosed
	outbox outbox        // what to do when mu is released (outbox.go)
}

// retry paces repetitions of something unanswered.
type retry struct {
	at    int64 // next time; 0: nothing to repeat
	tries int
}

func newPipe(e *Endpoint, peer peerid.ID) *Pipe {
	p := &Pipe{e: e, peer: peer, ready: make(chan struct{}), closed: make(chan struct{}), keys: keyring{work: newBucket(e.now())}}
	p.paths.list.Store(new([]*path))
	p.timed.fire = p.tick
	p.life.data.Store(e.now())
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
	if p.keys.sess == nil {
		if len(p.keys.all) > 0 {
			return p.keys.all[0].sess.remote
		}
		return Remote{}
	}
	return p.keys.sess.remote
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

// end closes p after a CLOSE on the best path, which is repeated if reason is
// final. The caller holds mu.
func (p *Pipe) end(err error, reason uint8) {
	if p.state == stateClosed {
		return
	}
	keys := p.endKeys()
	if b := p.paths.best.Load(); b != nil && len(keys) > 0 {
		frame := wire.Frame{Type: wire.FrameClose, Flag: reason}
		if reason < closeEnded {
			keys = keys[:1]
		}
		for _, k := range keys {
			p.queue(k.kp, b, frame)
		}
		lately := p.state == stateSilent && p.e.now()-p.life.silentAt < farewellSilent
		if reason >= closeEnded && (p.state == stateUp || lately) {
			p.outbox.farewell = &farewell{
				keys: keys, at: b.Path, more: p.otherWays(b), to: p.directly(), frame: frame, ours: true,
			}
		}
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
		p.keys.send.Store(p.keys.cur)
		p.life.alert.Store(false)
		p.life.probeAt = 0
		p.sendAgain()
		p.repairUp()
		// The event first: what Up, or who waits for Ready, sets free may be
		// answered before it returns.
		p.outbox.calls = append(p.outbox.calls, call{event: p.event(event.PipeUp, nil), ready: p.ready}, call{up: true})
	case stateSilent:
		p.life.silentAt = p.e.now()
		p.ready = make(chan struct{})
		p.keys.send.Store(nil)
		p.life.alert.Store(true)
		p.life.awaiting.Store(0)
		p.keys.rekey.abort(p)
		p.life.suspected = false
		p.outbox.calls = append(p.outbox.calls, call{down: true, err: err})
	case stateClosed:
		p.keys.send.Store(nil)
		p.life.alert.Store(false)
		p.keys.rekey.abort(p)
		if was == stateUp {
			p.ready = make(chan struct{})
			p.outbox.calls = append(p.outbox.calls, call{down: true, err: err})
		}
		p.outbox.calls = append(p.outbox.calls, call{event: p.event(event.PipeClosed, err)})
		close(p.closed)
	}
}

func (p *Pipe) event(kind event.Kind, err error) event.Event {
	ev := event.Event{Kind: kind, Peer: p.peer}
	if b := p.paths.best.Load(); b != nil {
		ev.Local, ev.Remote = b.Addrs()
		ev.Via = b.Via()
	}
	if p.keys.sess != nil && kind == event.PipeUp {
		ev.Detail = handshake.AEADName(p.keys.sess.aead)
	}
	if err != nil {
		ev.Err = err.Error()
	}
	return ev
}

// update goes up if keys and a path allow it, and down if they no longer do.
// The caller holds mu.
func (p *Pipe) update(now int64) {
	p.choose(now)
	best := p.paths.best.Load()
	able := p.keys.cur != nil && p.keys.cur.usable() && best != nil
	if p.state == stateSilent && able && !best.validated.Load() {
		able = false // what waits is more than such a path takes
	}
	switch {
	case p.state == stateUp && !able:
		err := ErrDead
		switch {
		case p.keys.cur == nil || !p.keys.cur.usable():
			err = ErrExpired
		case len(*p.paths.list.Load()) == 0:
			err = ErrNoPath
		}
		p.setState(stateSilent, err)
	case able && (p.state == stateOpening || p.state == stateSilent && !p.life.alert.Load()):
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
		Rekeys:          p.keys.rekeys,
		MTU:             p.datagram(),
		BytesSent:       p.traffic.bytesOut.Load(),
		BytesReceived:   p.traffic.bytesIn.Load(),
		PacketsSent:     p.traffic.packetsOut.Load(),
		PacketsReceived: p.traffic.packetsIn.Load(),
		Drops:           p.drops.snapshot(),
	}
	s.Repair = p.repairStatus()
	if p.keys.cur != nil {
		s.Initiator = p.keys.sess.initiator
		s.Session = hex.EncodeToString(p.keys.sess.id[:])
		s.AEAD = handshake.AEADName(p.keys.sess.aead)
		s.Handshake = p.e.time(p.keys.cur.created)
	}
	best := p.paths.best.Load()
	for _, t := range *p.paths.list.Load() {
		if t == best {
			s.RTT = t.srtt
		}
		local, remote := t.Addrs()
		s.Paths = append(s.Paths, PathStatus{
			Local:     local,
			Remote:    remote,
			Via:       t.Via(),
			Carried:   t.Carried(),
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
	if b := p.paths.best.Load(); b != nil && b.srtt > 0 {
		return int64(b.srtt)
	}
	return int64(100 * time.Millisecond)
}
