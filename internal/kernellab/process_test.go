//go:build linux

package kernellab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
)

// process is a process of this test binary that runs nodes, one in most
// scenes.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when the process says no more

	mu      sync.Mutex // guards what follows
	id      int
	waiting map[int]chan answer
	err     error // the process has ended
}

// node is one of them.
type node struct {
	*process
	l           *lab
	label, name string // the name is the full one
}

// start runs a process for one node in a namespace. The node begins with a
// create, join or open.
func (l *lab) start(space, label string, env ...string) *node {
	l.t.Helper()
	p := &process{waiting: map[int]chan answer{}, done: make(chan struct{})}
	args := []string{"netns", "exec", space, l.self}
	if file := l.resolvers[space]; file != "" { // "ip netns exec" makes a mount namespace of its own
		args = []string{"netns", "exec", space, "sh", "-ec", `mount --bind "$0" /etc/resolv.conf; exec "$1"`, file, l.self}
	}
	p.cmd = exec.Command("ip", args...)
	p.cmd.Env = append(append(os.Environ(), roleVariable+"=node", logVariable+"="+*logs), env...)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		l.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() { defer close(p.done); p.read(out) }()
	n := &node{process: p, l: l, label: label, name: label + "." + domain}
	l.nodes = append(l.nodes, n)
	return n
}

// beside is another node in n's process.
func (n *node) beside(label string) *node {
	return &node{process: n.process, l: n.l, label: label, name: label + "." + domain}
}

func (p *process) read(r io.Reader) {
	d := json.NewDecoder(r)
	for {
		var a answer
		err := d.Decode(&a)
		p.mu.Lock()
		if err != nil {
			p.err = fmt.Errorf("the process ended: %w", err)
			for _, ch := range p.waiting {
				close(ch)
			}
			p.waiting = nil
			p.mu.Unlock()
			return
		}
		p.waiting[a.ID] <- a
		delete(p.waiting, a.ID)
		p.mu.Unlock()
	}
}

// ask puts one request and waits for its answer.
func (n *node) ask(q request) (answer, error) {
	q.As = n.label
	a, err := n.exchange(q)
	if err == nil && a.Error != "" {
		err = fmt.Errorf("%s", a.Error)
	}
	if err != nil {
		return a, fmt.Errorf("%s: %s: %w", n.name, q.Op, err)
	}
	return a, nil
}

func (p *process) exchange(q request) (answer, error) {
	ch := make(chan answer, 1)
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return answer{}, p.err
	}
	p.id++
	q.ID = p.id
	p.waiting[q.ID] = ch
	b, err := json.Marshal(q)
	if err == nil {
		_, err = p.in.Write(append(b, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	a, ok := <-ch
	if !ok {
		return a, p.err
	}
	return a, nil
}

// must is ask for what the scene cannot go on without.
func (n *node) must(q request) answer {
	n.l.t.Helper()
	a, err := n.ask(q)
	if err != nil {
		n.l.t.Fatal(err)
	}
	return a
}

// invite mints a token for the label.
func (n *node) invite(label string) string {
	n.l.t.Helper()
	return n.must(request{Op: "invite", Name: label}).Text
}

// join starts a node in the namespace of its label, with a token of earth's.
func (l *lab) join(earth *node, label string) *node {
	l.t.Helper()
	n := l.start(label, label)
	n.must(request{Op: "join", Name: label, Token: earth.invite(label)})
	return n
}

// kill is a power cut: the processes end without a word.
func (l *lab) kill(nodes ...*node) {
	for _, n := range nodes {
		_ = n.cmd.Process.Kill()
	}
	for _, n := range nodes {
		<-n.done
		_ = n.cmd.Wait() // killed
		l.forget(n)
	}
}

// leave has a process' nodes leave and waits for it.
func (l *lab) leave(n *node) {
	_ = n.in.Close()
	<-n.done
	if err := n.cmd.Wait(); err != nil {
		l.t.Errorf("%s: %v", n.name, err)
	}
	l.forget(n)
}

func (l *lab) forget(n *node) {
	l.nodes = slices.DeleteFunc(l.nodes, func(o *node) bool { return o.process == n.process })
}

// end has all nodes leave and waits for them: the first last, for it may carry what
// others have yet to say to each other, and the rest at once. If the test has failed
// they first tell what they warned of.
func (l *lab) end() {
	if l.t.Failed() {
		l.tell()
	}
	if len(l.nodes) > 0 {
		l.leaveAll(slices.Clone(l.nodes[1:]))
	}
	l.leaveAll(slices.Clone(l.nodes))
	for _, end := range l.daemons {
		end()
	}
}

// leaveAll has nodes leave at once and waits for them.
func (l *lab) leaveAll(nodes []*node) {
	for _, n := range nodes {
		_ = n.in.Close()
	}
	for _, n := range nodes {
		l.leave(n)
	}
}

// tell logs what nodes have warned of.
func (l *lab) tell() {
	for _, n := range l.nodes {
		if a, err := n.ask(request{Op: "warnings"}); err == nil && a.Text != "" {
			l.t.Logf("%s warned:\n%s", n.name, a.Text)
		}
	}
}
