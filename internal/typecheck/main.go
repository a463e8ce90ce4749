package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	ImportMap  map[string]string // where an import is of another package than its path says
	Module     *struct{ GoVersion string }
}

func main() {
	targets := os.Args[1:]
	if len(targets) == 0 {
		fmt.Fprintln(os.Stderr, "usage: typecheck GOOS/GOARCH...")
		os.Exit(2)
	}
	files := newParser()
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, target := range targets {
		wg.Go(func() { errs[i] = checkTarget(files, target) })
	}
	wg.Wait()
	bad := false
	for i, target := range targets {
		if errs[i] == nil {
			fmt.Println("ok", target)
			continue
		}
		bad = true
		fmt.Printf("FAIL %s\n%v\n", target, errs[i])
	}
	if bad {
		os.Exit(1)
	}
}

// checkTarget checks the module of the working directory for a target as "linux/arm64".
func checkTarget(files *parser, target string) error {
	goos, goarch, ok := strings.Cut(target, "/")
	if !ok {
		return errors.New("not of the form GOOS/GOARCH")
	}
	pkgs, err := list(goos, goarch)
	if err != nil {
		return err
	}
	return check(files, pkgs, goarch)
}

// list has all packages of the module, their tests and their dependencies: each after
// those that it imports.
func list(goos, goarch string) ([]*pkg, error) {
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=ImportPath,Dir,GoFiles,ImportMap,Module", "./...")
	cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	var pkgs []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := d.Decode(p); err == io.EOF {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("what go list says: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}
