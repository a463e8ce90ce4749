package overlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/icetcp"
)

// NullFlow is a 5-tuple that travels with null encapsulation (draft §4.3). Its
// addresses are the LSIs of the two peers, which only the node knows.
type NullFlow struct {
	Peer          peerid.ID
	UDP           bool // else TCP
	V6            bool // between IPv6 LSIs
	Opener        bool // this side has opened it
	Local, Remote uint16
}

// NullConfig is a peer's part in flows with null encapsulation.
type NullConfig struct {
	// Policy is wire.PolicyRefuse, PolicyTLS or PolicyPlain.
	Policy uint8
	// Addrs returns the LSIs and ports of a TCP flow, for its net.Conn, which
	// must be the peers' until ended is called.
	Addrs func(f NullFlow) (local, remote netip.AddrPort, ended func(), err error)
	// TCP is asked about a flow that a peer wants to open. It returns who
	// takes the conn; an error refuses the flow.
	TCP func(f NullFlow) (take func(net.Conn) error, err error)
	// UDP is asked likewise. It is given what sends bare datagrams of the
	// flow, and returns what takes those received, and what to call when the
	// flow has ended.
	UDP func(f NullFlow, send func(b []byte) error) (receive func(b []byte), ended func(), err error)
}

// Errors of null flows.
var (
	// ErrNullForbidden: this peer's policy or the other's is against it.
	ErrNullForbidden = errors.New("overlay: null encapsulation is forbidden by policy")
	// ErrNullRefused: nobody listens at the port, or the peer does not admit
	// the flow.
	ErrNullRefused = errors.New("overlay: the peer refuses the flow")
)

const (
	nullOfferTries = 20 // while the peer is busy
	nullBusyPause  = 100 * time.Millisecond
	nullTLSTimeout = 10 * time.Second
	nullWatch      = 500 * time.Millisecond
	nullFlowsMax   = 4096 // flows that others have opened
	nullRecentMax  = 256
	// nullYield is how long a flow's listener leaves it to the opener to look
	// for another connection.
	nullYield = 300 * time.Millisecond
)

type flowKey struct {
	peer peerid.ID
	id   [16]byte
}

// nulls are this peer's flows with null encapsulation. It is safe for
// concurrent use.
type nulls struct {
	o        *Overlay
	cfg      NullConfig
	identity *libp2ptls.Identity
	port     *icetcp.Port // nil where the policy refuses, or the system

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	flows  map[flowKey]*nullFlow
	recent map[[16]byte]*nullAnswer // by session of the offer
	theirs int                      // flows that others have opened
}

// nullAnswer is what an offer got, for when it comes by another way, too.
type nullAnswer struct {
	done chan struct{}
	a    offerResponse
}

func newNulls(o *Overlay) (*nulls, error) {
	n := &nulls{o: o, cfg: o.cfg.Null, flows: map[flowKey]*nullFlow{}, recent: map[[16]byte]*nullAnswer{}}
	n.ctx, n.cancel = context.WithCancel(o.ctx)
	if n.cfg.Policy == wire.PolicyRefuse {
		return n, nil
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(o.cfg.Key)
	if err == nil {
		n.identity, err = libp2ptls.NewIdentity(priv)
	}
	if err != nil {
		return nil, fmt.Errorf("overlay: TLS identity: %w", err)
	}
	n.port, err = icetcp.Listen(icetcp.Config{
		Net: o.cfg.Net, Addrs: n.addrs, Port: o.cfg.Socket.Number(), Servers: o.stunServers, Logger: o.log,
		Allow: func(to netip.AddrPort) bool { return o.demux.pacer.allow(to, time.Now()) },
	})
	if err != nil {
		// A network without TCP has UDP flows still; a Dial says why not.
		o.log.Warn("null encapsulation: no TCP port", "err", err)
		n.port = nil
	}
	n.wg.Go(n.watch)
	return n, nil
}

// addrs are the local addresses of the port.
func (n *nulls) addrs() []netip.Addr {
	var out []netip.Addr
	for _, c := range n.o.cfg.Socket.Conns() {
		out = append(out, c.LocalAddr().Addr())
	}
	return out
}

// close ends all flows; what was closed before is left to the system.
func (n *nulls) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	for _, f := range n.all() {
		f.abort(net.ErrClosed)
	}
	if n.port != nil {
		_ = n.port.Close()
	}
	n.wg.Wait()
	for _, f := range n.all() {
		f.abort(net.ErrClosed)
	}
}

// full says whether others have opened as many flows as they may.
func (n *nulls) full() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.theirs >= nullFlowsMax
}

// spawn runs f in the life of n.
func (n *nulls) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

func (n *nulls) all() []*nullFlow {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*nullFlow, 0, len(n.flows))
	for _, f := range n.flows {
		out = append(out, f)
	}
	return out
}

func (n *nulls) find(k flowKey) *nullFlow {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.flows[k]
}

// add makes f known; false: too late, or too many.
func (n *nulls) add(f *nullFlow) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.flows[f.key] != nil || !f.opener && n.theirs >= nullFlowsMax {
		return false
	}
	n.flows[f.key] = f
	if !f.opener {
		n.theirs++
	}
	return true
}

func (n *nulls) remove(f *nullFlow) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.flows[f.key] != f {
		return
	}
	delete(n.flows, f.key)
	if !f.opener {
		n.theirs--
	}
}

// watch looks for flows whose connection died while nobody used it.
func (n *nulls) watch() {
	tick := time.NewTicker(nullWatch)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range n.all() {
			f.check()
		}
	}
}

// moved is told that the local addresses have changed.
func (n *nulls) moved() {
	if n.port != nil {
		_ = n.port.Refresh()
	}
	have := map[netip.Addr]bool{}
	for _, a := range n.addrs() {
		have[a] = true
	}
	for _, f := range n.all() {
		f.mu.Lock()
		local, a := f.local, f.attempt
		f.mu.Unlock()
		if a != nil {
			a.cancel(errMoved) // it has shown addresses that are not ours any more
		}
		if local.IsValid() && !have[local.Addr()] {
			f.lost(errMoved)
		}
	}
}

var errMoved = errors.New("the local address is gone")

// enforce ends the flows with peers that are no members any more.
func (n *nulls) enforce(member func(chain []byte, p peerid.ID) bool) {
	for _, f := range n.all() {
		f.mu.Lock()
		chain := f.chain
		f.mu.Unlock()
		if !member(chain, f.key.peer) {
			f.abort(errRevoked)
		}
	}
}

// stricter returns the stricter of two policies.
func stricter(a, b uint8) uint8 { return min(a, b) }

// allowed says whether a flow may be, given both policies.
func allowed(policy uint8, udp bool) bool {
	return policy == wire.PolicyPlain || policy == wire.PolicyTLS && !udp
}

// wire is the part of an offer or answer about f that is the same each time.
func (f *nullFlow) wire(kind wire.FlowKind) wire.Flow {
	w := wire.Flow{Kind: kind, Protocol: wire.FlowTCP, V6: f.flow.V6, Policy: f.n.cfg.Policy, ID: f.key.id,
		OpenerPort: f.flow.Local, ListenerPort: f.flow.Remote}
	if f.flow.UDP {
		w.Protocol = wire.FlowUDP
	}
	if !f.opener {
		w.OpenerPort, w.ListenerPort = f.flow.Remote, f.flow.Local
	}
	return w
}

func newFlowID() (id [16]byte) {
	rand.Read(id[:]) // never fails, crypto/rand
	return id
}

// checks is what the two kinds of connectivity checks have in common: those of
// UDP and of TCP.
type checks interface {
	Credentials() (ufrag, pwd string)
	Candidates() []wire.Candidate
	Close()
}

// localFlow is what this side says in an offer or an answer about a flow. A
// nil s shows no candidate.
func (n *nulls) localFlow(s checks, w wire.Flow) pipe.Local {
	n.o.mu.Lock()
	chain := n.o.chain
	n.o.mu.Unlock()
	l := pipe.Local{Chain: chain, MTU: maxMTU, Encapsulation: wire.Null, Flow: w}
	if s != nil {
		l.Ufrag, l.Pwd = s.Credentials()
		l.Candidates = s.Candidates()
	}
	return l
}

// ask makes an offer about a flow and brings the authenticated answer of a
// member.
func (n *nulls) ask(ctx context.Context, p peerid.ID, l pipe.Local) (pipe.Remote, error) {
	var err error
	for try := range nullOfferTries {
		if try > 0 && !pause(ctx, nullBusyPause) {
			break
		}
		var r pipe.Remote
		if r, err = n.askOnce(ctx, p, l); !errors.Is(err, errBusy) {
			return r, err
		}
	}
	return pipe.Remote{}, err
}

func (n *nulls) askOnce(ctx context.Context, p peerid.ID, l pipe.Local) (r pipe.Remote, err error) {
	offer, err := n.o.pipes.NewOffer(p, l)
	if err != nil {
		return r, &StageError{StageOffer, p, err}
	}
	defer offer.Cancel()
	answer, _, err := n.o.router.route(ctx, p, offer.Bytes())
	if err != nil {
		if !errors.Is(err, errBusy) {
			n.o.names.forget(p)
		}
		return r, &StageError{StageOffer, p, err}
	}
	session, err := offer.Finish(answer)
	if err != nil {
		return r, &StageError{StageHandshake, p, err}
	}
	r = session.Remote()
	session.Cancel() // a flow has no use for a pipe's keys
	m, err := n.o.verify(r.Chain, p)
	if err != nil {
		return r, &StageError{StageHandshake, p, err}
	}
	n.o.names.saw(m)
	if r.Encapsulation != wire.Null || r.Flow.ID != l.Flow.ID {
		return r, &StageError{StageOffer, p, errors.New("the answer is about something else")}
	}
	return r, nil
}

// offered handles an offer about a flow, whose sender is a member.
func (n *nulls) offered(in *pipe.Incoming) offerResponse {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return offerResponse{status: offerRefused}
	}
	again := n.recent[in.Session]
	if again == nil {
		if len(n.recent) >= nullRecentMax {
			for k, old := range n.recent {
				select {
				case <-old.done:
					delete(n.recent, k)
				default:
				}
			}
		}
		again = &nullAnswer{done: make(chan struct{})}
		n.recent[in.Session] = again
		n.mu.Unlock()
		again.a = n.answer(in)
		close(again.done)
		return again.a
	}
	n.mu.Unlock()
	select {
	case <-again.done:
		return again.a
	case <-n.ctx.Done():
		return offerResponse{status: offerRefused}
	}
}

func (n *nulls) answer(in *pipe.Incoming) offerResponse {
	switch in.Remote.Flow.Kind {
	case wire.FlowOpen:
		return n.opened(in)
	case wire.FlowResume:
		return n.resumed(in)
	}
	in.Reject()
	return offerResponse{status: offerRefused}
}

// accept answers an offer, with the candidates of s or without.
func (n *nulls) accept(in *pipe.Incoming, s checks, w wire.Flow) offerResponse {
	answer, session, err := in.Accept(n.localFlow(s, w))
	if err != nil {
		n.o.log.Debug("offer of a flow not answered", "peer", in.Peer, "err", err)
		return offerResponse{status: offerRefused}
	}
	session.Cancel()
	return offerResponse{status: offerAnswered, answer: answer}
}

// refuse tells the peer, authenticated, why not; it shows no candidate.
func (n *nulls) refuse(in *pipe.Incoming, kind wire.FlowKind) offerResponse {
	w := in.Remote.Flow
	return n.accept(in, nil, wire.Flow{Kind: kind, Protocol: w.Protocol, V6: w.V6, Policy: n.cfg.Policy, ID: w.ID,
		Epoch: w.Epoch, OpenerPort: w.OpenerPort, ListenerPort: w.ListenerPort})
}

// asked is what became of an offer, as an error.
func asked(kind wire.FlowKind) error {
	switch kind {
	case wire.FlowOpen, wire.FlowResume:
		return nil
	case wire.FlowForbidden:
		return ErrNullForbidden
	case wire.FlowRefused:
		return ErrNullRefused
	case wire.FlowUnknown:
		return null.ErrReset
	}
	return errors.New("the peer has no real address for the flow")
}

// runTCP runs the checks of a TCP flow.
func (n *nulls) runTCP(ctx context.Context, s *icetcp.Session, p peerid.ID, controlling bool, remote pipe.Remote) (null.Conn, error) {
	start := time.Now()
	candidates := n.o.filter.keep(remote.Candidates)
	n.o.cfg.Events.Emit(event.Event{Kind: event.Candidates, Peer: p,
		Detail: "local " + describe(s.Candidates()) + "; remote " + describe(candidates)})
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c, err := s.Run(ctx, controlling, remote.Ufrag, remote.Pwd, candidates)
	if err != nil {
		return nil, &StageError{StageCheck, p, err}
	}
	real, err := realConn(c)
	if err != nil {
		_ = c.Close()
		return nil, &StageError{StageCheck, p, err}
	}
	local, to := null.Addrs(real)
	n.o.demux.pacer.answered(to.Addr(), time.Now())
	n.o.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: p, Local: local, Remote: to, Duration: time.Since(start)})
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
