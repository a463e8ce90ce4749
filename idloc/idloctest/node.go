package idloctest

import (
	"context"
	"errors"

	"github.com/idloc/idloc/idloc"
)

// Node is a node of the lab and the host that it runs on.
type Node struct {
	*idloc.Node // replaced by Restart
	*Host
	lab    *Lab
	config idloc.Config // as it was started
}

// Node starts a node with a name of one label. The first founds the overlay
// and should have a public address, since its address is in the tokens that
// all others join with. An error ends the test; the test's end closes the
// node.
func (l *Lab) Node(name string, opts ...NodeOption) *Node {
	l.t.Helper()
	n, err := l.start(name, opts)
	if err != nil {
		l.t.Fatalf("idloctest: starting %s: %v", name, err)
	}
	return n
}

func (l *Lab) start(name string, opts []NodeOption) (*Node, error) {
	s := setting{invite: idloc.InviteOptions{Name: name}}
	for _, o := range opts {
		o(l, &s)
	}
	n := &Node{lab: l, Host: l.net.host(name, s.attachments(), s.ends)}
	cfg := idloc.Config{}
	for _, f := range s.config {
		f(&cfg)
	}
	cfg.Name, cfg.Net = name, n.Host.Net()
	n.config = cfg
	ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
	defer cancel()
	var err error
	if l.founder == nil {
		n.Node, err = idloc.Create(ctx, l.domain, cfg)
	} else {
		var token string
		if token, err = l.founder.Invite(s.invite); err == nil {
			n.Node, err = idloc.Join(ctx, token, cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	if l.founder == nil {
		l.founder = n
	}
	l.t.Cleanup(func() {
		if err := n.Node.Close(); err != nil {
			l.t.Errorf("idloctest: closing %s: %v", name, err)
		}
	})
	return n, nil
}

// Move takes the node's host elsewhere, as the options say; without any to
// another public address. The old addresses are gone at once, the link stays
// unless Over says otherwise. The node is told, as a kernel tells a real one.
func (n *Node) Move(opts ...NodeOption) {
	s := setting{attachment: attachment{link: n.link(0)}}
	for _, o := range opts {
		o(n.lab, &s)
	}
	n.Host.move(s.attachments())
	n.NetworkChanged()
}

// Unplug takes the addresses of uplink i away, counted as SetUplink does, and
// tells the node. The other uplinks keep their numbers.
func (n *Node) Unplug(i int) {
	n.Host.unplug(i)
	n.NetworkChanged()
}

// Crash ends the node without a word to anybody: its host is switched off
// first. Conns and listeners of the program end as with Close.
func (n *Node) Crash() error {
	n.Host.power(false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody takes what was written
	if err := n.Node.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Restart starts a node again, on the same host, from the state in its
// Config.Dir, which must be set. One that runs crashes first. Node.Node is
// another one then, and nobody may use the node meanwhile.
func (n *Node) Restart() {
	n.lab.t.Helper()
	err := n.Crash()
	n.Host.power(true)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
		defer cancel()
		var again *idloc.Node
		if again, err = idloc.Open(ctx, n.config); err == nil {
			n.Node = again
		}
	}
	if err != nil {
		n.lab.t.Fatalf("idloctest: restarting %s: %v", n.Host.name, err)
	}
}
