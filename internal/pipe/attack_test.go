package pipe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// elsewhere is an address that no peer has.
var elsewhere = netip.MustParseAddrPort("198.51.100.7:7777")

// A captured packet repeated from elsewhere is no sign of life: the peer that
// died is found out as fast as without it.
func TestReplayIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		var captured []byte
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			if from == a.s.addr && d[0] == wire.TypeData4 {
				captured = bytes.Clone(d)
			}
			return false
		})
		send(pa, packet(100))
		settle(5 * time.Second)
		n.setDrop(func(from, _ netip.AddrPort, _ []byte) bool { return from == a.s.addr })
		heard := pb.life.heard.Load()
		for range 30 {
			send(pb, packet(100))
			settle(50 * time.Millisecond)
			b.Receive(b.s, elsewhere, captured, len(captured))
		}
		if !errors.Is(pb.Err(), ErrDead) || pb.life.heard.Load() != heard {
			t.Errorf("a dead peer is kept alive by replays: %v", pb.Err())
		}
	})
}

// An address that one packet came from gets no more than three times its
// bytes, whatever else came in the same run.
func TestAmplification(t *testing.T) {
	for _, garbage := range []int{0, 20} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
			pa, _ := connect(t, a, b)
			send(pa, packet(100))
			settle(5 * time.Second)
			var captured []byte
			got := 0
			n.mu.Lock()
			n.at[elsewhere] = a.s
			n.drop = func(from, to netip.AddrPort, d []byte) bool {
				if from == a.s.addr && d[0] == wire.TypeData4 {
					captured = bytes.Clone(d)
					return true
				}
				if to == elsewhere {
					got += len(d)
					return true
				}
				return false
			}
			n.mu.Unlock()
			send(pa, packet(2))
			authentic := len(captured)
			run := captured
			for range garbage {
				run = append(run, captured[:4]...)
				run = append(run, make([]byte, authentic-4)...)
			}
			b.Receive(b.s, elsewhere, run, authentic)
			settle(30 * time.Second)
			if got == 0 || got > 3*authentic {
				t.Errorf("%d bytes sent for %d", got, authentic)
			}
		})
	}
}

// A datagram that the bound forbids takes nothing off it.
func TestBudget(t *testing.T) {
	var p path
	p.budget.Store(100)
	if p.spend(101) || !p.spend(60) || p.spend(41) || !p.spend(40) || p.spend(1) {
		t.Error("the budget is not kept")
	}
}

// An address that nothing authenticated came from takes no data, also while
// the endpoint is younger than consent lasts.
func TestNoDataBeforeConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		second := n.sender("192.0.2.101:1000", a.Endpoint)
		pa.AddPath(Path{second, elsewhere})
		a.RemoveLocal(a.s)
		if at := pa.paths.best.Load(); at != nil || pa.Err() == nil {
			t.Errorf("data goes to %v", at.Remote)
		}
		// Five challenges are all that is sent there.
		if left := pa.find(second, elsewhere).budget.Load(); left > 5*(8+9+16) {
			t.Errorf("%d more bytes may be sent there", left)
		}
		got := 0
		n.mu.Lock()
		n.at[elsewhere] = b.s
		n.drop = func(_, to netip.AddrPort, d []byte) bool {
			if to == elsewhere {
				got++
			}
			return true
		}
		n.mu.Unlock()
		settle(20 * time.Second)
		if got == 0 || got > challengeTries {
			t.Errorf("%d datagrams sent there", got)
		}
	})
}

// Old offers of a peer, repeated by whoever carried them, do not use up what
// that peer may offer.
func TestReplayedOffersAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		old, _ := a.NewOffer(b.id, Local{})
		defer old.Cancel()
		if _, err := b.ReadOffer(old.Bytes()); err != nil {
			t.Fatal(err)
		}
		settle(time.Duration(halfOpenFor) + time.Second)
		for range 3 * offersBurst {
			if _, err := b.ReadOffer(old.Bytes()); !errors.Is(err, ErrReplayed) {
				t.Errorf("an old offer: %v", err)
			}
		}
		fresh, _ := a.NewOffer(b.id, Local{})
		defer fresh.Cancel()
		if _, err := b.ReadOffer(fresh.Bytes()); err != nil {
			t.Errorf("the peer itself: %v", err)
		}
	})
}

// Whoever makes up keys, and is rejected for it, neither keeps others out nor
// makes the responder forget the peers it had sessions with.
func TestMadeUpInitiators(t *testing.T) {
	r := newResponder()
	offer := func(i int, timestamp uint64) *Incoming {
		in := &Incoming{offer: &wire.Payload{}, stamp: timestamp}
		binary.BigEndian.PutUint64(in.Peer[:], uint64(i))
		binary.BigEndian.PutUint64(in.hash[:], uint64(i))
		binary.BigEndian.PutUint64(in.hash[8:], timestamp)
		return in
	}
	friend := offer(0, 10)
	if _, _, err := r.admit(friend, 1); err != nil {
		t.Fatal(err)
	}
	r.confirm(friend)
	for i := range 3 * maxInitiators {
		in := offer(i+1, 1)
		if _, _, err := r.admit(in, 1); err != nil {
			t.Fatalf("after %d rejected offers: %v", i, err)
		}
		r.settle(in)
	}
	if len(r.cached) > maxCached || len(r.initiators) > maxInitiators {
		t.Errorf("%d answers, %d initiators", len(r.cached), len(r.initiators))
	}
	if from := r.initiators[friend.Peer]; from == nil || from.timestamp != 10 {
		t.Error("the timestamp of a peer is forgotten")
	}
	for i := range maxHalfOpen {
		if _, _, err := r.admit(offer(-1-i, 1), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := r.admit(offer(1<<30, 1), 1); !errors.Is(err, ErrBusy) {
		t.Errorf("more half open than allowed: %v", err)
	}
}

// A peer that makes one rekey offer after the other is answered no oftener
// than one that makes offers outside of the pipe.
func TestRekeyOfferRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		sendNumber(pa, 0)
		answered := make(map[*keypair]bool)
		for range 40 {
			pa.mu.Lock()
			if err := pa.beginRekey(pa.e.now()); err != nil {
				t.Fatal(err)
			}
			pa.queue(pa.keys.cur, pa.paths.best.Load(), pa.keys.rekey.frame)
			pa.keys.rekey.abort(pa)
			pa.unlock()
			if pb.keys.answered.kp != nil {
				answered[pb.keys.answered.kp] = true
			}
		}
		if len(answered) == 0 || len(answered) > offersBurst {
			t.Errorf("%d of 40 rekey offers were answered", len(answered))
		}
		// The next real one is.
		for range 13 {
			settle(10 * time.Second)
			sendNumber(pa, 1)
			sendNumber(pb, 1)
		}
		settle(time.Second)
		if pa.keys.cur.number != 1 || pb.keys.cur.number != 1 {
			t.Errorf("rekeys %d and %d", pa.keys.cur.number, pb.keys.cur.number)
		}
	})
}

// One datagram full of questions does not draw hundreds of answers.
func TestManyFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		send(pa, packet(100))
		settle(5 * time.Second)
		before := n.count()
		var question []byte
		for range 500 {
			question = wire.Frame{Type: wire.FrameConfirm}.Append(question)
		}
		pa.write(&outgoing{kp: pa.keys.cur, to: pa.paths.best.Load(), plain: question})
		settle(50 * time.Millisecond)
		if got := n.count() - before - 1; got == 0 || got > maxReplies {
			t.Errorf("%d answers", got)
		}
	})
}

// The peer's CLOSE of a session, overtaken by the peer's next session, ends
// the old one only.
func TestLateClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		var late []byte
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			late = bytes.Clone(d)
			return true
		})
		last := a.LastTimestamp()
		a.Close()
		n.setDrop(nil)
		a2 := newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) { c.LastTimestamp = last })
		s2, sb := sessions(t, a2, b)
		if _, err := b.Up(sb, b.path(a2)); err != nil {
			t.Fatal(err)
		}
		b.Receive(b.s, a2.s.addr, late, len(late))
		if !errors.Is(pb.Err(), ErrPeerEnded) {
			t.Errorf("after CLOSE: %v", pb.Err())
		}
		p2, err := a2.Up(s2, a2.path(b))
		if err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		sendNumber(p2, 1)
		if p := b.Pipe(peerid.ID(a2.id)); p == nil {
			t.Fatal("the new session went with the old one")
		} else if err := sendNumber(p, 2); err != nil {
			t.Error(err)
		}
		settle(time.Second)
		if b.r.seen[1] != 1 || a2.r.seen[2] != 1 {
			t.Errorf("a %v, b %v", a2.r.seen, b.r.seen)
		}
		if len(b.r.downs) != 1 || b.r.ups != 2 {
			t.Errorf("%d ups, downs %v", b.r.ups, b.r.downs)
		}
	})
}

// An exchange that is given up is wiped, its copy of the chaining key with it
// (package handshake's tests).
func TestChainingKeyWiped(t *testing.T) {
	_, _, pa, _ := pair(t, true)
	pa.mu.Lock()
	defer pa.unlock()
	if err := pa.beginRekey(pa.e.now()); err != nil {
		t.Fatal(err)
	}
	x := pa.keys.rekey.x
	if !x.Waiting() {
		t.Fatal("the exchange does not wait for an answer")
	}
	pa.keys.rekey.abort(pa)
	if x.Waiting() {
		t.Error("the exchange was not wiped")
	}
}

// The two sides may see differently whether two sessions crossed, since each
// goes by its own clock. Then they seal under different ones for a while, and
// still lose nothing.
func TestCrossingSeenDifferently(t *testing.T) {
	for _, smaller := range []bool{true, false} { // who holds them crossed
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
			if a.id.Compare(b.id) > 0 {
				a, b = b, a
			}
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			settle(time.Second)
			s2b, s2a := sessions(t, b, a)
			if smaller {
				s2a.created = 0
			} else {
				s2b.created = 0
			}
			if _, err := a.Up(s2a, a.path(b)); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Up(s2b, b.path(a)); err != nil {
				t.Fatal(err)
			}
			settle(time.Second)
			if pa.keys.sess.id == pb.keys.sess.id {
				t.Fatal("they agree")
			}
			const packets = 4000
			for i := uint64(1); i <= packets; i++ {
				sendNumber(pa, i)
				sendNumber(pb, i)
				settle(100 * time.Millisecond)
			}
			settle(time.Second)
			if len(a.r.seen) != packets || len(b.r.seen) != packets {
				t.Errorf("%d and %d of %d packets", len(a.r.seen), len(b.r.seen), packets)
			}
			if pa.keys.sess.id != pb.keys.sess.id || len(pa.keys.all) > 2 || len(pb.keys.all) > 2 {
				t.Errorf("no session agreed on: %d and %d keys", len(pa.keys.all), len(pb.keys.all))
			}
			if len(a.r.downs)+len(b.r.downs) != 0 {
				t.Errorf("downs %v, %v", a.r.downs, b.r.downs)
			}
		})
	}
}

// Sessions taken over do not pile up, however fast new ones come.
func TestRetiredSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		var pb *Pipe
		for range 40 {
			pa, p := connect(t, a, b)
			pb = p
			send(pa, packet(100))
			settle(100 * time.Millisecond)
		}
		pb.mu.Lock()
		defer pb.mu.Unlock()
		if len(pb.keys.all) > maxRetired+1 || b.table.live > maxRetired+1 {
			t.Errorf("%d keys, %d indices", len(pb.keys.all), b.table.live)
		}
	})
}

// A pipe may end after the timers did: a datagram is still being worked on
// while the Endpoint closes.
func TestForgetAfterClose(t *testing.T) {
	var ts timers
	ts.start(func() int64 { return 1 })
	late := &timed{fire: func(int64) int64 { return 0 }}
	ts.plan(late, 1<<60)
	ts.close()
	ts.forget(late)
	ts.plan(late, 1)
}

// TestAcceptDisplaced is the attack: a peer makes so many offers that the newer ones
// displace one that is to be accepted. It is not accepted, now or later, and there is nothing
// to refuse it with.
func TestAcceptDisplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(0)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		o, _ := a.NewOffer(b.id, Local{})
		defer o.Cancel()
		in, err := b.ReadOffer(o.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for range maxHalfOpenPerPeer {
			later, _ := a.NewOffer(b.id, Local{})
			defer later.Cancel()
			if _, err := b.ReadOffer(later.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if _, _, err := in.Accept(Local{}); !errors.Is(err, ErrSession) {
				t.Errorf("accepted: %v", err)
			}
		}
		if msg := in.Refuse(wire.Refused); msg != nil {
			t.Errorf("refused with %d bytes", len(msg))
		}
	})
}
