package establish

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
)

// seenAs gives a peer mapped addresses, as servers see its socket.
func (p *peer) seenAs(at ...string) {
	for _, a := range at {
		p.candidates = append(p.candidates, wire.Candidate{
			Type: wire.ServerReflexive, Addr: netip.MustParseAddrPort(a), Related: p.addr, Foundation: "s", Priority: 1,
		})
	}
}

// TestGuess: while a relay carries the pipe a port is guessed if exactly one side's is
// unknown and a member of this side's choice sees the peer at its address; the pipe
// leaves the relay when it is found.
func TestGuess(t *testing.T) {
	one, two := []string{"20.0.0.1:7"}, []string{"20.0.0.1:7", "20.0.0.1:8"}
	other := []string{"20.0.0.2:7"}
	for _, tt := range []struct {
		desc         string
		small, large []string
		guess        time.Duration
		noRelay      bool // no way to the relay is found
		unseen       bool
		policy       Policy
		begins       bool
		direct       bool
	}{
		{desc: "the port of one is unknown", small: two, large: other, guess: 2 * time.Second, begins: true, direct: true},
		{desc: "that of the other", small: other, large: two, guess: 2 * time.Second, begins: true, direct: true},
		{desc: "and it is not found", small: two, large: other, begins: true},
		{desc: "nobody sees the peer there", small: two, large: other, guess: 2 * time.Second, unseen: true},
		{desc: "both are known", small: one, large: other, guess: 2 * time.Second},
		{desc: "both are unknown", small: two, large: []string{"20.0.0.2:7", "20.0.0.2:8"}, guess: 2 * time.Second},
		{desc: "nobody relays", small: two, large: other, guess: 2 * time.Second, noRelay: true},
		{desc: "no address is to be shown", small: two, large: other, guess: 2 * time.Second, policy: RelayOnly},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				hard := script{check: -5 * time.Second, guess: tt.guess}
				toRelay := script{check: 20 * ms, never: tt.noRelay}
				small, large := l.add("small", tt.policy, hard, toRelay), l.add("large", AnyPath, hard, toRelay)
				relay := l.add("relay", AnyPath, toRelay)
				for p, at := range map[*peer][]string{small: tt.small, large: tt.large} {
					p.seenAs(at...)
					p.relays = []peerid.ID{relay.cfg.Self}
					p.seen = func(by, q peerid.ID, at netip.Addr) bool {
						return !tt.unseen && by == relay.cfg.Self && l.peer(q).candidates[1].Addr.Addr() == at
					}
				}
				go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
				l.sleep(8 * time.Second)
				for p, began := range map[*peer]time.Duration{small: 2 * offerLatency, large: offerLatency} {
					a := p.agent(0)
					if (a.guessBegan > 0) != tt.begins || tt.begins && a.guessBegan != began+time.Second {
						t.Errorf("%s guesses from %v on", p.name, a.guessBegan)
					}
					ends := began + time.Second + tt.guess + ice.Grace
					if tt.guess > 0 && tt.begins && a.guessEnded != ends {
						t.Errorf("%s answers the peer until %v, want %v", p.name, a.guessEnded, ends)
					}
					if tt.begins && a.guessSides[0].Dependent() == a.guessSides[1].Dependent() {
						t.Errorf("%s guesses between %v", p.name, a.guessSides)
					}
					if asked := len(p.sighted) > 0; asked != (tt.begins || tt.unseen) {
						t.Errorf("%s asks who sees %v", p.name, p.sighted)
					}
				}
				pp := small.up(large.cfg.Self)
				if pp == nil {
					if !tt.noRelay {
						t.Fatal("there is no pipe")
					}
					return
				}
				if pp.Relayed() == tt.direct {
					t.Errorf("relayed: %v", pp.Relayed())
				}
				told := 0
				for _, e := range small.events {
					if e.Kind == event.PairChosen && e.Detail == "by a guessed port" {
						told++
					}
				}
				if (told == 1) != tt.direct {
					t.Errorf("told %d times of a guessed port", told)
				}
			})
		})
	}
}

// TestGuessOnlyWhatHelps: where a check finds a direct path in time nothing is guessed, and
// nobody is asked.
func TestGuessOnlyWhatHelps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 900 * ms}, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 900 * ms}, script{check: 20 * ms})
		relay := l.add("relay", AnyPath, script{check: 20 * ms})
		small.seenAs("20.0.0.1:7", "20.0.0.1:8")
		large.seenAs("20.0.0.2:7")
		small.relays, large.relays = []peerid.ID{relay.cfg.Self}, []peerid.ID{relay.cfg.Self}
		if _, _, _, err := small.connectTo(large); err != nil {
			t.Fatal(err)
		}
		l.lasting()
		if small.agent(0).guessBegan > 0 || large.agent(0).guessBegan > 0 || len(small.sighted)+len(large.sighted) > 0 {
			t.Error("a port was guessed beside a direct path")
		}
	})
}

// TestGuessToldLate: that a port is unknown may turn out when a relay carries the pipe
// already. The peer is told, and both guess from the next second on.
func TestGuessToldLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		hard := script{check: -5 * time.Second, guess: 2 * time.Second}
		small, large := l.add("small", AnyPath, hard, script{check: 20 * ms}), l.add("large", AnyPath, hard, script{check: 20 * ms})
		relay := l.add("relay", AnyPath, script{check: 20 * ms})
		for _, p := range []*peer{small, large} {
			p.relays = []peerid.ID{relay.cfg.Self}
			p.seen = func(peerid.ID, peerid.ID, netip.Addr) bool { return true }
		}
		small.seenAs("20.0.0.1:7")
		large.seenAs("20.0.0.2:7")
		if pp, _, _, err := small.connectTo(large); err != nil || !pp.Relayed() {
			t.Fatal(err)
		}
		small.change(wire.Candidate{Type: wire.ServerReflexive, Addr: netip.MustParseAddrPort("20.0.0.1:8"), Related: small.addr, Foundation: "s", Priority: 1})
		l.sleep(4 * time.Second)
		for p, want := range map[*peer]time.Duration{small: 2*offerLatency + time.Second, large: offerLatency + time.Second} {
			if a := p.agent(0); a.guessBegan != want {
				t.Errorf("%s guesses from %v on, want %v", p.name, a.guessBegan, want)
			}
		}
		if pp := small.up(large.cfg.Self); pp == nil || pp.Relayed() {
			t.Error("the pipe is not direct")
		}
	})
}
