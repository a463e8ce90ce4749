package deptest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// The longest function has so many lines, and the most complex so many ways
// through it (McCabe: one, and one more for each branch, loop, case and && or ||).
const (
	maxLines      = 80
	maxComplexity = 20
)

// longer are those that may be longer or more complex, each with its reason:
// codecs and tables, which are read from top to bottom.
var longer = map[string]string{
	"examples/sipcall.story.event":  "a table of SIP events",
	"internal/difftest.model.apply": "a table: what a call does",
	"internal/difftest.model.end":   "a table: what ends",
	"internal/difftest.model.read":  "a table: what a Read may say in which state",
	"internal/difftest.model.write": "a table: what a Write may say in which state",
	"internal/difftest.run.call":    "a table: how a call is made",
	"internal/mutate.pkg.expr":      "a table of mutations",
	"internal/mutate.pkg.node":      "a table of mutations",
	"internal/pipe.Pipe.control":    "a table of frame types",
	"internal/wire.Payload.Check":   "a codec",
	"netstack.sysError":             "a table of error numbers",
}

// TestShape holds functions to a size at which one can be understood.
func TestShape(t *testing.T) {
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	seen, used := 0, map[string]bool{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != root && (name[0] == '.' || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") || strings.HasSuffix(p, ".pb.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, 0)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			seen++
			name := filepath.ToSlash(rel) + "." + funcName(fn)
			lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			ways := complexity(fn.Body)
			if lines <= maxLines && ways <= maxComplexity {
				continue
			}
			if longer[name] != "" {
				used[name] = true
				continue
			}
			t.Errorf("%s has %d lines and %d ways through it", name, lines, ways)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 1000 {
		t.Errorf("%d functions were found: the walk is broken", seen)
	}
	for name := range longer {
		if !used[name] {
			t.Errorf("%s is no longer too long: take it off the list", name)
		}
	}
}

// TestComplexity: the measure counts what it says.
func TestComplexity(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
func f(a, b bool, c chan int) {
	if a && b || !a {
	}
	for range 3 {
		switch { case a: case b: default: }
	}
	func() { for a {} }()
	select { case <-c: default: }
}`, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := complexity(f.Decls[0].(*ast.FuncDecl).Body); n != 9 {
		t.Errorf("%d ways", n)
	}
}

// complexity is McCabe's number; literals of functions count to where they
// stand.
func complexity(body ast.Node) int {
	n := 1
	ast.Inspect(body, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	return fmt.Sprintf("%s.%s", typ, fn.Name.Name)
}
