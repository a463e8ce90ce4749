package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// shown is a test as internal/THREATS.md names it: package.TestName.
	shown = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`")
	// named is anything that looks like the name of a test.
	named = regexp.MustCompile(`\bTest[A-Z][A-Za-z0-9]*`)
)

// What internal/THREATS.md says a test shows, a test of that name shows, in the
// package that is named.
func TestThreatsAreShown(t *testing.T) {
	root := filepath.Join("..", "..")
	b, err := os.ReadFile(filepath.Join(root, "internal", "THREATS.md"))
	if err != nil {
		t.Fatal(err)
	}
	refs, loose := references(string(b))
	if len(loose) > 0 {
		t.Errorf("tests without a package: %q", loose)
	}
	if len(refs) < 50 {
		t.Errorf("%d tests are named: the search is broken", len(refs))
	}
	tests := map[string][]string{}
	for _, r := range refs {
		if _, ok := tests[r.pkg]; !ok {
			tests[r.pkg] = testsIn(t, filepath.Join(root, filepath.FromSlash(r.pkg)))
		}
		if !slices.Contains(tests[r.pkg], r.test) {
			t.Errorf("there is no %s in %s", r.test, r.pkg)
		}
	}
}

func TestReferencesAreFound(t *testing.T) {
	refs, loose := references("a: `overlay/ice/tcp.TestA1`,\n`idloc.TestB`; TestC, `TestD`; `go test -run 'TestE$'`; Tested")
	if !slices.Equal(refs, []reference{{"overlay/ice/tcp", "TestA1"}, {"idloc", "TestB"}}) || !slices.Equal(loose, []string{"TestC", "TestD", "TestE"}) {
		t.Errorf("%v, %q", refs, loose)
	}
}

func TestTestsAreFound(t *testing.T) {
	have := testsIn(t, ".")
	if !slices.Contains(have, "TestTestsAreFound") || slices.Contains(have, "testsIn") {
		t.Errorf("%q", have)
	}
}

// reference is a test that a text names.
type reference struct{ pkg, test string }

// references returns the tests that a text names with their packages, and what
// looks like the name of one and has none.
func references(text string) (refs []reference, loose []string) {
	for _, m := range shown.FindAllStringSubmatch(text, -1) {
		refs = append(refs, reference{m[1], m[2]})
	}
	return refs, named.FindAllString(shown.ReplaceAllString(text, ""), -1)
}

// testsIn returns the names of the tests of a directory.
func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}
