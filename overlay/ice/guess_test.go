package ice

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// guesser is one side of a pair whose port is guessed.
type guesser struct {
	*memPeer
	local Credentials
	out   Outside
	guess *Guess
	ended chan End
}

// guessPair is a side behind a NAT that gives each destination the port that next returns,
// and one behind a NAT that keeps ports; both let in what answers.
func guessPair(t *testing.T, m *memory, next func() uint16) (hard, soft *guesser) {
	m.box("10.0.0.2", "20.0.0.1", next)
	m.box("10.1.0.2", "20.0.0.2", nil)
	hard = &guesser{memPeer: m.host(t, "eth0 10.0.0.2/24"), local: mine,
		out: Outside{netip.MustParseAddr("20.0.0.1"), []uint16{30000, 40000}, netip.MustParseAddrPort("10.0.0.2:4000")}}
	soft = &guesser{memPeer: m.host(t, "eth0 10.1.0.2/24"), local: theirs,
		out: Outside{netip.MustParseAddr("20.0.0.2"), []uint16{4000}, netip.MustParseAddrPort("10.1.0.2:4000")}}
	for g, o := range map[*guesser]*guesser{hard: soft, soft: hard} {
		g.ended = make(chan End, guessHits)
		g.guess = NewGuess(GuessConfig{g.demux, g.port, func(c End) { g.ended <- c }}, g.local, o.local, o.out.Addr)
		t.Cleanup(g.guess.Close)
	}
	return hard, soft
}

type guessResult struct {
	pair Pair
	err  error
	took time.Duration
}

func (g *guesser) run(ctx context.Context, o *guesser) <-chan guessResult {
	out := make(chan guessResult, 1)
	start := time.Now()
	go func() {
		p, err := g.guess.Run(ctx, g.out, o.out)
		out <- guessResult{p, err, time.Since(start)}
	}()
	return out
}

func random() uint16 { return uint16(guessLowest + rand.IntN(65536-guessLowest)) }

// Most of the time the two meet within ten seconds, and what leaves stays within its
// bounds, whether they meet or not.
func TestGuess(t *testing.T) {
	const rounds = 30
	met := 0
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			hard, soft := guessPair(t, m, random)
			ctx, cancel := context.WithTimeout(t.Context(), 10100*time.Millisecond)
			defer cancel()
			a, b := hard.run(ctx, soft), soft.run(ctx, hard)
			x, y := <-a, <-b
			if (x.err == nil) != (y.err == nil) {
				t.Errorf("one side has found a pair: %v, %v", x.err, y.err)
			}
			for to, took := range map[string]time.Duration{"20.0.0.2": x.took, "20.0.0.1": y.took} {
				if n := m.sentTo(to); n >= 1000 || n > int(took/guessGap)+guessHits*(len(guessGaps)+4) {
					t.Errorf("%d datagrams to %s in %v", n, to, took)
				}
			}
			if x.err != nil {
				if !errors.Is(x.err, ErrNoPair) || !errors.Is(y.err, ErrNoPair) {
					t.Errorf("the errors are %v and %v", x.err, y.err)
				}
				return
			}
			met++
			carries(t, m, x.pair, y.pair)
		})
	}
	if met < rounds*3/4 {
		t.Errorf("%d of %d met", met, rounds)
	}
}

// carries checks that datagrams pass in both directions between the two pairs.
func carries(t *testing.T, m *memory, hard, soft Pair) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.boxes[0].leave(hard.Local.LocalAddr(), hard.Remote)
	if to, ok := m.boxes[1].enter(at, hard.Remote); !ok || to != soft.Local.LocalAddr() {
		t.Errorf("what is sent on %v does not arrive", hard)
	}
	back := m.boxes[1].leave(soft.Local.LocalAddr(), soft.Remote)
	if to, ok := m.boxes[0].enter(back, soft.Remote); !ok || m.conns[to] == nil {
		t.Errorf("what is sent on %v does not arrive", soft)
	}
}

// A NAT that counts is met at once, and of the sockets only those stay that were hit, as
// long as something comes in.
func TestGuessNearPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		port := uint16(40000)
		hard, soft := guessPair(t, m, func() uint16 { port++; return port })
		a, b := hard.run(t.Context(), soft), soft.run(t.Context(), hard)
		x, y := <-a, <-b
		if x.err != nil || y.err != nil || max(x.took, y.took) > time.Second {
			t.Fatalf("%v after %v, %v after %v", x.err, x.took, y.err, y.took)
		}
		open := 0
		m.mu.Lock()
		for _, c := range m.conns {
			select {
			case <-c.closed:
			default:
				open++
			}
		}
		m.mu.Unlock()
		if kept := open - 2; kept < 1 || kept > guessHits {
			t.Errorf("%d extra sockets stay", kept)
		}
		if c := x.pair.Local; c == hard.port.Conns()[0] || len(hard.port.Conns()) != 1 {
			t.Errorf("the pair has %v of %v", c, hard.port.Conns())
		}
		// What is heard keeps a socket.
		for range 10 {
			time.Sleep(time.Minute)
			m.deliver(y.pair.Local.LocalAddr(), y.pair.Remote, []byte{0x80})
			m.deliver(soft.port.Conns()[0].LocalAddr(), netip.AddrPortFrom(hard.out.Addr, portOf(m, x.pair)), []byte{0x80})
			synctest.Wait()
		}
		select {
		case <-x.pair.Local.Closed():
			t.Fatal("a socket on which something comes in was closed")
		default:
		}
		time.Sleep(7 * time.Minute)
		for range open - 2 {
			<-hard.ended
		}
		<-x.pair.Local.Closed()
	})
}

// portOf is the port at which a pair's socket is seen.
func portOf(m *memory, p Pair) uint16 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boxes[0].leave(p.Local.LocalAddr(), p.Remote).Port()
}

// Where nobody is, few sweeps are made, one at a time; where both ports are unknown, or
// none is, nothing is sent.
func TestGuessIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		hard, soft := guessPair(t, m, random)
		for i := range guessRuns + 1 {
			g := NewGuess(GuessConfig{soft.demux, soft.port, nil}, soft.local, hard.local, hard.out.Addr)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			before := m.sentTo("20.0.0.1")
			done := make(chan error, 1)
			go func() {
				_, err := g.Run(ctx, soft.out, hard.out)
				done <- err
			}()
			synctest.Wait()
			if _, err := soft.guess.Run(ctx, soft.out, hard.out); !errors.Is(err, ErrGuessed) {
				t.Errorf("run %d: another one beside it: %v", i, err)
			}
			err := <-done
			cancel()
			g.Close()
			sent := m.sentTo("20.0.0.1") - before
			if i < guessRuns && (!errors.Is(err, ErrNoPair) || sent != guessTries) {
				t.Errorf("run %d: %v, %d sent", i, err, sent)
			}
			if i == guessRuns && (!errors.Is(err, ErrGuessed) || sent > 0) {
				t.Errorf("run %d: %v, %d sent", i, err, sent)
			}
		}
		time.Sleep(guessWithin)
		before := m.sentTo("20.0.0.1") + m.sentTo("20.0.0.2")
		for _, sides := range [][2]Outside{{hard.out, hard.out}, {soft.out, soft.out}, {hard.out, Outside{}}} {
			if _, err := soft.guess.Run(t.Context(), sides[0], sides[1]); !errors.Is(err, ErrNoPair) {
				t.Errorf("%v: %v", sides, err)
			}
		}
		if n := m.sentTo("20.0.0.1") + m.sentTo("20.0.0.2") - before; n > 0 {
			t.Errorf("%d sent where there is nothing to guess", n)
		}
	})
}

// Nobody but the peer hits a socket: not who has no password, nor who sends from elsewhere.
func TestGuessOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		hard, soft := guessPair(t, m, random)
		c := soft.port.Conns()[0]
		for _, from := range []string{"20.0.0.1:7", "20.0.0.9:7"} {
			for _, pwd := range []string{soft.local.Pwd, "another password"} {
				other := &Guess{local: hard.local, remote: Credentials{Ufrag: soft.local.Ufrag, Pwd: pwd}}
				b, _, err := other.message()
				if err != nil {
					t.Fatal(err)
				}
				soft.demux.Handle(c, netip.MustParseAddrPort(from), b)
				want := 0
				if from == "20.0.0.1:7" && pwd == soft.local.Pwd {
					want = 1
				}
				if n := len(soft.guess.hits); n != want {
					t.Errorf("from %s with %q: %d hits", from, pwd, n)
				}
				if want == 1 {
					<-soft.guess.hits
				}
			}
		}
	})
}

func TestOutsideOf(t *testing.T) {
	t.Parallel()
	base, other := netip.MustParseAddrPort("192.168.1.2:4000"), netip.MustParseAddrPort("192.168.2.2:4000")
	srflx := func(at string, base netip.AddrPort) wire.Candidate {
		return wire.Candidate{Type: wire.ServerReflexive, Addr: netip.MustParseAddrPort(at), Related: base}
	}
	host := func(at string) wire.Candidate {
		return wire.Candidate{Type: wire.Host, Addr: netip.MustParseAddrPort(at)}
	}
	for _, tt := range []struct {
		desc  string
		list  []wire.Candidate
		addr  string // "": none
		ports int
	}{
		{"nothing", nil, "", 0},
		{"private", []wire.Candidate{host("192.168.1.2:4000")}, "", 0},
		{"one mapping", []wire.Candidate{host("192.168.1.2:4000"), srflx("8.0.0.1:7", base)}, "8.0.0.1", 1},
		{"seen by two", []wire.Candidate{srflx("8.0.0.1:7", base), srflx("8.0.0.1:8", base)}, "8.0.0.1", 2},
		{"the same twice", []wire.Candidate{srflx("8.0.0.1:7", base), srflx("8.0.0.1:7", base)}, "8.0.0.1", 1},
		{"two sockets", []wire.Candidate{srflx("8.0.0.1:7", base), srflx("8.0.0.1:8", other)}, "8.0.0.1", 1},
		{"a pool of addresses", []wire.Candidate{srflx("8.0.0.1:7", base), srflx("8.0.0.2:7", base)}, "", 0},
		{"no NAT", []wire.Candidate{host("192.168.1.2:4000"), host("8.0.0.1:4000")}, "8.0.0.1", 1},
		{"IPv6", []wire.Candidate{host("[2606:4700::1]:4000")}, "", 0},
	} {
		o := OutsideOf(tt.list)
		if tt.addr == "" && o.Addr.IsValid() || tt.addr != "" && o.Addr != netip.MustParseAddr(tt.addr) || len(o.Ports) != tt.ports || o.Dependent() != (tt.ports > 1) {
			t.Errorf("%s: %+v", tt.desc, o)
		}
	}
}

func TestGuessPorts(t *testing.T) {
	t.Parallel()
	for _, seen := range [][]uint16{nil, {65530}, {1, 2}, {30000, 30001, 40000}} {
		ports := guessPorts(seen, 960)
		tried := map[uint16]bool{}
		for _, p := range ports {
			if p < guessLowest || tried[p] {
				t.Errorf("behind %v: port %d", seen, p)
			}
			tried[p] = true
		}
		if len(ports) != 960 || len(seen) > 0 && seen[0] == 65530 && ports[0] != 65531 {
			t.Errorf("behind %v: %d ports, first %d", seen, len(ports), ports[0])
		}
	}
}
