//go:build linux

package kernellab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// portal is a box that lets only those out who have logged in. To web servers, and to
// whatever else is on their ports, others speak with the box's own.
func (l *lab) portal(space string) {
	l.t.Helper()
	always(portRestricted)(l, space, "")
	l.rules("box-"+space, `table ip portal {
	set paid { type ipv4_addr; }
	chain in {
		type nat hook prerouting priority dstnat - 1;
		iifname "in" ip saddr != @paid tcp dport 80 redirect to :8080
		iifname "in" ip saddr != @paid tcp dport 443 redirect to :8443
	}
	chain forward { type filter hook forward priority -1; iifname "in" ip saddr != @paid drop; oifname "in" ip daddr != @paid drop; }
}
`)
	cert, key := certificate(l.t, l.dirs, inner+".1")
	l.nginx("box-"+space, "127.0.0.1:8443", fmt.Sprintf(`
		listen 8080; listen 8443 ssl;
		ssl_certificate %[1]s; ssl_certificate_key %[2]s;
		return 302 http://%[3]s.1:8080/login;
`, cert, key, inner))
}

// logIn and logOut are what the portal's page does.
func (l *lab) logIn(space string) {
	l.t.Helper()
	l.shell(fmt.Sprintf("ip netns exec box-%s nft add element ip portal paid '{ %s.2 }'", space, inner))
}

func (l *lab) logOut(space string) {
	l.t.Helper()
	l.shell(fmt.Sprintf("ip netns exec box-%s nft delete element ip portal paid '{ %s.2 }'", space, inner))
}

// TestCaptivePortal: a network that wants a login in a browser is told from one that is
// broken, and when somebody has logged in it goes on by itself.
func TestCaptivePortal(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for what is blocked: not with -short")
	}
	t.Parallel()
	needs(t, "nginx", "nginx-light")
	if !inside(t) {
		return
	}
	const hint = "captive portal"
	l := newLab(t)
	l.public("earth")
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Carry: ":443"})
	l.portal("hotel")
	early := l.start("hotel", "early")
	if _, err := early.ask(request{Op: "join", Name: "early", Token: earth.invite("early"), Within: 8 * time.Second}); err == nil || !strings.Contains(err.Error(), hint) {
		t.Errorf("a join before the login: %v", err)
	} else {
		t.Logf("a join before the login is told: %v", err)
	}
	l.leave(early)

	l.logIn("hotel")
	mars := l.start("hotel", "mars")
	mars.must(request{Op: "join", Name: "mars", Token: earth.invite("mars")})
	t.Logf("joined after the login: UDP %q", mars.must(request{Op: "self"}).Self.UDP)

	// The login ends while the node runs: everything is silent but the portal.
	until := func(what string, within time.Duration, ok func(a answer) bool) time.Duration {
		t.Helper()
		w := measure(t)
		tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
		defer tick.Stop()
		for ; ; <-tick.C {
			a := mars.must(request{Op: "self"})
			if ok(a) {
				return w.took()
			}
			if w.took() > bound(within) {
				t.Fatalf("%s: not after %v: alone %v, %q", what, within, a.Self.Alone, a.Self.AloneWhy)
			}
		}
	}
	l.logOut("hotel")
	said := until("the portal is noticed", 2*time.Minute, func(a answer) bool { return a.Self.Alone && strings.Contains(a.Self.AloneWhy, hint) })
	l.logIn("hotel")
	back := until("it is back", 30*time.Second, func(a answer) bool { return !a.Self.Alone })
	t.Logf("the login had ended: said after %v; logged in again: back after %v", said.Round(time.Millisecond), back.Round(time.Millisecond))
	if c := try(mars, earth, false); c.err != nil {
		t.Error(c.err)
	}
}
