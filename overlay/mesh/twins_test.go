package mesh

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Who is heard of with a lower start number than before runs beside that; what may be
// late is no sign of it.
func TestTwins(t *testing.T) {
	begin := time.Now()
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	type hello struct {
		start      uint64
		asked, now int // asked: -1 is not
		news       bool
	}
	for what, hellos := range map[string][]hello{
		"one process":                          {{5, -1, 0, false}, {5, 1, 2, false}, {5, -1, 100, false}},
		"a restart":                            {{5, -1, 0, false}, {6, -1, 10, false}, {6, 11, 12, false}},
		"a hello that was late":                {{5, -1, 0, false}, {6, -1, 10, false}, {5, -1, 12, false}},
		"one that was asked for before":        {{6, -1, 10, false}, {5, 9, 12, false}},
		"one that was asked for":               {{6, -1, 10, false}, {5, 11, 12, true}},
		"one that came too late to be late":    {{6, -1, 0, false}, {5, -1, 30, true}},
		"a higher one, and then the first":     {{5, -1, 0, false}, {6, -1, 10, false}, {5, 11, 12, true}, {6, 13, 14, false}},
		"what was said is not said again soon": {{6, -1, 0, false}, {5, 11, 12, true}, {5, 13, 14, false}, {5, 15, 16 + 3600, true}},
	} {
		w, p := newTwins(), peer.ID("p")
		met := false
		for i, h := range hellos {
			var asked time.Time
			if h.asked >= 0 {
				asked = at(h.asked)
			}
			if news := w.hear(p, h.start, asked, at(h.now)); news != h.news {
				t.Errorf("%s: hello %d: %v", what, i, news)
			}
			met = met || h.news
			if w.met(p, at(h.now)) != met || w.met("q", at(h.now)) {
				t.Errorf("%s: hello %d: met %v", what, i, !met)
			}
		}
		if w.met(p, at(3*3600)) {
			t.Errorf("%s: it is said for longer than it is known", what)
		}
	}
}

// TestTwoNodesOfOneKey: a copied directory runs beside the one that it was copied from.
// Who is connected to both says so, and one of the two at least hears it.
func TestTwoNodesOfOneKey(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	earth, mars := f.launch(), f.quiet()
	chain := f.chain(mars.id)
	copied := f.quietWith(mars.key)
	for start, s := range map[uint64]*ship{100: mars, 200: copied} {
		s.say(Hello{Chain: chain, Seconds: 1700000000, Start: start})
		s.Start()
	}
	mars.meet(earth)
	if _, err := copied.Connect(t.Context(), earth.info()); err != nil {
		t.Fatal(err)
	}
	await(t, "two connections", func() bool { return len(earth.Host().Network().ConnsToPeer(mars.peer())) == 2 })
	await(t, "that one has answered which is older than the other is said", func() bool {
		for _, c := range earth.Host().Network().ConnsToPeer(mars.peer()) {
			earth.gate.greet(c) // may be too slow once
		}
		return earth.warned("two nodes run with one key")
	})
	await(t, "that one of the two is told", func() bool {
		for _, c := range earth.Host().Network().ConnsToPeer(mars.peer()) {
			earth.gate.greet(c)
		}
		return mars.warned("another node runs with this node's key") || copied.warned("another node runs with this node's key")
	})
	// One that is alone is told nothing of the kind.
	venus := f.launch()
	venus.meet(earth)
	for _, c := range earth.Host().Network().ConnsToPeer(venus.peer()) {
		earth.gate.greet(c)
	}
	if venus.warned("key") || earth.warned(venus.peer().String()) {
		t.Error("venus is alone")
	}
}
