package nat

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/socket"
)

const (
	// askServers is how many servers are asked in a measurement, from each
	// socket.
	askServers = 2
	// measureGrace is how long those who wait for a measurement wait for the
	// other sockets once one was answered.
	measureGrace = 100 * time.Millisecond
	// measureAgain is how often a mapped address is measured again without a
	// reason: mappings live for two minutes and more (RFC 4787 REQ-5), and
	// pipes keep them alive.
	measureAgain = 2 * time.Minute
)

// An Asker puts one question to a STUN server, from c: as which address does it
// see c? sent says whether a question has left at all. An ice.Demux is one.
type Asker interface {
	Ask(ctx context.Context, c *socket.Conn, server netip.AddrPort) (seen netip.AddrPort, sent, ok bool)
	// Other returns another port of a server that has answered, if it has named one:
	// whether a NAT shows another address there tells its kind (RFC 5780 §4.3).
	Other(server netip.AddrPort) (netip.AddrPort, bool)
}

// MappedConfig configures a MappedAddrs. It is read once.
type MappedConfig struct {
	Asker   Asker                   // required
	Conns   func() []*socket.Conn   // of the port; required
	Servers func() []netip.AddrPort // STUN servers, members among them, the best first; required
	Probes  *Probes                 // is told what comes of each question; nil: nobody
	Changed func()                  // is called when an address is new; nil: nobody asks
}

// MappedAddrs keeps the mapped addresses of a port's sockets, measured in the
// background so that an offer never waits for them (DESIGN §14.9). It is safe
// for concurrent use.
type MappedAddrs struct {
	cfg  MappedConfig
	kick chan struct{} // capacity 1: measure again

	mu       sync.Mutex // guards what follows
	mapped   map[*socket.Conn][]netip.AddrPort
	answered bool          // a server has answered the newest measurement
	done     chan struct{} // closed by the next measurement that begins after it was made
}

// NewMappedAddrs makes a MappedAddrs that knows nothing. Run or Measure measures.
func NewMappedAddrs(cfg MappedConfig) *MappedAddrs {
	return &MappedAddrs{cfg: cfg, kick: make(chan struct{}, 1), mapped: map[*socket.Conn][]netip.AddrPort{}}
}

// Remeasure asks Run for a new measurement and returns a channel that is closed
// when it is done: every socket was answered, or asked in vain, or one was
// answered and the others had a grace of 100 ms.
func (m *MappedAddrs) Remeasure() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done == nil {
		m.done = make(chan struct{})
	}
	select {
	case m.kick <- struct{}{}:
	default:
	}
	return m.done
}

// Known says whether a server has answered the newest measurement.
func (m *MappedAddrs) Known() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answered
}

// Of returns the mapped addresses of c that differ from its own.
func (m *MappedAddrs) Of(c *socket.Conn) []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mapped[c])
}

// Run measures when asked and every two minutes, until ctx ends.
func (m *MappedAddrs) Run(ctx context.Context) {
	t := time.NewTimer(measureAgain)
	defer t.Stop()
	var wg sync.WaitGroup
	stop := func() {}
	for {
		select {
		case <-ctx.Done():
		case <-m.kick:
		case <-t.C:
		}
		stop() // a server that does not answer holds nothing up
		wg.Wait()
		if ctx.Err() != nil {
			return
		}
		var one context.Context
		one, stop = context.WithCancel(ctx)
		wg.Go(func() { m.Measure(one) })
		t.Reset(measureAgain)
	}
}

// Measure asks from every socket, once, and returns when all were answered or
// asked in vain, or ctx ends. What one of them waits for holds up no other: what
// a socket is answered is kept at once. It must not run twice at a time.
func (m *MappedAddrs) Measure(ctx context.Context) {
	m.mu.Lock()
	done := m.done
	m.done, m.answered = nil, false
	m.mu.Unlock()
	finished := sync.OnceFunc(func() {
		if done != nil {
			close(done)
		}
	})
	defer finished()
	conns := m.cfg.Conns()
	m.keepOnly(conns)
	servers := m.cfg.Servers()
	var grace *time.Timer
	first := sync.OnceFunc(func() { grace = time.AfterFunc(measureGrace, finished) })
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { m.measureConn(ctx, c, serversFor(c, servers), first) })
	}
	wg.Wait()
	if grace != nil {
		grace.Stop()
	}
}

// measureConn asks servers from one socket; answered is called with each
// answer.
func (m *MappedAddrs) measureConn(ctx context.Context, c *socket.Conn, servers []netip.AddrPort, answered func()) {
	var mu sync.Mutex // guards seen and told
	var seen []netip.AddrPort
	told := 0 // servers that have answered
	take := func(a netip.AddrPort) {
		mu.Lock()
		defer mu.Unlock()
		told++
		if a != c.LocalAddr() && !slices.Contains(seen, a) {
			seen = append(seen, a)
		}
		m.keep(c, slices.Clone(seen), true)
		answered()
	}
	var last netip.AddrPort // that has answered
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if a, ok := m.ask(ctx, c, s, true); ok && ctx.Err() == nil {
				take(a)
				mu.Lock()
				last = s
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if other, ok := m.cfg.Asker.Other(last); ok && told == 1 && len(seen) == 1 {
		if a, ok := m.ask(ctx, c, other, false); ok && ctx.Err() == nil {
			take(a)
		}
	}
	if told == 0 && ctx.Err() == nil {
		m.keep(c, nil, false)
	}
}

// ask asks one server from one socket, and notes what came of it. A question that was held
// back says nothing, nor does silence where it was not expected to answer.
func (m *MappedAddrs) ask(ctx context.Context, c *socket.Conn, server netip.AddrPort, expected bool) (netip.AddrPort, bool) {
	start := time.Now()
	seen, sent, ok := m.cfg.Asker.Ask(ctx, c, server)
	if sent && (ok || expected) && m.cfg.Probes != nil {
		m.cfg.Probes.noteQuestion(ctx, c, server, seen, ok, time.Since(start))
	}
	return seen, ok
}

// serversFor are the servers that c asks: the first that it reaches, those on
// its own subnet last, since they are on this side of the NAT.
func serversFor(c *socket.Conn, servers []netip.AddrPort) []netip.AddrPort {
	var out, near []netip.AddrPort
	for _, s := range servers {
		switch {
		case !c.Reaches(s.Addr()):
		case c.Interface().Net.Contains(s.Addr()):
			near = append(near, s)
		default:
			out = append(out, s)
		}
	}
	out = append(out, near...)
	return out[:min(len(out), askServers)]
}

// keep takes what a socket was told in a measurement, if a server has answered,
// and tells if an address is new.
func (m *MappedAddrs) keep(c *socket.Conn, seen []netip.AddrPort, answered bool) {
	m.mu.Lock()
	fresh := slices.ContainsFunc(seen, func(a netip.AddrPort) bool { return !slices.Contains(m.mapped[c], a) })
	m.mapped[c] = seen
	m.answered = m.answered || answered
	m.mu.Unlock()
	if fresh && m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

// keepOnly forgets sockets that are gone.
func (m *MappedAddrs) keepOnly(conns []*socket.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.mapped {
		if !slices.Contains(conns, c) {
			delete(m.mapped, c)
		}
	}
}
