//go:build linux

package kernellab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	officeHosts = 4
	nodeMemory  = 20 << 20 // what a node takes at most, in bytes
)

// TestOffice has many members behind one NAT join at once. Then the founder is
// killed and started again: all are back within 10 s.
func TestOffice(t *testing.T) {
	if testing.Short() {
		t.Skip("dozens of nodes: not with -short")
	}
	t.Parallel()
	count := *office
	if most := int(available(t) / nodeMemory); count > most {
		t.Logf("memory for %d members, of the %d asked for", most, count)
		if count = most; count < 20 {
			t.Skip("which are too few")
		}
	}
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	l.public("office")
	l.lan("office", "192.168.2")
	l.rules("office", portRestricted)
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Dir: l.dir("earth")})
	var members []*node
	tokens := map[*node]string{}
	for h := range officeHosts {
		space := fmt.Sprint("host", h)
		l.plug(space, "office", "192.168.2", 10+h)
		n := l.start(space, fmt.Sprintf("desk%d-0", h))
		for i := range (count + h) / officeHosts {
			m := n.beside(fmt.Sprintf("desk%d-%d", h, i))
			members = append(members, m)
			tokens[m] = earth.invite(m.label)
		}
	}
	// What is promised is about a restart. To found 200 nodes at once takes some 25 s of
	// processor time, of whatever processors there are.
	joined := together(t, measure(t), 30*time.Second, members, func(n *node, until time.Time) error {
		_, err := n.ask(request{Op: "join", Name: n.label, Token: tokens[n], Dir: l.dir(n.label), Within: time.Until(until)})
		return err
	})
	if t.Failed() {
		return
	}
	l.kill(earth)
	w := measure(t)
	earth = l.start("earth", "earth")
	opened := earth.must(request{Op: "open", Name: "earth", Dir: l.dir("earth")})
	back := together(t, w, 10*time.Second, members, func(n *node, until time.Time) error {
		return n.reach(earth.name, until)
	})
	for _, n := range members {
		if a, err := n.ask(request{Op: "self"}); err != nil || a.Self.Members == 0 {
			t.Errorf("%s is connected to no member: %v", n.label, err)
		}
	}
	t.Logf("%d members behind one NAT: joined after %v; founder killed, open again in %v, all have called it %v after the start",
		len(members), joined, opened.Took.Round(time.Millisecond), back)
}

// available is how much memory there is for more, in bytes.
func available(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Skip("no way to see how much memory there is: ", err)
	}
	_, rest, _ := strings.Cut(string(b), "MemAvailable:")
	kB, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	k, err := strconv.ParseInt(kB, 10, 64)
	if err != nil {
		t.Skip("no way to see how much memory there is: ", err)
	}
	return k << 10
}
