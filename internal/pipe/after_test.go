package pipe

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/wire"
)

// Who still knows a pipe that has ended, or a session of it, is told why, and brings
// nothing back.
func TestAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, sb := sessions(t, a, b)
		pa, pb := up(t, a, b, sa, sb)
		if rtt, at, err := pb.Ping(t.Context()); rtt != 0 || at != (Path{}) || !errors.Is(err, ErrNotUp) {
			t.Errorf("Ping before it is up: %v, %v, %v", rtt, at, err)
		}
		send(pa, packet(100))
		settle(time.Second)
		for _, p := range []*Pipe{pa, pb} {
			if s := p.Status(); s.Session != hex.EncodeToString(sa.id[:]) || s.Initiator != (p == pa) || s.Peer != p.peer {
				t.Errorf("status %+v", s)
			}
		}
		if rtt, at, err := pa.Ping(t.Context()); rtt != 20*time.Millisecond || at != a.path(b) || err != nil {
			t.Errorf("Ping: %v, %v, %v", rtt, at, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := pa.Ping(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Ping of one who does not wait: %v", err)
		}
		why := errors.New("enough")
		pa.Close(why)
		pa.Close(errors.New("again"))
		settle(5 * time.Second)
		if _, err := a.Up(sa, a.path(b)); err != why {
			t.Errorf("Up: %v", err)
		}
		if _, err := a.Try(sa, a.path(b), 100); err != why {
			t.Errorf("Try: %v", err)
		}
		if _, _, err := pa.Ping(t.Context()); err != why {
			t.Errorf("Ping: %v", err)
		}
		had, sent := len(*pa.paths.list.Load()), n.count()
		pa.AddPath(Path{a.s, n.sender("192.0.2.3:1000", b.Endpoint).addr})
		pa.addLocal(n.sender("192.0.2.4:1000", a.Endpoint))
		pa.removeLocal(a.s)
		pa.Close(nil)
		if send(pa, packet(100)) == nil {
			t.Error("something was sent")
		}
		settle(time.Minute)
		if n := len(*pa.paths.list.Load()); n != had {
			t.Errorf("%d paths, of %d", n, had)
		}
		if n := n.count() - sent; n != 0 {
			t.Errorf("%d datagrams were sent", n)
		}
		if pa.Err() != why || pa.Status().Up || len(a.Pipes())+len(b.Pipes()) != 0 {
			t.Errorf("%v, %d and %d pipes", pa.Err(), len(a.Pipes()), len(b.Pipes()))
		}
	})
}

// An offer that was read and never answered is forgotten when its time is over: one
// peer's are not to fill the table of those half open.
func TestHalfOpenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		o, _ := a.NewOffer(b.id, Local{})
		defer o.Cancel()
		if _, err := b.ReadOffer(o.Bytes()); err != nil {
			t.Fatal(err)
		}
		halfOpen := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.responder.halfOpen
		}
		settle(20 * time.Second)
		later, _ := a.NewOffer(b.id, Local{})
		defer later.Cancel()
		if _, err := b.ReadOffer(later.Bytes()); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			d    time.Duration
			want int
		}{{time.Duration(halfOpenFor) - 21*time.Second, 2}, {2 * time.Second, 1}, {18 * time.Second, 1}, {2 * time.Second, 0}} {
			settle(step.d)
			if n := halfOpen(); n != step.want {
				t.Errorf("%d half open, want %d", n, step.want)
			}
		}
	})
}

// A session that its initiator does not put to use is let go of as soon.
func TestUnusedSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, _ := sessions(t, a, b)
		live := func(e *Endpoint) int {
			e.table.mu.Lock()
			defer e.table.mu.Unlock()
			return e.table.live
		}
		if settle(time.Duration(halfOpenFor) - time.Second); live(a.Endpoint) != 1 || live(b.Endpoint) != 1 {
			t.Error("let go of too early")
		}
		if settle(2 * time.Second); live(a.Endpoint) != 0 || live(b.Endpoint) != 0 {
			t.Errorf("%d and %d places are kept", live(a.Endpoint), live(b.Endpoint))
		}
		if _, err := a.Up(sa, a.path(b)); !errors.Is(err, ErrSession) {
			t.Errorf("Up after its time: %v", err)
		}
		if _, err := a.Try(sa, a.path(b), 100); !errors.Is(err, ErrSession) {
			t.Errorf("Try after its time: %v", err)
		}
	})
}

// A pong answers one ping: whoever asked by another goes on waiting, and only one that
// came by the way of its ping says how long that is.
func TestPong(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		a, b := add(nil), add(nil)
		now := p.e.now()
		done := make(chan time.Duration, 3)
		p.paths.pings = map[uint64]*ping{1: {a, now - 3e6, done}, 2: {a, now - 5e6, done}, 3: {b, now - 7e6, nil}}
		p.pong(a, 4, now)
		if len(p.paths.pings) != 3 || a.srtt != 0 {
			t.Error("an answer to nobody")
		}
		p.pong(b, 1, now) // by another way
		if rtt := <-done; rtt != 3*time.Millisecond || a.srtt != 0 || b.srtt != 0 {
			t.Errorf("%v, paths %v and %v", rtt, a.srtt, b.srtt)
		}
		p.pong(b, 3, now)
		if b.srtt != 7*time.Millisecond || len(p.paths.pings) != 1 {
			t.Errorf("%v, %d pings", b.srtt, len(p.paths.pings))
		}
		p.pong(a, 2, now)
		if rtt := <-done; rtt != 5*time.Millisecond || a.srtt != rtt || p.paths.pings != nil {
			t.Errorf("%v, path %v", rtt, a.srtt)
		}
		p.pong(a, 2, now)
		if len(done) != 0 {
			t.Error("answered twice")
		}
	})
}

// A size that is acknowledged is used, or, if it was used and doubted, believed again.
func TestProbeAcked(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		a, now := add(nil), p.e.now()
		a.mtu.Store(1300)
		a.search = search{size: 1400, id: 7, try: retry{at: 1, tries: 2}}
		if p.probeAcked(8, now); a.mtu.Load() != 1300 || a.search.size != 1400 {
			t.Error("acknowledged by another's")
		}
		if p.probeAcked(7, now); a.mtu.Load() != 1400 || a.search.size != 0 || a.search.try != (retry{at: now}) || a.search.checked != now {
			t.Errorf("%d, %+v", a.mtu.Load(), a.search)
		}
		if p.probeAcked(0, now+1); a.search.checked != now {
			t.Error("what was not asked for")
		}
		p.paths.large.Store(true)
		a.search = search{size: 1400, id: 9, checking: true}
		if p.probeAcked(9, now); a.mtu.Load() != 1400 || p.paths.large.Load() || a.search.checking || a.search.try != (retry{at: now + searchAgain}) {
			t.Errorf("checked: %d, %v, %+v", a.mtu.Load(), p.paths.large.Load(), a.search)
		}
		// What is larger than any path's least, and is not answered, is doubted.
		p.paths.best.Store(a)
		for what, c := range map[string]struct {
			large, checking bool
			mtu             int32
			want            bool
		}{
			"a large one was sent": {true, false, 1400, true}, "none was": {false, false, 1400, false},
			"of the least size": {true, false, wire.BaseMTU, false}, "it is at it": {true, true, 1400, false},
		} {
			p.paths.large.Store(c.large)
			a.search = search{size: 5, checked: now, checking: c.checking}
			a.mtu.Store(c.mtu)
			if p.doubtSize(now); (a.search.size == 0) != c.want || c.want && a.search.checked != now-checkEvery {
				t.Errorf("%s: %+v", what, a.search)
			}
		}
		p.paths.best.Store(nil)
		p.doubtSize(now)
	})
}

// Pieces make a message in any order, if they lie side by side; what overlaps, lies
// beyond the end or makes too many is no message, and is let go of.
func TestPieces(t *testing.T) {
	type piece struct {
		off, n int
		more   bool
	}
	many := func(n int) (all []piece) {
		for i := range n {
			all = append(all, piece{i * 8, 8, i < n-1})
		}
		return all
	}
	for what, c := range map[string]struct {
		pieces []piece
		bad    bool // the last is refused
		whole  int  // bytes, when the last has come; 0: not yet
	}{
		"in order":                {[]piece{{0, 8, true}, {8, 8, true}, {16, 3, false}}, false, 19},
		"backward":                {[]piece{{16, 3, false}, {8, 8, true}, {0, 8, true}}, false, 19},
		"the middle last":         {[]piece{{0, 8, true}, {16, 3, false}, {8, 8, true}}, false, 19},
		"the middle first":        {[]piece{{8, 8, true}, {0, 8, true}, {16, 3, false}}, false, 19},
		"one lacks":               {[]piece{{0, 8, true}, {16, 3, false}}, false, 0},
		"the end lacks":           {[]piece{{8, 8, true}, {0, 8, true}}, false, 0},
		"twice":                   {[]piece{{0, 8, true}, {0, 8, true}}, true, 0},
		"over the one after it":   {[]piece{{8, 8, true}, {0, 9, true}}, true, 0},
		"over the one before it":  {[]piece{{0, 9, true}, {8, 8, true}}, true, 0},
		"beyond the end":          {[]piece{{8, 8, false}, {16, 1, true}}, true, 0},
		"across the end":          {[]piece{{8, 8, false}, {0, 17, true}}, true, 0},
		"two ends":                {[]piece{{8, 8, false}, {0, 8, false}}, true, 0},
		"an end before others":    {[]piece{{8, 8, true}, {0, 8, false}}, true, 0},
		"as many as there may be": {many(maxPieces), false, 8 * maxPieces},
		"more than that":          {many(maxPieces + 1), true, 0},
	} {
		m := new(pending)
		for i, f := range c.pieces {
			b := make([]byte, f.n)
			for j := range b {
				b[j] = byte((f.off + j) * 7 / 5)
			}
			ok := m.add(wire.Fragment{Offset: f.off, More: f.more}, b)
			clear(b) // it is borrowed
			if last := i == len(c.pieces)-1; ok != (!last || !c.bad) {
				t.Errorf("%s: piece %d: %v", what, i, ok)
			}
		}
		if c.bad {
			continue
		}
		if whole := m.total > 0 && m.have == m.total; whole != (c.whole > 0) || whole && m.total != c.whole {
			t.Errorf("%s: %d of %d", what, m.have, m.total)
		}
		var got []byte
		for _, f := range m.pieces {
			got = append(got, f.bytes...)
		}
		if c.whole > 0 {
			want := make([]byte, c.whole)
			for i := range want {
				want[i] = byte(i * 7 / 5)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: %x", what, got)
			}
		}
	}
}

// Each reason for a drop has a name in what is counted, and nothing else has.
func TestDropReasonNames(t *testing.T) {
	names := DropReasons()
	if len(names) != int(dropReasons-DropMalformed) || names[0] != DropMalformed.String() || names[len(names)-1] != (dropReasons-1).String() {
		t.Errorf("%q", names)
	}
	if Wanted != 0x80 || Again != 0x40 {
		t.Errorf("bits %#x and %#x of a plaintext's first byte", Wanted, Again)
	}
}

// When a peer that owes a sign of life is looked for, and when it is given up: each
// side of each time.
func TestProbeDue(t *testing.T) {
	const ms = int64(time.Millisecond)
	for what, c := range map[string]struct {
		rtt       time.Duration
		suspected bool
		looked    int64 // after the packet that is not answered
		given     int64 // after that
	}{
		"near": {time.Millisecond, false, 500 * ms, 500 * ms}, "far": {400 * time.Millisecond, false, 1200 * ms, 800 * ms},
		"near, suspected": {time.Millisecond, true, 500 * ms, 150 * ms}, "far, suspected": {400 * time.Millisecond, true, 1200 * ms, 800 * ms},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			now := p.e.now()
			best := add(func(t *path) { t.srtt = c.rtt })
			p.paths.best.Store(best)
			p.state = stateUp
			if next := p.probeDue(now); next != 0 || p.life.probeAt != 0 {
				t.Errorf("%s: a peer that owes nothing is looked for", what)
			}
			p.life.awaiting.Store(now)
			if next := p.probeDue(now + c.looked - 1); next != now+c.looked || p.life.probeAt != 0 {
				t.Errorf("%s: looked for after %v", what, time.Duration(next-now))
			}
			p.life.suspected = c.suspected
			begin := now + c.looked
			if next := p.probeDue(begin); next != begin+c.given/3 || p.life.probeAt != begin || !p.life.alert.Load() {
				t.Errorf("%s: %v, then again after %v", what, p.life.probeAt-begin, time.Duration(next-begin))
			}
			if p.probeDue(begin + c.given - 1); p.state != stateUp || best.doubt != 0 {
				t.Errorf("%s: given up too early", what)
			}
			if next := p.probeDue(begin + c.given); p.state != stateSilent || best.doubt == 0 || next != begin+c.given+silentEvery {
				t.Errorf("%s: not given up", what)
			}
		})
	}
}

// One thing to tell is told when the lock is let go of, not with the next.
func TestOneCall(t *testing.T) {
	var told []event.Event
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		p.e.cfg.Events = func(e event.Event) { told = append(told, e) }
		p.state = stateUp
		p.outbox.calls = append(p.outbox.calls, call{event: p.event(event.PipeMoved, nil)})
		p.unlock()
		if len(told) != 1 {
			t.Errorf("%d told", len(told))
		}
		// Up without a path, for a moment: nothing can be measured.
		ctx, cancel := context.WithCancel(context.Background()) // of the bubble
		cancel()
		if _, at, err := p.Ping(ctx); !errors.Is(err, ErrNotUp) || at != (Path{}) {
			t.Errorf("Ping without a path: %v, %v", at, err)
		}
		p.mu.Lock()
	})
}

// What is counted as sent and received is what went over the wire: data, control and
// pieces, in both directions.
func TestTrafficCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		var packets, size [2]uint64
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			i := 0
			if from == b.s.addr {
				i = 1
			}
			packets[i]++
			size[i] += uint64(len(d))
			return false
		})
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		for range 5 {
			send(pa, packet(1000), packet(1000), packet(20))
			send(pb, packet(50))
			if err := pa.SendLarge(true, packet(5000), 0); err != nil {
				t.Error(err)
			}
			settle(time.Second)
		}
		n.setDrop(nil)
		for i, p := range []*Pipe{pa, pb} {
			s := p.Status()
			if s.PacketsSent != packets[i] || s.BytesSent != size[i] || s.PacketsReceived != packets[1-i] || s.BytesReceived != size[1-i] {
				t.Errorf("side %d: %d and %d packets, %d and %d bytes; want %v, %v", i, s.PacketsSent, s.PacketsReceived, s.BytesSent, s.BytesReceived, packets, size)
			}
		}
	})
}
