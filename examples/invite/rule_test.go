package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// words are those of a command, in which @earth is the directory of earth.
func (s *shell) words(args []string) (out []string) {
	for _, a := range args {
		if name, ok := strings.CutPrefix(a, "@"); ok {
			a = filepath.Join(s.dir, name)
		}
		out = append(out, a)
	}
	return out
}

// ask runs a command in this process, with what it reads.
func (s *shell) ask(in string, args ...string) (out, diag string, err error) {
	s.t.Helper()
	var o, d bytes.Buffer
	err = run(s.t.Context(), s.words(args), streams{strings.NewReader(in), &o, &d})
	s.t.Logf("$ invite %s\n%s%s(%v)", strings.Join(args, " "), &o, &d, err)
	return o.String(), d.String(), err
}

// in asks what has to be in force at once.
func (s *shell) in(args ...string) string {
	s.t.Helper()
	out, diag, err := s.ask("", args...)
	if err != nil || strings.Contains(diag, "not in force") {
		s.t.Fatalf("%q: %v, %s%s", args, err, out, diag)
	}
	return out
}

// propose asks what others have to approve, and returns the proposal's ID.
func (s *shell) propose(what, in string, args ...string) string {
	s.t.Helper()
	_, diag, err := s.ask(in, args...)
	m := regexp.MustCompile(`not in force yet: .*proposal ([0-9a-f]+), to ` + what + `, has 1 of 2 signatures; another authority says: invite approve DIR ID`).FindStringSubmatch(diag)
	if err != nil || m == nil {
		s.t.Fatalf("%q: %v, %q is no proposal to %s", args, err, diag, what)
	}
	return m[1]
}

// until asks again and again, as members tell each other in their own time.
func (s *shell) until(want string, args ...string) string {
	s.t.Helper()
	re := regexp.MustCompile(want)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		var out, diag bytes.Buffer
		err := run(s.t.Context(), s.words(args), streams{strings.NewReader(""), &out, &diag})
		if err == nil && re.Match(out.Bytes()) {
			s.t.Logf("$ invite %s: after %v", strings.Join(args, " "), time.Since(begin).Round(time.Millisecond))
			return out.String()
		}
		if time.Since(begin) > time.Minute {
			s.t.Fatalf("%q does not say %q: %v, %s%s", args, want, err, &out, &diag)
		}
	}
}

// overlay is earth, which has founded it, and members that it knows.
func (s *shell) overlay(members ...string) {
	s.t.Helper()
	script := "invite found earth example.com &\n"
	for _, m := range members {
		script += m + "=$(invite invite earth " + m + "); invite join " + m + ` "$` + m + `" &` + "\n"
	}
	for _, m := range members {
		script += "invite ping earth " + m + " || exit\n"
	}
	s.t.Cleanup(func() { s.run("invite -wait 1ms stop earth\n" + s.stops(members...)) })
	if _, err := s.run(script); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shell) stops(members ...string) (script string) {
	for _, m := range members {
		script += "invite -wait 1ms stop " + m + "\n"
	}
	return script
}

// TestWithoutTheFounder: others that it has promoted invite and revoke when the founder is
// lost with its directory, and a recovery line makes another one an authority.
func TestWithoutTheFounder(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.overlay("mars", "venus", "ceres", "pluto")
	if out := s.in("authorities", "@earth"); !regexp.MustCompile(`^founder\t[0-9a-f]{16}\tthis node\n1 of 1 have to agree\n$`).MatchString(out) {
		t.Errorf("at first: %q", out)
	}
	if _, _, err := s.ask("", "promote", "@mars", "mars"); err == nil || !strings.Contains(err.Error(), "policy") {
		t.Errorf("a member promotes itself: %v", err)
	}
	if out := s.in("promote", "@earth", "mars"); out != "mars is an authority\n" {
		t.Errorf("promote: %q", out)
	}
	s.in("promote", "@earth", "venus")
	line, diag, err := s.ask("", "recovery", "@earth")
	if err != nil || !strings.HasPrefix(line, "recover1 ") || strings.Count(line, "\n") != 1 || !strings.Contains(diag, "shown once") {
		t.Errorf("recovery: %v, %q, %q", err, line, diag)
	}
	s.in("threshold", "@earth", "2")
	for _, bad := range [][]string{{"threshold", "@earth", "many"}, {"threshold", "@earth", "5"}, {"unattended", "@earth", "long"}, {"unattended", "@earth", "1h"}, {"demote", "@earth", "nobody"}, {"-wait", "1ms", "approve", "@earth", "00"}} {
		if _, _, err := s.ask("", bad...); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	rulers := `^founder\t[0-9a-f]{16}\nmars\t[0-9a-f]{16}\tthis node\nvenus\t[0-9a-f]{16}\nrecovery\t[0-9a-f]{16}\trecovery\n2 of 4 have to agree\n$`
	s.until(rulers, "authorities", "@mars")
	s.until("2 of 4", "authorities", "@venus")

	// One proposes, another approves.
	id := s.propose("revoke pluto.*", "", "revoke", "@earth", "pluto")
	s.until(`(?m)^`+id+`\trevoke .*\tfounder\t1 of 2$`, "proposals", "@venus") // which may know pluto by its ID alone
	if out := s.in("approve", "@venus", id[:6]); !strings.HasSuffix(out, " is in force\n") {
		t.Errorf("approve: %q", out)
	}
	s.until("^$", "proposals", "@earth")
	s.until(`"what":"revoked".*"by":\["founder","venus"\]|"what":"revoked".*"by":\["venus","founder"\]`, "history", "@mars")

	// The founder is lost. Its members know all that it knew.
	s.until("2 of 4", "authorities", "@ceres")
	if _, err := s.run("invite stop earth; rm -r earth"); err != nil {
		t.Fatal(err)
	}
	token := s.in("invite", "@mars", "io")
	if _, err := s.run("invite join io " + strings.TrimSpace(token) + " & invite ping venus io"); err != nil {
		t.Errorf("io does not come in: %v", err)
	}
	t.Cleanup(func() { s.run(s.stops("io")) })
	id = s.propose("revoke io.*", "", "-replaces", "io", "invite", "@mars")
	s.in("approve", "@venus", id) // which waits until venus has it
	s.until(`"what":"revoked","whom":"io"`, "history", "@mars")
	if _, err := s.run("invite -wait 1s ping mars io"); err == nil {
		t.Error("io answers after it was revoked")
	}

	// A fourth has the line: it proposes to be an authority, and mars agrees. Both its keys
	// sign then.
	if _, _, err := s.ask("recover1 aaaa", "recover", "@ceres"); err == nil || !strings.Contains(err.Error(), "recovery line") {
		t.Errorf("no recovery line: %v", err)
	}
	id = s.propose("promote ceres.*", line, "recover", "@ceres")
	s.in("approve", "@mars", id)
	s.until(`(?m)^ceres\t[0-9a-f]{16}\tthis node$`, "authorities", "@ceres")
	if out := s.in("-void", "demote", "@ceres", "founder"); out != "founder is no authority any more\n" {
		t.Errorf("demote: %q", out)
	}
	s.in("unattended", "@ceres", "2160h")
	s.until("2 of 4", "authorities", "@venus")
	var did []string
	for line := range strings.Lines(s.until("unattended", "history", "@venus")) {
		var h idloc.Happening
		if err := json.Unmarshal([]byte(line), &h); err != nil || len(h.By) == 0 || len(h.By) != len(h.Keys) {
			t.Errorf("%v: %s", err, line)
		}
		if h.What != "revoked" && h.What != "confirmed" { // which depend on who confirmed io, and are several for one member
			did = append(did, strings.TrimSpace(h.What+" "+h.Whom))
		}
	}
	if got := strings.Join(did, ", "); got != "promoted mars, promoted venus, promoted recovery, threshold, promoted ceres, demoted founder, unattended" {
		t.Errorf("venus has seen %s", got)
	}
}

// TestSixLines runs the README's lines about an overlay without its founder, which is lost
// where the README says so.
func TestSixLines(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```sh\n(invite promote .*?\n)(invite recover .*?)```").FindSubmatch(readme)
	if m == nil || bytes.Count(m[1], []byte("\n")) != 3 || bytes.Count(m[2], []byte("\n")) != 3 {
		t.Fatalf("the six lines are not in the README: %q", m)
	}
	s := newShell(t)
	s.overlay("mars", "venus")
	out, err := s.run(string(m[1]))
	if err != nil || !strings.Contains(out, "mars is an authority\n") || !strings.Contains(out, "shown once") || !strings.Contains(out, "2 of the authorities have to agree") {
		t.Errorf("the first three lines: %v", err)
	}
	s.until("2 of 3", "authorities", "@mars")
	s.until("2 of 3", "authorities", "@venus")
	if _, err := s.run("invite stop earth; rm -r earth"); err != nil {
		t.Fatal(err)
	}
	out, err = s.run(string(m[2]))
	if err != nil || !regexp.MustCompile(`to promote venus.*, has 1 of 2 signatures`).MatchString(out) || !strings.Contains(out, " is in force\n") || !strings.Contains(out, `"what":"promoted","whom":"venus"`) {
		t.Errorf("the last three lines: %v", err)
	}
	s.until(`(?m)^venus\t[0-9a-f]{16}\tthis node$`, "authorities", "@venus")
	s.in("-void", "demote", "@venus", "founder") // as the text below them says
}
