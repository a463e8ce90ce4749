package pipe

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

const hop = 10 * time.Millisecond

func relaying(rate int) func(*Config) {
	return func(c *Config) {
		c.Relay = func(from, to peerid.ID) (account.Account, bool) { return account.Account{Invitation: "all"}, true }
		c.RelayRate = rate
	}
}

// triangle is a and b with pipes to r and none between them yet, but a
// session.
type triangle struct {
	n                  *network
	a, b, r            *host
	ar, br             *Pipe
	sa, sb             *Session
	pa, pb             *Pipe
	relayedA, relayedB Path
}

func newTriangle(t *testing.T, rate int) *triangle {
	n := newNetwork(hop)
	x := &triangle{n: n, a: newHost(t, n, 1, "192.0.2.1:1001"), b: newHost(t, n, 2, "192.0.2.2:1002"),
		r: newHost(t, n, 3, "192.0.2.3:1003", relaying(rate))}
	x.ar, _ = connect(t, x.a, x.r)
	x.br, _ = connect(t, x.b, x.r)
	settle(time.Second)
	x.sa, x.sb = sessions(t, x.a, x.b)
	return x
}

// bind makes the relayed path on both sides and puts it to use.
func (x *triangle) bind(t *testing.T) {
	t.Helper()
	done := make(chan error)
	go func() {
		var err error
		x.relayedB, err = x.br.Bind(t.Context(), x.a.id, x.sb.ID())
		done <- err
	}()
	var err error
	if x.relayedA, err = x.ar.Bind(t.Context(), x.b.id, x.sa.ID()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if x.pb, err = x.b.Up(x.sb, x.relayedB); err != nil {
		t.Fatal(err)
	}
	if x.pa, err = x.a.Up(x.sa, x.relayedA); err != nil {
		t.Fatal(err)
	}
	settle(time.Second)
	if !x.pa.Relayed() || !x.pb.Relayed() || x.pa.Err() != nil || x.pb.Err() != nil {
		t.Fatalf("%v %v", x.pa.Err(), x.pb.Err())
	}
}

func TestRelayCarriesWhatItCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		var hops [][]byte // what comes to the relay from a
		x.n.setDrop(func(from, to netip.AddrPort, d []byte) bool {
			if from == x.a.s.addr && to == x.b.s.addr || from == x.b.s.addr && to == x.a.s.addr {
				t.Error("a datagram went directly")
			}
			if from == x.a.s.addr && d[0] == wire.TypeRelay {
				hops = append(hops, bytes.Clone(d))
			}
			return false
		})
		x.bind(t)
		secret := append([]byte{17}, "nobody on the way may read this"...)
		if err := send(x.pa, secret); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if len(x.b.r.plain) != 1 || !bytes.Equal(x.b.r.plain[0], secret) {
			t.Fatalf("b got %q", x.b.r.plain)
		}
		if s := x.pa.Status(); len(s.Paths) != 1 || s.Paths[0].Via != x.r.id || s.Paths[0].Remote != x.r.s.addr {
			t.Errorf("paths %+v", s.Paths)
		}
		if s := x.pa.Status(); s.Paths[0].RTT != 4*hop {
			t.Errorf("RTT %v over two hops of %v each way", s.Paths[0].RTT, hop)
		}
		// The relay opens its hop, and has no keys for what is inside.
		opened := 0
		for _, d := range hops {
			h, _, _ := wire.ParseHeader(d)
			kp := x.r.table.get(h.Index)
			plain, ok := kp.open(nil, d, h.Counter, new([nonceLen]byte))
			if !ok {
				t.Fatal("the relay cannot open its own hop")
			}
			opened++
			inner, _, ok := wire.ParseHeader(plain[wire.RelayHeaderLen:])
			if !ok || x.r.table.get(inner.Index) != nil || bytes.Contains(plain, secret[1:]) {
				t.Errorf("the relay can read %x", plain)
			}
			if _, ok := kp.open(nil, plain[wire.RelayHeaderLen:], inner.Counter, new([nonceLen]byte)); ok {
				t.Error("the hop's keys open what is inside")
			}
		}
		if s := x.r.RelayStatus(); opened == 0 || s.Bindings != 1 || s.Packets < uint64(opened) {
			t.Errorf("%d datagrams seen, %+v", opened, s)
		}
	})
}

func TestRelaySizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		if x.bind(t); x.pa.MaxSegment() < wire.BaseMTU-wire.RelayOverhead-wire.Overhead {
			t.Errorf("%d", x.pa.MaxSegment())
		}
		settle(10 * time.Second)
		// Both ends of each hop were found to take 1472.
		if got, want := x.pa.datagram(), 1420; got != want {
			t.Errorf("datagrams of %d, want %d: the largest step below %d", got, want, x.ar.datagram()-wire.RelayOverhead)
		}
		if err := send(x.pa, packet(x.pa.MaxSegment()+1)); err != nil {
			t.Fatal(err)
		}
		if settle(time.Second); x.b.r.opens != 1 {
			t.Error("the largest segment did not arrive")
		}
	})
}

func TestRelayQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 100_000, 1000
		x := newTriangle(t, rate)
		x.bind(t)
		before := x.r.RelayStatus().Bytes
		for range 10 * 100 { // ten seconds at ten times the quota
			for range 10 {
				if err := send(x.pa, packet(size)); err != nil {
					t.Fatal(err)
				}
			}
			settle(10 * time.Millisecond)
		}
		s := x.r.RelayStatus()
		if got := s.Bytes - before; got > 11*rate || got < 8*rate || s.OverQuota == 0 {
			t.Errorf("%d bytes in 10 s at %d a second, %+v", got, rate, s)
		}
	})
}

func TestRelayRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		if _, err := x.ar.Bind(t.Context(), x.r.id, x.sa.ID()); !errors.Is(err, ErrRelayRefused) {
			t.Errorf("to the relay itself: %v", err)
		}
		if _, err := x.ar.Bind(t.Context(), x.a.id, x.sa.ID()); !errors.Is(err, ErrRelayRefused) {
			t.Errorf("to oneself: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := x.ar.Bind(ctx, x.b.id, x.sa.ID()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the other side has not asked: %v", err)
		}
		// What only one side wants carries nothing.
		if err := send(x.ar, packet(100)); err != nil {
			t.Fatal(err)
		}
		out := newBatch(x.ar, wire.TypeRelay)
		out.relay(1, packet(100))
		out.Flush()
		out.Free()
		if settle(time.Second); x.r.RelayStatus().Packets != 0 {
			t.Error("forwarded without both having asked")
		}
		x.r.cfg.Relay = nil
		if _, err := x.br.Bind(t.Context(), x.a.id, x.sb.ID()); !errors.Is(err, ErrRelayRefused) {
			t.Errorf("by a peer that relays nothing: %v", err)
		}
		if settle(2 * time.Minute); x.r.RelayStatus().Bindings != 0 {
			t.Errorf("%+v after its lease", x.r.RelayStatus())
		}
	})
}

// TestDirectPathIsPreferred: data leaves the relay for a direct path at once,
// comes back while that is dead, and in the end the relay is given up.
func TestDirectPathIsPreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		x.bind(t)
		stop := make(chan struct{})
		defer close(stop)
		go func() { // traffic in both directions
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					_ = sendNumber(x.pa, 0)
					_ = sendNumber(x.pb, 0)
				}
			}
		}()
		if _, err := x.a.Up(x.sa, x.a.path(x.b)); err != nil {
			t.Fatal(err)
		}
		if _, err := x.b.Up(x.sb, x.b.path(x.a)); err != nil {
			t.Fatal(err)
		}
		if settle(100 * time.Millisecond); x.pa.Relayed() || x.pb.Relayed() {
			t.Fatal("still relayed")
		}
		cut := true
		x.n.setDrop(func(from, to netip.AddrPort, d []byte) bool {
			return cut && (from == x.a.s.addr && to == x.b.s.addr || from == x.b.s.addr && to == x.a.s.addr)
		})
		if settle(3 * time.Second); !x.pa.Relayed() || !x.pb.Relayed() || x.pa.Err() != nil {
			t.Fatalf("the relay has not taken over: %v", x.pa.Err())
		}
		x.n.mu.Lock()
		cut = false
		x.n.mu.Unlock()
		if settle(10 * time.Second); x.pa.Relayed() || x.pb.Relayed() {
			t.Fatal("not back on the direct path")
		}
		if settle(2 * time.Minute); len(x.pa.Status().Paths) != 1 || x.r.RelayStatus().Bindings != 0 {
			t.Errorf("the relay is still held: %+v, %+v", x.pa.Status().Paths, x.r.RelayStatus())
		}
	})
}

// TestRelayRestarts: the relay forgets everything; the ends bind anew.
func TestRelayForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		x.bind(t)
		x.r.relays.mu.Lock()
		for _, b := range x.r.relays.bindings {
			x.r.relays.remove(b)
		}
		x.r.relays.mu.Unlock()
		settle(relayGraceForTest)
		before := x.b.r.opens
		if err := send(x.pa, packet(100)); err != nil {
			t.Fatal(err)
		}
		if settle(time.Second); x.b.r.opens != before+1 {
			t.Errorf("the path is dead: %v", x.pa.Err())
		}
	})
}

const relayGraceForTest = 22 * time.Second // above the interval of binds

// TestRelayEnds: a relay that ends its pipes for good, to restart say, is no relay any
// more: whoever sends finds out as soon as from silence, not when consent is over.
func TestRelayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		x.bind(t)
		_ = x.r.Close()
		settle(time.Second)
		_ = send(x.pa, packet(100)) // it may say that it was not sent
		if settle(1500 * time.Millisecond); !errors.Is(x.pa.Err(), ErrDead) {
			t.Errorf("1.5 s after data that went nowhere: %v", x.pa.Err())
		}
	})
}

// TestRelayIsLetGo: the bindings of pipes that have ended, and of those that have come to
// nothing, do not count for their members any more: many pipes, one after the other, are
// relayed.
func TestRelayIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		for round := range 2 * relayPerMember {
			if round > 0 {
				x.sa, x.sb = sessions(t, x.a, x.b)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := x.ar.Bind(ctx, x.b.id, [16]byte{byte(round), 1}); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("round %d: one that nobody else wants: %v", round, err)
			}
			cancel()
			x.bind(t)
			if round%2 == 0 {
				x.pa.Close(nil)
			} else {
				x.pb.End(errors.New("put out"))
			}
			settle(4 * hop)
			if n := x.r.RelayStatus().Bindings; n > 8 {
				t.Fatalf("round %d: %d bindings", round, n)
			}
		}
		settle(time.Duration(relayEnds) + time.Second)
		if n := x.r.RelayStatus().Bindings; n > 0 {
			t.Errorf("%d bindings are left", n)
		}
		for _, p := range []*Pipe{x.ar, x.br} {
			p.mu.Lock()
			if len(p.relay.binds) > 0 || len(*p.relay.links.Load()) > 0 {
				t.Errorf("%d binds and %d links are left", len(p.relay.binds), len(*p.relay.links.Load()))
			}
			p.mu.Unlock()
		}
	})
}

// TestRelayIsLetGoByItsSideOnly: nobody ends the bindings of others.
func TestRelayIsLetGoByItsSideOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		x.bind(t)
		c := newHost(t, x.n, 4, "192.0.2.4:1004")
		cr, _ := connect(t, c, x.r)
		settle(time.Second)
		for range 3 {
			cr.tell(wire.Frame{Type: wire.FrameRelayChannel, Session: x.sa.ID(), Flag: wire.RelayRefused})
		}
		settle(time.Second)
		if n := x.r.RelayStatus().Bindings; n != 1 || x.pa.Err() != nil {
			t.Errorf("%d bindings, the pipe is %v", n, x.pa.Err())
		}
	})
}
