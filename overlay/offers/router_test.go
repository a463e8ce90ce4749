package offers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// TestForward: what a member does with an offer for another.
func TestForward(t *testing.T) {
	for _, tt := range []struct {
		desc   string
		change func(w *world, mars, venus *peer, q *Request)
		want   Status
	}{
		{"connected", func(*world, *peer, *peer, *Request) {}, Answered},
		{"not connected", func(w *world, m, v *peer, _ *Request) { w.cut(m, v) }, NotHere},
		{"the TTL is used up", func(_ *world, _, _ *peer, q *Request) { q.TTL = 0 }, NotHere},
		{"the last hop", func(_ *world, _, _ *peer, q *Request) { q.TTL = 1 }, Answered},
		{"it does not forward", func(_ *world, m, _ *peer, _ *Request) { m.cfg.Forward = false }, NotHere},
		{"seen before", func(_ *world, m, _ *peer, q *Request) { m.firstTime(q.Transaction) }, Loop},
		{"too many requests", func(_ *world, m, _ *peer, q *Request) {
			for m.Allow(q.From) {
			}
		}, Busy},
		{"silent target", func(_ *world, _, v *peer, _ *Request) { v.silent = true }, Silent},
		{"refused", func(_ *world, _, v *peer, q *Request) { q.Offer = []byte("nonsense") }, Refused},
	} {
		t.Run(tt.desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, latency)
				venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
				w.connect(pluto, mars)
				w.connect(mars, venus)
				q := Request{TTL: MaxTTL, Transaction: [16]byte{1}, Target: venus.id, From: pluto.id, Offer: pluto.offer(venus).Bytes()}
				tt.change(w, mars, venus, &q)
				a := mars.Answer(t.Context(), q, pluto.id)
				if a.Status != tt.want {
					t.Errorf("status %d, want %d", a.Status, tt.want)
				}
				forwarder := peerid.ID{}
				if tt.want == Answered || tt.want == Refused {
					forwarder = mars.id
				}
				if a.Forwarder != forwarder {
					t.Errorf("forwarder %v", a.Forwarder)
				}
				if told := len(mars.events) == 1 && mars.events[0].Kind == event.OfferForwarded; told != (tt.want == Answered || tt.want == Refused || tt.want == Silent) {
					t.Errorf("events %v", mars.events)
				}
				if tt.want == Silent && (time.Since(w.begun) != wayTimeout || len(mars.suspects) != 1 || !errors.Is(a.Err(), context.DeadlineExceeded) || final(a.Err())) {
					t.Errorf("after %v, suspected %v", time.Since(w.begun), mars.suspects)
				}
			})
		})
	}
}

// TestFull: of very many members and transactions the newest are known; a member
// that asks does not lose its rate because others do.
func TestFull(t *testing.T) {
	w := newWorld(t, 0)
	mars := w.add("mars", 1)
	for i := range requestsKept + 1 {
		if !mars.firstTime([16]byte{byte(i), byte(i >> 8), 1}) {
			t.Fatalf("%d was seen", i)
		}
	}
	if mars.firstTime([16]byte{1, 0, 1}) {
		t.Error("an old one that is kept is new again")
	}
	if !mars.firstTime([16]byte{0, 0, 1}) {
		t.Error("the oldest is kept")
	}
}

// TestRate: a member that asks does not get its rate back because others ask.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		mars, greedy := w.add("mars", 1), peerid.ID{1}
		n := 0
		for ; mars.Allow(greedy); n++ {
		}
		for i := range membersKept - 1 {
			mars.Allow(peerid.ID{2, byte(i), byte(i >> 8)})
		}
		if n != requestBurst || mars.Allow(greedy) {
			t.Errorf("%d requests at once", n)
		}
		time.Sleep(time.Second)
		for n = 0; mars.Allow(greedy); n++ {
		}
		if n != requestRate {
			t.Errorf("%d requests in a second", n)
		}
	})
}

// TestRateOfOneToken: keys of one token together have four times the rate of one, and
// who came by another has its own.
func TestRateOfOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		mars, other := w.add("mars", 1), w.add("other", 2)
		w.connect(mars, other)
		n := 0
		for i := range 3 * accountTimes {
			key := w.add(string(rune('a'+i)), 3)
			w.connect(mars, key)
			for range requestBurst {
				if mars.Allow(key.id) {
					n++
				}
			}
		}
		if n != accountTimes*requestBurst {
			t.Errorf("%d requests of keys of one token at once", n)
		}
		if !mars.Allow(other.id) {
			t.Error("of another token none")
		}
		n = 0
		for i := range 3 * accountTimes { // each by a token of its own of one delegate
			key := w.add(string(rune('A'+i)), byte(100+i))
			key.member.Inviter = membership.Key{9}
			w.connect(mars, key)
			for range requestBurst {
				if mars.Allow(key.id) {
					n++
				}
			}
		}
		if n != 2*accountTimes*requestBurst {
			t.Errorf("%d requests of keys of one delegate at once", n)
		}
	})
}

// TestServe: a request is read and answered as it is on the wire.
func TestServe(t *testing.T) {
	w := newWorld(t, 0)
	venus, pluto := w.add("venus", 1), w.add("pluto", 1)
	offer := pluto.offer(venus)
	q := Request{TTL: MaxTTL, Target: venus.id, From: pluto.id, Offer: offer.Bytes()}
	b, err := venus.Serve(t.Context(), pluto.id, q.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseResponse(b)
	if err != nil || a.Status != Answered || !a.Forwarder.IsZero() {
		t.Fatalf("%+v, %v", a, err)
	}
	if s, err := offer.Finish(a.Answer); err != nil || s.Peer() != venus.id {
		t.Errorf("%v", err)
	}
	if b, err := venus.Serve(t.Context(), pluto.id, []byte{9}); err == nil || b != nil {
		t.Errorf("a bad request got %d bytes, %v", len(b), err)
	}
}

// TestTell: a message goes one way, and what comes back is told.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, latency)
		venus, mars, pluto := w.add("venus", 1), w.add("mars", 1), w.add("pluto", 1)
		w.connect(pluto, mars)
		w.connect(mars, venus)
		var got []byte
		venus.cfg.Offered = func(_ context.Context, q Request, from peerid.ID) Response {
			if got = q.Offer; from != mars.id || q.From != pluto.id {
				t.Errorf("from %v by %v", q.From, from)
			}
			return Response{}
		}
		if err := pluto.Tell(t.Context(), venus.id, mars.id, []byte("late")); err != nil || string(got) != "late" {
			t.Errorf("%q, %v", got, err)
		}
		if err := pluto.Tell(t.Context(), venus.id, venus.id, []byte("late")); err == nil {
			t.Error("told to somebody who is not connected")
		}
		w.cut(mars, venus)
		if err := pluto.Tell(t.Context(), venus.id, mars.id, []byte("late")); !errors.Is(err, ErrNotHere) {
			t.Errorf("%v", err)
		}
		mars.silent = true
		before := time.Now()
		if err := pluto.Tell(t.Context(), venus.id, mars.id, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(before) != wayTimeout {
			t.Errorf("%v after %v", err, time.Since(before))
		}
	})
}

// TestOtherInvitations: where the ways to a peer are all of one invitation, a
// member that came by another is asked as well.
func TestOtherInvitations(t *testing.T) {
	w := newWorld(t, 0)
	pluto, earth := w.add("pluto", 1), w.add("earth", 2)
	tried := map[peerid.ID]bool{pluto.id: true}
	if out := pluto.others(tried); len(out) != 0 {
		t.Errorf("none tried: %v", out)
	}
	w.connect(pluto, earth)
	for _, name := range []string{"mars", "mars2"} {
		sybil := w.add(name, 3)
		w.connect(pluto, sybil)
		tried[sybil.id] = true
	}
	if out := pluto.others(tried); len(out) != 1 || out[0] != earth.id {
		t.Errorf("beside two of one token: %v", out)
	}
	tried[earth.id] = true
	if out := pluto.others(tried); len(out) != 0 {
		t.Errorf("all tried: %v", out)
	}
	// Tokens of their own that one delegate has written are no difference.
	delete(tried, earth.id)
	for id := range tried {
		m := w.peers[id].member
		m.Invitation, m.Inviter = membership.KeyOf(id), membership.Key{9}
	}
	more := w.add("mars3", 4)
	more.member.Inviter = membership.Key{9}
	w.connect(pluto, more)
	if out := pluto.others(tried); len(out) != 1 || out[0] != earth.id {
		t.Errorf("beside those of one delegate: %v", out)
	}
}

// TestFinal: which failures need no other attempt.
func TestFinal(t *testing.T) {
	for _, tt := range []struct {
		stage string
		err   error
		want  bool
	}{
		{StageOffer, ErrRefused, true},
		{StageOffer, ErrClosed, true},
		{StageHandshake, membership.ErrNotMember, true},
		{StageOffer, membership.ErrNotMember, false},
		{StageHandshake, errors.New("lost"), false},
		{StageOffer, &OfflineError{1, ErrNotHere}, false},
		{StageOffer, ErrGlare, false},
		{StageCheck, context.DeadlineExceeded, false},
	} {
		if e := (&StageError{tt.stage, peerid.ID{1}, tt.err}); e.Final() != tt.want || !errors.Is(e, tt.err) {
			t.Errorf("%v is final: %v", e, e.Final())
		}
	}
}
