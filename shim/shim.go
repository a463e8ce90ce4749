package shim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/lsi"
)

// Connector is the peer protocol as the shim sees it: asked for a pipe on a
// miss (draft §6: "generates an indication to the Peer Protocol"). It is
// called once per peer at a time and must return when ctx ends. An error that
// has a method Refused() bool returning true is a policy's, and the held
// packets are answered with "administratively prohibited".
type Connector interface {
	Connect(ctx context.Context, peer peerid.ID) (*pipe.Pipe, error)
}

// Upper is the stack above.
type Upper interface {
	// Deliver takes one inner IP packet, which it owns. The IP and
	// transport headers are in the first view, and h, borrowed for the call,
	// says what they say. It may be called from
	// several goroutines, and must not call back into the shim's Handler
	// methods. Packets sent meanwhile through Output are fine.
	Deliver(h *inner.Header, packet buffer.Buffer)
}

// PeerUpper is an Upper that wants to know of peers whose process is over.
type PeerUpper interface {
	Upper
	// Gone says that all that was open with the peer that has these LSIs is
	// over, packets that come from them later belong to something new. If
	// delivered is true all that the peer has written has come, and its streams
	// are whole. It is called where packets are received, and no packet of the
	// peer's next process is delivered before it has returned: it settles what is
	// over, and leaves what takes time to a goroutine. Packets sent meanwhile
	// through Output are fine.
	Gone(v4, v6 netip.Addr, delivered bool)
}

// Config is what a Shim works with. Table and Connector are needed.
type Config struct {
	Table     *lsi.Table
	Connector Connector
	Upper     Upper // nil: until Attach packets for the stack are dropped
	Events    event.Sink
	Logger    *slog.Logger // nil = silent
}

// Shim maps LSIs to pipes. It implements pipe.Handler. All methods may be
// used concurrently.
type Shim struct {
	cfg          Config
	self4, self6 netip.Addr
	upper        atomic.Pointer[Upper]
	count        counters
	bare         atomic.Pointer[bareTable] // nil: no UDP flow has null encapsulation

	byAddr cow[netip.Addr]
	byID   cow[peerid.ID]

	mu     sync.Mutex // guards mappings coming and going, and what follows
	closed bool
	failed map[peerid.ID]failure

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	answers chan answer
	dirty   chan *mapping
}

var _ pipe.Handler = (*Shim)(nil)

// New returns a working Shim. Close must be called in the end.
func New(cfg Config) *Shim {
	s := &Shim{
		cfg:     cfg,
		failed:  make(map[peerid.ID]failure),
		answers: make(chan answer, maxAnswers),
		dirty:   make(chan *mapping, maxDirty),
	}
	s.self4, s.self6 = cfg.Table.Self()
	s.cfg.Logger = logpace.New(cfg.Logger)
	if cfg.Upper != nil {
		s.Attach(cfg.Upper)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.answerLoop)
	s.wg.Go(s.flushLoop)
	return s
}

// Attach sets the stack above; nil detaches it.
func (s *Shim) Attach(u Upper) {
	if u == nil {
		s.upper.Store(nil)
		return
	}
	s.upper.Store(&u)
}

// Table returns the LSI table that the shim works with.
func (s *Shim) Table() *lsi.Table { return s.cfg.Table }

// Close ends every Connect that is under way, drops what is held for a pipe that
// is not there, sends what a pipe has yet to take and what was kept back for
// company, and waits for the shim's goroutines.
// Output fails from then on. It is idempotent.
func (s *Shim) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.awaitReleases()
	s.cancel()
	s.wg.Wait()
	s.lastWords()
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.byID.all() {
		m.mu.Lock()
		s.dropWaitingLocked(m, DropOutClosed)
		s.decideLocked(m, net.ErrClosed)
		m.lostLocked()
		m.pipe.Store(nil)
		s.removeLocked(m)
		m.mu.Unlock()
		m.coalescer.discard()
		m.tcp.End()
	}
	return nil
}

// awaitReleases waits for those who move held packets into a pipe that has come
// up: the last of a connection may be among them, and the peer would wait for it.
// They have a bounded number of rounds to go, and wait for nobody.
func (s *Shim) awaitReleases() {
	for m := range s.byID.all() {
		m.release.Lock()
		//lint:ignore SA2001 to have it for a moment is to have waited
		m.release.Unlock()
	}
}

// lastWords sends acknowledgements and batches that wait for more: the last
// acknowledgement of a connection and the resets of those that were open when
// the stack was closed. The peers would go on asking for them.
func (s *Shim) lastWords() {
	for m := range s.byID.all() {
		m.tcp.Release()
		s.flushCoalesced(m)
	}
}

// Up implements pipe.Handler: p can carry data, whoever opened it. A peer
// that came to us gets its LSIs here.
func (s *Shim) Up(p *pipe.Pipe) {
	m, err := s.adopt(p.Peer())
	if err != nil {
		s.cfg.Logger.Warn("peer connected but has no LSI", "peer", p.Peer(), "err", err)
		return
	}
	s.install(m, p)
}

// adopt returns the mapping of id, assigning LSIs and making it if need be.
func (s *Shim) adopt(id peerid.ID) (*mapping, error) {
	if m := s.byPeer(id); m != nil {
		return m, nil
	}
	v4, _, fresh, err := s.cfg.Table.Assign(id)
	if err != nil {
		return nil, err
	}
	if fresh {
		s.cfg.Events.Emit(event.Event{Kind: event.LSIAssigned, Peer: id, LSI: v4})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	m, ok := s.mappingLocked(id)
	if !ok {
		return nil, errors.New("LSI was reclaimed at once")
	}
	return m, nil
}

// Down implements pipe.Handler. The next packet for the peer is a miss.
func (s *Shim) Down(p *pipe.Pipe, err error) {
	m := s.byPeer(p.Peer())
	if m == nil || !m.pipe.CompareAndSwap(p, nil) {
		return
	}
	m.coalescer.discard()
	m.tcp.LetGo()
	s.mu.Lock()
	m.mu.Lock()
	if m.pipe.Load() == nil { // else another has come meanwhile
		m.lostLocked()
	}
	s.removeLocked(m)
	gone := m.gone
	m.mu.Unlock()
	s.mu.Unlock()
	if gone { // else a pipe may follow
		m.tcp.End()
	}
}

// Gone implements pipe.Handler.
func (s *Shim) Gone(peer peerid.ID, why error) {
	u := s.upper.Load()
	if u == nil {
		return
	}
	if u, ok := (*u).(PeerUpper); ok {
		if m := s.byPeer(peer); m != nil {
			m.tcp.LetGo() // what has come
		}
		if v4, v6, ok := s.cfg.Table.Of(peer); ok {
			u.Gone(v4, v6, errors.Is(why, pipe.ErrPeerDelivered))
		}
	}
}

// Delivered says that the node is about to end, and that the peer at LSI a has all
// that was written to it: the end of its pipe says so too, if it is up.
func (s *Shim) Delivered(a netip.Addr) {
	if m := s.byLSI(a); m != nil {
		if p := m.pipe.Load(); p != nil {
			p.Delivered()
		}
	}
}

// failure is what became of the newest Connect to a peer, if it failed.
type failure struct {
	err   error
	at    time.Time
	tries int           // how often one has failed in succession
	over  chan struct{} // closed when it is forgotten
}

// maxFailed bounds how many peers' last errors are kept.
const maxFailed = 1024

// LastError returns why the newest Connect to peer failed, with its stage in
// the error's text and type as the Connector gave it; nil if it succeeded or
// was never tried. The oldest of more than 1024 are forgotten.
func (s *Shim) LastError(peer peerid.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[peer].err
}

// setFailedLocked notes err; s.mu is held.
func (s *Shim) setFailedLocked(id peerid.ID, err error) {
	if _, ok := s.failed[id]; !ok && len(s.failed) >= maxFailed {
		var oldest peerid.ID
		var at time.Time
		for k, f := range s.failed {
			if at.IsZero() || f.at.Before(at) {
				oldest, at = k, f.at
			}
		}
		s.forgetLocked(oldest)
	}
	f := failure{err: err, at: time.Now(), tries: 1, over: make(chan struct{})}
	if last, ok := s.failed[id]; ok {
		f.over = last.over
		if f.at.Sub(last.at) < pauseForget {
			f.tries += last.tries
		}
	}
	s.failed[id] = f
}
