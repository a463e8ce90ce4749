package ice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
	"github.com/idloc/idloc/overlay/nat"
)

// A pair that connectivity checks do not find: one side is behind a NAT that gives each
// destination another port (address- and port-dependent mapping, RFC 4787 §4.1), the
// other behind one that lets in only what it has sent to (§5). Nobody knows the port at
// which the first will be seen, so it is guessed. The first opens many sockets and sends
// from each to the other's one address; the second sends to many ports of the first's.
// With n sockets and k of 64,512 ports both have the same one with a probability of
// 1 - exp(-nk/64512): 98 % with 256 and 960. Whose check comes through does not matter.
//
// What leaves goes to an address that a member which we have chosen has seen the peer at,
// never to one that only the peer, or somebody else, has named.
const (
	guessMark = "~guess" // behind the fragment of the agent's

	guessSockets = 256
	guessTries   = 960                   // ports; with the checks of pairs that were hit fewer than 1,000 leave
	guessGap     = 10 * time.Millisecond // between two
	guessHits    = 4                     // pairs that are checked
	guessNear    = 32                    // ports behind each known one that are tried first
	guessLowest  = 1024                  // NATs map to no lower port (RFC 4787 §4.2.1)

	// One run at a time, and to one IP address at most guessRuns in guessWithin that find
	// nobody there.
	guessRuns   = 6
	guessWithin = time.Hour
	guessIPs    = 256 // remembered
)

// guessGaps are the waits after each check of a pair that was hit.
var guessGaps = []time.Duration{
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
}

// ErrGuessed is wrapped by the error of a Guess that may not run now.
var ErrGuessed = errors.New("ports were guessed often enough")

// Outside is what a side's candidates tell of how it is seen from outside, over IPv4.
type Outside struct {
	Addr  netip.Addr // invalid: it is seen nowhere, or at more than one
	Ports []uint16
	Base  netip.AddrPort // the socket that is seen so
}

// Dependent says whether each destination sees another port. Two servers suffice to tell.
func (o Outside) Dependent() bool { return len(o.Ports) > 1 }

// OutsideOf returns the first socket of the candidates that servers have seen, or else that
// has an address of the internet's itself: a firewall may be before it.
func OutsideOf(cs []wire.Candidate) (o Outside) {
	for _, c := range cs {
		if c.Type != wire.ServerReflexive || !c.Addr.Addr().Is4() || o.Base.IsValid() && c.Related != o.Base {
			continue
		}
		if o.Base.IsValid() && c.Addr.Addr() != o.Addr {
			return Outside{} // a NAT with several addresses: nobody knows the next one
		}
		o.Base, o.Addr = c.Related, c.Addr.Addr()
		if !slices.Contains(o.Ports, c.Addr.Port()) {
			o.Ports = append(o.Ports, c.Addr.Port())
		}
	}
	for _, c := range cs {
		if a := c.Addr.Addr(); !o.Base.IsValid() && c.Type == wire.Host && c.TCP == 0 && a.Is4() && nat.Of(a) == nat.Global {
			return Outside{Addr: a, Ports: []uint16{c.Addr.Port()}, Base: c.Addr}
		}
	}
	return o
}

// GuessConfig says what a Guess has to work with.
type GuessConfig struct {
	Demux *Demux
	Port  Sockets
	Ended func(End) // is called when a socket that Run has returned is closed
}

// Sockets is a port that opens extra sockets. A *socket.Port is one.
type Sockets interface {
	ConnOn(local netip.Addr) *socket.Conn
	OpenExtra(local netip.Addr) (*socket.Conn, error)
	CloseExtra(c *socket.Conn)
	Keep(c *socket.Conn, ended func()) bool
}

// Guess is one establishment's guessing of ports. Run runs it once; Close ends it.
type Guess struct {
	cfg    GuessConfig
	local  Credentials
	remote Credentials
	target netip.Addr // the peer's

	found chan Pair     // capacity guessHits
	hits  chan guessHit // capacity guessHits

	mu     sync.Mutex // guards what follows
	closed bool
	sent   int
	awaits []stun.TransactionID
	hit    map[guessHit]bool
}

// guessHit is a pair on which a check of the peer's has come in.
type guessHit struct {
	local  *socket.Conn
	remote netip.AddrPort
}

// NewGuess makes a Guess that answers the peer's checks to local from target on.
func NewGuess(cfg GuessConfig, local, remote Credentials, target netip.Addr) *Guess {
	g := &Guess{
		cfg: cfg, local: local, remote: remote, target: target,
		found: make(chan Pair, guessHits), hits: make(chan guessHit, guessHits), hit: map[guessHit]bool{},
	}
	cfg.Demux.register(local.Ufrag+guessMark, g)
	return g
}

// Close has the peer answered no more. It is idempotent.
func (g *Guess) Close() {
	g.mu.Lock()
	g.closed = true
	awaits := g.awaits
	g.awaits = nil
	g.mu.Unlock()
	g.cfg.Demux.unregister(g.local.Ufrag+guessMark, awaits)
}

// takeRequest answers a check of the peer's, and has the pair checked in return.
func (g *Guess) takeRequest(local End, from netip.AddrPort, b []byte) {
	c, ok := local.(*socket.Conn)
	if !ok || from.Addr() != g.target || !answerCheck(g.local.Pwd, c, from, b) {
		return
	}
	h := guessHit{c, from}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hit[h] || len(g.hit) >= guessHits {
		return
	}
	g.hit[h] = true
	g.hits <- h
}

// Run looks for a pair until ctx ends, from outside addresses mine to theirs, of which one
// is Dependent. Sockets that were hit stay open, all others it has opened are closed.
func (g *Guess) Run(ctx context.Context, mine, theirs Outside) (Pair, error) {
	if mine.Dependent() == theirs.Dependent() || theirs.Addr != g.target {
		return Pair{}, fmt.Errorf("%w: one side's port has to be unknown, and the other's known", ErrNoPair)
	}
	if err := g.cfg.Demux.guesses.begin(g.target, time.Now()); err != nil {
		return Pair{}, err
	}
	defer g.cfg.Demux.guesses.end()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	next := g.sweep(mine, theirs)
	if mine.Dependent() {
		opened := new([]*socket.Conn)
		defer func() { g.release(*opened) }()
		next = g.spread(mine, theirs, opened)
	}
	tick := time.NewTicker(guessGap)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			next()
		case h := <-g.hits:
			wg.Go(func() { g.check(ctx, h) })
		case p := <-g.found:
			g.cfg.Demux.guesses.forget(g.target)
			if !g.stays(p.Local) {
				return Pair{}, fmt.Errorf("%w: the port has too many extra sockets for the one that was hit", ErrNoPair)
			}
			return p, nil
		case <-ctx.Done():
			return Pair{}, fmt.Errorf("%w: no guessed port answered in %d checks", ErrNoPair, g.count())
		}
	}
}

// sweep returns what sends the next check to another port of the peer's.
func (g *Guess) sweep(mine, theirs Outside) (next func()) {
	from := g.cfg.Port.ConnOn(mine.Base.Addr())
	ports := guessPorts(theirs.Ports, guessTries)
	return func() {
		if from != nil && len(ports) > 0 {
			g.send(from, netip.AddrPortFrom(theirs.Addr, ports[0]))
			ports = ports[1:]
		}
	}
}

// spread returns what sends the next check from another socket, each twice.
func (g *Guess) spread(mine, theirs Outside, opened *[]*socket.Conn) (next func()) {
	to := netip.AddrPortFrom(theirs.Addr, theirs.Ports[0])
	again := 0
	return func() {
		if len(*opened) < guessSockets {
			if c, err := g.cfg.Port.OpenExtra(mine.Base.Addr()); err == nil {
				*opened = append(*opened, c)
				g.send(c, to)
				return
			}
		}
		if again < len(*opened) {
			g.send((*opened)[again], to)
			again++
		}
	}
}

// stays has a socket that was hit stay open, and says whether it does.
func (g *Guess) stays(c *socket.Conn) bool {
	return g.cfg.Port.ConnOn(c.LocalAddr().Addr()) == c || g.cfg.Port.Keep(c, func() { g.cfg.Ended(c) })
}

// release closes the sockets, but for those that were hit: the peer may have another one of
// them than we.
func (g *Guess) release(opened []*socket.Conn) {
	for _, c := range opened {
		if g.wasHit(c) {
			g.stays(c)
		}
		g.cfg.Port.CloseExtra(c) // no kept one
	}
}

func (g *Guess) wasHit(c *socket.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for h := range g.hit {
		if h.local == c {
			return true
		}
	}
	return false
}

func (g *Guess) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent
}

// check sends checks of a pair until the peer answers, or there were enough.
func (g *Guess) check(ctx context.Context, h guessHit) {
	for _, gap := range guessGaps {
		g.send(h.local, h.remote)
		t := time.NewTimer(gap)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// send sends one check.
func (g *Guess) send(c *socket.Conn, to netip.AddrPort) {
	b, id, err := g.message()
	if err != nil || !g.await(id, c, to) {
		return
	}
	_ = c.WriteTo(b, to) // another one follows
}

func (g *Guess) message() ([]byte, stun.TransactionID, error) {
	marked := Credentials{Ufrag: g.remote.Ufrag + guessMark, Pwd: g.remote.Pwd}
	return stun.Check{Local: g.local.Ufrag + guessMark, Remote: marked}.Message()
}

// await counts a check and registers its transaction; false: it is too late for one.
func (g *Guess) await(id stun.TransactionID, c *socket.Conn, to netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.sent++
	g.awaits = append(g.awaits, id)
	g.cfg.Demux.await(id, func(local End, from netip.AddrPort, b []byte) {
		if from != to || local != End(c) || !stun.IsAnswer(b, g.remote.Pwd) {
			return
		}
		g.cfg.Demux.pacer.NoteAnswer(from.Addr(), time.Now())
		g.mu.Lock()
		g.hit[guessHit{c, to}] = true // it stays open
		g.mu.Unlock()
		select {
		case g.found <- Pair{Local: c, Remote: to}:
		default:
		}
	})
	return true
}

// guessPorts returns at most n ports to try, each once: first those that a NAT which
// counts gives next, then any, in no order.
func guessPorts(seen []uint16, n int) []uint16 {
	out := make([]uint16, 0, n)
	tried := make(map[uint16]bool, n)
	add := func(p int) {
		if p >= guessLowest && p <= 65535 && !tried[uint16(p)] && len(out) < n {
			tried[uint16(p)] = true
			out = append(out, uint16(p))
		}
	}
	for d := 1; d <= guessNear; d++ {
		for _, p := range seen {
			add(int(p) + d)
		}
	}
	for len(out) < n {
		add(guessLowest + rand.IntN(65536-guessLowest))
	}
	return out
}

// guesses bounds what is guessed by one node. It is safe for concurrent use.
type guesses struct {
	mu      sync.Mutex // guards what follows
	running bool
	runs    *simplelru.LRU[netip.Addr, []time.Time]
}

func newGuesses() *guesses { return &guesses{runs: newLRU[netip.Addr, []time.Time](guessIPs)} }

// begin says whether a run to an address may begin, and counts it; end follows.
func (g *guesses) begin(to netip.Addr, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running {
		return fmt.Errorf("%w: those of another peer are being guessed", ErrGuessed)
	}
	then, _ := g.runs.Get(to)
	then = slices.DeleteFunc(slices.Clone(then), func(t time.Time) bool { return now.Sub(t) >= guessWithin })
	if len(then) >= guessRuns {
		return fmt.Errorf("%w: %d times at %v within an hour", ErrGuessed, len(then), to)
	}
	g.runs.Add(to, append(then, now))
	g.running = true
	return nil
}

// forget forgets the runs to an address: somebody has answered there.
func (g *guesses) forget(to netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.runs.Remove(to)
}

func (g *guesses) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = false
}
