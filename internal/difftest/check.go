package difftest

import (
	"fmt"
	"time"
)

// again is how often the kernel is asked whether it does what another world has
// done.
const again = 5

// shrinkFor bounds the search for a smaller program.
const shrinkFor = 5 * time.Second

// Check runs a program elsewhere, where segments are lost or not, and on the
// kernel, and says how what was seen differs; "": not at all. The listing is that
// of the least program found that differs still.
func (p *Program) Check(elsewhere func(*Program) *Transcript, lossy bool) string {
	d := p.check(elsewhere, lossy)
	if d == nil {
		return ""
	}
	until := time.Now().Add(shrinkFor)
	least := p.Shrink(func(less *Program) bool {
		if time.Now().After(until) {
			return false
		}
		found := less.check(elsewhere, lossy)
		if found == nil {
			return false
		}
		d = found
		return true
	})
	return fmt.Sprintf("step %d: %s\n%s", d.step, d.what, least.Listing(d.kernel, d.other))
}

func (p *Program) check(elsewhere func(*Program) *Transcript, lossy bool) (d *difference) {
	t := elsewhere(p)
	for range again {
		if d = p.compare(p.Run(Kernel()), t, lossy); d == nil {
			return nil
		}
	}
	return d
}
