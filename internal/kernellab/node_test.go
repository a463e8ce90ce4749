//go:build linux

package kernellab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/idloc/idloc/idloc"
)

// request is one line on a node's standard input, answer one on its standard
// output: one for each request, with its number, in any order.
type request struct {
	ID    int    `json:"id"`
	Op    string `json:"op"` // create, invite, join, call, path, nat, ported, null
	Name  string `json:"name,omitempty"`
	Token string `json:"token,omitempty"`
	Text  string `json:"text,omitempty"` // of null: the network
	Null  bool   `json:"null,omitempty"` // of create and join: allow null encapsulation
}

type answer struct {
	ID    int              `json:"id"`
	Text  string           `json:"text,omitempty"`
	Path  idloc.PathStatus `json:"path"`
	Error string           `json:"error,omitempty"`
}

const (
	domain     = "example.com"
	echoPort   = "7"
	callWithin = 20 * time.Second
	joinWithin = 60 * time.Second
)

// runNode is the process: it serves requests until its input ends.
func runNode() int {
	var n *idloc.Node
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	answers := make(chan answer)
	go func() {
		for a := range answers {
			_ = out.Encode(a)
		}
	}()
	for {
		var q request
		if in.Decode(&q) != nil {
			break
		}
		if q.Op == "create" || q.Op == "join" { // nothing else before
			a := answer{ID: q.ID}
			var err error
			if n, err = start(q); err != nil {
				a.Error = err.Error()
			}
			answers <- a
			continue
		}
		go func() {
			a, err := serve(n, q)
			if a.ID = q.ID; err != nil {
				a.Error = err.Error()
			}
			answers <- a
		}()
	}
	if n == nil || n.Close() != nil {
		return 1
	}
	return 0
}

func start(q request) (*idloc.Node, error) {
	ctx, cancel := context.WithTimeout(context.Background(), joinWithin)
	defer cancel()
	var n *idloc.Node
	var err error
	cfg := idloc.Config{Name: q.Name}
	if q.Null {
		cfg.Null = idloc.NullPlain
	}
	if q.Op == "create" {
		n, err = idloc.Create(ctx, domain, cfg)
	} else {
		n, err = idloc.Join(ctx, q.Token, cfg)
	}
	if err != nil {
		return nil, err
	}
	l, err := n.Listen("tcp", ":"+echoPort)
	if err != nil {
		return n, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	pc, err := n.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return n, err
	}
	go func() {
		b := make([]byte, 2048)
		for {
			k, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:k], from)
		}
	}()
	return n, nil
}

func serve(n *idloc.Node, q request) (a answer, err error) {
	if n == nil {
		return a, fmt.Errorf("%s before create or join", q.Op)
	}
	switch q.Op {
	case "invite":
		a.Text, err = n.Invite(idloc.InviteOptions{Name: q.Name})
	case "call":
		err = call(n, q.Name, "tcp", idloc.OuterUDP)
	case "null":
		err = call(n, q.Name, q.Text, idloc.Null)
	case "path":
		for _, p := range n.Status().Peers {
			for _, path := range p.Paths {
				if p.Name == q.Name && path.Active {
					a.Path = path
				}
			}
		}
	case "ported":
		if p := n.Status().Self.Ported; p.Addr.IsValid() {
			a.Text = fmt.Sprint(p.Protocol, " ", p.Addr)
		}
	case "nat":
		a.Text = n.Status().Self.NAT
	default:
		err = fmt.Errorf("unknown op %q", q.Op)
	}
	return a, err
}

// call dials a peer's echo and wants a message back.
func call(n *idloc.Node, name, network string, enc idloc.Encapsulation) error {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	d := idloc.Dialer{Nodes: []*idloc.Node{n}, Encapsulation: enc}
	c, err := d.Dial(ctx, network, net.JoinHostPort(name, echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(callWithin))
	msg := []byte("from " + n.Name() + " to " + name)
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("echo of %q is %q", msg, got)
	}
	return nil
}
