package main

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// Two hosts with TUN devices in namespaces of their own, and the programs of
// every day between them: tun.sh, with the test binary for the gateway.
func TestTUN(t *testing.T) {
	t.Parallel()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	for _, p := range []string{"bash", "ip", "mount"} {
		program(t, p)
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	f.Close()
	// With a PID namespace nothing outlives the test.
	args := []string{"-Urnmpf", "--mount-proc", "--kill-child"}
	if b, err := exec.Command(unshare, append(args, "true")...).CombinedOutput(); err != nil {
		t.Skipf("no namespaces can be made here: %v: %s", err, b)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("tun.sh")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, unshare, append(args, script)...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "GATEWAY="+self, "IDLOC_GATEWAY=1")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, part := range strings.Split(out, "\n# ")[1:] {
		what, said, _ := strings.Cut(strings.TrimSpace(part), "\n")
		if strings.HasSuffix(what, "left out") {
			t.Log(what)
			continue
		}
		want := map[string]string{
			"dig:":                    "is mars.example.com.",
			"ping: both families":     " 0% packet loss",
			"ping: an address":        "Unreachable",
			"curl: 20 MB":             "200 from ",
			"curl: a port":            "connect",
			"curl: from an address":   "curl: (7)", // not (28), a timeout
			"a crash:":                "No route to host\nNo route to host",
			"an orderly end:":         "via 192.0.2.2 dev eth0",
			"a host that has such":    "-lsi-prefix 198.19.0.0/16",
			"ssh:":                    "hello from fred on mars",
			"SIPp:":                   "Successful call | 0 | 50",
			"what the device did not": "",
		}
		known := false
		for begin, text := range want {
			if strings.HasPrefix(what, begin) {
				known = true
				if !strings.Contains(said, text) {
					t.Errorf("%s: said %q, not %q", what, said, text)
				}
			}
		}
		if !known {
			t.Errorf("the script does something that this test does not know: %s", what)
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(out), "all done") {
		t.Errorf("the script did not come to its end:\n%s", out)
	}
}

func TestAdmit(t *testing.T) {
	if f, err := admit(nil); f != nil || err != nil {
		t.Error("without -allow somebody is asked")
	}
	f, err := admit([]string{"tcp:22", "udp:5060", "udp:10000-20000"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		network string
		port    uint16
		want    bool
	}{
		{"tcp", 22, true}, {"udp", 22, false}, {"udp", 5060, true}, {"tcp", 5060, false}, {"tcp", 23, false},
		{"udp", 9999, false}, {"udp", 10000, true}, {"udp", 20000, true}, {"udp", 20001, false}, {"tcp", 15000, false},
	} {
		flow := idloc.Flow{Network: c.network, Local: netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), c.port)}
		if got := f(flow); got != c.want {
			t.Errorf("%s %d: %v", c.network, c.port, got)
		}
	}
	for _, bad := range []string{"", "22", "tcp", "tcp:", "tcp:ssh", "icmp:1", "udp:20-10", "udp:1-70000", "tcp:-1"} {
		if _, err := admit([]string{bad}); err == nil {
			t.Errorf("-allow %q was taken", bad)
		}
	}
}
