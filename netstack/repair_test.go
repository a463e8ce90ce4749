package netstack

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim/shimtest"
)

// The first segment of a connection is repaired as any other: TCP hears nothing of its
// loss, and does not begin with half of a window that has hardly grown.
func TestRepairedFirst(t *testing.T) {
	t.Parallel()
	n := shimtest.NewNet()
	n.SetDelay(10 * time.Millisecond)
	r := newRigOn(t, n, nil)
	one, other := r.pair(t, r.b4)
	bulk(t, one, other, 200<<10)
	eventually(t, "it is not repaired", func() bool { _, ok := r.a.shim.Repairing(r.b4); return ok })
	for range 4 {
		client, server := r.pair(t, r.b4)
		var lost atomic.Bool
		n.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
			if from == r.a.Node && len(b) > 1000 && b[0] == wire.TypeData4 && lost.CompareAndSwap(false, true) {
				return b[min(seg, len(b)):]
			}
			return b
		})
		for range 9 { // each in a datagram that comes alone
			if _, err := client.Write(make([]byte, 1200)); err != nil {
				t.Fatal(err)
			}
		}
		bulk(t, client, server, 1<<20)
		n.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return b })
		i, err := client.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !lost.Load() || i.Retransmits > 0 || i.SlowStartThreshold != 0 {
			t.Errorf("lost %v, %+v", lost.Load(), i)
		}
		_, _ = client.Close(), server.Close()
	}
}

// Where the pipe repairs, what a path loses, in bursts, at random, or all of it for a
// while, costs TCP nothing but time, and what was written before the end of the stack
// arrives before that.
func TestRepairedStreams(t *testing.T) {
	silent := func(r *rig, f *faults) {
		all := func(*shimtest.Node, *shimtest.Node, []byte, int) []byte { return nil }
		r.net.SetFilter(all)
		time.AfterFunc(1500*time.Millisecond, func() { r.net.SetFilter(f.filter(r.a.Node)) })
	}
	for name, c := range map[string]struct {
		size int
		*faults
		when  func(*rig, *faults)
		close bool // the writer's stack, behind what was written
	}{
		"few":                {8 << 20, &faults{lose: .03, reorder: .02, acks: true}, nil, false},
		"many":               {1 << 20, &faults{lose: .25, acks: true}, nil, false},
		"bursts":             {4 << 20, &faults{burst: .12 / 20, acks: true}, nil, false},
		"a silence":          {8 << 20, &faults{lose: .02, acks: true}, silent, false},
		"the end":            {2 << 20, &faults{lose: .02, acks: true}, nil, true},
		"the end, many lost": {512 << 10, &faults{lose: .2, acks: true}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := shimtest.NewNet()
			n.SetDelay(10 * time.Millisecond)
			r := newRigOn(t, n, nil)
			client, server := r.pair(t, r.b4)
			bulk(t, client, server, 200<<10)
			eventually(t, "it is not repaired", func() bool { _, ok := r.a.shim.Repairing(r.b4); return ok })
			f := c.faults
			f.rnd = rand.New(rand.NewPCG(uint64(c.size), 7))
			r.net.SetFilter(f.filter(r.a.Node))
			want := make([]byte, c.size)
			_, _ = rand.NewChaCha8([32]byte{7}).Read(want)
			began := time.Now()
			done := make(chan error, 1)
			go func() {
				_, err := client.Write(want)
				if err == nil && c.close {
					err = r.a.Stack.Close(context.Background())
				} else if err == nil {
					err = client.CloseWrite()
				}
				done <- err
			}()
			if c.when != nil {
				time.AfterFunc(50*time.Millisecond, func() { c.when(r, f) })
			}
			_ = server.SetReadDeadline(time.Now().Add(2 * time.Minute))
			got, err := io.ReadAll(server)
			if !bytes.Equal(got, want) || err != nil {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			_ = server.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			t.Logf("%v, %d datagrams lost, %d segments sent again by TCP", time.Since(began), f.lost, r.a.Stats().Retransmits)
		})
	}
}
