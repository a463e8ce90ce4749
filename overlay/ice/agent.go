package ice

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	pion "github.com/pion/ice/v3"
	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// Grace is how long an agent should go on answering after it has a pair, so that
// a peer whose last response was lost gets another.
const Grace = time.Second

// ErrNoPair: no pair of addresses led to an answer of the peer.
var ErrNoPair = errors.New("no candidate pair answered")

// Credentials are one side's of an establishment (RFC 8445 §5.3).
type Credentials = stun.Credentials

// Config says what an Agent has to work with. It is read once.
type Config struct {
	Demux     *Demux         // of the port; required
	Conns     []*socket.Conn // of the port
	Mapped    func(*socket.Conn) []netip.AddrPort
	Allocated []netip.AddrPort // what TURN servers lend
	// TURN has pairs with addresses that TURN servers lend checked as well, by
	// what TURN returns.
	TURN bool
	// Silent has the checks that come before this side's own stay without an
	// answer.
	Silent bool
	Net    transport.Net // nil is the kernel's
}

// Agent is one establishment's connectivity checks (RFC 8445) on the shared
// port: made before the offer or the answer, run once by Check or Nominate,
// closed after a Grace. One goroutine runs it; all other methods may be called
// from any, repeatedly. pion's agent is made when the checks begin: only then it
// is known which sockets they can lead from.
type Agent struct {
	session    *session
	conns      []*socket.Conn
	net        transport.Net
	local      Credentials
	candidates []wire.Candidate

	mu     sync.Mutex  // guards what follows
	turn   *TURNChecks // nil: none, or detached
	pion   *pion.Agent // nil before the checks
	late   []wire.Candidate
	closed bool

	closing sync.Once
	done    chan struct{} // closed when Close is through
}

// NewAgent registers credentials and collects this side's candidates. Nothing
// is sent. It fails if there is no local address.
func NewAgent(cfg Config) (*Agent, error) {
	pwd := randomText(24)
	a := &Agent{conns: cfg.Conns, net: cfg.Net, local: Credentials{Ufrag: wire.Ufrag(pwd), Pwd: pwd}, done: make(chan struct{})}
	a.candidates = LocalCandidates(cfg.Conns, cfg.Mapped, cfg.Allocated)
	if len(a.candidates) == 0 {
		return nil, errors.New("no local address")
	}
	a.session = newSession(cfg.Demux, a.local, cfg.Conns)
	if cfg.Silent {
		a.session.silence()
	}
	if cfg.TURN {
		a.turn = newTURNChecks(cfg.Demux, a.local)
	}
	return a, nil
}

func randomText(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails, crypto/rand
	return base64.RawStdEncoding.EncodeToString(b)
}

// Credentials are what the peer needs to check with this agent.
func (a *Agent) Credentials() Credentials { return a.local }

// Candidates are what the peer should be shown; the slice must not be changed.
func (a *Agent) Candidates() []wire.Candidate { return a.candidates }

// Begin says that the peer's side is known: from now on its checks are kept for
// the agent, and Heard is complete. Check and Nominate call it themselves.
func (a *Agent) Begin(controlling bool, remote Credentials) { a.session.begin(remote.Pwd, controlling) }

// Heard is where the peer's checks came from, and were answered, before Begin:
// only the peer knows the password in them.
func (a *Agent) Heard() []Heard { return a.session.heardBefore() }

// TURN returns the checks of pairs through TURN servers, nil if there are none
// or they were detached.
func (a *Agent) TURN() *TURNChecks {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.turn
}

// DetachTURN is TURN for who closes them himself: Close leaves them alone.
func (a *Agent) DetachTURN() *TURNChecks {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.turn
	a.turn = nil
	return t
}

// Check checks the pairs with the remote candidates, which must have been
// filtered, and returns the first that the peer has answered on. It does not
// wait for a nomination: that would cost a round trip, and a pipe chooses among
// its paths by itself. The two sides may find different ones. Errors are
// ErrNoPair, with the cause of ctx's end if that is what ended it.
func (a *Agent) Check(ctx context.Context, controlling bool, remote Credentials, candidates []wire.Candidate) (Pair, error) {
	return a.check(ctx, controlling, remote, candidates, a.session.proven)
}

// Nominate is Check for who has no other way to agree upon a pair: it waits for
// the one that the controlling side nominates.
func (a *Agent) Nominate(ctx context.Context, controlling bool, remote Credentials, candidates []wire.Candidate) (Pair, error) {
	return a.check(ctx, controlling, remote, candidates, nil)
}

func (a *Agent) check(ctx context.Context, controlling bool, remote Credentials, candidates []wire.Candidate, proven <-chan Pair) (Pair, error) {
	a.Begin(controlling, remote)
	conns := checkers(a.conns, candidates)
	conns, candidates = a.withHeard(conns, reachable(a.conns, conns, candidates))
	if len(conns) == 0 {
		return Pair{}, fmt.Errorf("%w: no local address reaches one of the peer's", ErrNoPair)
	}
	if err := a.makePion(conns, len(candidates)); err != nil {
		return Pair{}, err
	}
	if err := a.giveRemote(ctx, candidates); err != nil {
		return Pair{}, err
	}
	a.AddRemote(nil) // what has come meanwhile
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		var err error
		if controlling {
			_, err = a.pion.Dial(ctx, remote.Ufrag, remote.Pwd)
		} else {
			_, err = a.pion.Accept(ctx, remote.Ufrag, remote.Pwd)
		}
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case p := <-proven:
		cancel()
		<-ended // the agent goes on until it is closed
		return p, nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return Pair{}, fmt.Errorf("%w: %w", ErrNoPair, context.Cause(ctx))
		}
		return Pair{}, fmt.Errorf("%w: %v", ErrNoPair, err)
	}
	return a.selected()
}

// withHeard puts where the peer was heard before all others. It may not check
// from there again, and the agent would never learn of an address that the peer
// itself does not know. It works, since we have answered there.
func (a *Agent) withHeard(conns []*socket.Conn, candidates []wire.Candidate) ([]*socket.Conn, []wire.Candidate) {
	var heard []wire.Candidate
	for _, h := range a.session.heardBefore() {
		if !slices.Contains(conns, h.Local) {
			conns = append(conns, h.Local)
		}
		if !slices.ContainsFunc(candidates, func(c wire.Candidate) bool { return c.Addr == h.Remote }) {
			heard = append(heard, wire.Candidate{Type: wire.PeerReflexive, Addr: h.Remote, Foundation: "heard",
				Priority: priority(pion.CandidateTypePeerReflexive, preference(h.Remote.Addr(), 0))})
		}
	}
	candidates = append(heard, candidates...)
	return conns, candidates[:min(len(candidates), wire.MaxCandidates)]
}

// AddRemote has more candidates of the peer checked, which must have been
// filtered; before the checks they wait for them.
func (a *Agent) AddRemote(candidates []wire.Candidate) {
	a.mu.Lock()
	a.late = append(a.late, candidates...)
	a.late = a.late[:min(len(a.late), wire.MaxCandidates)]
	agent := a.pion
	if agent == nil {
		a.mu.Unlock()
		return
	}
	candidates, a.late = a.late, nil
	a.mu.Unlock()
	for _, c := range reachable(a.conns, a.conns, candidates) {
		if rc, err := remoteCandidate(c); err == nil {
			_ = agent.AddRemoteCandidate(rc) // closed: too late
		}
	}
}

// Close ends the agent, and its checks through TURN servers, and waits for its
// goroutines. It is idempotent.
func (a *Agent) Close() {
	a.closing.Do(func() {
		a.DetachTURN().Close()
		a.session.close() // first: unblocks the agent's readers
		a.mu.Lock()
		a.closed = true
		agent := a.pion
		a.mu.Unlock()
		if agent != nil {
			_ = agent.GracefulClose()
		}
		close(a.done)
	})
	<-a.done
}

// Closed returns a channel that is closed when Close is through.
func (a *Agent) Closed() <-chan struct{} { return a.done }
