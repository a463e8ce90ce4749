package establish

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/offers"
)

const ms = time.Millisecond

// scenario is two peers, small and large by their IDs, and a relay that both may
// name. small connects to large unless do says otherwise.
type scenario struct {
	desc         string
	small, large []script
	relay        bool
	prepare      func(small, large *peer)
	do           func(t *testing.T, small, large *peer) // instead of one Connect
	// What small's and large's first establishments go through; each state with
	// the time in ms when it is entered.
	trace, other string
	stage        string // at which Connect fails; "": it does not
	is           error
	took         time.Duration // 0: until the pipe of small is up
}

func first(err error) func(int) error {
	return func(n int) error {
		if n == 0 {
			return err
		}
		return nil
	}
}

func always(err error) func(int) error { return func(int) error { return err } }

var scenarios = []scenario{
	{
		desc:  "a direct path",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		trace: "settling@0 offering@0 checking@100 confirming@120 lingering@120 ended@1120",
		other: "settling@50 checking@50 confirming@70 lingering@130 ended@1130",
		took:  120 * ms,
	},
	{
		desc:  "no local address",
		small: []script{{err: errors.New("no local address")}}, large: []script{{}},
		trace: "settling@0 offering@0 lingering@0 ended@0",
		stage: offers.StageOffer,
	},
	{
		desc:  "nobody has a connection to the peer",
		small: []script{{}}, large: []script{{}},
		prepare: func(s, _ *peer) { s.deliver = always(&offers.OfflineError{Members: 1, Err: offers.ErrNotHere}) },
		trace:   "settling@0 offering@0 lingering@0 ended@1000",
		stage:   offers.StageOffer, is: offers.ErrNotHere,
	},
	{
		desc:  "the peer is silent",
		small: []script{{}}, large: []script{{}},
		prepare: func(s, _ *peer) { s.deliver = always(context.DeadlineExceeded) },
		trace:   "settling@0 offering@0 lingering@8000 ended@9000",
		stage:   offers.StageOffer, is: context.DeadlineExceeded, took: 8 * time.Second,
	},
	{
		desc:  "an answer that is none",
		small: []script{{}}, large: []script{{}},
		prepare: func(s, _ *peer) { s.deliver = always(pipe.ErrHandshake) },
		trace:   "settling@0 offering@0 lingering@0 ended@1000",
		stage:   offers.StageHandshake, is: pipe.ErrHandshake,
	},
	{
		desc:  "the peer is no member",
		small: []script{{}}, large: []script{{never: true}},
		prepare: func(s, l *peer) { s.noMember[l.cfg.Self] = true },
		trace:   "settling@0 offering@0 lingering@100 ended@1100",
		stage:   offers.StageHandshake, is: membership.ErrNotMember, took: 100 * ms,
	},
	{
		desc:  "this peer is no member",
		small: []script{{}}, large: []script{{}},
		prepare: func(s, l *peer) { l.noMember[s.cfg.Self] = true },
		trace:   "settling@0 offering@0 lingering@100 ended@1100",
		stage:   offers.StageOffer, is: offers.ErrRefused, took: 100 * ms,
	},
	{
		desc:  "the answering side has no address",
		small: []script{{}}, large: []script{{err: errors.New("no local address")}},
		trace: "settling@0 offering@0 lingering@100 ended@1100",
		other: "settling@50 lingering@50 ended@50",
		stage: offers.StageOffer, is: offers.ErrRefused, took: 100 * ms,
	},
	{
		desc:  "the network has just changed, and settles",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		prepare: func(s, _ *peer) { time.AfterFunc(300*ms, s.NetworkChanging()) },
		trace:   "settling@0 offering@300 checking@400 confirming@420 lingering@420 ended@1420",
		took:    420 * ms,
	},
	{
		desc:  "the network does not settle",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		prepare: func(s, l *peer) { s.NetworkChanging(); l.NetworkChanging() },
		trace:   "settling@0 offering@1000 checking@1400 confirming@1420 lingering@1420 ended@2420",
		other:   "settling@1050 checking@1350 confirming@1370 lingering@1430 ended@2430",
		took:    1420 * ms,
	},
	{
		desc:  "no pair answers",
		small: []script{{check: -time.Second}}, large: []script{{check: -time.Second}},
		trace: "settling@0 offering@0 checking@100 lingering@1100 ended@2100",
		other: "settling@50 checking@50 lingering@1050 ended@2050",
		stage: offers.StageCheck, is: ice.ErrNoPair, took: 1100 * ms,
	},
	{
		desc:  "the checks find no end",
		small: []script{{never: true}}, large: []script{{never: true}},
		trace: "settling@0 offering@0 checking@100 lingering@5100 ended@6100",
		other: "settling@50 checking@50 lingering@5050 ended@6050",
		stage: offers.StageCheck, is: ice.ErrNoPair, took: 5100 * ms,
	},
	{
		desc:  "only the initiator's checks work",
		small: []script{{check: 20 * ms}}, large: []script{{check: -time.Second}},
		trace: "settling@0 offering@0 checking@100 confirming@120 lingering@120 ended@1120",
		other: "settling@50 checking@50 lingering@1050 ended@2050",
		took:  120 * ms,
	},
	{
		desc:  "the responder's packets are lost",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		prepare: func(s, l *peer) { s.lab.block = func(_, to netip.AddrPort) bool { return to == l.addr } },
		trace:   "settling@0 offering@0 checking@100 confirming@120 lingering@120 ended@1120",
		other:   "settling@50 checking@50 confirming@70 lingering@7070 ended@8070",
		took:    120 * ms,
	},
	{
		desc:  "the peer was heard before its answer came",
		small: []script{{heard: true, check: 300 * ms}}, large: []script{{check: 20 * ms}},
		trace: "settling@0 offering@0 checking@100 searching@100 lingering@400 ended@1400",
		took:  100 * ms,
	},
	{
		desc:  "through a TURN server",
		small: []script{{check: -time.Second, turn: 80 * ms}}, large: []script{{check: -time.Second, turn: 80 * ms}},
		relay: true,
		trace: "settling@0 offering@0 checking@100 confirming@280 searching@280 lingering@1100 ended@2100",
		took:  280 * ms,
	},
	{
		desc:  "checks fail, so the TURN server's begin",
		small: []script{{check: -10 * ms, turn: 30 * ms}}, large: []script{{check: -10 * ms, turn: 30 * ms}},
		trace: "settling@0 offering@0 checking@100 confirming@140 searching@140 lingering@140 ended@1140",
		took:  140 * ms,
	},
	{
		desc:  "a relay, and then a direct path",
		small: []script{{check: 2 * time.Second}, {check: 20 * ms}}, large: []script{{check: 2 * time.Second}, {check: 20 * ms}},
		relay: true,
		trace: "settling@0 offering@0 checking@100 confirming@440 searching@440 lingering@2100 ended@3100",
	},
	{
		desc:  "checks fail, so a relay is asked at once",
		small: []script{{check: -10 * ms}, {check: 20 * ms}}, large: []script{{check: -10 * ms}, {check: 20 * ms}},
		relay: true,
		trace: "settling@0 offering@0 checking@100 confirming@250 searching@250 lingering@250 ended@1110",
	},
	{
		desc:  "a relay that loses what it should forward",
		small: []script{{never: true}, {check: 20 * ms}}, large: []script{{never: true}, {check: 20 * ms}},
		relay: true,
		prepare: func(s, l *peer) {
			time.AfterFunc(435*ms, func() {
				relay := s.lab.peers[2].addr
				s.lab.setBlock(func(from, to netip.AddrPort) bool { return from == relay && to == l.addr })
			})
		},
		trace: "settling@0 offering@0 checking@100 confirming@440 searching@440 lingering@5100 ended@6100",
		other: "settling@50 checking@50 confirming@440 checking@7440 lingering@7440 ended@8440",
	},
	{
		desc:  "the peer's offer replaces ours",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		do: func(t *testing.T, small, large *peer) {
			go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
			if pp, took, _, err := large.connectTo(small); err != nil || pp.Err() != nil || took != 130*ms {
				t.Errorf("took %v: %v", took, err)
			}
		},
		trace: "settling@0 offering@0 checking@100 confirming@120 lingering@120 ended@1120",
		other: "settling@0 offering@0 lingering@50 ended@1050",
	},
	{
		desc:  "glare, and the peer's offer comes late",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		prepare: func(s, _ *peer) { s.delay = func(int) time.Duration { return 500 * ms } },
		do: func(t *testing.T, small, large *peer) {
			go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
			time.Sleep(10 * ms)
			if _, took, _, err := large.connectTo(small); err != nil || took != 620*ms {
				t.Errorf("took %v: %v", took, err)
			}
		},
		trace: "settling@0 offering@0 checking@600 confirming@620 lingering@620 ended@1620",
		other: "settling@10 offering@10 yielding@110 lingering@550 ended@1550",
	},
	{
		desc:  "glare, and the peer's offer is lost",
		small: []script{{check: 20 * ms}}, large: []script{{check: 20 * ms}},
		prepare: func(s, _ *peer) {
			s.delay = func(int) time.Duration { return time.Second }
			s.deliver = first(offers.ErrNotHere)
		},
		do: func(t *testing.T, small, large *peer) {
			go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
			time.Sleep(10 * ms)
			if _, took, _, err := large.connectTo(small); err != nil || took != 2220*ms {
				t.Errorf("took %v: %v", took, err)
			}
		},
		trace: "settling@0 offering@0 lingering@1000 ended@2000",
		other: "settling@10 offering@10 yielding@110 lingering@2110 ended@3110",
	},
}

// TestScenarios drives establishments through all states, and through what can be
// lost in each. All transitions that the table allows are among them.
func TestScenarios(t *testing.T) {
	used := map[state]states{}
	for _, sc := range scenarios {
		t.Run(sc.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				small, large := l.add("small", AnyPath, sc.small...), l.add("large", AnyPath, sc.large...)
				if sc.relay {
					relay := l.add("relay", AnyPath, script{check: 20 * ms})
					small.relays, large.relays = []peerid.ID{relay.cfg.Self}, []peerid.ID{relay.cfg.Self}
				}
				if sc.prepare != nil {
					sc.prepare(small, large)
				}
				if sc.do != nil {
					sc.do(t, small, large)
				} else {
					pp, took, stage, err := small.connectTo(large)
					if stage != sc.stage || (err == nil) != (sc.stage == "") || sc.is != nil && !errors.Is(err, sc.is) {
						t.Errorf("stage %q, %v", stage, err)
					}
					if err == nil && pp.Err() != nil {
						t.Errorf("the pipe: %v", pp.Err())
					}
					if sc.took != 0 && took != sc.took {
						t.Errorf("took %v, want %v", took, sc.took)
					}
				}
				l.lasting()
				if got := small.trace(0); got != sc.trace {
					t.Errorf("\n got %s\nwant %s", got, sc.trace)
				}
				if got := large.trace(0); sc.other != "" && got != sc.other {
					t.Errorf("the other:\n got %s\nwant %s", got, sc.other)
				}
				for s, to := range l.used {
					used[s] |= to
				}
			})
		})
	}
	for s, to := range transitions {
		for next := range ended + 1 {
			if to.has(next) && !used[s].has(next) {
				t.Errorf("no scenario goes from %v to %v", s, next)
			}
		}
	}
}

// TestDiagram: doc.go lists the transitions that there are.
func TestDiagram(t *testing.T) {
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		from, to, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "//\t"), " → ")
		if !ok || strings.Contains(from, " ") {
			continue
		}
		for next := range strings.SplitSeq(strings.TrimSpace(to), ", ") {
			got[from+" → "+next] = true
		}
	}
	for s, to := range transitions {
		for next := range ended + 1 {
			line := s.String() + " → " + next.String()
			if to.has(next) && !got[line] {
				t.Errorf("doc.go lacks %s", line)
			}
			delete(got, line)
		}
	}
	for line := range got {
		t.Errorf("doc.go has %s", line)
	}
}

// TestTable: each timer says why it is as long as it is, and what it is for.
func TestTable(t *testing.T) {
	for i, r := range table {
		if r.after <= 0 || r.then == "" || r.why == "" {
			t.Errorf("timer %d: %+v", i, r)
		}
	}
	if table[settleOffer].after+offers.Patience > table[answerBy].after {
		t.Error("an offer that has waited for the network has no time left")
	}
}
