package nat

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Names of forwarded ports are looked up at once and then again and again; a failure takes
// nothing away, and is made good soon.
func TestForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // of answer and failure
		var answer []netip.Addr
		var failure error
		say := func(ips []netip.Addr, err error) {
			mu.Lock()
			defer mu.Unlock()
			answer, failure = ips, err
		}
		var asked, news atomic.Int32
		lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "vpn.example.org" {
				t.Errorf("%q was looked up", host)
			}
			asked.Add(1)
			mu.Lock()
			defer mu.Unlock()
			return answer, failure
		}
		f := newForwarded([]string{"192.0.2.1:443", "vpn.example.org:4000", "nonsense"}, lookup, func() { news.Add(1) })
		fixed := netip.MustParseAddrPort("192.0.2.1:443")
		if got := f.all(); !slices.Equal(got, []netip.AddrPort{fixed}) {
			t.Errorf("at first %v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		say(nil, errors.New("no DNS here"))
		go func() { defer close(done); f.run(ctx) }()
		synctest.Wait()
		if asked.Load() != 1 || news.Load() != 0 || len(f.all()) != 1 {
			t.Errorf("without DNS: asked %d times, %d news, %v", asked.Load(), news.Load(), f.all())
		}
		one, other := netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("203.0.113.7")
		say([]netip.Addr{one, other}, nil)
		time.Sleep(lookUpSoon + time.Second)
		synctest.Wait()
		want := []netip.AddrPort{fixed, netip.MustParseAddrPort("203.0.113.7:4000"), netip.MustParseAddrPort("[2001:db8::7]:4000")}
		if got := f.all(); asked.Load() != 2 || news.Load() != 1 || !slices.Equal(got, want) {
			t.Errorf("with DNS: asked %d times, %d news, %v", asked.Load(), news.Load(), got)
		}
		say([]netip.Addr{other, one}, nil) // the same
		time.Sleep(lookUpAgain)
		synctest.Wait()
		say(nil, errors.New("gone again"))
		time.Sleep(lookUpAgain)
		synctest.Wait()
		if got := f.all(); asked.Load() < 4 || news.Load() != 1 || !slices.Equal(got, want) {
			t.Errorf("later: asked %d times, %d news, %v", asked.Load(), news.Load(), got)
		}
		cancel()
		<-done
	})
}

// Who has none is not kept.
func TestForwardedNone(t *testing.T) {
	newForwarded([]string{"192.0.2.1:443"}, nil, nil).run(t.Context())
}
