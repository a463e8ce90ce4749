package difftest

// Shrink returns a program of as few steps as it finds that fails still.
func (p *Program) Shrink(fails func(*Program) bool) *Program {
	small := p
	for size := len(p.Steps) / 2; size > 0; {
		cut := false
		for at := 0; at < len(small.Steps); {
			less := &Program{Seed: p.Seed, V6: p.V6}
			less.Steps = append(less.Steps, small.Steps[:at]...)
			less.Steps = valid(append(less.Steps, small.Steps[min(at+size, len(small.Steps)):]...))
			if len(less.Steps) < len(small.Steps) && fails(less) {
				small, cut = less, true
			} else {
				at += size
			}
		}
		if !cut || size > len(small.Steps) {
			size /= 2
		}
	}
	return small
}
