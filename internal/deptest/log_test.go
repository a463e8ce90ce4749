package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// handed are packages that log by a logger which another one gives them.
const handed = "internal/state"

// TestLogLines: what a peer can cause does not fill a log. Each package that
// logs bounds its lines by logpace, which tells them apart by their message: so
// that is a constant.
func TestLogLines(t *testing.T) {
	bounds, logs := map[string]bool{}, map[string]string{}
	fset := token.NewFileSet()
	err := filepath.WalkDir("../..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(p), filepath.FromSlash("../../")))
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 || slices.Contains([]string{"examples", "testdata", "logpace", "peerbench", "yardstick"}, d.Name())) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if calls(call, "logpace", "New") {
				bounds[pkg] = true
			}
			message := logged(call)
			if message == nil {
				return true
			}
			at := fset.Position(call.Pos()).String()
			logs[pkg] = at
			if !constant(message) {
				t.Errorf("%s: the message of a log line is not a constant", at)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg, at := range logs {
		if !bounds[pkg] && !in(pkg, handed) {
			t.Errorf("%s: %s logs without logpace", at, pkg)
		}
	}
	if len(logs) < 8 {
		t.Errorf("only %d packages log: does the test still see it?", len(logs))
	}
}

// calls says whether c calls a package's function.
func calls(c *ast.CallExpr, pkg, name string) bool {
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg && s.Sel.Name == name
}

// logged returns the message of a line for everybody, nil if c writes none.
func logged(c *ast.CallExpr) ast.Expr {
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	var on string
	switch x := s.X.(type) {
	case *ast.Ident:
		on = x.Name
	case *ast.SelectorExpr:
		on = x.Sel.Name
	}
	i := map[string]int{"Info": 1, "Warn": 1, "Error": 1, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2, "Log": 3, "LogAttrs": 3}[s.Sel.Name]
	if !slices.Contains([]string{"log", "Logger", "logger", "slog"}, on) || i == 0 || len(c.Args) < i {
		return nil
	}
	return c.Args[i-1]
}

// constant says whether e is a string literal, a sum of them, or the kind of an
// event.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.CallExpr: // string(e.Kind)
		if len(e.Args) == 1 {
			kind, ok := e.Args[0].(*ast.SelectorExpr)
			return ok && kind.Sel.Name == "Kind"
		}
	case *ast.BinaryExpr:
		return constant(e.X) && constant(e.Y)
	}
	return false
}
