//go:build linux

package kernellab

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// both makes rules about UDP rules about TCP, too.
func both(rules string) string {
	return strings.NewReplacer(
		"udp dport", "meta l4proto { tcp, udp } th dport",
		"meta l4proto udp", "meta l4proto { tcp, udp }",
	).Replace(rules)
}

// nullSituations are the matrix's, for both protocols.
var nullSituations = []situation{
	{name: "public", place: situations[0].place, open: true},
	{name: "EIM/EIF", place: always(both(fullCone)), open: true},
	{name: "EIM/ADF", place: always(both(addressRestricted))},
	{name: "EIM/APDF", place: situations[3].place},
	{name: "1:1", place: situations[4].place, open: true},
	{name: "double", place: situations[5].place},
	{name: "APDM/APDF", place: always(both(symmetric)), hard: true},
	{name: "blocked", place: boxed(func(_, relay string) string { return both(onlyTo(relay)) }), blocked: true},
}

// TestNullMatrix opens flows with null encapsulation from every kind of place
// to every kind of place: UDP works wherever a direct pair exists, TCP where
// the boxes let it, and the rest is an error that says its stage, since nothing
// falls back to a pipe.
func TestNullMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("18 processes behind 16 NATs: not with -short")
	}
	if !inside(t) {
		return
	}
	l := newLab(t)
	relay := l.public("earth")
	l.public("moon")
	for i, s := range nullSituations {
		s.place(l, fmt.Sprint("from", i), relay)
		s.place(l, fmt.Sprint("to", i), relay)
	}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Null: true})
	join := func(label string) *node {
		n := l.start(label, label)
		n.must(request{Op: "join", Name: label, Token: earth.invite(label), Null: true})
		return n
	}
	join("moon")
	from, to := make([]*node, len(nullSituations)), make([]*node, len(nullSituations))
	for i := range nullSituations {
		from[i], to[i] = join(fmt.Sprint("from", i)), join(fmt.Sprint("to", i))
	}
	within := callWithin
	if !*strict {
		within /= 3 // a third of the pairs cannot meet, and are waited for
	}
	for _, network := range []string{"udp", "tcp"} {
		cells := newCells()
		var wg sync.WaitGroup
		for i := range nullSituations {
			for j := range nullSituations {
				wg.Go(func() {
					start := time.Now()
					_, err := from[i].ask(request{Op: "null", Name: to[j].name, Text: network, Within: within})
					cells[i][j] = cell{kind: "works", took: time.Since(start), err: err}
				})
			}
		}
		wg.Wait()
		t.Log(network + "\n" + table(nullSituations, cells))
		// All at once is more than a busy machine has time for: which of them
		// have failed for that tells a try of their own.
		for i, a := range nullSituations {
			for j, b := range nullSituations {
				if c := &cells[i][j]; c.err != nil && nullReaches(network, a, b) {
					t.Logf("%s, %s to %s once more, after %v", network, a.name, b.name, c.err)
					_, c.err = from[i].ask(request{Op: "null", Name: to[j].name, Text: network})
				}
			}
		}
		for i, a := range nullSituations {
			for j, b := range nullSituations {
				c := cells[i][j]
				switch {
				case c.err == nil && (a.blocked || b.blocked):
					t.Errorf("%s, %s to %s: through a box that forwards nothing", network, a.name, b.name)
				case c.err == nil:
				case nullReaches(network, a, b):
					t.Errorf("%s, %s to %s: %v", network, a.name, b.name, c.err)
				case !strings.Contains(c.err.Error(), "connectivity check"):
					t.Errorf("%s, %s to %s: no stage in %v", network, a.name, b.name, c.err)
				}
			}
		}
	}
}

// nullReaches says whether flows of a network must get through.
func nullReaches(network string, a, b situation) bool {
	return network == "udp" && direct(a, b) || network == "tcp" && tcpReaches(a, b)
}

// tcpReaches says whether TCP must get through: to an open place by connecting
// there, and between two boxes that keep the port by a simultaneous open.
func tcpReaches(a, b situation) bool {
	return !a.blocked && !b.blocked && (a.open || b.open || !a.hard && !b.hard)
}
