package ice

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

type checked struct {
	pair Pair
	err  error
	took time.Duration
}

// check runs an agent's checks beside the test.
func check(ctx context.Context, a *Agent, controlling bool, other *Agent, candidates []wire.Candidate) <-chan checked {
	ch := make(chan checked, 1)
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	go func() {
		defer cancel()
		p, err := a.Check(ctx, controlling, other.Credentials(), candidates)
		ch <- checked{p, err, time.Since(start)}
	}()
	return ch
}

// Two hosts that reach each other find a pair at once, at the addresses that they
// have shown, and know afterwards what else was answered.
func TestAgentsFindAPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a := m.host(t, "eth0 20.0.0.1/24").agent(t, nil)
		b := m.host(t, "eth0 20.0.1.1/24", "eth1 20.0.2.1/24").agent(t, nil)
		x, y := check(t.Context(), a, true, b, b.Candidates()), check(t.Context(), b, false, a, a.Candidates())
		for i, ch := range []<-chan checked{x, y} {
			r := <-ch
			if r.err != nil || r.took > 100*time.Millisecond {
				t.Fatalf("side %d: %v after %v", i, r.err, r.took)
			}
			if i == 1 && r.pair.Remote.String() != "20.0.0.1:4000" || i == 0 && !strings.HasPrefix(r.pair.Remote.String(), "20.0.") {
				t.Errorf("side %d has found %v", i, r.pair.Remote)
			}
		}
		time.Sleep(time.Second) // the agents go on
		var remotes []string
		for _, p := range a.Succeeded() {
			remotes = append(remotes, p.Remote.String())
		}
		slices.Sort(remotes)
		if want := []string{"20.0.1.1:4000", "20.0.2.1:4000"}; !slices.Equal(remotes, want) {
			t.Errorf("checks were answered by %v, want %v", remotes, want)
		}
	})
}

// Where two thirds of the datagrams are lost the checks are repeated until one
// gets through each way.
func TestAgentsRepeatLostChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := m.host(t, "eth0 20.0.0.1/24").agent(t, nil), m.host(t, "eth0 20.0.1.1/24").agent(t, nil)
		dice := rand.New(rand.NewPCG(1, 2))
		m.losing(func(_, _ netip.AddrPort, _ []byte) bool { return dice.IntN(3) > 0 })
		x, y := check(t.Context(), a, true, b, b.Candidates()), check(t.Context(), b, false, a, a.Candidates())
		for _, ch := range []<-chan checked{x, y} {
			if r := <-ch; r.err != nil || r.took > 5*time.Second {
				t.Errorf("%v after %v", r.err, r.took)
			}
		}
	})
}

// Who cannot reach the peer where it says it is, because it sits behind a NAT,
// takes the address that the peer's checks come from: before its own checks
// begin, and without waiting for a candidate.
func TestAgentsHear(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			ha, hb := m.host(t, "eth0 20.0.0.1/24"), m.host(t, "eth0 192.168.1.2/24")
			m.translate("192.168.1.2:4000", "20.0.9.9:777")
			a, b := ha.agent(t, func(c *Config) { c.Silent = silent }), hb.agent(t, nil)
			y := check(t.Context(), b, false, a, a.Candidates())
			synctest.Wait()
			time.Sleep(200 * time.Millisecond)
			heard := a.Heard()
			if silent {
				if len(heard) != 0 {
					t.Errorf("a silent agent has heard %v", heard)
				}
			} else if len(heard) == 0 || heard[0].Remote.String() != "20.0.9.9:777" || heard[0].Size < 40 {
				t.Fatalf("heard %v", heard)
			}
			r := <-check(t.Context(), a, true, b, b.Candidates())
			if r.err != nil || r.pair.Remote.String() != "20.0.9.9:777" {
				t.Errorf("found %v, %v", r.pair.Remote, r.err)
			}
			if r := <-y; r.err != nil || r.pair.Remote.String() != "20.0.0.1:4000" {
				t.Errorf("the other side: %v, %v", r.pair.Remote, r.err)
			}
		})
	}
}

// A candidate that comes late is checked, before and after the checks have begun.
func TestAgentsTakeLateCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := m.host(t, "eth0 20.0.0.1/24").agent(t, nil), m.host(t, "eth0 20.0.1.1/24").agent(t, nil)
		nowhere := []wire.Candidate{{Type: wire.Host, Addr: netip.MustParseAddrPort("20.0.7.7:1"), Foundation: "n", Priority: 1}}
		b.AddRemote(a.Candidates()) // before the checks
		x, y := check(t.Context(), a, true, b, nowhere), check(t.Context(), b, false, a, nowhere)
		// a does not know b, but b checks a, which is enough.
		for _, ch := range []<-chan checked{x, y} {
			if r := <-ch; r.err != nil {
				t.Error(r.err)
			}
		}
		a, b = m.host(t, "eth0 20.0.3.1/24").agent(t, nil), m.host(t, "eth0 20.0.4.1/24").agent(t, nil)
		x, y = check(t.Context(), a, true, b, nowhere), check(t.Context(), b, false, a, nowhere)
		time.Sleep(300 * time.Millisecond)
		select {
		case r := <-x:
			t.Fatalf("found %v, %v", r.pair.Remote, r.err)
		default:
		}
		a.AddRemote(b.Candidates())
		for _, ch := range []<-chan checked{x, y} {
			if r := <-ch; r.err != nil {
				t.Error(r.err)
			}
		}
	})
}

// A nomination is one pair for both sides, though several work.
func TestAgentsAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a := m.host(t, "eth0 20.0.0.1/24", "eth1 20.0.3.1/24").agent(t, nil)
		b := m.host(t, "eth0 20.0.1.1/24", "eth1 20.0.2.1/24").agent(t, nil)
		type nominated struct {
			Pair
			err error
		}
		ch := [2]chan nominated{make(chan nominated, 1), make(chan nominated, 1)}
		for i, sides := range [][2]*Agent{{a, b}, {b, a}} {
			go func() {
				p, err := sides[0].Nominate(t.Context(), i == 0, sides[1].Credentials(), sides[1].Candidates())
				ch[i] <- nominated{p, err}
			}()
		}
		x, y := <-ch[0], <-ch[1]
		if x.err != nil || y.err != nil {
			t.Fatalf("%v; %v", x.err, y.err)
		}
		if x.Local.LocalAddr() != y.Remote || y.Local.LocalAddr() != x.Remote {
			t.Errorf("two pairs: %v→%v and %v→%v", x.Local, x.Remote, y.Local, y.Remote)
		}
	})
}

// How checks end when nobody answers, and that Close ends them.
func TestAgentsGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h := m.host(t, "eth0 20.0.0.1/24")
		nowhere := []wire.Candidate{{Type: wire.Host, Addr: netip.MustParseAddrPort("20.0.7.7:1"), Foundation: "n", Priority: 1}}
		peer := m.host(t, "eth0 20.0.1.1/24").agent(t, nil)

		over := errors.New("over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, over)
		defer cancel()
		if r := <-check(ctx, h.agent(t, nil), true, peer, nowhere); !errors.Is(r.err, ErrNoPair) || !errors.Is(r.err, over) || r.took != time.Second {
			t.Errorf("its time is over: %v after %v", r.err, r.took)
		}

		a := h.agent(t, nil)
		r := check(t.Context(), a, true, peer, nowhere)
		time.Sleep(100 * time.Millisecond)
		a.Close()
		a.Close()
		<-a.Closed()
		if r := <-r; !errors.Is(r.err, ErrNoPair) {
			t.Errorf("closed: %v", r.err)
		}
		if _, err := a.Check(t.Context(), true, peer.Credentials(), nowhere); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if p := h.agent(t, nil).Succeeded(); p != nil {
			t.Errorf("before the checks %v succeeded", p)
		}

		lonely := m.host(t, "lo 127.0.0.1/8").agent(t, nil)
		if r := <-check(t.Context(), lonely, true, peer, peer.Candidates()); !errors.Is(r.err, ErrNoPair) {
			t.Errorf("no way there: %v", r.err)
		}
		if _, err := NewAgent(Config{Demux: h.demux, Mapped: nil}); err == nil {
			t.Error("an agent without a socket")
		}
	})
}

// Whoever is named in an offer and has no part in it sees what the bounds say,
// on however many ports, in however many establishments.
func TestAgentsSpareAVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h, peer := m.host(t, "eth0 20.0.0.1/24"), m.host(t, "eth0 20.0.1.1/24")
		var named []wire.Candidate
		for i := range 8 {
			named = append(named, wire.Candidate{Type: wire.Host, Foundation: "v", Priority: uint32(i + 1),
				Addr: netip.AddrPortFrom(netip.MustParseAddr("20.0.7.7"), uint16(1000+i))})
		}
		start := time.Now()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			a := h.agent(t, nil)
			<-check(ctx, a, true, peer.agent(t, nil), named)
			cancel()
			a.Close()
		}
		took := time.Since(start)
		most := victimBurst + int(took/victimRefill) + 1
		if n := m.sentTo("20.0.7.7"); n < 20 || n > most {
			t.Errorf("%d checks in %v, want at most %d", n, took, most)
		}
		if len(h.demux.awaited) != 0 || len(h.demux.sessions) != 0 {
			t.Errorf("left: %d transactions, %d sessions", len(h.demux.awaited), len(h.demux.sessions))
		}
	})
}

// A check that comes to a socket that the agent does not check from is answered
// all the same, and one of a peer that takes the same role.
func TestSessionAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h := m.host(t, "eth0 20.0.0.1/24", "docker0 172.17.0.1/16")
		a := h.agent(t, nil)
		far := netip.MustParseAddrPort("172.17.0.9:5")
		answered := 0
		m.losing(func(_, to netip.AddrPort, b []byte) bool {
			if to == far && stun.IsAnswer(b, a.Credentials().Pwd) {
				answered++
			}
			return to == far
		})
		docker := h.port.ConnOn(netip.MustParseAddr("172.17.0.1"))
		ask := func(role stun.Role, pwd string, nominate bool) {
			b, _, err := stun.Check{Local: "theirs", Remote: Credentials{Ufrag: a.Credentials().Ufrag, Pwd: pwd}, Role: role, Nominate: nominate}.Message()
			if err != nil {
				t.Fatal(err)
			}
			h.demux.Handle(docker, far, b)
		}
		want := func(what string, n int) {
			t.Helper()
			synctest.Wait()
			if answered != n {
				t.Errorf("%s: %d answers, want %d", what, answered, n)
			}
		}
		pwd := a.Credentials().Pwd
		ask(stun.Controlled, "guessed", false)
		want("a guess, before the checks", 0)
		ask(stun.Controlled, pwd, true)
		want("a nomination, before the checks", 0)
		ask(stun.Controlled, pwd, false)
		want("before the checks", 1)
		a.Begin(true, Credentials{Ufrag: "theirs", Pwd: "secret"})
		ask(stun.Controlling, pwd, false)
		want("the same role", 2)
		ask(stun.Controlling, "guessed", false)
		want("a guess", 2)
		a.session.mux(h.port.Conns()[:0])
		ask(stun.Controlled, pwd, false)
		want("a socket that the agent does not check from", 3)
		a.Close()
		ask(stun.Controlled, pwd, false)
		want("after Close", 3)
		if n := h.demux.Drops()["unknown user"]; n != 1 {
			t.Errorf("%v", h.demux.Drops())
		}
	})
}
