package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// story directs the three processes and checks what they tell.
type story struct {
	tale  *tale
	procs map[string]*process
	heard chan message // what the processes say; closed when all have ended
}

// process is one running peer.
type process struct {
	cmd  *exec.Cmd
	in   *writer
	shut func() error
}

// message is a line of a process or, the last one, its end.
type message struct {
	line
	role  string
	ended bool
	err   error // why it ended, nil: because it was told to
}

// direct runs the story. It returns nil only if every step was seen.
func direct(ctx context.Context, out io.Writer, limit time.Duration, asJSON, verbose bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s := &story{tale: newTale(out, asJSON, verbose), procs: map[string]*process{}, heard: make(chan message, 256)}
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer func() {
		cancel() // ends whoever has not ended by itself
		go func() { readers.Wait(); close(s.heard) }()
		for range s.heard {
		}
	}()
	begin := time.Now()
	for _, role := range roles {
		p, err := s.spawn(ctx, exec.CommandContext(ctx, self, "-role", role, "-timeout", limit.String()), role, &readers)
		if err != nil {
			return err
		}
		s.procs[role] = p
	}
	if err := s.run(ctx, begin); err != nil {
		return errors.Join(err, s.tale.tell()) // what was heard may say why
	}
	for _, p := range s.procs {
		if err := p.shut(); err != nil {
			return err
		}
	}
	for left := len(s.procs); left > 0; {
		switch m := <-s.heard; {
		case !m.ended:
			s.tale.hear(m.line)
		case m.err != nil:
			return m.err
		default:
			left--
		}
	}
	if verbose {
		if err := s.tale.act(time.Now(), "all leave"); err != nil {
			return err
		}
	}
	if !asJSON {
		fmt.Fprintln(out, "\n— every step was seen")
	}
	return nil
}

// spawn starts one peer and the goroutine that reads it.
func (s *story) spawn(ctx context.Context, cmd *exec.Cmd, role string, readers *sync.WaitGroup) (*process, error) {
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
		rerr := readLines(out, func(l line) error { s.heard <- message{line: l, role: role}; return nil })
		err := cmd.Wait()
		if err == nil {
			err = rerr
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", role, err)
		}
		s.heard <- message{role: role, ended: true, err: err}
	})
	return &process{cmd: cmd, in: newWriter(in), shut: in.Close}, nil
}

// run plays the acts in order. An act is over when those who play it say so
// and what has to be seen of it was heard from everybody: a process's word
// that it is done may overtake its own events, and those of the others.
func (s *story) run(ctx context.Context, begin time.Time) error {
	got, err := s.wait(ctx, "", "earth")
	if err != nil {
		return err
	}
	tokens := got["earth"].Ready.Tokens
	for _, role := range []string{"mars", "venus"} {
		if err := s.tell(role, start{Act: "join", Token: tokens[role]}); err != nil {
			return err
		}
	}
	if _, err = s.wait(ctx, "", "venus", "mars"); err != nil {
		return err
	}
	if err := s.tale.act(begin, "three processes: earth %d, venus %d, mars %d", s.pid("earth"), s.pid("venus"), s.pid("mars")); err != nil {
		return err
	}
	for _, a := range []struct {
		name, title string
		roles       []string
	}{
		{"fetch", "venus fetches http://mars." + domain + "/", []string{"venus"}},
		{"datagrams", "datagrams, through the same pipe", []string{"venus"}},
		{"both", "both directions at once", []string{"venus", "mars"}},
	} {
		begin := time.Now()
		for _, role := range a.roles {
			if err := s.tell(role, start{Act: a.name}); err != nil {
				return err
			}
		}
		_, err := s.wait(ctx, a.name, a.roles...)
		if err := errors.Join(err, s.tale.act(begin, "%s", a.title)); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) pid(role string) int { return s.procs[role].cmd.Process.Pid }

func (s *story) tell(role string, st start) error {
	return s.procs[role].in.put(line{Start: &st})
}

// wait hears lines until each of roles is done with act ("" = ready), and
// until every step was seen if the act has steps.
func (s *story) wait(ctx context.Context, act string, roles ...string) (map[string]line, error) {
	got := map[string]line{}
	for len(got) < len(roles) || act == "fetch" && len(s.tale.missing()) > 0 {
		select {
		case <-ctx.Done():
			if len(got) < len(roles) {
				return nil, fmt.Errorf("%w while waiting for %s %s", context.Cause(ctx), strings.Join(roles, " and "), orReady(act))
			}
			return nil, fmt.Errorf("%w; steps not seen: %s", context.Cause(ctx), strings.Join(s.tale.missing(), ", "))
		case m := <-s.heard:
			if m.ended {
				return nil, errors.Join(fmt.Errorf("%s ended early", m.role), m.err)
			}
			s.tale.hear(m.line)
			if m.Done != nil && m.Done.Err != "" {
				return nil, fmt.Errorf("%s: %s: %s", m.role, m.Done.Act, m.Done.Err)
			}
			if (act == "" && m.Ready != nil) || (m.Done != nil && m.Done.Act == act) {
				got[m.role] = m.line
			}
		}
	}
	return got, nil
}

func orReady(act string) string {
	if act == "" {
		return "to be ready"
	}
	return "to finish " + act
}
