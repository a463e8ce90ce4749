// Package leaktest fails a test binary that leaves goroutines behind. It is
// for TestMain only:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
//
// Own is for packages whose tests run libraries that leave some of theirs.
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
	os.Exit(check(m.Run(), grace, func(g string) bool { return !kept(g, allow) }))
}

// Own is Main for the goroutines alone whose stacks have text in them: the
// path of a package and what follows it there, "/internal/socket.".
func Own(m *testing.M, text string) {
	os.Exit(check(m.Run(), grace, func(g string) bool { return strings.Contains(g, text) && !kept(g, nil) }))
}

// check returns the exit code of tests that ended with code.
func check(code int, grace time.Duration, ours func(stack string) bool) int {
	if code != 0 {
		return code
	}
	left := wait(ours, grace)
	if len(left) == 0 {
		return 0
	}
	fmt.Fprintf(os.Stderr, "leaktest: %d goroutines left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
	return 1
}

// wait polls until none of our goroutines is left or the grace is over. Those that
// are about to end offer nothing to wait on, so this is the one place that
// looks again and again.
func wait(ours func(stack string) bool, grace time.Duration) []string {
	deadline := time.Now().Add(grace)
	for {
		left := running(ours)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func running(ours func(stack string) bool) []string {
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
		if ours(g) {
			left = append(left, g)
		}
	}
	return left
}

func kept(stack string, allow []string) bool {
	for _, s := range append([]string{
		"leaktest.Main(", // these ask
		"leaktest.Own(",
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
