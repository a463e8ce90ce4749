package pipe

import (
	"bytes"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// Whether TCP is repaired, or will be: each mode, and of one who asks each side of
// what speaks against it.
func TestMayRepair(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		for mode, want := range map[repairMode]bool{repairIdle: false, repairAsking: false, repairOn: true, repairLeaving: true, repairOff: false} {
			if p.repair.mode.Store(uint32(mode)); p.MayRepair() != want {
				t.Errorf("%s, without a path: %v", repairModes[mode], !want)
			}
		}
		best := add(nil)
		p.paths.best.Store(best)
		for mode, want := range map[repairMode]bool{repairIdle: false, repairAsking: true, repairOn: true, repairLeaving: true, repairOff: false} {
			if p.repair.mode.Store(uint32(mode)); p.MayRepair() != want {
				t.Errorf("%s: %v", repairModes[mode], !want)
			}
		}
		p.repair.mode.Store(uint32(repairAsking))
		for rtt, want := range map[time.Duration]bool{0: true, 1: false, repairFrom - 1: false, repairFrom: true} {
			if p.paths.rtt.Store(int64(rtt)); p.MayRepair() != want {
				t.Errorf("round trip %v: %v", rtt, !want)
			}
		}
		best.Remote = netip.AddrPortFrom(best.Local.LocalAddr().Addr(), 7)
		if p.MayRepair() {
			t.Error("a path within the host")
		}
	})
}

// How much TCP may write is said while it is repaired, and only then.
func TestRepairingSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		if share, ok := r.pa.Repairing(); ok || share != 0 {
			t.Errorf("before the first segment: %d, %v", share, ok)
		}
		r.keep(10, 1000)
		if share, ok := r.pa.Repairing(); !ok || share < repairLeast {
			t.Errorf("%d, %v", share, ok)
		}
		for mode := repairIdle; mode <= repairOff; mode++ {
			r.pa.repair.mode.Store(uint32(mode))
			if share, ok := r.pa.Repairing(); ok != (mode == repairOn) || !ok && share != 0 {
				t.Errorf("%s: %d, %v", repairModes[mode], share, ok)
			}
		}
		r.pa.repair.mode.Store(uint32(repairOn))
		settle(5 * time.Second)
		r.done(t)
	})
}

// How long what is missing may still come.
func TestAwaits(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		for rtt, want := range map[time.Duration]time.Duration{
			0: 150 * time.Millisecond, 20 * time.Millisecond: 250 * time.Millisecond, 570 * time.Millisecond: 3 * time.Second, time.Second: 3 * time.Second,
		} {
			if p.paths.rtt.Store(int64(rtt)); p.Awaits() != want {
				t.Errorf("round trip %v: %v", rtt, p.Awaits())
			}
		}
	})
}

// What a program is told of the present path: where it leads, whether that is inside
// the host, what the socket holds, and its round trip.
func TestWhere(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		ask := func(what string, wantTo netip.AddrPort, wantInside bool, wantRoom int) {
			t.Helper()
			if to, inside, room := p.Where(); to != wantTo || inside != wantInside || room != wantRoom {
				t.Errorf("%s: %v, %v, %d", what, to, inside, room)
			}
		}
		ask("no path", netip.AddrPort{}, false, 0)
		a := add(func(t *path) { t.srtt = 7 * time.Millisecond })
		p.paths.best.Store(a)
		ask("a path", a.Remote, false, 0)
		a.Local = buffered{a.Local}
		ask("of a socket with a buffer", a.Remote, false, 12345)
		a.Remote = netip.AddrPortFrom(a.Local.LocalAddr().Addr(), 9)
		ask("to the host's own address", a.Remote, true, 12345)
		n := newNetwork(0)
		a.Local = n.sender("127.0.0.1:4", p.e)
		a.Remote = netip.MustParseAddrPort("127.0.0.2:5")
		ask("on the loopback", a.Remote, true, 0)
		p.mu.Unlock()
		if p.RTT() != 7*time.Millisecond {
			t.Errorf("round trip %v", p.RTT())
		}
		p.mu.Lock()
		a.relayed.Store(true)
		ask("through a relay", netip.AddrPort{}, false, 0)
		p.paths.best.Store(nil)
		p.mu.Unlock()
		if p.RTT() != 0 {
			t.Errorf("round trip of nothing: %v", p.RTT())
		}
		p.mu.Lock()
	})
}

type buffered struct{ Sender }

func (buffered) ReceiveBuffer() int { return 12345 }

// Direct names the paths to the peer itself that work, that with the data first.
func TestDirect(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		if got := p.Direct(); len(got) != 0 {
			t.Errorf("paths out of nothing: %v", got)
		}
		a := add(nil)
		add(func(t *path) { t.validated.Store(false) })
		add(func(t *path) { t.relayed.Store(true) })
		add(func(t *path) { t.heard.Store(now - consentFor) })
		b, c := add(nil), add(nil)
		p.paths.best.Store(b)
		if got := p.Direct(); len(got) != 3 || got[0] != b.Path || got[1] != a.Path || got[2] != c.Path {
			t.Errorf("%v", got)
		}
	})
}

// What a peer has said of itself is known from the first, and after the end as well; and
// an address that a TURN server lends it is one of a path through that.
func TestRemoteSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		lent := netip.MustParseAddrPort("192.0.2.77:7777")
		own := netip.MustParseAddrPort("192.0.2.78:7777")
		candidates := []wire.Candidate{
			{Type: wire.Host, Priority: 5, Foundation: "1", Addr: own},
			{Type: wire.Relayed, Priority: 1, Foundation: "2", Addr: lent, Related: own},
		}
		offer, err := a.NewOffer(b.id, Local{Candidates: candidates, Chain: []byte("a's chain")})
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.ReadOffer(offer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		answer, sb, err := in.Accept(Local{Chain: []byte("b's chain")})
		if err != nil {
			t.Fatal(err)
		}
		sa, err := offer.Finish(answer)
		if err != nil {
			t.Fatal(err)
		}
		pb, err := b.Up(sb, b.path(a))
		if err != nil {
			t.Fatal(err)
		}
		// b has heard nothing under the keys yet.
		if got := pb.Chain(); string(got) != "a's chain" {
			t.Errorf("before the first packet the chain is %q", got)
		}
		for at, want := range map[netip.AddrPort]bool{lent: true, own: false} {
			pb.AddPath(Path{b.s, at})
			if got := pb.TURN(Path{b.s, at}); got != want {
				t.Errorf("%v is lent: %v", at, got)
			}
		}
		pa, err := a.Up(sa, a.path(b))
		if err != nil {
			t.Fatal(err)
		}
		send(pa, packet(100))
		settle(time.Second)
		for _, p := range []*Pipe{pa, pb} {
			want := map[*Pipe]string{pa: "b's chain", pb: "a's chain"}[p]
			if got := p.Chain(); string(got) != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		pa.Close(nil)
		settle(time.Second)
		if got := pa.Chain(); string(got) != "b's chain" {
			t.Errorf("after the end: %q", got)
		}
		var none Pipe
		if got := none.Remote(); got.Chain != nil || got.MTU != 0 {
			t.Errorf("without keys: %+v", got)
		}
	})
}

// An offer is refused in the peer's own name and for the reason that it gave, once and
// for good; one that was accepted is not.
func TestRefuse(t *testing.T) {
	n := newNetwork(0)
	a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	for _, reason := range []wire.Refusal{wire.Refused, wire.Glare} {
		offer, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.ReadOffer(offer.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if said, msg := in.Refusal(); said != 0 || msg != nil || in.Rejected() {
			t.Errorf("refused before it was: %v, %x", said, msg)
		}
		msg := in.Refuse(reason)
		if said, again := in.Refusal(); said != reason || !bytes.Equal(again, msg) || !in.Rejected() {
			t.Errorf("%v: said %v, %x", reason, said, again)
		}
		if again := in.Refuse(wire.Refused); !bytes.Equal(again, msg) {
			t.Error("refused again, and otherwise")
		}
		if _, _, err := in.Accept(Local{}); !errors.Is(err, ErrRejected) {
			t.Errorf("accepted: %v", err)
		}
		forged := bytes.Clone(msg)
		forged[len(forged)-1] ^= 1
		if s, err := offer.Finish(forged); s != nil || errors.As(err, new(*RefusedError)) {
			t.Errorf("a forged refusal: %v, %v", s, err)
		}
		s, err := offer.Finish(msg)
		var refused *RefusedError
		if s != nil || !errors.As(err, &refused) || refused.Reason != reason {
			t.Errorf("%v: %v, %v", reason, s, err)
		}
		offer.Cancel()
	}
	offer, _ := a.NewOffer(b.id, Local{})
	in, err := b.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Accept(Local{}); err != nil {
		t.Fatal(err)
	}
	if msg := in.Refuse(wire.Refused); msg != nil {
		t.Error("what was accepted is refused")
	}
	offer.Cancel()
	if _, err := offer.Finish(nil); err == nil {
		t.Error("an offer that was given up is finished")
	}
}

// Who looks after peers is told that one is dead, and whether somebody is waiting for
// it: whoever has sent or received of late.
func TestDeadIsTold(t *testing.T) {
	for idle, wanted := range map[time.Duration]bool{0: true, time.Duration(wantedFor) + time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			type told struct {
				p      *Pipe
				wanted bool
			}
			dead := make(chan told, 10)
			n := newNetwork(10 * time.Millisecond)
			a := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.Dead = func(p *Pipe, wanted bool) { dead <- told{p, wanted} } })
			b := newHost(t, n, 2, "192.0.2.2:1000")
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			<-pb.Ready()
			send(pb, packet(100))
			settle(time.Second + idle)
			n.setDrop(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true })
			if idle == 0 {
				send(pa, packet(100))
			} else {
				a.Doubt() // nothing was sent that the peer had to answer
			}
			settle(20 * time.Second)
			if len(dead) != 1 {
				t.Fatalf("after %v without data: told %d times, %v", idle, len(dead), pa.Err())
			}
			if d := <-dead; d.p != pa || d.wanted != wanted {
				t.Errorf("after %v without data: wanted %v", idle, d.wanted)
			}
		})
	}
}

// Who wants to know is told that data takes another path, once.
func TestMovedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Int64
		n := newNetwork(10 * time.Millisecond)
		a := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.Moved = func(*Pipe) { moved.Add(1) } })
		b := newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		settle(time.Second)
		if moved.Load() != 0 {
			t.Errorf("moved %d times without another path", moved.Load())
		}
		other := n.sender("192.0.2.3:1000", b.Endpoint)
		pa.AddPath(Path{a.s, other.addr})
		settle(time.Second)
		n.setDrop(func(from, to netip.AddrPort, _ []byte) bool { return from == b.s.addr || to == b.s.addr })
		for range 50 {
			send(pa, packet(100))
			settle(50 * time.Millisecond)
		}
		if to, _, _ := pa.Where(); to != other.addr || moved.Load() != 1 {
			t.Errorf("to %v, told %d times", to, moved.Load())
		}
	})
}

// A peer whose segments want to be acknowledged is able to repair, whether it has been
// asked or not.
func TestRepairSeen(t *testing.T) {
	for _, off := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newKeepRig(t)
			r.pb.mu.Lock()
			s := r.pb.keys.cur.sess
			s.repairs.Store(false)
			r.pb.repair.mode.Store(uint32(repairIdle))
			r.b.cfg.NoRepair = off
			r.pb.mu.Unlock()
			r.keep(1, 100)
			settle(time.Second)
			if !s.repairs.Load() {
				t.Error("nobody has noticed")
			}
			if mode := repairMode(r.pb.repair.mode.Load()); (mode == repairOn) == off {
				t.Errorf("repairing off: %v; it is %s", off, repairModes[mode])
			}
		})
	}
}

// What was left for later goes when it is said to.
func TestKeepLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newKeepRig(t)
		r.pa.SendKept() // nothing is kept, and nothing happens
		before := r.b.r.opens
		k := r.pa.KeepOnce(1, false, 0)
		for range 3 {
			b := k.Room(9)
			clear(b)
			b[0] = 17
		}
		k.Leave()
		settle(10 * time.Millisecond)
		if n := r.b.r.opens - before; n != 0 {
			t.Errorf("%d have come before they were sent", n)
		}
		r.pa.SendKept()
		settle(25 * time.Millisecond)
		if n := r.b.r.opens - before; n != 3 {
			t.Errorf("%d of 3 have come", n)
		}
	})
}

// The other rule of congestion control is used when it is wanted.
func TestCubicIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := make(map[bool]string)
		for _, cubic := range []bool{false, true} {
			r := newKeepRig(t, func(c *Config) { c.Cubic = cubic })
			r.keep(1, 100)
			states[cubic] = r.pa.Status().Repair.State
			settle(time.Second)
			r.done(t)
		}
		if states[true] != "on, slow start" || states[false] == states[true] {
			t.Errorf("%v", states)
		}
	})
}
