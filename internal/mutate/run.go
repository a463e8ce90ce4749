package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// oneTest is one test of the package: how long it takes, and which mutants it
// reaches.
type oneTest struct {
	name    string
	took    time.Duration
	reaches map[int]bool
}

// trace runs each test alone, without a mutant, and orders them by the time they
// take.
func (p *pkg) trace(bin string) error {
	list := exec.Command(bin, "-test.list", "^(Test|Fuzz|Example)")
	list.Dir = p.dir
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("its tests cannot be listed: %w", err)
	}
	skipped, err := regexp.Compile(skip)
	if err != nil {
		return err
	}
	file := filepath.Join(p.tmp, "trace")
	for _, name := range strings.Fields(string(out)) {
		if !regexp.MustCompile(`^(Test|Fuzz|Example)`).MatchString(name) || skip != "" && skipped.MatchString(name) {
			continue
		}
		t := oneTest{name: name, reaches: map[int]bool{}}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
		start := time.Now()
		if out, ok := p.test(bin, -1, 5*time.Minute, t); !ok {
			return fmt.Errorf("%s does not pass as it is:\n%s", name, out)
		}
		t.took = time.Since(start)
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, id := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(id)
			if err != nil {
				return err
			}
			t.reaches[n] = true
		}
		p.tests = append(p.tests, t)
	}
	slices.SortStableFunc(p.tests, func(a, b oneTest) int { return int(a.took - b.took) })
	return nil
}

// skip matches the tests that are not run; through runs them, if it is set, like
// go test -exec.
var skip, through string

// test runs some tests with one mutant and says whether they pass.
func (p *pkg) test(bin string, id int, limit time.Duration, tests ...oneTest) (out []byte, ok bool) {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
		limit += 5 * t.took
	}
	grace := 5 * time.Second
	args := []string{bin}
	if through != "" {
		grace = 15 * time.Minute // it may wait for its turn
		args = append(strings.Fields(through), bin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit+grace)
	defer cancel()
	args = append(args, "-test.short", "-test.failfast", "-test.run", "^("+strings.Join(names, "|")+")$",
		"-test.skip", skip, "-test.timeout", limit.String())
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = p.dir
	c.Env = append(os.Environ(), fmt.Sprintf("IDLOC_MUTANT=%d", id), "IDLOC_MUTANT_TRACE="+filepath.Join(p.tmp, "trace"))
	out, err := c.CombinedOutput()
	return out, err == nil
}

// reaching returns the tests that reach m, the quick ones first. Of a declared
// constant nobody knows.
func (p *pkg) reaching(m *mutant) (tests []oneTest) {
	for _, t := range p.tests {
		if m.file != "" || t.reaches[m.id] {
			tests = append(tests, t)
		}
	}
	return tests
}

// survives says whether no test finds m: the quick tests are asked first.
func (p *pkg) survives(bin string, m *mutant, limit time.Duration) bool {
	tests := p.reaching(m)
	for budget := time.Second; len(tests) > 0; budget *= 4 {
		n, sum := 1, tests[0].took
		for n < len(tests) && sum+tests[n].took < budget {
			sum += tests[n].took
			n++
		}
		if _, ok := p.test(bin, m.id, limit, tests[:n]...); !ok {
			return false
		}
		tests = tests[n:]
	}
	return true
}

// run tests the mutants and returns how many the tests have killed.
func (p *pkg) run(ms []*mutant, limit time.Duration, dry bool) (killed int, err error) {
	bin := filepath.Join(p.tmp, "all.test")
	if err := p.build(p.overlay, bin); err != nil {
		return 0, err
	}
	if err := p.trace(bin); err != nil {
		return 0, err
	}
	for _, m := range ms {
		if len(p.reaching(m)) == 0 {
			fmt.Printf("not reached: %s: %s (line %d)\n", p.path, m, m.line)
			continue
		}
		if dry {
			continue
		}
		with := bin
		if m.file != "" {
			with = filepath.Join(p.tmp, "one.test")
			if err := p.constant(m, with); err != nil {
				killed++ // it does not compile: an array or a case has noticed
				continue
			}
		}
		if p.survives(with, m, limit) {
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
