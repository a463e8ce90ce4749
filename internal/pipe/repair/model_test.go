package repair

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pipe/congestion"
	"github.com/idloc/idloc/internal/race"
)

// model is a sender and a receiver with a link between them, in time that does not
// pass by itself.
type model struct {
	t    *testing.T
	rnd  *rand.Rand
	now  time.Duration
	s    *Sender
	r    Receiver
	keys uint64 // counters used

	rate    float64 // bytes a second
	queue   time.Duration
	delay   time.Duration // one way
	loss    float64       // of bursts
	burst   int           // packets lost together
	reorder float64
	late    time.Duration
	deaf    bool // acknowledgements are lost
	limit   int  // of a datagram

	losing int
	free   time.Duration
	there  []arrival
	back   []arrival

	next    []uint64 // of each flow: what it expects
	ahead   []map[uint64]bool
	got     int // bytes in order
	dropped int
	doubles int
	highest uint32        // counter
	last    time.Duration // something came in order
	worst   time.Duration // the longest without
	timeout time.Duration // the longest that the sender has reckoned with

	busy time.Duration // the sending host comes to it so often only, 0: at once

	voice   time.Duration // a datagram leaves so often, 0: none does
	vsize   int           // of which size
	vnext   time.Duration
	vsent   int
	vseen   map[uint64]bool
	vdelays []time.Duration // of each that came, beyond the path's own
	vbytes  int
}

type arrival struct {
	at      time.Duration
	counter uint32
	plain   []byte
}

const overhead = 24

func newModel(t *testing.T, rnd *rand.Rand, flows int) *model {
	m := &model{t: t, rnd: rnd, now: time.Second, last: time.Second, burst: 1, limit: 1472}
	m.s = NewSender(Config{Path: congestion.Config{Segment: 1472, Random: rnd.Float64}, Budget: NewBudget(64 << 20)})
	m.next = make([]uint64, flows)
	for range flows {
		m.ahead = append(m.ahead, make(map[uint64]bool))
	}
	return m
}

// write queues packet number n of a flow.
func (m *model) write(flow int, n uint64) bool {
	k, b := m.s.Room(uint64(flow), false, 0, 1400)
	if k == nil {
		return false
	}
	b[0] = 6
	binary.BigEndian.PutUint64(b[1:], n)
	b[9] = byte(flow)
	m.s.Queue(k, overhead)
	return true
}

func (m *model) pump() {
	for {
		k := m.s.Take(m.now, m.limit, overhead)
		if k == nil {
			return
		}
		counter := uint32(m.keys)
		m.keys++
		plain := slices.Clone(k.Plain())
		size := k.Size
		if m.s.Sent(k, 7, counter, m.now) {
			m.s.Skipped(7, uint32(m.keys))
			m.keys++
		}
		m.free = max(m.free, m.now)
		if m.free-m.now > m.queue {
			m.dropped++
			continue
		}
		m.free += time.Duration(float64(size) / m.rate * 1e9)
		if m.losing == 0 && m.rnd.Float64() < m.loss {
			m.losing = m.burst
		}
		if m.losing > 0 {
			m.losing--
			continue
		}
		at := m.free + m.delay
		if m.rnd.Float64() < m.reorder {
			at += m.late
		}
		m.there = insert(m.there, arrival{at, counter, plain})
	}
}

func insert(l []arrival, a arrival) []arrival {
	i := len(l)
	for i > 0 && l[i-1].at > a.at {
		i--
	}
	return slices.Insert(l, i, a)
}

// speak queues the datagrams that are due.
func (m *model) speak() {
	for ; m.voice > 0 && m.now >= m.vnext; m.vnext += m.voice {
		m.vnext = max(m.vnext, m.now-m.voice)
		if k, b := m.s.Once(1000, false, 0, m.vsize); k != nil {
			b[0] = 17
			binary.BigEndian.PutUint64(b[1:], uint64(m.now))
			binary.BigEndian.PutUint64(b[9:], uint64(m.vsent))
			m.s.Queue(k, overhead)
		}
		m.vsent++
	}
}

// heard is a datagram at the receiver.
func (m *model) heard(plain []byte) {
	n := binary.BigEndian.Uint64(plain[9:])
	if m.vseen == nil {
		m.vseen = make(map[uint64]bool)
	}
	if m.vseen[n] {
		m.t.Fatalf("datagram %d came twice", n)
	}
	m.vseen[n] = true
	m.vbytes += len(plain)
	m.vdelays = append(m.vdelays, m.now-time.Duration(binary.BigEndian.Uint64(plain[1:]))-m.delay)
}

// step is what happens at m.now.
func (m *model) step() {
	m.speak()
	came := false
	for len(m.there) > 0 && m.there[0].at <= m.now {
		a := m.there[0]
		m.there = m.there[1:]
		came = true
		m.r.Note(a.counter, a.plain[0]&Wanted != 0)
		m.take(a.plain, a.counter)
	}
	if send, _ := m.r.Due(m.now, 2*m.delay, came); send {
		b := m.r.Append(nil, 7, m.now)
		if !m.deaf && m.rnd.Float64() >= m.loss {
			m.back = insert(m.back, arrival{at: m.now + m.delay, plain: b})
		}
	}
	if m.busy > 0 && m.now%m.busy != 0 {
		return
	}
	for len(m.back) > 0 && m.back[0].at <= m.now {
		var a Ack
		if !a.Parse(m.back[0].plain) {
			m.t.Fatalf("an acknowledgement that cannot be read: %x", m.back[0].plain)
		}
		m.back = m.back[1:]
		if err := m.s.Acked(&a, m.keys, m.now); err != nil {
			m.t.Fatal(err)
		}
	}
	if at := m.s.probeAt(); at > 0 {
		m.timeout = max(m.timeout, at-max(m.s.lastAck, m.s.lastSent))
	}
	if at := m.s.Due(); at > 0 && at <= m.now {
		m.s.Timeout(m.now)
	}
	m.pump()
}

// take is the receiver's: what came before is dropped if the sender says so, or if
// datagrams that were sent later had overtaken it.
func (m *model) take(plain []byte, counter uint32) {
	if plain[0]&^Bits == 17 {
		m.heard(plain)
		return
	}
	overtaken := counter < m.highest
	m.highest = max(m.highest, counter)
	n, flow := binary.BigEndian.Uint64(plain[1:]), int(plain[9])
	if n < m.next[flow] || m.ahead[flow][n] {
		m.doubles++
		if plain[0]&Again == 0 && !overtaken {
			m.t.Fatalf("packet %d of flow %d came twice and does not say so", n, flow)
		}
		return
	}
	m.ahead[flow][n] = true
	for m.ahead[flow][m.next[flow]] {
		delete(m.ahead[flow], m.next[flow])
		m.next[flow]++
		m.got += len(plain)
		m.worst, m.last = max(m.worst, m.now-m.last), m.now
	}
}

const tick = 200 * time.Microsecond

// run has each flow write packets for d, most of which wait at once.
func (m *model) run(d time.Duration, most int) {
	written := slices.Clone(m.next)
	for i := range written {
		written[i] += uint64(len(m.ahead[i]))
	}
	m.write1(d, most, written)
}

// feed has each flow write packets for d.
func (m *model) feed(d time.Duration, most int, written []uint64) {
	for end := m.now + d; m.now < end; m.now += tick {
		for i := range written {
			for int(written[i]-m.next[i]) < most && m.write(i, written[i]) {
				written[i]++
			}
		}
		m.step()
	}
}

func (m *model) write1(d time.Duration, most int, written []uint64) {
	m.feed(d, most, written)
	// All that was written arrives.
	for end := m.now + time.Minute; !m.s.Idle() && m.now < end; m.now += tick {
		m.step()
	}
	for i := range written {
		if m.next[i] != written[i] {
			m.t.Errorf("flow %d: %d of %d packets have arrived", i, m.next[i], written[i])
		}
	}
}

func (m *model) String() string {
	return fmt.Sprintf("%.1f Mbit/s, %v, queue %v, %.2f %% lost %d at once, %.2f %% late by %v, %+v, reordering %v",
		m.rate*8/1e6, m.delay, m.queue, 100*m.loss, m.burst, 100*m.reorder, m.late, m.s.Stats, m.s.reorder)
}

// Links of any kind: all arrives, in order, and nothing stops for longer
// than three timeouts of the sender's, bursts of losses counted in.
func TestManyLinks(t *testing.T) {
	step := uint64(max(1, 1000 / *links))
	if race.Enabled { // there is one goroutine to watch, ten times as slowly
		step *= 9
	}
	for part := range uint64(10) {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			for i := uint64(0); i < 100; i += step {
				seed := part*100 + i
				rnd := rand.New(rand.NewPCG(seed, 11))
				m := newModel(t, rnd, 1+rnd.IntN(3))
				m.rate = (1 + 9*rnd.Float64()) * 1e6 / 8
				m.delay = time.Millisecond + time.Duration(rnd.Float64()*float64(100*time.Millisecond))
				m.queue = 10*time.Millisecond + time.Duration(rnd.Float64()*float64(100*time.Millisecond))
				if rnd.IntN(4) > 0 {
					m.loss = .04 * rnd.Float64()
					m.burst = 1 + rnd.IntN(4)
				}
				if rnd.IntN(3) == 0 {
					m.reorder, m.late = .02*rnd.Float64(), time.Duration(rnd.Float64()*float64(20*time.Millisecond))
				}
				m.run(2*time.Second, 400)
				if m.worst > 3*m.timeout {
					t.Errorf("seed %d: nothing came in order for %v, timeout %v: %v", seed, m.worst, m.timeout, m)
				}
				if m.s.Kept() != 0 || m.s.cfg.Budget.Left() != 64<<20 {
					t.Errorf("seed %d: %d bytes are kept, %d left", seed, m.s.Kept(), m.s.cfg.Budget.Left())
				}
			}
		})
	}
}

// What a flow gets of the links that the field knows.
func TestLinks(t *testing.T) {
	for _, c := range []struct {
		mbit    float64
		delay   time.Duration
		loss    float64
		burst   int
		reorder float64
		late    time.Duration
		want    float64
	}{
		{200, 5 * time.Millisecond, .01, 1, 0, 0, 165},
		{200, 50 * time.Millisecond, 0, 1, 0, 0, 160},
		{200, 50 * time.Millisecond, .01, 1, 0, 0, 155},
		{200, 50 * time.Millisecond, .03, 1, 0, 0, 150},
		{200, 50 * time.Millisecond, .0025, 8, 0, 0, 150},
		{200, 50 * time.Millisecond, 0, 1, .01, 2 * time.Millisecond, 155},
		{200, 50 * time.Millisecond, 0, 1, .01, 20 * time.Millisecond, 150},
		{200, 5 * time.Millisecond, 0, 1, .01, 20 * time.Millisecond, 160},
	} {
		t.Run(fmt.Sprintf("%v Mbit/s %v %v lost by %d %v late by %v", c.mbit, c.delay, c.loss, c.burst, c.reorder, c.late), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, rand.New(rand.NewPCG(1, 12)), 1)
			m.rate, m.delay, m.queue = c.mbit/8*1e6, c.delay, 50*time.Millisecond
			m.loss, m.burst, m.reorder, m.late = c.loss, c.burst, c.reorder, c.late
			written := []uint64{0}
			m.write1(1500*time.Millisecond, 9000, written)
			m.got = 0
			began := m.now
			m.write1(4*time.Second, 9000, written)
			got := float64(m.got) * 8 / 1e6 / (m.now - began).Seconds()
			t.Logf("%.1f Mbit/s, %.2f %% dropped by the queue, %d doubles, %v", got, 100*float64(m.dropped)/float64(m.s.Stats.Sent), m.doubles, m)
			if got < c.want {
				t.Errorf("%.1f Mbit/s, want %v", got, c.want)
			}
		})
	}
}

// A voice beside bulk, over one path: each of its datagrams arrives, without waiting
// behind what the bulk has queued at the sender or in the bottleneck.
func TestVoiceBesideBulk(t *testing.T) {
	for _, c := range []struct {
		mbit  float64
		delay time.Duration
		loss  float64
	}{{20, 5 * time.Millisecond, 0}, {50, 20 * time.Millisecond, .01}, {20, 50 * time.Millisecond, 0}, {100, 50 * time.Millisecond, .01}} {
		t.Run(fmt.Sprintf("%v Mbit/s %v %v lost", c.mbit, c.delay, c.loss), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, rand.New(rand.NewPCG(1, 13)), 1)
			m.rate, m.delay, m.queue, m.loss = c.mbit/8*1e6, c.delay, 100*time.Millisecond, c.loss
			written := []uint64{0}
			m.feed(3*time.Second, 4000, written)
			m.voice, m.vsize, m.vnext = 20*time.Millisecond, 200, m.now
			m.got = 0
			began := m.now
			m.feed(10*time.Second, 4000, written)
			m.voice = 0
			got := float64(m.got) * 8 / 1e6 / (m.now - began).Seconds()
			m.write1(0, 4000, written)
			slices.Sort(m.vdelays)
			n := len(m.vdelays)
			p50, p99 := m.vdelays[n/2], m.vdelays[n*99/100]
			t.Logf("%d of %d, waited %v, p99 %v, at most %v; bulk %.1f Mbit/s, %v", n, m.vsent, p50, p99, m.vdelays[n-1], got, m)
			if float64(n) < float64(m.vsent)*(1-2*c.loss)-1 {
				t.Errorf("%d of %d datagrams have come", n, m.vsent)
			}
			if p50 > 10*time.Millisecond || p99 > 20*time.Millisecond {
				t.Errorf("datagrams waited %v, p99 %v", p50, p99)
			}
			if got < .75*c.mbit {
				t.Errorf("bulk got %.1f of %v Mbit/s", got, c.mbit)
			}
		})
	}
}

// More datagrams than the path carries, beside bulk: neither starves the other, and no
// segment is lost for good.
func TestFloodBesideBulk(t *testing.T) {
	t.Parallel()
	const mbit = 20.
	m := newModel(t, rand.New(rand.NewPCG(1, 14)), 2)
	m.rate, m.delay, m.queue = mbit/8*1e6, 20*time.Millisecond, 50*time.Millisecond
	m.voice, m.vsize, m.vnext = 400*time.Microsecond, 1400, m.now // 28 Mbit/s
	written := []uint64{0, 0}
	m.feed(2*time.Second, 1000, written)
	m.got, m.vbytes = 0, 0
	m.feed(6*time.Second, 1000, written)
	bulk, flood := float64(m.got)*8/6e6, float64(m.vbytes)*8/6e6
	t.Logf("bulk %.1f, datagrams %.1f Mbit/s, %v", bulk, flood, m)
	if bulk < .3*mbit || flood < .3*mbit || bulk+flood < .8*mbit {
		t.Errorf("bulk %.1f, datagrams %.1f of %v Mbit/s", bulk, flood, mbit)
	}
	m.voice = 0
	m.write1(0, 1000, written)
}

// A host that is busy, and sends late what it has planned, does not take its own rate for
// the path's: when it has time again it is at once as fast as the path.
func TestBusyHost(t *testing.T) {
	for _, busy := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond} {
		for seed := range uint64(4) {
			m := newModel(t, rand.New(rand.NewPCG(seed, 15)), 1)
			m.rate, m.delay, m.queue, m.loss = 100e6/8, 50*time.Millisecond, 50*time.Millisecond, .01
			written := []uint64{0}
			m.busy = busy
			m.feed(2*time.Second, 4000, written)
			slow := float64(m.got) * 8 / 2e6
			m.busy = 0
			m.feed(1200*time.Millisecond, 4000, written)
			m.got = 0
			m.feed(time.Second, 4000, written)
			got := float64(m.got) * 8 / 1e6
			t.Logf("busy for %v, seed %d: %.1f Mbit/s meanwhile, %.1f then, %s, %v", busy, seed, slow, got, m.s.path.State(), m)
			if got < 70 {
				t.Errorf("busy for %v, seed %d: %.1f of 100 Mbit/s when it is over", busy, seed, got)
			}
		}
	}
}
