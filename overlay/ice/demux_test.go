package ice

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/ice/stun"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// listen opens a port on loopback whose STUN messages go to d.
func listen(t testing.TB, d *Demux) *socket.Port {
	t.Helper()
	p, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}, OnSTUN: d.Handle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestAsk asks one port's responder for another one's address.
func TestAsk(t *testing.T) {
	t.Parallel()
	server, client := NewDemux(DemuxConfig{}), NewDemux(DemuxConfig{})
	at := listen(t, server).Conns()[0].LocalAddr()
	c := listen(t, client).Conns()[0]
	if got, sent, ok := client.Ask(t.Context(), c, at); !ok || !sent || got != c.LocalAddr() {
		t.Errorf("measured %v, sent %v, %v; it is %v", got, sent, ok, c.LocalAddr())
	}
	// Nobody there: bounded, and cancelled at once.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, ok := client.Ask(ctx, c, netip.MustParseAddrPort("127.0.0.1:1")); ok {
		t.Error("an answer from nobody")
	}
	if len(client.awaited) != 0 {
		t.Errorf("%d transactions left", len(client.awaited))
	}
}

// gate is a ServerGate that lets n questions pass.
type gate struct {
	mu     sync.Mutex // guards what follows
	left   int
	proven []netip.AddrPort
}

func (g *gate) Pass(string, netip.AddrPort, int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left--
	return g.left >= 0
}

func (g *gate) Proven(_ string, at netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven = append(g.proven, at)
}

// Questions are repeated with a doubled wait, as the gate lets them; a response
// counts only from the server, to the question.
func TestAskIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h := m.host(t, "eth0 20.0.0.1/24")
		server := netip.MustParseAddrPort("20.0.1.1:3478")
		c := h.port.Conns()[0]
		for _, tt := range []struct {
			pass, sent int
			left       bool
		}{{100, 5, true}, {2, 2, true}, {0, 0, false}} {
			g := &gate{left: tt.pass}
			d := NewDemux(DemuxConfig{Servers: g})
			before, start := m.sentTo("20.0.1.1"), time.Now()
			_, sent, ok := d.Ask(t.Context(), c, server)
			if n := m.sentTo("20.0.1.1") - before; ok || n != tt.sent || sent != tt.left || time.Since(start) != 3100*time.Millisecond {
				t.Errorf("%d pass: %d were sent (%v), answered %v, after %v", tt.pass, n, sent, ok, time.Since(start))
			}
			if len(g.proven) > 0 || len(d.awaited) > 0 {
				t.Errorf("%d pass: proven %v, %d transactions left", tt.pass, g.proven, len(d.awaited))
			}
		}
		g := &gate{left: 100}
		d := NewDemux(DemuxConfig{Servers: g})
		done := make(chan netip.AddrPort, 1)
		go func() {
			seen, _, _ := d.Ask(t.Context(), c, server)
			done <- seen
		}()
		synctest.Wait()
		var id stun.TransactionID
		for id = range d.awaited {
		}
		seen := netip.MustParseAddrPort("20.0.9.9:7")
		b, err := stun.Success(id, seen, "")
		if err != nil {
			t.Fatal(err)
		}
		d.Handle(c, netip.MustParseAddrPort("20.0.1.2:3478"), b) // from elsewhere
		unmapped, _ := stun.Question()
		unmapped[0], unmapped[1] = 1, 1 // a response without an address, and without a fingerprint that holds
		d.Handle(c, server, unmapped)
		synctest.Wait()
		if len(done) > 0 || len(g.proven) > 0 {
			t.Error("a forged response counts")
		}
		d.Handle(c, server, b)
		if got := <-done; got != seen || len(g.proven) != 1 || g.proven[0] != server {
			t.Errorf("seen %v, proven %v", got, g.proven)
		}
		if n := d.Drops()["malformed"]; n != 1 {
			t.Errorf("%v", d.Drops())
		}
	})
}

// What draws no answer is counted, by its reason.
func TestDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		h := m.host(t, "eth0 20.0.0.1/24")
		d, c := h.demux, h.port.Conns()[0]
		from := netip.MustParseAddrPort("20.0.1.1:5")
		if got := d.Drops(); len(got) != 0 {
			t.Errorf("before anything: %v", got)
		}
		d.Handle(c, from, []byte{0, 1, 2, 3})
		d.Handle(c, from, nil)
		stray, _, err := stun.Check{Local: "x", Remote: Credentials{Ufrag: "nobody", Pwd: "x"}}.Message()
		if err != nil {
			t.Fatal(err)
		}
		d.Handle(c, from, stray)
		answer, err := stun.Success(stun.TransactionID{1}, from, "")
		if err != nil {
			t.Fatal(err)
		}
		d.Handle(c, from, answer)
		question, _ := stun.Question()
		for range respondBurst + 3 {
			d.Handle(c, from, question)
		}
		if n := m.sentTo("20.0.1.1"); n != respondBurst {
			t.Errorf("%d responses to a burst", n)
		}
		d.HandleAllocated(c, from, question) // at a lent address
		want := map[string]uint64{"malformed": 2, "unknown user": 2, "unknown transaction": 1, "rate": 3}
		if got := d.Drops(); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// Who awaits a response gets it until the function that Await returns is called.
func TestAwait(t *testing.T) {
	t.Parallel()
	d := NewDemux(DemuxConfig{})
	_, id := stun.Question()
	from := netip.MustParseAddrPort("20.0.1.1:5")
	b, err := stun.Success(id, from, "")
	if err != nil {
		t.Fatal(err)
	}
	if d.Awaits(id) {
		t.Error("somebody awaits it")
	}
	n := 0
	forget := d.Await(id, func(at netip.AddrPort) {
		if n++; at != from {
			t.Errorf("from %v", at)
		}
	})
	if !d.Awaits(id) {
		t.Error("nobody awaits it")
	}
	d.Handle(nil, from, b)
	d.Handle(nil, from, b)
	forget()
	d.Handle(nil, from, b)
	if n != 2 || d.Awaits(id) || d.Drops()["unknown transaction"] != 1 {
		t.Errorf("taken %d times, %v", n, d.Drops())
	}
}

func TestResponderIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSourceLimits(respondPerSource, respondBurst, respondTotal, 16)
		a := netip.MustParseAddr("192.0.2.1")
		n := 0
		for range 1000 {
			if l.allow(a) {
				n++
			}
		}
		if n != respondBurst {
			t.Errorf("%d answers to a burst", n)
		}
		for i := range 100 {
			l.allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
			if i%8 == 0 && l.allow(a) {
				t.Errorf("after %d others one that goes on asking is answered", i)
			}
		}
		if l.sources.Len() > 16 {
			t.Errorf("%d sources remembered", l.sources.Len())
		}
		// An IPv6 network is one source.
		n = 0
		for i := range 1000 {
			if l.allow(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})) {
				n++
			}
		}
		if n != respondBurst {
			t.Errorf("%d answers to a burst of one network", n)
		}
	})
}
