package offers

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/membership"
)

// TestSealedRefusal: what the target itself says is final, whoever carries it,
// and carried again it is the same.
func TestSealedRefusal(t *testing.T) {
	w := newWorld(t, 0)
	venus, pluto := w.add("venus", 1), w.add("pluto", 1)
	for status, want := range map[Status]error{Refused: ErrRefused, Glare: ErrGlare} {
		offer := pluto.offer(venus)
		in, err := venus.pipes.ReadOffer(offer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		a := Refuse(in, status)
		if again, ok := Refusal(in); !ok || again.Status != status || !bytes.Equal(again.Answer, a.Answer) {
			t.Errorf("carried again: %+v", again)
		}
		bare := Response{Status: status}
		if _, over, err := finish(offer, bare, false); over || !errors.Is(err, errClaimed) || errors.Is(err, want) {
			t.Errorf("status %d of a forwarder: %v, %v", status, over, err)
		}
		if _, over, err := finish(offer, bare, true); !over || !errors.Is(err, want) {
			t.Errorf("status %d of the target's own connection: %v, %v", status, over, err)
		}
		a.Status, a.Forwarder = NotHere, peerid.ID{1} // the carrier changes what it can
		if _, over, err := finish(offer, a, false); !over || !errors.Is(err, want) {
			t.Errorf("status %d, sealed: %v, %v", status, over, err)
		}
	}
}

// TestBusyTarget: a target that is busy says so unsealed, so that it may be asked
// again, and has nothing to repeat.
func TestBusyTarget(t *testing.T) {
	w := newWorld(t, 0)
	venus, pluto := w.add("venus", 1), w.add("pluto", 1)
	offer := pluto.offer(venus)
	in, err := venus.pipes.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if a := Refuse(in, Busy); a.Status != Busy || len(a.Answer) > 0 {
		t.Errorf("%+v", a)
	}
	if a, ok := Refusal(in); ok {
		t.Errorf("repeated: %+v", a)
	}
	if _, over, err := finish(offer, Response{Status: Busy}, true); over || !errors.Is(err, ErrBusy) {
		t.Errorf("%v, %v", over, err)
	}
}

// TestOneForwarderCensors: what a forwarder says in the target's name ends no
// offer that another would deliver: neither a refusal nor an answer of its own.
func TestOneForwarderCensors(t *testing.T) {
	forged := make([]byte, 1500)
	rand.Read(forged)
	forged[0] = 1
	for name, lie := range map[string]Response{
		"refused":         {Status: Refused},
		"glare":           {Status: Glare},
		"its own answer":  {Status: Answered, Answer: forged},
		"its own refusal": {Status: Refused, Answer: forged[:60]},
		"nothing":         {Status: Answered},
		"in a circle":     {Status: Loop},
		"unknown":         {Status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*time.Millisecond)
				venus, mars, earth, pluto := w.add("venus", 1), w.add("mars", 1), w.add("earth", 1), w.add("pluto", 1)
				mars.lie = &lie
				w.connect(pluto, mars)
				w.connect(pluto, earth)
				w.connect(earth, venus)
				pluto.hints[venus.id] = []peerid.ID{mars.id, earth.id}
				_, via, err := pluto.deliver(venus)
				if err != nil || via != earth.id {
					t.Errorf("via %v, %v", via, err)
				}
				if !slices.Equal(pluto.asked, []string{"mars", "earth"}) {
					t.Errorf("asked %v", pluto.asked)
				}
			})
		})
	}
}

// TestLateWord is the attack: one liar of those that are asked says no as late as it can,
// so that its word is the last, while the network loses what the others send. An offer is
// made again after silence, and what a forwarder says does not count for less silence.
func TestLateWord(t *testing.T) {
	for name, lie := range map[string]Response{
		"busy":           {Status: Busy},
		"refused":        {Status: Refused},
		"glare":          {Status: Glare},
		"in a circle":    {Status: Loop},
		"not here":       {Status: NotHere},
		"unknown":        {Status: 200},
		"its own answer": {Status: Answered, Answer: []byte{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 10*time.Millisecond)
				venus, mars, earth, pluto := w.add("venus", 1), w.add("mars", 1), w.add("earth", 1), w.add("pluto", 1)
				mars.lie, mars.late = &lie, wayTimeout-100*time.Millisecond
				earth.silent = true
				w.connect(pluto, mars)
				w.connect(pluto, earth)
				w.connect(earth, venus)
				pluto.hints[venus.id] = []peerid.ID{earth.id, mars.id}
				time.AfterFunc(wayTimeout+time.Second, func() { // the network is good again
					earth.mu.Lock()
					defer earth.mu.Unlock()
					earth.silent = false
				})
				if _, via, err := pluto.deliver(venus); err != nil || via != earth.id {
					t.Errorf("via %v, %v; asked %q", via, err, pluto.asked)
				}
			})
		})
	}
}

// TestOnlyLiars: where all who can be asked say no in the target's name, a Dial goes on,
// and does not wait for an offer of the target's.
func TestOnlyLiars(t *testing.T) {
	for _, status := range []Status{Refused, Glare} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*time.Millisecond)
			venus, mars, earth, pluto := w.add("venus", 1), w.add("mars", 1), w.add("earth", 1), w.add("pluto", 1)
			for _, p := range []*peer{mars, earth} {
				p.lie = &Response{Status: status, Forwarder: venus.id}
				w.connect(pluto, p)
			}
			pluto.hints[venus.id] = []peerid.ID{mars.id, earth.id}
			_, _, err := pluto.deliver(venus)
			if e := (&StageError{StageOffer, venus.id, err}); err == nil || e.Final() || errors.Is(err, ErrGlare) {
				t.Errorf("%v, final: %v", err, e.Final())
			}
		})
	}
}

// TestLastWays is the attack: the three members that the target names, and the servers
// nearest it, lie. Another member that is connected to both is asked in the end.
func TestLastWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*time.Millisecond)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		for i := range 5 {
			p := w.add(string(rune('a'+i)), byte(2+i))
			p.lie = &Response{Status: NotHere}
			w.connect(pluto, p)
			if i < 3 {
				pluto.hints[venus.id] = append(pluto.hints[venus.id], p.id)
			} else {
				pluto.nearest = append(pluto.nearest, p.id)
			}
		}
		for i := range 4 * waysMax { // of one token; they are connected to pluto alone
			w.connect(pluto, w.add(string(rune('A'+i)), 2))
		}
		earth := w.add("earth", 100)
		w.connect(pluto, earth)
		w.connect(earth, venus)
		if _, via, err := pluto.deliver(venus); err != nil || via != earth.id {
			t.Errorf("via %v, %v; asked %q", via, err, pluto.asked)
		}
	})
}

// TestLastWaysOfOneDelegate is the attack: one delegate has written each of the liars a token
// of its own, more of them than there are ways. The one that the founder has let in is asked.
func TestLastWaysOfOneDelegate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 10*time.Millisecond)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		for i := range 8 * waysMax {
			p := w.add(string(rune('a'+i)), byte(2+i))
			p.member.Inviter = membership.Key{9}
			p.lie = &Response{Status: NotHere}
			w.connect(pluto, p)
			if i < 3 {
				pluto.hints[venus.id] = append(pluto.hints[venus.id], p.id)
			}
		}
		earth := w.add("earth", 100)
		w.connect(pluto, earth)
		w.connect(earth, venus)
		if _, via, err := pluto.deliver(venus); err != nil || via != earth.id {
			t.Errorf("via %v, %v; asked %q", via, err, pluto.asked)
		}
		if out := pluto.rest(map[peerid.ID]bool{}); !slices.Contains(out[:2], earth.id) {
			t.Errorf("of those that are left it is one of the last: %v", out)
		}
	})
}

// TestRefusalEnds: a refusal that the target has sealed ends the delivery though
// another way is left.
func TestRefusalEnds(t *testing.T) {
	for status, want := range map[Status]error{Refused: ErrRefused, Glare: ErrGlare} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 10*time.Millisecond)
			venus, mars, earth, pluto := w.add("venus", 1), w.add("mars", 1), w.add("earth", 1), w.add("pluto", 1)
			venus.offered = func(in *pipe.Incoming) Response {
				if a, ok := Refusal(in); ok {
					return a
				}
				return Refuse(in, status)
			}
			for _, p := range []*peer{mars, earth} {
				w.connect(pluto, p)
				w.connect(p, venus)
			}
			pluto.hints[venus.id] = []peerid.ID{mars.id, earth.id}
			if _, _, err := pluto.deliver(venus); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			if !slices.Equal(pluto.asked, []string{"mars"}) {
				t.Errorf("asked %v", pluto.asked)
			}
		})
	}
}

// A refusal's reason is the one that was sealed.
func TestReason(t *testing.T) {
	w := newWorld(t, 0)
	venus, pluto := w.add("venus", 1), w.add("pluto", 1)
	offer := pluto.offer(venus)
	in, err := venus.pipes.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	a := Refuse(in, Glare)
	_, err = offer.Finish(a.Answer)
	var no *pipe.RefusedError
	if !errors.As(err, &no) || no.Reason != wire.Glare {
		t.Errorf("%v", err)
	}
}
