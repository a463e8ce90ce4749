package offers

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/p2p"
)

const latency = 10 * time.Millisecond

// TestDirect: who is connected is asked itself, and nobody else.
func TestDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, venus)
		w.connect(pluto, mars)
		w.connect(mars, venus)
		pluto.hints[venus.id] = []peerid.ID{mars.id}
		s, via, err := pluto.deliver(venus)
		if err != nil || !via.IsZero() || s.Peer() != venus.id {
			t.Fatalf("via %v, %v", via, err)
		}
		if took := time.Since(w.begun); took != 2*latency {
			t.Errorf("took %v", took)
		}
		if !slices.Equal(pluto.asked, []string{"venus"}) {
			t.Errorf("asked %v", pluto.asked)
		}
		if e := pluto.events; len(e) != 2 || e[0].Kind != event.OfferSent || e[1].Kind != event.AnswerReceived || e[1].Duration != 2*latency {
			t.Errorf("events %+v", e)
		}
	})
}

// TestStagger: the second way is tried after 300 ms of silence, each other one
// 500 ms later, and at once when one has failed; where the pipe is dead, all
// after 50 ms.
func TestStagger(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		dead   bool
		silent int // how many say nothing; the next one delivers
		fails  int // how many are not connected to the target, before those
		want   []time.Duration
	}{
		{"the first delivers", false, 0, 0, []time.Duration{0}},
		{"one is silent", false, 1, 0, []time.Duration{0, 300 * time.Millisecond}},
		{"two are", false, 2, 0, []time.Duration{0, 300 * time.Millisecond, 800 * time.Millisecond}},
		{"one says no", false, 0, 1, []time.Duration{0, 2 * latency}},
		{"no, then silence", false, 1, 1, []time.Duration{0, 2 * latency, 2*latency + 500*time.Millisecond}},
		{"a dead pipe", true, 2, 0, []time.Duration{0, 50 * time.Millisecond, 100 * time.Millisecond}},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, latency)
				venus, pluto := w.add("venus", 1), w.add("pluto", 1)
				pluto.dead[venus.id] = tt.dead
				for i := range tt.fails + tt.silent + 1 {
					m := w.add(string(rune('a'+i)), 1)
					w.connect(pluto, m)
					if m.silent = i >= tt.fails && i < tt.fails+tt.silent; i >= tt.fails {
						w.connect(m, venus)
					}
					pluto.hints[venus.id] = append(pluto.hints[venus.id], m.id)
				}
				if _, _, err := pluto.deliver(venus); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(pluto.at, tt.want) {
					t.Errorf("asked at %v, want %v", pluto.at, tt.want)
				}
			})
		})
	}
}

// TestOrder: ways come in the order that findWays says, each member once, and no
// more than waysMax of them.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		ids := map[string]*peer{}
		for _, name := range []string{"hinted", "far hint", "contact", "server", "near", "stranger"} {
			m := w.add(name, 1)
			ids[name] = m
			w.dials[link{pluto.id, m.id}] = true
		}
		ids["stranger"].member.Invitation[0] = 2
		w.connect(pluto, ids["hinted"])
		w.connect(pluto, ids["server"])
		w.connect(pluto, ids["stranger"])
		pluto.hints[venus.id] = []peerid.ID{ids["far hint"].id, ids["hinted"].id}
		pluto.contacts[venus.id] = []peerid.ID{ids["hinted"].id, ids["contact"].id}
		pluto.servers = []peerid.ID{ids["server"].id}
		pluto.nearest = []peerid.ID{ids["server"].id, ids["near"].id}
		w.dials[link{pluto.id, venus.id}] = false
		_, _, err := pluto.deliver(venus)
		var offline *OfflineError
		if !errors.As(err, &offline) || offline.Members != 6 || !errors.Is(err, ErrNotHere) {
			t.Errorf("%v", err)
		}
		if want := []string{"hinted", "far hint", "contact", "stranger", "server", "near"}; !slices.Equal(pluto.asked, want) {
			t.Errorf("asked %q, want %q", pluto.asked, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		for i := range 2 * waysMax {
			m := w.add(string(rune('a'+i)), 1)
			w.connect(pluto, m)
			pluto.hints[venus.id] = append(pluto.hints[venus.id], m.id)
		}
		if _, _, err := pluto.deliver(venus); err == nil || len(pluto.asked) != waysMax {
			t.Errorf("%d ways, %v", len(pluto.asked), err)
		}
	})
}

// TestServersFirst: who has no hint asks the two servers nearest the target, and
// after the first of them the target itself, where it is known to be.
func TestServersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		for _, name := range []string{"a", "b", "c"} {
			m := w.add(name, 1)
			w.connect(pluto, m)
			pluto.servers = append(pluto.servers, m.id)
		}
		w.dials[link{pluto.id, venus.id}] = true
		if _, via, err := pluto.deliver(venus); err != nil || !via.IsZero() {
			t.Errorf("via %v, %v", via, err)
		}
		near := slices.Clone(pluto.servers)
		slices.SortFunc(near, func(a, b peerid.ID) int { return p2p.Compare(a, b, venus.id) })
		name := func(id peerid.ID) string { return w.peers[id].member.Label }
		// The second server may be asked while the target is connected to.
		if len(pluto.asked) < 2 || pluto.asked[0] != name(near[0]) || !slices.Contains(pluto.asked, "venus") || slices.Contains(pluto.asked, name(near[2])) {
			t.Errorf("asked %q; nearest is %s, farthest %s", pluto.asked, name(near[0]), name(near[2]))
		}
	})
}

// TestSilence: an offer that nobody answers goes out again until Patience is
// over, and the members that said nothing are suspected.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		w.connect(mars, venus)
		mars.silent = true
		pluto.hints[venus.id] = []peerid.ID{mars.id}
		_, _, err := pluto.deliver(venus)
		// The last round ends while mars is still asked: that is no news of venus.
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "no answer from the 1 member asked for it" {
			t.Errorf("%v", err)
		}
		if took := time.Since(w.begun); took != Patience {
			t.Errorf("gave up after %v", took)
		}
		if want := []time.Duration{0, wayTimeout, 2 * wayTimeout}; !slices.Equal(pluto.at, want) {
			t.Errorf("asked at %v, want %v", pluto.at, want)
		}
		if want := []peerid.ID{mars.id, mars.id, mars.id}; !slices.Equal(pluto.suspects, want) {
			t.Errorf("suspected %v", pluto.suspects)
		}
	})
}

// TestOnce: DeliverOnce does not try again.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		mars.silent = true
		pluto.hints[venus.id] = []peerid.ID{mars.id}
		if _, _, err := pluto.DeliverOnce(t.Context(), venus.id, pluto.offer(venus)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(w.begun); took != wayTimeout || len(pluto.asked) != 1 {
			t.Errorf("asked %d times in %v", len(pluto.asked), took)
		}
	})
}

// TestLateAnswer: a way that is slow is not given up because another was begun.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 600*time.Millisecond)
		venus, mars, earth, pluto := w.add("venus", 1), w.add("mars", 1), w.add("earth", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		w.connect(pluto, earth)
		w.connect(mars, venus)
		w.connect(earth, venus)
		earth.silent = true
		pluto.hints[venus.id] = []peerid.ID{mars.id, earth.id}
		if _, via, err := pluto.deliver(venus); err != nil || via != mars.id {
			t.Errorf("via %v, %v", via, err)
		}
		// Out by two links and back, within wayTimeout.
		if took := time.Since(w.begun); took != 4*600*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// TestConnectionEnds: a way whose connection ends, or is replaced by a newer one,
// is tried again, four times at most.
func TestConnectionEnds(t *testing.T) {
	for _, tt := range []struct {
		desc  string
		sever func(w *world, pluto, mars *peer)
		times int // that it breaks
		ok    bool
	}{
		{"replaced once", func(w *world, a, b *peer) { w.connect(a, b) }, 1, true},
		{"replaced thrice", func(w *world, a, b *peer) { w.connect(a, b) }, 3, true},
		{"replaced each time", func(w *world, a, b *peer) { w.connect(a, b) }, 100, false},
		{"cut once", func(w *world, a, b *peer) { w.cut(a, b) }, 1, true},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, latency)
				venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
				w.connect(pluto, mars)
				w.connect(mars, venus)
				w.dials[link{pluto.id, mars.id}] = true
				pluto.hints[venus.id] = []peerid.ID{mars.id}
				pluto.onAsk = func(n int) {
					if n <= tt.times {
						time.AfterFunc(latency/2, func() { tt.sever(w, pluto, mars) })
					}
				}
				_, _, err := pluto.deliver(venus)
				if (err == nil) != tt.ok {
					t.Errorf("%v", err)
				}
				if want := min(tt.times+1, resends); len(pluto.asked) != want {
					t.Errorf("asked %d times, want %d", len(pluto.asked), want)
				}
			})
		})
	}
}

// TestCancelled: a delivery ends with its context, at once, and says so.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		mars.silent = true
		pluto.hints[venus.id] = []peerid.ID{mars.id}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, _, err := pluto.Deliver(ctx, venus.id, pluto.offer(venus))
		if !errors.Is(err, context.Canceled) || time.Since(w.begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(w.begun))
		}
		if len(pluto.suspects) > 0 {
			t.Error("a member is suspected because the caller had enough")
		}
	})
}

// TestUndelivered: what is said of an offer that got no answer.
func TestUndelivered(t *testing.T) {
	for _, tt := range []struct {
		desc              string
		last              error
		unconnected, mute int
		others            bool
		text              string
		offline           bool
	}{
		{"refused", ErrRefused, 3, 1, true, ErrRefused.Error(), false},
		{"glare", ErrGlare, 0, 0, true, ErrGlare.Error(), false},
		{"busy", ErrBusy, 2, 0, true, ErrBusy.Error(), false},
		{"a circle", errLooped, 2, 0, true, errLooped.Error(), false},
		{"given up", context.Canceled, 2, 0, true, context.Canceled.Error(), false},
		{"all mute", context.DeadlineExceeded, 0, 2, true, "no answer from the 2 members asked for it", false},
		{"alone", ErrNotHere, 0, 0, false, "no member is connected to ask for it, and it does not answer itself", false},
		{"unknown", ErrNotHere, 0, 0, true, "offline: no other member knows it, and it does not answer itself", true},
		{"one knew it", ErrNotHere, 1, 0, true, "offline: the 1 member that knew it cannot reach it", true},
		{"some knew it", errSilent, 2, 3, false, "offline: none of the 2 members that knew it can reach it", true},
	} {
		err := undelivered(tt.last, tt.unconnected, tt.mute, tt.others)
		var offline *OfflineError
		if err.Error() != tt.text || errors.As(err, &offline) != tt.offline || !errors.Is(err, tt.last) {
			t.Errorf("%s: %v", tt.desc, err)
		}
	}
}

// TestWorse: of two reasons the one that tells more is kept.
func TestWorse(t *testing.T) {
	other := errors.New("connection reset")
	for _, tt := range []struct{ a, b, want error }{
		{nil, ErrNotHere, ErrNotHere},
		{other, ErrNotHere, other},
		{ErrNotHere, other, other},
		{ErrRefused, other, ErrRefused},
		{ErrRefused, ErrGlare, ErrGlare},
		{ErrGlare, ErrRefused, ErrGlare},
		{ErrBusy, other, other},
		{errSilent, ErrBusy, errSilent},
		{ErrBusy, context.DeadlineExceeded, context.DeadlineExceeded},
		{context.DeadlineExceeded, ErrRefused, ErrRefused},
	} {
		if got := worse(tt.a, tt.b); got != tt.want {
			t.Errorf("of %v and %v: %v", tt.a, tt.b, got)
		}
	}
}

// TestArrival: a target that comes in gets the offer at once, whoever's turn it is; on
// each of its connections once.
func TestArrival(t *testing.T) {
	const at = 450 * time.Millisecond
	for _, tt := range []struct {
		desc    string
		dialled bool // pluto knows where venus may be, and has no answer from there
		before  bool // it was connected, and that connection has ended under the offer
	}{
		{desc: "from outside"},
		{desc: "while it is dialled", dialled: true},
		{desc: "again", before: true},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, latency)
				venus, pluto := w.add("venus", 1), w.add("pluto", 1)
				for i := range waysMax {
					m := w.add(string(rune('a'+i)), 1)
					w.connect(pluto, m)
					m.silent = true
					pluto.hints[venus.id] = append(pluto.hints[venus.id], m.id)
				}
				if tt.dialled {
					w.holes[link{pluto.id, venus.id}] = true
				}
				if tt.before {
					venus.silent = true
					w.connect(pluto, venus)
					time.AfterFunc(100*time.Millisecond, func() { w.cut(pluto, venus) })
				}
				time.AfterFunc(at, func() {
					venus.mu.Lock()
					venus.silent = false
					venus.mu.Unlock()
					w.connect(venus, pluto)
				})
				s, via, err := pluto.deliver(venus)
				if err != nil || !via.IsZero() || s.Peer() != venus.id {
					t.Fatalf("via %v, %v", via, err)
				}
				if took := time.Since(w.begun); took != at+2*latency {
					t.Errorf("took %v, it came after %v", took, at)
				}
				want := 1
				if tt.before {
					want = 2
				}
				asked := slices.DeleteFunc(slices.Clone(pluto.asked), func(name string) bool { return name != "venus" })
				if len(asked) != want {
					t.Errorf("asked %d times: %q", len(asked), pluto.asked)
				}
			})
		})
	}
}

// TestBusyMachine: where timeouts are stretched an answer that is late, since this machine
// is, is waited for: the offer goes out once. Where they are not it has gone out twice by
// then.
func TestBusyMachine(t *testing.T) {
	for stretch, want := range map[time.Duration][]string{1: {"venus", "mars"}, 3: {"venus"}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, latency)
			venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
			w.connect(pluto, venus)
			w.connect(pluto, mars)
			w.connect(mars, venus)
			pluto.hints[venus.id] = []peerid.ID{mars.id}
			pluto.cfg.Stretch = func(d time.Duration) time.Duration { return stretch * d }
			venus.offered = acceptAfter(2*staggerFirst - 2*latency)
			if _, _, err := pluto.deliver(venus); err != nil || !slices.Equal(pluto.asked, want) {
				t.Errorf("stretched %d times: asked %v, want %v; %v", stretch, pluto.asked, want, err)
			}
			time.Sleep(staggerFirst) // the second offer is answered too
		})
	}
}

// TestTargetHasIt: a target that has the offer, since something comes back on its
// connection, is waited for, and nobody else is given the offer. One of which nothing comes
// back is suspected at once, and asked through others.
func TestTargetHasIt(t *testing.T) {
	for _, heard := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, latency)
			venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
			w.connect(pluto, venus)
			w.connect(pluto, mars)
			w.connect(mars, venus)
			pluto.hints[venus.id] = []peerid.ID{mars.id}
			pluto.onAsk = func(n int) {
				if n == 1 && heard {
					pluto.mu.Lock()
					pluto.received = map[peerid.ID]uint64{venus.id: 1} // the acknowledgement
					pluto.mu.Unlock()
				}
			}
			venus.offered = acceptAfter(wayTimeout / 2)
			_, _, err := pluto.deliver(venus)
			asked := []string{"venus", "mars"}
			if heard {
				asked = asked[:1]
			}
			if err != nil || !slices.Equal(pluto.asked, asked) || slices.Contains(pluto.suspects, venus.id) == heard {
				t.Errorf("heard %v: asked %v, suspected %v; %v", heard, pluto.asked, pluto.suspects, err)
			}
			time.Sleep(wayTimeout)
		})
	}
}

// TestArrivalLate: a target that comes in while it is dialled, and is slow then, has as much
// time as one that was connected: what the dial had taken is not the target's. The offer
// that it has is not sent again.
func TestArrivalLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		w.holes[link{pluto.id, venus.id}] = true
		time.AfterFunc(wayTimeout-stagger, func() { w.connect(venus, pluto) })
		pluto.onAsk = func(int) {
			pluto.mu.Lock()
			defer pluto.mu.Unlock()
			pluto.received = map[peerid.ID]uint64{venus.id: 1} // the acknowledgement
		}
		venus.offered = acceptAfter(wayTimeout / 2)
		_, _, err := pluto.deliver(venus)
		took := time.Since(w.begun)
		if want := []string{"mars", "venus"}; err != nil || !slices.Equal(pluto.asked, want) {
			t.Errorf("asked %v in %v, want %v; %v", pluto.asked, took, want, err)
		}
		if want := wayTimeout - stagger + wayTimeout/2 + 2*latency; took != want {
			t.Errorf("took %v, want %v", took, want)
		}
		time.Sleep(wayTimeout)
	})
}

// TestArrivalHeard: what has come in on a connection before the offer went out on it says
// nothing of the offer. Only a target of which something comes in later is waited for, and
// nobody else is asked.
func TestArrivalHeard(t *testing.T) {
	const at = staggerFirst + stagger + stagger/2
	for _, heard := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, latency)
			venus, pluto := w.add("venus", 1), w.add("pluto", 1)
			for i := range waysMax {
				m := w.add(string(rune('a'+i)), 1)
				w.connect(pluto, m)
				m.silent = true
				pluto.hints[venus.id] = append(pluto.hints[venus.id], m.id)
			}
			w.holes[link{pluto.id, venus.id}] = true
			receive := func(n uint64) {
				pluto.mu.Lock()
				defer pluto.mu.Unlock()
				pluto.received = map[peerid.ID]uint64{venus.id: n}
			}
			time.AfterFunc(at, func() {
				receive(3) // to prove who it is
				w.connect(venus, pluto)
				if heard {
					time.AfterFunc(2*latency, func() { receive(4) })
				}
			})
			venus.offered = acceptAfter(wayTimeout / 2)
			if _, _, err := pluto.deliver(venus); err != nil {
				t.Error(err)
			}
			var others int
			for i, when := range pluto.at {
				if when > at && pluto.asked[i] != "venus" {
					others++
				}
			}
			if others > 0 == heard {
				t.Errorf("heard %v: %d others were asked after it came; %q at %v", heard, others, pluto.asked, pluto.at)
			}
			time.Sleep(wayTimeout)
		})
	}
}
