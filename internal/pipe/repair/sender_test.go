package repair

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pipe/congestion"
)

func newTestSender(b *Budget) *Sender {
	rnd := rand.New(rand.NewPCG(1, 2))
	return NewSender(Config{Path: congestion.Config{Segment: 1472, RTT: 20 * time.Millisecond, Random: rnd.Float64}, Budget: b})
}

// put queues a packet of a flow, false if there is no room.
func put(s *Sender, flow uint64, n int) bool {
	k, b := s.Room(flow, false, 0, n)
	if k == nil {
		return false
	}
	clear(b)
	b[0] = protoTCP
	s.Queue(k, overhead)
	return true
}

// A flow with one packet at a time, but always one, does not keep one that has much
// waiting from its turn.
func TestTurnOfMuch(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	for range 1000 {
		put(s, 1, 1400)
	}
	sent := map[uint64]int{}
	for range 400 {
		if f := s.queue.flows[2]; f == nil || f.packets.n == 0 {
			put(s, 2, 1400)
		}
		k := s.queue.head()
		s.queue.pop(k)
		sent[k.flow]++
		s.free(k)
		s.queue.head() // Take looks whose turn it is before the next may leave
	}
	if sent[1] < 50 || sent[2] < 50 {
		t.Errorf("of 400 packets, the flow with many sent %d, the one with few %d", sent[1], sent[2])
	}
	s.Close()
	if !s.Idle() || s.Flows() != 0 {
		t.Errorf("%d bytes are kept, %d flows wait", s.Kept(), s.Flows())
	}
}

// Peers that acknowledge nothing leave room for others, however many they are.
func TestRoomForOthers(t *testing.T) {
	const all = 4 << 20
	b := NewBudget(all)
	var greedy []*Sender
	for range 8 {
		s := newTestSender(b)
		for put(s, 1, 1400) {
		}
		greedy = append(greedy, s)
	}
	s := newTestSender(b)
	for i := range 3 {
		if !put(s, 1, 100) {
			t.Errorf("%d packets of another found room, %d bytes are left", i, b.Left())
			break
		}
	}
	for _, s := range append(greedy, s) {
		s.Close()
	}
	if b.Left() != all {
		t.Errorf("%d bytes are left of %d", b.Left(), all)
	}
}

// What was taken for lost, sent again and acknowledged goes to a pool, and from there
// to other Senders: the one that lost it must not look at it any more.
func TestLossesForgotten(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	now := time.Second
	counter := uint32(0)
	send := func() {
		for k := s.Take(now, 1472, overhead); k != nil; k = s.Take(now, 1472, overhead) {
			s.Sent(k, 7, counter, now)
			counter++
		}
	}
	for range 30 {
		put(s, 1, 100)
		now += 10 * time.Millisecond
		send()
	}
	acked := func(low, high uint32) {
		now += 20 * time.Millisecond
		a := &Ack{Index: 7, N: 1}
		a.Ranges[0] = Range{low, high}
		if err := s.Acked(a, uint64(counter), now); err != nil {
			t.Fatal(err)
		}
	}
	skipped := counter - 6
	acked(skipped, counter-1) // the others are lost
	if s.nlost == 0 {
		t.Fatal("nothing was lost")
	}
	for range 50 {
		now += 10 * time.Millisecond
		send()
	}
	acked(skipped, counter-2) // all copies but one
	if s.Idle() || s.lost == nil {
		t.Fatal("nothing is kept")
	}
	n := 0
	for i := range min(s.nlost, maxLosses) {
		if k := s.lost[i].k; k != nil {
			n++
			if k.list == nil {
				t.Errorf("loss %d is remembered with a packet that was given away", i)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d losses have their packet, one is kept", n)
	}
}

// Acknowledgements of each key are for its own packets, and one of a key that has none
// is for nothing.
func TestAckedOfKeys(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	now := time.Second
	for range 10 {
		put(s, 1, 100)
	}
	for i := range uint32(10) {
		k := s.Take(now, 1472, overhead)
		if k == nil {
			t.Fatalf("packet %d does not leave", i)
		}
		s.Sent(k, 7+i/5, i%5, now)
		now += time.Millisecond
	}
	for _, c := range []struct {
		index, low, high uint32
		left             int
	}{{9, 0, 4, 10}, {8, 0, 1, 8}, {7, 0, 4, 3}, {7, 0, 4, 3}, {9, 0, 4, 3}, {8, 2, 4, 0}} {
		a := &Ack{Index: c.index, N: 1}
		a.Ranges[0] = Range{c.low, c.high}
		if err := s.Acked(a, 5, now); err != nil {
			t.Fatal(err)
		}
		if n := s.in.n + s.again.n; n != c.left {
			t.Errorf("after counters %d to %d of key %d, %d packets are kept, want %d", c.low, c.high, c.index, n, c.left)
		}
	}
	if !s.Idle() {
		t.Errorf("%d bytes are kept", s.Kept())
	}
}

// Acknowledgements that say nothing new, as many as a peer likes and each of 32 ranges,
// have no more work done than what was sent pays for; the next honest ones count.
func TestAcksOfNothing(t *testing.T) {
	for what, ranges := range map[string]func(i int) Range{
		"below all":  func(i int) Range { return Range{uint32(2 * (MaxRanges - i)), uint32(2 * (MaxRanges - i))} },
		"around all": func(i int) Range { return Range{3000 - 50*uint32(i), 3000 - 50*uint32(i)} },
	} {
		s := newTestSender(NewBudget(64 << 20))
		now := time.Second
		counter := uint32(0)
		send := func(n int) {
			for range n {
				put(s, 1, 100)
			}
			s.probing = n
			for k := s.Take(now, 1472, overhead); k != nil; k = s.Take(now, 1472, overhead) {
				s.Sent(k, 7, counter, now)
				counter++
			}
		}
		counter = 200 // what is below was never kept
		send(4000)
		s.reorder = time.Hour // the peer has had what it likes taken for late
		passed := 0
		for range 100_000 {
			now += time.Microsecond
			a := &Ack{Index: 7, N: MaxRanges}
			for i := range MaxRanges {
				a.Ranges[i] = ranges(i)
			}
			before := s.work
			if err := s.Acked(a, uint64(counter), now); err != nil {
				t.Fatal(err)
			}
			passed += max(before-s.work, 0)
		}
		if passed > workMost+workEach*4000 || s.Stats.Ignored == 0 {
			t.Errorf("%s: %d packets passed over for 100000 acknowledgements, of which %d were ignored", what, passed, s.Stats.Ignored)
		}
		send(1)
		now += 20 * time.Millisecond
		a := &Ack{Index: 7, N: 1}
		a.Ranges[0] = Range{counter - 1, counter - 1}
		if err := s.Acked(a, uint64(counter), now); err != nil {
			t.Fatal(err)
		}
		if s.in.last != nil && s.in.last.counter == counter-1 {
			t.Errorf("%s: what was acknowledged at last is still in flight", what)
		}
	}
}

// A peer that acknowledges nothing gets no more than what a path begins with, and then
// a few probes.
func TestAcksWithheld(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	for range 2000 {
		put(s, 1, 1400)
	}
	sent := 0
	window := s.path.Window()
	for now := time.Second; now < 20*time.Second; now += time.Millisecond {
		s.Timeout(now)
		for k := s.Take(now, 1472, overhead); k != nil; k = s.Take(now, 1472, overhead) {
			s.Sent(k, 7, uint32(sent), now)
			sent++
		}
		if s.path.InFlight() > window+2*1472 {
			t.Fatalf("%d bytes are in flight after %v, of %d", s.path.InFlight(), now, window)
		}
	}
	if most := window/1424 + 1 + probePacket*int(s.Stats.Probes); sent > most || s.Stats.Probes > maxProbes+2 {
		t.Errorf("%d packets were sent, want at most %d, %d probes among them", sent, most, s.Stats.Probes)
	}
}

// A peer that acknowledges all that may have been sent, to have more of it sooner, is
// found out by a counter that was left out, soon.
func TestAcksOptimistic(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	now := time.Second
	counter := uint64(0)
	for n := 0; ; n++ {
		if n > 2*skipEvery {
			t.Fatalf("%d packets were sent, and the peer is believed", n)
		}
		put(s, 1, 1000)
		now += 10 * time.Millisecond
		k := s.Take(now, 1472, overhead)
		if k == nil || s.Take(now, 1472, overhead) != nil {
			t.Fatal("one was to leave")
		}
		skip := s.Sent(k, 7, uint32(counter), now)
		counter++
		if skip {
			s.Skipped(7, uint32(counter))
			counter++
		}
		a := &Ack{Index: 7, N: 1}
		a.Ranges[0] = Range{0, uint32(counter - 1)}
		if err := s.Acked(a, counter, now+time.Millisecond); err == ErrLie {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Datagrams leave before segments as long as they take no more than their share, in
// turn among themselves, and never twice.
func TestOnce(t *testing.T) {
	s := newTestSender(NewBudget(64 << 20))
	once := func(flow uint64, n int) {
		k, b := s.Once(flow, false, 0, n)
		clear(b)
		b[0] = 17
		s.Queue(k, overhead)
	}
	for range 500 {
		put(s, 1, 1400)
		once(1, 1400)
	}
	now := time.Second
	bytes := map[bool]int{}
	counter := uint32(0)
	for range 400 {
		k := s.Take(now, 1472, overhead)
		if k == nil {
			now += time.Millisecond
			continue
		}
		bytes[k.once] += k.Size
		if k.Plain()[0]&Again != 0 && k.once {
			t.Fatal("a datagram is sent again")
		}
		c := counter
		s.Sent(k, 7, c, now)
		counter++
		a := &Ack{Index: 7, N: 1}
		a.Ranges[0] = Range{c, c}
		if c%10 != 3 { // which is lost
			_ = s.Acked(a, uint64(counter), now)
		}
	}
	if part := float64(bytes[true]) / float64(bytes[true]+bytes[false]); part < .4 || part > .75 {
		t.Errorf("%.0f %% of what was sent was datagrams, %v", 100*part, bytes)
	}
	once(2, 100)
	if k := s.once.head(); k == nil || k.flow != 2 {
		t.Error("one of a flow that had nothing waiting is not next")
	}
	for range 2000 {
		once(1, 1400)
	}
	if s.Stats.Shed == 0 || s.once.flows[2] == nil || s.once.flows[2].packets.n != 1 {
		t.Errorf("%d were shed, of the flow with most or not", s.Stats.Shed)
	}
	s.Close()
	if !s.Idle() {
		t.Errorf("%d bytes are kept", s.Kept())
	}
}
