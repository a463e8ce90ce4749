package pipe

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/wire"
)

func TestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		select {
		case <-pa.Ready():
		default:
			t.Fatal("the initiator is not up at once")
		}
		if pb.Err() == nil || send(pb, packet(10)) == nil {
			t.Fatal("the responder may send before the initiator confirmed")
		}
		if err := send(pa, packet(100), packet(100), packet(50)); err != nil {
			t.Fatal(err)
		}
		<-pb.Ready()
		if err := send(pb, packet(200)); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if len(b.r.plain) != 3 || !bytes.Equal(b.r.plain[2], packet(50)) {
			t.Errorf("b got %d packets", len(b.r.plain))
		}
		if len(a.r.plain) != 1 || !bytes.Equal(a.r.plain[0], packet(200)) {
			t.Errorf("a got %d packets", len(a.r.plain))
		}
		rtt, at, err := pa.Ping(context.Background())
		if err != nil || rtt != 20*time.Millisecond || at != a.path(b) {
			t.Errorf("Ping = %v, %v, %v", rtt, at, err)
		}
		settle(5 * time.Second)
		if s := pa.Status(); s.MTU != 1472 || s.RTT != 20*time.Millisecond || len(s.Paths) != 1 || !s.Up {
			t.Errorf("Status = %+v", s)
		}
		if pa.MaxSegment() != 1472-25 {
			t.Errorf("MaxSegment = %d", pa.MaxSegment())
		}
		pa.Close(nil)
		<-pb.Closed()
		synctest.Wait() // until the handler has been told
		if !errors.Is(pb.Err(), ErrPeerClosed) || !errors.Is(b.r.lastDown(), ErrPeerClosed) {
			t.Errorf("b: %v, %v", pb.Err(), b.r.lastDown())
		}
		if a.Pipe(b.id) != nil || b.Pipe(a.id) != nil {
			t.Error("a closed pipe is still there")
		}
	})
}

// Data of the initiator may overtake Up on the responder's side.
// Whoever waits for a pipe goes on after the event: what it does with the pipe
// is told after that.
func TestUpIsToldFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		var a *host
		b := newHost(t, n, 2, "192.0.2.2:1000")
		told := 0
		a = newHost(t, n, 1, "192.0.2.1:1000", func(c *Config) {
			c.Events = func(e event.Event) {
				if e.Kind != event.PipeUp {
					return
				}
				told++
				select {
				case <-a.Pipe(b.id).Ready():
					t.Error("the pipe is ready before that it is up was told")
				default:
				}
			}
		})
		pa, _ := connect(t, a, b)
		<-pa.Ready()
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

func TestDataBeforeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, sb := sessions(t, a, b)
		pa, err := a.Up(sa, a.path(b))
		if err != nil {
			t.Fatal(err)
		}
		send(pa, packet(100))
		settle(time.Second)
		if len(b.r.plain) != 1 || b.r.ups != 1 {
			t.Fatalf("b got %d packets, %d ups", len(b.r.plain), b.r.ups)
		}
		pb, err := b.Up(sb, b.path(a))
		if err != nil || pb != b.Pipe(a.id) {
			t.Fatal(err)
		}
		send(pb, packet(100))
		settle(time.Second)
		if len(a.r.plain) != 1 || b.r.ups != 1 {
			t.Fatalf("a got %d packets, b %d ups", len(a.r.plain), b.r.ups)
		}
	})
}

func TestIdleClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(defaultIdle - time.Second)
		if pa.Err() != nil || pb.Err() != nil {
			t.Fatalf("closed too early: %v, %v", pa.Err(), pb.Err())
		}
		settle(2 * time.Second)
		if !errors.Is(pa.Err(), ErrIdle) || !errors.Is(pb.Err(), ErrIdle) {
			t.Fatalf("not closed: %v, %v", pa.Err(), pb.Err())
		}
		before := n.count()
		settle(time.Hour)
		if n.count() != before {
			t.Error("a closed pipe sends")
		}
	})
}

// A peer that vanishes is given up after half a second of probing, is sent
// nothing 30 s later, and is taken back when it is heard again.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		settle(5 * time.Second)
		n.setDrop(func(from, to netip.AddrPort, d []byte) bool { return from == b.s.addr })
		send(pa, packet(100))
		settle(1200 * time.Millisecond)
		if !errors.Is(pa.Err(), ErrDead) || !errors.Is(a.r.lastDown(), ErrDead) {
			t.Fatalf("not dead: %v", pa.Err())
		}
		if send(pa, packet(100)) == nil {
			t.Error("data is sent to a dead peer")
		}
		n.setDrop(nil)
		settle(2 * time.Second)
		if pa.Err() != nil || a.r.ups != 2 {
			t.Fatalf("not back: %v, %d ups", pa.Err(), a.r.ups)
		}
		if err := send(pa, packet(100)); err != nil {
			t.Error(err)
		}
		settle(time.Second)

		// Both sides lose each other for good.
		n.setDrop(func(from, to netip.AddrPort, d []byte) bool { return true })
		settle(31 * time.Second)
		before := n.count()
		settle(120 * time.Second)
		if n.count() != before {
			t.Errorf("%d datagrams without consent", n.count()-before)
		}
		if pa.Err() == nil || pb.Err() == nil {
			t.Errorf("still up: %v, %v", pa.Err(), pb.Err())
		}
		settle(180 * time.Second)
		if a.Pipe(b.id) != nil || b.Pipe(a.id) != nil {
			t.Error("not closed after the keys expired")
		}
	})
}

// Forged packets from the peer's address do not count as consent.
func TestForgedConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		sent := 0 // by a; b hears it and may look for it
		n.setDrop(func(from, to netip.AddrPort, d []byte) bool {
			if from == a.s.addr {
				sent++
			}
			return from == b.s.addr
		})
		index := pa.keys.cur.recvIndex
		at := time.Now()
		for time.Since(at) < 30*time.Second {
			for _, typ := range []uint8{wire.TypeData4, wire.TypeCtrl, wire.TypeFrag} {
				d := wire.Header{Type: typ, Index: index, Counter: uint32(time.Since(at))}.Append(nil)
				a.Receive(a.s, b.s.addr, append(d, make([]byte, 100)...), 108)
			}
			send(pa, packet(100))
			settle(100 * time.Millisecond)
		}
		before := sent
		send(pa, packet(100))
		settle(10 * time.Second)
		if sent != before {
			t.Error("data is sent without consent")
		}
	})
}
