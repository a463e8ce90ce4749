package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// The story starts its own program again for each peer: here that is the test.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-role") {
		main()
		return
	}
	os.Exit(m.Run())
}

// The whole story, as a user sees it.
func TestStory(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := direct(t.Context(), &b, time.Hour, false, false) // a hang is go test's to find
	if err != nil || !strings.HasSuffix(b.String(), "every step was seen\n") {
		t.Fatalf("%v after:\n%s", err, b.String())
	}
}

var ids = map[string]idloc.PeerID{"earth": {1}, "venus": {2}, "mars": {3}}

// script is what each process tells of one fetch, in its order.
type script map[string][]line

var begin = time.Unix(1e9, 0)

// after is a time of the story.
func after(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

// goodStory is a fetch in which the pipe is up, and the page there, before ICE
// has chosen. Mars's clock is an hour slow, earth's a minute fast.
func goodStory() script {
	const slow, fast = -3600 * 1000, 60 * 1000
	s := script{}
	for _, role := range roles {
		s[role] = append(s[role], line{Role: role, Time: after(0), Ready: &ready{Name: role, ID: ids[role]}})
	}
	event := func(role string, ms int, e idloc.Event) {
		e.Time, e.Seq = after(ms), uint64(len(s[role])+10)
		s[role] = append(s[role], line{Role: role, Time: e.Time, Event: &e})
	}
	to := ids["mars"]
	event("venus", 1, idloc.Event{Kind: idloc.EventNameAsked, Name: "mars.example.com"})
	event("venus", 2, idloc.Event{Kind: idloc.EventNameResolved, Name: "mars.example.com", Peer: to, Via: ids["earth"]})
	event("venus", 2, idloc.Event{Kind: idloc.EventLSIAssigned, Peer: to})
	event("venus", 3, idloc.Event{Kind: idloc.EventMiss, Peer: to})
	event("venus", 4, idloc.Event{Kind: idloc.EventOfferSent, Peer: to, Via: ids["earth"]})
	event("venus", 7, idloc.Event{Kind: idloc.EventAnswerReceived, Peer: to, Via: ids["earth"]})
	event("venus", 8, idloc.Event{Kind: idloc.EventCandidates, Peer: to})
	event("venus", 9, idloc.Event{Kind: idloc.EventPipeUp, Peer: to})
	event("venus", 10, idloc.Event{Kind: idloc.EventPacketsReleased, Peer: to})
	event("venus", 12, idloc.Event{Kind: idloc.EventPairChosen, Peer: to})
	event("earth", fast+5, idloc.Event{Kind: idloc.EventOfferForwarded, From: ids["venus"], Peer: to})
	event("mars", slow+6, idloc.Event{Kind: idloc.EventOfferReceived, Peer: ids["venus"], Via: ids["earth"]})
	event("mars", slow+7, idloc.Event{Kind: idloc.EventCandidates, Peer: ids["venus"]})
	s["venus"] = append(s["venus"], line{Role: "venus", Time: after(11), Done: &done{Act: "fetch", Detail: "200 OK"}})
	return s
}

// arrive gives the lines of all processes in an order in which they may come:
// each process's events in theirs, its other lines, which another goroutine
// writes, and those of the others anywhere.
func (s script) arrive(r *rand.Rand) []line {
	var queues [][]line
	for _, role := range roles {
		var events []line
		for _, l := range s[role] {
			if l.Event != nil {
				events = append(events, l)
			} else {
				queues = append(queues, []line{l})
			}
		}
		queues = append(queues, events)
	}
	var out []line
	for {
		queues = slices.DeleteFunc(queues, func(q []line) bool { return len(q) == 0 })
		if len(queues) == 0 {
			return out
		}
		i := r.IntN(len(queues))
		out = append(out, queues[i][0])
		queues[i] = queues[i][1:]
	}
}

// Whatever comes first and whatever the clocks say, each process's steps are
// told in its order, and what follows from another's step after that.
func TestTrueOrder(t *testing.T) {
	want := strings.Fields("name-asked name-resolved lsi-assigned miss offer-sent offer-forwarded offer-received answer-received candidates pipe-up packets-released done pair-chosen")
	for seed := range 1000 {
		tl := newTale(io.Discard, false, false)
		arrived := goodStory().arrive(rand.New(rand.NewPCG(uint64(seed), 0)))
		for i, l := range arrived {
			if len(tl.missing()) == 0 && slices.ContainsFunc(arrived[i:], func(l line) bool { return tl.isMissing(l) }) {
				t.Fatalf("seed %d: nothing is missing after %d lines", seed, i)
			}
			tl.hear(l)
		}
		if m := tl.missing(); len(m) > 0 {
			t.Fatalf("seed %d: missing %v", seed, m)
		}
		lines, err := tl.order()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var got []string
		for _, l := range lines {
			if i := tl.stepOf(l); i >= 0 {
				got = append(got, string(steps[i].kind))
			} else if l.Done != nil {
				got = append(got, "done")
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d:\n got %v\nwant %v", seed, got, want)
		}
	}
}

// isMissing says whether l is a step that was not heard yet.
func (t *tale) isMissing(l line) bool {
	return l.Event != nil && slices.ContainsFunc(steps, func(st step) bool { return st.role == l.Role && st.kind == l.Event.Kind })
}

// What is not as it should be is said, each in its way.
func TestUntrue(t *testing.T) {
	for _, tt := range []struct {
		what    string
		change  func(s script)
		missing string
		err     error
	}{
		{"a step is missing", func(s script) { s["venus"] = slices.Delete(s["venus"], 4, 5) }, "venus miss, and 1 events that a watcher was too slow for", nil},
		{"earth does not forward", func(s script) { s["earth"] = s["earth"][:1] }, "earth offer-forwarded", nil},
		{"nobody needs to forward", func(s script) {
			s["earth"] = s["earth"][:1]
			for _, l := range slices.Concat(s["venus"], s["mars"]) {
				if l.Event != nil && l.Event.Kind != idloc.EventNameResolved {
					l.Event.Via = idloc.PeerID{}
				}
			}
		}, "", nil},
		{"the answer comes before the offer", func(s script) {
			for _, l := range s["venus"] {
				if e := l.Event; e != nil && e.Kind == idloc.EventOfferSent {
					e.Kind = idloc.EventAnswerReceived
				} else if e != nil && e.Kind == idloc.EventAnswerReceived {
					e.Kind = idloc.EventOfferSent
				}
			}
		}, "", errDisorder},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s := goodStory()
			tt.change(s)
			tl := newTale(io.Discard, false, true)
			for _, l := range s.arrive(rand.New(rand.NewPCG(1, 1))) {
				tl.hear(l)
			}
			if got := strings.Join(tl.missing(), ", "); got != tt.missing {
				t.Errorf("missing %q, want %q", got, tt.missing)
			}
			if err := tl.act(begin, "venus"); !errors.Is(err, tt.err) {
				t.Errorf("order: %v, want %v", err, tt.err)
			}
		})
	}
}

// Tokens admit: no output has them.
func TestNoTokens(t *testing.T) {
	var b strings.Builder
	for _, asJSON := range []bool{true, false} {
		tl := newTale(&b, asJSON, true)
		tl.hear(line{Role: "earth", Ready: &ready{ID: ids["earth"], Tokens: map[string]string{"mars": "secret"}}})
		if err := tl.act(begin, "three"); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.String(); strings.Contains(s, "secret") || !strings.Contains(s, "mints") {
		t.Error(s)
	}
}
