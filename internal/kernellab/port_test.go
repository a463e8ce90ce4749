//go:build linux

package kernellab

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// TestPort443 has members that all use the port of HTTPS, public and behind
// NATs: each dials each.
func TestPort443(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	l.public("moon")
	always(portRestricted)(l, "mars", "")
	always(portRestricted)(l, "venus", "")
	up := map[string]*node{}
	for _, label := range []string{"earth", "moon", "mars", "venus"} {
		q := request{Op: "create", Name: label, Port: 443}
		if label != "earth" {
			q.Op, q.Token = "join", up["earth"].invite(label)
		}
		up[label] = l.start(label, label)
		if a := up[label].must(q); a.Self.Port != 443 {
			t.Fatalf("%s has port %d", label, a.Self.Port)
		}
	}
	took := meet(t, measure(t), 5*time.Second, slices.Collect(maps.Values(up))...)
	for _, from := range up {
		for _, to := range up {
			if from == to {
				continue
			}
			if c := try(from, to, true); c.err != nil || c.kind != "direct" {
				t.Errorf("%s to %s: %q, %v", from.label, to.label, c.kind, c.err)
			}
		}
	}
	t.Logf("all pairs after %v", took)
}
