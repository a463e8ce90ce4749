package hearsay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A teller's budget fills as time passes, to its bound and not above.
func TestTellerFills(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	host := 0
	send := func() (n int) {
		for range 3 * TellerPackets {
			host++
			if a := at(host, 1); g.Told("mars", a) && g.Pass("p", a, 100) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{
		{0, TellerPackets}, {0, 0}, {Window / 4, TellerPackets / 4}, {Window / 2, TellerPackets / 2}, {Window, TellerPackets}, {100 * Window, TellerPackets},
	} {
		w.t = w.t.Add(c.after)
		g.told = map[netip.AddrPort]*told{} // how many addresses is another bound
		for _, who := range g.tellers {
			who.addrs = 0
		}
		if n := send(); n != c.want {
			t.Errorf("after %v: %d datagrams, not %d", c.after, n, c.want)
		}
	}
}

// One teller fills its own share of what is remembered, and nobody else's; after two
// hours there is room again.
func TestTellerAddrs(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	taken := 0
	for i := range 2 * tellerAddrs {
		if g.Told("liar", at(i, 1)) {
			taken++
		}
	}
	if taken != tellerAddrs {
		t.Errorf("%d addresses of one teller", taken)
	}
	if !g.Told("liar", at(0, 1)) {
		t.Error("what it has told before is refused")
	}
	if !g.Told("mars", at(5000, 1)) {
		t.Error("somebody else has no room")
	}
	w.t = w.t.Add(toldLife + time.Second)
	if !g.Told("liar", at(6000, 1)) {
		t.Error("no room after two hours")
	}
	if g.tellers["liar"].addrs != 1 {
		t.Errorf("remembered for %d addresses", g.tellers["liar"].addrs)
	}
}

// Of those that have told of an address the last few are remembered, and the one that
// can best afford it pays.
func TestWhoPays(t *testing.T) {
	t.Parallel()
	g, _ := newTestGate()
	a := at(1, 1)
	for i := range tellersEach + 2 {
		g.Told(fmt.Sprint("teller ", i), a)
	}
	if e := g.told[a]; len(e.by) != tellersEach || g.tellers["teller 0"].addrs != 0 || g.tellers["teller 4"].addrs != 1 {
		t.Errorf("%d tellers of one address", len(e.by))
	}
	g.tellers["teller 2"].left, g.tellers["teller 3"].left = 0, 5
	if !g.Pass("p", a, 100) || g.tellers["teller 4"].left != TellerPackets-1 || g.tellers["teller 3"].left != 5 {
		t.Error("somebody else has paid")
	}
	b := at(2, 1) // nobody has told of it
	if !g.Pass("p", b, 100) || g.tellers[""].left != TellerPackets-1 {
		t.Error("an address that nobody has told is not charged to nobody")
	}
}

// What is too large for a minute never goes, and an end of the caller's is the end.
func TestBeginInVain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := New(func(a netip.AddrPort) bool { return a.Port() != 9 }, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Begin(ctx, "p", at(1, 9), 1, 100); !errors.Is(err, ErrNoAddress) {
			t.Errorf("nobody's address: %v", err)
		}
		if err := g.Begin(ctx, "p", at(1, 1), 1, 100); err != nil {
			t.Errorf("where there is room nobody waits: %v", err)
		}
		start := time.Now()
		if err := g.Begin(ctx, "p", at(1, 1), ToldPackets, 100); !errors.Is(err, ErrHeld) || time.Since(start) != 0 || g.Held() != ToldPackets {
			t.Errorf("%v after %v, %d held", err, time.Since(start), g.Held())
		}
		for range TellerPackets { // the teller has nothing left
			g.Told("liar", at(2, 1))
			g.tellers["liar"].left = 0
		}
		if err := g.Begin(t.Context(), "p", at(2, 1), 1, 100); !errors.Is(err, ErrHeld) || time.Since(start) != 0 {
			t.Errorf("a teller without means: %v after %v", err, time.Since(start))
		}
	})
}

// An address in another form is the same one: no form gets a budget of its own.
func TestFormsOfAnAddress(t *testing.T) {
	t.Parallel()
	g, _ := newTestGate()
	sent := 0
	for range 10 {
		for _, form := range []string{"203.0.113.1:443", "[::ffff:203.0.113.1]:443"} {
			if g.Pass("p", netip.MustParseAddrPort(form), 100) {
				sent++
			}
		}
	}
	if sent != ToldPackets {
		t.Errorf("%d datagrams to one address", sent)
	}
	g.Proven("p", netip.MustParseAddrPort("[::ffff:203.0.113.1]:443"))
	if !g.Pass("p", netip.MustParseAddrPort("203.0.113.1:443"), 100) {
		t.Error("what was proven in one form is not in the other")
	}
	for _, zone := range []string{"[fe80::1%eth0]:1", "[fe80::1%eth1]:1", "[fe80::1]:1"} {
		g.Proven("q", netip.MustParseAddrPort(zone))
	}
	if len(g.proven) != 2 {
		t.Errorf("%d addresses", len(g.proven))
	}
}

// Many at once never get more through than one after the other.
func TestPassAtOnce(t *testing.T) {
	t.Parallel()
	g, _ := newTestGate()
	var wg sync.WaitGroup
	sent := make([]int, 8)
	for i := range sent {
		wg.Go(func() {
			for port := range 50 {
				a := at(1, 1+port)
				g.Told(fmt.Sprint(i), a)
				if g.Pass("p", a, 1200) {
					sent[i]++
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range sent {
		total += n
	}
	if total != ToldPackets || g.Held() != 8*50-ToldPackets {
		t.Errorf("%d datagrams to one IP address, %d held", total, g.Held())
	}
}
