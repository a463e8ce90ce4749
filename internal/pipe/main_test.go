package pipe

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if leaked := leaks(); leaked != "" {
			fmt.Fprintln(os.Stderr, "goroutines left:\n"+leaked)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks returns the stacks of goroutines in this package's code, after giving
// them a second to end.
func leaks() string {
	var found []string
	for range 100 {
		buf := make([]byte, 1<<20)
		found = found[:0]
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
			if strings.Contains(g, "internal/pipe.") {
				found = append(found, g)
			}
		}
		if len(found) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return strings.Join(found, "\n\n")
}
