package tcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

func servers(at ...string) func(*Config) {
	return func(c *Config) {
		c.Servers = func() (out []netip.AddrPort) {
			for _, a := range at {
				out = append(out, netip.MustParseAddrPort(a))
			}
			return out
		}
	}
}

func shown(s *Session) string {
	var out []string
	for _, c := range s.Candidates() {
		out = append(out, c.Type.String()+"/"+c.Addr.String()+"/"+c.TCP.String())
	}
	return strings.Join(out, " ")
}

// Behind a NAT a session has a port of its own, and shows how servers see it.
func TestMappedCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.seen[netip.MustParseAddr("192.168.1.2")] = netip.MustParseAddr("20.0.9.9")
		m.port(t, nil, "20.0.0.1")
		s := session(t, m.port(t, servers("20.0.0.1:4000"), "192.168.1.2"))
		h, r := wire.Host.String(), wire.ServerReflexive.String()
		passive, open := wire.Passive.String(), wire.SimOpen.String()
		at := s.bound[0].Port()
		own := netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), at).String()
		mapped := netip.AddrPortFrom(netip.MustParseAddr("20.0.9.9"), at).String()
		want := strings.Join([]string{
			h + "/192.168.1.2:4000/" + passive, r + "/" + mapped + "/" + open, r + "/" + mapped + "/" + passive, h + "/" + own + "/" + open,
		}, " ")
		if got := shown(s); got != want {
			t.Errorf("\n%s, want\n%s", got, want)
		}
		if m.dials("20.0.0.1:4000") != 1 {
			t.Errorf("the server was asked %d times", m.dials("20.0.0.1:4000"))
		}
	})
}

// Who has no private address asks nobody; of many servers two are asked, and
// silent ones hold an offer up for no longer than their time.
func TestServersAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.port(t, nil, "20.0.0.1")
		start := time.Now()
		s := session(t, m.port(t, servers("20.0.0.1:4000"), "20.0.0.5"))
		if m.dials("20.0.0.1:4000") != 0 || len(s.bound) != 0 || time.Since(start) != 0 {
			t.Errorf("a public host: asked %d times, in %v", m.dials("20.0.0.1:4000"), time.Since(start))
		}
		m.delay[netip.MustParseAddrPort("20.0.0.2:1")] = time.Minute
		m.delay[netip.MustParseAddrPort("20.0.0.3:1")] = time.Minute
		s = session(t, m.port(t, servers("20.0.0.2:1", "20.0.0.3:1", "20.0.0.1:4000"), "192.168.1.2"))
		if took := time.Since(start); took != gatherFor {
			t.Errorf("silent servers have held it up for %v", took)
		}
		if m.dials("20.0.0.1:4000") != 0 || strings.Contains(shown(s), wire.ServerReflexive.String()) {
			t.Errorf("shown %s", shown(s))
		}
		time.Sleep(time.Minute) // until the dials have ended
	})
}

// Two hosts, each behind a NAT of its own, connect at what servers see of them.
func TestBehindNATs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.seen[netip.MustParseAddr("192.168.1.2")] = netip.MustParseAddr("20.0.9.1")
		m.seen[netip.MustParseAddr("10.0.0.2")] = netip.MustParseAddr("20.0.9.2")
		m.port(t, nil, "20.0.0.1")
		a := session(t, m.port(t, servers("20.0.0.1:4000"), "192.168.1.2"))
		b := session(t, m.port(t, servers("20.0.0.1:4000"), "10.0.0.2"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		// The private ones lead nowhere from there.
		outside := func(s *Session) []wire.Candidate {
			return slices.DeleteFunc(slices.Clone(s.Candidates()), func(c wire.Candidate) bool { return c.Type == wire.Host })
		}
		x, y := start(ctx, a, true, b, outside(b)), start(ctx, b, false, a, outside(a))
		r, q := <-x, <-y
		if r.err != nil || q.err != nil {
			t.Fatalf("%v; %v", r.err, q.err)
		}
		go func() { _, _ = r.c.Write([]byte("bare")) }()
		got := make([]byte, 4)
		if n, err := q.c.Read(got); err != nil || string(got[:n]) != "bare" {
			t.Errorf("%q, %v", got[:n], err)
		}
		_, _ = r.c.Close(), q.c.Close()
	})
}

// What an offer takes of many addresses: mapped ones, then the best hosts.
func TestBestCandidates(t *testing.T) {
	t.Parallel()
	var hosts []netip.AddrPort
	var all []wire.Candidate
	for i := range 2 * wire.MaxCandidates {
		h := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000)
		hosts = append(hosts, h)
		all = append(all, wire.Candidate{Type: wire.Host, TCP: wire.Passive, Addr: h})
	}
	slices.Reverse(all)
	mapped := wire.Candidate{Type: wire.ServerReflexive, TCP: wire.Passive, Addr: netip.MustParseAddrPort("20.0.0.1:1")}
	got := best(append(all, mapped), hosts)
	if len(got) != wire.MaxCandidates || got[0] != mapped || got[1].Addr != hosts[0] || got[2].Addr != hosts[1] {
		t.Errorf("%d of %d, first %v", len(got), len(all)+1, got[:3])
	}
	if few := best(all[:3], hosts); !slices.Equal(few, all[:3]) {
		t.Errorf("%v of three", few)
	}
}

// The port follows the addresses; without one it fails, closed it is closed.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		addrs := []netip.Addr{netip.MustParseAddr("20.0.0.1")}
		p, err := Listen(Config{Net: memHost{m: m}, Addrs: func() []netip.Addr { return addrs }, Port: 4000})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if s := session(t, p); shown(s) != wire.Host.String()+"/20.0.0.1:4000/"+wire.Passive.String() {
			t.Errorf("shown %s", shown(s))
		}
		// Another one has the port's number on the new address.
		taken, err := memHost{m: m}.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(20, 0, 0, 2).To4(), Port: 4000})
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		addrs = []netip.Addr{netip.MustParseAddr("20.0.0.2"), netip.MustParseAddr("20.0.0.3")}
		s := session(t, p)
		if c := s.Candidates(); len(c) != 2 || c[0].Addr.Port() == 4000 || c[1].Addr.String() != "20.0.0.3:4000" {
			t.Errorf("shown %s", shown(s))
		}
		if m.listeners[netip.MustParseAddrPort("20.0.0.1:4000")] != nil {
			t.Error("what is gone is listened on")
		}
		addrs = nil
		if err := p.Refresh(); !errors.Is(err, errNoAddress) {
			t.Errorf("no address: %v", err)
		}
		if _, err := p.NewSession(t.Context()); err == nil {
			t.Error("a session without an address")
		}
		_ = p.Close()
		if err := p.Refresh(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := p.NewSession(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := Listen(Config{Net: memHost{m: m}, Addrs: func() []netip.Addr { return nil }}); !errors.Is(err, errNoAddress) {
			t.Errorf("nothing to listen on: %v", err)
		}
	})
}

// Who connects and says nothing is closed after five seconds; who asks for its
// address may keep the connection for a quarter of a minute; and there are bounds.
func TestConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		p := m.port(t, nil, "20.0.0.1")
		from := byte(9)
		dial := func() net.Conn {
			c, err := memHost{m: m}.DialTCP("tcp4", &net.TCPAddr{IP: net.IPv4(20, 0, 0, from).To4()}, &net.TCPAddr{IP: net.IPv4(20, 0, 0, 1).To4(), Port: 4000})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		closedAfter := func(c net.Conn) time.Duration {
			start := time.Now()
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("it says something")
			}
			return time.Since(start)
		}
		if after := closedAfter(dial()); after != firstMessage {
			t.Errorf("a silent connection was closed after %v", after)
		}
		c := dial()
		q, id := stun.Question()
		if err := writeMessage(c, q); err != nil {
			t.Fatal(err)
		}
		r, err := readMessage(c)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := r.Mapped(); !ok || r.ID() != id || a.Addr().String() != "20.0.0.9" {
			t.Errorf("mapped to %v, %v", a, ok)
		}
		if after := closedAfter(c); after != mappingLife {
			t.Errorf("a mapping was kept for %v", after)
		}
		var silent []net.Conn
		for from = 9; from < 9+oneOf; from++ {
			for range maxNameless / oneOf {
				silent = append(silent, dial())
			}
			synctest.Wait()
			if after := closedAfter(dial()); after != 0 {
				t.Errorf("one more than an address may have was closed after %v", after)
			}
		}
		if after := closedAfter(dial()); after != 0 {
			t.Errorf("one more than the bound was closed after %v", after)
		}
		_ = p.Close() // ends all
		for _, c := range silent {
			if after := closedAfter(c); after != 0 {
				t.Errorf("Close has left a connection for %v", after)
			}
		}
	})
}
