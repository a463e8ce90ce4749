package idloctest

import (
	"context"
	"fmt"
	"strings"
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
// Of the testing.TB that f gets these are there: Cleanup, Context, Error, Errorf,
// Fatal, Fatalf, Helper, and Log and Logf, which are silent; all others panic.
// Fatal and Fatalf unwind f, so they must be called on its goroutine. Run then
// ends the context and what was started, the last first, and returns the error of
// f, or else the first that Fatal, Fatalf, Error or Errorf was told.
func Run(f func(testing.TB) error) (err error) {
	p := &program{}
	var end context.CancelFunc
	p.ctx, end = context.WithCancel(context.Background())
	defer func() {
		end()
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

	ctx      context.Context
	cleanups []func()
	err      error
}

// fatal unwinds Run.
type fatal struct{}

func (p *program) Helper()                  {}
func (p *program) Log(...any)               {}
func (p *program) Logf(string, ...any)      {}
func (p *program) Cleanup(f func())         { p.cleanups = append(p.cleanups, f) }
func (p *program) Context() context.Context { return p.ctx }

func (p *program) Error(args ...any) { p.Errorf("%s", text(args)) }
func (p *program) Fatal(args ...any) { p.Fatalf("%s", text(args)) }

// text is what testing makes of the arguments of Error.
func text(args []any) string { return strings.TrimSuffix(fmt.Sprintln(args...), "\n") }

func (p *program) Errorf(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *program) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(fatal{})
}
