package overlay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v2"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// Checks of pairs with an address that a TURN server lends, on either side.
// They are STUN connectivity checks as all others, but not pion's: an agent
// would settle for such a pair and look no further, where a pipe wants the
// first that works at once and a direct one as soon as there is. So the agent
// never hears of these addresses. A fragment of their own keeps the two apart:
// that of the peer with turnMark behind it.
const (
	turnMark = "~turn"
	// turnHeadStart is how long direct checks are alone: less than the
	// relays of members wait, whom a server that the user has named spares.
	turnHeadStart = 100 * time.Millisecond
	// turnAlone is how long these checks are before members are asked to
	// relay, where there is a server at all.
	turnAlone = 300 * time.Millisecond
	turnPairs = 48 // of one establishment
)

// turnGaps are the waits after each check of a pair.
var turnGaps = []time.Duration{
	50 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
	400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second, time.Second, time.Second,
}

// turnEnd is a local end of such a pair: a socket of the port, or a link.
type turnEnd interface {
	pipe.Sender
	WriteTo(b []byte, to netip.AddrPort) error
}

var (
	_ turnEnd = (*socket.Conn)(nil)
	_ turnEnd = (*turnLink)(nil)
)

// turnSession is one establishment's part in them. It answers the peer from
// the start; run checks once the peer's side is known. It is safe for
// concurrent use.
type turnSession struct {
	demux      *stunDemux
	ufrag, pwd string

	mu    sync.Mutex // guards what follows
	ended bool
	sent  []transactionID
	pairs map[turnPair]bool // begun
	begin func(turnPair)    // nil before run
	early []turnPair        // added before run
}

type turnPair struct {
	local  turnEnd
	remote netip.AddrPort
}

func (d *stunDemux) newTURNSession(ufrag, pwd string) *turnSession {
	t := &turnSession{demux: d, ufrag: ufrag, pwd: pwd, pairs: map[turnPair]bool{}}
	d.mu.Lock()
	d.turns[ufrag+turnMark] = t
	d.mu.Unlock()
	return t
}

// close ends the session. It is idempotent; nil is one that never was.
func (t *turnSession) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.ended = true
	sent := t.sent
	t.sent = nil
	t.mu.Unlock()
	t.demux.mu.Lock()
	defer t.demux.mu.Unlock()
	delete(t.demux.turns, t.ufrag+turnMark)
	for _, id := range sent {
		delete(t.demux.checking, id)
	}
}

// handleTURN takes a STUN message that came to a lent address; b is borrowed.
func (d *stunDemux) handleTURN(l *turnLink, from netip.AddrPort, b []byte) {
	kind, id := classify(b)
	d.handleCheck(l, from, b, kind, id)
}

// handleCheck handles what belongs to the checks of this file and says whether
// it did. b is borrowed.
func (d *stunDemux) handleCheck(local turnEnd, from netip.AddrPort, b []byte, kind stunKind, id transactionID) bool {
	switch kind {
	case stunRequest:
		d.mu.RLock()
		t := d.turns[string(username(b))]
		d.mu.RUnlock()
		if t == nil {
			return false
		}
		t.request(local, from, b)
		return true
	case stunResponse:
		d.mu.RLock()
		f := d.checking[id]
		d.mu.RUnlock()
		if f == nil {
			return false
		}
		f(from, b)
		return true
	}
	return false
}

// request answers a check of the peer, and checks the pair in return: the
// peer's address may be one that it does not know itself (RFC 8445 §7.3.1.4).
func (t *turnSession) request(local turnEnd, from netip.AddrPort, b []byte) {
	if !answerCheck(stun.NewShortTermIntegrity(t.pwd), local, from, b) {
		return
	}
	t.mu.Lock()
	begin := t.begin
	t.mu.Unlock()
	if begin != nil {
		begin(turnPair{local, from})
	}
}

// add has pairs with addresses that the peer has named late, or links that
// have come late, checked too.
func (t *turnSession) add(pairs []turnPair) {
	t.mu.Lock()
	begin := t.begin
	if begin == nil && len(t.early) < turnPairs {
		t.early = append(t.early, pairs...)
	}
	t.mu.Unlock()
	if begin != nil {
		for _, p := range pairs {
			begin(p)
		}
	}
}

// pairsThrough are the pairs that lead through a server: links with all
// addresses of the peer, sockets with those that are lent.
func pairsThrough(links []*turnLink, conns []*socket.Conn, remote []wire.Candidate) []turnPair {
	var out []turnPair
	for _, c := range remote {
		for _, l := range links {
			if l.at.Addr().Is4() == c.Addr.Addr().Is4() {
				out = append(out, turnPair{l, c.Addr})
			}
		}
		if c.Type != wire.Relayed {
			continue
		}
		for _, s := range conns {
			if reaches(s.LocalAddr().Addr(), c.Addr.Addr()) {
				out = append(out, turnPair{s, c.Addr})
			}
		}
	}
	return out
}

// run checks the pairs, and those that requests of the peer bring up, until
// one works or ctx ends.
func (t *turnSession) run(ctx context.Context, remote pipe.Remote, pairs []turnPair) (pipe.Path, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	found := make(chan turnPair, turnPairs)
	t.mu.Lock()
	t.begin = func(p turnPair) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.begin == nil || t.pairs[p] || len(t.pairs) >= turnPairs {
			return
		}
		t.pairs[p] = true
		wg.Go(func() {
			if t.check(ctx, p, remote) {
				found <- p
			}
		})
	}
	pairs = append(pairs, t.early...)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.begin = nil
		t.mu.Unlock()
	}()
	t.add(pairs)
	select {
	case p := <-found:
		return pipe.Path{Local: p.local, Remote: p.remote}, nil
	case <-ctx.Done():
		return pipe.Path{}, fmt.Errorf("through TURN servers: %w", errNoPair)
	}
}

// check sends checks of one pair until the peer answers.
func (t *turnSession) check(ctx context.Context, p turnPair, remote pipe.Remote) bool {
	got := make(chan struct{}, 1)
	key := stun.NewShortTermIntegrity(remote.Pwd)
	answer := func(from netip.AddrPort, b []byte) {
		m := &stun.Message{Raw: slices.Clone(b)}
		if from != p.remote || m.Decode() != nil || m.Type != stun.BindingSuccess || key.Check(m) != nil {
			return
		}
		t.demux.pacer.answered(from.Addr(), time.Now())
		select {
		case got <- struct{}{}:
		default:
		}
	}
	for _, gap := range turnGaps {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest,
			stun.NewUsername(remote.Ufrag+turnMark+":"+t.ufrag+turnMark), key, stun.Fingerprint)
		if err != nil || !t.sending(m.TransactionID, answer) {
			return false
		}
		if t.demux.pacer.allow(p.remote, time.Now()) {
			if l, ok := p.local.(*turnLink); ok {
				err = l.open(m.Raw, p.remote)
			} else {
				err = p.local.WriteTo(m.Raw, p.remote)
			}
			if err != nil {
				return false
			}
		}
		w := time.NewTimer(gap)
		select {
		case <-got:
			w.Stop()
			return true
		case <-w.C:
		case <-ctx.Done():
			w.Stop()
			return false
		}
	}
	return false
}

// sending registers a transaction; false: the session has ended.
func (t *turnSession) sending(id transactionID, answer func(netip.AddrPort, []byte)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	t.sent = append(t.sent, id)
	t.demux.mu.Lock()
	t.demux.checking[id] = answer
	t.demux.mu.Unlock()
	return true
}

// pairsOf are the pairs of a session that lead through a server.
func (c *connects) pairsOf(o opening) []turnPair {
	return pairsThrough(c.o.turn.links(), c.o.cfg.Socket.Conns(), c.o.filter.keep(o.remote.Candidates))
}

// throughTURN finds a path for a session through a TURN server of either side.
func (c *connects) throughTURN(ctx context.Context, o opening, t *turnSession, pairs []turnPair) tried {
	start := time.Now()
	path, err := t.run(ctx, o.remote, pairs)
	if err != nil {
		return tried{turn: true, err: err}
	}
	local, remote := path.Addrs()
	c.o.cfg.Events.Emit(event.Event{Kind: event.PairChosen, Peer: o.e.peer, Local: local, Remote: remote,
		Detail: "through a TURN server", Duration: time.Since(start)})
	return tried{path: path, turn: true}
}

// splitRelayed parts the candidates that TURN servers lend from the others.
func splitRelayed(cs []wire.Candidate) (direct, lent []wire.Candidate) {
	for _, c := range cs {
		if c.Type == wire.Relayed {
			lent = append(lent, c)
		} else {
			direct = append(direct, c)
		}
	}
	return direct, lent
}
