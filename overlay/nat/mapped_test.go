package nat

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/socket"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// asker answers as a function says.
type asker func(ctx context.Context, c *socket.Conn, server netip.AddrPort) (seen netip.AddrPort, sent, ok bool)

func (f asker) Ask(ctx context.Context, c *socket.Conn, server netip.AddrPort) (netip.AddrPort, bool, bool) {
	return f(ctx, c, server)
}

func (asker) Other(netip.AddrPort) (netip.AddrPort, bool) { return netip.AddrPort{}, false }

func listen(t *testing.T, addrs ...netip.Addr) *socket.Port {
	t.Helper()
	p, err := socket.Listen(socket.Config{Addrs: addrs})
	if err != nil {
		t.Skip("no second loopback address here: ", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func serverAt(at ...string) func() []netip.AddrPort {
	return func() (out []netip.AddrPort) {
		for _, a := range at {
			out = append(out, netip.MustParseAddrPort(a))
		}
		return out
	}
}

// TestMappedWithoutNAT: the own address is none that a NAT shows.
func TestMappedWithoutNAT(t *testing.T) {
	t.Parallel()
	p := listen(t, loopback)
	c := p.Conns()[0]
	probes := NewProbes()
	m := NewMappedAddrs(MappedConfig{Conns: p.Conns, Servers: serverAt("127.0.0.1:3478"), Probes: probes,
		Changed: func() { t.Error("a new address") },
		Asker: asker(func(_ context.Context, c *socket.Conn, _ netip.AddrPort) (netip.AddrPort, bool, bool) {
			return c.LocalAddr(), true, true
		})})
	m.Measure(t.Context())
	if got := m.Of(c); len(got) != 0 || !m.Known() {
		t.Errorf("mapped addresses %v, known %v", got, m.Known())
	}
	if all := probes.List(); len(all) != 1 || !all[0].Heard || all[0].Seen != c.LocalAddr() || Translation(all) != "none" {
		t.Errorf("noted %+v", all)
	}
}

// TestMeasurementWaitsForNoSocket: what one socket is answered is known while
// another one waits for an answer that never comes.
func TestMeasurementWaitsForNoSocket(t *testing.T) {
	t.Parallel()
	mute := netip.MustParseAddr("127.0.0.2")
	p := listen(t, loopback, mute)
	seen := netip.MustParseAddrPort("192.0.2.9:7000")
	asked, gone := make(chan struct{}), make(chan struct{}) // the mute socket has asked, and has given up
	changed := make(chan struct{}, 1)
	probes := NewProbes()
	m := NewMappedAddrs(MappedConfig{Conns: p.Conns, Servers: serverAt("127.0.0.3:3478"), Probes: probes,
		Changed: func() { changed <- struct{}{} },
		Asker: asker(func(ctx context.Context, c *socket.Conn, _ netip.AddrPort) (netip.AddrPort, bool, bool) {
			if c.LocalAddr().Addr() == mute {
				close(asked)
				<-ctx.Done()
				close(gone)
				return netip.AddrPort{}, true, false
			}
			<-asked
			return seen, true, true
		})})
	enough := m.Remeasure()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); m.Measure(ctx) }()
	<-changed
	select {
	case <-gone:
		t.Error("the address was told when nobody waited any more")
	default:
	}
	if got := m.Of(p.ConnOn(loopback)); !slices.Equal(got, []netip.AddrPort{seen}) {
		t.Errorf("seen %v, want %v", got, seen)
	}
	if !m.Known() {
		t.Error("a server has answered, and that is not known")
	}
	<-enough // who waits for the measurement goes on
	cancel()
	<-ended
	if len(m.Of(p.ConnOn(mute))) != 0 {
		t.Error("the mute socket has a mapped address")
	}
	if all := probes.List(); len(all) != 1 {
		t.Errorf("a question that was given up was noted: %+v", all)
	}
}

// TestMeasurementIsKept: what comes of a second measurement takes the place of
// the first, a socket that nobody answers has no mapped address any more, and
// what was held back says nothing.
func TestMeasurementIsKept(t *testing.T) {
	t.Parallel()
	p := listen(t, loopback)
	c := p.Conns()[0]
	var mu sync.Mutex
	answers := map[string]string{} // by server
	sent := true
	set := func(s bool, pairs ...string) {
		mu.Lock()
		defer mu.Unlock()
		sent = s
		clear(answers)
		for i := 0; i < len(pairs); i += 2 {
			answers[pairs[i]] = pairs[i+1]
		}
	}
	probes := NewProbes()
	changes := 0
	m := NewMappedAddrs(MappedConfig{Conns: p.Conns, Servers: serverAt("127.0.0.3:1", "127.0.0.4:1", "127.0.0.5:1"), Probes: probes,
		Changed: func() { changes++ }, // under the measurement's lock
		Asker: asker(func(_ context.Context, _ *socket.Conn, server netip.AddrPort) (netip.AddrPort, bool, bool) {
			mu.Lock()
			defer mu.Unlock()
			a, ok := answers[server.String()]
			if !ok {
				return netip.AddrPort{}, sent, false
			}
			return netip.MustParseAddrPort(a), true, true
		})})
	want := func(what string, known bool, changed int, mapped ...string) {
		t.Helper()
		m.Measure(t.Context())
		var got []string
		for _, a := range m.Of(c) {
			got = append(got, a.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, mapped) || m.Known() != known || changes != changed {
			t.Errorf("%s: %v, known %v, %d changes", what, got, m.Known(), changes)
		}
	}
	set(true, "127.0.0.3:1", "192.0.2.1:1", "127.0.0.4:1", "192.0.2.1:2", "127.0.0.5:1", "192.0.2.1:3")
	want("two of three servers are asked", true, 2, "192.0.2.1:1", "192.0.2.1:2")
	if kind := Translation(probes.List()); kind != "endpoint-dependent" {
		t.Errorf("two answers are %q", kind)
	}
	set(true, "127.0.0.3:1", "192.0.2.1:1")
	want("one answers", true, 2, "192.0.2.1:1")
	set(true)
	want("nobody answers", false, 2)
	noted := len(probes.List())
	set(false)
	want("nothing is sent", false, 2)
	if n := len(probes.List()); n != noted {
		t.Errorf("%d results, before %d", n, noted)
	}
}
