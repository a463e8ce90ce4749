package nullflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// Datagrams of a UDP flow are delivered from the nominated address only, and
// while there is consent (RFC 7675).
const (
	agentGrace   = time.Second
	consentEvery = 4 * time.Second  // a check of the path in use
	consentFor   = 30 * time.Second // RFC 7675 §5.1
	consentLost  = 10 * time.Second // without an answer: look for another path
	udpRetry     = 500 * time.Millisecond
	udpPatience  = 60 * time.Second // without a path the flow ends
)

// udpPath is what datagrams of a flow travel over: sockets whose checks have
// found a pair.
type udpPath struct {
	checks    UDPChecks
	local, to netip.AddrPort
}

// udpFlow is the part of a UDP flow that moves: its path, and who watches it.
type udpFlow struct {
	f       *flow
	receive func([]byte)
	ended   func() // the node's

	path    atomic.Pointer[udpPath] // nil: none now
	consent atomic.Int64            // when the peer last showed it, UnixNano
	lost    chan struct{}           // capacity 1: the path is to be replaced

	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{} // closed when maintain has ended
}

// newUDP asks the node to take the datagrams of f.
func (f *flow) newUDP() error {
	u := &udpFlow{f: f, lost: make(chan struct{}, 1), done: make(chan struct{})}
	life := f.ctx
	if life == nil { // of our own
		life = f.fs.ctx
	}
	u.ctx, u.cancel = context.WithCancel(life)
	var err error
	u.receive, u.ended, err = f.fs.cfg.Handler.UDP(f.Flow, u.send)
	if err != nil {
		u.cancel()
		return err
	}
	f.udp = u
	return nil
}

// drop ends one that no flow has come of.
func (u *udpFlow) drop() {
	u.cancel()
	u.ended()
}

// send sends a datagram of the application's, borrowed for the call.
func (u *udpFlow) send(b []byte) error {
	p := u.path.Load()
	if p == nil {
		return nil // lost, as on any path
	}
	return p.checks.Send(b)
}

// deliver takes a datagram that has come over p.
func (u *udpFlow) deliver(p *udpPath, b []byte) {
	if u.path.Load() == p && time.Since(time.Unix(0, u.consent.Load())) < consentFor {
		u.receive(b)
	}
}

// use makes p the path.
func (u *udpFlow) use(p *udpPath) {
	u.renewConsent()
	old := u.path.Swap(p)
	p.checks.Receive(func(b []byte) { u.deliver(p, b) })
	if old != nil {
		old.checks.Close()
	}
	if u.ctx.Err() != nil {
		u.closePath()
	}
}

func (u *udpFlow) renewConsent() { u.consent.Store(time.Now().UnixNano()) }

func (u *udpFlow) closePath() {
	if p := u.path.Swap(nil); p != nil {
		p.checks.Close()
	}
}

// losePath has maintain look for another path.
func (u *udpFlow) losePath() {
	select {
	case u.lost <- struct{}{}:
	default:
	}
}

// close ends the flow, and waits.
func (u *udpFlow) close() {
	u.once.Do(func() {
		u.cancel()
		<-u.done
		u.closePath()
		u.ended()
		u.f.end()
	})
}

// maintain asks for consent and replaces a path that has none, until the flow
// ends.
func (u *udpFlow) maintain() {
	defer u.f.fs.spawn(u.close)
	defer close(u.done)
	tick := time.NewTicker(consentEvery)
	defer tick.Stop()
	forget := func() {}
	defer func() { forget() }()
	for {
		select {
		case <-u.ctx.Done():
			return
		case <-u.lost:
			if !u.replace() {
				return
			}
		case <-tick.C:
			forget()
			if p := u.path.Load(); p != nil {
				forget = p.checks.Check(u.renewConsent)
			}
			if time.Since(time.Unix(0, u.consent.Load())) > consentLost && !u.replace() {
				return
			}
		}
	}
}

// replace finds another path by an offer, ours or the peer's; false: the flow
// has ended.
func (u *udpFlow) replace() bool {
	ctx, cancel := context.WithTimeout(u.ctx, udpPatience)
	defer cancel()
	before := u.path.Load()
	for {
		err := u.f.resumeUDP(ctx)
		switch {
		case u.path.Load() != before || err == nil:
			return true
		case errors.Is(err, syscall.ECONNRESET), ctx.Err() != nil:
			return false
		}
		pause.For(ctx, udpRetry)
	}
}

// checkUDP runs the checks of a UDP flow.
func (fs *Flows) checkUDP(ctx context.Context, c UDPChecks, p peerid.ID, controlling bool, remote pipe.Remote) (*udpPath, error) {
	start := time.Now()
	remote.Candidates = fs.cfg.Usable(remote.Candidates)
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	local, to, err := c.Run(ctx, controlling, remote)
	if err != nil {
		return nil, &Error{StageCheck, err}
	}
	fs.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: p, Local: local, Remote: to, Duration: time.Since(start)})
	return &udpPath{c, local, to}, nil
}

// DialUDP opens a UDP flow to a peer. When it returns, what Handler.UDP has
// returned is in use. The function returned ends the flow; it waits. Errors are
// those of DialTCP.
func (fs *Flows) DialUDP(ctx context.Context, fl Flow) (end func(), err error) {
	fl.UDP, fl.Opener = true, true
	if !allowed(fs.cfg.Handler.Policy, true) || fs.cfg.RelaysOnly {
		return nil, &Error{StageOffer, fmt.Errorf("%w by this node", ErrForbidden)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(fs.ctx, cancel)()
	c, err := fs.cfg.UDP(ctx)
	if err != nil {
		return nil, &Error{StageOffer, err}
	}
	f := &flow{Flow: fl, fs: fs, key: flowKey{fl.Peer, newFlowID()}, policy: wire.PolicyPlain}
	remote, err := fs.ask(ctx, fl.Peer, c, f.about(wire.FlowOpen))
	var p *udpPath
	if err == nil {
		p, err = fs.checkUDP(ctx, c, fl.Peer, true, remote)
	}
	if err == nil {
		f.chain = remote.Chain
		if err = f.newUDP(); err != nil {
			err = &Error{StageOffer, err}
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	if err := f.openUDP(p); err != nil {
		return nil, &Error{StageOffer, err}
	}
	return f.udp.close, nil
}

// openUDP puts a new flow to use. If it cannot, it has ended the flow.
func (f *flow) openUDP(p *udpPath) error {
	u, fs := f.udp, f.fs
	f.mu.Lock()
	f.local, f.remote = p.local, p.to
	f.mu.Unlock()
	u.use(p)
	if !fs.add(f) || !fs.spawn(u.maintain) {
		close(u.done)
		u.close()
		return net.ErrClosed
	}
	fs.retire(p.checks)
	f.emit(event.FlowUp, p.local, p.to)
	return nil
}

// retire ends a path's agent after a grace in which it still answers.
func (fs *Flows) retire(c UDPChecks) {
	if !fs.spawn(func() { pause.For(fs.ctx, agentGrace); c.Retire() }) {
		c.Retire()
	}
}

// answerOpenUDP answers the offer of a UDP flow that is new. begun says that it is being
// opened.
func (fs *Flows) answerOpenUDP(in *pipe.Incoming, f *flow) (answer Answer, begun bool) {
	if err := f.newUDP(); err != nil {
		return fs.refuse(in, wire.FlowRefused), false
	}
	u := f.udp
	c, err := fs.cfg.UDP(u.ctx)
	if err != nil {
		u.drop()
		return fs.refuse(in, wire.FlowNoWay), false
	}
	answer = fs.accept(in, c, f.about(wire.FlowOpen))
	begun = answer.Verdict == Answered && fs.spawn(func() {
		p, err := fs.checkUDP(u.ctx, c, in.Peer, false, in.Remote)
		if err != nil {
			c.Close()
			u.drop()
		} else {
			err = f.openUDP(p) // which ends the flow if it fails
		}
		if err != nil {
			fs.log.Debug("flow not opened", "peer", in.Peer, "err", err)
			fs.release(f)
		}
	})
	if !begun {
		c.Close()
		u.drop()
	}
	return answer, begun
}

// resumeUDP gives the flow another path by an offer of ours.
func (f *flow) resumeUDP(ctx context.Context) error {
	fs := f.fs
	ctx, a, err := f.begin(ctx)
	if err != nil {
		return err
	}
	defer f.stop(a)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := fs.cfg.UDP(ctx)
	if err != nil {
		return err
	}
	w := f.about(wire.FlowResume)
	w.Epoch = a.epoch
	remote, err := fs.ask(ctx, f.Peer, c, w)
	var p *udpPath
	if err == nil {
		p, err = fs.checkUDP(ctx, c, f.Peer, true, remote)
	}
	if err != nil {
		c.Close()
		return err
	}
	f.installUDP(a, p, remote)
	return nil
}

func (f *flow) installUDP(a *attempt, p *udpPath, remote pipe.Remote) {
	f.udp.use(p)
	f.fs.retire(p.checks)
	f.install(a, p.local, p.to, remote.Chain)
}

// answerResumeUDP answers the offer of another path.
func (f *flow) answerResumeUDP(ctx context.Context, a *attempt, in *pipe.Incoming) Answer {
	fs := f.fs
	c, err := fs.cfg.UDP(ctx)
	if err != nil {
		f.stop(a)
		return fs.refuse(in, wire.FlowNoWay)
	}
	w := f.about(wire.FlowResume)
	w.Epoch = in.Remote.Flow.Epoch
	answer := fs.accept(in, c, w)
	ok := answer.Verdict == Answered && fs.spawn(func() {
		defer f.stop(a)
		p, err := fs.checkUDP(ctx, c, in.Peer, false, in.Remote)
		if err != nil {
			fs.log.Debug("flow not resumed", "peer", in.Peer, "err", err)
			c.Close()
			return
		}
		f.installUDP(a, p, in.Remote)
	})
	if !ok {
		c.Close()
		f.stop(a)
	}
	return answer
}
