//go:build linux

package kernellab

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

// wrongClock is a member whose clock is wrong for a while.
type wrongClock struct {
	label string
	ahead time.Duration
	begin string // what it begins with that clock: an open, a join, or nothing, since it runs
}

// TestClocks has members whose clocks are wrong when they start, or go wrong
// while they run. None exits, those that start say that it is the clock, and
// 5 s after the clock was set right they are members like others.
func TestClocks(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for members that cannot enter: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	var wg sync.WaitGroup
	for _, w := range []wrongClock{
		{label: "mars", ahead: -year, begin: "open"},
		{label: "venus", ahead: 24 * time.Hour, begin: "open"},
		{label: "luna", ahead: -year, begin: "join"},
		{label: "sol", ahead: 2 * year, begin: "join"},
		{label: "moon", ahead: -year},
		{label: "pluto", ahead: 24 * time.Hour},
	} {
		l.public(w.label)
		q := request{Op: "join", Name: w.label, Token: earth.invite(w.label), Dir: l.dir(w.label)}
		n := l.start(w.label, w.label)
		if w.begin != "join" {
			n.must(q)
		}
		if q.Op = w.begin; q.Op == "open" {
			l.kill(n)
			n = l.start(w.label, w.label)
		}
		n.must(request{Op: "clock", Clock: w.ahead})
		wg.Go(func() { w.live(t, earth, n, q) })
	}
	wg.Wait()
	// Who opens after the end of its certificate, by its clock, may really have
	// been away for so long: it is told both.
	n := l.start("earth", "ceres")
	n.must(request{Op: "join", Name: "ceres", Token: earth.invite("ceres"), Dir: l.dir("ceres")})
	l.kill(n)
	n = l.start("earth", "ceres")
	n.must(request{Op: "clock", Clock: 2 * year})
	_, err := n.ask(request{Op: "open", Name: "ceres", Dir: l.dir("ceres")})
	if err == nil || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "the clock is wrong") {
		t.Errorf("with a certificate that is over by its clock: %v", err)
	}
}

// live has n, whose clock is wrong by now, begin with q if that is anything,
// sets the clock right and waits until n and earth meet.
func (w wrongClock) live(t *testing.T, earth, n *node, q request) {
	const promise = 5 * time.Second
	begun := make(chan error, 1)
	said := ""
	if q.Op == "" {
		time.Sleep(3 * time.Second) // so long it lives with it
		begun <- nil
	} else {
		go func() { _, err := n.ask(q); begun <- err }()
		said = n.warned("clock", patience(promise))
	}
	n.must(request{Op: "clock"})
	right := measure(t)
	story := fmt.Sprintf("%s, %v ahead (%s)", w.label, w.ahead, w.begin)
	select {
	case err := <-begun:
		if err != nil {
			t.Errorf("%s: %v", story, err)
			return
		}
	case <-time.After(patience(promise)):
		t.Errorf("%s: not up %v after its clock was set right", story, right.took())
		return
	}
	up := right.took()
	took := meet(t, right, promise, earth, n)
	t.Logf("%s: set right, up after %v, met after %v; %s", story, up, took, said)
}

// warned waits for a warning with a word in it, and returns its line.
func (n *node) warned(word string, within time.Duration) string {
	n.l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		text := n.must(request{Op: "warnings"}).Text
		for line := range strings.Lines(text) {
			if strings.Contains(line, word) {
				return strings.TrimSpace(line)
			}
		}
		if time.Now().After(end) {
			n.l.t.Errorf("%s does not say %q but %q", n.label, word, text)
			return ""
		}
	}
}
