package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/constant"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// mutant is one change of a package's source.
type mutant struct {
	id         int
	kind       string // what is changed
	where      string // file and function
	text       string // of what is changed, as it stands
	nth        int    // among those that look alike
	line       int
	file       string // of a declared constant, which is compiled anew; else empty
	start, end int    // in file, of its value
	change     string // what is put after it
}

func (m *mutant) String() string {
	s := m.where + ": " + m.kind + ": " + m.text
	if m.nth > 1 {
		s += " #" + strconv.Itoa(m.nth)
	}
	return s
}

// pkg is one package, instrumented so that one binary holds all mutants but
// those of declared constants.
type pkg struct {
	path, dir, tmp string
	overlay        map[string]string // source file to what stands in its place
	mutants        []*mutant
	tests          []oneTest
	seen           map[string]int

	fset *token.FileSet
	info *types.Info
	own  *types.Package
	// Of the file and function under way.
	where   string
	imports map[string]bool
}

// instrument reads a package and writes its instrumented files to a temporary
// folder.
func instrument(path string) (*pkg, error) {
	out, err := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Dir,GoFiles,Export", path).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
	}
	exports := map[string]string{}
	var last listed // go list -deps ends with the package itself
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		exports[l.ImportPath], last = l.Export, l
	}
	p := &pkg{path: path, dir: last.Dir, overlay: map[string]string{}, seen: map[string]int{}, fset: token.NewFileSet(),
		info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}}
	if p.tmp, err = os.MkdirTemp("", "mutate"); err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range last.GoFiles {
		f, err := parser.ParseFile(p.fset, filepath.Join(p.dir, name), nil, 0)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	if p.own, err = conf.Check(last.ImportPath, p.fset, files, p.info); err != nil {
		return nil, err
	}
	for i, f := range files {
		p.file(f)
		var b bytes.Buffer
		if err := format.Node(&b, p.fset, f); err != nil {
			return nil, err
		}
		if err := p.put(last.GoFiles[i], b.Bytes()); err != nil {
			return nil, err
		}
	}
	return p, p.put("zz_mutate.go", fmt.Appendf(nil, helpers, p.own.Name()))
}

func (p *pkg) put(name string, b []byte) error {
	tmp := filepath.Join(p.tmp, name)
	p.overlay[filepath.Join(p.dir, name)] = tmp
	return os.WriteFile(tmp, b, 0o600)
}

func (p *pkg) close() { os.RemoveAll(p.tmp) }

// helpers goes into the package: the one mutant that is on is named by the
// environment; -1 notes which places are reached instead.
const helpers = `package %s

import (
	"cmp"
	"os"
	"strconv"
	"sync"
)

var (
	mutantOn, _ = strconv.Atoi(os.Getenv("IDLOC_MUTANT"))
	mutantSeen  sync.Map
	mutantTrace = sync.OnceValue(func() *os.File {
		f, err := os.OpenFile(os.Getenv("IDLOC_MUTANT_TRACE"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			panic(err)
		}
		return f
	})
)

func mutOn(n int) bool {
	if mutantOn < 0 {
		mutNote(n)
	}
	return mutantOn == n
}

//go:noinline
func mutNote(n int) {
	if _, seen := mutantSeen.LoadOrStore(n, true); !seen {
		mutantTrace().WriteString(strconv.Itoa(n) + "\n")
	}
}

func mutNot(n int, b bool) bool   { return b != mutOn(n) }
func mutFalse(n int, b bool) bool { return !mutOn(n) && b }
func mutTrue(n int, b bool) bool  { return mutOn(n) || b }

type mutInt interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

func mutConst[T mutInt](n int, v T) T {
	if mutOn(n) {
		return v + 1
	}
	return v
}
func mutTwice[T mutInt](n int, v T) T {
	if mutOn(n) {
		return 2 * v
	}
	return v
}
func mutAdd[T mutInt](n int, a, b T) T {
	if mutOn(n) {
		return a - b
	}
	return a + b
}
func mutSub[T mutInt](n int, a, b T) T {
	if mutOn(n) {
		return a + b
	}
	return a - b
}
func mutLss[T cmp.Ordered](n int, a, b T) bool { return a == b && mutOn(n) || a < b }
func mutGtr[T cmp.Ordered](n int, a, b T) bool { return a == b && mutOn(n) || a > b }
func mutLeq[T cmp.Ordered](n int, a, b T) bool { return a < b || a == b && !mutOn(n) }
func mutGeq[T cmp.Ordered](n int, a, b T) bool { return a > b || a == b && !mutOn(n) }
`

// new notes a mutant of n and returns its number as an argument.
func (p *pkg) new(kind string, n ast.Node) ast.Expr {
	var b bytes.Buffer
	_ = format.Node(&b, p.fset, n)
	text, _, _ := strings.Cut(b.String(), "\n")
	m := &mutant{id: len(p.mutants) + 1, kind: kind, where: p.where, text: text, line: p.fset.Position(n.Pos()).Line}
	key := m.String()
	p.seen[key]++
	m.nth = p.seen[key]
	p.mutants = append(p.mutants, m)
	return &ast.BasicLit{Kind: token.INT, Value: strconv.Itoa(m.id)}
}

func call(name string, args ...ast.Expr) ast.Expr {
	return &ast.CallExpr{Fun: ast.NewIdent(name), Args: args}
}

// file instruments the functions and variables of f and notes its constants.
func (p *pkg) file(f *ast.File) {
	name := filepath.Base(p.fset.Position(f.Pos()).Filename)
	p.imports = map[string]bool{}
	for _, i := range f.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		if i.Name == nil {
			p.imports[path] = true
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Body != nil {
				p.where = name + " " + d.Name.Name
				p.node(d.Body)
			}
		case *ast.GenDecl:
			p.where = name
			for _, s := range d.Specs {
				v, ok := s.(*ast.ValueSpec)
				if ok && d.Tok == token.VAR {
					p.node(v)
				} else if ok && d.Tok == token.CONST {
					for i, e := range v.Values {
						if t, ok := p.info.Types[e].Type.Underlying().(*types.Basic); ok && t.Info()&types.IsInteger != 0 {
							change := "+ 1"
							if large(p.info.Types[e].Value) {
								change = "* 2"
							}
							p.new("constant "+v.Names[i].Name+" "+change, e)
							m := p.mutants[len(p.mutants)-1]
							m.change = change
							m.file, m.start, m.end = p.fset.Position(e.Pos()).Filename, p.fset.Position(e.Pos()).Offset, p.fset.Position(e.End()).Offset
						}
					}
				}
			}
		}
	}
}

var (
	exprType  = reflect.TypeFor[ast.Expr]()
	exprsType = reflect.TypeFor[[]ast.Expr]()
	stmtsType = reflect.TypeFor[[]ast.Stmt]()
)

// node instruments what is below n: each expression, and each statement of a
// list.
func (p *pkg) node(n ast.Node) {
	switch n := n.(type) {
	case *ast.GenDecl:
		if n.Tok == token.CONST || n.Tok == token.TYPE {
			return
		}
	case *ast.ArrayType, *ast.FuncType, *ast.StructType, *ast.InterfaceType, *ast.MapType, *ast.SelectorExpr:
		if s, ok := n.(*ast.SelectorExpr); ok {
			p.node(s.X)
		}
		return
	case *ast.KeyValueExpr:
		n.Value = p.expr(n.Value)
		return
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "make" || id.Name == "new" || id.Name == "panic") {
			return
		}
	case *ast.IfStmt:
		guard := n.Else == nil && len(n.Body.List) > 0 && leaves(n.Body.List[len(n.Body.List)-1])
		cond := n.Cond
		ids := []ast.Expr{p.new("condition negated", cond)}
		if guard {
			ids = append(ids, p.new("guard dropped", cond))
		}
		n.Cond = call("mutNot", ids[0], p.expr(cond))
		if guard {
			n.Cond = call("mutFalse", ids[1], n.Cond)
		}
		if n.Init != nil {
			p.node(n.Init)
		}
		p.node(n.Body)
		if n.Else != nil {
			p.node(n.Else)
		}
		return
	}
	v := reflect.ValueOf(n).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		switch x := f.Interface().(type) {
		case ast.Expr:
			if _, assign := n.(*ast.IncDecStmt); f.Type() == exprType && !assign && x != nil {
				f.Set(reflect.ValueOf(p.expr(x)))
			} else if f.Kind() == reflect.Pointer && !f.IsNil() {
				p.node(x)
			}
		case []ast.Expr:
			if v.Type().Field(i).Name != "Lhs" && f.Type() == exprsType {
				for j, e := range x {
					x[j] = p.expr(e)
				}
			}
		case []ast.Stmt:
			if f.Type() == stmtsType {
				for j, s := range x {
					x[j] = p.stmt(s)
				}
			}
		case []ast.Spec:
			for _, s := range x {
				p.node(s)
			}
		case ast.Node:
			if !f.IsNil() && v.Type().Field(i).Name != "Obj" {
				p.node(x)
			}
		}
	}
}

// leaves says whether a statement leaves the block it ends.
func leaves(s ast.Stmt) bool {
	switch s.(type) {
	case *ast.ReturnStmt, *ast.BranchStmt:
		return true
	}
	return false
}

// stmt instruments s, which stands in a list, and makes it one that can be
// dropped.
func (p *pkg) stmt(s ast.Stmt) ast.Stmt {
	drop := false
	switch s := s.(type) {
	case *ast.ExprStmt:
		if c, ok := s.X.(*ast.CallExpr); ok {
			drop = !spared(c)
		}
	case *ast.AssignStmt:
		id, blank := s.Lhs[0].(*ast.Ident)
		drop = s.Tok != token.DEFINE && !(blank && id.Name == "_" && len(s.Lhs) == 1)
	case *ast.IncDecStmt:
		drop = true
	}
	if !drop {
		p.node(s)
		return s
	}
	id := p.new("statement dropped", s)
	p.node(s)
	return &ast.IfStmt{Cond: &ast.UnaryExpr{Op: token.NOT, X: call("mutOn", id)}, Body: &ast.BlockStmt{List: []ast.Stmt{s}}}
}

// spared are calls whose loss tests are not to notice, or only by a deadlock:
// locks, log lines, and panics, without which a function does not end.
func spared(c *ast.CallExpr) bool {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name == "panic" || f.Name == "clear"
	case *ast.SelectorExpr:
		switch f.Sel.Name {
		case "Lock", "Unlock", "RLock", "RUnlock", "Debug", "Info", "Warn", "Error":
			return true
		}
	}
	return false
}

var comparisons = map[token.Token]string{token.LSS: "mutLss", token.GTR: "mutGtr", token.LEQ: "mutLeq", token.GEQ: "mutGeq"}

// expr instruments e and returns what stands in its place.
func (p *pkg) expr(e ast.Expr) ast.Expr {
	tv, ok := p.info.Types[e]
	if !ok || tv.IsType() || tv.IsBuiltin() || tv.IsVoid() {
		if ok && !tv.IsType() {
			p.node(e)
		}
		if _, kv := e.(*ast.KeyValueExpr); kv {
			p.node(e)
		}
		return e
	}
	if tv.Value != nil {
		if name := p.typeName(tv.Type); name != "" {
			f, kind := "mutConst", "constant + 1"
			if large(tv.Value) {
				f, kind = "mutTwice", "constant doubled"
			}
			return &ast.CallExpr{Fun: &ast.IndexExpr{X: ast.NewIdent(f), Index: ast.NewIdent(name)}, Args: []ast.Expr{p.new(kind, e), e}}
		}
		return e
	}
	b, ok := e.(*ast.BinaryExpr)
	if !ok {
		p.node(e)
		return e
	}
	switch b.Op {
	case token.LAND, token.LOR:
		left, right := p.new("left side dropped", b), p.new("right side dropped", b)
		f := "mutTrue"
		if b.Op == token.LOR {
			f = "mutFalse"
		}
		b.X, b.Y = call(f, left, p.expr(b.X)), call(f, right, p.expr(b.Y))
		return b
	case token.EQL, token.NEQ:
		id := p.new("comparison negated", b)
		p.operands(b)
		return call("mutNot", id, b)
	case token.LSS, token.GTR, token.LEQ, token.GEQ:
		id := p.new("comparison shifted", b)
		p.operands(b)
		return call(comparisons[b.Op], id, b.X, b.Y)
	case token.ADD, token.SUB:
		if t, ok := tv.Type.Underlying().(*types.Basic); ok && t.Info()&types.IsInteger != 0 {
			f, id := "mutAdd", p.new("+ for -, or - for +", b)
			if b.Op == token.SUB {
				f = "mutSub"
			}
			p.operands(b)
			return call(f, id, b.X, b.Y)
		}
	case token.SHL, token.SHR:
		b.X = p.expr(b.X)
		return b
	}
	p.operands(b)
	return b
}

func (p *pkg) operands(b *ast.BinaryExpr) { b.X, b.Y = p.expr(b.X), p.expr(b.Y) }

// large says whether one more or less of a constant can be noticed by nobody: it
// is a time in nanoseconds.
func large(v constant.Value) bool {
	n, ok := constant.Int64Val(v)
	return ok && n >= 1e6 && n < 1<<62
}

// typeName is how a file says an integer type, empty if it is none or has no
// name there.
func (p *pkg) typeName(t types.Type) string {
	b, ok := t.Underlying().(*types.Basic)
	if !ok || b.Info()&types.IsInteger == 0 || b.Info()&types.IsUntyped != 0 {
		return ""
	}
	switch t := types.Unalias(t).(type) {
	case *types.Basic:
		return t.Name()
	case *types.Named:
		switch pkg := t.Obj().Pkg(); {
		case pkg == p.own && pkg.Scope().Lookup(t.Obj().Name()) == t.Obj():
			return t.Obj().Name()
		case pkg != nil && p.imports[pkg.Path()]:
			return pkg.Name() + "." + t.Obj().Name()
		}
	}
	return ""
}
