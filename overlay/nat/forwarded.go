package nat

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// lookUpAgain is how often names of forwarded ports are looked up, as dynamic DNS
	// changes; lookUpSoon is the same after one could not be.
	lookUpAgain = 5 * time.Minute
	lookUpSoon  = 20 * time.Second
	// forwardedMax bounds the addresses of one name.
	forwardedMax = 4
)

// forwarded is from where the user has had the port forwarded. It is safe for
// concurrent use.
type forwarded struct {
	lookup  func(context.Context, string) ([]netip.Addr, error)
	changed func()
	places  []place

	mu    sync.Mutex         // guards found
	found [][]netip.AddrPort // of each place, the newest that is known
}

type place struct {
	host string
	port uint16
}

// newForwarded knows those places that are IP addresses at once. What is no place is
// left out: Config was checked before.
func newForwarded(list []string, lookup func(context.Context, string) ([]netip.Addr, error), changed func()) *forwarded {
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	f := &forwarded{lookup: lookup, changed: changed}
	for _, s := range list {
		host, text, err := net.SplitHostPort(s)
		port, err2 := strconv.ParseUint(text, 10, 16)
		if err != nil || err2 != nil {
			continue
		}
		var at []netip.AddrPort
		if ip, err := netip.ParseAddr(host); err == nil {
			at = []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(port))}
			host = ""
		}
		f.places = append(f.places, place{host, uint16(port)})
		f.found = append(f.found, at)
	}
	return f
}

// all are the addresses that are known now.
func (f *forwarded) all() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.found...)
}

// run looks names up until ctx ends, if there are any. One that cannot be looked up stays
// where it was.
func (f *forwarded) run(ctx context.Context) {
	for slices.ContainsFunc(f.places, func(p place) bool { return p.host != "" }) {
		wait := lookUpAgain
		news := false
		for i, p := range f.places {
			if p.host == "" {
				continue
			}
			ips, err := f.lookup(ctx, p.host)
			if err != nil || len(ips) == 0 {
				wait = lookUpSoon
				continue
			}
			news = f.set(i, ips, p.port) || news
		}
		if news && ctx.Err() == nil {
			f.changed()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// set notes where a place is, and says whether that is news.
func (f *forwarded) set(i int, ips []netip.Addr, port uint16) bool {
	var at []netip.AddrPort
	for _, ip := range ips[:min(len(ips), forwardedMax)] {
		at = append(at, netip.AddrPortFrom(ip.Unmap().WithZone(""), port))
	}
	slices.SortFunc(at, netip.AddrPort.Compare)
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(f.found[i], at) {
		return false
	}
	f.found[i] = at
	return true
}
