package overlay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// nullFlow is one flow with null encapsulation, of TCP or of UDP. It is safe
// for concurrent use.
//
// An attempt to give it other real addresses has an epoch, which rises. At
// most one is under way. When both sides begin one, the higher epoch stands,
// and of two equal ones that of the smaller peer ID, as with pipes.
type nullFlow struct {
	n      *nulls
	key    flowKey
	flow   NullFlow
	opener bool
	policy uint8        // the stricter of both
	stream *null.Stream // of TCP; set before the flow is known to others
	over   func()       // of NullConfig.Addrs
	udp    *nullUDP     // of UDP

	mu            sync.Mutex // guards what follows
	chain         []byte     // of the peer
	epoch         uint32     // of the newest attempt
	installed     uint32     // of the connection in use
	attempt       *nullAttempt
	local, remote netip.AddrPort // real
	resumed       int
}

// nullAttempt is one exchange of offer and answer with its checks.
type nullAttempt struct {
	epoch  uint32
	ours   bool
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// DialNull opens a TCP flow to a peer. f.Peer and the ports must be set. ended
// is called when the flow is over, or has come to nothing. Errors are
// *StageError; ErrNullForbidden and ErrNullRefused are found inside.
func (o *Overlay) DialNull(ctx context.Context, f NullFlow, ended func()) (net.Conn, error) {
	ended = sync.OnceFunc(ended)
	c, err := o.nulls.dial(ctx, f, ended)
	if err != nil {
		ended()
		var s *StageError
		if !errors.As(err, &s) {
			err = &StageError{StageOffer, f.Peer, err}
		}
		return nil, err
	}
	return c, nil
}

func (n *nulls) dial(ctx context.Context, fl NullFlow, ended func()) (net.Conn, error) {
	fl.UDP, fl.Opener = false, true
	if !allowed(n.cfg.Policy, fl.UDP) {
		return nil, fmt.Errorf("%w: this node's own", ErrNullForbidden)
	}
	if n.port == nil {
		return nil, fmt.Errorf("no TCP port: %w", errors.ErrUnsupported)
	}
	if n.o.cfg.Paths == PathRelayOnly {
		return nil, fmt.Errorf("%w: paths are through relays only", ErrNullForbidden)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	s, err := n.port.NewSession(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	f := &nullFlow{n: n, key: flowKey{fl.Peer, newFlowID()}, flow: fl, opener: true, over: ended}
	w := f.wire(wire.FlowOpen)
	w.Unread = null.MaxUnread
	remote, err := n.ask(ctx, fl.Peer, n.localFlow(s, w))
	if err != nil {
		return nil, err
	}
	if err := asked(remote.Flow.Kind); err != nil {
		return nil, &StageError{StageOffer, fl.Peer, err}
	}
	f.policy, f.chain = stricter(n.cfg.Policy, remote.Flow.Policy), remote.Chain
	if !allowed(f.policy, false) {
		return nil, &StageError{StageOffer, fl.Peer, ErrNullForbidden}
	}
	real, err := n.runTCP(ctx, s, fl.Peer, true, remote)
	if err != nil {
		return nil, err
	}
	return n.begin(ctx, f, real, int(remote.Flow.Unread))
}

// opened answers the offer of a flow that is new.
func (n *nulls) opened(in *pipe.Incoming) offerResponse {
	w := in.Remote.Flow
	f := &nullFlow{n: n, key: flowKey{in.Peer, w.ID}, policy: stricter(n.cfg.Policy, w.Policy), chain: in.Remote.Chain,
		flow: NullFlow{Peer: in.Peer, UDP: w.Protocol == wire.FlowUDP, V6: w.V6, Local: w.ListenerPort, Remote: w.OpenerPort}}
	if !allowed(f.policy, f.flow.UDP) || n.o.cfg.Paths == PathRelayOnly {
		return n.refuse(in, wire.FlowForbidden)
	}
	if n.find(f.key) != nil || n.full() {
		return n.refuse(in, wire.FlowRefused)
	}
	if f.flow.UDP {
		return n.openedUDP(in, f)
	}
	take, err := n.cfg.TCP(f.flow)
	if err != nil {
		return n.refuse(in, wire.FlowRefused)
	}
	if n.port == nil {
		return n.refuse(in, wire.FlowNoWay)
	}
	s, err := n.port.NewSession(n.ctx)
	if err != nil {
		return n.refuse(in, wire.FlowNoWay)
	}
	mine := f.wire(wire.FlowOpen)
	mine.Unread = null.MaxUnread
	a := n.accept(in, s, mine)
	ok := a.status == offerAnswered && n.spawn(func() {
		ctx, cancel := context.WithTimeout(n.ctx, connectTimeout)
		defer cancel()
		real, err := n.runTCP(ctx, s, in.Peer, false, in.Remote)
		if err == nil {
			var c net.Conn
			if c, err = n.begin(ctx, f, real, int(w.Unread)); err == nil {
				if err = take(c); err != nil {
					f.abort(err)
				}
			}
		}
		if err != nil {
			n.o.log.Debug("flow not opened", "peer", in.Peer, "err", err)
		}
	})
	if !ok {
		s.Close()
	}
	return a
}

// begin makes the application's conn on a flow's first connection.
func (n *nulls) begin(ctx context.Context, f *nullFlow, real null.Conn, unread int) (net.Conn, error) {
	local, remote, over, err := n.cfg.Addrs(f.flow)
	if err != nil {
		real.Abort()
		return nil, err
	}
	before := f.over
	f.over = func() {
		over()
		if before != nil {
			before()
		}
	}
	f.local, f.remote = null.Addrs(real)
	f.stream = null.New(null.Config{
		Local: net.TCPAddrFromAddrPort(local), Remote: net.TCPAddrFromAddrPort(remote),
		Resume: f.resume, Ended: f.ended,
	}, real, unread)
	if !n.add(f) {
		f.abort(net.ErrClosed)
		return nil, net.ErrClosed
	}
	n.o.cfg.Events.Emit(event.Event{Kind: event.FlowUp, Peer: f.key.peer, Local: f.local, Remote: f.remote, Detail: f.kind()})
	if f.policy == wire.PolicyPlain {
		return f.stream, nil
	}
	c, err := n.secure(ctx, f)
	if err != nil {
		f.abort(err)
		return nil, &StageError{StageHandshake, f.key.peer, err}
	}
	return c, nil
}

// secure runs TLS 1.3 over the stream. Each side shows the key that it is
// known by (the libp2p TLS specification) and wants the other's.
func (n *nulls) secure(ctx context.Context, f *nullFlow) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, nullTLSTimeout)
	defer cancel()
	conf, key := n.identity.ConfigForPeer(toLibp2p(f.key.peer))
	c := tls.Server(f.stream, conf)
	if f.opener {
		c = tls.Client(f.stream, conf)
	}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	select {
	case k, ok := <-key:
		if ok && k != nil {
			return c, nil
		}
	default:
	}
	return nil, errors.New("TLS: the peer has shown no key")
}

func (f *nullFlow) kind() string {
	switch {
	case f.flow.UDP:
		return "udp"
	case f.policy == wire.PolicyTLS:
		return "tcp, TLS 1.3"
	}
	return "tcp"
}

// ended is the stream's Config.Ended.
func (f *nullFlow) ended(error) {
	f.n.remove(f)
	if f.over != nil {
		f.over()
	}
	local, remote := f.real()
	f.n.o.cfg.Events.Emit(event.Event{Kind: event.FlowClosed, Peer: f.key.peer, Local: local, Remote: remote, Detail: f.kind()})
}

func (f *nullFlow) abort(err error) {
	if f.udp != nil {
		f.udp.close()
		return
	}
	f.stream.Abort()
	f.stream.Wait()
}

func (f *nullFlow) check() {
	if f.udp != nil {
		return // its consent tells
	}
	f.stream.Check()
}

func (f *nullFlow) lost(err error) {
	if f.udp != nil {
		f.udp.lost(err)
		return
	}
	f.stream.Lost(nil, err)
}

func (f *nullFlow) real() (local, remote netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.local, f.remote
}

func (f *nullFlow) report(r null.Report, kind wire.FlowKind, epoch uint32) wire.Flow {
	w := f.wire(kind)
	w.Epoch, w.Taken, w.Ended, w.Closed, w.End, w.Unread = epoch, r.Taken, r.Ended, r.Closed, r.End, r.Unread
	return w
}

func reportOf(w wire.Flow) null.Report {
	return null.Report{Taken: w.Taken, Ended: w.Ended, Closed: w.Closed, End: w.End, Unread: w.Unread}
}

var errOvertaken = errors.New("the peer's offer is under way")

// start begins an attempt of ours. If one of the peer's is under way, it waits
// for that one's end instead, and the error is errOvertaken.
func (f *nullFlow) start(ctx context.Context) (context.Context, *nullAttempt, error) {
	f.mu.Lock()
	if a := f.attempt; a != nil {
		f.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
		}
		return nil, nil, errOvertaken
	}
	defer f.mu.Unlock()
	f.epoch++
	a := &nullAttempt{epoch: f.epoch, ours: true, done: make(chan struct{})}
	ctx, a.cancel = context.WithCancelCause(ctx)
	f.attempt = a
	return ctx, a, nil
}

// stop ends an attempt.
func (f *nullFlow) stop(a *nullAttempt) {
	a.cancel(nil)
	f.mu.Lock()
	if f.attempt == a {
		f.attempt = nil
	}
	f.mu.Unlock()
	close(a.done)
}

// resume is the stream's Config.Resume: an offer of ours.
func (f *nullFlow) resume(ctx context.Context, mine null.Report) error {
	n := f.n
	if !f.opener && !f.yield(ctx) {
		return errOvertaken
	}
	ctx, a, err := f.start(ctx)
	if err != nil {
		return err
	}
	defer f.stop(a)
	// The peer's attempt may have ended between the report and ours; from here
	// on another one ends ours first.
	if !f.stream.Fresh(mine) {
		return errOvertaken
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	s, err := n.port.NewSession(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	remote, err := n.ask(ctx, f.key.peer, n.localFlow(s, f.report(mine, wire.FlowResume, a.epoch)))
	if err != nil {
		return err
	}
	if err := asked(remote.Flow.Kind); err != nil {
		if remote.Flow.Kind == wire.FlowForbidden { // since it was opened
			err = fmt.Errorf("%w: %w", null.ErrReset, err)
		}
		return err
	}
	real, err := n.runTCP(ctx, s, f.key.peer, true, remote)
	if err != nil {
		return err
	}
	return f.install(a, real, mine, remote)
}

// yield leaves it to the opener to make the offer, for a while: both have
// often noticed the loss at once. False: it has begun.
func (f *nullFlow) yield(ctx context.Context) bool {
	f.mu.Lock()
	epoch := f.epoch
	f.mu.Unlock()
	pause(ctx, nullYield)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch == epoch
}

// install gives the stream a connection.
func (f *nullFlow) install(a *nullAttempt, real null.Conn, mine null.Report, remote pipe.Remote) error {
	local, to := null.Addrs(real)
	if err := f.stream.Install(real, mine, reportOf(remote.Flow)); err != nil {
		return err
	}
	f.installedAt(a, local, to, remote.Chain)
	return nil
}

// installedAt notes that a's real addresses are in use.
func (f *nullFlow) installedAt(a *nullAttempt, local, remote netip.AddrPort, chain []byte) {
	f.mu.Lock()
	f.installed, f.local, f.remote, f.chain = a.epoch, local, remote, chain
	f.resumed++
	f.mu.Unlock()
	f.n.o.cfg.Events.Emit(event.Event{Kind: event.FlowMoved, Peer: f.key.peer, Local: local, Remote: remote, Detail: f.kind()})
}

// yieldTo makes room for an attempt of the peer's with an epoch, or says that
// ours stands.
func (f *nullFlow) yieldTo(epoch uint32) (*nullAttempt, context.Context, uint8) {
	for {
		f.mu.Lock()
		a := f.attempt
		switch {
		case epoch <= f.installed:
			f.mu.Unlock()
			return nil, nil, offerBusy
		case a == nil:
			b := &nullAttempt{epoch: epoch, done: make(chan struct{})}
			ctx, cancel := context.WithCancelCause(f.n.ctx)
			b.cancel = cancel
			f.attempt, f.epoch = b, max(f.epoch, epoch)
			f.mu.Unlock()
			return b, ctx, offerAnswered
		case a.ours && (epoch < a.epoch || epoch == a.epoch && f.key.peer.Compare(f.n.o.self) > 0):
			f.mu.Unlock()
			return nil, nil, offerGlare
		case !a.ours && epoch <= a.epoch:
			f.mu.Unlock()
			return nil, nil, offerBusy
		}
		f.mu.Unlock()
		a.cancel(errOvertaken)
		select {
		case <-a.done:
		case <-f.n.ctx.Done():
			return nil, nil, offerRefused
		}
	}
}

// resumed answers the offer of other real addresses for a flow.
func (n *nulls) resumed(in *pipe.Incoming) offerResponse {
	w := in.Remote.Flow
	f := n.find(flowKey{in.Peer, w.ID})
	if f == nil || f.flow.UDP != (w.Protocol == wire.FlowUDP) {
		return n.refuse(in, wire.FlowUnknown)
	}
	if !allowed(stricter(n.cfg.Policy, w.Policy), f.flow.UDP) || stricter(n.cfg.Policy, w.Policy) < f.policy {
		return n.refuse(in, wire.FlowForbidden)
	}
	a, ctx, status := f.yieldTo(w.Epoch)
	if a == nil {
		in.Reject()
		return offerResponse{status: status}
	}
	if f.flow.UDP {
		return f.resumedUDP(ctx, a, in)
	}
	mine, ok := f.stream.Pause()
	if !ok {
		f.stop(a)
		return n.refuse(in, wire.FlowUnknown)
	}
	s, err := n.port.NewSession(ctx)
	if err != nil {
		f.stop(a)
		return n.refuse(in, wire.FlowNoWay)
	}
	answer := n.accept(in, s, f.report(mine, wire.FlowResume, w.Epoch))
	ok = answer.status == offerAnswered && n.spawn(func() {
		defer f.stop(a)
		real, err := n.runTCP(ctx, s, in.Peer, false, in.Remote)
		if err == nil {
			err = f.install(a, real, mine, in.Remote)
		}
		if err != nil {
			n.o.log.Debug("flow not resumed", "peer", in.Peer, "err", err)
		}
	})
	if !ok {
		s.Close()
		f.stop(a)
	}
	return answer
}

// NullStatus is one flow with null encapsulation.
type NullStatus struct {
	NullFlow
	TLS                 bool
	RealLocal, RealPeer netip.AddrPort
	Moved               int // how often it got other real addresses
}

// NullFlows returns the flows that there are, ordered by peer and ports.
func (o *Overlay) NullFlows() []NullStatus {
	var out []NullStatus
	for _, f := range o.nulls.all() {
		f.mu.Lock()
		out = append(out, NullStatus{NullFlow: f.flow, TLS: f.policy == wire.PolicyTLS, RealLocal: f.local, RealPeer: f.remote, Moved: f.resumed})
		f.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b NullStatus) int {
		if c := a.Peer.Compare(b.Peer); c != 0 {
			return c
		}
		return int(a.Local)<<16 + int(a.Remote) - int(b.Local)<<16 - int(b.Remote)
	})
	return out
}
