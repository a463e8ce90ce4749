package deptest

import (
	"errors"
	"fmt"
	"go/ast"
	exact "go/constant"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A table of a package doc says of a constant what it is worth, and DESIGN §16 which
// constant a figure is. Both are held to the code here.
var (
	// tableRow is a line of a package doc: a constant's name, a figure, and why.
	tableRow = regexp.MustCompile(`^\t(\w+) +(\d[\d.]*(?: (?:ms|s|min|h|days|KiB|MiB))?) +\S`)
	figure   = regexp.MustCompile(`^(0x[0-9a-f]+|[\d.,]+)(?: (\w+))?$`)
)

var units = map[string]float64{
	"": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20,
	"ms": float64(time.Millisecond), "s": float64(time.Second), "min": float64(time.Minute), "h": float64(time.Hour), "days": float64(24 * time.Hour),
}

// parseFigure reads "500 ms", "3,600 bytes", "0x80".
func parseFigure(text string) (float64, error) {
	m := figure.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return 0, fmt.Errorf("no figure: %q", text)
	}
	unit, ok := units[m[2]]
	if !ok {
		return 0, fmt.Errorf("unknown unit: %q", text)
	}
	if hex, ok := strings.CutPrefix(m[1], "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 64)
		return float64(n), err
	}
	n, err := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
	return n * unit, err
}

var errNotConstant = errors.New("no constant expression")

// values evaluates constants of the module's packages, from their source.
type values struct {
	root string
	pkgs map[string]*constants
}

// constants are those of one package, by name, with the imports of their files.
type constants struct {
	specs map[string]spec
}

type spec struct {
	value   ast.Expr
	iota    int
	imports map[string]string // name -> import path
}

func newValues(root string) *values { return &values{root: root, pkgs: map[string]*constants{}} }

// load reads the constants of a package of the module, and its variables: a table may
// be about one that tests change.
func (v *values) load(pkg string) (*constants, error) {
	if c := v.pkgs[pkg]; c != nil {
		return c, nil
	}
	c := &constants{specs: map[string]spec{}}
	dir := filepath.Join(v.root, filepath.FromSlash(pkg))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, 0)
		if err != nil {
			return nil, err
		}
		c.add(f)
	}
	v.pkgs[pkg] = c
	return c, nil
}

func (c *constants) add(f *ast.File) {
	imports := map[string]string{}
	for _, i := range f.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		name := path.Base(p)
		if i.Name != nil {
			name = i.Name.Name
		}
		imports[name] = p
	}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST && g.Tok != token.VAR {
			continue
		}
		var last []ast.Expr // what a constant without a value repeats
		for i, s := range g.Specs {
			vs := s.(*ast.ValueSpec)
			if len(vs.Values) > 0 {
				last = vs.Values
			}
			for j, name := range vs.Names {
				if j < len(last) {
					c.specs[name.Name] = spec{last[j], i, imports}
				}
			}
		}
	}
}

// of returns what a constant is worth; a time in nanoseconds.
func (v *values) of(pkg, name string) (float64, error) {
	c, err := v.load(pkg)
	if err != nil {
		return 0, err
	}
	s, ok := c.specs[name]
	if !ok {
		return 0, fmt.Errorf("%s has no %s", pkg, name)
	}
	n, err := v.eval(pkg, s, s.value)
	if err != nil {
		return 0, fmt.Errorf("%s.%s: %w", pkg, name, err)
	}
	f, _ := exact.Float64Val(exact.ToFloat(n))
	return f, nil
}

func (v *values) eval(pkg string, s spec, e ast.Expr) (exact.Value, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if n := exact.MakeFromLiteral(e.Value, e.Kind, 0); n.Kind() == exact.Int || n.Kind() == exact.Float {
			return n, nil
		}
	case *ast.ParenExpr:
		return v.eval(pkg, s, e.X)
	case *ast.CallExpr: // a conversion
		if len(e.Args) == 1 {
			return v.eval(pkg, s, e.Args[0])
		}
	case *ast.Ident:
		if e.Name == "iota" {
			return exact.MakeInt64(int64(s.iota)), nil
		}
		return v.named(pkg, e.Name)
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		if !ok {
			break
		}
		if p := s.imports[x.Name]; p == "time" {
			return timeConstant(e.Sel.Name)
		} else if rel, ok := strings.CutPrefix(p, module+"/"); ok {
			return v.named(rel, e.Sel.Name)
		}
	case *ast.BinaryExpr:
		return v.binary(pkg, s, e)
	}
	return nil, errNotConstant
}

func (v *values) named(pkg, name string) (exact.Value, error) {
	f, err := v.of(pkg, name)
	if err != nil {
		return nil, err
	}
	if f == float64(int64(f)) {
		return exact.MakeInt64(int64(f)), nil
	}
	return exact.MakeFloat64(f), nil
}

func (v *values) binary(pkg string, s spec, e *ast.BinaryExpr) (exact.Value, error) {
	x, err := v.eval(pkg, s, e.X)
	if err != nil {
		return nil, err
	}
	y, err := v.eval(pkg, s, e.Y)
	if err != nil {
		return nil, err
	}
	switch e.Op {
	case token.SHL, token.SHR:
		n, _ := exact.Uint64Val(y)
		return exact.Shift(x, e.Op, uint(n)), nil
	case token.QUO:
		if x.Kind() == exact.Int && y.Kind() == exact.Int && exact.Sign(y) != 0 {
			return exact.BinaryOp(x, token.QUO_ASSIGN, y), nil // of integers
		}
		return nil, errNotConstant
	case token.ADD, token.SUB, token.MUL:
		return exact.BinaryOp(x, e.Op, y), nil
	}
	return nil, errNotConstant
}

func timeConstant(name string) (exact.Value, error) {
	d, ok := map[string]time.Duration{
		"Nanosecond": 1, "Microsecond": time.Microsecond, "Millisecond": time.Millisecond,
		"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour,
	}[name]
	if !ok {
		return nil, errNotConstant
	}
	return exact.MakeInt64(int64(d)), nil
}

// What a table in a package doc says of a constant is what it is worth.
func TestDocTablesTellTheTruth(t *testing.T) {
	root := filepath.Join("..", "..")
	v := newValues(root)
	var docs []string
	for _, p := range []string{"*/doc.go", "*/*/doc.go", "*/*/*/doc.go"} {
		more, err := filepath.Glob(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, more...)
	}
	rows := 0
	for _, doc := range docs {
		f, err := parser.ParseFile(token.NewFileSet(), doc, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(root, filepath.Dir(doc))
		if err != nil {
			t.Fatal(err)
		}
		pkg := filepath.ToSlash(rel)
		for line := range strings.Lines(f.Doc.Text()) {
			m := tableRow.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			if c, err := v.load(pkg); err != nil {
				t.Fatal(err)
			} else if _, ok := c.specs[m[1]]; !ok {
				continue // it is about something else
			}
			rows++
			checkFigure(t, v, pkg, m[1], m[2])
		}
	}
	if rows < 45 {
		t.Errorf("only %d rows: does the test still read them?", rows)
	}
}

func checkFigure(t *testing.T, v *values, pkg, name, said string) {
	t.Helper()
	want, err := parseFigure(said)
	if err != nil {
		t.Errorf("%s.%s: %v", pkg, name, err)
		return
	}
	if got, err := v.of(pkg, name); err != nil {
		t.Error(err)
	} else if got != want {
		t.Errorf("%s.%s is said to be %s, and is %v (%v)", pkg, name, said, got, time.Duration(got))
	}
}

func TestFiguresAreRead(t *testing.T) {
	for text, want := range map[string]float64{
		"500 ms": 5e8, "2.5 s": 2.5e9, "3,600 bytes": 3600, "0x80": 128, "64 KiB": 65536, "30 days": 30 * 24 * 3600e9, "7": 7,
	} {
		if got, err := parseFigure(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "many", "5 fortnights", "s", "0xg", "1..2"} {
		if got, err := parseFigure(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
import "time"
const (
	a = 3 * time.Second / 2
	b = 1 << (2 + iota)
	c
	d = time.Duration(b) * time.Millisecond
	e = "text"
	g = len(e)
	h = 7 / 2 - 1
	z = 1 / (h - 2)
)`, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &constants{specs: map[string]spec{}}
	c.add(f)
	v := newValues(".")
	v.pkgs["x"] = c
	for name, want := range map[string]float64{"a": 1.5e9, "b": 8, "c": 16, "d": 8e6, "h": 2} {
		if got, err := v.of("x", name); err != nil || got != want {
			t.Errorf("%s is %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"e", "z", "nothing"} {
		if got, err := v.of("x", name); err == nil {
			t.Errorf("%s is %v", name, got)
		}
	}
}
