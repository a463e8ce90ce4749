package grants

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

// thousand is a policy of as many rules as a text has room for, more or less.
func thousand(t testing.TB, line func(i int) string) *Policy {
	t.Helper()
	var b strings.Builder
	for i := range 1_000 {
		b.WriteString(line(i) + "\n")
	}
	p := mustParse(t, b.String())
	if len(p.rules) != 1_000 {
		t.Fatalf("%d rules", len(p.rules))
	}
	return p
}

// crowds are policies of 1,000 rules, and questions that take long.
var crowds = []struct {
	name string
	line func(i int) string
	who  Party
	port uint16
	want bool
}{
	{"ports", func(i int) string { return fmt.Sprintf("allow a to open tcp %d at m", 2*i+2) }, Party{Name: "a"}, 2000, true},
	{"ports-denied", func(i int) string { return fmt.Sprintf("allow a to open tcp %d at m", 2*i+2) }, Party{Name: "a"}, 1001, false},
	{"names", func(i int) string { return fmt.Sprintf("allow n%d to open tcp 80 at m", i) }, Party{Name: "n999"}, 80, true},
	{"tags", func(i int) string {
		return fmt.Sprintf("allow %s to open tcp %d at m", []string{"tag:0", "tag:1", "tag:2", "a"}[i%4], i/4*2+1)
	}, Party{Name: "somebody", Tags: []string{"x", "y", "0", "2"}}, 499, true},
	{"everything-denied", func(i int) string {
		return fmt.Sprintf("allow %s to open tcp %d at m", []string{"everybody", "a", "tag:x", "a"}[i%4], 2*i+1)
	}, Party{Name: "a", Tags: []string{"x", "y", "z", "w"}}, 1000, false},
}

func TestAllowsAllocatesNothing(t *testing.T) {
	for _, c := range crowds {
		g := thousand(t, c.line).At(Party{Name: "m"})
		var got, kept bool
		if n := yardstick.Allocs(100, func() { got, kept = g.Allows(c.who, TCP, c.port), g.Keeps(c.who, TCP, c.port) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
		if got != c.want || kept {
			t.Errorf("%s: %v, kept %v", c.name, got, kept)
		}
	}
}

func BenchmarkAllows(b *testing.B) {
	for _, c := range crowds {
		b.Run(c.name, func(b *testing.B) {
			g := thousand(b, c.line).At(Party{Name: "m"})
			b.ReportAllocs()
			for b.Loop() {
				if g.Allows(c.who, TCP, c.port) != c.want {
					b.Fatal("decided otherwise")
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	p := thousand(b, crowds[4].line)
	b.SetBytes(int64(len(p.Text())))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(p.Text(), testDomain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAt(b *testing.B) {
	p := thousand(b, crowds[4].line)
	b.ReportAllocs()
	for b.Loop() {
		p.At(Party{Name: "m"})
	}
}

// size returns how many tables a Guard has, and how many ranges stand in them.
func size(g *Guard) (tables, ranges int) {
	seen := map[*table]bool{nil: true}
	count := func(t *table) {
		if seen[t] {
			return
		}
		seen[t] = true
		tables++
		for n := range networks {
			ranges += len(t.allowed[n]) + len(t.kept[n])
		}
	}
	count(g.everybody)
	for _, m := range []map[string]*table{g.names, g.tags} {
		for _, t := range m {
			count(t)
		}
	}
	return tables, ranges
}

// TestSharedTables: a text that makes the most of its bytes makes no Guard that is large.
func TestSharedTables(t *testing.T) {
	t.Parallel()
	list := func(n int, item func(i int) string) string {
		var all []string
		for i := range n {
			all = append(all, item(i))
		}
		return strings.Join(all, ",")
	}
	name := func(i int) string { return fmt.Sprintf("x%d", i) }
	port := func(i int) string { return fmt.Sprintf("tcp %d", 2*i+1) }

	// Two long lists: the product would have four million ranges.
	g := mustParse(t, "allow "+list(2_000, name)+" to open "+list(2_000, port)+" at m").At(Party{Name: "m"})
	if tables, ranges := size(g); tables != 1 || ranges != 2_000 {
		t.Errorf("one rule: %d tables with %d ranges", tables, ranges)
	}
	if !g.Allows(Party{Name: "x1999"}, TCP, 3999) || g.Allows(Party{Name: "x2000"}, TCP, 3999) || g.Allows(Party{Name: "x0"}, TCP, 3998) {
		t.Error("decides wrongly")
	}

	// 512 names, each in a set of rules of its own.
	var b strings.Builder
	for r := range 9 {
		var who []string
		for i := range 512 {
			if i>>r&1 == 1 {
				who = append(who, fmt.Sprintf("%d", i))
			}
		}
		fmt.Fprintf(&b, "allow %s to open %s at m, new only\n", strings.Join(who, ","), list(250, func(i int) string { return port(250*r + i) }))
	}
	g = mustParse(t, b.String()).At(Party{Name: "m"})
	if tables, ranges := size(g); tables != 511 || ranges > 2_000_000 {
		t.Errorf("many sets: %d tables with %d ranges", tables, ranges)
	}
}

// TestSpans: ranges in any order, that overlap, touch or not, are merged to the same.
func TestSpans(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want spans }{
		{nil, nil},
		{spans{{5, 5}}, spans{{5, 5}}},
		{spans{{5, 6}, {1, 4}}, spans{{1, 6}}},
		{spans{{5, 6}, {1, 3}}, spans{{1, 3}, {5, 6}}},
		{spans{{1, 100}, {2, 3}, {50, 101}}, spans{{1, 101}}},
		{spans{{65535, 65535}, {65534, 65534}, {1, 65535}}, spans{{1, 65535}}},
		{spans{{65535, 65535}, {1, 1}, {65533, 65533}}, spans{{1, 1}, {65533, 65533}, {65535, 65535}}},
	} {
		got := merge(slices.Clone(test.in))
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.in, got, test.want)
		}
		for port := range uint16(200) {
			in := slices.ContainsFunc(test.in, func(s span) bool { return s.first <= port && port <= s.last })
			if got.contain(port) != in {
				t.Errorf("%v: %d: %v", test.in, port, !in)
			}
		}
	}
	s := spans{{5, 10}, {20, 65535}}
	for _, test := range []struct {
		of   span
		port uint16
		ok   bool
	}{
		{span{5, 10}, 0, false}, {span{6, 6}, 0, false}, {span{20, 65535}, 0, false}, {span{65535, 65535}, 0, false},
		{span{4, 10}, 4, true}, {span{5, 11}, 11, true}, {span{5, 30}, 11, true}, {span{12, 13}, 12, true}, {span{1, 65535}, 1, true},
	} {
		if port, ok := s.gap(test.of); ok != test.ok || ok && port != test.port {
			t.Errorf("%v: %d, %v", test.of, port, ok)
		}
	}
}

// TestConcurrent: nothing is written after Parse and At.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	p := mustParse(t, story+"expect venus may open tcp 22 at mars")
	g := p.At(Party{Name: "mars"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if !g.Allows(Party{Name: "venus"}, TCP, 22) || !p.Explain(Party{Name: "venus"}, Party{Name: "mars"}, TCP, 22).Allowed ||
					p.Failures() != nil || p.At(Party{Name: "mars"}).Allows(Party{}, TCP, 22) {
					t.Error("decided otherwise")
				}
			}
		})
	}
	wg.Wait()
}
