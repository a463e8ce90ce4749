package idloctest

import (
	"fmt"
	"testing"
)

// Run calls f outside a test, for programs that show something on a
// simulated network:
//
//	err := idloctest.Run(func(t testing.TB) error {
//		lab := idloctest.New(t)
//		…
//	})
//
// Of the testing.TB that f gets only what this package calls is there:
// Cleanup, Errorf, Fatalf, Helper and Logf, the last of which is silent.
// Fatalf unwinds f, so it must be called on its goroutine. Run then ends what
// was started, the last first, and returns the error of f, or else what
// Fatalf or Errorf said last.
func Run(f func(testing.TB) error) (err error) {
	p := &program{}
	defer func() {
		for i := len(p.cleanups) - 1; i >= 0; i-- {
			p.cleanups[i]()
		}
		if err == nil {
			err = p.err
		}
	}()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(fatal); !ok {
				panic(r)
			}
			err = p.err
		}
	}()
	return f(p)
}

// program stands in for the test that a lab belongs to.
type program struct {
	testing.TB // nil: what is not below panics

	cleanups []func()
	err      error
}

// fatal unwinds Run.
type fatal struct{}

func (p *program) Helper()             {}
func (p *program) Logf(string, ...any) {}
func (p *program) Cleanup(f func())    { p.cleanups = append(p.cleanups, f) }

func (p *program) Errorf(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *program) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(fatal{})
}
