package establish

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/offers"
)

// TestHeadStarts: when pairs through TURN servers are checked, and when members
// are asked to relay, from when both sides are known (100 ms).
func TestHeadStarts(t *testing.T) {
	for _, tt := range []struct {
		desc         string
		script       script
		silentPipe   bool
		turn, relays time.Duration // after that; 0: not at all
	}{
		{"no servers", script{never: true}, false, 0, 200 * ms},
		{"servers", script{never: true, turn: time.Hour}, false, 100 * ms, 400 * ms},
		{"servers without a pair", script{never: true, turnIdle: true}, false, 100 * ms, 200 * ms},
		{"servers fail", script{never: true, turn: 50 * ms, turnFail: true}, false, 100 * ms, 150 * ms},
		{"checks fail", script{check: -30 * ms}, false, 0, 30 * ms},
		{"checks fail, and there are servers", script{check: -30 * ms, turn: time.Hour}, false, 30 * ms, 330 * ms},
		{"all fail", script{check: -30 * ms, turn: 20 * ms, turnFail: true}, false, 30 * ms, 50 * ms},
		{"servers fail after the checks", script{check: -110 * ms, turn: 20 * ms, turnFail: true}, false, 100 * ms, 120 * ms},
		{"a silent pipe", script{never: true}, true, 0, 100 * ms},
		{"heard before", script{never: true, heard: true}, false, 0, 0},
		{"a direct path", script{check: 10 * ms, turn: time.Hour}, false, 0, 0},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				small, large := l.add("small", AnyPath, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 20 * ms})
				relay := l.add("relay", AnyPath, script{never: true})
				n := 0
				if tt.silentPipe {
					if _, _, _, err := small.connectTo(large); err != nil {
						t.Fatal(err)
					}
					l.sleep(5 * time.Second)
					silence(l, small, large)
					n = 1
				}
				small.scripts, large.scripts = []script{tt.script}, []script{{never: true}}
				small.relays = []peerid.ID{relay.cfg.Self}
				begun := l.now() + 2*offerLatency
				go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
				l.sleep(2 * time.Second)
				if got := small.agent(n).turnBegan - begun; (tt.turn == 0) != (small.agent(n).turnBegan == 0) || tt.turn != 0 && got != tt.turn {
					t.Errorf("servers after %v, want %v", got, tt.turn)
				}
				var asked time.Duration // the offer to the relay
				for _, at := range small.offers[n:] {
					if at > begun && asked == 0 {
						asked = at - begun
					}
				}
				if asked != tt.relays {
					t.Errorf("relays after %v, want %v", asked, tt.relays)
				}
			})
		})
	}
}

// silence makes the pipe between two peers silent: nothing that one of them sends
// arrives.
func silence(l *lab, a, b *peer) {
	l.t.Helper()
	l.setBlock(func(from, to netip.AddrPort) bool {
		return from == a.addr && to == b.addr || from == b.addr && to == a.addr
	})
	pp := a.pipes.Pipe(b.cfg.Self)
	_, _, _ = pp.Ping(l.t.Context())
	if pp.Err() == nil {
		l.t.Fatal("the pipe is not silent")
	}
}

// TestAllFails: the error says what the checks and the last relay have met, and
// nothing is left.
func TestAllFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: -10 * ms}, script{never: true}), l.add("large", AnyPath, script{never: true})
		relay := l.add("relay", AnyPath, script{never: true})
		small.relays = []peerid.ID{relay.cfg.Self}
		_, took, stage, err := small.connectTo(large)
		if stage != offers.StageCheck || !errors.Is(err, ice.ErrNoPair) {
			t.Errorf("%v", err)
		}
		// The relay's own checks come to their end before openFor.
		if want := 110*ms + 100*ms + table[checkFor].after; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
		if e := small.events[len(small.events)-1]; e.Kind != event.PipeFailed || e.Stage != offers.StageCheck {
			t.Errorf("the last event is %+v", e)
		}
		l.lasting()
		if len(small.byPeer) > 0 || small.pipes.Pipe(large.cfg.Self) != nil {
			t.Error("something is left")
		}
	})
}

// TestOpenFor: a relay that never gives a channel does not keep an establishment. On a
// machine that is busy it does so for longer.
func TestOpenFor(t *testing.T) {
	for _, times := range []time.Duration{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			small, large := l.add("small", AnyPath, script{check: -10 * ms}, script{check: 20 * ms}), l.add("large", AnyPath, script{never: true})
			relay := l.add("relay", AnyPath, script{check: 20 * ms})
			small.cfg.Stretch = func(d time.Duration) time.Duration { return times * d }
			small.relays = []peerid.ID{relay.cfg.Self}
			large.deliver = always(offers.ErrNotHere) // it does not get to the relay
			_, took, stage, err := small.connectTo(large)
			if stage != offers.StageCheck || !errors.Is(err, ice.ErrNoPair) || took != 100*ms+times*table[openFor].after {
				t.Errorf("%d times: took %v: %v", times, took, err)
			}
		})
	}
}

// TestLifetimes: an agent answers a second longer than its checks run, that of a
// responder from the result on; checks through servers a second longer than the
// search.
func TestLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small := l.add("small", AnyPath, script{check: -300 * ms, turn: 500 * ms})
		large := l.add("large", AnyPath, script{check: -300 * ms, turn: 500 * ms})
		if _, took, _, err := small.connectTo(large); err != nil || took != 700*ms {
			t.Fatalf("took %v: %v", took, err)
		}
		l.lasting()
		if a := small.agent(0); a.closed != 1400*ms || a.turnClosed != 1700*ms {
			t.Errorf("the initiator's agent until %v, servers until %v", a.closed, a.turnClosed)
		}
		// Its path is found at 650 ms, and confirmed when the initiator's first
		// packet comes.
		if a := large.agent(0); a.closed != 1710*ms || a.turnClosed != 1710*ms {
			t.Errorf("the responder's agent until %v, servers until %v", a.closed, a.turnClosed)
		}
	})
}

// TestStandbys: other pairs on which the peer has answered become paths of the
// pipe, three at most, and not those that it has.
func TestStandbys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 20 * ms})
		pp, _, _, err := small.connectTo(large)
		if err != nil {
			t.Fatal(err)
		}
		a := small.agent(0)
		a.mu.Lock()
		a.succeeded = []pipe.Path{a.pathTo(large.addr)}
		for i := range 5 {
			other := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 7000)
			l.mu.Lock()
			l.at[other] = large
			l.mu.Unlock()
			a.succeeded = append(a.succeeded, a.pathTo(other))
		}
		a.mu.Unlock()
		if n := len(pp.Status().Paths); n != 1 {
			t.Errorf("%d paths", n)
		}
		l.sleep(table[standbyFirst].after)
		if n := len(pp.Status().Paths); n != 1+standbyMax {
			t.Errorf("%d paths when most pairs have been answered", n)
		}
	})
}

func (a *agent) pathTo(to netip.AddrPort) pipe.Path { return pipe.Path{Local: a.p, Remote: to} }

// TestPolicies: what the two sides name, check and use.
func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		desc         string
		small, large Policy
		relays       bool
		stage        string
		is           error
		direct       bool
	}{
		{"direct only, and it works", DirectOnly, AnyPath, true, "", nil, true},
		{"relay only", RelayOnly, AnyPath, true, "", nil, false},
		{"the other is relay only", AnyPath, RelayOnly, true, "", nil, false},
		{"relay only, without a relay", RelayOnly, AnyPath, false, offers.StageCheck, errRelayOnly, false},
		{"direct only meets relay only", DirectOnly, RelayOnly, true, offers.StageOffer, offers.ErrRefused, false},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				small, large := l.add("small", tt.small, script{check: 20 * ms}), l.add("large", tt.large, script{check: 20 * ms})
				relay := l.add("relay", AnyPath, script{check: 20 * ms})
				for _, p := range []*peer{small, large} {
					if tt.relays && p.cfg.Policy != DirectOnly {
						p.relays = []peerid.ID{relay.cfg.Self}
					}
				}
				pp, _, stage, err := small.connectTo(large)
				if stage != tt.stage || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("stage %q: %v", stage, err)
				}
				if err == nil && pp.Relayed() == tt.direct {
					t.Errorf("relayed: %v", pp.Relayed())
				}
				if tt.small == RelayOnly && len(large.agent(0).remote.Candidates) > 0 {
					t.Errorf("it has named %v", large.agent(0).remote.Candidates)
				}
			})
		})
	}
}

// TestImprove: the initiator of a relayed pipe whose checks failed makes offers for
// a direct path after 10 s, 20 s and so on, five minutes at most, until there is
// one.
func TestImprove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: -10 * ms}, script{check: 20 * ms}, script{check: -10 * ms}), l.add("large", AnyPath, script{check: -10 * ms}, script{check: 20 * ms}, script{check: -10 * ms})
		relay := l.add("relay", AnyPath, script{check: 20 * ms})
		small.relays, large.relays = []peerid.ID{relay.cfg.Self}, []peerid.ID{relay.cfg.Self}
		pp, _, _, err := small.connectTo(large)
		if err != nil || !pp.Relayed() {
			t.Fatalf("relayed: %v", err)
		}
		first := len(small.offers)
		up := l.now()
		l.sleep(25 * time.Minute)
		small.mu.Lock()
		var gaps []time.Duration
		for _, at := range small.offers[first:] {
			gaps = append(gaps, (at - up).Round(time.Second))
			up = at
		}
		// The next attempt brings a direct path.
		small.scripts, large.scripts = []script{{check: 20 * ms}}, []script{{check: 20 * ms}}
		small.mu.Unlock()
		want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second, 300 * time.Second}
		if len(gaps) < len(want) || !slices.Equal(gaps[:len(want)], want) {
			t.Errorf("offers after %v, want %v", gaps, want)
		}
		l.sleep(6 * time.Minute)
		if pp.Relayed() {
			t.Error("the pipe is relayed still")
		}
		small.mu.Lock()
		n := len(small.offers)
		small.mu.Unlock()
		l.sleep(20 * time.Minute)
		if small.mu.Lock(); len(small.offers) != n {
			t.Error("offers go on though the path is direct")
		}
		small.mu.Unlock()
	})
}

// TestRenew: after this host's addresses have changed live pipes get an offer for
// direct paths, dead ones for any.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 20 * ms})
		third := l.add("third", AnyPath, script{check: 20 * ms})
		live, _, _, err := small.connectTo(large)
		if err != nil {
			t.Fatal(err)
		}
		dead, _, _, err := small.connectTo(third)
		if err != nil {
			t.Fatal(err)
		}
		l.sleep(5 * time.Second)
		small.relays = []peerid.ID{large.cfg.Self}
		silence(l, small, third)
		closed := l.add("fourth", AnyPath, script{check: 20 * ms})
		gone, _, _, err := small.connectTo(closed)
		if err != nil {
			t.Fatal(err)
		}
		gone.Close(nil)
		before, agents := len(small.offers), len(small.agents)
		small.Renew(t.Context(), []*pipe.Pipe{live, dead, gone})
		l.setBlock(nil) // not before: what is heard brings a silent pipe back
		l.sleep(5 * time.Second)
		if n := len(small.offers) - before; n != 2 {
			t.Errorf("%d offers", n)
		}
		if live.Err() != nil || small.up(third.cfg.Self) == nil {
			t.Errorf("live %v", live.Err())
		}
		direct := 0
		for _, a := range small.agents[agents:] {
			if !a.turn {
				direct++
			}
		}
		if direct != 1 {
			t.Errorf("%d of them for direct paths only", direct)
		}
	})
}
