package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The test binary is the program as well, so that the shell runs it as a user
// would.
func TestMain(m *testing.M) {
	if os.Getenv("IDLOC_INVITE") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// shell runs scripts in a directory in which "invite" is this program.
type shell struct {
	t   *testing.T
	dir string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh to run the lines with: ", err)
	}
	// A socket's path is short: t.TempDir may be too long for it.
	dir, err := os.MkdirTemp("", "inv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "bin", "invite")); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	return &shell{t, dir}
}

func (s *shell) run(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // t's own has ended in a Cleanup
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", script)
	c.Dir = s.dir
	c.Env = append(os.Environ(), "IDLOC_INVITE=1", "INVITE_ADDRS=127.0.0.1",
		"PATH="+filepath.Join(s.dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	// A file: with a pipe, Run would wait for the background processes too.
	f, err := os.CreateTemp(s.dir, "out")
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	c.Stdout, c.Stderr = f, f
	err = c.Run()
	b, _ := os.ReadFile(f.Name())
	s.t.Logf("$ %s\n%s(%v)", script, b, err)
	return string(b), err
}

// TestFiveLines runs the README's lines as they stand there, and looks at what
// has come of them.
func TestFiveLines(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```sh\n(invite found .*?)```").FindSubmatch(readme)
	if m == nil || bytes.Count(m[1], []byte("\n")) != 5 {
		t.Fatalf("the five lines are not in the README: %q", m)
	}
	s := newShell(t)
	t.Cleanup(func() { s.run("invite -wait 5s stop earth; invite -wait 5s stop mars") })
	out, err := s.run(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"earth.example.com is up\n", "mars.example.com is up\n", "mars.example.com answers after ", "mars is revoked\n", "earth.example.com has stopped\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the five lines did not print %q", want)
		}
	}
	if out, err := s.run("invite status earth"); err != nil || !strings.Contains(out, `"revocation_seq": 1`) {
		t.Errorf("after the restart: %v", err)
	}
	if _, err := s.run("invite -wait 1s ping earth mars"); err == nil {
		t.Error("mars answers after it was revoked")
	}
	if out, err := s.run("invite open earth"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a second process on one directory: %v", err)
	}
	// Nor when it starts again: it is its certificate that was revoked.
	if _, err := s.run("invite stop mars; invite open mars & invite -wait 2s ping earth mars"); err == nil {
		t.Error("mars answers after it was revoked and started again")
	}
}

// TestZoneAndLeave: the zone-file lines name everybody; who leaves is not known
// any more, at once.
func TestZoneAndLeave(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	t.Cleanup(func() { s.run("invite -wait 5s stop earth") })
	out, err := s.run(`invite found earth example.com &
token=$(invite invite earth mars)
invite join mars "$token" & invite ping earth mars && invite zone earth`)
	for _, name := range []string{"earth", "mars"} {
		if !regexp.MustCompile(`(?m)^`+name+`\.example\.com\.\t3600\tIN\tTXT\t"idloc=12D3KooW\w+"$`).MatchString(out) || err != nil {
			t.Errorf("no zone-file line for %s: %v", name, err)
		}
	}
	if out, err := s.run("invite leave mars"); err != nil || !strings.Contains(out, "mars.example.com has left") {
		t.Errorf("leave: %v", err)
	}
	if out, err := s.run("invite -wait 2s ping earth mars"); err == nil || !strings.Contains(out, "no such host") {
		t.Errorf("ping of who has left: %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	var diag bytes.Buffer
	std := streams{strings.NewReader(""), &diag, &diag}
	_ = run(t.Context(), []string{"-h"}, std)
	for _, command := range []string{"found DIR DOMAIN", "join DIR TOKEN", "open DIR", "invite DIR [LABEL]", "revoke DIR LABEL", "ping DIR LABEL", "status DIR", "zone DIR", "stop DIR", "leave DIR",
		"authorities DIR", "promote DIR LABEL", "demote DIR NAME", "threshold DIR N", "unattended DIR D", "recovery DIR", "recover DIR [LINE]", "proposals DIR", "approve DIR ID", "history DIR",
		"-addrs", "-delegate", "-expires", "-replaces", "-void", "-wait"} {
		if !strings.Contains(diag.String(), command) {
			t.Errorf("-h does not say %q", command)
		}
	}
	for _, args := range [][]string{{}, {"found"}, {"found", "d"}, {"open", "d", "x"}, {"nonsense", "d"}, {"-nonsense"}, {"revoke", "d"}, {"promote", "d"}, {"approve", "d"}, {"history", "d", "x"}, {"threshold", "d", "2", "3"}} {
		if err := run(t.Context(), args, std); err != errUsage {
			t.Errorf("%q: %v, want the usage", args, err)
		}
	}
	if err := run(t.Context(), []string{"-wait", "1ms", "invite", t.TempDir()}, std); err == nil || !strings.Contains(err.Error(), "no node runs in") {
		t.Errorf("nobody there: %v", err)
	}
}
