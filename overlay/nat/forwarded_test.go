package nat

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Names of forwarded ports are looked up at once and then again and again; a failure takes
// nothing away, and is made good soon.
func TestForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer []netip.Addr
		var failure error
		asked, news := 0, 0
		lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "vpn.example.org" {
				t.Errorf("%q was looked up", host)
			}
			asked++
			return answer, failure
		}
		f := newForwarded([]string{"192.0.2.1:443", "vpn.example.org:4000", "nonsense"}, lookup, func() { news++ })
		fixed := netip.MustParseAddrPort("192.0.2.1:443")
		if got := f.all(); !slices.Equal(got, []netip.AddrPort{fixed}) {
			t.Errorf("at first %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		failure = errors.New("no DNS here")
		go func() { defer close(done); f.run(ctx) }()
		synctest.Wait()
		if asked != 1 || news != 0 || len(f.all()) != 1 {
			t.Errorf("without DNS: asked %d times, %d news, %v", asked, news, f.all())
		}
		answer, failure = []netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("203.0.113.7")}, nil
		time.Sleep(lookUpSoon + time.Second)
		want := []netip.AddrPort{fixed, netip.MustParseAddrPort("203.0.113.7:4000"), netip.MustParseAddrPort("[2001:db8::7]:4000")}
		if got := f.all(); asked != 2 || news != 1 || !slices.Equal(got, want) {
			t.Errorf("with DNS: asked %d times, %d news, %v", asked, news, got)
		}
		slices.Reverse(answer) // the same
		time.Sleep(lookUpAgain)
		failure = errors.New("gone again")
		time.Sleep(lookUpAgain)
		if got := f.all(); asked < 4 || news != 1 || !slices.Equal(got, want) {
			t.Errorf("later: asked %d times, %d news, %v", asked, news, got)
		}
		cancel()
		<-done
	})
}

// Who has none is not kept.
func TestForwardedNone(t *testing.T) {
	newForwarded([]string{"192.0.2.1:443"}, nil, nil).run(t.Context())
}
