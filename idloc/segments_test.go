package idloc_test

import (
	"io"
	"net"
	"testing"

	"github.com/idloc/idloc/idloc"
)

// What a stream sends in one datagram is as long as the path takes, not as what TCP
// announced for an Ethernet frame: inside a host a datagram has tens of kilobytes.
func TestSegmentsFollowThePath(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	l, err := mars.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := venus.Dial(t.Context(), "tcp", "mars:"+port)
	if err != nil {
		t.Fatal(err)
	}
	sent, chunk := int64(0), make([]byte, 1<<20)
	send := func(chunks int) {
		for range chunks {
			n, err := c.Write(chunk)
			if err != nil {
				t.Fatal(err)
			}
			sent += int64(n)
		}
	}
	peer := func() idloc.PeerStatus {
		for _, p := range venus.Status().Peers {
			if p.ID == mars.ID() {
				return p
			}
		}
		t.Fatal("venus does not know mars")
		panic("unreachable")
	}
	for peer().MTU < 60000 { // until the path was probed
		if t.Context().Err() != nil {
			t.Fatal("the path takes", peer().MTU)
		}
		send(1)
	}
	// A busy machine has TCP send little at a time now and then; one that is cut never
	// has more than two frames' worth in a datagram.
	mean := uint64(0)
	for tries := 0; tries < 20 && mean < 8192; tries++ {
		before := peer()
		send(8)
		after := peer()
		mean = (after.BytesSent - before.BytesSent) / max(after.PacketsSent-before.PacketsSent, 1)
	}
	if mean < 8192 {
		t.Errorf("datagrams of %d bytes on a path that takes %d", mean, peer().MTU)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != sent {
		t.Fatalf("%d bytes arrived, want %d", n, sent)
	}
}
