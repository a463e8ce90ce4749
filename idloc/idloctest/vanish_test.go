package idloctest_test

import (
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestFounderVanishes: the founder dies without a word right after two peers
// have come in: they dial each other as if it were there, behind one NAT too.
func TestFounderVanishes(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(*Lab) []NodeOption{
		"public":     func(*Lab) []NodeOption { return nil },
		"one office": func(l *Lab) []NodeOption { return []NodeOption{Behind(l.NAT(PortRestricted))} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			earth := lab.Node("earth", Over(hop))
			opts := append([]NodeOption{Over(hop)}, at(lab)...)
			mars, venus := lab.Node("mars", opts...), lab.Node("venus", opts...)
			echo(t, mars)
			if err := earth.Crash(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := call(t.Context(), venus, mars, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			t.Logf("dialled after %v", time.Since(start).Round(time.Millisecond))
		})
	}
}
