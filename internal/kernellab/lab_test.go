//go:build linux

package kernellab

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

// The environment variable that tells a process of this test binary what it
// is: nothing for the test itself, "lab" inside the namespaces, "node", "dns64" or "router"
// in one.
const roleVariable = "IDLOC_KERNELLAB_ROLE"

func TestMain(m *testing.M) {
	// Debian keeps nft where only root looks.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		panic(err)
	}
	switch os.Getenv(roleVariable) {
	case "node":
		os.Exit(runNode())
	case "dns64":
		os.Exit(runDNS64())
	case "router":
		os.Exit(runRouter())
	}
	leaktest.Main(m)
}

// inside runs the test that calls it again in new namespaces, and says whether
// this is that run.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleVariable) == "lab" {
		return true
	}
	for _, program := range []string{"ip", "nft", "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (Debian: iproute2, nftables, mount)", program)
		}
	}
	if out, err := confined("", "sh", "-c", setUp+"nft add table ip probe").CombinedOutput(); err != nil {
		t.Skipf("no namespaces with nftables in them for this user: %v: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.count=1"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	out, err := confined("lab", self, args...).CombinedOutput()
	t.Logf("inside the namespaces:\n%s", out)
	if err != nil {
		t.Errorf("inside the namespaces: %v", err)
	}
	return false
}

// setUp makes room for named network namespaces, seen by nobody else.
const setUp = "mount --make-rprivate / && mount -t tmpfs none /run && mkdir /run/netns && "

// confined is a command as the root of user, network, mount and process
// namespaces of its own: all in them ends with it.
func confined(role, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), roleVariable+"="+role)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return c
}

// lab is the internet, a bridge in the lab's own namespace, and what hangs on
// it. All nodes that it starts have left when its test is over.
type lab struct {
	t     *testing.T
	self  string
	next  int    // of public addresses and other numbers
	dirs  string // a folder for the nodes'
	nodes []*node

	daemons []func() // each ends a program that nodes need: a proxy, a web server, a router's

	routers6  []space6          // that know of each other
	resolvers map[string]string // files in place of /etc/resolv.conf, by namespace
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, next: 1, dirs: t.TempDir(), resolvers: map[string]string{}}
	var err error
	if l.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	l.shell(setUp + `ip link set lo up
ip link add internet type bridge
ip link set internet up`)
	t.Cleanup(l.end) // before the folder is removed
	return l
}

// dir is where a node keeps its state.
func (l *lab) dir(label string) string { return filepath.Join(l.dirs, label) }

// shell runs commands, each of which must succeed.
func (l *lab) shell(script string) {
	l.t.Helper()
	c := exec.Command("sh", "-ec", script)
	if out, err := c.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s\n%s", err, out, script)
	}
}

// rules loads nftables rules into a namespace.
func (l *lab) rules(space, text string) {
	l.t.Helper()
	c := exec.Command("ip", "netns", "exec", space, "nft", "-f", "-")
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		l.t.Fatalf("nft in %s: %v: %s\n%s", space, err, out, text)
	}
}

func (l *lab) address() string {
	l.next++
	return fmt.Sprintf("200.0.0.%d", l.next)
}

// public makes a namespace on the internet with an interface "ext", and
// returns its address.
func (l *lab) public(space string) string {
	l.t.Helper()
	at := l.address()
	l.shell(fmt.Sprintf(`ip netns add %[1]s
ip -n %[1]s link set lo up
ip link add v%[3]d type veth peer name ext netns %[1]s
ip link set v%[3]d master internet up
ip -n %[1]s addr add %[2]s/8 dev ext
ip -n %[1]s link set ext up`, space, at, l.next))
	return at
}

// behind makes a namespace behind a box: inner network net.0/24, the box .1
// and the new one .2, which has its interface "ext" there.
func (l *lab) behind(space, box, net string) {
	l.t.Helper()
	l.shell(fmt.Sprintf(`ip netns add %[1]s
ip -n %[1]s link set lo up
ip -n %[2]s link add in type veth peer name ext netns %[1]s
ip -n %[2]s addr add %[3]s.1/24 dev in
ip -n %[2]s link set in up
ip -n %[1]s addr add %[3]s.2/24 dev ext
ip -n %[1]s link set ext up
ip -n %[1]s route add default via %[3]s.1
ip netns exec %[2]s sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'`, space, box, net))
}

// ruleset is what a box does: out and in are rules of its two translations,
// pass of what it forwards.
func ruleset(out, in, pass string) string {
	return `table ip box {
	set seen { type ipv4_addr; flags dynamic, timeout; timeout 2m; }
	chain input { type filter hook input priority filter; policy accept; iifname "ext" drop; }
	chain forward {
		type filter hook forward priority filter; policy drop;
		` + pass + `
		iifname "in" meta l4proto udp update @seen { ip daddr }
		iifname "in" accept
		ct state established,related accept
		ct status dnat accept
	}
	chain out { type nat hook postrouting priority srcnat; ` + out + `; }
	chain in { type nat hook prerouting priority dstnat; ` + in + ` }
}
`
}

const inner = "192.168.1"

var (
	masquerade = `oifname "ext" masquerade`
	forwardUDP = `iifname "ext" udp dport 1024-65535 dnat to ` + inner + `.2;`

	fullCone          = ruleset(masquerade, forwardUDP, "")
	addressRestricted = ruleset(masquerade, `ip saddr @seen `+forwardUDP, "")
	portRestricted    = ruleset(masquerade, "", "")
	symmetric         = ruleset(`oifname "ext" meta l4proto udp masquerade to :1024-65535 fully-random`, "", "")
)

func oneToOne(ext string) string {
	return ruleset(`oifname "ext" snat to `+ext, `iifname "ext" dnat to `+inner+`.2;`, "")
}

func onlyTo(addr string) string {
	return ruleset(masquerade, "", fmt.Sprintf(`meta l4proto udp ip daddr != %[1]s ip saddr != %[1]s drop`, addr))
}
