package main

import (
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"sync"
)

// parser reads each file once, whatever number of targets has it. Its methods may be
// called concurrently.
type parser struct {
	fset  *token.FileSet
	mu    sync.Mutex
	files map[string]func() (*ast.File, error)
}

func newParser() *parser {
	return &parser{fset: token.NewFileSet(), files: make(map[string]func() (*ast.File, error))}
}

func (p *parser) file(name string) (*ast.File, error) {
	p.mu.Lock()
	parse := p.files[name]
	if parse == nil {
		parse = sync.OnceValues(func() (*ast.File, error) {
			return goparser.ParseFile(p.fset, name, nil, goparser.SkipObjectResolution|goparser.ParseComments)
		})
		p.files[name] = parse
	}
	p.mu.Unlock()
	return parse()
}

// most is how many errors of a target are told.
const most = 20

// check type-checks pkgs in their order.
func check(files *parser, pkgs []*pkg, goarch string) error {
	sizes := types.SizesFor("gc", goarch)
	if sizes == nil {
		return fmt.Errorf("no architecture %q", goarch)
	}
	done := map[string]*types.Package{"unsafe": types.Unsafe}
	var errs []error
	told := make(map[string]bool) // a package and the same with its tests have the same errors
	note := func(err error) {
		if !told[err.Error()] {
			told[err.Error()] = true
			errs = append(errs, err)
		}
	}
	for _, p := range pkgs {
		if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") {
			continue // a test's main function is the go command's, and in no folder
		}
		var sources []*ast.File
		for _, name := range p.GoFiles {
			f, err := files.file(filepath.Join(p.Dir, name))
			if err != nil {
				note(err)
				continue
			}
			sources = append(sources, f)
		}
		config := types.Config{
			Sizes:    sizes,
			Error:    note,
			Importer: imports{p, done},
		}
		if p.Module != nil && p.Module.GoVersion != "" {
			config.GoVersion = "go" + p.Module.GoVersion
		}
		path, _, _ := strings.Cut(p.ImportPath, " ") // "p [p.test]": p, as its tests want it
		done[p.ImportPath], _ = config.Check(path, files.fset, sources, nil)
		if len(errs) >= most {
			break
		}
	}
	return errors.Join(errs...)
}

// imports finds what a package imports among those that are done.
type imports struct {
	p    *pkg
	done map[string]*types.Package
}

func (i imports) Import(path string) (*types.Package, error) {
	if mapped, ok := i.p.ImportMap[path]; ok {
		path = mapped
	}
	if p := i.done[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s is not among the dependencies of %s", path, i.p.ImportPath)
}
