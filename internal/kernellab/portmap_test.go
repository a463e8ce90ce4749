//go:build linux

package kernellab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upnpRules are the chains that miniupnpd fills, behind what the box does.
const upnpRules = `table inet filter {
	chain miniupnpd { }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
	chain prerouting { type nat hook prerouting priority dstnat; iifname "ext" jump prerouting_miniupnpd; }
}
`

// noPCP has a box be one that does not know PCP, version 2 of the protocol, which
// miniupnpd always speaks beside version 0.
const noPCP = "table inet old { chain input { type filter hook input priority -1; udp dport 5351 @th,64,8 2 drop; }; }"

// TestPortMapping: of two peers behind symmetric NATs, which no checks join,
// one has a router that maps ports; the other reaches it there. When the node
// leaves, the mapping is gone.
func TestPortMapping(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for routers: not with -short")
	}
	needs(t, "miniupnpd", "miniupnpd-nftables")
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth"})
	always(symmetric)(l, "venus", "")
	venus := l.join(earth, "venus")
	for _, protocol := range []string{"PCP", "NAT-PMP", "UPnP"} {
		t.Run(protocol, func(t *testing.T) {
			label := "mars" + strings.ToLower(protocol[:1])
			box := "box-" + label
			ext := l.public(box)
			l.behind(label, box, inner)
			l.rules(box, symmetric+upnpRules)
			if protocol == "NAT-PMP" {
				l.rules(box, noPCP)
			}
			stop := miniupnpd(t, box, protocol)
			defer stop()
			mars := l.join(earth, label)
			var mapped string
			tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
			defer tick.Stop()
			for end := time.Now().Add(2 * time.Minute); mapped == "" && time.Now().Before(end); <-tick.C {
				a, err := mars.ask(request{Op: "ported"})
				if err != nil {
					t.Fatal(err)
				}
				mapped = a.Text
			}
			if !strings.HasPrefix(mapped, protocol+" "+ext+":") {
				t.Fatalf("mapped %q, want %s on %s", mapped, protocol, ext)
			}
			if rules := listed(t, box); !strings.Contains(rules, "dnat") {
				t.Errorf("the router has no mapping:\n%s", rules)
			}
			c := try(venus, mars, true)
			t.Logf("%s; venus to mars: %s after %v, %v", mapped, c.kind, c.took.Round(time.Millisecond), c.err)
			if c.err != nil || c.kind != "direct" {
				t.Errorf("venus to mars: %s, %v", c.kind, c.err)
			}
			l.leave(mars)
			if rules := listed(t, box); strings.Contains(rules, "dnat") {
				t.Errorf("the mapping is still there:\n%s", rules)
			}
		})
	}
}

func listed(t *testing.T, box string) string {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", box, "nft", "list", "table", "inet", "filter").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// routerPorts are the UDP ports of the protocols, as the kernel prints them.
var routerPorts = map[string]string{"PCP": ":14E7 ", "NAT-PMP": ":14E7 ", "UPnP": ":076C "}

// miniupnpd runs the daemon in a box, with one of its protocols (PCP goes with NAT-PMP), and
// returns when it listens: a node that finds no router asks again in a minute.
func miniupnpd(t *testing.T, box, protocol string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	yes := map[bool]string{true: "yes", false: "no"}
	text := fmt.Sprintf(`ext_ifname=ext
listening_ip=in
enable_natpmp=%s
enable_upnp=%s
secure_mode=yes
uuid=7f7d3c0e-0000-4000-8000-000000000001
allow 1024-65535 0.0.0.0/0 1024-65535
`, yes[protocol != "UPnP"], yes[protocol == "UPnP"])
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("ip", "netns", "exec", box, "miniupnpd", "-d", "-f", conf, "-P", filepath.Join(dir, "pid"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("miniupnpd:\n%s", b)
		}
	}
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); ; <-tick.C {
		sockets, err := exec.Command("ip", "netns", "exec", box, "cat", "/proc/net/udp").Output()
		if err == nil && strings.Contains(string(sockets), routerPorts[protocol]) {
			return stop
		}
		if time.Now().After(end) {
			t.Errorf("miniupnpd does not listen: %v: %s", err, sockets)
			stop()
			t.FailNow()
		}
	}
}
