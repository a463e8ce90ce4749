package leaktest

import (
	"strings"
	"testing"
)

func TestSeesAGoroutine(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); waitFor(stop) }()
	seen := func() bool {
		for _, g := range running([]string{"testing.tRunner", "testing.(*T).Run"}) {
			if strings.Contains(g, "leaktest.waitFor") {
				return true
			}
		}
		return false
	}
	// The goroutine's first frame may not be on its stack yet.
	for !seen() {
		select {
		case <-t.Context().Done():
			t.Fatal("a goroutine that waits was not seen")
		default:
		}
	}
	if left := running([]string{"leaktest.waitFor", "testing."}); len(left) > 0 {
		t.Errorf("allowed goroutines are listed: %q", left)
	}
	close(stop)
	<-done
}

func waitFor(stop <-chan struct{}) { <-stop }
