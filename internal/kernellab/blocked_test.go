//go:build linux

package kernellab

import (
	"strings"
	"testing"
	"time"
)

// TestBlockedUDP starts a member behind a router that lets no UDP through. Its
// status says so and names whom it has asked; who wants to join hears where
// nobody answered. Once the router lets UDP through the member is found.
func TestBlockedUDP(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for answers that do not come: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	at := l.public("earth")
	always(portRestricted)(l, "mars", "")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	join := request{Op: "join", Name: "mars", Token: earth.invite("mars"), Dir: l.dir("mars")}
	mars := l.start("mars", "mars")
	mars.must(join)
	l.kill(mars)
	l.rules("box-mars", "table inet wall { chain forward { type filter hook forward priority -1; meta l4proto udp drop; }; }")
	mars = l.start("mars", "mars")
	const promise = 15 * time.Second
	opened, err := mars.ask(request{Op: "open", Name: "mars", Dir: l.dir("mars"), NoLAN: true, Within: promise})
	if err != nil {
		t.Fatal(err)
	}
	other := mars.beside("moon") // which would find mars on its network
	_, err = other.ask(request{Op: "join", Name: "moon", Token: earth.invite("moon"), NoLAN: true, Within: promise})
	if err == nil || !strings.Contains(err.Error(), at) {
		t.Errorf("who wants to join is told %v", err)
	}
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	w := measure(t)
	for self := opened.Self; ; <-tick.C {
		self = mars.must(request{Op: "self"}).Self
		if self.UDP == "silent" && len(self.Probes) > 0 && self.Probes[0].Addr.Addr().String() == at {
			break
		}
		if w.took() > bound(promise) {
			t.Errorf("UDP %q, asked %v", self.UDP, self.Probes)
			break
		}
	}
	l.shell("ip netns exec box-mars nft delete table inet wall")
	took := meet(t, measure(t), promise, earth, mars)
	if self := mars.must(request{Op: "self"}).Self; self.UDP != "works" {
		t.Errorf("UDP %q when it works", self.UDP)
	}
	t.Logf("open after %v; moon is told: %v; met %v after UDP was let through", opened.Took.Round(time.Millisecond), err, took)
}
