package nullflow

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	icetcp "github.com/idloc/idloc/overlay/ice/tcp"
	"github.com/idloc/idloc/overlay/p2p"
)

const tlsTimeout = 10 * time.Second

// DialTCP opens a TCP flow to a peer. fl.Peer and the ports must be set. ended
// is called once: when the flow is over, or has come to nothing. Errors are
// *Error or of Config.Offers; ErrForbidden and ErrRefused are found inside.
func (fs *Flows) DialTCP(ctx context.Context, fl Flow, ended func()) (net.Conn, error) {
	ended = sync.OnceFunc(ended)
	c, err := fs.dialTCP(ctx, fl, ended)
	if err != nil {
		ended()
		return nil, err
	}
	return c, nil
}

func (fs *Flows) dialTCP(ctx context.Context, fl Flow, ended func()) (net.Conn, error) {
	fl.UDP, fl.Opener = false, true
	if !allowed(fs.cfg.Handler.Policy, fl.UDP) {
		return nil, &Error{StageOffer, fmt.Errorf("%w by this node", ErrForbidden)}
	}
	if fs.port == nil {
		return nil, &Error{StageOffer, fmt.Errorf("no TCP port: %w", errors.ErrUnsupported)}
	}
	if fs.cfg.RelaysOnly {
		return nil, &Error{StageOffer, fmt.Errorf("%w by this node: paths are through relays only", ErrForbidden)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(fs.ctx, cancel)()
	s, err := fs.port.NewSession(ctx)
	if err != nil {
		return nil, &Error{StageOffer, err}
	}
	defer s.Close()
	f := &flow{Flow: fl, fs: fs, key: flowKey{fl.Peer, newFlowID()}, ended: ended}
	w := f.about(wire.FlowOpen)
	w.Unread = null.MaxUnread
	remote, err := fs.ask(ctx, fl.Peer, s, w)
	if err != nil {
		return nil, err
	}
	f.policy, f.chain = stricter(fs.cfg.Handler.Policy, remote.Flow.Policy), remote.Chain
	if !allowed(f.policy, false) {
		return nil, &Error{StageOffer, fmt.Errorf("%w between these two", ErrForbidden)}
	}
	real, err := fs.checkTCP(ctx, s, fl.Peer, true, remote)
	if err != nil {
		return nil, err
	}
	return f.openTCP(ctx, real, int(remote.Flow.Unread))
}

// answerOpenTCP answers the offer of a TCP flow that is new. begun says that it is being
// opened.
func (fs *Flows) answerOpenTCP(in *pipe.Incoming, f *flow) (a Answer, begun bool) {
	take, err := fs.cfg.Handler.TCP(f.Flow)
	if err != nil {
		return fs.refuse(in, wire.FlowRefused), false
	}
	if fs.port == nil {
		return fs.refuse(in, wire.FlowNoWay), false
	}
	s, err := fs.port.NewSession(f.ctx)
	if err != nil {
		return fs.refuse(in, wire.FlowNoWay), false
	}
	w := f.about(wire.FlowOpen)
	w.Unread = null.MaxUnread
	a = fs.accept(in, s, w)
	begun = a.Verdict == Answered && fs.spawn(func() {
		if err := fs.acceptTCP(in, f, s, take); err != nil {
			fs.log.Debug("flow not opened", "peer", in.Peer, "err", err)
			fs.release(f)
		}
	})
	if !begun {
		s.Close()
	}
	return a, begun
}

// acceptTCP runs the checks of a flow that a peer opens and hands its conn on.
func (fs *Flows) acceptTCP(in *pipe.Incoming, f *flow, s *icetcp.Session, take func(net.Conn) error) error {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	real, err := fs.checkTCP(ctx, s, in.Peer, false, in.Remote)
	if err != nil {
		return err
	}
	c, err := f.openTCP(ctx, real, int(in.Remote.Flow.Unread))
	if err != nil {
		return err
	}
	if err := take(c); err != nil {
		f.abort()
		return err
	}
	return nil
}

// checkTCP runs the checks of a TCP flow.
func (fs *Flows) checkTCP(ctx context.Context, s *icetcp.Session, p peerid.ID, controlling bool, remote pipe.Remote) (null.Conn, error) {
	start := time.Now()
	candidates := fs.cfg.Usable(remote.Candidates)
	fs.cfg.Events.Emit(event.Event{Kind: event.Candidates, Peer: p,
		Detail: "local " + ice.Describe(s.Candidates()) + "; remote " + ice.Describe(candidates)})
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c, err := s.Run(ctx, controlling, remote.Ufrag, remote.Pwd, candidates)
	if err != nil {
		return nil, &Error{StageCheck, err}
	}
	real, err := realConn(c)
	if err != nil {
		_ = c.Close()
		return nil, &Error{StageCheck, err}
	}
	local, to := null.Addrs(real)
	if fs.cfg.Answered != nil {
		fs.cfg.Answered(to.Addr())
	}
	fs.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: p, Local: local, Remote: to, Duration: time.Since(start)})
	return real, nil
}

// realConn makes of a connection what a stream needs. One of a simulated
// network has the methods itself.
func realConn(c net.Conn) (null.Conn, error) {
	switch c := c.(type) {
	case *net.TCPConn:
		return null.TCP(c), nil
	case null.Conn:
		return c, nil
	}
	return nil, fmt.Errorf("%T as a real connection: %w", c, errors.ErrUnsupported)
}

// openTCP makes the application's conn on a flow's first connection.
func (f *flow) openTCP(ctx context.Context, real null.Conn, unread int) (net.Conn, error) {
	local, remote, ended, err := f.fs.cfg.Handler.Addrs(f.Flow)
	if err != nil {
		real.Abort()
		return nil, &Error{StageOffer, err}
	}
	dialled := f.ended
	f.ended = func() {
		ended()
		if dialled != nil {
			dialled()
		}
	}
	f.local, f.remote = null.Addrs(real)
	f.stream = null.New(null.Config{
		Local: net.TCPAddrFromAddrPort(local), Remote: net.TCPAddrFromAddrPort(remote),
		Resume: f.resumeTCP, Ended: func(error) { f.end() },
	}, real, unread)
	if !f.fs.add(f) {
		f.abort()
		return nil, &Error{StageOffer, net.ErrClosed}
	}
	f.emit(event.FlowUp, f.local, f.remote)
	if f.policy == wire.PolicyPlain {
		return f.stream, nil
	}
	c, err := f.secure(ctx)
	if err != nil {
		f.abort()
		return nil, &Error{StageHandshake, err}
	}
	return c, nil
}

// secure runs TLS 1.3 over the stream. Each side shows the key that it is
// known by (the libp2p TLS specification) and wants the other's.
func (f *flow) secure(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	conf, key := f.fs.cfg.Identity.ConfigForPeer(p2p.ID(f.Peer))
	c := tls.Server(f.stream, conf)
	if f.Opener {
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

// report is what an offer or answer says about the bytes taken so far.
func (f *flow) report(r null.Report, epoch uint32) wire.Flow {
	w := f.about(wire.FlowResume)
	w.Epoch, w.Taken, w.Ended, w.Closed, w.End, w.Unread = epoch, r.Taken, r.Ended, r.Closed, r.End, r.Unread
	return w
}

func reportOf(w wire.Flow) null.Report {
	return null.Report{Taken: w.Taken, Ended: w.Ended, Closed: w.Closed, End: w.End, Unread: w.Unread}
}

// resumeTCP is the stream's Config.Resume: it gets another connection by an
// offer of ours.
func (f *flow) resumeTCP(ctx context.Context, mine null.Report) error {
	fs := f.fs
	ctx, a, err := f.begin(ctx)
	if err != nil {
		return err
	}
	defer f.stop(a)
	// The peer's attempt may have ended between the report and ours; from here
	// on another one ends ours first.
	if !f.stream.Fresh(mine) {
		return errOvertaken
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := fs.port.NewSession(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	remote, err := fs.ask(ctx, f.Peer, s, f.report(mine, a.epoch))
	if errors.Is(err, ErrForbidden) { // since it was opened
		return fmt.Errorf("%w: %w", null.ErrReset, err)
	}
	if err != nil {
		return err
	}
	real, err := fs.checkTCP(ctx, s, f.Peer, true, remote)
	if err != nil {
		return err
	}
	return f.installTCP(a, real, mine, remote)
}

// answerResumeTCP answers the offer of another connection.
func (f *flow) answerResumeTCP(ctx context.Context, a *attempt, in *pipe.Incoming) Answer {
	fs := f.fs
	mine, ok := f.stream.Pause()
	if !ok {
		f.stop(a)
		return fs.refuse(in, wire.FlowUnknown)
	}
	s, err := fs.port.NewSession(ctx)
	if err != nil {
		f.stop(a)
		return fs.refuse(in, wire.FlowNoWay)
	}
	answer := fs.accept(in, s, f.report(mine, in.Remote.Flow.Epoch))
	ok = answer.Verdict == Answered && fs.spawn(func() {
		defer f.stop(a)
		real, err := fs.checkTCP(ctx, s, in.Peer, false, in.Remote)
		if err == nil {
			err = f.installTCP(a, real, mine, in.Remote)
		}
		if err != nil {
			fs.log.Debug("flow not resumed", "peer", in.Peer, "err", err)
		}
	})
	if !ok {
		s.Close()
		f.stop(a)
	}
	return answer
}

// installTCP gives the stream a connection.
func (f *flow) installTCP(a *attempt, real null.Conn, mine null.Report, remote pipe.Remote) error {
	local, to := null.Addrs(real)
	if err := f.stream.Install(real, mine, reportOf(remote.Flow)); err != nil {
		return err
	}
	f.install(a, local, to, remote.Chain)
	return nil
}
