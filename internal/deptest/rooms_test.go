package deptest

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Package overlay puts its rooms together: its struct and its files stay small, so
// that what is no wiring goes into a room.
const (
	facadeFields = 12
	facadeLines  = 800 // with code on them
)

func TestFacade(t *testing.T) {
	dir := filepath.Join("..", "..", "overlay")
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	lines, fields := 0, 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += codeLines(src)
		f, err := parser.ParseFile(token.NewFileSet(), file, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok && s.Name.Name == "Overlay" {
				for _, field := range s.Type.(*ast.StructType).Fields.List {
					fields += max(1, len(field.Names))
				}
			}
			return true
		})
	}
	if lines > facadeLines || lines < facadeLines/4 {
		t.Errorf("package overlay has %d lines of code, at most %d", lines, facadeLines)
	}
	if fields > facadeFields || fields == 0 {
		t.Errorf("Overlay has %d fields, at most %d", fields, facadeFields)
	}
}

// codeLines counts the lines on which something other than a comment stands.
func codeLines(src []byte) int {
	fset := token.NewFileSet()
	file := fset.AddFile("", fset.Base(), len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue
		}
		at := file.Line(pos)
		for i := range strings.Count(text, "\n") + 1 {
			lines[at+i] = true
		}
	}
}

// Each room of the overlay stands in the picture of the house, and in the table of
// package overlay's doc; no other does.
func TestRoomsAreNamed(t *testing.T) {
	root := filepath.Join("..", "..")
	_, house, _ := strings.Cut(readDesign(t), "\n## 4.")
	house, _, _ = strings.Cut(house, "\n## 5.")
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "overlay", "doc.go"), nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(f.Doc.Text(), "# Rooms")
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^\t((?:\w+/,? ?)+)`).FindAllStringSubmatch(table, -1) {
		for _, name := range strings.Fields(m[1]) {
			listed = append(listed, strings.TrimSuffix(strings.TrimSuffix(name, ","), "/"))
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	rooms := 0
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "testdata" {
			continue
		}
		rooms++
		if !slices.Contains(listed, e.Name()) {
			t.Errorf("overlay/doc.go does not list %s", e.Name())
		}
		// Rooms within rooms, and the two that all share, are no part of the picture.
		if name := e.Name(); name != "field" && name != "p2p" && !strings.Contains(house, "`"+name+"`") {
			t.Errorf("DESIGN §4 does not name %s", name)
		}
	}
	if rooms < 15 {
		t.Errorf("%d rooms: the search is broken", rooms)
	}
	for _, name := range listed {
		if _, err := os.Stat(filepath.Join(root, "overlay", name)); err != nil {
			t.Errorf("overlay/doc.go lists %s: %v", name, err)
		}
	}
}

// What README says is a folder is one.
func TestReadmeFolders(t *testing.T) {
	root := filepath.Join("..", "..")
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "| folder | what it is |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := regexp.MustCompile("(?m)^\\| ((?:`[a-z0-9/]+`(?:, )?)+) \\|").FindAllStringSubmatch(table, -1)
	if len(rows) < 8 {
		t.Errorf("%d rows: the search is broken", len(rows))
	}
	for _, m := range rows {
		for _, name := range strings.Split(m[1], ", ") {
			if s, err := os.Stat(filepath.Join(root, strings.Trim(name, "`"))); err != nil || !s.IsDir() {
				t.Errorf("%s is no folder: %v", name, err)
			}
		}
	}
}

func TestCodeLines(t *testing.T) {
	src := "// a\npackage x\n\n/* b\nc */\nvar s = `d\ne` // f\nfunc g() {\n}\n"
	if n := codeLines([]byte(src)); n != 5 {
		t.Errorf("%d lines", n)
	}
}
