// Package leaktest fails a test binary that leaves goroutines behind. It is
// for TestMain only:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines that were told to end have to do so.
const grace = 10 * time.Second

// Main runs the tests of m and exits. If they passed and goroutines other
// than those the runtime and the listed packages keep for ever are still
// there after ten seconds, it prints their stacks and exits with 1. Each of
// allow is a piece of text in a stack that makes it one to keep, a function
// name with its package.
func Main(m *testing.M, allow ...string) {
	code := m.Run()
	if code == 0 {
		if left := wait(allow); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "leaktest: %d goroutines left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// wait polls until no goroutine is left or the grace is over. Goroutines that
// are about to end offer nothing to wait on, so this is the one place that
// looks again and again.
func wait(allow []string) []string {
	deadline := time.Now().Add(grace)
	for {
		left := running(allow)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func running(allow []string) []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if !kept(g, allow) {
			left = append(left, g)
		}
	}
	return left
}

func kept(stack string, allow []string) bool {
	for _, s := range append([]string{
		"leaktest.Main(",          // this one
		"testing.(*M).startAlarm", // -timeout
		"os/signal.signal_recv",
		"runtime/pprof.profileWriter", // -cpuprofile
	}, allow...) {
		if strings.Contains(stack, s) {
			return true
		}
	}
	return strings.TrimSpace(stack) == ""
}
