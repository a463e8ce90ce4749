package hearsay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Window is the time that budgets are for.
	Window = time.Minute
	// ToldPackets and ToldBytes may go unanswered to one IP address in a window.
	ToldPackets = 3
	ToldBytes   = 3600
	// GivenPackets and GivenBytes are the same for addresses that the user gave.
	GivenPackets = 30
	GivenBytes   = 36000
	// ProvenLife is how long an address counts as a peer's since it answered.
	ProvenLife = 24 * time.Hour

	placesMax   = 4096
	provenMax   = 16384
	provenPeers = 4 // peers that are remembered for one address
	givenMax    = 4096
	sweepGap    = time.Second
)

// ErrHeld is that something was not sent because too much went unanswered to
// the same IP address, or to what the same teller has told, in the last minute.
var ErrHeld = errors.New("not sent: too much went there unanswered in the last minute")

// ErrNoAddress is that an address can be nobody's.
var ErrNoAddress = errors.New("no address of another host")

// Gate is the gate of one node. It is safe for concurrent use. One lock guards
// it; what goes to peers that have answered does not come by here.
type Gate struct {
	allowed func(netip.AddrPort) bool
	now     func() time.Time
	through func(netip.Addr) netip.Addr // nil: what is sent to an address goes there

	held atomic.Uint64

	mu      sync.Mutex // guards the rest
	proven  map[netip.AddrPort][]proof
	given   map[netip.AddrPort]time.Time // until when
	told    map[netip.AddrPort]*told
	tellers map[string]*teller
	places  map[netip.Addr]place
	swept   time.Time
	freed   chan struct{} // closed when something was given back; nil: nobody waits
}

// proof is that a peer answered.
type proof struct {
	peer string
	at   time.Time
}

// New makes a gate. allowed says what can be another host's address at all; now
// is the clock.
func New(allowed func(netip.AddrPort) bool, now func() time.Time) *Gate {
	return &Gate{
		allowed: allowed, now: now,
		proven: map[netip.AddrPort][]proof{}, given: map[netip.AddrPort]time.Time{},
		told: map[netip.AddrPort]*told{}, tellers: map[string]*teller{}, places: map[netip.Addr]place{},
	}
}

// Through tells where what is sent to an IP address really goes: elsewhere by a NAT64,
// whose prefix a resolver has named. It is called before the gate is used.
func (g *Gate) Through(through func(netip.Addr) netip.Addr) { g.through = through }

// real is an address as proven has it: that of who answered, so that what was proven
// where an address means one host proves nothing where it means another.
func (g *Gate) real(at netip.AddrPort) netip.AddrPort {
	if g.through == nil {
		return at
	}
	return netip.AddrPortFrom(g.through(at.Addr()), at.Port())
}

// clean is an address as the maps have it.
func clean(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Allowed says whether an address can be another host's.
func (g *Gate) Allowed(at netip.AddrPort) bool { return g.allowed(clean(at)) }

// Held is how many datagrams were held back.
func (g *Gate) Held() uint64 { return g.held.Load() }

// Given notes addresses that the user named: for a day.
func (g *Gate) Given(addrs ...netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, at := range addrs {
		g.giveLocked(clean(at), now)
	}
}

func (g *Gate) giveLocked(at netip.AddrPort, now time.Time) {
	if _, ok := g.given[at]; !ok && len(g.given) >= givenMax {
		if g.sweepLocked(now); len(g.given) >= givenMax {
			return
		}
	}
	g.given[at] = now.Add(ProvenLife)
}

// Proven notes that a peer has answered at an address with what only it can
// send; "" is a STUN server. What was charged for the address is given back.
func (g *Gate) Proven(peer string, at netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at = clean(at)
	now := g.now()
	real := g.real(at)
	g.proveLocked(peer, real, now)
	if real != at { // elsewhere it is worth a try
		g.giveLocked(at, now)
	}
	p, ok := g.places[at.Addr()]
	if !ok {
		return
	}
	if p = p.fresh(now).answered(at.Port()); len(p) == 0 {
		delete(g.places, at.Addr())
	} else {
		g.places[at.Addr()] = p
	}
	if g.freed != nil {
		close(g.freed)
		g.freed = nil
	}
}

// Recalled notes that a peer answered at an address at a time before this start.
func (g *Gate) Recalled(peer string, at netip.AddrPort, when time.Time) {
	g.mu.Lock()
	now := g.now()
	if when.After(now) {
		when = now
	}
	fresh := now.Sub(when) < ProvenLife
	if fresh {
		g.proveLocked(peer, clean(at), when)
	}
	g.mu.Unlock()
	if !fresh {
		g.Given(at)
	}
}

func (g *Gate) proveLocked(peer string, at netip.AddrPort, when time.Time) {
	all := g.proven[at]
	for i := range all {
		if all[i].peer == peer {
			if when.After(all[i].at) {
				all[i].at = when
			}
			return
		}
	}
	if len(all) == 0 && len(g.proven) >= provenMax {
		g.forgetLocked()
	}
	if len(all) == provenPeers {
		oldest := 0
		for i := range all {
			if all[i].at.Before(all[oldest].at) {
				oldest = i
			}
		}
		all[oldest] = proof{peer, when}
		return
	}
	g.proven[at] = append(all, proof{peer, when})
}

// forgetLocked drops the older half of what is proven.
func (g *Gate) forgetLocked() {
	now := g.now()
	for life := ProvenLife; len(g.proven) > provenMax/2; life /= 2 {
		for at, all := range g.proven {
			newest := all[0].at
			for _, p := range all {
				if p.at.After(newest) {
					newest = p.at
				}
			}
			if now.Sub(newest) >= life {
				delete(g.proven, at)
			}
		}
	}
}

// Knows says whether a peer has answered at an address of late; "" asks whether
// anybody has.
func (g *Gate) Knows(peer string, at netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.knowsLocked(peer, clean(at), g.now())
}

func (g *Gate) knowsLocked(peer string, at netip.AddrPort, now time.Time) bool {
	return slices.ContainsFunc(g.proven[g.real(at)], func(p proof) bool {
		return (peer == "" || p.peer == peer) && now.Sub(p.at) < ProvenLife
	})
}

// givenLocked says whether an address is given, or was proven where it meant another
// host.
func (g *Gate) givenLocked(at netip.AddrPort, now time.Time) bool {
	if until, ok := g.given[at]; ok && now.Before(until) {
		return true
	}
	return g.real(at) != at && slices.ContainsFunc(g.proven[at], func(p proof) bool { return now.Sub(p.at) < ProvenLife })
}

// Pass says whether one datagram of n bytes may go to a peer at an address now,
// and charges it.
func (g *Gate) Pass(peer string, at netip.AddrPort, n int) bool {
	ok, _, _ := g.take(peer, at, 1, n)
	if !ok {
		g.held.Add(1)
	}
	return ok
}

// Begin waits until so many datagrams of bytes together may go to a peer at an
// address, and charges them. The error is ErrNoAddress, or ErrHeld: ctx has ended
// before there was room, or there will be none for whoever told the address.
func (g *Gate) Begin(ctx context.Context, peer string, at netip.AddrPort, packets, bytes int) error {
	if !g.Allowed(at) {
		return ErrNoAddress
	}
	for {
		ok, wait, freed := g.take(peer, at, packets, bytes)
		if ok {
			return nil
		}
		if wait <= 0 {
			g.held.Add(uint64(packets))
			return ErrHeld
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-freed:
		case <-ctx.Done():
			t.Stop()
			g.held.Add(uint64(packets))
			return ErrHeld
		}
		t.Stop()
	}
}

// take charges datagrams if there is room. If not it says how long to wait at
// most, 0: not worth it, and what is closed when there may be room before.
func (g *Gate) take(peer string, at netip.AddrPort, packets, bytes int) (ok bool, wait time.Duration, freed <-chan struct{}) {
	at = clean(at)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if g.knowsLocked(peer, at, now) {
		return true, 0, nil
	}
	if !g.allowed(at) {
		return false, 0, nil
	}
	maxPackets, maxBytes := ToldPackets, ToldBytes
	var by *teller
	if g.givenLocked(at, now) {
		maxPackets, maxBytes = GivenPackets, GivenBytes
	} else if by = g.payerLocked(at, now); by == nil || by.left < float64(packets) {
		return false, 0, nil
	}
	p, known := g.places[at.Addr()]
	if p = p.fresh(now); !known && len(g.places) >= placesMax && !g.roomLocked(now) {
		return false, 0, nil
	}
	if ok, wait = p.room(packets, bytes, maxPackets, maxBytes, now); !ok {
		if g.freed == nil {
			g.freed = make(chan struct{})
		}
		return false, wait, g.freed
	}
	for range packets {
		p = append(p, charge{now, at.Port(), bytes / packets, by})
	}
	if by != nil {
		by.left -= float64(packets)
	}
	g.places[at.Addr()] = p
	return true, 0, nil
}

// roomLocked drops addresses to which nothing has gone of late, and says
// whether there is room for another.
func (g *Gate) roomLocked(now time.Time) bool {
	g.sweepLocked(now)
	return len(g.places) < placesMax
}

// sweepLocked forgets what is over, in all maps but that of what is proven:
// once in sweepGap, because it looks at everything.
func (g *Gate) sweepLocked(now time.Time) {
	if now.Sub(g.swept) < sweepGap {
		return
	}
	g.swept = now
	for a, p := range g.places {
		if len(p.fresh(now)) == 0 {
			delete(g.places, a)
		}
	}
	for a, until := range g.given {
		if now.After(until) {
			delete(g.given, a)
		}
	}
	for at, e := range g.told {
		if now.After(e.until) {
			for _, t := range e.by {
				t.addrs--
			}
			delete(g.told, at)
		}
	}
	for name, t := range g.tellers {
		if t.fill(now); t.addrs == 0 && t.left >= TellerPackets {
			delete(g.tellers, name)
		}
	}
}
