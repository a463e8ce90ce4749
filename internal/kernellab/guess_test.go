//go:build linux

package kernellab

import (
	"flag"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

var guessRounds = flag.Int("guesses", 1, "rounds of TestGuess: in each both nodes are closed and opened again")

// Bounds of what leaves each side in one round towards an address that has not answered.
const (
	guessMost   = 1000 + 64 // guesses, and the checks of ICE before them
	guessWithin = 15 * time.Second
)

// TestGuess: between a NAT that gives each destination another port and one that lets in
// only what was asked for, a port is guessed while the founder relays. There is no other
// member: it alone tells what kind of NAT each is behind.
func TestGuess(t *testing.T) {
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	ext := map[string]string{}
	for name, rules := range map[string]string{"hard": symmetric, "soft": portRestricted} {
		box := "box-" + name
		ext[name] = l.public(box)
		l.behind(name, box, inner)
		l.rules(box, rules)
	}
	for name, other := range map[string]string{"hard": "soft", "soft": "hard"} {
		l.rules("box-"+name, fmt.Sprintf(countGuesses, ext[other]))
	}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	hard, soft := l.enter(earth, "hard", nil), l.enter(earth, "soft", nil)
	var took []time.Duration
	relayed, most := 0, 0
	// One round of fifty or so finds nothing; that three do not is no chance.
	rounds := 0
	for round := 0; round < *guessRounds || len(took) == 0 && round < 3; round++ {
		rounds++
		from, to := hard, soft
		if round%2 == 1 {
			from, to = soft, hard
		}
		if round > 0 {
			for _, n := range []*node{hard, soft} {
				n.must(request{Op: "close"})
				n.must(request{Op: "open", Name: n.label, Dir: l.dir(n.label)})
			}
		}
		before := [2]int{l.guesses("box-hard", "sent"), l.guesses("box-soft", "sent")}
		start := time.Now()
		if _, err := from.ask(request{Op: "call", Name: to.name}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		kind := ""
		tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
		for kind != "direct" && time.Since(start) < guessWithin {
			<-tick.C
			a, _ := from.ask(request{Op: "path", Name: to.name})
			kind = a.Path.Kind
		}
		tick.Stop()
		if kind != "direct" {
			relayed++
		} else {
			took = append(took, time.Since(start))
		}
		for i, box := range []string{"box-hard", "box-soft"} {
			n := l.guesses(box, "sent") - before[i]
			if most = max(most, n); n > guessMost {
				t.Errorf("round %d: %d datagrams left %s before one was answered", round, n, box)
			}
		}
		if _, err := from.ask(request{Op: "call", Name: to.name}); err != nil {
			t.Errorf("round %d, %s: %v", round, kind, err)
		}
	}
	for _, box := range []string{"box-hard", "box-soft"} {
		if n := l.guesses(box, "fast"); n > 0 {
			t.Errorf("%d datagrams left %s faster than 100 a second", n, box)
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("%d of %d direct: p50 %v, p90 %v, last %v; at most %d datagrams in a round", len(took), rounds,
			took[len(took)/2].Round(time.Millisecond), took[len(took)*9/10].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), most)
	}
	if len(took) == 0 || rounds >= 20 && relayed*10 > rounds {
		t.Errorf("%d of %d are relayed", relayed, rounds)
	}
	l.leaveAll([]*node{hard, soft})
}

// countGuesses counts the datagrams to an address that no connection has answered yet, and
// those of them that are too many in a second.
const countGuesses = `table ip guesses {
	counter sent { }
	counter fast { }
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		iifname "in" ip daddr %[1]s meta l4proto udp ct state new counter name sent
		iifname "in" ip daddr %[1]s meta l4proto udp ct state new limit rate over 100/second burst 64 packets counter name fast
	}
}
`

var counted = regexp.MustCompile(`packets (\d+)`)

// guesses reads one of the counters.
func (l *lab) guesses(box, counter string) int {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", box, "nft", "list", "counter", "ip", "guesses", counter).CombinedOutput()
	m := counted.FindSubmatch(out)
	if err != nil || m == nil {
		l.t.Fatalf("the counter %s of %s: %v: %s", counter, box, err, out)
	}
	n, _ := strconv.Atoi(string(m[1])) // digits
	return n
}
