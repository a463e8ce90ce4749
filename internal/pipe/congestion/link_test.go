package congestion

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

// link is a bottleneck in time that does not pass by itself: a rate, a queue that
// drops what it cannot hold, loss, and a delay.
type link struct {
	rate   float64 // bytes a second
	queue  time.Duration
	delay  time.Duration // there and back
	loss   float64
	jitter time.Duration // acknowledgements come in bursts of this length
	marks  time.Duration // what waits for longer is marked; 0: nothing is
	change func(now time.Duration, l *link)

	free time.Duration // when it has sent what it holds
}

// flow is a sender that always has something to send, and its packets under way.
type flow struct {
	p       *Path
	way     []*under      // in order of sending
	next    time.Duration // when the next packet may leave
	due     time.Duration // when the next acknowledgement comes
	got     int64         // bytes delivered
	sent    int
	dropped int // by the queue
	worst   time.Duration
	idle    time.Duration // the longest that nothing was delivered
	last    time.Duration
}

type under struct {
	Packet
	at   time.Duration // its acknowledgement comes, 0: it is lost
	gone bool
	ce   bool // a router has marked it
	lost bool // it was taken for lost, and has only been late
}

const size = 1448

// run has flows share l from one moment to another.
func run(l *link, rnd *rand.Rand, from, to time.Duration, flows ...*flow) {
	const step = 100 * time.Microsecond
	for now := from + step; now <= to; now += step {
		if l.change != nil {
			l.change(now, l)
		}
		for _, f := range flows {
			f.acks(now)
			f.send(now, l, rnd)
		}
	}
}

// acks takes what has come back: three newer ones make a loss.
func (f *flow) acks(now time.Duration) {
	if now < f.due && now%time.Millisecond != 0 {
		return
	}
	newest := -1
	event, marked := false, false
	for i, k := range f.way {
		if k.lost && k.at <= now {
			f.p.Spurious(k.Sent(), now, k.Size)
			k.lost = false
		}
		if !k.gone && k.at > 0 && k.at <= now {
			f.p.Acked(&k.Packet, now)
			f.got += int64(k.Size)
			k.gone, event, newest = true, true, i
			marked = marked || k.ce
			f.idle, f.last = max(f.idle, now-f.last), now
		}
	}
	_, srtt, varies := f.p.RTT()
	timeout := srtt + 4*varies + 10*time.Millisecond
	for i, k := range f.way {
		if !k.gone && k.at == 0 && (i < newest-3 || now-k.Sent() > timeout) {
			f.p.Lost(&k.Packet, now)
			k.gone, event = true, true
		}
	}
	for len(f.way) > 0 && f.way[0].gone && !f.way[0].lost {
		f.way = f.way[1:]
	}
	if event {
		f.p.Update(now, 0, marked)
	}
	f.due = now + time.Millisecond
	for _, k := range f.way {
		if !k.gone && k.at > 0 {
			f.due = k.at
			break
		}
	}
}

func (f *flow) send(now time.Duration, l *link, rnd *rand.Rand) {
	f.next = max(f.next, now-time.Millisecond)
	for f.next <= now {
		if f.p.InFlight() >= f.p.Window() {
			f.p.Full()
			return
		}
		k := &under{Packet: Packet{Size: size}}
		f.p.Sent(&k.Packet, now)
		f.way = append(f.way, k)
		f.sent++
		f.next += time.Duration(float64(size) / f.p.Rate() * 1e9)
		l.free = max(l.free, now)
		f.worst = max(f.worst, l.free-now)
		if l.free-now > l.queue {
			f.dropped++
			continue
		}
		k.ce = l.marks > 0 && l.free-now > l.marks
		l.free += time.Duration(size / l.rate * 1e9)
		if rnd.Float64() >= l.loss {
			k.at = l.free + l.delay
			if l.jitter > 0 {
				k.at = (k.at + l.jitter - 1) / l.jitter * l.jitter
			}
		}
	}
}

func newFlow(kind string, rnd *rand.Rand) *flow {
	c := Config{Segment: size, Random: rnd.Float64}
	if kind == "cubic" {
		c.New = func(c Config) Controller { return NewCubic(c) }
	}
	return &flow{p: New(c)}
}

// hiccup has all that is under way taken for lost, of which all that the link has not
// dropped arrives.
func (f *flow) hiccup(now time.Duration) {
	for _, k := range f.way {
		if !k.gone {
			f.p.Lost(&k.Packet, now)
			k.gone, k.lost = true, k.at > 0
		}
	}
	f.p.Update(now, 0, false)
}

// mbit is what f got, of the seconds that passed, in Mbit/s.
func (f *flow) mbit(d time.Duration) float64 { return float64(f.got) * 8 / 1e6 / d.Seconds() }

// What one flow gets of links that lose or delay.
func TestOneFlow(t *testing.T) {
	for _, c := range []struct {
		kind   string
		mbit   float64
		rtt    time.Duration
		loss   float64
		jitter time.Duration
		want   float64 // Mbit/s after the first two seconds, at least
		drops  float64 // part dropped by the queue, at most
	}{
		{"bbr", 200, 10 * time.Millisecond, 0, 0, 180, .01},
		{"bbr", 200, 10 * time.Millisecond, .01, 0, 175, .01},
		{"bbr", 200, 10 * time.Millisecond, .03, 0, 170, .01},
		{"bbr", 200, 100 * time.Millisecond, 0, 0, 170, .02},
		{"bbr", 200, 100 * time.Millisecond, .001, 0, 170, .02},
		{"bbr", 200, 100 * time.Millisecond, .01, 0, 165, .02},
		{"bbr", 200, 100 * time.Millisecond, .03, 0, 160, .02},
		{"bbr", 20, 10 * time.Millisecond, 0, 0, 18, .01},
		{"bbr", 20, 100 * time.Millisecond, .01, 0, 17.5, .02},
		{"bbr", 200, 10 * time.Millisecond, .01, 5 * time.Millisecond, 165, .02},
		{"bbr", 50, 600 * time.Millisecond, .01, 0, 20, .22},
		{"cubic", 200, 10 * time.Millisecond, 0, 0, 180, .01},
		{"cubic", 20, 100 * time.Millisecond, 0, 0, 17, .02},
	} {
		t.Run(fmt.Sprintf("%s %v Mbit/s %v %v lost bursts of %v", c.kind, c.mbit, c.rtt, c.loss, c.jitter), func(t *testing.T) {
			t.Parallel()
			if race.Enabled && c.mbit > 20 {
				t.Skip("too many packets for the race detector, which finds one goroutine here")
			}
			for seed := range uint64(min(2, max(1, *links/500))) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				l := &link{rate: c.mbit / 8 * 1e6, queue: 50 * time.Millisecond, delay: c.rtt, loss: c.loss, jitter: c.jitter}
				f := newFlow(c.kind, rnd)
				run(l, rnd, 0, 2*time.Second, f)
				f.got = 0
				run(l, rnd, 2*time.Second, 12*time.Second, f)
				got, drops := f.mbit(10*time.Second), float64(f.dropped)/float64(f.sent)
				t.Logf("seed %d: %.1f Mbit/s, %.2f %% dropped, queue up to %v, %s", seed, got, 100*drops, f.worst, f.p.State())
				if got < c.want || drops > c.drops {
					t.Errorf("seed %d: %.1f Mbit/s, want %v; %.2f %% dropped, want at most %v %%", seed, got, c.want, 100*drops, 100*c.drops)
				}
			}
		})
	}
}

// On a stream a part of the rate is left, so that a burst that is taken for more than the
// rate does not fill what the stream can hold.
func TestStream(t *testing.T) {
	t.Parallel()
	if race.Enabled {
		t.Skip("too many packets for the race detector, which finds one goroutine here")
	}
	rnd := rand.New(rand.NewPCG(7, 1))
	l := &link{rate: 100 / 8 * 1e6, queue: 200 * time.Millisecond, delay: 10 * time.Millisecond}
	f := &flow{p: New(Config{Segment: size, Random: rnd.Float64, Stream: true})}
	run(l, rnd, 0, 2*time.Second, f)
	f.got = 0
	var cruising int
	const steps = 800
	for at := range time.Duration(steps) {
		now := 2*time.Second + at*10*time.Millisecond
		run(l, rnd, now, now+10*time.Millisecond, f)
		if f.p.State() != "cruise" {
			continue
		}
		cruising++
		if part := f.p.Rate() / l.rate; part > .94 || part < .85 {
			t.Fatalf("%.2f of the rate after %v", part, now)
		}
	}
	if cruising < steps/2 {
		t.Errorf("it cruises for %d of %d steps", cruising, steps)
	}
	if got := f.mbit(steps * 10 * time.Millisecond); got < 85 || got > 96 {
		t.Errorf("%.1f of 100 Mbit/s", got)
	}
}

// Links of any kind: nobody stops for longer than three timeouts, and
// none is used to less than a part of what it can carry.
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
				rnd := rand.New(rand.NewPCG(seed, 2))
				mbit := 1 + 9*rnd.Float64()
				l := &link{
					rate:  mbit / 8 * 1e6,
					delay: time.Duration(float64(2*time.Millisecond) + rnd.Float64()*float64(200*time.Millisecond)),
					queue: time.Duration(float64(10*time.Millisecond) + rnd.Float64()*float64(200*time.Millisecond)),
					loss:  .05 * rnd.Float64() * rnd.Float64(),
				}
				kind := "bbr"
				if i%4 == 3 {
					kind, l.loss = "cubic", 0
				}
				f := newFlow(kind, rnd)
				const d = 6 * time.Second
				run(l, rnd, 0, d, f)
				_, srtt, varies := f.p.RTT()
				if stop := 3 * (srtt + 4*varies + 10*time.Millisecond); f.idle > stop {
					t.Errorf("seed %d, %s: nothing for %v, %+v", seed, kind, f.idle, *l)
				}
				part := 5.
				if kind == "cubic" {
					part = 8 // a queue shorter than the path is no place for it
				}
				if got := f.mbit(d); got < mbit/part {
					t.Errorf("seed %d, %s: %.1f of %.1f Mbit/s, %+v, %s", seed, kind, got, mbit, *l, f.p.State())
				}
			}
		})
	}
}

// Two flows share a link evenly enough, and a narrow moment is survived.
func TestTwoFlows(t *testing.T) {
	for _, kinds := range [][2]string{{"bbr", "bbr"}, {"cubic", "cubic"}, {"bbr", "cubic"}} {
		rnd := rand.New(rand.NewPCG(1, 3))
		l := &link{rate: 50e6 / 8, queue: 50 * time.Millisecond, delay: 40 * time.Millisecond}
		a, b := newFlow(kinds[0], rnd), newFlow(kinds[1], rnd)
		run(l, rnd, 0, 2*time.Second, a)
		run(l, rnd, 2*time.Second, 12*time.Second, a, b)
		a.got, b.got = 0, 0
		run(l, rnd, 12*time.Second, 42*time.Second, a, b)
		x, y := a.mbit(30*time.Second), b.mbit(30*time.Second)
		t.Logf("%v: %.1f and %.1f Mbit/s", kinds, x, y)
		if x+y < 40 || x < 7.5 || y < 7.5 {
			t.Errorf("%v: %.1f and %.1f of 50 Mbit/s", kinds, x, y)
		}
	}
}

// The rate of a link falls to a tenth and comes back.
func TestRateFalls(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 4))
	l := &link{rate: 100e6 / 8, queue: 50 * time.Millisecond, delay: 20 * time.Millisecond, loss: .005}
	f := newFlow("bbr", rnd)
	run(l, rnd, 0, 4*time.Second, f)
	l.rate /= 10
	run(l, rnd, 4*time.Second, 6*time.Second, f)
	f.got = 0
	run(l, rnd, 6*time.Second, 9*time.Second, f)
	low := f.mbit(3 * time.Second)
	l.rate *= 10
	run(l, rnd, 9*time.Second, 14*time.Second, f)
	f.got = 0
	run(l, rnd, 14*time.Second, 18*time.Second, f)
	high := f.mbit(4 * time.Second)
	t.Logf("%.1f of 10, then %.1f of 100 Mbit/s", low, high)
	if low < 8 || high < 80 {
		t.Errorf("%.1f of 10, then %.1f of 100 Mbit/s", low, high)
	}
}

// A router that marks what has waited for long keeps its queue short, and drops nothing.
func TestMarks(t *testing.T) {
	for _, kind := range []string{"bbr", "cubic"} {
		var worst [2]time.Duration
		for i, marks := range []time.Duration{0, 10 * time.Millisecond} {
			rnd := rand.New(rand.NewPCG(1, 7))
			l := &link{rate: 50e6 / 8, queue: 200 * time.Millisecond, delay: 40 * time.Millisecond, marks: marks}
			f := newFlow(kind, rnd)
			run(l, rnd, 0, 2*time.Second, f)
			f.got, f.worst = 0, 0
			run(l, rnd, 2*time.Second, 12*time.Second, f)
			got := f.mbit(10 * time.Second)
			worst[i] = f.worst
			t.Logf("%s, marks from %v: %.1f Mbit/s, queue up to %v, %d dropped", kind, marks, got, f.worst, f.dropped)
			if marks > 0 && (got < 35 || f.dropped > 0) {
				t.Errorf("%s: %.1f of 50 Mbit/s, %d dropped", kind, got, f.dropped)
			}
		}
		if worst[1] > worst[0]*3/4 {
			t.Errorf("%s: the queue is up to %v with marks, %v without", kind, worst[1], worst[0])
		}
	}
}

// A sender that takes for lost what is only late, a window of it and in whatever it is
// at, goes on as before when it learns that: above all one that has just begun does not
// stay at what it had then.
func TestSpurious(t *testing.T) {
	for _, kind := range []string{"bbr", "cubic"} {
		for _, at := range []time.Duration{110, 210, 330, 450, 700, 1500, 2600} {
			at *= time.Millisecond
			run1 := func(hiccup bool) float64 {
				rnd := rand.New(rand.NewPCG(1, 6))
				l := &link{rate: 100e6 / 8, queue: 50 * time.Millisecond, delay: 100 * time.Millisecond}
				f := newFlow(kind, rnd)
				run(l, rnd, 0, at, f)
				if hiccup {
					f.hiccup(at)
				}
				run(l, rnd, at, 4*time.Second, f)
				return f.mbit(4 * time.Second)
			}
			with, without := run1(true), run1(false)
			t.Logf("%s, at %v: %.1f Mbit/s, %.1f without", kind, at, with, without)
			if with < .8*without {
				t.Errorf("%s, at %v: %.1f Mbit/s, %.1f without", kind, at, with, without)
			}
		}
	}
}

func TestNoAllocs(t *testing.T) {
	for _, kind := range []string{"bbr", "cubic"} {
		p := newFlow(kind, rand.New(rand.NewPCG(1, 5))).p
		k := Packet{Size: size}
		now := time.Second
		n := yardstick.Allocs(1000, func() {
			now += time.Millisecond
			p.Sent(&k, now)
			p.Acked(&k, now+10*time.Millisecond)
			p.Update(now+10*time.Millisecond, 0, false)
			p.Sent(&k, now)
			p.Lost(&k, now+10*time.Millisecond)
			p.Update(now+10*time.Millisecond, 0, false)
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", kind, n)
		}
	}
}
