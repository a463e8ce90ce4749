package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// build compiles the package's tests with an overlay.
func (p *pkg) build(overlay map[string]string, bin string) error {
	b, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return err
	}
	name := filepath.Join(p.tmp, "overlay.json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", name, "-o", bin, p.path).CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c: %w\n%s", err, out)
	}
	return nil
}

// skip matches the tests that are not run.
var skip string

// test runs the tests with one mutant and says whether they pass.
func (p *pkg) test(bin string, id int, limit time.Duration) (out []byte, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, bin, "-test.short", "-test.failfast", "-test.skip", skip, "-test.timeout", limit.String())
	c.Dir = p.dir
	c.Env = append(os.Environ(), fmt.Sprintf("IDLOC_MUTANT=%d", id))
	out, err := c.CombinedOutput()
	return out, err == nil
}

// run tests the mutants and returns how many the tests have killed.
func (p *pkg) run(ms []*mutant, limit time.Duration) (killed int, err error) {
	bin := filepath.Join(p.tmp, "all.test")
	if err := p.build(p.overlay, bin); err != nil {
		return 0, err
	}
	start := time.Now()
	if out, ok := p.test(bin, 0, 10*time.Minute); !ok {
		return 0, fmt.Errorf("its tests do not pass as it is:\n%s", out)
	}
	limit += 5 * time.Since(start)
	for _, m := range ms {
		with := bin
		if m.file != "" {
			with = filepath.Join(p.tmp, "one.test")
			if err := p.constant(m, with); err != nil {
				killed++ // it does not compile: an array or a case has noticed
				continue
			}
		}
		if _, ok := p.test(with, m.id, limit); ok {
			fmt.Printf("survived: %s: %s (line %d)\n", p.path, m, m.line)
		} else {
			killed++
		}
	}
	return killed, nil
}

// constant builds the tests with another value of a declared constant.
func (p *pkg) constant(m *mutant, bin string) error {
	b, err := os.ReadFile(m.file)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s(%s) %s%s", b[:m.start], b[m.start:m.end], m.change, b[m.end:])
	tmp := filepath.Join(p.tmp, "constant.go")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return p.build(map[string]string{m.file: tmp}, bin)
}
