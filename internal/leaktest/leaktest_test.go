package leaktest

import (
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// More stacks than the first buffer holds are all seen.
func TestSeesMany(t *testing.T) {
	const many = 5000
	stop := make(chan struct{})
	var began, done sync.WaitGroup
	for range many {
		began.Add(1)
		done.Go(func() { began.Done(); waitFor(stop) })
	}
	began.Wait()
	if n := len(running(func(g string) bool { return strings.Contains(g, "TestSeesMany.func") })); n < many {
		t.Errorf("%d of %d seen", n, many)
	}
	close(stop)
	done.Wait()
}

func TestSeesAGoroutine(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); waitFor(stop) }()
	seen := func() bool {
		return len(running(func(g string) bool {
			return strings.Contains(g, "leaktest.waitFor") && !kept(g, []string{"testing.tRunner", "testing.(*T).Run"})
		})) > 0
	}
	// The goroutine's first frame may not be on its stack yet.
	for !seen() {
		select {
		case <-t.Context().Done():
			t.Fatal("a goroutine that waits was not seen")
		default:
		}
	}
	if left := running(func(g string) bool { return !kept(g, []string{"leaktest.waitFor", "testing."}) }); len(left) > 0 {
		t.Errorf("allowed goroutines are listed: %q", left)
	}
	ours := func(g string) bool { return strings.Contains(g, "leaktest.waitFor") }
	if left := wait(ours, 0); len(left) != 1 {
		t.Errorf("%d goroutines left, want 1: %q", len(left), left)
	}
	if code := check(0, 10*time.Millisecond, ours); code != 1 {
		t.Errorf("exit code %d with a goroutine left", code)
	}
	close(stop)
	<-done
	if code := check(0, grace, ours); code != 0 {
		t.Errorf("exit code %d after the goroutine ended", code)
	}
	if code := check(2, grace, ours); code != 2 {
		t.Errorf("failed tests' exit code becomes %d", code)
	}
}

func waitFor(stop <-chan struct{}) { <-stop }
