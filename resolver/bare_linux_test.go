package resolver

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const searchEnv = "IDLOC_RESOLVER_SEARCH" // set in the process with a search list

// Go's own resolver on a host with a search list, to which this test belongs
// in a namespace with another resolv.conf.
func TestGoSearchList(t *testing.T) {
	if os.Getenv(searchEnv) == "" {
		inOtherHost(t, "nameserver 192.0.2.53\nsearch corp.example lab.example\n")
		return
	}
	outside := new(corp)
	s := serverOf(t, Config{
		Upstream: Static(serveDNS(t, outside)), Prefixes: prefixes, Search: SystemSearch(),
	})
	r := s.NetResolver()
	for _, c := range []struct {
		host, want string
		asked      string // outside
	}{
		{"mars", "198.18.0.2 2001:21::2", ""},
		{"mars.", "198.18.0.2 2001:21::2", ""},
		{"mars.corp.example", "192.0.2.66", "mars.corp.example."},
		{"printer", "192.0.2.99", "printer.corp.example."},
		{"down", "", ""},
	} {
		got, err := r.LookupHost(t.Context(), c.host)
		slices.Sort(got)
		if text, asked := strings.Join(got, " "), outside.take(); text != c.want || asked != c.asked || (err == nil) != (c.want != "") {
			t.Errorf("LookupHost(%s) = %s, %v, outside was asked %q; want %s, %q", c.host, text, err, asked, c.want, c.asked)
		}
	}
	var e *net.DNSError
	if _, err := r.LookupMX(t.Context(), "mars"); !errors.As(err, &e) || !e.IsNotFound {
		t.Errorf("LookupMX(mars): %v", err)
	}
	if asked := outside.take(); asked != "" {
		t.Errorf("LookupMX(mars) asked %q outside", asked)
	}
	if _, err := r.LookupHost(t.Context(), "nobody"); !errors.As(err, &e) || !e.IsNotFound || e.Name != "nobody" {
		t.Errorf("LookupHost(nobody): %v", err)
	}
}

// inOtherHost runs this test alone in a process whose /etc/resolv.conf is text.
func inOtherHost(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	const script = `mount --bind "$1" /etc/resolv.conf || exit 77; shift; exec "$@"`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", path, os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), searchEnv+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit), exit.ExitCode() == 77:
		t.Skipf("no process with a resolv.conf of its own can be made here: %v\n%s", err, out)
	default:
		t.Errorf("%v\n%s", err, out)
	}
}
