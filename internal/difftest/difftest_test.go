package difftest

import (
	"flag"
	"sync"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	programs = flag.Int("programs", 300, "how many")
	seed     = flag.Uint64("seed", 1, "of the first")
)

// The kernel does what the kernel does: programs have no outcomes that are a
// race's without the model's knowing.
func TestKernelBesideItself(t *testing.T) {
	t.Parallel()
	sem := make(chan struct{}, 16)
	var wg sync.WaitGroup
	var taken [ops]int
	for i := range *programs {
		p := Generate(*seed+uint64(i), Options{Exits: i%4 == 0, Crash: i%8 == 0})
		for j := range p.Steps {
			taken[p.Steps[j].Op]++
		}
		wg.Go(func() {
			sem <- struct{}{}
			defer func() { <-sem }()
			if d := p.Check(func(p *Program) *Transcript { return p.Run(Kernel()) }, false); d != "" {
				t.Error(d)
			}
		})
	}
	wg.Wait()
	for op, n := range taken {
		if n == 0 {
			t.Errorf("no program %s", opNames[op])
		}
	}
	t.Log(taken)
}
