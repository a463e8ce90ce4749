package mesh

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/overlay/p2p"
)

// arrive opens n connections from an address and returns those that were let.
func arrive(t *testing.T, l *limits, from string, n int) (in []network.ConnManagementScope) {
	t.Helper()
	for i := range n {
		s, err := l.OpenConnection(network.DirInbound, false, p2p.QUIC(netip.AddrPortFrom(netip.MustParseAddr(from), uint16(i+1))))
		if err == nil {
			in = append(in, s)
		}
	}
	return in
}

func done(in []network.ConnManagementScope, member bool) {
	for _, s := range in {
		if member {
			s.(*strangerScope).admitted(true)
		}
		s.Done()
		s.Done() // who closes twice is counted once
	}
}

func fewStrangers(t *testing.T) *limits {
	t.Helper()
	l, err := newLimits()
	if err != nil {
		t.Fatal(err)
	}
	l.per = allowance{atOnce: 8, burst: 12, every: time.Second, verify: 4}
	l.most = 30
	return l
}

// TestStrangersByAddress: what an address may have of strangers, loopback as
// any other, and that members and whom we dial are none.
func TestStrangersByAddress(t *testing.T) {
	for name, from := range map[string][3]string{ // an address, one that counts as the same, another
		"IPv4":     {"20.0.0.2", "20.0.0.2", "20.0.0.3"},
		"IPv6":     {"2a00:1::2", "2a00:1:0:ff::2", "2a00:2::2"},
		"loopback": {"127.0.0.1", "127.0.0.1", "127.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := fewStrangers(t)
				defer l.Close()
				members := arrive(t, l, from[0], 8)
				if len(members) != 8 {
					t.Fatalf("%d of 8 let in", len(members))
				}
				if n := len(arrive(t, l, from[1], 1)); n != 0 {
					t.Error("a ninth at once")
				}
				for _, s := range members {
					s.(*strangerScope).admitted(true)
				}
				for range 10 { // an office comes, and is of members
					more := arrive(t, l, from[0], 8)
					if len(more) != 8 {
						t.Fatalf("%d of 8 let in beside members", len(more))
					}
					done(more, true)
				}
				done(arrive(t, l, from[0], 8), false)
				if n := len(arrive(t, l, from[1], 8)); n != 4 {
					t.Errorf("%d more, of a burst of 12", n)
				}
				if n := len(arrive(t, l, from[2], 8)); n != 8 {
					t.Errorf("%d of 8 of another address", n)
				}
				for range 20 {
					if _, err := l.OpenConnection(network.DirOutbound, false, p2p.QUIC(netip.AddrPortFrom(netip.MustParseAddr(from[0]), 9))); err != nil {
						t.Fatalf("dialling: %v", err)
					}
				}
				time.Sleep(2 * time.Second)
				if n := len(arrive(t, l, from[0], 8)); n != 2 {
					t.Errorf("%d, two seconds later", n)
				}
			})
		})
	}
}

// TestStrangersAllTogether: many addresses have a limit too, and so has a
// network of IPv6; what is remembered of them is forgotten.
func TestStrangersAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fewStrangers(t)
		defer l.Close()
		var in []network.ConnManagementScope
		for i := range 8 {
			in = append(in, arrive(t, l, fmt.Sprintf("20.0.0.%d", i+2), 5)...)
		}
		if len(in) != l.most {
			t.Errorf("%d at once, of %d", len(in), l.most)
		}
		done(in, false)
		in = nil
		for i := range 8 {
			in = append(in, arrive(t, l, fmt.Sprintf("2a00:1:0:%x00::2", i+1), 5)...)
		}
		if len(in) != 16 {
			t.Errorf("%d from one /48", len(in))
		}
		done(in, true)
		time.Sleep(time.Minute)
		done(arrive(t, l, "20.0.0.99", 1), true)
		if l.mu.Lock(); len(l.nets) != 1 || l.now != 0 {
			t.Errorf("%d networks are remembered, %d strangers counted", len(l.nets), l.now)
		}
		l.mu.Unlock()
	})
}

// TestAddressVerified: an address from which much comes has to show that it is
// no forged one, and so has every one while there are many strangers.
func TestAddressVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fewStrangers(t)
		defer l.Close()
		ask := func(a string) bool {
			return l.VerifySourceAddress(net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(a), 1)))
		}
		in := arrive(t, l, "20.0.0.2", 3)
		if ask("20.0.0.2") {
			t.Error("asked although little comes from there")
		}
		in = append(in, arrive(t, l, "20.0.0.2", 1)...)
		if !ask("20.0.0.2") || ask("20.0.0.3") {
			t.Error("with four at once")
		}
		done(in, false)
		if !ask("20.0.0.2") {
			t.Error("with four just gone")
		}
		if time.Sleep(2 * time.Second); ask("20.0.0.2") {
			t.Error("with four gone a while ago")
		}
		for i := range 5 {
			arrive(t, l, fmt.Sprintf("20.0.1.%d", i), 3)
		}
		if !ask("20.0.0.3") {
			t.Error("with many strangers, all together")
		}
	})
}

// TestStrangersByCarrier: whoever opens many carriers has no more for it than by UDP.
func TestStrangersByCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fewStrangers(t)
		defer l.Close()
		l.origin = func(netip.Addr) netip.Addr { return netip.MustParseAddr("20.0.0.2") }
		in := arrive(t, l, "20.0.0.2", 4)
		for i := range 10 {
			in = append(in, arrive(t, l, fmt.Sprintf("100::8000:0:0:%x", i+1), 1)...)
		}
		if len(in) != 8 {
			t.Errorf("%d at once from one address and its carriers", len(in))
		}
		l.origin = func(a netip.Addr) netip.Addr { return a } // they are gone by then
		done(in, true)
		if l.strangers() != 0 {
			t.Errorf("%d are still counted", l.strangers())
		}
		for i := range 10 {
			in = arrive(t, l, fmt.Sprintf("100::8000:0:0:%x", i+1), 1)
			if len(in) != 1 {
				t.Error("carriers that a proxy brings are counted as one")
			}
			done(in, false)
		}
	})
}

// TestMembersConnectWithoutEnd is the attack: a member connects and leaves as fast as it
// can. It does so as a stranger of its address then; what it holds is not counted as one.
func TestMembersConnectWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fewStrangers(t)
		defer l.Close()
		got := 0
		var held []network.ConnManagementScope
		for range 100 {
			for _, s := range arrive(t, l, "20.0.0.2", 1) {
				s.(*strangerScope).admitted(false)
				held = append(held, s)
				got++
			}
		}
		if got != l.per.burst || l.strangers() != 0 {
			t.Errorf("%d connections of a burst of %d, of which %d are counted", got, l.per.burst, l.strangers())
		}
		time.Sleep(3 * l.per.every)
		if n := len(arrive(t, l, "20.0.0.2", 8)); n != 3 {
			t.Errorf("%d three moments later", n)
		}
		done(held, false)
	})
}
