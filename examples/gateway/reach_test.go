package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// running is a gateway whose output is read as it comes.
type running struct {
	lines chan string // closed when it has ended
	said  []string
}

func begin(t *testing.T, cmd, dir string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := process(ctx, append([]string{cmd, "-dir", dir, "-addr", "127.0.0.1", "-socks", "", "-http", "", "-page", ""}, args...)...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 2 * time.Minute // for one that does not end; how soon is not the point
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{lines: make(chan string, 1000)}
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		for l := range r.lines {
			r.said = append(r.said, l)
		}
		_ = c.Wait()
		if t.Failed() {
			t.Logf("gateway %s said\n%s", cmd, strings.Join(r.said, "\n"))
		}
	})
	return r
}

// until reads on until a line with all of the words has come, and returns it.
func (r *running) until(t *testing.T, words ...string) string {
	t.Helper()
next:
	for l := range r.lines {
		r.said = append(r.said, l)
		for _, w := range words {
			if !strings.Contains(l, w) {
				continue next
			}
		}
		return l
	}
	t.Fatalf("ended without %q", words)
	return ""
}

// TestReach: a gateway that reaches nobody says so and why, in what it prints
// and to who asks, before it has given up waiting and after; and it says when it
// has reached somebody.
func TestReach(t *testing.T) {
	t.Parallel()
	earth := up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	token := must(t)(tell(t, earth.dir, "invite", "mars"))
	mars := up(t, t.TempDir(), "join", token)
	if out := must(t)(tell(t, mars.dir, "status")); strings.Contains(out, "alone") {
		t.Errorf("beside earth: %s", out)
	}
	mars.stop()
	earth.stop()

	r := begin(t, "run", mars.dir)
	r.until(t, "resuming")
	for { // until the socket is there
		out, err := tell(t, mars.dir, "status")
		if err != nil && strings.Contains(out, "no gateway runs") {
			continue
		}
		if err == nil || !strings.Contains(out, "has not entered the overlay yet; begun") {
			t.Errorf("asked while it enters: %v, %s", err, out)
		}
		break
	}
	r.until(t, "waiting for a member to answer: no answer yet from 127.0.0.1:")
	r.until(t, "mars.example.com is up, but alone")
	r.until(t, "no member is reached: ", "127.0.0.1") // whom it tried, and where
	if l := r.until(t, "ready"); !strings.Contains(l, "but alone") {
		t.Errorf("reaches nobody: %s", l)
	}
	for _, l := range r.said {
		if strings.Contains(l, "stands in the database") {
			t.Errorf("nobody can have told: %s", l)
		}
	}
	out := must(t)(tell(t, mars.dir, "status"))
	if !strings.Contains(out, "alone: no member is reached") || !strings.Contains(out, "members connected: 0") {
		t.Errorf("status: %s", out)
	}
	var st idloc.Status
	if err := json.Unmarshal([]byte(must(t)(tell(t, mars.dir, "status", "-json"))), &st); err != nil || !st.Self.Alone || st.Self.AloneWhy == "" {
		t.Errorf("status -json: %v, %+v", err, st.Self)
	}

	up(t, earth.dir, "run")
	r.until(t, "earth.example.com is reached at 127.0.0.1:", "no longer alone")
	if out := must(t)(tell(t, mars.dir, "status")); strings.Contains(out, "alone") {
		t.Errorf("beside earth again: %s", out)
	}
}

// A founder that nobody has joined yet is not alone: there is nobody to reach.
func TestReachOfAFounder(t *testing.T) {
	t.Parallel()
	earth := up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	said := strings.Join(earth.lines, "\n")
	if strings.Contains(said, "alone") || !strings.Contains(said, "ready; no member has entered") {
		t.Errorf("%s", said)
	}
}
