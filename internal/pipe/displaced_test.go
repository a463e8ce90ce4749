package pipe

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// Offers that are displaced by newer ones of their peer's take no place any more,
// accepted or not.
func TestDisplacedSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		for i := range 3 * maxHalfOpenPerPeer {
			o, err := a.NewOffer(b.id, Local{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Cancel()
			in, err := b.ReadOffer(o.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := in.Accept(Local{}); err != nil {
				t.Fatal(err)
			}
			b.table.mu.Lock()
			live := b.table.live
			b.table.mu.Unlock()
			if want := min(i+1, maxHalfOpenPerPeer); live != want {
				t.Errorf("%d places after %d offers", live, i+1)
			}
			settle(time.Second) // no more than a peer may make
		}
	})
}

// runs notes what its Handler is given together.
type runs struct {
	*recorder
	runs [][]byte
}

func (r *runs) Data(p *Pipe, b []byte, seg int) {
	for i := 0; i < len(b); i += seg {
		if [4]byte(b[i:]) != [4]byte(b) {
			r.runs = append(r.runs, nil) // of several keys or families
		}
	}
	r.runs = append(r.runs, b)
	r.recorder.Data(p, b, seg)
}

// What a read of the socket brings together is given on in runs of one family and one
// key, in order.
func TestRunsOfOneKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		r := &runs{}
		a := newHost(t, n, 1, "192.0.2.1:1000")
		b := newHost(t, n, 2, "192.0.2.2:1000", func(c *Config) { r.recorder = c.Handler.(*recorder); c.Handler = r })
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		settle(time.Second)
		var all []byte
		last := a.s.divert()
		for i, v6 := range []bool{false, false, true, true, false} {
			x := pa.Batch(v6)
			room := x.Room(100)
			clear(room)
			room[0], room[1] = 17, byte(i)
			x.Seal()
			_ = x.Flush()
			x.Free()
			all = append(all, *last...)
		}
		r.runs, r.plain = nil, nil
		b.Receive(b.s, a.s.addr, all, len(all)/5)
		if len(r.runs) != 3 || len(r.runs[0]) != len(all)/5*2 || len(r.runs[1]) != len(all)/5*2 || len(r.plain) != 5 {
			t.Errorf("%d runs of %d plaintexts", len(r.runs), len(r.plain))
		}
		for i, plain := range r.plain {
			if plain[1] != byte(i) {
				t.Errorf("number %d comes at %d", plain[1], i)
			}
		}
	})
}

// An answer decides at once: what follows is a segment.
func TestRepairToldDecides(t *testing.T) {
	for mode, want := range map[repairMode]repairMode{repairIdle: repairIdle, repairAsking: repairOn} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			k := p.sealingTest()
			best := add(func(t *path) { t.srtt = 10 * time.Millisecond })
			p.paths.best.Store(best)
			p.state = stateUp
			p.repair.session = k.sess
			p.repair.mode.Store(uint32(mode))
			p.repairTold(k, best, wire.Frame{Message: []byte{1, 0, canDatagrams}}, p.e.now())
			if got := repairMode(p.repair.mode.Load()); got != want {
				t.Errorf("%s: now %s", repairModes[mode], repairModes[got])
			}
		})
	}
}

// When a path's consent ends is looked at then, whenever it is pinged next.
func TestConsentIsDue(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		p.sealingTest()
		now := p.e.now()
		best := add(func(t *path) { t.srtt, t.pinged = time.Millisecond, now; t.heard.Store(now - int64(28*time.Second)) })
		p.paths.best.Store(best)
		p.state = stateUp
		if next := p.keepPaths(now); next != now+int64(2*time.Second) {
			t.Errorf("the next after %v", time.Duration(next-now))
		}
	})
}

// A pipe that has ended stays so, for the reason that it had first.
func TestClosedStays(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		why := errors.New("enough")
		p.setState(stateClosed, why)
		for _, s := range []state{stateUp, stateSilent, stateClosed, stateOpening} {
			p.setState(s, nil)
		}
		if p.state != stateClosed || p.err != why || len(p.outbox.calls) != 1 {
			t.Errorf("state %d, %v, %d calls", p.state, p.err, len(p.outbox.calls))
		}
	})
}

// How much TCP may write at once is never more than a third of what all pipes may keep.
func TestShareOfBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 1 << 20
		r := newKeepRig(t, func(c *Config) { c.RepairBudget = budget })
		r.keep(200, 1000)
		if share, ok := r.pa.Repairing(); !ok || share != budget/3 {
			t.Errorf("%d of %d, %v", share, budget, ok)
		}
	})
}

// What is kept waits for a path, and goes when there is one.
func TestKeptWithoutPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		r.keep(1, 1000)
		settle(time.Second)
		best := r.pa.paths.best.Swap(nil)
		r.keep(5, 1000)
		r.pa.paths.best.Store(best)
		settle(2 * time.Second)
		r.done(t)
	})
}
