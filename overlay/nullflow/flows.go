package nullflow

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	icetcp "github.com/idloc/idloc/overlay/ice/tcp"
)

// Flow is a 5-tuple that travels with null encapsulation (draft §4.3). Its
// addresses are the LSIs of the two peers, which only the node knows.
type Flow struct {
	Peer          peerid.ID
	UDP           bool // else TCP
	V6            bool // between IPv6 LSIs
	Opener        bool // this side has opened it
	Local, Remote uint16
}

// Handler is the node's part: what it allows, and who takes the flows.
type Handler struct {
	// Policy is wire.PolicyRefuse, PolicyTLS or PolicyPlain.
	Policy uint8
	// Addrs returns the LSIs and ports of a TCP flow, for its net.Conn, which
	// must be the peers' until ended is called.
	Addrs func(f Flow) (local, remote netip.AddrPort, ended func(), err error)
	// TCP is asked about a flow that a peer wants to open. It returns who
	// takes the conn; an error refuses the flow.
	TCP func(f Flow) (take func(net.Conn) error, err error)
	// UDP is asked likewise, and about flows of this node's own. It is given
	// what sends bare datagrams of the flow, and returns what takes those
	// received, and what to call when the flow has ended. Datagrams are
	// borrowed for each call.
	UDP func(f Flow, send func(b []byte) error) (receive func(b []byte), ended func(), err error)
}

// Offers brings offers to peers.
type Offers interface {
	// Ask makes an offer of l and returns the answer of p, which is a member,
	// authenticated. It waits while p is busy.
	Ask(ctx context.Context, p peerid.ID, l pipe.Local) (pipe.Remote, error)
}

// Checks is what the connectivity checks of TCP and of UDP have in common:
// those of one offer or answer.
type Checks interface {
	Credentials() (ufrag, pwd string)
	Candidates() []wire.Candidate
	Close()
}

// UDPChecks are the sockets of one path of a UDP flow, and their connectivity
// checks. Close closes the sockets, is idempotent, and waits for calls of what
// Receive was given; it must not be called from there.
type UDPChecks interface {
	Checks
	// Run checks the pairs with the peer's candidates and returns the one that
	// the controlling side nominates.
	Run(ctx context.Context, controlling bool, remote pipe.Remote) (local, to netip.AddrPort, err error)
	// Receive gives f the datagrams that come from the nominated address, also
	// those that came before. b is borrowed.
	Receive(f func(b []byte))
	// Send sends a datagram, borrowed for the call, over the nominated pair.
	Send(b []byte) error
	// Check asks the peer whether it still consents; answered is called when
	// it says so. forget gives up waiting.
	Check(answered func()) (forget func())
	// Retire ends what the checks need until the pair is settled. Checks of
	// the peer are answered until Close.
	Retire()
}

// Config configures Flows. It is read once.
type Config struct {
	Self    peerid.ID
	Handler Handler
	// RelaysOnly forbids all flows: real addresses are not to be shown.
	RelaysOnly bool
	// Identity is what TLS shows; required unless the policy is to refuse.
	Identity *libp2ptls.Identity
	// Chain returns this peer's membership, for offers and answers.
	Chain  func() []byte
	Offers Offers
	// TCP configures the port of all TCP flows. On a network without TCP
	// there is none.
	TCP icetcp.Config
	// UDP makes the sockets and candidates of one path of a UDP flow.
	UDP func(context.Context) (UDPChecks, error)
	// Usable returns those of a peer's candidates that may be sent to.
	Usable func([]wire.Candidate) []wire.Candidate
	// Account is to whom a member's flows are charged besides itself. It may be nil.
	Account func(peerid.ID) account.Account
	// Answered is told that an address has answered a check. It may be nil.
	Answered func(netip.Addr)

	Events event.Sink
	Logger *slog.Logger // nil is silent
}

// Errors found inside those of DialTCP and DialUDP.
var (
	// ErrForbidden: this peer's policy or the other's is against it.
	ErrForbidden = errors.New("null encapsulation is forbidden")
	// ErrRefused: nobody listens at the port, or the peer does not admit the
	// flow.
	ErrRefused = errors.New("the peer refuses the flow")
)

// Stage says how far a flow has come that was not opened.
type Stage uint8

// The stages of opening a flow.
const (
	StageOffer     Stage = iota // offer and answer
	StageCheck                  // connectivity checks
	StageHandshake              // TLS
)

// Error is why a flow was not opened. An error of Offers is returned as it is.
type Error struct {
	Stage Stage
	Err   error // never nil
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

const (
	dialTimeout  = 8 * time.Second
	checkTimeout = 5 * time.Second
	watchEvery   = 500 * time.Millisecond
)

// flowKey is how two peers name a flow to each other: by an ID that its opener
// has chosen.
type flowKey struct {
	peer peerid.ID
	id   [16]byte
}

// Flows are the flows of one node. It is safe for concurrent use.
type Flows struct {
	cfg     Config
	log     *slog.Logger
	port    *icetcp.Port // nil where the policy refuses, or the system
	answers answers

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	flows   map[flowKey]*flow
	inbound account.Holders[*flow] // flows that peers open or have opened
}

// New opens the port that TCP flows share. Close ends what it begins.
func New(cfg Config) (*Flows, error) {
	fs := &Flows{cfg: cfg, log: logpace.New(cfg.Logger), flows: map[flowKey]*flow{}}
	fs.ctx, fs.cancel = context.WithCancel(context.Background())
	if cfg.Handler.Policy == wire.PolicyRefuse {
		return fs, nil
	}
	if cfg.Identity == nil {
		return nil, errors.New("nullflow: Config.Identity is required")
	}
	var err error
	if fs.port, err = icetcp.Listen(cfg.TCP); err != nil {
		// A network without TCP has UDP flows still; a Dial says why not.
		fs.log.Warn("null encapsulation: no TCP port", "err", err)
		fs.port = nil
	}
	fs.wg.Go(fs.watch)
	return fs, nil
}

// Close ends all flows and waits for everything that Flows has begun. It is
// idempotent. What conns had closed before is left to the system.
func (fs *Flows) Close() {
	fs.mu.Lock()
	fs.closed = true
	fs.mu.Unlock()
	fs.cancel()
	for _, f := range fs.all() {
		f.abort()
	}
	if fs.port != nil {
		_ = fs.port.Close()
	}
	fs.wg.Wait()
	for _, f := range fs.all() { // begun meanwhile
		f.abort()
	}
}

// spawn runs f in the life of fs; false: it is over.
func (fs *Flows) spawn(f func()) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return false
	}
	fs.wg.Go(f)
	return true
}

func (fs *Flows) all() []*flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]*flow, 0, len(fs.flows))
	for _, f := range fs.flows {
		out = append(out, f)
	}
	return out
}

func (fs *Flows) find(k flowKey) *flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.flows[k]
}

// add makes f known, which a peer has opened if it was reserved; false: too late, or it had
// to make room.
func (fs *Flows) add(f *flow) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || fs.flows[f.key] != nil || f.ctx != nil && f.ctx.Err() != nil {
		return false
	}
	fs.flows[f.key] = f
	return true
}

func (fs *Flows) remove(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.flows[f.key] != f {
		return
	}
	delete(fs.flows, f.key)
	fs.discountLocked(f)
}

// watch looks for flows whose connection died while nobody used it.
func (fs *Flows) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range fs.all() {
			if f.stream != nil { // of UDP flows consent tells
				f.stream.Check()
			}
		}
	}
}

var errMoved = errors.New("the local address is gone")

// NetworkChanged gives other real addresses to flows whose local address is gone
// (Config.TCP.Addrs), and ends attempts that have shown the old ones.
func (fs *Flows) NetworkChanged() {
	if fs.port != nil {
		_ = fs.port.Refresh()
	}
	have := map[netip.Addr]bool{}
	for _, a := range fs.cfg.TCP.Addrs() {
		have[a] = true
	}
	for _, f := range fs.all() {
		f.mu.Lock()
		local, a := f.local, f.attempt
		f.mu.Unlock()
		if a != nil {
			a.cancel(errMoved)
		}
		if local.IsValid() && !have[local.Addr()] {
			f.losePath(errMoved)
		}
	}
}

// EndUnless ends the flows with peers that are no members any more; chain is
// what the peer has shown last.
func (fs *Flows) EndUnless(member func(chain []byte, p peerid.ID) bool) {
	for _, f := range fs.all() {
		f.mu.Lock()
		chain := f.chain
		f.mu.Unlock()
		if !member(chain, f.Peer) {
			f.abort()
		}
	}
}

// EndOpened ends the flows that peers have opened and keep does not want. It returns how
// many those are.
func (fs *Flows) EndOpened(keep func(Flow) bool) (ended int) {
	for _, f := range fs.all() {
		if !f.Opener && !keep(f.Flow) {
			f.abort()
			ended++
		}
	}
	return ended
}

// Status is one flow.
type Status struct {
	Flow
	TLS                 bool
	RealLocal, RealPeer netip.AddrPort
	Moved               int // how often it got other real addresses
}

// Status returns the flows that there are, ordered by peer and ports.
func (fs *Flows) Status() []Status {
	var out []Status
	for _, f := range fs.all() {
		f.mu.Lock()
		out = append(out, Status{Flow: f.Flow, TLS: f.policy == wire.PolicyTLS, RealLocal: f.local, RealPeer: f.remote, Moved: f.moved})
		f.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(a.Peer.Compare(b.Peer), cmp.Compare(a.Local, b.Local), cmp.Compare(a.Remote, b.Remote))
	})
	return out
}

// flow is one flow, of TCP or of UDP. It is safe for concurrent use.
type flow struct {
	Flow
	fs     *Flows
	key    flowKey
	policy uint8        // the stricter of both
	stream *null.Stream // of TCP; set before the flow is known to others
	ended  func()       // of a TCP flow: the node's
	udp    *udpFlow     // of UDP; set before the flow is known to others

	// ctx of one that a peer opens ends when it has ended, or has to make room.
	ctx    context.Context
	cancel context.CancelFunc

	mu            sync.Mutex // guards what follows
	chain         []byte     // of the peer
	epoch         uint32     // of the newest attempt
	installed     uint32     // of the real addresses in use
	attempt       *attempt   // under way; nil is none
	local, remote netip.AddrPort
	moved         int
}

// kind describes f in events.
func (f *flow) kind() string {
	switch {
	case f.UDP:
		return "udp"
	case f.policy == wire.PolicyTLS:
		return "tcp, TLS 1.3"
	}
	return "tcp"
}

// end is called once, when the flow is over.
func (f *flow) end() {
	f.fs.remove(f)
	if f.ended != nil {
		f.ended()
	}
	f.mu.Lock()
	local, remote := f.local, f.remote
	f.mu.Unlock()
	f.emit(event.FlowClosed, local, remote)
}

func (f *flow) emit(kind event.Kind, local, remote netip.AddrPort) {
	f.fs.cfg.Events.Emit(event.Event{Kind: kind, Peer: f.Peer, Local: local, Remote: remote, Detail: f.kind()})
}

// abort ends the flow, and waits.
func (f *flow) abort() {
	if f.udp != nil {
		f.udp.close()
		return
	}
	f.stream.Abort()
	f.stream.Wait()
}

// losePath has the flow look for other real addresses.
func (f *flow) losePath(err error) {
	if f.udp != nil {
		f.udp.losePath()
		return
	}
	f.stream.Lost(nil, err)
}

// install notes that the real addresses of a are in use.
func (f *flow) install(a *attempt, local, remote netip.AddrPort, chain []byte) {
	f.mu.Lock()
	f.installed, f.local, f.remote, f.chain = a.epoch, local, remote, chain
	f.moved++
	f.mu.Unlock()
	f.emit(event.FlowMoved, local, remote)
}
