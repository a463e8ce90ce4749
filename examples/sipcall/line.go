package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"sync"

	"github.com/idloc/idloc/idloc"
)

// line is how a phone's SIP library gets its connections: sipgo takes any
// net.Listener and net.PacketConn, but makes its outgoing TCP connections with
// a *net.Dialer of its own. What this line has dialled therefore comes out of
// its Accept too, and sipgo finds the connection by its remote address when it
// has something to send there.
type line struct {
	net.Listener
	node  *idloc.Node
	tls   *tls.Config // nil: none
	wrote func(text string)

	conns chan net.Conn // to Accept; nil only wakes it
	done  chan struct{}
	close func() error
	wg    sync.WaitGroup
}

// newLine listens on a port of the node.
func newLine(node *idloc.Node, port string, conf *tls.Config, wrote func(string)) (*line, error) {
	l, err := node.Listen("tcp", ":"+port)
	if err != nil {
		return nil, err
	}
	n := &line{Listener: l, node: node, tls: conf, wrote: wrote, conns: make(chan net.Conn), done: make(chan struct{})}
	n.close = sync.OnceValue(func() error {
		close(n.done)
		err := l.Close()
		n.wg.Wait()
		return err
	})
	n.wg.Go(n.answer)
	return n, nil
}

// answer takes incoming connections until Close.
func (n *line) answer() {
	for {
		c, err := n.Listener.Accept()
		if err != nil {
			return
		}
		if n.tls != nil {
			c = tls.Server(c, n.tls)
		}
		if !n.hand(c) {
			c.Close()
		}
	}
}

// dial connects to a phone, so that sipgo has the connection when dial
// returns.
func (n *line) dial(ctx context.Context, host, port string) error {
	c, err := n.node.Dial(ctx, "tcp4", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	if n.tls != nil {
		conf := n.tls.Clone()
		conf.ServerName = host
		t := tls.Client(c, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return err
		}
		c = t
	}
	// sipgo asks for the next connection when it has taken the last one in.
	if !n.hand(c) || !n.hand(nil) {
		c.Close()
		return net.ErrClosed
	}
	return nil
}

// hand gives c to Accept.
func (n *line) hand(c net.Conn) bool {
	select {
	case n.conns <- c:
		return true
	case <-n.done:
		return false
	}
}

func (n *line) Accept() (net.Conn, error) {
	for {
		select {
		case c := <-n.conns:
			if c != nil {
				return &tapped{c, n.wrote}, nil
			}
		case <-n.done:
			return nil, net.ErrClosed
		}
	}
}

func (n *line) Close() error { return n.close() }

// tapped tells the first line of each message that is written.
type tapped struct {
	net.Conn
	wrote func(string)
}

func (t *tapped) Write(b []byte) (int, error) {
	t.wrote(firstLine(b))
	return t.Conn.Write(b)
}

// tappedPackets is the same for SIP over UDP.
type tappedPackets struct {
	net.PacketConn
	wrote func(string)
}

func (t *tappedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	t.wrote(firstLine(b))
	return t.PacketConn.WriteTo(b, to)
}

func firstLine(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte("\r\n"))
	return string(text)
}
