package idloctest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const echoPort = "7"

// echo serves TCP echo on a node.
func echo(t testing.TB, n *idloctest.Node) {
	t.Helper()
	l, err := n.Listen("tcp", ":"+echoPort)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the node
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
}

// call dials the echo of a peer by name and wants msg back.
func call(ctx context.Context, from, to *idloctest.Node, msg []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.Name(), echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
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

// active returns the path that from sends to the peer on.
func active(from, to *idloctest.Node) (p idloc.PathStatus, ok bool) {
	for _, s := range from.Status().Peers {
		if s.ID != to.ID() {
			continue
		}
		for _, p := range s.Paths {
			if p.Active {
				return p, true
			}
		}
	}
	return p, false
}

// await looks at what only polling tells until it holds.
func await(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
