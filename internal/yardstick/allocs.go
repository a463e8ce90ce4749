package yardstick

import "testing"

// Allocs is testing.AllocsPerRun at the best of some tries. That counts what all
// goroutines allocate: where another one had the processor meanwhile, or a collection of
// garbage has emptied pools, it is not f's. What f allocates itself is in every try.
func Allocs(runs int, f func()) float64 {
	n := testing.AllocsPerRun(runs, f)
	for try := 0; n >= 1 && try < 20; try++ {
		n = min(n, testing.AllocsPerRun(runs, f))
	}
	return n
}
