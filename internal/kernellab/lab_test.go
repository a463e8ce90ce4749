//go:build linux

package kernellab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

// The environment variable that tells a process of this test binary what it
// is: nothing for the test itself, "lab" inside the namespaces, "node" in one.
const roleVariable = "IDLOC_KERNELLAB_ROLE"

func TestMain(m *testing.M) {
	// Debian keeps nft where only root looks.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		panic(err)
	}
	if os.Getenv(roleVariable) == "node" {
		os.Exit(runNode())
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
	out, err := confined("lab", self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1").CombinedOutput()
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
// it.
type lab struct {
	t    *testing.T
	self string
	next int // of public addresses
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, next: 1}
	var err error
	if l.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	l.shell(setUp + `ip link set lo up
ip link add internet type bridge
ip link set internet up`)
	return l
}

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
	return fmt.Sprintf("20.0.0.%d", l.next)
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

// node is a node in a process of its own.
type node struct {
	l    *lab
	name string // full
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when the process says no more

	mu      sync.Mutex // guards what follows
	id      int
	waiting map[int]chan answer
	err     error // the process has ended
}

// start runs a process in a namespace.
func (l *lab) start(space, label string) *node {
	l.t.Helper()
	n := &node{l: l, name: label + "." + domain, waiting: map[int]chan answer{}, done: make(chan struct{})}
	n.cmd = exec.Command("ip", "netns", "exec", space, l.self)
	n.cmd.Env = append(os.Environ(), roleVariable+"=node")
	n.cmd.Stderr = os.Stderr
	var err error
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		l.t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() { defer close(n.done); n.read(out) }()
	return n
}

func (n *node) read(r io.Reader) {
	d := json.NewDecoder(r)
	for {
		var a answer
		err := d.Decode(&a)
		n.mu.Lock()
		if err != nil {
			n.err = fmt.Errorf("%s ended: %w", n.name, err)
			for _, ch := range n.waiting {
				close(ch)
			}
			n.waiting = nil
			n.mu.Unlock()
			return
		}
		n.waiting[a.ID] <- a
		delete(n.waiting, a.ID)
		n.mu.Unlock()
	}
}

// ask puts one request and waits for its answer.
func (n *node) ask(q request) (answer, error) {
	ch := make(chan answer, 1)
	n.mu.Lock()
	if n.err != nil {
		n.mu.Unlock()
		return answer{}, n.err
	}
	n.id++
	q.ID = n.id
	n.waiting[q.ID] = ch
	b, err := json.Marshal(q)
	if err == nil {
		_, err = n.in.Write(append(b, '\n'))
	}
	n.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	a, ok := <-ch
	if !ok {
		return a, n.err
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s: %s", n.name, q.Op, a.Error)
	}
	return a, nil
}

// join starts a node in the namespace of its label, with a token of earth's.
func (l *lab) join(earth *node, label string) *node {
	l.t.Helper()
	n := l.start(label, label)
	a, err := earth.ask(request{Op: "invite", Name: label})
	if err == nil {
		_, err = n.ask(request{Op: "join", Name: label, Token: a.Text})
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// leave has a node leave and waits for its process.
func (l *lab) leave(n *node) {
	_ = n.in.Close()
	<-n.done
	if err := n.cmd.Wait(); err != nil {
		l.t.Errorf("%s: %v", n.name, err)
	}
}

// close has all nodes leave at once and waits for them.
func (l *lab) close(nodes []*node) {
	for _, n := range nodes {
		_ = n.in.Close()
	}
	for _, n := range nodes {
		l.leave(n)
	}
}
