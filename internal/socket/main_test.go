package socket

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the package if a goroutine of its own outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := ownGoroutines(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// ownGoroutines returns the stacks of goroutines that run code of this
// package, but for the one that asks, once they had time to end.
func ownGoroutines() string {
	var left []string
	for range 50 {
		left = nil
		b := make([]byte, 1<<22)
		b = b[:runtime.Stack(b, true)]
		for i, g := range strings.Split(string(b), "\n\n") {
			if i > 0 && strings.Contains(g, "/internal/socket.") {
				left = append(left, g)
			}
		}
		if left == nil {
			return ""
		}
		time.Sleep(20 * time.Millisecond)
	}
	return strings.Join(left, "\n\n")
}
