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
	nodes := []*node{earth}
	defer func() { l.close(nodes) }()
	if _, err := earth.ask(request{Op: "create", Name: "earth", Null: true}); err != nil {
		t.Fatal(err)
	}
	join := func(label string) *node {
		n := l.start(label, label)
		nodes = append(nodes, n)
		a, err := earth.ask(request{Op: "invite", Name: label})
		if err == nil {
			_, err = n.ask(request{Op: "join", Name: label, Token: a.Text, Null: true})
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	join("moon")
	var from, to [8]*node
	for i := range nullSituations {
		from[i], to[i] = join(fmt.Sprint("from", i)), join(fmt.Sprint("to", i))
	}
	for _, network := range []string{"udp", "tcp"} {
		var cells [8][8]cell
		var wg sync.WaitGroup
		for i := range nullSituations {
			for j := range nullSituations {
				wg.Go(func() {
					start := time.Now()
					_, err := from[i].ask(request{Op: "null", Name: to[j].name, Text: network})
					cells[i][j] = cell{kind: "works", took: time.Since(start), err: err}
				})
			}
		}
		wg.Wait()
		t.Log(network + "\n" + table(&cells))
		for i, a := range nullSituations {
			for j, b := range nullSituations {
				c := cells[i][j]
				switch {
				case c.err == nil && (a.blocked || b.blocked):
					t.Errorf("%s, %s to %s: through a box that forwards nothing", network, a.name, b.name)
				case c.err == nil:
				case network == "udp" && direct(a, b), network == "tcp" && tcpReaches(a, b):
					t.Errorf("%s, %s to %s: %v", network, a.name, b.name, c.err)
				case !strings.Contains(c.err.Error(), "connectivity check"):
					t.Errorf("%s, %s to %s: no stage in %v", network, a.name, b.name, c.err)
				}
			}
		}
	}
}

// tcpReaches says whether TCP must get through: to an open place by connecting
// there, and between two boxes that keep the port by a simultaneous open.
func tcpReaches(a, b situation) bool {
	return !a.blocked && !b.blocked && (a.open || b.open || !a.hard && !b.hard)
}
