//go:build linux

package kernellab

import (
	"testing"
	"time"
)

// TestJumbo has two hosts with jumbo frames and one without on a network whose
// switch drops what is too long for a link, and says nothing: the pipe between the
// two sends datagrams as long as a frame, and none is lost to the third for it.
func TestJumbo(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for packets that do not come: not with -short")
	}
	t.Parallel()
	needs(t, "ethtool", "ethtool")
	if !inside(t) {
		return
	}
	l := newLab(t)
	for _, space := range []string{"earth", "mars", "venus"} {
		l.public(space)
		l.unload(space, "ext") // else frames are as long as the kernel likes
	}
	l.frames("earth", 9000)
	l.frames("mars", 9000)
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	mars, venus := l.join(earth, "mars"), l.join(earth, "venus")
	limit := patience(10 * time.Second)
	for _, c := range []struct {
		a, b *node
		want string
	}{{earth, mars, "8972"}, {mars, earth, "8972"}, {earth, venus, "1472"}, {venus, mars, "1472"}} {
		c.a.must(request{Op: "bulk", Name: c.b.name, Bytes: 4e6, Within: limit})
		got := ""
		for end := time.Now().Add(limit); got != c.want && time.Now().Before(end); {
			if got = c.a.must(request{Op: "mtu", Name: c.b.name}).Text; got != c.want {
				c.a.must(request{Op: "call", Name: c.b.name, Within: limit})
			}
		}
		if got != c.want {
			t.Errorf("%s sends datagrams of up to %s bytes to %s, want %s", c.a.label, got, c.b.label, c.want)
		}
		c.a.must(request{Op: "bulk", Name: c.b.name, Bytes: 4e6, Within: limit})
		t.Logf("%s to %s: %s", c.a.label, c.b.label, got)
	}
}
