package deptest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// graph is package -> what it imports, both as import paths; packages of the
// module are relative to it.
type graph map[string]map[string]bool

// readGraph parses the imports of all non-test files below root, for every
// system: build constraints are not applied. Nested modules, testdata and
// what begins with a dot or underscore are left out, as by the go command.
func readGraph(root string) (graph, error) {
	g := make(graph)
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p == root {
				return nil
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil ||
				name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_' {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name[0] == '.' || name[0] == '_' {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			imp, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if rel, ok := strings.CutPrefix(imp, module+"/"); ok {
				imp = "./" + rel
			}
			imports = append(imports, imp)
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		if g[pkg] == nil {
			g[pkg] = make(map[string]bool)
		}
		for _, imp := range imports {
			g[pkg][imp] = true
		}
		return nil
	})
	return g, err
}

// check returns what in g breaks a rule, sorted.
func check(g graph) []string {
	var broken []string
	say := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	for pkg, imports := range g {
		i := slices.IndexFunc(stair, func(r rule) bool { return in(pkg, r.pkg) })
		if i < 0 {
			say("%s: no rule mentions this package", pkg)
			continue
		}
		for imp := range imports {
			if own, ok := strings.CutPrefix(imp, "./"); ok {
				if !in(own, stair[i].may) {
					say("%s must not import %s", pkg, own)
				}
				continue
			}
			for _, f := range foreign { // the first that matches decides
				if under(imp, f.path) {
					if !in(pkg, f.by) {
						say("%s must not import %s", pkg, imp)
					}
					break
				}
			}
		}
	}
	slices.Sort(broken)
	return broken
}

func TestImports(t *testing.T) {
	root := filepath.Join("..", "..")
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(mod), "module "+module+"\n") {
		t.Fatalf("go.mod is not that of %s", module)
	}
	g, err := readGraph(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"internal/deptest", "internal/socket", "internal/peerid"} {
		if g[want] == nil {
			t.Errorf("%s was not found: the walk is broken", want)
		}
	}
	for _, b := range check(g) {
		t.Error(b)
	}
}

// Rules name packages lower on the list only, so that imports go one way.
func TestRulesPointDown(t *testing.T) {
	for i, r := range stair {
		for _, above := range stair[i+1:] {
			if in(strings.TrimSuffix(above.pkg, "/..."), r.may) {
				t.Errorf("%s may import %s, which stands above it", r.pkg, above.pkg)
			}
		}
	}
}

// A tree that breaks one rule per package must be told off for each, and for
// nothing else.
func TestBrokenRulesAreFound(t *testing.T) {
	g, err := readGraph(filepath.Join("testdata", "broken"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"idloc must not import gvisor.dev/gvisor/pkg/tcpip/stack",
		"internal/event must not import internal/wire",
		"internal/newcomer: no rule mentions this package",
		"internal/peerid must not import github.com/libp2p/go-libp2p/core/peer",
		"internal/pipe must not import internal/socket",
		"internal/socket must not import github.com/pion/ice/v3",
		"lsi must not import overlay",
		"overlay must not import github.com/miekg/dns",
		"shim must not import gvisor.dev/gvisor/pkg/tcpip/stack",
		"shim must not import netstack",
	}
	got := check(g)
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	if pkgs := slices.Sorted(maps.Keys(g)); slices.Contains(pkgs, path.Join("examples", "nested")) {
		t.Error("a nested module was read")
	}
}
