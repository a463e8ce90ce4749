package idloc_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/idloc"
)

// runbookRows are the first columns of the tables under a heading of RUNBOOK.md,
// and the second and third must say something.
func runbookRows(t *testing.T, text, heading string, wantsAdvice bool) []string {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n## "+heading+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	if !ok {
		t.Fatalf("RUNBOOK.md has no section %q", heading)
	}
	var rows []string
	for line := range strings.Lines(text) {
		m := regexp.MustCompile("^\\| (?:\\*\\*)?`([^`]+)`(?:\\*\\*)? \\|(.*)\\|(.*)\\|$").FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if strings.TrimSpace(m[2]) == "" || wantsAdvice && strings.TrimSpace(m[3]) == "" {
			t.Errorf("RUNBOOK.md says nothing about %s", m[1])
		}
		rows = append(rows, m[1])
	}
	return rows
}

// holdsAll wants two lists to be equal, apart from their order, without duplicates.
func holdsAll(t *testing.T, what string, inBook []string, inCode map[string]bool) {
	t.Helper()
	seen := map[string]bool{}
	for _, row := range inBook {
		if seen[row] {
			t.Errorf("%s: RUNBOOK.md has %q twice", what, row)
		}
		if seen[row] = true; !inCode[row] {
			t.Errorf("%s: RUNBOOK.md has %q, which the code has not", what, row)
		}
	}
	for _, row := range slices.Sorted(maps.Keys(inCode)) {
		if !seen[row] {
			t.Errorf("%s: RUNBOOK.md has no row for %q", what, row)
		}
	}
}

// dropsInCode are the keys that Status.Drops can have, from the metric that has
// each of them from the start.
func dropsInCode(t *testing.T, n *idloc.Node) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "idloc_drops_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			all[labels["layer"]+": "+labels["reason"]] = true
		}
	}
	if len(all) < 50 {
		t.Errorf("only %d counters of drops", len(all))
	}
	return all
}

// TestRunbook: RUNBOOK.md has each drop counter, event and error, and nothing else.
func TestRunbook(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	holdsAll(t, "drops", runbookRows(t, text, "Counters of what was dropped", true), dropsInCode(t, found(t, idloc.Config{})))

	kinds := map[string]bool{}
	f, err := parser.ParseFile(token.NewFileSet(), "../internal/event/event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	exported := strings.Join(identifiers(t, "watch.go"), " ") + " "
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.ValueSpec)
		if !ok || len(s.Values) == 0 {
			return true
		}
		if id, ok := s.Type.(*ast.Ident); !ok || id.Name != "Kind" {
			return true
		}
		kind, err := strconv.Unquote(s.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		kinds[kind] = true
		if !strings.Contains(exported, "Event"+s.Names[0].Name+" ") {
			t.Errorf("package idloc has no name for the event %s", kind)
		}
		return true
	})
	holdsAll(t, "events", runbookRows(t, text, "Events", false), kinds)
	holdsAll(t, "errors", runbookRows(t, text, "Errors", true), tableOfErrors(t))
}

// identifiers are the constants that a file declares.
func identifiers(t *testing.T, file string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok {
			for _, id := range s.Names {
				names = append(names, id.Name)
			}
		}
		return true
	})
	return names
}
