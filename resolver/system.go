package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// systemMaxAge is how long the host's configuration is believed: as long as
// Go's own resolver does.
const systemMaxAge = 5 * time.Second

// System returns a Config.Upstream of the DNS servers that the host is
// configured to ask, read again when they are older than 5 s.
func System() func() []netip.AddrPort {
	var (
		mu   sync.Mutex
		last []netip.AddrPort
		read time.Time
	)
	return func() []netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		if read.IsZero() || time.Since(read) > systemMaxAge {
			last, read = systemServers(), time.Now()
		}
		return last
	}
}

// SystemSearch returns a Config.Search of the search domains that Go's own
// resolver appends to names on this host. Both read the host's configuration
// at moments of their own: what it said before is believed until nobody does.
func SystemSearch() func() []string { return searchOf(systemSearch) }

func searchOf(read func() []string) func() []string {
	var (
		mu          sync.Mutex
		now, before []string
		changed     time.Time
	)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		if got := read(); !slices.Equal(got, now) {
			now, before, changed = got, now, time.Now()
		}
		if time.Since(changed) > 2*systemMaxAge {
			return now
		}
		return slices.Concat(now, before)
	}
}
