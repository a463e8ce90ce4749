package mesh

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every time that this package waits for stands in timers.go, and in the table of
// doc.go.
func TestTimersAreListed(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	doc, err := parser.ParseFile(fset, "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	timers, err := parser.ParseFile(fset, "timers.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+) +\S`).FindAllStringSubmatch(doc.Doc.Text(), -1) {
		listed[m[1]] = true
	}
	count := 0
	ast.Inspect(timers, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if count++; !listed[name.Name] {
					t.Errorf("doc.go does not list %s", name.Name)
				}
			}
		}
		return true
	})
	if count < 30 {
		t.Errorf("only %d timers: does the test still read them?", count)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	literal := regexp.MustCompile(`\d \* time\.(Millis|S)econd|\btime\.(Minute|Hour)\b`)
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && name != "timers.go" {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range literal.FindAllString(string(b), -1) {
				t.Errorf("%s has a time of its own: %s", name, l)
			}
		}
	}
}
