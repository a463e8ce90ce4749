package idloc

import (
	"encoding/json"
	"testing"
	"time"
)

// What pipes have carried is kept for ten days, less close together the longer ago, and no
// byte of it is lost in between.
func TestTrafficKept(t *testing.T) {
	t.Parallel()
	began := time.Unix(1_800_000_000, 0)
	h := newTraffic(began)
	busy, idle := PeerID{1}, PeerID{2}
	var sent uint64
	const days = 12
	now := began
	for range days * 24 * time.Hour / trafficEvery {
		now = now.Add(trafficEvery)
		sent += 1000
		h.add(now, map[PeerID]carriedNow{busy: {sent: sent, received: 7, rtt: time.Millisecond, up: true}, idle: {sent: 5}})
	}
	all := h.all()
	if len(all) != 2 || all[0].Peer != busy || all[1].Peer != idle {
		t.Fatalf("kept: %+v", all)
	}
	points := all[0].Points
	if n := len(points); n < 300 || n > 500 {
		t.Errorf("%d points", n)
	}
	for i, p := range points[1:] {
		before := points[i]
		dt := time.Duration(p.at()-before.at()) * time.Millisecond
		age := now.Sub(time.UnixMilli(p.at()))
		if dt <= 0 || age < 9*time.Minute && dt != trafficEvery || age < 110*time.Minute && dt > time.Minute || age < 23*time.Hour && dt > 10*time.Minute || dt > 2*time.Hour {
			t.Errorf("%v ago two points are %v apart", age, dt)
		}
		if got, want := p[1]-before[1], 1000*uint64(dt/trafficEvery); got != want {
			t.Errorf("%v ago: %d bytes in %v, want %d", age, got, dt, want)
		}
	}
	if oldest := now.Sub(time.UnixMilli(points[0].at())); oldest < 9*24*time.Hour || oldest > 10*24*time.Hour {
		t.Errorf("the oldest point is %v old", oldest)
	}
	if n := len(all[1].Points); n > 3 {
		t.Errorf("%d points of a time in which nothing changed", n)
	}
}

// A clock that is set back takes what would come after it, and peers beyond the bound
// take the place of those without a pipe only.
func TestTrafficBounds(t *testing.T) {
	t.Parallel()
	began := time.Unix(1_800_000_000, 0)
	h := newTraffic(began)
	peer := PeerID{1}
	for i, at := range []time.Duration{10, 20, 30, 5, 15} {
		h.add(began.Add(at*time.Second), map[PeerID]carriedNow{peer: {sent: uint64(i + 1), up: true}})
	}
	b, err := json.Marshal(h.all()[0].Points)
	if want := "[[1800000000000,0,0,0],[1800000005000,4,0,0],[1800000015000,5,0,0]]"; err != nil || string(b) != want {
		t.Errorf("after a clock was set back: %s, %v; want %s", b, err, want)
	}
	many := map[PeerID]carriedNow{}
	for i := range 2 * trafficPeers {
		many[PeerID{2, byte(i), byte(i >> 8)}] = carriedNow{up: i%2 == 0}
	}
	h.add(began.Add(time.Minute), many)
	h.add(began.Add(2*time.Minute), many)
	if n := len(h.all()); n > trafficPeers {
		t.Errorf("%d peers are kept", n)
	}
}

// What the page looks back on begins with the node, and are the newest events.
func TestEventsKept(t *testing.T) {
	t.Parallel()
	h := newHub()
	if got := h.all(); got == nil || len(got) != 0 {
		t.Errorf("of none: %v", got) // [] in JSON
	}
	for n := 1; n <= 2*keptEvents+3; n++ {
		h.publish(Event{})
		got := h.all()
		if len(got) != min(n, keptEvents) || got[len(got)-1].Seq != uint64(n) || got[0].Seq != uint64(n-len(got)+1) {
			t.Fatalf("after %d events: %d, from %d to %d", n, len(got), got[0].Seq, got[len(got)-1].Seq)
		}
	}
}
