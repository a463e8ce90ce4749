package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// step is one thing that has to be seen.
type step struct {
	role string          // whose event
	kind idloc.EventKind // of which kind
	tell func(s *story, e idloc.Event) string
}

// steps are those of draft §2 and §6, in the order of the first fetch. All
// but the first have to be seen between its begin and the end of the story.
var steps = []step{
	{"venus", idloc.EventNameAsked, func(s *story, e idloc.Event) string { return "asks the database for " + e.Name }},
	{"venus", idloc.EventNameResolved, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("finds the record at %s: peer %s", s.who(e.Via), short(e.Peer))
	}},
	{"venus", idloc.EventLSIAssigned, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("assigns the LSI %s to %s", e.LSI, s.who(e.Peer))
	}},
	{"venus", idloc.EventMiss, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("SYN to %s: no mapping, the shim holds it", e.LSI)
	}},
	{"venus", idloc.EventOfferSent, func(s *story, e idloc.Event) string { return "sends an offer for " + s.who(e.Peer) }},
	{"earth", idloc.EventOfferForwarded, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("forwards the offer of %s to %s", s.who(e.From), s.who(e.Peer))
	}},
	{"mars", idloc.EventOfferReceived, func(s *story, e idloc.Event) string {
		return "receives the offer of " + s.who(e.Peer) + " and answers"
	}},
	{"venus", idloc.EventAnswerReceived, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("has the answer, through %s, after %s", s.who(e.Via), e.Duration.Round(time.Microsecond))
	}},
	{"venus", idloc.EventCandidates, func(s *story, e idloc.Event) string { return "ICE candidates: " + e.Detail }},
	{"venus", idloc.EventPairChosen, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("ICE chose %s and %s", e.Local, e.Remote)
	}},
	{"venus", idloc.EventPipeUp, func(s *story, e idloc.Event) string {
		return fmt.Sprintf("pipe to %s is up: %s", s.who(e.Peer), strings.TrimSpace(e.Detail))
	}},
	{"venus", idloc.EventPacketsReleased, func(s *story, e idloc.Event) string { return "SYN released into the pipe" }},
}

// story directs the three processes and checks what they tell.
type story struct {
	json, verbose bool

	names map[idloc.PeerID]string // by ID, for the telling
	seen  map[int]bool            // index into steps
	begin time.Time               // of the act that is told
	out   *json.Encoder
}

// process is one running peer.
type process struct {
	role string
	cmd  *exec.Cmd
	in   *writer
	shut func() error
}

// direct runs the story. It returns nil only if every step was seen.
func direct(ctx context.Context, asJSON, verbose bool) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s := &story{json: asJSON, verbose: verbose, names: map[idloc.PeerID]string{}, seen: map[int]bool{}, out: json.NewEncoder(os.Stdout)}
	lines := make(chan line, 256)
	ends := make(chan error, 3)
	var readers sync.WaitGroup
	procs := map[string]*process{}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel() // ends whoever has not ended by itself
		go func() { readers.Wait(); close(lines) }()
		for range lines {
		}
	}()
	for _, role := range []string{"earth", "venus", "mars"} {
		p, err := s.spawn(ctx, self, role, lines, ends, &readers)
		if err != nil {
			return err
		}
		procs[role] = p
	}
	s.title("three processes: earth %d, venus %d, mars %d", procs["earth"].cmd.Process.Pid, procs["venus"].cmd.Process.Pid, procs["mars"].cmd.Process.Pid)
	if err := s.run(ctx, procs, lines, ends); err != nil {
		return err
	}
	for _, p := range procs {
		if err := p.shut(); err != nil {
			return err
		}
	}
	for left := len(procs); left > 0; {
		select {
		case l := <-lines:
			s.event(l)
		case err := <-ends:
			if err != nil {
				return err
			}
			left--
		}
	}
	if missing := s.missing(); len(missing) > 0 {
		return fmt.Errorf("steps not seen: %s", strings.Join(missing, ", "))
	}
	s.title("every step was seen")
	return nil
}

// spawn starts one peer and the goroutine that reads it.
func (s *story) spawn(ctx context.Context, self, role string, lines chan<- line, ends chan<- error, readers *sync.WaitGroup) (*process, error) {
	cmd := exec.CommandContext(ctx, self, "-role", role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	readers.Go(func() {
		rerr := readLines(out, func(l line) error { lines <- l; return nil })
		err := cmd.Wait()
		if err == nil {
			err = rerr
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", role, err)
		}
		ends <- err
	})
	return &process{role: role, cmd: cmd, in: newWriter(in), shut: in.Close}, nil
}

// run plays the acts in order.
func (s *story) run(ctx context.Context, procs map[string]*process, lines <-chan line, ends <-chan error) error {
	tell := func(role string, st start) error {
		return procs[role].in.put(line{Start: &st})
	}
	// wait handles lines until each of roles is done with act ("" = ready).
	wait := func(act string, roles ...string) (map[string]line, error) {
		got := map[string]line{}
		for len(got) < len(roles) {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("%w while waiting for %s (%s); steps not seen: %s", ctx.Err(), strings.Join(roles, " and "), orReady(act), strings.Join(s.missing(), ", "))
			case err := <-ends:
				return nil, errors.Join(errors.New("a peer ended early"), err)
			case l := <-lines:
				s.event(l)
				if l.Done != nil && l.Done.Err != "" {
					return nil, fmt.Errorf("%s: %s: %s", l.Role, l.Done.Act, l.Done.Err)
				}
				if (act == "" && l.Ready != nil) || (l.Done != nil && l.Done.Act == act) {
					got[l.Role] = l
				}
			}
		}
		return got, nil
	}

	s.begin = time.Now()
	got, err := wait("", "earth")
	if err != nil {
		return err
	}
	earth := got["earth"].Ready
	s.say("earth", time.Now(), "founds %s and mints two tokens (%d characters each)", domain, len(earth.Tokens["mars"]))
	for _, role := range []string{"mars", "venus"} {
		if err := tell(role, start{Act: "join", Token: earth.Tokens[role]}); err != nil {
			return err
		}
	}
	if got, err = wait("", "venus", "mars"); err != nil {
		return err
	}
	for _, role := range []string{"mars", "venus"} {
		s.say(role, got[role].Time, "is in, as %s", got[role].Ready.Name)
	}

	s.title("venus fetches http://mars.%s/", domain)
	s.begin = time.Now()
	if err := tell("venus", start{Act: "fetch"}); err != nil {
		return err
	}
	if got, err = wait("fetch", "venus"); err != nil {
		return err
	}
	d := got["venus"].Done
	s.say("venus", got["venus"].Time, "%s, %d bytes, %s after the click", d.Detail, d.Received, d.Took.Round(time.Microsecond))

	s.title("datagrams, through the same pipe")
	s.begin = time.Now()
	if err := tell("venus", start{Act: "datagrams"}); err != nil {
		return err
	}
	if got, err = wait("datagrams", "venus"); err != nil {
		return err
	}
	d = got["venus"].Done
	s.say("venus", got["venus"].Time, "%s: %d bytes out, %d back, %s", d.Detail, d.Sent, d.Received, d.Took.Round(time.Microsecond))

	s.title("both directions at once")
	s.begin = time.Now()
	for _, role := range []string{"venus", "mars"} {
		if err := tell(role, start{Act: "both"}); err != nil {
			return err
		}
	}
	if got, err = wait("both", "venus", "mars"); err != nil {
		return err
	}
	for _, role := range []string{"venus", "mars"} {
		d := got[role].Done
		s.say(role, got[role].Time, "%s: %d bytes in %s, hashes equal", d.Detail, d.Sent, d.Took.Round(time.Microsecond))
	}
	return nil
}

func orReady(act string) string {
	if act == "" {
		return "to be ready"
	}
	return "to finish " + act
}

// event takes note of one line and prints it if it belongs to the story.
func (s *story) event(l line) {
	if l.Ready != nil {
		s.names[l.Ready.ID] = l.Role
	}
	if s.json {
		if l.Ready != nil { // tokens admit: they are not for a log
			r := *l.Ready
			r.Tokens = nil
			l.Ready = &r
		}
		s.out.Encode(l)
	}
	if l.Event == nil {
		return
	}
	for i, st := range steps {
		if s.seen[i] || st.role != l.Role || st.kind != l.Event.Kind || !s.fits(l) {
			continue
		}
		s.seen[i] = true
		s.say(l.Role, l.Time, "%s", st.tell(s, *l.Event))
		return
	}
	if s.verbose && !s.json {
		b, _ := json.Marshal(l.Event)
		s.say(l.Role, l.Time, "· %s", b)
	}
}

// fits leaves out what the peers do while they join.
func (s *story) fits(l line) bool {
	e := l.Event
	if l.Time.Before(s.begin) || len(s.names) < 3 {
		return false
	}
	switch {
	case e.Name != "" && e.Name != "mars."+domain:
		return false
	case l.Role == "venus" && !e.Peer.IsZero() && s.names[e.Peer] != "mars":
		return false
	case e.Kind == idloc.EventOfferForwarded:
		return s.names[e.From] == "venus" && s.names[e.Peer] == "mars"
	}
	return true
}

func (s *story) missing() []string {
	var names []string
	for i, st := range steps {
		if !s.seen[i] {
			names = append(names, st.role+" "+string(st.kind))
		}
	}
	return names
}

// who names a peer of the story.
func (s *story) who(id idloc.PeerID) string {
	if name, ok := s.names[id]; ok {
		return name
	}
	return short(id)
}

func short(id idloc.PeerID) string {
	t := id.String()
	if len(t) > 12 {
		return t[:8] + "…" + t[len(t)-4:]
	}
	return t
}

func (s *story) title(format string, a ...any) {
	if !s.json {
		fmt.Printf("\n— "+format+"\n", a...)
	}
}

func (s *story) say(role string, at time.Time, format string, a ...any) {
	if !s.json {
		fmt.Printf("%9.3f ms  %-6s %s\n", float64(at.Sub(s.begin).Microseconds())/1000, role, fmt.Sprintf(format, a...))
	}
}
