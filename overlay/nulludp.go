package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/stun/v2"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// A UDP flow with null encapsulation has sockets of its own. What comes in on
// them is a connectivity check if it is a STUN message that our fragment and
// password, or an outstanding transaction and the peer's password, make ours;
// all else is the application's, STUN of its own included. Datagrams are
// delivered from the nominated address only, and while there is consent (RFC
// 7675).
const (
	udpGather    = 500 * time.Millisecond // for mapped addresses, by the time of the offer
	consentEvery = 4 * time.Second        // a check of the path in use
	consentFor   = 30 * time.Second       // RFC 7675 §5.1
	consentLost  = 10 * time.Second       // without an answer: look for another path
	udpRetry     = 500 * time.Millisecond
	udpPatience  = 60 * time.Second // without a path the flow ends
)

// udpChecks are one offer's sockets and connectivity checks.
type udpChecks struct {
	demux *stunDemux
	port  *socket.Port
	agent *iceAgent // nil until made; guarded by ready

	ready  chan struct{} // closed when agent is set
	flow   atomic.Pointer[nullUDP]
	mu     sync.Mutex // guards early
	early  []earlyDatagram
	remote atomic.Pointer[udpRemote]
	closed sync.Once
}

// earlyDatagram came before this side had the pair in use: the controlling side
// has it first, and sends.
type earlyDatagram struct {
	conn *socket.Conn
	from netip.AddrPort
	b    []byte
}

const maxEarly = 16 // datagrams that wait for the pair

// udpRemote is what is known of the other end.
type udpRemote struct {
	ufrag, pwd string
	conn       *socket.Conn // of the nominated pair; nil before
	at         netip.AddrPort
}

func (n *nulls) newUDPChecks(ctx context.Context) (*udpChecks, error) {
	u := &udpChecks{demux: newSTUNDemux(), ready: make(chan struct{})}
	u.demux.pacer = n.o.demux.pacer
	var err error
	u.port, err = socket.Listen(socket.Config{Net: n.o.cfg.Net, Addrs: n.addrs(), OnAny: u.received, Logger: n.o.log})
	if err != nil {
		return nil, err
	}
	mapped := newReflexive(u.demux, u.port.Conns, n.o.stunServers)
	gather, cancel := context.WithTimeout(ctx, udpGather)
	mapped.measure(gather)
	cancel()
	u.agent, err = newICE(u.demux, u.port.Conns(), mapped.of, nil, n.o.cfg.Net, 0)
	if err != nil {
		_ = u.port.Close()
		return nil, err
	}
	close(u.ready)
	return u, nil
}

func (u *udpChecks) Credentials() (string, string) { return u.agent.ufrag, u.agent.pwd }
func (u *udpChecks) Candidates() []wire.Candidate  { return u.agent.candidates }

// Close closes the sockets. It is idempotent, and must not be called from
// received.
func (u *udpChecks) Close() {
	u.closed.Do(func() {
		u.agent.close()
		_ = u.port.Close()
	})
}

// run checks the pairs with what the peer has shown.
func (u *udpChecks) run(ctx context.Context, n *nulls, controlling bool, remote pipe.Remote) error {
	u.remote.Store(&udpRemote{ufrag: remote.Ufrag, pwd: remote.Pwd})
	start := time.Now()
	candidates := n.o.filter.keep(remote.Candidates)
	if len(candidates) == 0 {
		return errNoPair
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	path, err := u.agent.nominate(ctx, controlling, remote, candidates)
	if err != nil {
		return err
	}
	conn, ok := path.Local.(*socket.Conn)
	if !ok {
		return errNoPair
	}
	u.remote.Store(&udpRemote{ufrag: remote.Ufrag, pwd: remote.Pwd, conn: conn, at: path.Remote})
	n.o.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Local: conn.LocalAddr(), Remote: path.Remote, Duration: time.Since(start)})
	return nil
}

// received takes what has come in on a socket: datagrams of seg bytes each.
func (u *udpChecks) received(c *socket.Conn, from netip.AddrPort, b []byte, seg int) {
	for first := true; first || len(b) > 0; first = false { // one datagram at least, perhaps an empty one
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if u.check(c, from, d) {
			continue
		}
		f := u.flow.Load()
		if f == nil && u.hold(c, from, d) {
			continue
		}
		u.deliver(u.flow.Load(), c, from, d)
	}
}

// deliver gives f a datagram if it came from the nominated address.
func (u *udpChecks) deliver(f *nullUDP, c *socket.Conn, from netip.AddrPort, d []byte) {
	if r := u.remote.Load(); f != nil && r != nil && r.conn == c && r.at == from {
		f.deliver(u, d)
	}
}

// hold keeps a datagram for use; false: use was called already.
func (u *udpChecks) hold(c *socket.Conn, from netip.AddrPort, d []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.flow.Load() != nil {
		return false
	}
	if len(u.early) < maxEarly {
		u.early = append(u.early, earlyDatagram{c, from, append([]byte(nil), d...)})
	}
	return true
}

// use gives what has come, and what comes, to f.
func (u *udpChecks) use(f *nullUDP) {
	u.mu.Lock()
	u.flow.Store(f)
	early := u.early
	u.early = nil
	u.mu.Unlock()
	for _, e := range early {
		u.deliver(f, e.conn, e.from, e.b)
	}
}

// check takes d if it is a connectivity check of ours.
func (u *udpChecks) check(c *socket.Conn, from netip.AddrPort, d []byte) bool {
	kind, id := classify(d)
	switch kind {
	case stunRequest:
		select {
		case <-u.ready:
		default:
			return false
		}
		if string(username(d)) != u.agent.ufrag || !verified(d, u.agent.pwd) {
			return false
		}
		u.request(c, from, d, id)
		return true
	case stunResponse:
		u.demux.mu.RLock()
		take := u.demux.pending[id]
		u.demux.mu.RUnlock()
		if take == nil {
			return false
		}
		if r := u.remote.Load(); r != nil && !verified(d, r.pwd) {
			return false
		}
		take(c, from, d)
		return true
	}
	return false
}

// verified says whether the message's MESSAGE-INTEGRITY was made with pwd.
func verified(d []byte, pwd string) bool {
	m := &stun.Message{Raw: append([]byte(nil), d...)}
	return m.Decode() == nil && stun.NewShortTermIntegrity(pwd).Check(m) == nil
}

// request answers a check of the peer's, by the agent as long as it is there.
func (u *udpChecks) request(c *socket.Conn, from netip.AddrPort, d []byte, id transactionID) {
	select {
	case <-u.agent.closed:
	default:
		u.demux.handle(c, from, d)
		return
	}
	m, err := stun.Build(stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())},
		stun.NewShortTermIntegrity(u.agent.pwd), stun.Fingerprint)
	if err == nil {
		_ = c.WriteTo(m.Raw, from)
	}
}

// ask sends a check over the pair in use; answered is called when the peer
// answers it. The function returned forgets the question.
func (u *udpChecks) ask(answered func()) (forget func()) {
	r := u.remote.Load()
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, stun.NewUsername(r.ufrag+":"+u.agent.ufrag),
		stun.NewShortTermIntegrity(r.pwd), stun.Fingerprint)
	if err != nil {
		return func() {}
	}
	u.demux.mu.Lock()
	u.demux.pending[m.TransactionID] = func(_ *socket.Conn, from netip.AddrPort, _ []byte) {
		if from == r.at {
			answered()
		}
	}
	u.demux.mu.Unlock()
	_ = r.conn.WriteTo(m.Raw, r.at)
	return func() {
		u.demux.mu.Lock()
		delete(u.demux.pending, m.TransactionID)
		u.demux.mu.Unlock()
	}
}

// nullUDP is the moving part of a UDP flow.
type nullUDP struct {
	f       *nullFlow
	receive func([]byte)
	over    func()

	path    atomic.Pointer[udpChecks] // nil: none now
	consent atomic.Int64              // when the peer last showed it, UnixNano
	gone    chan error                // capacity 1: the path is to be replaced

	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{} // closed when keep has ended
}

func (n *nulls) newUDP(f *nullFlow) (*nullUDP, error) {
	u := &nullUDP{f: f, gone: make(chan error, 1), done: make(chan struct{})}
	u.ctx, u.cancel = context.WithCancel(n.ctx)
	var err error
	u.receive, u.over, err = n.cfg.UDP(f.flow, u.send)
	if err != nil {
		u.cancel()
		return nil, err
	}
	f.udp = u
	return u, nil
}

// send sends a datagram of the application's, borrowed for the call.
func (u *nullUDP) send(b []byte) error {
	p := u.path.Load()
	if p == nil {
		return nil // lost, as on any path
	}
	r := p.remote.Load()
	if err := r.conn.WriteTo(b, r.at); errors.Is(err, socket.ErrMessageTooLong) {
		return syscall.EMSGSIZE
	}
	return nil
}

func (u *nullUDP) deliver(p *udpChecks, b []byte) {
	if u.path.Load() == p && time.Since(time.Unix(0, u.consent.Load())) < consentFor {
		u.receive(b)
	}
}

// use makes p the path.
func (u *nullUDP) use(p *udpChecks) {
	u.consent.Store(time.Now().UnixNano())
	old := u.path.Swap(p)
	p.use(u)
	if old != nil {
		old.Close()
	}
	if u.ctx.Err() != nil {
		if p := u.path.Swap(nil); p != nil {
			p.Close()
		}
	}
}

func (u *nullUDP) lost(err error) {
	select {
	case u.gone <- err:
	default:
	}
}

func (u *nullUDP) close() {
	u.once.Do(func() {
		u.cancel()
		<-u.done
		if p := u.path.Swap(nil); p != nil {
			p.Close()
		}
		u.over()
		u.f.ended(nil)
	})
}

// keep asks for consent and replaces a path that has none, until the flow
// ends.
func (u *nullUDP) keep() {
	defer u.f.n.spawn(u.close)
	defer close(u.done)
	tick := time.NewTicker(consentEvery)
	defer tick.Stop()
	forget := func() {}
	defer func() { forget() }()
	for {
		select {
		case <-u.ctx.Done():
			return
		case <-u.gone:
			if !u.replace() {
				return
			}
		case <-tick.C:
			forget()
			if p := u.path.Load(); p != nil {
				forget = p.ask(func() { u.consent.Store(time.Now().UnixNano()) })
			}
			if time.Since(time.Unix(0, u.consent.Load())) > consentLost && !u.replace() {
				return
			}
		}
	}
}

// replace finds another path by an offer, ours or the peer's; false: the flow
// has ended.
func (u *nullUDP) replace() bool {
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
		pause(ctx, udpRetry)
	}
}

// DialNullUDP opens a UDP flow to a peer. When it returns, what NullConfig.UDP
// has returned is in use. The function returned ends the flow; it waits.
func (o *Overlay) DialNullUDP(ctx context.Context, fl NullFlow) (end func(), err error) {
	end, err = o.nulls.dialUDP(ctx, fl)
	var s *StageError
	if err != nil && !errors.As(err, &s) {
		err = &StageError{StageOffer, fl.Peer, err}
	}
	return end, err
}

func (n *nulls) dialUDP(ctx context.Context, fl NullFlow) (func(), error) {
	fl.UDP, fl.Opener = true, true
	if !allowed(n.cfg.Policy, true) || n.o.cfg.Paths == PathRelayOnly {
		return nil, ErrNullForbidden
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	c, err := n.newUDPChecks(ctx)
	if err != nil {
		return nil, err
	}
	f := &nullFlow{n: n, key: flowKey{fl.Peer, newFlowID()}, flow: fl, opener: true, policy: wire.PolicyPlain}
	remote, err := n.ask(ctx, fl.Peer, n.localFlow(c, f.wire(wire.FlowOpen)))
	if err == nil {
		if err = asked(remote.Flow.Kind); err != nil {
			err = &StageError{StageOffer, fl.Peer, err}
		}
	}
	if err == nil {
		if err = c.run(ctx, n, true, remote); err != nil {
			err = &StageError{StageCheck, fl.Peer, err}
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	f.chain = remote.Chain
	if err := n.beginUDP(f, c); err != nil {
		c.Close()
		return nil, err
	}
	return f.udp.close, nil
}

// beginUDP puts a new flow to use.
func (n *nulls) beginUDP(f *nullFlow, c *udpChecks) error {
	if f.udp == nil {
		if _, err := n.newUDP(f); err != nil {
			return err
		}
	}
	u := f.udp
	r := c.remote.Load()
	f.mu.Lock()
	f.local, f.remote = r.conn.LocalAddr(), r.at
	f.mu.Unlock()
	u.use(c)
	if !n.add(f) || !n.spawn(u.keep) {
		close(u.done)
		u.close()
		return net.ErrClosed
	}
	n.retireUDP(c)
	n.o.cfg.Events.Emit(event.Event{Kind: event.FlowUp, Peer: f.key.peer, Local: r.conn.LocalAddr(), Remote: r.at, Detail: f.kind()})
	return nil
}

// retireUDP closes the agent after a grace in which it still answers; from
// then on the checks themselves do.
func (n *nulls) retireUDP(c *udpChecks) {
	if !n.spawn(func() { pause(n.ctx, iceGrace); c.agent.close() }) {
		c.agent.close()
	}
}

// openedUDP answers the offer of a UDP flow that is new.
func (n *nulls) openedUDP(in *pipe.Incoming, f *nullFlow) offerResponse {
	if _, err := n.newUDP(f); err != nil {
		return n.refuse(in, wire.FlowRefused)
	}
	c, err := n.newUDPChecks(n.ctx)
	if err != nil {
		f.udp.over()
		return n.refuse(in, wire.FlowNoWay)
	}
	answer := n.accept(in, c, f.wire(wire.FlowOpen))
	ok := answer.status == offerAnswered && n.spawn(func() {
		err := c.run(n.ctx, n, false, in.Remote)
		if err == nil {
			if err = n.beginUDP(f, c); err != nil {
				return // which has ended the flow
			}
			return
		}
		n.o.log.Debug("flow not opened", "peer", in.Peer, "err", err)
		c.Close()
		f.udp.over()
	})
	if !ok {
		c.Close()
		f.udp.over()
	}
	return answer
}

// resumeUDP gives the flow another path by an offer of ours.
func (f *nullFlow) resumeUDP(ctx context.Context) error {
	n := f.n
	if !f.opener && !f.yield(ctx) {
		return errOvertaken
	}
	ctx, a, err := f.start(ctx)
	if err != nil {
		return err
	}
	defer f.stop(a)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := n.newUDPChecks(ctx)
	if err != nil {
		return err
	}
	w := f.wire(wire.FlowResume)
	w.Epoch = a.epoch
	remote, err := n.ask(ctx, f.key.peer, n.localFlow(c, w))
	if err == nil {
		err = asked(remote.Flow.Kind)
	}
	if err == nil {
		err = c.run(ctx, n, true, remote)
	}
	if err != nil {
		c.Close()
		return err
	}
	f.useUDP(a, c, remote)
	return nil
}

func (f *nullFlow) useUDP(a *nullAttempt, c *udpChecks, remote pipe.Remote) {
	r := c.remote.Load()
	f.udp.use(c)
	f.n.retireUDP(c)
	f.installedAt(a, r.conn.LocalAddr(), r.at, remote.Chain)
}

// resumedUDP answers the offer of another path.
func (f *nullFlow) resumedUDP(ctx context.Context, a *nullAttempt, in *pipe.Incoming) offerResponse {
	n := f.n
	c, err := n.newUDPChecks(ctx)
	if err != nil {
		f.stop(a)
		return n.refuse(in, wire.FlowNoWay)
	}
	w := f.wire(wire.FlowResume)
	w.Epoch = in.Remote.Flow.Epoch
	answer := n.accept(in, c, w)
	ok := answer.status == offerAnswered && n.spawn(func() {
		defer f.stop(a)
		if err := c.run(ctx, n, false, in.Remote); err != nil {
			n.o.log.Debug("flow not resumed", "peer", in.Peer, "err", err)
			c.Close()
			return
		}
		f.useUDP(a, c, in.Remote)
	})
	if !ok {
		c.Close()
		f.stop(a)
	}
	return answer
}
