package pipe

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Totals go on counting where a pipe that has ended stopped.
func TestTotals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		if peers, drops := a.Totals(); len(peers) != 0 || len(drops) != 0 {
			t.Errorf("before any pipe: %v, %v", peers, drops)
		}
		var last Totals
		for round := range 3 {
			pa, pb := connect(t, a, b)
			if err := send(pa, packet(100)); err != nil {
				t.Fatal(err)
			}
			<-pb.Ready()
			pa.drops.count(DropReplay)
			settle(time.Second)
			grown := func(when string) {
				t.Helper()
				peers, drops := a.Totals()
				now := peers[b.id]
				if len(peers) != 1 || now.BytesSent < last.BytesSent || now.BytesReceived < last.BytesReceived ||
					now.PacketsSent < last.PacketsSent || now.PacketsReceived < last.PacketsReceived || now.Rekeys < last.Rekeys {
					t.Errorf("round %d, %s: %+v after %+v", round, when, now, last)
				}
				if want := uint64(round + 1); now.Drops["replay"] != want || drops["replay"] != want {
					t.Errorf("round %d, %s: %v and %v dropped, want %d", round, when, now.Drops, drops, want)
				}
				last = now
			}
			before := last
			grown("while it is up")
			if last.BytesSent < before.BytesSent+100 || last.PacketsSent == before.PacketsSent || last.PacketsReceived == before.PacketsReceived {
				t.Errorf("round %d: %+v after %+v", round, last, before)
			}
			live := pa.Status()
			pa.Close(nil)
			<-pb.Closed()
			synctest.Wait()
			grown("when it has ended")
			if last.BytesSent < before.BytesSent+live.BytesSent {
				t.Errorf("round %d: %d bytes sent, of the pipe alone %d", round, last.BytesSent, live.BytesSent)
			}
			last.Drops["replay"] = 1000 // a copy
		}
	})
}

// Of no more than maxEnded peers are counts kept, and the sum of what was dropped
// does not go back for those that are forgotten.
func TestTotalsBound(t *testing.T) {
	e := &Endpoint{pipes: make(map[peerid.ID]*Pipe)}
	id := func(i int) peerid.ID { return peerid.ID{byte(i), byte(i >> 8), 1} }
	for i := range maxEnded + 3 {
		p := &Pipe{e: e, peer: id(i)}
		p.drops.count(DropAuth)
		p.traffic.bytesOut.Add(1)
		e.history.count(p)
		e.history.count(p) // once only
		if i == maxEnded-1 {
			again := &Pipe{e: e, peer: id(0)} // not the oldest any more
			e.history.count(again)
		}
	}
	peers, drops := e.Totals()
	if len(peers) != maxEnded || drops["authentication failed"] != maxEnded+3 {
		t.Errorf("%d peers, %v dropped", len(peers), drops)
	}
	for i, kept := range map[int]bool{0: true, 1: false, 2: false, 3: false, 4: true, maxEnded + 2: true} {
		if got, ok := peers[id(i)]; ok != kept || kept && got.BytesSent != 1 {
			t.Errorf("peer %d: %+v, kept %v", i, got, ok)
		}
	}
}
