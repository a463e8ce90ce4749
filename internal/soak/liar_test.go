package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// TestLiar: beside a node that changes bytes, closes early and leaves, the
// command says wrong, lost and cut; a check that could not fail would be none.
func TestLiar(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	v := new(tally)
	c := &crew{t: v}
	for i, name := range []string{"honest", "liar"} {
		w, err := newWire(v, 210+i)
		if err != nil {
			t.Fatal(err)
		}
		c.posts = append(c.posts, &post{name: name, dir: filepath.Join(t.TempDir(), name), wire: w})
	}
	honest, liar := c.posts[0], c.posts[1]
	n, err := idloc.Create(ctx, "soak.example", honest.config())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := honest.take(n, v); err != nil {
		t.Fatal(err)
	}
	token, err := n.Invite(idloc.InviteOptions{Name: liar.name})
	if err != nil {
		t.Fatal(err)
	}
	m, err := idloc.Join(ctx, token, liar.config())
	if err != nil {
		t.Fatal(err)
	}
	liar.node = m
	l, err := m.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := m.ListenPacket("udp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}

	streams, endStreams := context.WithCancel(ctx)
	datagrams, endDatagrams := context.WithCancel(ctx)
	defer endStreams()
	defer endDatagrams()
	liar.serve.Go(func() {
		for k := 0; ; k++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			switch k {
			case 0:
				b, _ := io.ReadAll(conn)
				b[len(b)-1]++
				_, _ = conn.Write(b)
			case 1: // as a node that restarts
				liar.mu.Lock()
				liar.term++
				liar.mu.Unlock()
			case 2:
			default:
				endStreams()
			}
			_ = conn.Close()
		}
	})
	liar.serve.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if n > 0 {
				b[n-1]++
				_, _ = pc.WriteTo(b[:n], from)
				endDatagrams()
			}
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() { c.stream(streams, 0, rand.New(rand.NewPCG(1, 1))) })
	wg.Go(func() { c.datagrams(datagrams, 0, rand.New(rand.NewPCG(2, 2))) })
	wg.Wait()
	// The last stream may be lost, or not be dialled any more.
	if ctx.Err() != nil || !v.bad() || v.lost.Load() == 0 || v.cut.Load() != 1 || v.wrong.Load() < 2 || v.streams.Load() != 0 || v.returned.Load() != 0 {
		t.Errorf("%v\n%q", v, v.complaints)
	}

	// A name that is not there, of a node that is: a failed dial of its kind.
	gone := &crew{t: v, posts: []*post{honest, {name: "nobody", node: m}}}
	if conn, to, _ := gone.dial(ctx, "tcp", 0, rand.New(rand.NewPCG(1, 1))); conn != nil || to.name != "nobody" || v.byKind()["no such host"] != 1 {
		t.Errorf("%v to %s; %v", conn, to.name, v)
	}
}
