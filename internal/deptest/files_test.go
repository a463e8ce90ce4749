package deptest

import (
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFileTables: a package doc with a table of files names all that are there,
// and no other.
func TestFileTables(t *testing.T) {
	docs, err := filepath.Glob("../../*/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, deeper := range []string{"../../*/*/doc.go", "../../*/*/*/doc.go"} {
		more, err := filepath.Glob(deeper)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, more...)
	}
	tables := 0
	for _, doc := range docs {
		f, err := parser.ParseFile(token.NewFileSet(), doc, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		names, ok := fileTable(f.Doc.Text())
		if !ok {
			continue
		}
		tables++
		entries, err := os.ReadDir(filepath.Dir(doc))
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, e := range entries {
			if n := e.Name(); !e.IsDir() && strings.HasSuffix(n, ".go") && n != "doc.go" {
				have = append(have, n)
			}
		}
		for _, problem := range compareTable(names, have) {
			t.Errorf("%s: %s", strings.TrimPrefix(filepath.ToSlash(doc), "../../"), problem)
		}
	}
	if tables < 10 {
		t.Errorf("only %d tables of files were found in %d docs: does the test still read them?", tables, len(docs))
	}
}

// fileTable reads the names and patterns at the head of the indented lines of a
// doc. A few of them are a table.
func fileTable(doc string) (names []string, ok bool) {
	for line := range strings.Lines(doc) {
		if !strings.HasPrefix(line, "\t") {
			continue
		}
		for _, w := range strings.Fields(line) {
			name := strings.TrimSuffix(w, ",")
			if !strings.HasSuffix(name, ".go") {
				break
			}
			names = append(names, name)
			if name == w {
				break
			}
		}
	}
	return names, len(names) >= 3
}

// compareTable says which files no name covers and which names cover nothing.
// "lock.go" covers "lock_linux.go", too: a table need not list every system. Nor
// need it list tests.
func compareTable(names, have []string) (problems []string) {
	covers := func(name, file string) bool {
		if ok, _ := path.Match(name, file); ok {
			return true
		}
		base := strings.TrimSuffix(name, ".go")
		system, ok := strings.CutPrefix(strings.TrimSuffix(file, ".go"), base+"_")
		return ok && slices.Contains([]string{"linux", "darwin", "windows", "unix", "other", "unknown", "norace", "race"}, system)
	}
	for _, file := range have {
		if !strings.HasSuffix(file, "_test.go") && !slices.ContainsFunc(names, func(n string) bool { return covers(n, file) }) {
			problems = append(problems, "no line for "+file)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(have, func(f string) bool { return covers(name, f) }) {
			problems = append(problems, "there is no "+name)
		}
	}
	return problems
}

func TestCompareTable(t *testing.T) {
	names, ok := fileTable("Package x has x.go.\n\n\ta.go    the first\n\tb.go, c.go\n\tsys_*.go  d.go in words is none\n\tice/  a folder\n")
	if !ok || !slices.Equal(names, []string{"a.go", "b.go", "c.go", "sys_*.go"}) {
		t.Fatalf("read %q", names)
	}
	if p := compareTable(names, []string{"a.go", "a_linux.go", "a_test.go", "b.go", "c.go", "sys_x.go"}); len(p) > 0 {
		t.Errorf("all is there: %q", p)
	}
	if p := compareTable(names, []string{"a.go", "b.go", "sys_x.go", "new.go"}); !slices.Equal(p, []string{"no line for new.go", "there is no c.go"}) {
		t.Errorf("one is missing and one new: %q", p)
	}
}
