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
