package nat

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/sockettest"
)

// router is a gateway that does as it is told.
type router struct {
	mu      sync.Mutex // guards what follows
	outer   netip.Addr
	granted time.Duration
	refuses func(port uint16) bool
	asked   []uint16 // ports that it was asked for
	removed []uint16
	failing error
}

var _ gateway = (*router)(nil)

func (r *router) String() string { return "a test's router" }

func (r *router) external(context.Context) (netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outer, r.failing
}

func (r *router) add(_ context.Context, _ netip.AddrPort, want uint16, life time.Duration) (uint16, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, want)
	if r.refuses != nil && r.refuses(want) {
		return 0, 0, errors.New("taken")
	}
	return want, r.granted, nil
}

func (r *router) remove(_ context.Context, _ netip.AddrPort, port uint16) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, port)
	return nil
}

func (r *router) counts() (asked, removed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked), len(r.removed)
}

// mapper is a PortMapper before this router, and a count of its changes.
func mapper(p *socket.Port, r *router) (*PortMapper, *atomic.Int32) {
	changes := new(atomic.Int32)
	m := NewPortMapper(p, slog.New(slog.DiscardHandler), func() { changes.Add(1) })
	m.route = func() (*socket.Conn, netip.Addr, error) {
		conns := p.Conns()
		if len(conns) == 0 {
			return nil, netip.Addr{}, errNoRouter
		}
		return conns[0], netip.MustParseAddr("192.168.1.1"), nil
	}
	m.find = func(context.Context, netip.Addr, netip.Addr) (gateway, error) {
		if r == nil {
			return nil, errNoRouter
		}
		return r, nil
	}
	return m, changes
}

// sleep lets time pass, and what is due then happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// running runs m until the function returned is called.
func running(t *testing.T, m *PortMapper) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	synctest.Wait()
	return func() { cancel(); <-done }
}

// A mapping is renewed at half of what the router has granted, and given back at
// the end.
func TestPortMapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := sockettest.Listen(t, "eth0 192.168.1.2/24")
		r := &router{outer: netip.MustParseAddr("20.0.0.9"), granted: 10 * time.Minute}
		m, changes := mapper(p, r)
		end := running(t, m)
		c := p.Conns()[0]
		if at, ok := m.Of(c); !ok || at.String() != "20.0.0.9:4000" {
			t.Errorf("mapped to %v, %v", at, ok)
		}
		if s := m.Status(); s.Err != nil || s.Protocol != "a test's router" || s.Address.String() != "20.0.0.9:4000" {
			t.Errorf("%+v", s)
		}
		sleep(5*time.Minute - time.Second)
		if n, _ := r.counts(); n != 1 {
			t.Errorf("asked %d times in the first five minutes", n)
		}
		sleep(6 * time.Minute)
		if n, _ := r.counts(); n != 3 {
			t.Errorf("asked %d times in eleven minutes", n)
		}
		if changes.Load() != 1 {
			t.Errorf("%d changes", changes.Load())
		}
		r.mu.Lock()
		r.outer = netip.MustParseAddr("20.0.0.10") // a new one from the provider
		r.mu.Unlock()
		m.NetworkChanged()
		synctest.Wait()
		if at, ok := m.Of(c); !ok || at.String() != "20.0.0.10:4000" || changes.Load() != 2 {
			t.Errorf("after a change: mapped to %v, %v; %d changes", at, ok, changes.Load())
		}
		end()
		if _, ok := m.Of(c); ok || !slices.Equal(r.removed, []uint16{4000}) || changes.Load() != 3 {
			t.Errorf("at the end: mapped %v, taken back %v, %d changes", ok, r.removed, changes.Load())
		}
	})
}

// A router that maps without an end, or for a lifetime, is asked again all the same, and one that
// grants seconds not more often than every twenty.
func TestPortMappingIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for granted, within := range map[time.Duration]time.Duration{0: mapLife / 2, 1000 * time.Hour: mapLife / 2, time.Second: mapRenewMin} {
			p, _ := sockettest.Listen(t, "eth0 192.168.1.2/24")
			r := &router{outer: netip.MustParseAddr("20.0.0.9"), granted: granted}
			m, _ := mapper(p, r)
			end := running(t, m)
			sleep(within - time.Millisecond)
			before, _ := r.counts()
			sleep(2 * time.Millisecond)
			after, _ := r.counts()
			if before != 1 || after != 2 {
				t.Errorf("granted %v: asked %d and %d times", granted, before, after)
			}
			end()
		}
	})
}

// A port that somebody else has is left to them; another is asked for, three
// times.
func TestPortMappingOfAnotherPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := sockettest.Listen(t, "eth0 192.168.1.2/24")
		r := &router{outer: netip.MustParseAddr("20.0.0.9"), granted: time.Hour, refuses: func(p uint16) bool { return p == 4000 }}
		m, _ := mapper(p, r)
		end := running(t, m)
		got := m.Status().Address.Port()
		if len(r.asked) != 2 || got != r.asked[1] || got < mapOtherPort {
			t.Errorf("asked for %v, mapped to %d", r.asked, got)
		}
		end()
		if !slices.Equal(r.removed, []uint16{got}) {
			t.Errorf("taken back %v", r.removed)
		}
		r = &router{outer: netip.MustParseAddr("20.0.0.9"), refuses: func(uint16) bool { return true }}
		m, _ = mapper(p, r)
		end = running(t, m)
		if n, _ := r.counts(); n != 1+mapOthers || m.Status().Err == nil {
			t.Errorf("a router that refuses all was asked %d times, %v", n, m.Status().Err)
		}
		end()
		if len(r.removed) != 0 {
			t.Errorf("what others have was taken back: %v", r.removed)
		}
	})
}

// Where there is no router one is looked for later and later, at once when the
// network has changed; an outer address that is none is none.
func TestPortMappingIsSought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := sockettest.Listen(t, "eth0 192.168.1.2/24")
		m, changes := mapper(p, nil)
		var n atomic.Int32
		find := m.find
		m.find = func(ctx context.Context, local, router netip.Addr) (gateway, error) {
			n.Add(1)
			return find(ctx, local, router)
		}
		end := running(t, m)
		for _, want := range []struct {
			after time.Duration
			n     int32
		}{{0, 1}, {59 * time.Second, 1}, {2 * time.Second, 2}, {2 * time.Minute, 3}, {4 * time.Minute, 4}} {
			sleep(want.after)
			if n.Load() != want.n {
				t.Errorf("%v later: looked for %d times, want %d", want.after, n.Load(), want.n)
			}
		}
		m.NetworkChanged()
		synctest.Wait()
		if n.Load() != 5 {
			t.Errorf("after a change: %d times", n.Load())
		}
		sleep(61 * time.Second)
		if n.Load() != 6 {
			t.Errorf("and a minute later: %d times", n.Load())
		}
		if s := m.Status(); !errors.Is(s.Err, errNoRouter) || s.Address.IsValid() || changes.Load() != 0 {
			t.Errorf("%+v, %d changes", s, changes.Load())
		}
		end()
		for _, outer := range []string{"0.0.0.0", "127.0.0.1"} {
			m, _ = mapper(p, &router{outer: netip.MustParseAddr(outer)})
			end = running(t, m)
			if s := m.Status(); s.Err == nil || s.Address.IsValid() {
				t.Errorf("outer address %s: %+v", outer, s)
			}
			end()
		}
		m, _ = mapper(p, &router{failing: errors.New("broken")})
		end = running(t, m)
		if s := m.Status(); s.Err == nil || s.Address.IsValid() {
			t.Errorf("a router that does not know its address: %+v", s)
		}
		end()
	})
}

// When the local address goes the mapping is given back.
func TestPortMappingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, nw := sockettest.Listen(t, "eth0 192.168.1.2/24")
		r := &router{outer: netip.MustParseAddr("20.0.0.9"), granted: time.Hour}
		m, _ := mapper(p, r)
		end := running(t, m)
		nw.Change("eth1 192.168.7.2/24")
		for time.Sleep(time.Second); p.Conns()[0].LocalAddr().Addr() != netip.MustParseAddr("192.168.7.2"); {
			time.Sleep(time.Second)
		}
		m.NetworkChanged()
		synctest.Wait()
		if s := m.Status(); s.Address.IsValid() || !errors.Is(s.Err, errMapMoved) {
			t.Errorf("%+v", s)
		}
		sleep(mapRetry)
		if at, ok := m.Of(p.Conns()[0]); !ok || at.String() != "20.0.0.9:4000" {
			t.Errorf("the new address is mapped to %v, %v", at, ok)
		}
		if !slices.Equal(r.removed, []uint16{4000}) {
			t.Errorf("taken back %v", r.removed)
		}
		end()
	})
}

// Which local addresses need a mapping.
func TestUplink(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		links string
		want  error
	}{{"eth0 20.0.0.1/24", errNotPrivate}, {"lo 127.0.0.1/8", errNoRouter}, {"eth0 2a00::1/64", errNoRouter}} {
		p, _ := sockettest.Listen(t, tt.links)
		m := NewPortMapper(p, slog.New(slog.DiscardHandler), func() {})
		if _, _, err := m.uplink(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.links, err, tt.want)
		}
	}
}
