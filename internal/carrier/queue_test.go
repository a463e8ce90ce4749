package carrier

import (
	"bytes"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

func drain(q *queue, batch int, now time.Time) (out [][]byte) {
	for {
		b := q.take(nil, batch, now)
		if len(b) == 0 {
			return out
		}
		for len(b) > 0 {
			d, rest, err := nextFrame(b)
			if d == nil || err != nil {
				panic("half a frame")
			}
			out = append(out, bytes.Clone(d))
			b = rest
		}
	}
}

// Small datagrams go first, each kind in its order.
func TestQueueOrder(t *testing.T) {
	q, now := newQueue(), time.Now()
	for i := range byte(5) {
		q.put(append([]byte{i}, make([]byte, 1199)...), now)
		q.put([]byte{100 + i}, now)
	}
	got := drain(q, batchMax, now)
	want := []byte{100, 101, 102, 103, 104, 0, 1, 2, 3, 4}
	if len(got) != len(want) {
		t.Fatalf("%d datagrams", len(got))
	}
	for i := range want {
		if got[i][0] != want[i] {
			t.Errorf("datagram %d is %d, want %d", i, got[i][0], want[i])
		}
	}
}

// What is too much drops the oldest, what is too late is not sent.
func TestQueueBounds(t *testing.T) {
	q, now := newQueue(), time.Now()
	const n = 1000
	for i := range n {
		q.put(append([]byte{byte(i >> 8), byte(i)}, make([]byte, 1198)...), now)
	}
	got := drain(q, batchMax, now)
	if most := q.limit/1200 + 1; len(got) > most || len(got) < most-2 {
		t.Errorf("%d of %d datagrams waited, %d may", len(got), n, most)
	}
	last := got[len(got)-1]
	if i := int(last[0])<<8 | int(last[1]); i != n-1 {
		t.Errorf("the newest that was kept is %d", i)
	}
	if q.drops() != uint64(n-len(got)) {
		t.Errorf("%d counted as dropped", q.drops())
	}
	q.took(0, now)
	for _, late := range []time.Duration{lateAfter - 1, lateAfter + 1} {
		q.put(make([]byte, 20), now)
		q.take(nil, batchMax, now) // is written to the stream, which takes so long
		q.put(make([]byte, 1200), now)
		q.put(make([]byte, 20), now)
		now = now.Add(late)
		q.took(22, now)
		if got := drain(q, batchMax, now); (len(got) == 0) != (late > lateAfter) {
			t.Errorf("%d datagrams were sent after %v", len(got), late)
		}
		q.took(0, now)
	}
}

// A writer that comes late itself sends what has waited for it.
func TestQueueOfABusyMachine(t *testing.T) {
	q, now := newQueue(), time.Now()
	for i := range byte(40) {
		q.put(append([]byte{i}, make([]byte, 1199)...), now)
	}
	for n := 0; n < 40; {
		now = now.Add(time.Second)
		b := q.take(nil, batchMax, now)
		if len(b) == 0 {
			t.Fatalf("%d datagrams of 40 were sent, %d dropped", n, q.drops())
		}
		n += len(b) / 1202
		now = now.Add(time.Millisecond)
		q.took(len(b), now)
	}
}

// The bound follows the rate of the stream: it is queueFor of it.
func TestQueueRate(t *testing.T) {
	for _, rate := range []int{1 << 20, 20 << 20, 1 << 30} {
		q, now := newQueue(), time.Now()
		for start := now; now.Sub(start) < 6*rateEvery; {
			q.put(make([]byte, 1200), now)
			n := len(q.take(nil, 1200, now))
			q.put(make([]byte, 1200), now)
			now = now.Add(time.Duration(n) * time.Second / time.Duration(rate))
			q.took(n, now)
		}
		want := min(max(int(float64(rate)*queueFor.Seconds()), queueMin), queueMax)
		if q.limit < want*9/10 || q.limit > want*11/10 {
			t.Errorf("at %d bytes a second %d bytes may wait, want %d", rate, q.limit, want)
		}
	}
}

// The data path allocates nothing.
func TestQueueAllocates(t *testing.T) {
	q, now := newQueue(), time.Now()
	d, b := make([]byte, 1200), make([]byte, 0, batchMax+MaxDatagram)
	q.put(d, now)
	q.take(b, batchMax, now)
	if n := yardstick.Allocs(200, func() {
		for range 10 {
			q.put(d, now)
		}
		q.took(len(q.take(b, batchMax, now)), now)
	}); n > 0.5 && !race.Enabled {
		t.Errorf("%v allocations", n)
	}
}

func TestQueueClosed(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.put([]byte{1}, now)
	q.close()
	q.put([]byte{2}, now)
	if got := drain(q, batchMax, now); got != nil {
		t.Errorf("%v came out of a queue that was closed", got)
	}
}
