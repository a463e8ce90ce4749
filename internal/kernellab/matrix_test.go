//go:build linux

package kernellab

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// situation is where one end of a pair is, as in idloctest's matrix.
type situation struct {
	name                string
	place               func(l *lab, space, relay string)
	hard, blocked, open bool
}

func boxed(rules func(ext, relay string) string) func(*lab, string, string) {
	return func(l *lab, space, relay string) {
		box := "box-" + space
		ext := l.public(box)
		l.behind(space, box, inner)
		l.rules(box, rules(ext, relay))
	}
}

func always(rules string) func(*lab, string, string) {
	return boxed(func(_, _ string) string { return rules })
}

var situations = []situation{
	{name: "public", place: func(l *lab, space, _ string) { l.public(space) }, open: true},
	{name: "EIM/EIF", place: always(fullCone), open: true},
	{name: "EIM/ADF", place: always(addressRestricted)},
	{name: "EIM/APDF", place: always(portRestricted)},
	{name: "1:1", place: boxed(func(ext, _ string) string { return oneToOne(ext) }), open: true},
	{name: "double", place: func(l *lab, space, _ string) {
		carrier, box := "carrier-"+space, "box-"+space
		l.public(carrier)
		l.behind(box, carrier, "100.64.0")
		l.behind(space, box, inner)
		l.rules(carrier, portRestricted)
		l.rules(box, portRestricted)
	}},
	{name: "APDM/APDF", place: always(symmetric), hard: true},
	{name: "blocked", place: boxed(func(_, relay string) string { return onlyTo(relay) }), blocked: true},
}

// direct says whether a pair must get a direct path.
func direct(a, b situation) bool {
	switch {
	case a.blocked || b.blocked, a.hard && b.hard:
		return false
	case a.hard:
		return b.open || b.name == "EIM/ADF"
	case b.hard:
		return a.open || a.name == "EIM/ADF"
	}
	return true
}

type cell struct {
	kind string
	took time.Duration
	err  error
}

// TestMatrix dials from every kind of place to every kind of place, on real
// kernels.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("18 processes behind 16 NATs: not with -short")
	}
	if !inside(t) {
		return
	}
	l := newLab(t)
	relay := l.public("earth")
	l.public("moon")
	for i, s := range situations {
		s.place(l, fmt.Sprint("from", i), relay)
		s.place(l, fmt.Sprint("to", i), relay)
	}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	l.join(earth, "moon") // so that mappings are measured in two places
	var from, to [8]*node
	for i := range situations {
		from[i], to[i] = l.join(earth, fmt.Sprint("from", i)), l.join(earth, fmt.Sprint("to", i))
	}
	var cells [8][8]cell
	for i := range situations {
		var wg sync.WaitGroup
		for j := range situations {
			wg.Go(func() { cells[i][j] = try(from[i], to[j], direct(situations[i], situations[j])) })
		}
		wg.Wait()
	}
	t.Log("\n" + table(&cells))
	for i, a := range situations {
		if n, err := from[i].ask(request{Op: "self"}); err == nil {
			t.Logf("%s judges its NAT %q", a.name, n.Self.NAT)
		}
		for j, b := range situations {
			c := cells[i][j]
			switch {
			case c.err != nil:
				t.Errorf("%s to %s: %v", a.name, b.name, c.err)
			case direct(a, b) && c.kind != "direct":
				t.Errorf("%s to %s: %s", a.name, b.name, c.kind)
			case !direct(a, b) && c.kind != "relayed" && c.kind != "direct": // a lucky guess of a port
				t.Errorf("%s to %s: %q", a.name, b.name, c.kind)
			}
		}
	}
}

// try calls once, and looks which path the pipe settles on: on a slow machine
// a relay may have been first, and where the checks ran out of their time the
// next offer comes ten seconds later.
func try(from, to *node, direct bool) cell {
	start := time.Now()
	_, err := from.ask(request{Op: "call", Name: to.name})
	c := cell{took: time.Since(start), err: err}
	tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for settled := time.Now().Add(2 * time.Minute); ; <-tick.C {
		a, _ := from.ask(request{Op: "path", Name: to.name})
		c.kind = a.Path.Kind
		if err != nil || !direct || c.kind == "direct" || time.Now().After(settled) {
			return c
		}
	}
}

func table(cells *[8][8]cell) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-10s", "from \\ to")
	for _, b := range situations {
		fmt.Fprintf(&s, "%14s", b.name)
	}
	for i, a := range situations {
		fmt.Fprintf(&s, "\n%-10s", a.name)
		for j := range situations {
			c := cells[i][j]
			kind := c.kind
			if c.err != nil {
				kind = "FAILED"
			}
			fmt.Fprintf(&s, "%14s", fmt.Sprintf("%s %.2fs", kind, c.took.Seconds()))
		}
	}
	return s.String()
}
