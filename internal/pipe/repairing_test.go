package pipe

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wire"
)

const tcpHead = 1 + 20

// keepRig is two hosts whose pipe repairs, and what of the segments came at b.
type keepRig struct {
	n      *network
	a, b   *host
	pa, pb *Pipe

	next  uint32          // sequence number of the next segment
	got   map[uint32]int  // payload bytes by sequence number of the piece
	first map[uint32]bool // those that came and did not say that it was again
	twice atomic.Int64    // pieces that came so twice
}

func newKeepRig(t *testing.T, change ...func(*Config)) *keepRig {
	t.Helper()
	n := newNetwork(20 * time.Millisecond)
	r := &keepRig{n: n, got: make(map[uint32]int), first: make(map[uint32]bool)}
	r.a, r.b = newHost(t, n, 1, "192.0.2.1:1000", change...), newHost(t, n, 2, "192.0.2.2:1000", change...)
	r.b.r.onData = func(_ *Pipe, plain []byte) {
		if plain[0]&^repair.Bits != 6 || len(plain) < tcpHead {
			return
		}
		r.b.r.mu.Lock()
		defer r.b.r.mu.Unlock()
		r.b.r.plain = nil
		seq := binary.BigEndian.Uint32(plain[5:])
		if plain[0]&repair.Again == 0 { // what is sent again may overtake it
			if r.first[seq] {
				r.twice.Add(1)
			}
			r.first[seq] = true
		}
		r.got[seq] = max(r.got[seq], len(plain)-tcpHead)
	}
	r.pa, r.pb = connect(t, r.a, r.b)
	send(r.pa, packet(100))
	<-r.pb.Ready()
	settle(500 * time.Millisecond)
	return r
}

// keep has a keep count segments of size bytes of payload; it returns how many there
// was room for.
func (r *keepRig) keep(count, size int) (n int) {
	k := r.pa.Keep(1, false, 0)
	defer k.Done()
	for range count {
		b := k.Room(tcpHead + size)
		if b == nil {
			return n
		}
		clear(b)
		b[0], b[13] = 6, 5<<4
		binary.BigEndian.PutUint32(b[5:], r.next)
		r.next += uint32(size)
		n++
	}
	return n
}

// came says how many bytes b has without a gap.
func (r *keepRig) came() (n uint32) {
	r.b.r.mu.Lock()
	defer r.b.r.mu.Unlock()
	for size := r.got[n]; size > 0; size = r.got[n] {
		n += uint32(size)
	}
	return n
}

func (r *keepRig) kept() (bytes int, left int64) {
	x := r.pa.repair.sender.Load()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.s.Kept(), r.a.budget.Left()
}

// lossy has a part of the datagrams with data from a to b dropped.
func (r *keepRig) lossy(part float64) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r.n.setDrop(func(_, to netip.AddrPort, d []byte) bool {
		return to == r.b.s.addr && d[0] <= wire.TypeData6 && rnd.Float64() < part
	})
}

// done checks that all that was kept has come, and is kept no longer.
func (r *keepRig) done(t *testing.T) {
	t.Helper()
	if n := r.came(); n != r.next {
		t.Errorf("%d of %d bytes have come", n, r.next)
	}
	if kept, left := r.kept(); kept != 0 || left != defaultRepairBudget {
		t.Errorf("%d bytes are kept, %d left", kept, left)
	}
	if n := r.twice.Load(); n > 0 {
		t.Errorf("%d segments came twice and do not say that it was again", n)
	}
}

func TestRepair(t *testing.T) {
	for what, change := range map[string]func(*keepRig){
		"loss":             func(r *keepRig) { r.lossy(.05) },
		"much loss":        func(r *keepRig) { r.lossy(.3) },
		"other keys":       func(r *keepRig) { r.lossy(.05); r.a.limits.rekeyAfterPackets = 300 },
		"a smaller path":   func(r *keepRig) { r.lossy(.02); r.a.s.mtu = 1300 },
		"another address":  func(r *keepRig) { r.lossy(.02); r.moves() },
		"a pause":          func(r *keepRig) { r.lossy(.02); r.pauses(700 * time.Millisecond) },
		"a longer silence": func(r *keepRig) { r.lossy(.02); r.pauses(4 * time.Second) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newKeepRig(t)
				if !r.pa.Repairs() {
					t.Fatalf("it does not repair: %+v", r.pa.Status().Repair)
				}
				settle(8 * time.Second) // sizes are searched
				for i := range 40 {
					if i == 10 {
						change(r)
					}
					r.keep(60, 1400)
					settle(50 * time.Millisecond)
				}
				settle(20 * time.Second)
				r.done(t)
				s := r.pa.Status().Repair
				t.Logf("%+v", s)
				if s.Repaired == 0 {
					t.Error("nothing was sent again")
				}
			})
		})
	}
}

// moves has the NAT of a give it another address.
func (r *keepRig) moves() {
	to := r.n.sender("192.0.2.9:9", r.a.Endpoint)
	r.n.mu.Lock()
	r.n.rewrite = func(from, dst netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
		switch {
		case from == r.a.s.addr:
			from = to.addr
		case dst == to.addr:
			dst = r.a.s.addr
		case dst == r.a.s.addr:
			dst = netip.MustParseAddrPort("192.0.2.200:1") // the old address leads nowhere
		}
		return from, dst
	}
	r.n.mu.Unlock()
}

// pauses has nothing come through for d.
func (r *keepRig) pauses(d time.Duration) {
	was := r.n.drop
	r.n.setDrop(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true })
	time.AfterFunc(d, func() { r.n.setDrop(was) })
}

// Nothing is kept on a path within the host, with a peer that does not know of it, or
// where it is not wanted.
func TestRepairOff(t *testing.T) {
	for what, c := range map[string]struct {
		from, to string
		change   func(*Config)
		other    func(*Config)
	}{
		"inside the host":      {"127.0.0.1:1", "127.0.0.1:2", nil, nil},
		"this side is not":     {"192.0.2.1:1", "192.0.2.2:1", func(c *Config) { c.NoRepair = true }, nil},
		"the other side isn't": {"192.0.2.1:1", "192.0.2.2:1", nil, func(c *Config) { c.NoRepair = true }},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(time.Millisecond / 2)
				if c.from[0] != '1' || c.from[1] != '2' {
					n.latency = 20 * time.Millisecond
				}
				opt := func(f func(*Config)) []func(*Config) {
					if f == nil {
						return nil
					}
					return []func(*Config){f}
				}
				a, b := newHost(t, n, 1, c.from, opt(c.change)...), newHost(t, n, 2, c.to, opt(c.other)...)
				pa, pb := connect(t, a, b)
				send(pa, packet(100))
				<-pb.Ready()
				for range 20 {
					settle(time.Second)
					if pa.Repairs() || pb.Repairs() {
						t.Fatalf("%+v, %+v", pa.Status().Repair, pb.Status().Repair)
					}
				}
			})
		})
	}
}

// A peer that acknowledges what was not sent is not believed any more, and one that
// sends nonsense changes nothing.
func TestRepairLies(t *testing.T) {
	for what, c := range map[string]struct {
		body func(r *keepRig) []byte
		lie  bool
	}{
		"nothing":         {func(*keepRig) []byte { return nil }, false},
		"no ranges":       {func(*keepRig) []byte { return make([]byte, 6) }, false},
		"too many ranges": {func(*keepRig) []byte { return append([]byte{0, 0, 1, 0, 0, 33}, make([]byte, 33*8)...) }, false},
		"another key":     {func(r *keepRig) []byte { return r.ack(r.pb.keys.cur.recvIndex+1, [2]uint32{0, 1 << 31}) }, false},
		"optimistic": {func(r *keepRig) []byte {
			return r.ack(r.index(), [2]uint32{0, uint32(r.pa.keys.cur.next.Load()) + 1000})
		}, true},
		"all there is":       {func(r *keepRig) []byte { return r.ack(r.index(), [2]uint32{0, 1<<32 - 1}) }, true},
		"upside down":        {func(r *keepRig) []byte { return r.ack(r.index(), [2]uint32{5, 4}) }, false},
		"one over another":   {func(r *keepRig) []byte { return r.ack(r.index(), [2]uint32{5, 9}, [2]uint32{3, 5}) }, false},
		"in the wrong order": {func(r *keepRig) []byte { return r.ack(r.index(), [2]uint32{1, 2}, [2]uint32{8, 9}) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newKeepRig(t)
				r.lossy(1)
				r.keep(20, 1000)
				settle(time.Millisecond)
				body := c.body(r)
				frame := wire.Frame{Type: wire.FrameAck, Message: body}.Append(nil)
				for range 3 {
					r.pb.ctrl(frame)
				}
				settle(40 * time.Millisecond)
				drops := r.pa.Status().Drops
				if lie := drops[DropAck.String()] > 0; lie != c.lie {
					t.Errorf("it was taken for a lie: %v, %v", lie, drops)
				}
				kept, _ := r.kept()
				if c.lie != (kept == 0) || r.pa.Repairs() == c.lie {
					t.Errorf("%d bytes are kept, %+v", kept, r.pa.Status().Repair)
				}
				r.n.setDrop(nil)
				settle(5 * time.Second)
				if !c.lie {
					r.done(t)
				}
			})
		})
	}
}

func (r *keepRig) index() uint32 { return r.pb.keys.cur.recvIndex }

func (r *keepRig) ack(index uint32, ranges ...[2]uint32) []byte {
	b := []byte{byte(index >> 16), byte(index >> 8), byte(index), 0, 0, byte(len(ranges))}
	for _, v := range ranges {
		b = binary.BigEndian.AppendUint32(b, v[0])
		b = binary.BigEndian.AppendUint32(b, v[1])
	}
	return b
}

// ctrl sends a CTRL plaintext as it is.
func (p *Pipe) ctrl(plain []byte) {
	b := newBatch(p, wire.TypeCtrl)
	b.kp, b.to = p.keys.send.Load(), p.paths.best.Load()
	copy(b.Room(len(plain)), plain)
	b.Seal()
	_ = b.Flush()
	b.Free()
}

// What is kept for a peer that acknowledges nothing is bounded, and let go of when
// the pipe ends.
func TestRepairBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 1 << 20
		r := newKeepRig(t, func(c *Config) { c.RepairBudget = budget })
		r.lossy(1)
		n := r.keep(2000, 1000)
		if n == 0 || n > budget/1000 {
			t.Errorf("%d segments of 1000 bytes are kept, of %d bytes that there is room for", n, budget)
		}
		if kept, left := r.kept(); int64(kept)+left != budget {
			t.Errorf("%d bytes are kept and %d left of %d", kept, left, budget)
		}
		if got := r.pa.Status().Repair.Refused; got == 0 {
			t.Error("none was refused")
		}
		settle(3 * time.Second)
		r.pa.Close(nil)
		settle(time.Second)
		if kept, left := r.kept(); kept != 0 || left != budget {
			t.Errorf("%d bytes are kept, %d left after the end", kept, left)
		}
	})
}

// One who still knows a pipe that has ended has nothing kept by it.
func TestRepairClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		if !r.pa.Repairs() {
			t.Fatalf("it does not repair: %+v", r.pa.Status().Repair)
		}
		r.pa.Close(nil)
		if r.pa.Repairs() {
			t.Error("it repairs after its end")
		}
		if n := r.keep(5, 1000); n != 0 {
			t.Errorf("%d segments are kept", n)
		}
		settle(time.Second)
		if kept, left := r.kept(); kept != 0 || left != defaultRepairBudget {
			t.Errorf("%d bytes are kept, %d left", kept, left)
		}
	})
}

// A pipe that has no peer at the moment does not try again and again to send what it
// keeps, and sends that as soon as the peer is back.
func TestRepairSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		r.pa.mu.Lock()
		r.pa.startSending()
		r.pa.mu.Unlock()
		x := r.pa.repair.sender.Load()
		var fired atomic.Int64
		x.fire = func(now int64) int64 { fired.Add(1); return r.pa.paced(x, now) }
		r.keep(20, 1000)
		settle(time.Second)
		r.n.setDrop(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true })
		r.keep(20, 1000)
		settle(5 * time.Second)
		if r.pa.Status().Up {
			t.Fatal("it is up")
		}
		r.keep(20, 1000)
		before := fired.Load()
		settle(10 * time.Second)
		if n := fired.Load() - before; n > 30 {
			t.Errorf("the pacer came %d times in 10 s in which nothing can be sent", n)
		}
		r.n.setDrop(nil)
		settle(8 * time.Second)
		r.done(t)
	})
}

// A path that becomes short is found out by the next ping or so, and not when the
// pings' average has come down; and one that becomes long again is repaired again.
func TestRepairShorterAndLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		for _, c := range []struct {
			latency time.Duration
			on      bool
		}{{20 * time.Millisecond, true}, {200 * time.Microsecond, false}, {50 * time.Millisecond, true}, {100 * time.Microsecond, false}} {
			r.n.mu.Lock()
			r.n.latency = c.latency
			r.n.mu.Unlock()
			for range 1000 {
				if r.pa.Repairs() {
					r.keep(4, 1000)
				} else {
					send(r.pa, packet(10))
				}
				settle(40 * time.Millisecond)
			}
			if on := r.pa.Repairs(); on != c.on {
				t.Errorf("at %v one way it repairs: %v, %+v, RTT %v", c.latency, on, r.pa.Status().Repair, r.pa.RTT())
			}
		}
		settle(5 * time.Second)
		r.done(t)
	})
}

// A path that takes more than is repaired, or that has become short, ends repairing also
// where something waits all the time, as behind one who writes without a pause; nothing of
// that is lost.
func TestRepairLeavesBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		for !r.pa.Repairs() { // asks first
			settle(40 * time.Millisecond)
		}
		r.lossy(1) // the window is full, and more waits
		for r.keep(100, 1000) == 100 && r.next < 1<<20 {
		}
		settle(40 * time.Millisecond)
		if !r.pa.Repairs() || r.pa.repair.empty() {
			t.Fatal("nothing waits to be sent")
		}
		r.pa.paths.best.Load().mtu.Store(9000)
		left := time.Duration(0)
		for began := time.Now(); r.pa.Repairs() && left < 10*time.Second; left = time.Since(began) {
			settle(10 * time.Millisecond)
		}
		if left < 500*time.Millisecond || left > 2*time.Second {
			t.Errorf("it goes on for %v: %+v", left, r.pa.Status().Repair)
		}
		r.n.setDrop(nil)
		settle(30 * time.Second)
		r.done(t)
	})
}

// What a path loses in a silence of many timeouts is sent when it is over: TCP, which
// waits longer than that, need not begin anew.
func TestRepairLongSilence(t *testing.T) {
	for _, silence := range []time.Duration{4 * time.Second, 10 * time.Second, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newKeepRig(t)
			r.n.mu.Lock()
			r.n.latency = 2500 * time.Microsecond
			r.n.mu.Unlock()
			for range 100 {
				r.keep(4, 1000)
				settle(10 * time.Millisecond)
			}
			r.pauses(silence)
			for range 10 {
				r.keep(60, 1000)
				settle(10 * time.Millisecond)
			}
			settle(silence + 8*time.Second)
			x := r.pa.repair.sender.Load()
			x.mu.Lock()
			defer x.mu.Unlock()
			if n := x.s.Stats.GivenUp; n > 0 {
				t.Errorf("%d segments were given up in %v", n, silence)
			}
			if n := r.came(); n != r.next {
				t.Errorf("%d of %d bytes have come after %v", n, r.next, silence)
			}
		})
	}
}

// A run that is opened back to front is acknowledged when it is done, and not what of it
// is open when the pacer comes: all before that would be taken for lost.
func TestRepairNoAckWithinRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		dst := make([]byte, 0, 2048)
		runs := 0
		r.b.cfg.Handler = opener{func(p *Pipe, d []byte, seg int) {
			count := (len(d) + seg - 1) / seg
			if count >= 8 {
				runs++
			}
			for i := count - 1; i >= 0; i-- {
				_, _ = p.Open(dst, d[i*seg:min(len(d), (i+1)*seg)])
				if i == count/2 {
					p.acksDue(p.e.now() + int64(time.Second))
				}
			}
		}}
		for range 200 {
			r.keep(40, 1000)
			settle(20 * time.Millisecond)
		}
		s := r.pa.Status().Repair
		if runs == 0 {
			t.Fatal("there were no runs")
		}
		if s.Late > 0 || s.Repaired > 0 {
			t.Errorf("nothing is lost, %d runs, %+v", runs, s)
		}
	})
}

// What a peer of before the third byte of REPAIR says and does not say: its UDP does not
// go to what is kept.
func TestRepairDatagrams(t *testing.T) {
	for _, knows := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newKeepRig(t)
			if !knows {
				r.pa.mu.Lock()
				r.pa.keys.sess.can = 0
				r.pa.repairDue(r.a.now())
				r.pa.mu.Unlock()
			}
			if got := r.pa.KeepsDatagrams(); got != knows {
				t.Fatalf("it keeps datagrams: %v, the peer knows them: %v", got, knows)
			}
			if !knows {
				return
			}
			var got atomic.Int64
			r.b.r.onData = func(_ *Pipe, plain []byte) {
				if plain[0]&^repair.Bits == 17 {
					got.Add(1)
				}
			}
			r.lossy(.2)
			const n = 500
			for range n {
				k := r.pa.KeepOnce(1, false, 0)
				b := k.Room(200)
				clear(b)
				b[0] = 17
				k.Done()
				settle(5 * time.Millisecond)
			}
			settle(5 * time.Second)
			s, came := r.pa.Status().Repair, got.Load()
			if came < n*7/10 || came >= n || s.Datagrams != n || s.Repaired != 0 {
				t.Errorf("%d of %d have come, %+v", came, n, s)
			}
			if kept, left := r.kept(); kept != 0 || left != defaultRepairBudget {
				t.Errorf("%d bytes are kept, %d left", kept, left)
			}
		})
	}
}

// The goroutine that paces ends when nothing is to be paced, and another begins with the
// next packet, as often as that happens; the Endpoint's end waits for neither.
func TestPacerSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		asleep := func() bool {
			r.a.pacer.mu.Lock()
			defer r.a.pacer.mu.Unlock()
			return r.a.pacer.asleep
		}
		for i := range 3 {
			r.lossy(.2)
			r.keep(100, 1000)
			settle(10 * time.Millisecond)
			if asleep() {
				t.Errorf("round %d: nobody paces", i)
			}
			settle(10 * time.Second)
			if !asleep() {
				t.Errorf("round %d: it is still there", i)
			}
			r.done(t)
		}
	})
}

// What the scheduler gets back is all of it, and the last first.
func TestBackward(t *testing.T) {
	k := []*repair.Packet{new(repair.Packet), new(repair.Packet), new(repair.Packet)}
	want := len(k)
	for i, p := range backward(k) {
		if want--; i != want || p != k[i] {
			t.Errorf("%d, not %d", i, want)
		}
	}
	if want != 0 {
		t.Errorf("%d are left out", want)
	}
	for i := range backward(k) {
		if i != 2 {
			t.Error("it goes on when nobody wants more")
		}
		break
	}
	for i := range backward(nil) {
		t.Errorf("%d of none", i)
	}
}
