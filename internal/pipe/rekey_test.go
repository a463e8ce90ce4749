package pipe

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/wire"
)

var rekeyCount = flag.Int("rekeys", 1000, "how many rekeys TestRekeys waits for")

// Rekeys under traffic in both directions, as many as are asked for, lose no packet and
// stall none.
func TestRekeys(t *testing.T) {
	rekeys := *rekeyCount
	switch {
	case testing.Short():
		rekeys = 200
	case race.Enabled:
		rekeys = min(rekeys, 600)
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(25 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		var sent uint64
		for pa.Status().Rekeys < uint64(rekeys) {
			// Dense around the time of a rekey, thin else.
			pause := 7 * time.Second
			if age := keyAge(pa); age > rekeyAfter-int64(10*time.Second) || age < int64(2*time.Second) {
				pause = 90 * time.Millisecond
			}
			settle(pause)
			sent++
			if err := sendNumber(pa, sent); err != nil {
				t.Fatal(err)
			}
			if err := sendNumber(pb, sent); err != nil {
				t.Fatal(err)
			}
			if sent > 1<<30 {
				t.Fatal("no rekeys")
			}
		}
		settle(time.Second)
		for _, h := range []*host{a, b} {
			for i := uint64(1); i <= sent; i++ {
				if h.r.seen[i] != 1 {
					t.Fatalf("packet %d of %d came %d times", i, sent, h.r.seen[i])
				}
			}
			if h.r.fails != 0 || len(h.r.downs) != 0 {
				t.Errorf("%d packets did not open, downs %v", h.r.fails, h.r.downs)
			}
		}
		if len(pa.keys.all) > 3 || a.table.live > 3 || b.table.live > 3 {
			t.Errorf("%d keys, %d and %d indices", len(pa.keys.all), a.table.live, b.table.live)
		}
		if pa.keys.cur.chaining != pb.keys.cur.chaining || pa.keys.cur.number != pb.keys.cur.number {
			t.Error("the chaining keys differ")
		}
	})
}

func keyAge(p *Pipe) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.e.now() - p.keys.cur.created
}

// Rekeys end well with a third of all datagrams lost, in both directions.
func TestRekeyWithLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(25 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		r := rand.New(rand.NewPCG(3, 4))
		var mu sync.Mutex
		n.setDrop(func(_, _ netip.AddrPort, d []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return d[0] != wire.TypeData4 && r.IntN(3) == 0
		})
		for i := uint64(1); i <= 36000; i++ {
			settle(100 * time.Millisecond)
			sendNumber(pa, i)
			sendNumber(pb, i)
		}
		settle(time.Second)
		for _, h := range []*host{a, b} {
			if len(h.r.seen) != 36000 || h.r.fails != 0 {
				t.Errorf("%d packets, %d did not open, downs %v", len(h.r.seen), h.r.fails, h.r.downs)
			}
		}
		if n := pa.Status().Rekeys; n < 28 {
			t.Errorf("%d rekeys in an hour", n)
		}
	})
}

// Both sides begin at once, at the packet limit: one exchange stays.
func TestRekeyGlare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(25 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		a.limits.rekeyAfterPackets, b.limits.rekeyAfterPackets = 100, 100
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		for i := uint64(1); i <= 5000; i++ {
			settle(5 * time.Millisecond)
			sendNumber(pa, i)
			sendNumber(pb, i)
		}
		settle(time.Second)
		for _, h := range []*host{a, b} {
			if len(h.r.seen) != 5000 || h.r.fails != 0 {
				t.Errorf("%d packets, %d did not open", len(h.r.seen), h.r.fails)
			}
		}
		if pa.keys.cur.number < 20 || pa.keys.cur.number != pb.keys.cur.number || pa.keys.cur.chaining != pb.keys.cur.chaining {
			t.Errorf("after %d and %d rekeys", pa.keys.cur.number, pb.keys.cur.number)
		}
	})
}

// A restarted peer takes over at once, and only once it is confirmed.
func TestTakeover(t *testing.T) {
	for _, initiator := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			settle(time.Second)
			// a crashes: nothing is said to b.
			n.setDrop(func(_, _ netip.AddrPort, _ []byte) bool { return true })
			last := a.LastTimestamp()
			a.Close()
			n.setDrop(nil)
			a2 := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.LastTimestamp = last })
			old := pb.keys.cur
			from, to := a2, b
			if !initiator {
				from, to = b, a2
			}
			sf, st := sessions(t, from, to)
			if pb.keys.cur != old || old.dead() {
				t.Fatal("the old session went before the new one was confirmed")
			}
			if _, err := to.Up(st, to.path(from)); err != nil {
				t.Fatal(err)
			}
			pf, err := from.Up(sf, from.path(to))
			if err != nil {
				t.Fatal(err)
			}
			settle(100 * time.Millisecond)
			if !old.dead() {
				t.Error("the old session is still there")
			}
			if err := send(pf, packet(100)); err != nil {
				t.Error(err)
			}
			if err := send(to.Pipe(from.id), packet(100)); err != nil {
				t.Error(err)
			}
			settle(time.Second)
			if b.Pipe(a2.id) != pb || len(a2.r.plain) != 1 || len(b.r.plain) != 2 {
				t.Errorf("%d and %d packets", len(a2.r.plain), len(b.r.plain))
			}
		})
	}
}

// Two sessions that crossed end in one pipe with one session, on both sides
// the same, and no packet is lost meanwhile.
func TestCrossing(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
			sa1, sb1 := sessions(t, a, b)
			sb2, sa2 := sessions(t, b, a)
			up := func(h *host, s *Session, to *host) {
				if _, err := h.Up(s, h.path(to)); err != nil {
					t.Fatal(err)
				}
			}
			if first {
				up(a, sa1, b)
				up(b, sb2, a)
				up(a, sa2, b)
				up(b, sb1, a)
			} else {
				up(b, sb2, a)
				up(b, sb1, a)
				up(a, sa1, b)
				up(a, sa2, b)
			}
			pa, pb := a.Pipe(b.id), b.Pipe(a.id)
			for i := uint64(1); i <= 100; i++ {
				sendNumber(pa, i)
				sendNumber(pb, i)
				settle(5 * time.Millisecond)
			}
			settle(time.Second)
			if len(a.r.seen) != 100 || len(b.r.seen) != 100 {
				t.Errorf("%d and %d of 100 packets", len(a.r.seen), len(b.r.seen))
			}
			if pa.keys.sess.id != pb.keys.sess.id {
				t.Error("the two sides use different sessions")
			}
			if want := a.id.Compare(b.id) < 0; pa.keys.sess.initiator != want {
				t.Error("the session of the larger ID stayed")
			}
			if len(a.Pipes()) != 1 || len(b.Pipes()) != 1 || a.r.ups != 1 || b.r.ups != 1 {
				t.Errorf("%d and %d ups", a.r.ups, b.r.ups)
			}
			for i := uint64(101); i <= 200; i++ {
				sendNumber(pa, i)
				sendNumber(pb, i)
				settle(5 * time.Second)
			}
			if len(a.r.seen) != 200 || len(b.r.seen) != 200 || len(pa.keys.all) > 2 || len(pb.keys.all) > 2 {
				t.Errorf("later: %d and %d packets, %d and %d keys", len(a.r.seen), len(b.r.seen), len(pa.keys.all), len(pb.keys.all))
			}
		})
	}
}

// A NAT gives the initiator another address: the responder follows after a
// challenge, not before.
func TestRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(5 * time.Second)
		outside := netip.MustParseAddrPort("198.51.100.7:7777")
		n.mu.Lock()
		n.at[outside] = a.s
		n.rewrite = func(from, to netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
			if from == a.s.addr {
				return outside, to
			}
			if to == a.s.addr {
				return from, netip.AddrPort{} // the old mapping is gone
			}
			return from, to
		}
		n.mu.Unlock()
		sendNumber(pa, 1)
		settle(11 * time.Millisecond)
		if pb.paths.best.Load().Remote != a.s.addr {
			t.Error("switched without a challenge")
		}
		settle(30 * time.Millisecond)
		if got := pb.paths.best.Load().Remote; got != outside {
			t.Errorf("b sends to %v", got)
		}
		sendNumber(pb, 2)
		settle(time.Second)
		if b.r.seen[1] != 1 || a.r.seen[2] != 1 || len(a.r.downs)+len(b.r.downs) != 0 {
			t.Errorf("a %v %v, b %v %v", a.r.seen, a.r.downs, b.r.seen, b.r.downs)
		}
	})
}

// Someone repeats packets from an address of theirs: no data goes there.
func TestReflection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(5 * time.Second)
		victim := netip.MustParseAddrPort("198.51.100.7:7777")
		got := 0
		n.mu.Lock()
		n.drop = func(from, to netip.AddrPort, d []byte) bool {
			if from == a.s.addr && d[0] == wire.TypeData4 {
				b.Receive(b.s, victim, bytes.Clone(d), len(d)) // it is there first
			}
			return false
		}
		n.rewrite = func(from, to netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
			if to == victim {
				got++
			}
			return from, to
		}
		n.mu.Unlock()
		for i := uint64(1); i <= 300; i++ {
			sendNumber(pa, i)
			sendNumber(pb, i)
			settle(100 * time.Millisecond)
		}
		if got > 40 || pb.paths.best.Load().Remote != a.s.addr || len(a.r.seen) != 300 {
			t.Errorf("%d datagrams to the victim, %d to a", got, len(a.r.seen))
		}
	})
}

func TestLocalAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		second := n.sender("192.0.2.101:1000", a.Endpoint)
		a.AddLocal(second)
		settle(time.Second)
		if s := pa.Status(); len(s.Paths) != 2 || !s.Paths[1].Validated {
			t.Fatalf("%+v", s.Paths)
		}
		n.mu.Lock()
		delete(n.at, a.s.addr)
		n.mu.Unlock()
		a.RemoveLocal(a.s)
		sendNumber(pa, 1)
		settle(time.Second)
		if pb.paths.best.Load().Remote != second.addr {
			// b stays on the old path while it has consent, unless it is
			// found dead.
			sendNumber(pb, 2)
			settle(2 * time.Second)
		}
		sendNumber(pb, 3)
		settle(time.Second)
		if b.r.seen[1] != 1 || a.r.seen[3] != 1 || len(a.r.downs) != 0 {
			t.Errorf("a %v, b %v, downs %v", a.r.seen, b.r.seen, a.r.downs)
		}
		a.RemoveLocal(second)
		if !errors.Is(pa.Err(), ErrNoPath) {
			t.Errorf("no address left: %v", pa.Err())
		}
	})
}

func TestLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		sizes := []int{1, 1100, 1500, 9000, 65535}
		for _, size := range sizes {
			if err := pa.SendLarge(size%2 == 0, packet(size), 0); err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
		}
		if len(b.r.large) != len(sizes) {
			t.Fatalf("%d messages", len(b.r.large))
		}
		for i, size := range sizes {
			if !bytes.Equal(b.r.large[i], packet(size)) {
				t.Errorf("%d bytes differ", size)
			}
		}
		if pa.SendLarge(false, packet(65536), 0) == nil || pa.SendLarge(false, nil, 0) == nil {
			t.Error("a message of an impossible size was sent")
		}
		// The last piece of each is lost: no more than four wait, for 1 s.
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			return from == a.s.addr && d[0] == wire.TypeFrag && len(d) < 500
		})
		pb := b.Pipe(a.id)
		for range 6 {
			pa.SendLarge(false, packet(1500), 0)
		}
		settle(100 * time.Millisecond)
		pb.mu.Lock()
		waiting := len(pb.pieces.waiting)
		pb.mu.Unlock()
		settle(time.Second)
		pb.mu.Lock()
		after := len(pb.pieces.waiting)
		pb.mu.Unlock()
		if waiting != maxPending || after != 0 {
			t.Errorf("%d waiting, %d after a second", waiting, after)
		}
	})
}

// A path begins to swallow large datagrams: the pipe goes back to what gets
// through within five seconds.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		settle(5 * time.Second)
		if pa.MaxSegment() != 1472-wire.Overhead {
			t.Fatal(pa.MaxSegment())
		}
		n.setDrop(func(_, _ netip.AddrPort, d []byte) bool { return len(d) > 1300 })
		for range 50 {
			send(pa, packet(pa.MaxSegment()+1))
			settle(100 * time.Millisecond)
		}
		if got := pa.MaxSegment(); got != 1280-wire.Overhead {
			t.Errorf("MaxSegment = %d", got)
		}
		if len(a.r.downs) != 0 {
			t.Errorf("downs %v", a.r.downs)
		}
		a.s.mtu = 1250
		send(pa, packet(pa.MaxSegment()+1))
		if got := pa.MaxSegment(); got != 1200-wire.Overhead {
			t.Errorf("after EMSGSIZE: MaxSegment = %d", got)
		}
	})
}

func TestIntegrityLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		a.limits.integrity = 50
		pa, _ := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		d := append(wire.Header{Type: wire.TypeData4, Index: pa.keys.cur.recvIndex}.Append(nil), make([]byte, 100)...)
		for range 50 {
			a.Receive(a.s, b.s.addr, d, len(d))
		}
		if !errors.Is(pa.Err(), ErrIntegrity) {
			t.Errorf("Err = %v", pa.Err())
		}
	})
}

func TestCounterLimit(t *testing.T) {
	a, _, pa, _ := pair(t, true)
	a.timers.close() // who send when they like
	pa.keys.cur.next.Store(rejectAfterPackets - 1)
	if err := send(pa, packet(10)); err != nil {
		t.Fatal(err)
	}
	b := pa.Batch(false)
	defer b.Free()
	b.Room(10)
	b.kp.next.Store(rejectAfterPackets)
	b.Seal()
	if b.count != 0 {
		t.Error("a packet above the limit was sealed")
	}
}

func TestReplay(t *testing.T) {
	a, b, pa, pb := pair(t, true)
	var all [][]byte
	seen := make(map[string]bool) // what is overdue may be sent again
	a.s.n.mu.Lock()
	a.s.tap = func(b []byte) {
		if !seen[string(b)] {
			seen[string(b)] = true
			all = append(all, bytes.Clone(b))
		}
	}
	a.s.n.mu.Unlock()
	for range 8000 {
		send(pa, packet(20))
	}
	a.s.n.mu.Lock()
	defer a.s.n.mu.Unlock()
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for range 2 {
		for _, d := range all {
			b.Receive(b.s, netip.MustParseAddrPort("192.0.2.1:1000"), d, len(d))
		}
	}
	if len(b.r.plain) != 8000 || pb.drops[DropReplay].Load() != 8000 {
		t.Errorf("%d delivered, %d replays", len(b.r.plain), pb.drops[DropReplay].Load())
	}
}
