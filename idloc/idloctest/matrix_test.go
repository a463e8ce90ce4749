package idloctest_test

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"

	"github.com/idloc/idloc/internal/yardstick"
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

// matricesAtOnce run at a time: one waits for most of its life.
const matricesAtOnce = 4

// TestMatrix dials from every kind of place to every kind of place. No other test runs beside
// it: its 17 nodes have 64 first dials at once, which take five seconds alone, and under the
// race detector beside others so long that conns end by their timeouts.
func TestMatrix(t *testing.T) {
	sem := make(chan struct{}, matricesAtOnce)
	var mu sync.Mutex // guards all
	var all [8][8][]cell
	t.Run("all", func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for seed := range *seeds {
			sem <- struct{}{}
			wg.Go(func() {
				defer func() { <-sem }()
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					cells := matrix(t, uint64(seed))
					mu.Lock()
					defer mu.Unlock()
					for i := range cells {
						for j := range cells[i] {
							all[i][j] = append(all[i][j], cells[i][j])
						}
					}
				})
			})
		}
	})
	t.Log("\n" + table(&all))
}

type cell struct {
	kind string
	took time.Duration
	err  error
}

func matrix(t *testing.T, seed uint64) [8][8]cell {
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
				c.kind = settled(from[i], to[j], err == nil && direct(situations[i], situations[j]))
				cells[i][j] = c
			})
		}
		wg.Wait()
	}
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
	return cells
}

// settled returns the kind of the path between two nodes. On a slow machine a
// relay may have been first where a direct path must follow, if the checks ran
// out of their time by the next offer, ten seconds later.
func settled(from, to *Node, direct bool) string {
	var kind string
	yardstick.Await(30*time.Second, func() bool {
		p, _ := active(from, to)
		kind = p.Kind
		return !direct || kind == "direct"
	})
	return kind
}

// table prints for each pair how often it was direct, relayed or not connected,
// and the median and the longest time to an answer.
func table(all *[8][8][]cell) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-10s", "from \\ to")
	for _, b := range situations {
		fmt.Fprintf(&s, "%22s", b.name)
	}
	took := map[string][]time.Duration{}
	for i, a := range situations {
		fmt.Fprintf(&s, "\n%-10s", a.name)
		for j := range situations {
			kinds := map[string]int{}
			var times []time.Duration
			for _, c := range all[i][j] {
				kind := c.kind
				if c.err != nil {
					kind = "FAILED"
				}
				kinds[kind]++
				times = append(times, c.took)
				took[kind] = append(took[kind], c.took)
			}
			slices.Sort(times)
			text := ""
			for _, k := range slices.Sorted(maps.Keys(kinds)) {
				text += fmt.Sprintf("%d %s ", kinds[k], k)
			}
			if n := len(times); n > 0 {
				text += fmt.Sprintf("%.2f/%.2fs", times[n/2].Seconds(), times[n-1].Seconds())
			}
			fmt.Fprintf(&s, "%22s", text)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(took)) {
		times := took[k]
		slices.Sort(times)
		n := len(times)
		fmt.Fprintf(&s, "\n%s: %d, p50 %.2f s, p99 %.2f s, max %.2f s", k, n,
			times[n/2].Seconds(), times[min(n-1, n*99/100)].Seconds(), times[n-1].Seconds())
	}
	return s.String()
}
