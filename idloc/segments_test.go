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
	before := peer()
	send(32)
	after := peer()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != sent {
		t.Fatalf("%d bytes arrived, want %d", n, sent)
	}
	packets, bytes := after.PacketsSent-before.PacketsSent, after.BytesSent-before.BytesSent
	if mean := bytes / max(packets, 1); mean < 8192 {
		t.Errorf("%d bytes in %d datagrams of %d bytes on a path that takes %d", bytes, packets, mean, before.MTU)
	}
}
