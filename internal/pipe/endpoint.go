package pipe

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wallclock"
	"github.com/idloc/idloc/internal/wire"
)

// Errors that end a pipe or keep one from being made.
var (
	ErrClosed     = errors.New("pipe: closed")
	ErrPeerClosed = errors.New("pipe: closed by the peer")
	ErrIdle       = errors.New("pipe: idle")
	ErrDead       = errors.New("pipe: peer does not answer")
	ErrNoPath     = errors.New("pipe: no path to the peer")
	ErrExpired    = errors.New("pipe: keys expired")
	ErrIntegrity  = errors.New("pipe: too many forged packets")
	ErrNotUp      = errors.New("pipe: not up")
	ErrSession    = errors.New("pipe: session is gone")

	// ErrHandshake is wrapped by every failure to read an offer or an answer
	// that may be the sender's doing.
	ErrHandshake = handshake.ErrFailed
	// ErrNoAEAD is returned when two peers have no data AEAD in common.
	ErrNoAEAD = handshake.ErrNoAEAD
)

// limits are the numbers of the specification in doc.go, in one place so
// that tests can lower those that are out of reach. Times are nanoseconds.
type limits struct {
	rekeyAfterPackets uint64
	integrity         uint64 // failed opens of one key
	farewells         int    // pipes that are being ended at once
}

const (
	rejectAfterPackets = 1 << 28

	rekeyAfter          = int64(120 * time.Second)
	rekeyAfterResponder = int64(135 * time.Second) // if the initiator did not
	rejectAfter         = int64(180 * time.Second)
	retireAfter         = int64(10 * time.Second) // keys of a session taken over, unused
	maxRetired          = 8                       // of these
	halfOpenFor         = int64(45 * time.Second)
	consentFor          = int64(30 * time.Second)
	keepaliveAfter      = int64(15 * time.Second)
	defaultIdle         = 5 * time.Minute
)

// Endpoint is all pipes of one peer. It may be used concurrently.
type Endpoint struct {
	cfg    Config
	log    *slog.Logger
	id     handshake.Identity
	aeads  wire.AEADs
	limits limits
	ent    *handshake.Entropy
	start  uint64    // start number
	epoch  time.Time // now counts from here
	idle   int64
	table  table
	timers timers
	budget *repair.Budget
	pacer  pacer // of what leaves at a rate; has a goroutine of its own while there is something
	half   timed // ends what stays half open
	drops  drops // before a pipe is known
	relays relays

	farewells farewells
	processes processes

	mu        sync.Mutex // guards what follows; taken before a Pipe's mu
	closed    bool
	timestamp uint64 // of the last offer made
	pipes     map[peerid.ID]*Pipe
	offers    map[*Offer]struct{}
	sessions  map[*Session]int64 // made and not yet installed: when they end
	responder responder
	history   history
	kept      int // records since the journal was last written anew
}

// NewEndpoint returns an Endpoint that runs until Close.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	if cfg.Handler == nil {
		return nil, errors.New("pipe: Config.Handler is nil")
	}
	id, err := handshake.NewIdentity(cfg.Key)
	if err != nil {
		return nil, err
	}
	aes := handshake.HasAES()
	if cfg.HasAES != nil {
		aes = *cfg.HasAES
	}
	e := &Endpoint{
		cfg:       cfg,
		log:       cfg.Logger,
		id:        id,
		aeads:     handshake.OfferedAEADs(aes),
		limits:    limits{rekeyAfterPackets: 1 << 27, integrity: 1 << 36, farewells: maxFarewells},
		ent:       handshake.SystemEntropy(),
		start:     uint64(wallclock.Now().UnixMicro()),
		epoch:     time.Now(),
		idle:      int64(cfg.IdleTimeout),
		timestamp: cfg.LastTimestamp,
		pipes:     make(map[peerid.ID]*Pipe),
		offers:    make(map[*Offer]struct{}),
		sessions:  make(map[*Session]int64),
		responder: newResponder(),
	}
	e.log = logpace.New(e.log)
	e.budget = repair.NewBudget(cmp.Or(cfg.RepairBudget, defaultRepairBudget))
	e.processes.init()
	if e.idle <= 0 {
		e.idle = int64(defaultIdle)
	}
	e.half.fire = e.expireHalfOpen
	e.relays.sweep.fire = e.expireRelays
	e.restoreOffers()
	e.timers.start(e.now)
	return e, nil
}

// now is the monotonic time since the Endpoint began, never zero.
func (e *Endpoint) now() int64 { return int64(time.Since(e.epoch)) + 1 }

// time is the wall time of a now.
func (e *Endpoint) time(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return e.epoch.Add(time.Duration(at - 1))
}

// Pipe returns the pipe to peer, nil if there is none.
func (e *Endpoint) Pipe(peer peerid.ID) *Pipe {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pipes[peer]
}

// Pipes returns all pipes, in no order, in a fresh slice.
func (e *Endpoint) Pipes() []*Pipe {
	e.mu.Lock()
	defer e.mu.Unlock()
	ps := make([]*Pipe, 0, len(e.pipes))
	for _, p := range e.pipes {
		ps = append(ps, p)
	}
	return ps
}

// LastTimestamp returns the highest offer timestamp used so far, to be kept
// for Config.LastTimestamp of the next run.
func (e *Endpoint) LastTimestamp() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.timestamp
}

// Drops returns the counts, by reason, of datagrams dropped before a pipe was
// known.
func (e *Endpoint) Drops() map[string]uint64 { return e.drops.snapshot() }

// AddLocal tells that a local address appeared: every pipe is challenged from
// it at once.
func (e *Endpoint) AddLocal(s Sender) {
	for _, p := range e.Pipes() {
		p.addLocal(s)
	}
}

// Doubt tells that this side's network may have changed under addresses that
// look as before: every pipe that is up must hear from its peer soon, or goes
// silent.
func (e *Endpoint) Doubt() {
	for _, p := range e.Pipes() {
		p.probeNow()
	}
}

// RemoveLocal tells that a local address is gone: no path uses it any more.
func (e *Endpoint) RemoveLocal(s Sender) {
	for _, p := range e.Pipes() {
		p.removeLocal(s)
	}
}

// Close closes all pipes and tells the peers that this process ends, until they
// answer, for about a second, wipes the session keys and waits for the Endpoint's
// goroutine. What comes in must go on to reach Receive until it returns. It is
// idempotent. Config.Key stays with its owner.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	offers, sessions := e.offers, e.sessions
	e.offers, e.sessions = nil, nil
	pipes := make([]*Pipe, 0, len(e.pipes))
	for _, p := range e.pipes {
		pipes = append(pipes, p)
	}
	e.responder.clear()
	e.mu.Unlock()
	// Those that others relay first: they need the relays' pipes to say so.
	e.finish(pipes, (*Pipe).passedOn)
	e.finish(pipes, func(*Pipe) bool { return true })
	for o := range offers {
		o.Cancel()
	}
	for s := range sessions {
		s.release()
	}
	e.timers.close()
	e.pacer.close()
	return nil
}

// Up installs s in the peer's one pipe, making it if there is none, and adds
// path, which must have shown that the peer takes packets there (ICE did).
//
// The initiator of s may send at once, and confirms until it hears from the
// peer. The responder sends nothing before one authenticated packet under the
// new keys came in; if that arrived before Up, s is installed already. An
// older session goes only after the new one is confirmed.
func (e *Endpoint) Up(s *Session, path Path) (*Pipe, error) {
	if path.Local == nil || !path.Remote.IsValid() {
		return nil, ErrNoPath
	}
	p, err := e.install(s)
	if err != nil {
		return nil, err
	}
	now := e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state == stateClosed {
		return nil, p.err
	}
	p.trustPath(path, now)
	p.adopt(s, now)
	return p, nil
}

// Try is Up for the initiator of s and a path that has shown less: n bytes
// came from there that only the peer can have sent. It is challenged, and
// until the peer answers no more than three times as many bytes are sent
// there; what is beyond waits, 64 datagrams and 256 KiB at most. If it does not
// answer the path is forgotten.
func (e *Endpoint) Try(s *Session, path Path, n int) (*Pipe, error) {
	if path.Local == nil || !path.Remote.IsValid() || !s.initiator {
		return nil, ErrNoPath
	}
	p, err := e.install(s)
	if err != nil {
		return nil, err
	}
	now := e.now()
	p.mu.Lock()
	defer p.unlock()
	if p.state == stateClosed {
		return nil, p.err
	}
	if p.find(path.Local, path.Remote) == nil {
		if t := p.newPath(path, now); t != nil {
			t.budget.Store(int64(amplification * n))
			t.heard.Store(now)
			p.startChallenge(t, now)
		}
	}
	p.adopt(s, now)
	return p, nil
}

// install gives s to the peer's pipe. It does nothing the second time.
func (e *Endpoint) install(s *Session) (*Pipe, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.pipe != nil {
		return s.pipe, nil
	}
	if e.closed {
		return nil, ErrClosed
	}
	if _, ok := e.sessions[s]; !ok {
		return nil, ErrSession
	}
	delete(e.sessions, s)
	p := e.pipes[s.peer]
	if p == nil || !p.admit(s.kp) {
		if p != nil {
			e.history.count(p)
		}
		p = newPipe(e, s.peer)
		p.admit(s.kp)
		e.pipes[s.peer] = p
	}
	s.pipe, s.kp = p, nil // p ends the keys when their time is over
	return p, nil
}

// dropPipe forgets a closed pipe.
func (e *Endpoint) dropPipe(p *Pipe) {
	e.mu.Lock()
	e.history.count(p)
	if e.pipes[p.peer] == p {
		delete(e.pipes, p.peer)
	}
	e.mu.Unlock()
	e.timers.forget(&p.timed)
	e.relays.dropPipe(p)
}

// nextTimestamp is max(now, last + 1) in microseconds (DESIGN §14.7). A last one
// from further ahead than others accept was made by a clock that has been set
// since, and nobody has taken it. The caller holds mu.
func (e *Endpoint) nextTimestamp() uint64 {
	now := uint64(wallclock.Now().UnixMicro())
	if e.timestamp > now+clockTolerance {
		e.timestamp = 0
	}
	e.timestamp = max(e.timestamp+1, now)
	return e.timestamp
}

func (e *Endpoint) emit(ev event.Event) { e.cfg.Events.Emit(ev) }

func randomUint64() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}
