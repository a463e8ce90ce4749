package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	seed := flag.Uint64("seed", 1, "of the sample")
	n := flag.Int("n", 60, "mutants sampled of each package; 0: all")
	limit := flag.Duration("timeout", 20*time.Second, "for the tests of one mutant, beyond five times what they take alone without one")
	only := flag.String("only", "", "mutants whose description contains this")
	flag.StringVar(&skip, "skip", "Alloc", "tests that are not run, as a regular expression: what is instrumented is inlined less, and allocates more")
	flag.StringVar(&through, "exec", "", "program that runs the tests, as for go test: one that waits for a quiet machine, say")
	list := flag.Bool("list", false, "list the mutants and run nothing")
	reach := flag.Bool("reach", false, "list the mutants that no test reaches, and try none of the others")
	known := flag.String("equivalent", "internal/mutate/equivalent.txt", "mutants that no test can kill, and why")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("usage: go run ./internal/mutate [flags] ./package...")
	}
	equivalent, err := readEquivalents(*known)
	if err != nil {
		log.Fatal(err)
	}
	const row = "%-30s %8v %8v %10v %7v %6v\n"
	fmt.Printf(row, "package", "mutants", "sampled", "equivalent", "killed", "score")
	for _, path := range flag.Args() {
		p, err := instrument(path)
		if err != nil {
			log.Fatalf("%s: %v", path, err)
		}
		var chosen []*mutant
		for _, m := range p.mutants {
			if strings.Contains(m.String(), *only) {
				chosen = append(chosen, m)
			}
		}
		all := len(chosen)
		rand.New(rand.NewPCG(*seed, 0)).Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		if *n > 0 && len(chosen) > *n {
			chosen = chosen[:*n]
		}
		sampled, same := len(chosen), 0
		kept := chosen[:0]
		for _, m := range chosen {
			if equivalent[m.String()] {
				same++
			} else {
				kept = append(kept, m)
			}
		}
		if *list {
			for _, m := range kept {
				fmt.Printf("%s (line %d)\n", m, m.line)
			}
			continue
		}
		killed, err := p.run(kept, *limit, *reach)
		if err != nil {
			log.Fatalf("%s: %v", path, err)
		}
		if *reach {
			p.close()
			continue
		}
		score := 100.0
		if len(kept) > 0 {
			score = 100 * float64(killed) / float64(len(kept))
		}
		fmt.Printf(row, path, all, sampled, same, killed, fmt.Sprintf("%.0f %%", score))
		p.close()
	}
}

// readEquivalents reads lines "mutant — reason"; what begins with # is a comment.
func readEquivalents(name string) (map[string]bool, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	set := map[string]bool{}
	for i, l := range strings.Split(string(b), "\n") {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		m, why, ok := strings.Cut(l, " — ")
		if !ok || why == "" {
			return nil, fmt.Errorf("%s:%d: no reason", name, i+1)
		}
		set[m] = true
	}
	return set, nil
}
