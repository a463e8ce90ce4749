package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/nat64"
)

var otherPrefix = netip.MustParsePrefix("2a00:64::/96")

func TestAnnounced(t *testing.T) {
	t.Parallel()
	var s announced
	now := time.Now()
	hear := func(link int, prefix netip.Prefix, lifetime time.Duration, want bool) {
		t.Helper()
		if news := s.hear(link, nat64.Announcement{Prefix: prefix, Lifetime: lifetime}, now); news != want {
			t.Errorf("%v on %d for %v: news %v", prefix, link, lifetime, news)
		}
	}
	if !s.ends().IsZero() || s.expire(now) {
		t.Error("it begins with something")
	}
	hear(1, testPrefix, 0, false)
	hear(1, testPrefix, time.Minute, true)
	hear(1, testPrefix, time.Hour, false)      // longer
	hear(1, testPrefix, 10*time.Minute, true)  // sooner: who waits for its end must know
	hear(1, otherPrefix, 20*time.Minute, true) // the link's second
	hear(2, testPrefix, 30*time.Minute, true)
	if got := s.all(); len(got) != 3 || got[0].prefix != testPrefix || got[1].prefix != otherPrefix || got[2].link != 2 {
		t.Errorf("%+v", got)
	}
	if d := s.ends().Sub(now); d != 10*time.Minute {
		t.Errorf("the first ends after %v", d)
	}
	if s.expire(now.Add(10*time.Minute - 1)) {
		t.Error("one ends too soon")
	}
	if !s.expire(now.Add(10*time.Minute)) || len(s.all()) != 2 {
		t.Errorf("%+v", s.all())
	}
	hear(1, otherPrefix, 0, true)
	hear(1, otherPrefix, 0, false)
	s.forget(1)
	if got := s.all(); len(got) != 1 || got[0].link != 2 {
		t.Errorf("%+v", got)
	}
	s.forget(2)
	for i := range 100 {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: 0, 3: byte(i)}), 96)
		hear(1, p, time.Hour, i < announcedOnLink)
	}
	for i := range 100 {
		hear(10+i, testPrefix, time.Hour, i < announcedMax-announcedOnLink)
	}
	if n := len(s.all()); n != announcedMax {
		t.Errorf("%d are kept", n)
	}
	if s.clear(); len(s.all()) != 0 {
		t.Error("something is left")
	}
}

// A router's prefix comes before the resolver's, on the link by which the host sends to it,
// and not if it takes this host's own network in.
func TestRouterBeforeResolver(t *testing.T) {
	t.Parallel()
	wifi, cable := netip.MustParseAddr("2a00:9::2"), netip.MustParseAddr("2a00:7::2")
	out := wifi
	p := newPort(Config{
		NAT64: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
		route: func(to netip.Addr) netip.Addr {
			if to.Is4() {
				return netip.Addr{}
			}
			return out
		},
	})
	conn := func(a netip.Addr, link int) *Conn {
		c := &Conn{port: p, net: netip.PrefixFrom(a, 64).Masked(), local: netip.AddrPortFrom(a, 4000)}
		c.iface.Store(&Interface{Net: c.net, MTU: 1500, Index: link})
		return c
	}
	conns := []*Conn{conn(wifi, 3), conn(cable, 4)}
	type heard struct {
		link   int
		prefix string
	}
	for _, c := range []struct {
		what     string
		heard    []heard
		resolver string
		out      netip.Addr
		want, by string
	}{
		{"nobody", nil, "", wifi, "", ""},
		{"the resolver", nil, "64:ff9b::/96", wifi, "64:ff9b::/96", "resolver"},
		{"the router", []heard{{3, "2a00:64::/96"}}, "", wifi, "2a00:64::/96", "router"},
		{"both", []heard{{3, "2a00:64::/96"}}, "64:ff9b::/96", wifi, "2a00:64::/96", "router"},
		{"a router elsewhere", []heard{{4, "2a00:64::/96"}}, "64:ff9b::/96", wifi, "64:ff9b::/96", "resolver"},
		{"a router elsewhere alone", []heard{{4, "2a00:64::/96"}}, "", wifi, "", ""},
		{"the way out is another", []heard{{3, "2a00:65::/96"}, {4, "2a00:64::/96"}}, "64:ff9b::/96", cable, "2a00:64::/96", "router"},
		{"two: the first", []heard{{3, "2a00:64::/96"}, {3, "64:ff9b::/96"}}, "", wifi, "2a00:64::/96", "router"},
		{"this host's network", []heard{{3, "2a00:9::/96"}}, "64:ff9b::/96", wifi, "64:ff9b::/96", "resolver"},
		{"around this host's network, then another", []heard{{3, "2a00:9::/32"}, {3, "2a00:64::/96"}}, "", wifi, "2a00:64::/96", "router"},
	} {
		p.announced.clear()
		out = c.out
		for _, h := range c.heard {
			p.announced.hear(h.link, nat64.Announcement{Prefix: netip.MustParsePrefix(h.prefix), Lifetime: time.Hour}, time.Now())
		}
		var resolver netip.Prefix
		if c.resolver != "" {
			resolver = netip.MustParsePrefix(c.resolver)
		}
		p.prefixes.put(networkOf(conns), resolver)
		_, x := p.translate(conns[:2:2])
		if x == nil {
			if c.want != "" {
				t.Errorf("%s: no prefix, want %s", c.what, c.want)
			}
			continue
		}
		prefix, under, by := p.choosePrefix(conns)
		if prefix.String() != c.want || by != c.by || under.local.Addr() != c.out || x.prefix != prefix || x.under != under {
			t.Errorf("%s: %v by %s from %v; want %s by %s", c.what, prefix, by, under.local, c.want, c.by)
		}
	}
}

// toldNotifier is a kernel that a test plays: what it is told is done when somebody waits.
type toldNotifier struct {
	news chan func()
	done chan struct{}
}

func (n *toldNotifier) wait(deadline time.Time) error {
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case f := <-n.news:
		f()
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-n.done:
		return net.ErrClosed
	}
}

func (n *toldNotifier) close() error { close(n.done); return nil }

// A prefix that a router announces is used at once, for its lifetime, and no longer than
// until it is withdrawn or its link is down; then the resolver's is, if it has told one.
func TestAnnouncedLifetime(t *testing.T) {
	t.Parallel()
	const link = 3
	synctest.Test(t, func(t *testing.T) {
		var resolver atomic.Pointer[netip.Addr]
		var changes atomic.Int32
		p := newPort(Config{
			route: noRoute4, OnChange: func() { changes.Add(1) },
			NAT64: func(context.Context, string) ([]netip.Addr, error) {
				if a := resolver.Load(); a != nil {
					return []netip.Addr{*a}, nil
				}
				return nil, &net.DNSError{IsNotFound: true}
			},
			hostAddrs: func() ([]localAddr, error) {
				six := netip.MustParsePrefix("2a00:9::2/64")
				return []localAddr{{six.Addr(), six.Masked(), Interface{Index: link, Net: six.Masked(), MTU: 1500}}}, nil
			},
		})
		p.set.Store(newConnSet(sixOnly(p, newWireLink())))
		n := &toldNotifier{make(chan func()), make(chan struct{})}
		p.wg.Go(func() { p.follow(n) })
		p.wg.Go(p.watchPrefix)
		hear := func(prefix netip.Prefix, lifetime time.Duration) {
			n.news <- func() { p.announced.hear(link, nat64.Announcement{Prefix: prefix, Lifetime: lifetime}, time.Now()) }
		}
		// after a time the prefix is this one, and OnChange was called so often.
		after := func(d time.Duration, what string, want netip.Prefix, calls int32) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got, n := p.NAT64(), changes.Swap(0); got != want || n != calls {
				t.Errorf("%s: the prefix is %v after %d changes, want %v, %d", what, got, n, want, calls)
			}
		}
		none := netip.Prefix{}
		after(time.Minute, "nobody has told one", none, 0)
		hear(testPrefix, 80*time.Second)
		after(settle, "a router has", testPrefix, 1)
		after(80*time.Second-settle-time.Nanosecond, "its lifetime has not ended", testPrefix, 0)
		after(time.Nanosecond, "its lifetime has ended", none, 1)

		hear(testPrefix, 80*time.Second)
		after(79*time.Second, "again", testPrefix, 1)
		hear(testPrefix, 1600*time.Second)
		after(1599*time.Second, "it was heard once more", testPrefix, 0)
		after(time.Second, "not any more", none, 1)

		hear(testPrefix, time.Hour)
		after(time.Second, "again", testPrefix, 1)
		hear(testPrefix, 8*time.Second)
		after(9*time.Second, "its lifetime was made shorter", none, 1)

		hear(testPrefix, time.Hour)
		after(time.Second, "again", testPrefix, 1)
		hear(testPrefix, 0)
		after(time.Second, "it is withdrawn", none, 1)

		hear(testPrefix, time.Hour)
		after(time.Second, "again", testPrefix, 1)
		n.news <- func() { p.announced.forget(link) }
		after(time.Second, "its link is down", none, 1)

		a := netip.MustParseAddr("2a00:64::c000:aa")
		resolver.Store(&a)
		after(prefixRetryMax, "the resolver has one", otherPrefix, 1)
		hear(testPrefix, time.Hour)
		after(time.Second, "the router, too", testPrefix, 1)
		after(time.Hour, "its lifetime has ended, the resolver's is left", otherPrefix, 1)
		hear(otherPrefix, time.Hour)
		after(2*time.Hour, "a router with the same", otherPrefix, 0)

		hear(testPrefix, time.Hour)
		after(time.Second, "the router's", testPrefix, 1)
		p.end()
		close(p.done)
		_ = n.close()
		p.wg.Wait()
	})
}

// Where the kernel tells no more, a prefix could be withdrawn and nobody know.
func TestAnnouncedByNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPort(Config{hostAddrs: func() ([]localAddr, error) { return nil, errors.New("none") }})
		p.announced.hear(3, nat64.Announcement{Prefix: testPrefix, Lifetime: time.Hour}, time.Now())
		n := &toldNotifier{make(chan func()), make(chan struct{})}
		p.wg.Go(func() { p.follow(n) })
		_ = n.close()
		synctest.Wait()
		if got := p.announced.all(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		p.end()
		close(p.done)
		p.wg.Wait()
	})
}
