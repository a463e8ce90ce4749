package pipe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// A pipe whose side ends tells the other until it has heard, whatever is lost;
// the other side learns it once, and Close takes no longer than that.
func TestEndIsHeard(t *testing.T) {
	for _, loss := range []float64{0, 0.1, 0.5} {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, uint64(100*loss)))
			for range 50 {
				n := newNetwork(25 * time.Millisecond)
				a, b, _, pb := inUse(t, n)
				settle(time.Second)
				n.setDrop(func(_, _ netip.AddrPort, _ []byte) bool { return random.Float64() < loss })
				began := time.Now()
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if loss == 0 && took > 60*time.Millisecond || took > time.Second {
					t.Errorf("loss %v: Close took %v", loss, took)
				}
				settle(time.Second)
				if !errors.Is(pb.Err(), ErrPeerEnded) || b.r.wentAway() != 1 {
					if loss < 0.5 { // there six in a row may be lost
						t.Errorf("loss %v: %v, Gone was called %d times", loss, pb.Err(), b.r.wentAway())
					}
				}
				b.Close()
			}
		})
	}
}

// All peers hear of the end, also of more pipes than are ended at once.
func TestEndOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a := newHost(t, n, 1, "192.0.2.1:1000")
		a.limits.farewells = 4
		var theirs []*Pipe
		for i := range byte(9) {
			b := newHost(t, n, 2+i, fmt.Sprintf("192.0.2.%d:1000", 2+i))
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			<-pb.Ready()
			theirs = append(theirs, pb)
		}
		settle(time.Second)
		seen := make(map[netip.AddrPort]bool)
		n.setDrop(func(from, to netip.AddrPort, _ []byte) bool { // the first CLOSE to each
			lost := from == a.s.addr && !seen[to]
			seen[to] = true
			return lost
		})
		a.Close()
		for i, p := range theirs {
			if p.Err() != ErrPeerEnded {
				t.Errorf("peer %d: %v", i, p.Err())
			}
		}
	})
}

// What the end says of what was written is known, however often it is said; a
// reason that is not known ends all that is open, as that of a process that ends.
func TestEndSaysWhatWasDelivered(t *testing.T) {
	for _, x := range []struct {
		what string
		end  func(a *host, pa *Pipe)
		want error
	}{
		{"delivered", func(a *host, pa *Pipe) { pa.Delivered(); a.Close() }, ErrPeerDelivered},
		{"not delivered", func(a *host, _ *Pipe) { a.Close() }, ErrPeerEnded},
		{"put out", func(_ *host, pa *Pipe) { pa.Delivered(); pa.End(ErrClosed) }, ErrPeerEnded},
		{"not known", func(_ *host, pa *Pipe) { pa.mu.Lock(); pa.end(ErrClosed, closeDelivered+1); pa.unlock() }, ErrPeerEnded},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(25 * time.Millisecond)
			a, b, pa, pb := inUse(t, n)
			settle(time.Second)
			lost := 0
			n.setDrop(func(_, _ netip.AddrPort, _ []byte) bool { lost++; return lost <= 2 })
			x.end(a, pa)
			settle(time.Second)
			if b.r.wentAway() != 1 || b.r.gone[0] != x.want || pb.Err() != x.want || !errors.Is(pb.Err(), ErrPeerEnded) {
				t.Errorf("%s: %v, Gone was called with %v", x.what, pb.Err(), b.r.gone)
			}
			if n := a.farewells.n.Load(); n != 0 {
				t.Errorf("%s: it was not answered", x.what)
			}
		})
	}
}

// The answer is given again as long as it may have been lost.
func TestEndIsAnsweredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, _, _ := inUse(t, n)
		settle(time.Second)
		lost, said := 0, 0
		n.setDrop(func(from, _ netip.AddrPort, _ []byte) bool {
			if from == a.s.addr {
				said++
				return false
			}
			lost++
			return lost <= 2
		})
		began := time.Now()
		a.Close()
		if took := time.Since(began); took > farewellsLast/2 {
			t.Errorf("Close took %v", took)
		}
		if said != 3 || lost != 3 {
			t.Errorf("%d CLOSEs and %d answers, of which 2 were lost", said, lost)
		}
		if b.r.wentAway() != 1 {
			t.Errorf("Gone was called %d times", b.r.wentAway())
		}
		settle(2 * farewellsLast)
		if n := b.farewells.n.Load(); n != 0 {
			t.Errorf("%d farewells are left", n)
		}
	})
}

const farewellsLast = time.Duration(farewellFor)

// Who is not there is told for a second, and who has been silent for long not
// even that.
func TestEndOfOneThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		c := newHost(t, n, 3, "192.0.2.3:1000")
		pa, pb := connect(t, a, b)
		pc, _ := connect(t, c, b)
		send(pa, packet(100))
		send(pc, packet(100))
		<-pb.Ready()
		settle(time.Second)
		n.setDrop(func(_, _ netip.AddrPort, _ []byte) bool { return true })
		before, began := n.count(), time.Now()
		a.Close()
		if took := time.Since(began); took != farewellsLast {
			t.Errorf("Close took %v", took)
		}
		if said := n.count() - before; said > 8 {
			t.Errorf("said %d times", said)
		}
		send(pc, packet(100))
		settle(3*time.Second + time.Duration(farewellSilent))
		if !errors.Is(pc.Err(), ErrDead) {
			t.Fatal(pc.Err())
		}
		began = time.Now()
		c.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %v of a peer that was silent", took)
		}
	})
}

// The path that took data is dead when this side ends, and it has had no time to find
// out: the peer is told on another. Where nobody has ever answered nothing is sent.
func TestEndOnAnotherPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		second := n.sender("192.0.2.101:1000", a.Endpoint)
		nowhere := netip.MustParseAddrPort("192.0.2.99:1000")
		pa.AddPath(Path{second, b.s.addr})
		pa.AddPath(Path{second, nowhere})
		settle(time.Second)
		if pa.paths.best.Load().Local != a.s {
			t.Fatal("data goes another way")
		}
		said := 0
		n.setDrop(func(from, to netip.AddrPort, _ []byte) bool {
			if to == nowhere {
				said++
			}
			return from == a.s.addr || to == a.s.addr
		})
		began := time.Now()
		a.Close()
		if took := time.Since(began); took >= farewellsLast {
			t.Errorf("Close took %v: nobody has answered", took)
		}
		settle(100 * time.Millisecond)
		if !errors.Is(pb.Err(), ErrPeerEnded) {
			t.Errorf("the peer knows only %v", pb.Err())
		}
		if said > 0 {
			t.Errorf("%d datagrams to where nobody has answered", said)
		}
		b.Close()
	})
}

// Both may end at once, and either may be put out while both live.
func TestEndOfBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		settle(time.Second)
		out := errors.New("put out")
		pa.End(out)
		pa.End(out)
		settle(time.Second)
		if pa.Err() != out || !errors.Is(pb.Err(), ErrPeerEnded) {
			t.Errorf("%v, %v", pa.Err(), pb.Err())
		}
		if a.r.wentAway() != 1 || b.r.wentAway() != 1 {
			t.Errorf("Gone was called %d and %d times", a.r.wentAway(), b.r.wentAway())
		}
		pa, pb = connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		settle(time.Second)
		began := time.Now()
		done := make(chan struct{})
		go func() { b.Close(); close(done) }()
		a.Close()
		<-done
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// A peer that comes back as another process is known as such: by its next
// session, before that is up, or by what it says elsewhere.
func TestPeerStartedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		var gone []int // how often Gone had been called at each Up
		b.r.onUp = func(*Pipe) { gone = append(gone, b.r.wentAway()) }
		pa, pb := connect(t, a, b)
		send(pa, packet(100))
		<-pb.Ready()
		settle(time.Second)
		n.setDrop(func(from, _ netip.AddrPort, _ []byte) bool { return from == a.s.addr })
		a.Close() // unheard
		n.setDrop(nil)
		settle(time.Second)
		anew := newHost(t, n, 1, "192.0.2.1:1000")
		pa, pb = connect(t, anew, b)
		send(pa, packet(100))
		settle(time.Second)
		if b.r.wentAway() != 1 {
			t.Errorf("Gone was called %d times", b.r.wentAway())
		}
		if last := len(gone) - 1; last < 0 || gone[last] != 1 && len(gone) > 1 {
			t.Errorf("before the times that the pipe came up Gone was called %v times", gone)
		}
		b.PeerStarted(a.id, anew.Start()) // no news
		b.PeerStarted(a.id, a.Start())    // late
		if b.r.wentAway() != 1 || pb.Err() != nil {
			t.Errorf("Gone was called %d times, %v", b.r.wentAway(), pb.Err())
		}
		b.PeerStarted(a.id, anew.Start()+1)
		if b.r.wentAway() != 2 || !errors.Is(pb.Err(), ErrPeerEnded) {
			t.Errorf("Gone was called %d times, %v", b.r.wentAway(), pb.Err())
		}
		b.PeerStarted(newHost(t, n, 9, "192.0.2.9:1000").id, 5) // nobody that there was a pipe to
		if b.r.wentAway() != 2 {
			t.Errorf("Gone was called %d times", b.r.wentAway())
		}
		_ = pa
	})
}

// The end of a process is the end of all its sessions, also of one that is newer than
// that under which it says so, as the other side has it alone. Who puts a peer out goes
// on, and may have let it in again since.
func TestEndBesideANewerSession(t *testing.T) {
	for _, x := range []struct {
		name string
		end  func(a *host, pa *Pipe)
		over bool
	}{
		{"ended", func(a *host, _ *Pipe) { a.Close() }, true},
		{"delivered", func(a *host, pa *Pipe) { pa.Delivered(); a.Close() }, true},
		{"put out", func(_ *host, pa *Pipe) { pa.End(ErrClosed) }, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, pa, pb := inUse(t, newNetwork(10*time.Millisecond))
				settle(time.Second)
				_, sb := sessions(t, a, b)
				if _, err := b.Up(sb, b.path(a)); err != nil {
					t.Fatal(err)
				}
				x.end(a, pa)
				settle(100 * time.Millisecond)
				if x.over && (b.r.wentAway() != 1 || !errors.Is(pb.Err(), ErrPeerEnded)) {
					t.Errorf("Gone was called %d times, %v", b.r.wentAway(), pb.Err())
				}
				if !x.over && (b.r.wentAway() != 0 || b.Pipe(a.id) != pb) {
					t.Errorf("the newer session is over, too: Gone was called %d times, %v", b.r.wentAway(), pb.Err())
				}
			})
		})
	}
}

// The peer has gone over to a newer session and has forgotten the one under which this
// side still seals, for it has not heard that yet: it learns of the end under the newer.
func TestEndUnderEachSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		settle(time.Second)
		sa, sb := sessions(t, a, b)
		n.setDrop(func(from, _ netip.AddrPort, _ []byte) bool { return from == b.s.addr })
		if _, err := b.Up(sb, b.path(a)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Up(sa, a.path(b)); err != nil {
			t.Fatal(err)
		}
		settle(50 * time.Millisecond)
		pb.mu.Lock()
		for _, k := range slices.Clone(pb.keys.all) {
			if k.sess != sb {
				pb.removeKeys(k)
			}
		}
		cur := pb.keys.cur
		pb.unlock()
		if cur == nil || cur.sess != sb || pa.keys.cur.sess == sa {
			t.Fatal("the peer has not gone over, or this side has")
		}
		n.setDrop(nil)
		began := time.Now()
		a.Close()
		if took := time.Since(began); took >= farewellsLast {
			t.Errorf("Close took %v: the answer was not heard", took)
		}
		if b.r.wentAway() != 1 || !errors.Is(pb.Err(), ErrPeerEnded) {
			t.Errorf("Gone was called %d times, %v", b.r.wentAway(), pb.Err())
		}
		if n := a.farewells.n.Load(); n != 0 || len(a.farewells.by) != 0 {
			t.Errorf("%d farewells are left, %d indexes", n, len(a.farewells.by))
		}
	})
}

// Garbage under the index of a pipe that is being ended ends nothing.
func TestEndIgnoresGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, pa, _ := inUse(t, n)
		settle(time.Second)
		index := pa.keys.cur.recvIndex
		n.setDrop(func(_, _ netip.AddrPort, _ []byte) bool { return true })
		go func() {
			for range 100 {
				d := make([]byte, wire.MinLen+8)
				wire.Header{Type: wire.TypeCtrl, Index: index, Counter: 1 << 20}.Put(d)
				a.Receive(a.s, b.s.addr, d, len(d))
				time.Sleep(10 * time.Millisecond)
			}
		}()
		began := time.Now()
		a.Close()
		if took := time.Since(began); took != farewellsLast {
			t.Errorf("Close took %v", took)
		}
		time.Sleep(time.Second)
	})
}

// The local end of the only path has gone, and another one has come of which the pipe
// knows nothing: the host has moved when its process was ending. The peer is told from
// there, be the pipe up or silent, and at once where the host moves on.
func TestEndFromAnotherLocalEnd(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b, pa, pb := inUse(t, n)
			var mu sync.Mutex // guards now
			now := []Sender{a.s}
			a.cfg.Locals = func() []Sender { mu.Lock(); defer mu.Unlock(); return slices.Clone(now) }
			settle(time.Second)
			n.setDrop(func(from, to netip.AddrPort, _ []byte) bool { return from == a.s.addr || to == a.s.addr })
			if silent {
				pa.probeNow()
				for pa.Err() == nil {
					settle(100 * time.Millisecond)
				}
			}
			stop := time.AfterFunc(60*time.Millisecond, func() { // after the first CLOSE and its first repetition
				mu.Lock()
				defer mu.Unlock()
				now = []Sender{n.sender("192.0.2.101:1000", a.Endpoint), n.sender("[2001:db8::101]:1000", a.Endpoint)}
			})
			defer stop.Stop()
			began := time.Now()
			a.Close()
			if took := time.Since(began); took > time.Duration(farewellFor) {
				t.Errorf("silent %v: Close took %v", silent, took)
			}
			settle(20 * time.Millisecond)
			if !errors.Is(pb.Err(), ErrPeerEnded) {
				t.Errorf("silent %v: the peer knows only %v", silent, pb.Err())
			}
			b.Close()
		})
	}
}
