package difftest

import "math/rand/v2"

// Options say what kind of programs Generate makes.
type Options struct {
	Steps int  // tried; 0: 100. A part of them can be taken.
	Exits bool // a side's process may end
	Crash bool // and does so by a crash
}

// weights say how often each Op is tried.
var weights = [ops]int{
	Listen: 2, CloseListener: 1, AcceptPast: 1, AcceptClosed: 1, Dial: 6, Accept: 6, Tight: 8,
	Write: 14, ReadFrom: 2, WritePast: 1, WriteFail: 10, Read: 14, ReadEnd: 10, ReadAgain: 3, ReadPast: 2, ReadSoon: 1,
	BeginRead: 4, BeginWrite: 16, CutRead: 2, CutWrite: 8, CloseWrite: 5, CloseRead: 3, Linger: 4, Close: 6,
}

const (
	generatedConns     = 3
	generatedListeners = 2
)

// Generate makes the program of a seed.
func Generate(seed uint64, o Options) *Program {
	r := rand.New(rand.NewPCG(seed, 20))
	if o.Steps == 0 {
		o.Steps = 100
	}
	p := &Program{Seed: seed, V6: r.IntN(2) == 0}
	at := r.IntN(2) // who listens first
	steps := []Step{
		{Op: Listen, Side: at}, {Op: Dial, Side: 1 - at}, {Op: Accept, Side: at},
	}
	exit := Exit
	if o.Crash {
		exit = Crash
	}
	total := 0
	for _, w := range weights {
		total += w
	}
	for range o.Steps {
		s := random(r, total)
		if s.Op == Close && r.IntN(2) == 0 && o.Exits {
			s = Step{Op: exit, Side: r.IntN(2)}
			o.Exits = false
		}
		steps = append(steps, s)
	}
	if o.Exits {
		steps = append(steps, Step{Op: exit, Side: r.IntN(2)})
	}
	p.Steps = valid(append(steps, epilogue(r.IntN(2))...))
	return p
}

// random makes one step, whether it can be taken or not.
func random(r *rand.Rand, total int) Step {
	var op Op
	for n := r.IntN(total); n >= weights[op]; op++ {
		n -= weights[op]
	}
	s := Step{Op: op, Side: r.IntN(2), Lis: r.IntN(generatedListeners), Conn: r.IntN(generatedConns)}
	if r.IntN(2) == 0 { // most of it happens on one connection
		s.Conn = 0
	}
	switch op {
	case Write, ReadFrom, Read, BeginRead:
		switch r.IntN(4) {
		case 0:
			s.N = r.IntN(20)
		case 1, 2:
			s.N = r.IntN(1000)
		case 3:
			s.N = r.IntN(30_000)
		}
	case BeginWrite:
		s.N = bigWrite + r.IntN(1000)
	case Linger:
		s.N = r.IntN(3) - 1
	}
	return s
}

// epilogue looks at what is left of each connection from both sides.
func epilogue(first int) (steps []Step) {
	for c := range generatedConns {
		for _, side := range []int{first, 1 - first} {
			for _, op := range []Op{CutRead, ReadEnd, CutWrite, WriteFail} {
				steps = append(steps, Step{Op: op, Side: side, Conn: c})
			}
		}
		for _, s := range []Step{
			{Op: CloseWrite, Side: first}, {Op: ReadEnd, Side: 1 - first}, {Op: ReadAgain, Side: 1 - first},
			{Op: CloseWrite, Side: 1 - first}, {Op: ReadEnd, Side: first}, {Op: ReadAgain, Side: first},
			{Op: Close, Side: first}, {Op: ReadEnd, Side: 1 - first}, {Op: WriteFail, Side: 1 - first}, {Op: Close, Side: 1 - first},
		} {
			s.Conn = c
			steps = append(steps, s)
		}
	}
	return steps
}
