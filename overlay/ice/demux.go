package ice

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/ice/stun"
)

const (
	// What the responder answers a source a second, and everybody.
	respondPerSource = 10
	respondBurst     = 30
	respondTotal     = 2000
	respondSources   = 4096 // sources remembered

	// QuestionRTO is how long Ask waits for its first question's answer, then
	// twice that and so on (RFC 8489 §6.2.1 with the value of RFC 8445 §14.3
	// for a first guess).
	QuestionRTO   = 100 * time.Millisecond
	questionTries = 5
)

// End is a local end of a pair: a socket of the port, or an address that a TURN
// server lends. It is comparable by identity.
type End interface {
	LocalAddr() netip.AddrPort
	// WriteTo sends one datagram. b is borrowed for the call.
	WriteTo(b []byte, to netip.AddrPort) error
	// WriteBatch sends datagrams of seg bytes that stand back to back in b; the
	// last may be shorter. b is borrowed for the call.
	WriteBatch(b []byte, seg int, to netip.AddrPort) error
}

var _ End = (*socket.Conn)(nil)

// A ServerGate bounds what is sent to STUN servers that this node was only told
// of. Package hearsay has one.
type ServerGate interface {
	// Pass says whether size bytes may go there now, on nobody's account.
	Pass(teller string, to netip.AddrPort, size int) bool
	// Proven notes that somebody answers there.
	Proven(teller string, at netip.AddrPort)
}

// DemuxConfig configures a Demux. It is read once.
type DemuxConfig struct {
	Pacer   *Pacer     // of the checks that this node sends; nil: one of the Demux's own
	Servers ServerGate // nil lets everything pass
	// Extra opens the second ports at which questions are answered; nil: there are none.
	Extra Sockets
}

// Demux sends the STUN messages that come in on a port where they belong:
// requests to the establishment that owns the fragment, responses to whoever
// asked, the rest of the requests to the responder. It is safe for concurrent
// use.
type Demux struct {
	pacer   *Pacer
	servers ServerGate
	limits  *sourceLimits
	guesses *guesses
	others  *others
	dropped [dropReasons]atomic.Uint64

	mu       sync.RWMutex // guards the maps
	sessions map[string]requestTaker
	awaited  map[stun.TransactionID]responseTaker
}

// requestTaker owns a fragment. b is borrowed, and was classified.
type requestTaker interface {
	takeRequest(local End, from netip.AddrPort, b []byte)
}

// responseTaker takes the response to a request of ours; b is borrowed, and was
// classified.
type responseTaker func(local End, from netip.AddrPort, b []byte)

// dropReason says why a message drew no answer and went nowhere. Drops are
// counted, never formatted.
type dropReason uint8

const (
	dropMalformed   dropReason = iota // no Binding message of RFC 8489
	dropUser                          // a check of no establishment of this node's
	dropTransaction                   // a response that nobody waits for
	dropRate                          // more requests than are answered
	dropReasons
)

var dropNames = [dropReasons]string{
	dropMalformed:   "malformed",
	dropUser:        "unknown user",
	dropTransaction: "unknown transaction",
	dropRate:        "rate",
}

// DropReasons are the names under which a Demux counts drops.
func DropReasons() []string { return dropNames[:] }

// NewDemux makes a Demux to which nothing belongs yet.
func NewDemux(cfg DemuxConfig) *Demux {
	d := &Demux{
		pacer: cfg.Pacer, servers: cfg.Servers,
		limits:   newSourceLimits(respondPerSource, respondBurst, respondTotal, respondSources),
		guesses:  newGuesses(),
		others:   newOthers(cfg.Extra),
		sessions: map[string]requestTaker{},
		awaited:  map[stun.TransactionID]responseTaker{},
	}
	if d.pacer == nil {
		d.pacer = NewPacer()
	}
	return d
}

// Pacer returns what paces the checks that leave through d.
func (d *Demux) Pacer() *Pacer { return d.pacer }

// Drops counts, by reason, the messages that drew no answer and went nowhere,
// without the reasons of which there was none.
func (d *Demux) Drops() map[string]uint64 {
	m := make(map[string]uint64)
	for r := range d.dropped {
		if n := d.dropped[r].Load(); n > 0 {
			m[dropNames[r]] = n
		}
	}
	return m
}

// Handle takes one message that a socket has received; b is borrowed. Requests
// that belong to nobody here are answered with the address that they came from:
// any member can learn its mapped address from any other.
func (d *Demux) Handle(c *socket.Conn, from netip.AddrPort, b []byte) {
	d.handle(c, from, b, func(id stun.TransactionID) { d.respond(c, from, id) })
}

// HandleAllocated takes one message that came to an address that a TURN server
// lends; b is borrowed. Who asks there for its mapped address is not answered.
func (d *Demux) HandleAllocated(l End, from netip.AddrPort, b []byte) {
	d.handle(l, from, b, func(stun.TransactionID) { d.dropped[dropUser].Add(1) })
}

func (d *Demux) handle(local End, from netip.AddrPort, b []byte, plain func(stun.TransactionID)) {
	kind, id := stun.Classify(b)
	switch kind {
	case stun.Request:
		name := stun.Username(b)
		if name == nil {
			plain(id)
			return
		}
		d.mu.RLock()
		s := d.sessions[string(name)]
		d.mu.RUnlock()
		if s == nil { // an unknown fragment draws no answer
			d.dropped[dropUser].Add(1)
			return
		}
		s.takeRequest(local, from, b)
	case stun.Response:
		d.mu.RLock()
		take := d.awaited[id]
		d.mu.RUnlock()
		if take == nil {
			d.dropped[dropTransaction].Add(1)
			return
		}
		take(local, from, b)
	default:
		d.dropped[dropMalformed].Add(1)
	}
}

// register makes s the owner of a fragment.
func (d *Demux) register(ufrag string, s requestTaker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions[ufrag] = s
}

// unregister takes a fragment and transactions out.
func (d *Demux) unregister(ufrag string, awaited []stun.TransactionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sessions, ufrag)
	for _, id := range awaited {
		delete(d.awaited, id)
	}
}

// await has take called with the responses to a request.
func (d *Demux) await(id stun.TransactionID, take responseTaker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.awaited[id] = take
}

// forget ends await.
func (d *Demux) forget(id stun.TransactionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.awaited, id)
}

// Await has take called with where each response to a request comes from, until
// the function returned is called. Whether the response is the peer's, its
// integrity, is for who hands it to Handle to say.
func (d *Demux) Await(id stun.TransactionID, take func(from netip.AddrPort)) (forget func()) {
	d.await(id, func(_ End, from netip.AddrPort, _ []byte) { take(from) })
	return func() { d.forget(id) }
}

// Awaits says whether somebody waits for the response with this ID.
func (d *Demux) Awaits(id stun.TransactionID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.awaited[id] != nil
}

// respond answers a request of nobody in particular, not too often.
func (d *Demux) respond(c *socket.Conn, from netip.AddrPort, id stun.TransactionID) {
	if !d.limits.allow(from.Addr()) {
		d.dropped[dropRate].Add(1)
		return
	}
	if b, err := stun.Mapped(id, from, d.others.of(c)); err == nil {
		_ = c.WriteTo(b, from)
	}
}

// Ask asks a STUN server, from c, for the address that c has there. sent says
// whether a question has left at all: the gate may hold back all of them. It
// gives up after 3.1 s, or when ctx ends.
func (d *Demux) Ask(ctx context.Context, c *socket.Conn, server netip.AddrPort) (seen netip.AddrPort, sent, ok bool) {
	question, id := stun.Question()
	got := make(chan netip.AddrPort, 1)
	d.await(id, func(_ End, from netip.AddrPort, b []byte) {
		if from != server {
			return
		}
		m, err := stun.Parse(b)
		if err != nil {
			return
		}
		if a, ok := m.Mapped(); ok {
			if other, ok := m.Other(); ok && other != server.Port() {
				d.others.note(server, other)
			}
			if d.servers != nil {
				d.servers.Proven("", server)
			}
			select {
			case got <- a:
			default:
			}
		}
	})
	defer d.forget(id)
	wait := QuestionRTO
	for range questionTries {
		if d.servers == nil || d.servers.Pass("", server, len(question)) {
			sent = true
			if c.WriteTo(question, server) != nil {
				return netip.AddrPort{}, sent, false
			}
		}
		t := time.NewTimer(wait)
		select {
		case a := <-got:
			t.Stop()
			return a, sent, true
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return netip.AddrPort{}, sent, false
		}
		wait *= 2
	}
	return netip.AddrPort{}, sent, false
}

// sourceLimits is a token bucket for each source address and one for all, in
// bounded memory: who has asked longest ago makes room, with a full bucket again.
type sourceLimits struct {
	perSource rate.Limit
	burst     int
	total     *rate.Limiter

	mu      sync.Mutex // guards sources
	sources *simplelru.LRU[netip.Addr, *rate.Limiter]
}

func newSourceLimits(perSource, burst, total, sources int) *sourceLimits {
	return &sourceLimits{
		perSource: rate.Limit(perSource), burst: burst, total: rate.NewLimiter(rate.Limit(total), total),
		sources: newLRU[netip.Addr, *rate.Limiter](sources),
	}
}

// newLRU makes a map of so many entries, of which the one that was used longest ago makes
// room. It has no lock of its own.
func newLRU[K comparable, V any](size int) *simplelru.LRU[K, V] {
	m, err := simplelru.NewLRU[K, V](size, nil)
	if err != nil {
		panic("ice: " + err.Error()) // a size that is not positive
	}
	return m
}

func (l *sourceLimits) allow(a netip.Addr) bool {
	if a.Is6() {
		p, err := a.WithZone("").Prefix(64) // one customer, RFC 6177
		if err != nil {
			return false
		}
		a = p.Addr()
	}
	l.mu.Lock()
	b, ok := l.sources.Get(a)
	if !ok {
		b = rate.NewLimiter(l.perSource, l.burst)
		l.sources.Add(a, b)
	}
	l.mu.Unlock()
	return b.Allow() && l.total.Allow()
}
