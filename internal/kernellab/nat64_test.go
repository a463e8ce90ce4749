//go:build linux

package kernellab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The environment variable that tells a process which addresses it answers with for
// ipv4only.arpa.
const dns64Variable = "IDLOC_KERNELLAB_DNS64"

// runDNS64 is a resolver of which nothing is asked but ipv4only.arpa.
func runDNS64() int {
	serve := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		switch ask := q.Question[0]; {
		case ask.Name != "ipv4only.arpa.":
			m.Rcode = dns.RcodeNameError
		case ask.Qtype == dns.TypeAAAA:
			for _, a := range strings.Fields(os.Getenv(dns64Variable)) {
				m.Answer = append(m.Answer, &dns.AAAA{
					Hdr:  dns.RR_Header{Name: ask.Name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 60},
					AAAA: netip.MustParseAddr(a).AsSlice(),
				})
			}
		}
		_ = w.WriteMsg(m)
	})
	tcp := &dns.Server{Addr: "[::]:53", Net: "tcp", Handler: serve} // by which daemon sees that it runs
	go func() { _ = tcp.ListenAndServe() }()
	if err := (&dns.Server{Addr: "[::]:53", Net: "udp", Handler: serve}).ListenAndServe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// nat64 makes a namespace with IPv6 only, in net::/64, behind a box that has IPv4 to the
// outside: tayga translates for it, with a prefix, in front of the usual NAT, and the
// box's resolver gives answers for ipv4only.arpa.
func (l *lab) nat64(space, net, prefix, answers, pass string) {
	l.t.Helper()
	box := "box-" + space
	l.public(box)
	l.behind(space, box, inner)
	conf := filepath.Join(l.dirs, "tayga-"+space)
	text := fmt.Sprintf("tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr %s:1::64\nprefix %s\ndynamic-pool 192.168.255.0/24\n", net, prefix)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.shell(fmt.Sprintf(`ip -n %[2]s addr flush dev in scope global
ip -n %[2]s addr add %[3]s::1/64 dev in nodad
ip -n %[1]s addr flush dev ext scope global
ip -n %[1]s addr add %[3]s::2/64 dev ext nodad
ip -n %[1]s -6 route add default via %[3]s::1
ip netns exec %[2]s sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
ip netns exec %[2]s tayga -c %[4]s --mktun
ip -n %[2]s link set nat64 up
ip -n %[2]s route add 192.168.255.0/24 dev nat64
ip -n %[2]s -6 route add %[5]s dev nat64`, space, box, net, conf, prefix))
	l.rules(box, ruleset(masquerade, "", pass+` iifname "nat64" accept;`))
	tayga := exec.Command("ip", "netns", "exec", box, "tayga", "-c", conf, "-d")
	if err := tayga.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.daemons = append(l.daemons, func() { _ = tayga.Process.Kill(); _ = tayga.Wait() })
	l.daemon(box, "["+net+"::1]:53", "env", roleVariable+"=dns64", dns64Variable+"="+answers, l.self)
	file := filepath.Join(l.dirs, "resolv-"+space)
	if err := os.WriteFile(file, []byte("nameserver "+net+"::1\noptions timeout:1\n"), 0o644); err != nil {
		l.t.Fatal(err)
	}
	l.resolvers[space] = file
}

// TestNAT64: members on hosts with IPv6 only reach those with IPv4 only by their
// networks' NAT64, and are reached, whether the resolver or the router tells the prefix.
func TestNAT64(t *testing.T) {
	if testing.Short() {
		t.Skip("processes in namespaces: not with -short")
	}
	t.Parallel()
	needs(t, "tayga", "tayga")
	if _, err := os.Stat("/etc/resolv.conf"); err != nil {
		t.Skipf("nothing to put another resolver in the place of: %v", err)
	}
	if !inside(t) {
		return
	}
	l := newLab(t)
	at := l.public("earth")
	always(portRestricted)(l, "moon", "")
	const noUDP = "meta l4proto udp drop;"
	l.nat64("mars", "2a03:0:0", "64:ff9b::/96", "64:ff9b::192.0.0.170 64:ff9b::192.0.0.171", "")
	l.nat64("venus", "2a04:0:0", "2a04:64:1:200::/56", "2a04:64:1:2c0:0:aa:: 2a04:64:1:2c0:0:ab::", "")
	l.nat64("pluto", "2a05:0:0", "2a05:64::/96", "2a05:64::c000:aa", noUDP)
	l.nat64("ceres", "2a06:0:0", "64:ff9b::/96", "", "") // its resolver knows of no NAT64
	l.nat64("titan", "2a07:0:0", "2a07:64::/96", "", "") // nor does this one, but the router does
	silence := l.announce("box-titan", titanHas)
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Carry: ":443"})
	up := map[string]*node{"earth": earth, "moon": l.join(earth, "moon")}
	for label, prefix := range map[string]string{"mars": "64:ff9b::/96", "venus": "2a04:64:1:200::/56", "pluto": "2a05:64::/96", "titan": "2a07:64::/96"} {
		n := l.start(label, label)
		a := n.must(request{Op: "join", Name: label, Token: earth.invite(label)})
		t.Logf("%s joined after %v: NAT64 %v, UDP %q, carried by %v, mapped %v", label, a.Took.Round(time.Millisecond), a.Self.NAT64, a.Self.UDP, a.Self.CarriedBy, a.Self.Mapped)
		if a.Self.NAT64.String() != prefix {
			t.Errorf("%s has found the prefix %v, not %s", label, a.Self.NAT64, prefix)
		}
		for _, own := range a.Self.Addrs {
			if own.Addr().Is4() {
				t.Errorf("%s has IPv4: %v", label, own)
			}
		}
		if (len(a.Self.CarriedBy) == 1 && a.Self.CarriedBy[0] == "tls://"+at+":443") != (label == "pluto") {
			t.Errorf("%s is carried by %v", label, a.Self.CarriedBy)
		}
		up[label] = n
	}
	ceres := l.start("ceres", "ceres")
	if a, err := ceres.ask(request{Op: "join", Name: "ceres", Token: earth.invite("ceres"), Within: 3 * time.Second}); err == nil {
		t.Errorf("ceres joined without a prefix: %+v", a)
	}
	for _, pair := range [][2]string{
		{"mars", "earth"}, {"earth", "venus"}, {"mars", "moon"}, {"moon", "venus"}, {"venus", "mars"}, {"pluto", "earth"}, {"earth", "pluto"}, {"moon", "pluto"}, {"pluto", "mars"},
		{"titan", "earth"}, {"earth", "titan"}, {"mars", "titan"},
	} {
		from, to := up[pair[0]], up[pair[1]]
		want := "direct"
		if pair[0] == "pluto" || pair[1] == "pluto" {
			want = "relayed"
			if pair[0] == "earth" || pair[1] == "earth" {
				want = "tcp"
			}
		}
		c := try(from, to, want == "direct")
		t.Logf("%s to %s: %s after %v", pair[0], pair[1], c.kind, c.took.Round(time.Millisecond))
		if c.err != nil || c.kind != want {
			t.Errorf("%s to %s: %s, want %s, %v", pair[0], pair[1], c.kind, want, c.err)
		}
	}
	if _, err := up["mars"].ask(request{Op: "bulk", Name: earth.name, Bytes: 4 << 20}); err != nil {
		t.Errorf("4 MiB there and back: %v", err)
	}
	silence()
	l.prefixGoes(up["titan"], earth)
}

// prefixGoes has titan's router, which is silent now, withdraw its prefix and announce it
// again, and then has its cable pulled out and put in again.
func (l *lab) prefixGoes(titan, earth *node) {
	l.t.Helper()
	silence := l.announce("box-titan", titanHasNot)
	titan.prefixBecomes("")
	silence()
	silence = l.announce("box-titan", titanHas)
	titan.prefixBecomes("2a07:64::/96")
	silence()
	l.shell("ip -n box-titan link set in down")
	titan.prefixBecomes("")
	l.shell(`ip -n box-titan link set in up
ip -n box-titan addr add 2a07:0:0::1/64 dev in nodad`)
	l.announce("box-titan", titanHas)
	titan.prefixBecomes("2a07:64::/96")
	if err := titan.reach(earth.name, time.Now().Add(patience(10*time.Second))); err != nil {
		l.t.Errorf("titan, after its cable was out: %v", err)
	}
}
