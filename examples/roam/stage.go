package main

import (
	"fmt"
	"testing"
)

// stage stands in for the test that a lab belongs to: it ends what was
// started, and an error ends the program's one act.
type stage struct {
	testing.TB // only what idloctest calls is there

	cleanups []func()
	err      error
}

// fatal unwinds run.
type fatal struct{}

// run calls f and then the cleanups, the last first.
func (s *stage) run(f func(*stage) error) (err error) {
	defer func() {
		for i := len(s.cleanups) - 1; i >= 0; i-- {
			s.cleanups[i]()
		}
		if err == nil {
			err = s.err
		}
	}()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(fatal); !ok {
				panic(r)
			}
			err = s.err
		}
	}()
	return f(s)
}

func (s *stage) Helper()                           {}
func (s *stage) Logf(string, ...any)               {}
func (s *stage) Cleanup(f func())                  { s.cleanups = append(s.cleanups, f) }
func (s *stage) Errorf(format string, args ...any) { s.err = fmt.Errorf(format, args...) }
func (s *stage) Fatalf(format string, args ...any) {
	s.err = fmt.Errorf(format, args...)
	panic(fatal{})
}
