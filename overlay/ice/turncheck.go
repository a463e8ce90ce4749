package ice

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// Checks of pairs with an address that a TURN server lends, on either side.
// They are STUN connectivity checks as all others, but not pion's: an agent
// would settle for such a pair and look no further, where a pipe wants the
// first that works at once and a direct one as soon as there is. So the agent
// never hears of these addresses. A fragment of their own keeps the two apart:
// that of the peer with turnMark behind it.
const (
	turnMark  = "~turn"
	turnPairs = 48 // of one establishment
)

// turnGaps are the waits after each check of a pair.
var turnGaps = []time.Duration{
	50 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
	400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second, time.Second, time.Second,
}

// Allocation is an End whose address a TURN server lends.
type Allocation interface {
	End
	// Open is WriteTo to an address that the server may have no permission for
	// yet: it asks for one first, and waits for it.
	Open(b []byte, to netip.AddrPort) error
}

// TURNPair is a pair with an address that a TURN server lends, on either side.
type TURNPair struct {
	Local  End
	Remote netip.AddrPort
}

// TURNChecks is one establishment's part in the checks of such pairs. It answers
// the peer from the start; Run checks once the peer's side is known. It is safe
// for concurrent use; a nil one has no pairs.
type TURNChecks struct {
	demux *Demux
	local Credentials

	mu      sync.Mutex // guards what follows
	closed  bool
	sent    []stun.TransactionID
	checked map[TURNPair]bool
	begin   func(TURNPair) // nil unless Run runs
	waiting []TURNPair     // added before Run
}

func newTURNChecks(d *Demux, local Credentials) *TURNChecks {
	t := &TURNChecks{demux: d, local: local, checked: map[TURNPair]bool{}}
	d.register(local.Ufrag+turnMark, t)
	return t
}

// Close has the peer answered no more. It is idempotent.
func (t *TURNChecks) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.closed = true
	sent := t.sent
	t.sent = nil
	t.mu.Unlock()
	t.demux.unregister(t.local.Ufrag+turnMark, sent)
}

// takeRequest answers a check of the peer, and checks the pair in return: the
// peer's address may be one that it does not know itself (RFC 8445 §7.3.1.4).
func (t *TURNChecks) takeRequest(local End, from netip.AddrPort, b []byte) {
	if !answerCheck(t.local.Pwd, local, from, b) {
		return
	}
	t.mu.Lock()
	begin := t.begin
	t.mu.Unlock()
	if begin != nil {
		begin(TURNPair{local, from})
	}
}

// Add has pairs with addresses that the peer has named late, or that servers
// have lent late, checked too.
func (t *TURNChecks) Add(pairs []TURNPair) {
	if t == nil {
		return
	}
	t.mu.Lock()
	begin := t.begin
	if begin == nil && len(t.waiting) < turnPairs {
		t.waiting = append(t.waiting, pairs...)
	}
	t.mu.Unlock()
	if begin != nil {
		for _, p := range pairs {
			begin(p)
		}
	}
}

// TURNPairs are the pairs that lead through a server: lent addresses with all of
// the peer's, sockets with those of the peer's that are lent; carriers, which the port has
// a Conn for as well, with those of the peer's that are theirs.
func TURNPairs[L Allocation](lent []L, conns []*socket.Conn, remote []wire.Candidate) []TURNPair {
	var out []TURNPair
	for _, c := range remote {
		for _, l := range lent {
			if carrier.Prefix.Contains(c.Addr.Addr()) {
				break // no server gets there
			}
			if l.LocalAddr().Addr().Is4() == c.Addr.Addr().Is4() {
				out = append(out, TURNPair{l, c.Addr})
			}
		}
		if c.Type != wire.Relayed {
			continue
		}
		for _, s := range conns {
			if s.Reaches(c.Addr.Addr()) {
				out = append(out, TURNPair{s, c.Addr})
			}
		}
	}
	return out
}

// Run checks the pairs, those that were added, and those that requests of the
// peer bring up, until one works or ctx ends. It is called once.
func (t *TURNChecks) Run(ctx context.Context, remote Credentials, pairs []TURNPair) (TURNPair, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	found := make(chan TURNPair, turnPairs)
	t.mu.Lock()
	t.begin = func(p TURNPair) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.begin == nil || t.checked[p] || len(t.checked) >= turnPairs {
			return
		}
		t.checked[p] = true
		wg.Go(func() {
			if t.check(ctx, p, remote) {
				found <- p
			}
		})
	}
	pairs = append(pairs, t.waiting...)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.begin = nil
		t.mu.Unlock()
	}()
	t.Add(pairs)
	select {
	case p := <-found:
		return p, nil
	case <-ctx.Done():
		return TURNPair{}, fmt.Errorf("through TURN servers: %w", ErrNoPair)
	}
}

// check sends checks of one pair until the peer answers.
func (t *TURNChecks) check(ctx context.Context, p TURNPair, remote Credentials) bool {
	got := make(chan struct{}, 1)
	answer := func(_ End, from netip.AddrPort, b []byte) {
		if from != p.Remote || !stun.IsAnswer(b, remote.Pwd) {
			return
		}
		t.demux.pacer.NoteAnswer(from.Addr(), time.Now())
		select {
		case got <- struct{}{}:
		default:
		}
	}
	marked := Credentials{Ufrag: remote.Ufrag + turnMark, Pwd: remote.Pwd}
	for _, gap := range turnGaps {
		b, id, err := stun.Check{Local: t.local.Ufrag + turnMark, Remote: marked}.Message()
		if err != nil || !t.await(id, answer) {
			return false
		}
		if t.demux.pacer.Allow(netip.AddrPort{}, p.Remote, time.Now()) {
			if l, ok := p.Local.(Allocation); ok {
				err = l.Open(b, p.Remote)
			} else {
				err = p.Local.WriteTo(b, p.Remote)
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

// await registers a transaction; false: the checks were closed.
func (t *TURNChecks) await(id stun.TransactionID, take responseTaker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.sent = append(t.sent, id)
	t.demux.await(id, take)
	return true
}
