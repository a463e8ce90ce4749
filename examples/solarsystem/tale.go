package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/idloc/idloc/idloc"
)

// step is one thing that has to be seen.
type step struct {
	role string          // whose event
	kind idloc.EventKind // of which kind
	tell func(t *tale, e idloc.Event) string
}

// steps are those of draft §2 and §6, in the order of a first fetch on a
// machine that has nothing else to do. Which of two comes first is fixed only
// where one leads to the other (causes); a pipe may be up before ICE has chosen.
var steps = []step{
	{"venus", idloc.EventNameAsked, func(t *tale, e idloc.Event) string { return "asks the database for " + e.Name }},
	{"venus", idloc.EventNameResolved, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("finds the record at %s: peer %s", t.who(e.Via), short(e.Peer))
	}},
	{"venus", idloc.EventLSIAssigned, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("assigns the LSI %s to %s", e.LSI, t.who(e.Peer))
	}},
	{"venus", idloc.EventMiss, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("dials %s: no mapping, the shim asks for a pipe", e.LSI)
	}},
	{"venus", idloc.EventOfferSent, func(t *tale, e idloc.Event) string {
		return "sends an offer for " + t.who(e.Peer) + t.through(e.Via)
	}},
	{"earth", idloc.EventOfferForwarded, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("forwards the offer of %s to %s", t.who(e.From), t.who(e.Peer))
	}},
	{"mars", idloc.EventOfferReceived, func(t *tale, e idloc.Event) string {
		return "receives the offer of " + t.who(e.Peer) + " and answers"
	}},
	{"venus", idloc.EventAnswerReceived, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("has the answer%s, after %s", t.through(e.Via), e.Duration.Round(time.Microsecond))
	}},
	{"venus", idloc.EventCandidates, func(t *tale, e idloc.Event) string { return "ICE candidates: " + e.Detail }},
	{"venus", idloc.EventPairChosen, func(t *tale, e idloc.Event) string {
		if !e.Via.IsZero() {
			return fmt.Sprintf("a way%s, as long as ICE has none that is direct", t.through(e.Via))
		}
		return fmt.Sprintf("ICE chose %s and %s", e.Local, e.Remote)
	}},
	{"venus", idloc.EventPipeUp, func(t *tale, e idloc.Event) string {
		return fmt.Sprintf("pipe to %s is up%s: %s", t.who(e.Peer), t.through(e.Via), strings.TrimSpace(e.Detail))
	}},
	{"venus", idloc.EventPacketsReleased, func(t *tale, e idloc.Event) string { return "SYN sent into the pipe" }},
}

// step numbers of steps that others name.
const (
	offerSent = 4 + iota
	offerForwarded
	offerReceived
	answerReceived
)

// tale is what the processes have told: for each its lines, in its own order.
// One goroutine uses it.
type tale struct {
	out           io.Writer
	json, verbose bool

	names map[idloc.PeerID]string // by ID, for the telling
	lines map[string][]line       // by role; those that are told are gone
	seen  map[int]idloc.Event     // by index into steps: the first that fits
	last  map[string]uint64       // by role: the newest event's Seq
	lost  uint64                  // events that a node's Watch has lost
	begin time.Time               // of the act that is told
}

func newTale(out io.Writer, asJSON, verbose bool) *tale {
	return &tale{out: out, json: asJSON, verbose: verbose, names: map[idloc.PeerID]string{},
		lines: map[string][]line{}, seen: map[int]idloc.Event{}, last: map[string]uint64{}}
}

// hear takes note of one line.
func (t *tale) hear(l line) {
	if l.Ready != nil {
		t.names[l.Ready.ID] = l.Role
	}
	if t.json {
		if l.Ready != nil { // tokens admit: they are not for a log
			r := *l.Ready
			r.Tokens = nil
			l.Ready = &r
		}
		json.NewEncoder(t.out).Encode(l)
	}
	if l.Event != nil {
		if last, ok := t.last[l.Role]; ok {
			t.lost += l.Event.Seq - last - 1
		}
		t.last[l.Role] = l.Event.Seq
	}
	t.lines[l.Role] = append(t.lines[l.Role], l)
}

// note finds the steps among what was heard and not told yet. Who has which
// name must be known: all three are in.
func (t *tale) note() {
	if len(t.names) < 3 {
		return
	}
	for i, st := range steps {
		if _, ok := t.seen[i]; ok {
			continue
		}
		for _, l := range t.lines[st.role] {
			if l.Event != nil && l.Event.Kind == st.kind && t.fits(l) {
				t.seen[i] = *l.Event
				break
			}
		}
	}
}

// fits leaves out what does not belong to venus's way to mars.
func (t *tale) fits(l line) bool {
	e := l.Event
	switch {
	case e.Name != "" && e.Name != "mars."+domain:
		return false
	case l.Role == "venus" && !e.Peer.IsZero() && t.names[e.Peer] != "mars":
		return false
	case e.Kind == idloc.EventOfferForwarded:
		return t.names[e.From] == "venus" && t.names[e.Peer] == "mars"
	case e.Kind == idloc.EventOfferReceived:
		return t.names[e.Peer] == "venus"
	}
	return true
}

// missing names the steps that were not seen. That earth forwards the offer is
// one of them unless the answer says that the offer went another way.
func (t *tale) missing() []string {
	t.note()
	var names []string
	for i, st := range steps {
		if _, ok := t.seen[i]; ok {
			continue
		}
		if a, ok := t.seen[answerReceived]; ok && i == offerForwarded && t.names[a.Via] != st.role {
			continue
		}
		names = append(names, st.role+" "+string(st.kind))
	}
	if len(names) > 0 && t.lost > 0 {
		names = append(names, fmt.Sprintf("and %d events that a watcher was too slow for", t.lost))
	}
	return names
}

// causes lists the steps of other processes that the event of step i follows
// from, as far as they were seen.
func (t *tale) causes(i int) []int {
	var from []int
	switch i {
	case offerForwarded:
		from = []int{offerSent}
	case offerReceived:
		from = []int{offerSent}
		if t.names[t.seen[i].Via] == "earth" {
			from = append(from, offerForwarded)
		}
	case answerReceived:
		from = []int{offerReceived}
	}
	return slices.DeleteFunc(from, func(c int) bool { _, ok := t.seen[c]; return !ok })
}

// errDisorder is two processes' events that contradict each other.
var errDisorder = errors.New("the events of the processes have no common order")

// order takes what was heard and not told yet and brings it into one order:
// each process's events stay in theirs, what follows from another process's
// event comes after that, and only what is still free goes by the clock.
func (t *tale) order() ([]line, error) {
	t.note()
	queues := map[string][]line{}
	left := 0
	untold := map[int]bool{} // steps
	for role, lines := range t.lines {
		queues[role] = placed(lines)
		left += len(lines)
		for _, l := range lines {
			if i := t.stepOf(l); i >= 0 {
				untold[i] = true
			}
		}
	}
	clear(t.lines)
	out := make([]line, 0, left)
	for ; left > 0; left-- {
		next := ""
		for role, q := range queues {
			if len(q) == 0 || slices.ContainsFunc(t.causes(t.stepOf(q[0])), func(c int) bool { return untold[c] }) {
				continue
			}
			if next == "" || q[0].Time.Before(queues[next][0].Time) || q[0].Time.Equal(queues[next][0].Time) && role < next {
				next = role
			}
		}
		if next == "" {
			return out, errDisorder
		}
		l := queues[next][0]
		queues[next] = queues[next][1:]
		delete(untold, t.stepOf(l))
		out = append(out, l)
	}
	return out, nil
}

// placed puts the lines of one process that are no events where they belong
// among its events by its clock: another goroutine has written them.
func placed(lines []line) []line {
	var events, others []line
	for _, l := range lines {
		if l.Event != nil {
			events = append(events, l)
		} else {
			others = append(others, l)
		}
	}
	for _, o := range others {
		at := slices.IndexFunc(events, func(l line) bool { return l.Time.After(o.Time) })
		if at < 0 {
			at = len(events)
		}
		events = slices.Insert(events, at, o)
	}
	return events
}

// stepOf is the index of the step that a line is, or -1.
func (t *tale) stepOf(l line) int {
	if l.Event == nil {
		return -1
	}
	for i, e := range t.seen {
		if steps[i].role == l.Role && e.Seq == l.Event.Seq {
			return i
		}
	}
	return -1
}

// act tells what was heard since the last act, in its order, under a title.
func (t *tale) act(begin time.Time, title string, a ...any) error {
	if !t.json {
		fmt.Fprintf(t.out, "\n— "+title+"\n", a...)
	}
	t.begin = begin
	return t.tell()
}

func (t *tale) tell() error {
	lines, err := t.order()
	for _, l := range lines {
		switch i := t.stepOf(l); {
		case i >= 0:
			t.say(l, "%s", steps[i].tell(t, *l.Event))
		case l.Event != nil && t.verbose:
			b, _ := json.Marshal(l.Event)
			t.say(l, "· %s", b)
		case l.Ready != nil && l.Ready.Tokens != nil:
			t.say(l, "founds %s and mints two tokens (%d characters each)", domain, len(l.Ready.Tokens["mars"]))
		case l.Ready != nil:
			t.say(l, "is in, as %s", l.Ready.Name)
		case l.Done != nil:
			t.say(l, "%s", l.Done.text())
		}
	}
	return err
}

// text says how an act went.
func (d *done) text() string {
	took := d.Took.Round(time.Microsecond)
	switch {
	case d.Err != "":
		return d.Act + ": " + d.Err
	case d.Act == "fetch":
		return fmt.Sprintf("%s, %d bytes, %s after the click", d.Detail, d.Received, took)
	case d.Act == "datagrams":
		return fmt.Sprintf("%s: %d bytes out, %d back, %s", d.Detail, d.Sent, d.Received, took)
	}
	return fmt.Sprintf("%s: %d bytes in %s, hashes equal", d.Detail, d.Sent, took)
}

// who names a peer of the story.
func (t *tale) who(id idloc.PeerID) string {
	if name, ok := t.names[id]; ok {
		return name
	}
	return short(id)
}

// through names who stands between two peers, if anybody does.
func (t *tale) through(id idloc.PeerID) string {
	if id.IsZero() {
		return ""
	}
	return ", through " + t.who(id)
}

func short(id idloc.PeerID) string {
	t := id.String()
	if len(t) > 12 {
		return t[:8] + "…" + t[len(t)-4:]
	}
	return t
}

func (t *tale) say(l line, format string, a ...any) {
	if !t.json {
		fmt.Fprintf(t.out, "%9.3f ms  %-6s %s\n", float64(l.Time.Sub(t.begin).Microseconds())/1000, l.Role, fmt.Sprintf(format, a...))
	}
}
