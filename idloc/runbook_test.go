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

// texts are the string literals in the first node of a file that is wanted.
func texts(t *testing.T, file string, wanted func(ast.Node) bool) (out []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil || found || !wanted(n) {
			return !found
		}
		found = true
		ast.Inspect(n, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, s)
			}
			return true
		})
		return false
	})
	if len(out) == 0 {
		t.Fatalf("%s: nothing found", file)
	}
	return out
}

func variable(name string) func(ast.Node) bool {
	return func(n ast.Node) bool {
		s, ok := n.(*ast.ValueSpec)
		return ok && s.Names[0].Name == name
	}
}

func function(name string) func(ast.Node) bool {
	return func(n ast.Node) bool {
		f, ok := n.(*ast.FuncDecl)
		return ok && f.Name.Name == name
	}
}

// dropsInCode are the keys that Status.Drops can have.
func dropsInCode(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for layer, names := range map[string][]string{
		"socket": texts(t, "../internal/socket/stats.go", variable("dropNames")),
		"stun":   texts(t, "../overlay/ice/demux.go", variable("dropNames")),
		"pipe":   texts(t, "../internal/pipe/drop.go", variable("dropNames")),
		"shim":   texts(t, "../shim/drop.go", variable("dropNames")),
		"tun":    texts(t, "../netstack/tun/host.go", function("Drops")),
	} {
		for _, name := range names {
			all[layer+": "+name] = true
		}
	}
	layers := []string{"socket: ", "stun: ", "pipe: ", "shim: ", "tun: ", "netstack: "}
	for _, s := range texts(t, "peer.go", function("drops")) {
		switch {
		case slices.Contains(layers, s): // in front of a name
		case strings.Contains(s, ": "):
			all[s] = true
		default:
			all["netstack: "+s] = true
		}
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
	holdsAll(t, "drops", runbookRows(t, text, "Counters of what was dropped", true), dropsInCode(t))

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
