package idloctest_test

import (
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"
)

var seeds = flag.Int("seeds", 1, "how many seeds TestMatrix runs")

// situation is where one end of a pair is.
type situation struct {
	name string
	at   func(relay *Node) []NodeOption
	// hard: the mapping tells nothing about the next; blocked: one peer only.
	hard, blocked, open bool
}

func behind(kinds ...Kind) func(*Node) []NodeOption {
	return func(*Node) []NodeOption { return []NodeOption{BehindNAT(kinds...)} }
}

var situations = []situation{
	{name: "public", at: func(*Node) []NodeOption { return nil }, open: true},
	{name: "EIM/EIF", at: behind(FullCone), open: true},
	{name: "EIM/ADF", at: behind(AddressRestricted)},
	{name: "EIM/APDF", at: behind(PortRestricted)},
	{name: "1:1", at: behind(OneToOne), open: true},
	{name: "double", at: behind(PortRestricted, PortRestricted)},
	{name: "APDM/APDF", at: behind(Symmetric), hard: true},
	{name: "blocked", at: func(r *Node) []NodeOption { return []NodeOption{ReachesOnly(r.Host)} }, blocked: true},
}

// direct says whether a pair must get a direct path.
func direct(a, b situation) bool {
	switch {
	case a.blocked || b.blocked:
		return false
	case a.hard && b.hard:
		return false
	case a.hard:
		return b.open || b.name == "EIM/ADF"
	case b.hard:
		return a.open || a.name == "EIM/ADF"
	}
	return true
}

// TestMatrix dials from every kind of place to every kind of place.
func TestMatrix(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { matrix(t, uint64(seed)) })
	}
}

type cell struct {
	kind string
	took time.Duration
	err  error
}

func matrix(t *testing.T, seed uint64) {
	lab := New(t, Seed(seed))
	earth := lab.Node("earth")
	lab.Node("moon") // so that mappings are measured in two places
	var from, to [8]*Node
	for i, s := range situations {
		from[i] = lab.Node(fmt.Sprintf("from%d", i), s.at(earth)...)
		to[i] = lab.Node(fmt.Sprintf("to%d", i), s.at(earth)...)
		echo(t, to[i])
	}
	var cells [8][8]cell
	for i := range situations {
		var wg sync.WaitGroup
		for j := range situations {
			wg.Go(func() {
				start := time.Now()
				err := call(t.Context(), from[i], to[j], []byte("from "+situations[i].name+" to "+situations[j].name))
				c := cell{took: time.Since(start), err: err}
				// On a slow machine a relay may have been first.
				for settled := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					p, _ := active(from[i], to[j])
					c.kind = p.Kind
					if err != nil || !direct(situations[i], situations[j]) || p.Kind == "direct" || time.Now().After(settled) {
						break
					}
				}
				cells[i][j] = c
			})
		}
		wg.Wait()
	}
	t.Log("\n" + table(&cells))
	for i, a := range situations {
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
