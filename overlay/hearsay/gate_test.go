package hearsay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// watch is an injected clock.
type watch struct{ t time.Time }

func (w *watch) now() time.Time { return w.t }

func newTestGate() (*Gate, *watch) {
	w := &watch{time.Unix(1_700_000_000, 0)}
	return New(func(a netip.AddrPort) bool { return a.Port() != 0 && !a.Addr().IsMulticast() }, w.now), w
}

func at(host, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(host >> 8), byte(host)}), uint16(port))
}

// TestAnyHistory: whatever is told, given, sent and answered, in whatever order,
// in no minute does an address see more than its bound unanswered, nor more go
// out for one teller than its own.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 18))
		g, w := newTestGate()
		type sent struct {
			when  time.Time
			bytes int
			port  uint16
			given bool
		}
		went := map[netip.Addr][]sent{}
		given := map[netip.AddrPort]bool{}
		proven := map[string]bool{}
		for range 6000 {
			a, peer := at(r.IntN(4), 1+r.IntN(30)), fmt.Sprint(r.IntN(3))
			switch r.IntN(12) {
			case 0:
				g.Told(fmt.Sprint("teller", r.IntN(5)), a)
			case 1:
				if r.IntN(40) == 0 {
					g.Given(a)
					given[a] = true
				}
			case 2:
				if r.IntN(20) == 0 {
					g.Proven(peer, a)
					proven[peer+a.String()] = true
					kept := went[a.Addr()][:0]
					for _, s := range went[a.Addr()] {
						if s.port != a.Port() {
							kept = append(kept, s)
						}
					}
					went[a.Addr()] = kept
				}
			case 3:
				w.t = w.t.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
			default:
				n := 20 + r.IntN(1180)
				ok := g.Pass(peer, a, n)
				if proven[peer+a.String()] {
					if !ok {
						t.Fatalf("seed %d: held back from a peer that had answered", seed)
					}
					continue
				}
				if ok {
					went[a.Addr()] = append(went[a.Addr()], sent{w.t, n, a.Port(), given[a]})
				}
			}
		}
		for ip, all := range went {
			for i, last := range all {
				packets, bytes := 0, 0
				for _, s := range all[:i+1] {
					if last.when.Sub(s.when) < Window {
						packets++
						bytes += s.bytes
					}
				}
				if most := GivenPackets; packets > most || !last.given && (packets > ToldPackets || bytes > ToldBytes) {
					t.Fatalf("seed %d: %v saw %d datagrams of %d bytes in a minute", seed, ip, packets, bytes)
				}
			}
		}
	}
}

func TestTellerIsCharged(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	sent := 0
	for host := range 400 {
		for port := range 2 {
			if g.Told("liar", at(host, 1+port)) && g.Pass("p", at(host, 1+port), 1200) {
				sent++
			}
		}
	}
	if sent != TellerPackets {
		t.Errorf("%d datagrams for one teller, want %d", sent, TellerPackets)
	}
	honest := at(500, 1)
	g.Told("liar", honest)
	if g.Pass("p", honest, 1200) {
		t.Error("a teller has no end")
	}
	if g.Told("another", honest); !g.Pass("p", honest, 1200) {
		t.Error("who tells the same as a liar is not believed")
	}
	// What is answered costs the teller nothing.
	w.t = w.t.Add(Window)
	for host := range 1000 {
		a := at(1000+host, 1)
		if !g.Told("honest", a) || !g.Pass("p", a, 1200) {
			t.Fatalf("held back at the %dth address, all of which answer", host)
		}
		g.Proven("p", a)
	}
}

func TestProvenIsOnePeers(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	a := at(1, 443)
	g.Proven("mars", a)
	for range 100 {
		if !g.Pass("mars", a, 1200) {
			t.Fatal("held back from a peer that has answered")
		}
	}
	sent := 0
	for range 100 {
		if g.Pass("somebody else", a, 1200) {
			sent++
		}
	}
	if sent != ToldPackets {
		t.Errorf("%d datagrams for another name at the address of a member", sent)
	}
	if !g.Knows("", a) || g.Knows("", at(1, 444)) {
		t.Error("whether anybody has answered there")
	}
	w.t = w.t.Add(ProvenLife)
	if g.Knows("mars", a) {
		t.Error("what was proven a day ago still is")
	}
}

func TestRecalled(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	g.Recalled("mars", at(1, 1), w.t.Add(-ProvenLife/2))
	g.Recalled("venus", at(2, 1), w.t.Add(-2*ProvenLife))
	for i := range 100 {
		if !g.Pass("mars", at(1, 1), 1200) {
			t.Fatal("held back from who answered half a day ago")
		}
		if ok := g.Pass("venus", at(2, 1), 1200); ok != (i < GivenPackets) {
			t.Fatalf("datagram %d to who answered long ago: %v", i, ok)
		}
	}
}

func TestNobodysAddress(t *testing.T) {
	t.Parallel()
	g, _ := newTestGate()
	a := netip.MustParseAddrPort("224.0.0.1:5353")
	g.Given(a)
	if g.Told("x", a) || g.Pass("p", a, 20) || !errors.Is(g.Begin(t.Context(), "p", a, 1, 20), ErrNoAddress) {
		t.Error("multicast is taken")
	}
}

// TestBounded: nobody can have the gate remember without end, and what it has no
// room for does not pass.
func TestBounded(t *testing.T) {
	t.Parallel()
	g, w := newTestGate()
	passed := 0
	for i := range 70_000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(1+i%65535))
		g.Told(fmt.Sprint(i/1000), a)
		if g.Pass("p", a, 1200) {
			passed++
		}
		g.Proven("q", a)
		g.Given(a)
	}
	if len(g.told) > toldMax || len(g.tellers) > tellersMax || len(g.proven) > provenMax || len(g.given) > givenMax || len(g.places) > placesMax {
		t.Errorf("%d told, %d tellers, %d proven, %d given, %d places", len(g.told), len(g.tellers), len(g.proven), len(g.given), len(g.places))
	}
	w.t = w.t.Add(2 * ProvenLife)
	if a := at(1, 1); !g.Told("x", a) || !g.Pass("p", a, 1200) {
		t.Error("no room although all of that is long ago")
	}
}

// TestBeginWaits: a dial that finds no room goes as soon as another one at the
// same address was answered, or after a minute, or fails with its context.
func TestBeginWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(func(netip.AddrPort) bool { return true }, time.Now)
		begin := func(ctx context.Context, port int) (time.Duration, error) {
			start := time.Now()
			err := g.Begin(ctx, "p", at(1, port), 2, 2400)
			return time.Since(start), err
		}
		if d, err := begin(t.Context(), 1); err != nil || d != 0 {
			t.Fatal(d, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if d, err := begin(ctx, 2); !errors.Is(err, ErrHeld) || d != 4*time.Second {
			t.Errorf("%v after %v, want ErrHeld with the context's end", err, d)
		}
		go func() {
			time.Sleep(time.Second)
			g.Proven("p", at(1, 1))
		}()
		if d, err := begin(t.Context(), 3); err != nil || d != time.Second {
			t.Errorf("%v after %v, want room after the answer, 1s", err, d)
		}
		if d, err := begin(t.Context(), 4); err != nil || d != Window {
			t.Errorf("%v after %v, want room after a minute", err, d)
		}
	})
}

// A resolver that lies about the NAT64 prefix, or a network where an address is somebody
// else's, has no use of what was proven elsewhere: what goes out is bounded as for
// addresses that the user has given.
func TestProvenBehindOnePrefix(t *testing.T) {
	t.Parallel()
	var prefix byte // 0: IPv4 goes as such
	through := func(a netip.Addr) netip.Addr {
		if prefix == 0 || !a.Is4() {
			return a
		}
		b := netip.MustParseAddr("2a00::").As16()
		four := a.As4()
		b[1] = prefix
		copy(b[12:], four[:])
		return netip.AddrFrom16(b)
	}
	g, w := newTestGate()
	g.Through(through)
	sent := func() (n int) {
		for range 100 {
			if g.Pass("mars", at(1, 443), 1200) {
				n++
			}
		}
		return n
	}
	g.Proven("mars", at(1, 443))
	if n := sent(); n != 100 {
		t.Fatalf("%d of 100 to a peer that has answered", n)
	}
	prefix = 1
	if n := sent(); n != GivenPackets {
		t.Errorf("%d datagrams to an address behind a prefix from where nobody has answered", n)
	}
	if g.Knows("mars", at(1, 443)) || g.Knows("", at(1, 443)) {
		t.Error("proven behind a prefix from where nobody has answered")
	}
	g.Proven("mars", at(1, 443))
	if n := sent(); n != 100 {
		t.Errorf("%d of 100 to a peer that has answered from behind the prefix", n)
	}
	prefix = 2
	if n := sent(); n != GivenPackets {
		t.Errorf("%d datagrams to the same behind another prefix", n)
	}
	w.t = w.t.Add(Window)
	g.Proven("venus", at(2, 443))
	prefix = 0
	if n := sent(); n != 100 {
		t.Errorf("%d of 100 to where a peer has answered before", n)
	}
	venus := 0
	for range 100 {
		if g.Pass("venus", at(2, 443), 1200) {
			venus++
		}
	}
	if venus != GivenPackets {
		t.Errorf("%d datagrams to an address that was proven behind a prefix only", venus)
	}
	// Remembered from before the start: of which prefix is not known.
	prefix = 3
	g.Recalled("mars", at(3, 443), w.t)
	if g.Knows("mars", at(3, 443)) {
		t.Error("remembered of another network, and proven here")
	}
}
