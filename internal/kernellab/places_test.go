//go:build linux

package kernellab

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// box makes a namespace for a router without an outside.
func (l *lab) box(space string) {
	l.t.Helper()
	l.shell(fmt.Sprintf("ip netns add %[1]s && ip -n %[1]s link set lo up", space))
}

// lan gives a box a switch, its interface "in" with address net.1.
func (l *lab) lan(box, net string) {
	l.t.Helper()
	l.shell(fmt.Sprintf(`ip -n %[1]s link add name in type bridge
ip -n %[1]s addr add %[2]s.1/24 dev in
ip -n %[1]s link set in up
ip netns exec %[1]s sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'`, box, net))
}

// plug makes a namespace with its interface "ext" on a box's switch, as host
// number of its network.
func (l *lab) plug(space, box, net string, number int) {
	l.t.Helper()
	l.next++
	l.shell(fmt.Sprintf(`ip netns add %[1]s
ip -n %[1]s link set lo up
ip -n %[2]s link add p%[5]d type veth peer name ext netns %[1]s
ip -n %[2]s link set p%[5]d master in up`, space, box, net, number, l.next))
	l.renumber(space, net, number)
}

// renumber gives a host of a lan another address in place of those it has.
func (l *lab) renumber(space, net string, number int) {
	l.t.Helper()
	l.shell(fmt.Sprintf(`ip -n %[1]s addr flush dev ext
ip -n %[1]s addr add %[2]s.%[3]d/24 dev ext
ip -n %[1]s link set ext up
ip -n %[1]s route replace default via %[2]s.1`, space, net, number))
}

// unload has what leaves an interface be as large as its MTU: a veth that
// takes segmentation upon itself carries larger packets than that.
func (l *lab) unload(space string, interfaces ...string) {
	l.t.Helper()
	for _, i := range interfaces {
		l.shell(fmt.Sprintf("ip netns exec %s ethtool -K %s tx off sg off tso off gso off gro off tx-udp-segmentation off", space, i))
	}
}

// frames has a public host's link take IP packets of size bytes.
func (l *lab) frames(space string, size int) {
	l.t.Helper()
	l.shell(fmt.Sprintf(`ip -n %[1]s link set ext mtu %[2]d
other=$(ip -n %[1]s -o link show ext | sed 's/^[0-9]*: ext@if\([0-9]*\):.*/\1/')
ip link set "$(ip -o link | sed -n "s/^$other: \([^@]*\)@.*/\1/p")" mtu %[2]d`, space, size))
}

// needs skips a test that has no use without a program.
func needs(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed (Debian: %s)", program, debian)
	}
}

// hole has a box that forwards drop packets above a size without a word.
func (l *lab) hole(box string, size int) {
	l.t.Helper()
	l.unload(box, "ext", "in")
	l.rules(box, fmt.Sprintf(`table inet hole {
	chain forward { type filter hook forward priority -1; meta length > %d counter drop; }
}
`, size))
}

// swallowed says how many packets were lost in a box's hole: without any it
// was none.
func (l *lab) swallowed(box string) (packets int) {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", box, "nft", "list", "table", "inet", "hole").CombinedOutput()
	if err == nil {
		_, rest, _ := strings.Cut(string(out), "counter packets ")
		_, err = fmt.Sscan(rest, &packets)
	}
	if err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	return packets
}

// useless gives a host interfaces that lead nowhere, with addresses that other
// hosts have as well: Docker's bridge, libvirt's, and others with a container
// on them or none.
func (l *lab) useless(space string, count int) {
	l.t.Helper()
	for i := range count {
		name, at := fmt.Sprintf("br-%d", i), fmt.Sprintf("172.%d.0.1/16", 17+i)
		switch {
		case i == 0:
			name = "docker0"
		case i == 1:
			name, at = "virbr0", "192.168.122.1/24"
		case i > 13:
			at = fmt.Sprintf("10.%d.0.1/16", i)
		}
		l.shell(fmt.Sprintf(`ip -n %[1]s link add name %[2]s type bridge
ip -n %[1]s addr add %[3]s dev %[2]s
ip -n %[1]s link set %[2]s up`, space, name, at))
		if i%2 == 0 { // something runs there
			l.shell(fmt.Sprintf(`ip -n %[1]s link add u%[3]d type veth peer name c%[3]d
ip -n %[1]s link set u%[3]d master %[2]s up
ip -n %[1]s link set c%[3]d up`, space, name, i))
		}
	}
}
