package carrier

import (
	"errors"
	"sync"
	"time"
)

const (
	openMax     = 64
	attemptsMax = 16
	attemptsFor = time.Minute
	hostsMax    = 1024
)

var (
	errAttempts = errors.New("too many attempts there have failed in the last minute")
	errTooMany  = errors.New("carrier: too many are open")
)

// attempts bound what a host sees that serves no carrier, whoever has named it, under
// however many ports, paths and names. The zero one has seen none. It is safe for
// concurrent use.
type attempts struct {
	mu sync.Mutex // guards to
	to map[string][]time.Time
}

// take notes an attempt; false: it is one too many.
func (a *attempts) take(host string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.to == nil {
		a.to = map[string][]time.Time{}
	}
	if _, ok := a.to[host]; !ok && len(a.to) >= hostsMax {
		for h, at := range a.to {
			if now.Sub(at[len(at)-1]) >= attemptsFor {
				delete(a.to, h)
			}
		}
		if len(a.to) >= hostsMax {
			return false
		}
	}
	at := a.to[host]
	for len(at) > 0 && now.Sub(at[0]) >= attemptsFor {
		at = at[1:]
	}
	if len(at) >= attemptsMax {
		a.to[host] = at
		return false
	}
	a.to[host] = append(at, now)
	return true
}

// worked forgets the attempts to a host: a carrier is served there.
func (a *attempts) worked(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.to, host)
}
