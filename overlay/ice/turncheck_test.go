package ice

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// relays is a network in memory of ends that hand what they are sent to a demux.
type relays struct {
	mu   sync.Mutex // guards what follows
	ends map[netip.AddrPort]*relayEnd
	lose func(from, to netip.AddrPort) bool
}

// relayEnd is an address that a server lends.
type relayEnd struct {
	n      *relays
	d      *Demux
	at     netip.AddrPort
	err    error // of sending
	opened int   // guarded by n.mu
	sent   int
}

var _ Allocation = (*relayEnd)(nil)

func (n *relays) end(d *Demux, at string) *relayEnd {
	e := &relayEnd{n: n, d: d, at: netip.MustParseAddrPort(at)}
	n.ends[e.at] = e
	return e
}

func newRelays() *relays { return &relays{ends: map[netip.AddrPort]*relayEnd{}} }

func (e *relayEnd) LocalAddr() netip.AddrPort { return e.at }

func (e *relayEnd) WriteTo(b []byte, to netip.AddrPort) error {
	if e.err != nil {
		return e.err
	}
	e.n.mu.Lock()
	e.sent++
	other := e.n.ends[to]
	lost := other == nil || e.n.lose != nil && e.n.lose(e.at, to)
	e.n.mu.Unlock()
	if !lost {
		other.d.HandleAllocated(other, e.at, b)
	}
	return nil
}

func (e *relayEnd) WriteBatch(b []byte, _ int, to netip.AddrPort) error { return e.WriteTo(b, to) }

func (e *relayEnd) Open(b []byte, to netip.AddrPort) error {
	e.n.mu.Lock()
	e.opened++
	e.n.mu.Unlock()
	return e.WriteTo(b, to)
}

type turned struct {
	pair TURNPair
	err  error
	took time.Duration
}

func runTURN(ctx context.Context, c *TURNChecks, remote Credentials, pairs ...TURNPair) <-chan turned {
	ch := make(chan turned, 1)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	go func() {
		defer cancel()
		p, err := c.Run(ctx, remote, pairs)
		ch <- turned{p, err, time.Since(start)}
	}()
	return ch
}

var (
	mine   = Credentials{Ufrag: "mine", Pwd: "my password"}
	theirs = Credentials{Ufrag: "theirs", Pwd: "their password"}
)

// One side that knows a pair is enough: its check has the other one check back.
func TestTURNChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, lost := range []int{0, 1, 5} {
			n := newRelays()
			da, db := NewDemux(DemuxConfig{}), NewDemux(DemuxConfig{})
			ea, eb := n.end(da, "20.0.0.1:1"), n.end(db, "20.0.0.2:2")
			left := lost
			n.lose = func(_, _ netip.AddrPort) bool { left--; return left >= 0 }
			a, b := newTURNChecks(da, mine), newTURNChecks(db, theirs)
			y := runTURN(t.Context(), b, mine)
			synctest.Wait() // it runs: a check that comes before is answered only
			x := runTURN(t.Context(), a, theirs, TURNPair{ea, eb.at})
			for i, ch := range []<-chan turned{x, y} {
				r := <-ch
				if r.err != nil || r.took > 2*time.Second || i == 0 && r.pair != (TURNPair{ea, eb.at}) || i == 1 && r.pair != (TURNPair{eb, ea.at}) {
					t.Errorf("%d lost, side %d: %v, %v after %v", lost, i, r.pair.Remote, r.err, r.took)
				}
			}
			if ea.opened == 0 || eb.opened == 0 {
				t.Error("checks went out without asking for a permission")
			}
			a.Close()
			b.Close()
			a.Close() // again
			if len(da.sessions)+len(db.sessions)+len(da.awaited)+len(db.awaited) > 0 {
				t.Errorf("left: %d fragments, %d transactions", len(da.sessions)+len(db.sessions), len(da.awaited)+len(db.awaited))
			}
		}
	})
}

// Pairs that come before Run and while it runs are checked.
func TestTURNChecksAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, early := range []bool{true, false} {
			n := newRelays()
			da, db := NewDemux(DemuxConfig{}), NewDemux(DemuxConfig{})
			ea, eb := n.end(da, "20.0.0.1:1"), n.end(db, "20.0.0.2:2")
			a, b := newTURNChecks(da, mine), newTURNChecks(db, theirs)
			pair := []TURNPair{{ea, eb.at}}
			if early {
				a.Add(pair)
			}
			x := runTURN(t.Context(), a, theirs)
			time.Sleep(time.Second)
			if !early {
				a.Add(pair)
			}
			if r := <-x; r.err != nil || early != (r.took < time.Second) {
				t.Errorf("early %v: %v after %v", early, r.err, r.took)
			}
			a.Add(pair) // too late for anything
			a.Close()
			b.Close()
		}
		var none *TURNChecks
		none.Add(nil)
		none.Close()
	})
}

// Nobody answers: each pair is checked ten times in six seconds, not more than 48
// pairs, and the pacer has the last word.
func TestTURNChecksGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newRelays()
		d := NewDemux(DemuxConfig{})
		e := n.end(d, "20.0.0.1:1")
		c := newTURNChecks(d, mine)
		defer c.Close()
		r := <-runTURN(t.Context(), c, theirs, TURNPair{e, netip.MustParseAddrPort("20.0.0.9:9")})
		if !errors.Is(r.err, ErrNoPair) || e.sent != len(turnGaps) {
			t.Errorf("one pair: %v, %d checks", r.err, e.sent)
		}

		d = NewDemux(DemuxConfig{})
		c = newTURNChecks(d, mine)
		defer c.Close()
		var many []TURNPair
		for i := range 4 * turnPairs {
			many = append(many, TURNPair{e, netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 1, 0, byte(i)}), 1)})
		}
		e.sent = 0
		<-runTURN(t.Context(), c, theirs, many...)
		if e.sent != turnPairs*len(turnGaps) {
			t.Errorf("%d checks of %d pairs", e.sent, len(many))
		}

		d = NewDemux(DemuxConfig{})
		c = newTURNChecks(d, mine)
		defer c.Close()
		many = nil
		for i := range turnPairs { // of one victim
			many = append(many, TURNPair{e, netip.AddrPortFrom(netip.MustParseAddr("20.2.0.1"), uint16(i+1))})
		}
		e.sent = 0
		<-runTURN(t.Context(), c, theirs, many...)
		if e.sent > victimBurst+3 {
			t.Errorf("a victim saw %d checks", e.sent)
		}

		// An end that cannot send has no pair, and costs no time.
		e.err = errors.New("no way")
		e.sent = 0
		d = NewDemux(DemuxConfig{})
		c = newTURNChecks(d, mine)
		ctx, cancel := context.WithCancel(t.Context())
		x := runTURN(ctx, c, theirs, many[0])
		synctest.Wait()
		cancel()
		if r := <-x; !errors.Is(r.err, ErrNoPair) || r.took != 0 {
			t.Errorf("%v after %v", r.err, r.took)
		}
		c.Close()
		e.err = nil
		if x := runTURN(t.Context(), c, theirs, many[0]); e.sent != 0 {
			t.Error("closed checks send")
		} else {
			<-x
		}
	})
}

// A response counts only from where the check went, with the peer's password;
// a check only with ours.
func TestTURNChecksAreVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newRelays()
		d := NewDemux(DemuxConfig{})
		e := n.end(d, "20.0.0.1:1")
		c := newTURNChecks(d, mine)
		defer c.Close()
		peer := netip.MustParseAddrPort("20.0.0.9:9")
		x := runTURN(t.Context(), c, theirs, TURNPair{e, peer})
		synctest.Wait()
		d.mu.RLock()
		var id stun.TransactionID
		for id = range d.awaited {
		}
		d.mu.RUnlock()
		answer := func(pwd string, from netip.AddrPort) {
			b, err := stun.Success(id, netip.MustParseAddrPort("192.0.2.1:1"), pwd)
			if err != nil {
				t.Fatal(err)
			}
			d.HandleAllocated(e, from, b)
			synctest.Wait()
		}
		answer("guessed", peer)
		answer(theirs.Pwd, netip.MustParseAddrPort("20.0.0.9:10"))
		select {
		case r := <-x:
			t.Fatalf("a forged response is a pair: %v", r)
		default:
		}
		answer(theirs.Pwd, peer)
		if r := <-x; r.err != nil {
			t.Error(r.err)
		}
		// Requests: of the marked fragment only, and with our password.
		before := e.sent
		for _, q := range []Credentials{{Ufrag: "mine", Pwd: mine.Pwd}, {Ufrag: "mine" + turnMark, Pwd: "guessed"}} {
			b, _, err := stun.Check{Local: "theirs", Remote: q}.Message()
			if err != nil {
				t.Fatal(err)
			}
			d.HandleAllocated(e, peer, b)
		}
		if e.sent != before {
			t.Error("a check that is not the peer's was answered")
		}
		b, _, err := stun.Check{Local: "theirs", Remote: Credentials{Ufrag: "mine" + turnMark, Pwd: mine.Pwd}}.Message()
		if err != nil {
			t.Fatal(err)
		}
		if d.HandleAllocated(e, peer, b); e.sent != before+1 {
			t.Error("the peer's check was not answered")
		}
	})
}

// Which pairs lead through a server.
func TestTURNPairs(t *testing.T) {
	t.Parallel()
	conns := socketsOf(t, "eth0 192.168.1.2/24", "lo 127.0.0.1/8")
	n := newRelays()
	v4, v6 := n.end(nil, "20.0.0.1:1"), n.end(nil, "[2a00::1]:1")
	remote := []wire.Candidate{
		{Type: wire.Host, Addr: netip.MustParseAddrPort("20.0.0.2:2")},
		{Type: wire.Relayed, Addr: netip.MustParseAddrPort("20.0.0.3:3")},
		{Type: wire.ServerReflexive, Addr: netip.MustParseAddrPort("[2a00::2]:2")},
	}
	var got []string
	for _, p := range TURNPairs([]*relayEnd{v4, v6}, conns, remote) {
		got = append(got, p.Local.LocalAddr().String()+" "+p.Remote.String())
	}
	want := []string{"20.0.0.1:1 20.0.0.2:2", "20.0.0.1:1 20.0.0.3:3", "192.168.1.2:4000 20.0.0.3:3", "[2a00::1]:1 [2a00::2]:2"}
	if !slices.Equal(got, want) {
		t.Errorf("%s, want %s", strings.Join(got, "; "), strings.Join(want, "; "))
	}
}

// An agent has TURN checks of its own if it is to, until they are detached.
func TestAgentsHaveTURNChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h := m.host(t, "eth0 20.0.0.1/24")
		if a := h.agent(t, nil); a.TURN() != nil || a.DetachTURN() != nil {
			t.Error("an agent has checks that nobody wanted")
		}
		lent := netip.MustParseAddrPort("20.0.9.1:9")
		a := h.agent(t, func(c *Config) { c.TURN = true; c.Allocated = []netip.AddrPort{lent} })
		direct, relayed := SplitRelayed(a.Candidates())
		if len(direct) != 1 || len(relayed) != 1 || relayed[0].Addr != lent {
			t.Errorf("candidates %s", Describe(a.Candidates()))
		}
		ufrag := a.Credentials().Ufrag + turnMark
		if a.TURN() == nil || h.demux.sessions[ufrag] == nil {
			t.Fatal("no checks")
		}
		detached := a.DetachTURN()
		a.Close()
		if a.TURN() != nil || h.demux.sessions[ufrag] == nil {
			t.Error("Close has closed what was detached")
		}
		if detached.Close(); h.demux.sessions[ufrag] != nil {
			t.Error("closed checks answer")
		}
		a = h.agent(t, func(c *Config) { c.TURN = true })
		if a.Close(); h.demux.sessions[a.Credentials().Ufrag+turnMark] != nil {
			t.Error("Close leaves checks that nobody has")
		}
	})
}
