package hearsay

import (
	"net/netip"
	"time"
)

const (
	// TellerPackets may go unanswered to what one teller has told, a minute.
	TellerPackets = 120
	// tellerAddrs is how many addresses of one teller are remembered, and for
	// how long each; more are not taken.
	tellerAddrs = 1024
	toldLife    = 2 * time.Hour
	// tellersMax bounds who is remembered, tellersEach who of them is for one
	// address, toldMax the addresses.
	tellersMax  = 1024
	tellersEach = 3
	toldMax     = 16384
)

// teller is one who tells of addresses. Its budget is a bucket: TellerPackets,
// full again in a minute.
type teller struct {
	left   float64
	filled time.Time
	addrs  int // that it is remembered for
}

// fill brings the bucket up to date.
func (t *teller) fill(now time.Time) {
	t.left = min(TellerPackets, t.left+now.Sub(t.filled).Seconds()*TellerPackets/Window.Seconds())
	t.filled = now
}

func (t *teller) refund() { t.left = min(TellerPackets, t.left+1) }

// told is an address, and who has told it.
type told struct {
	by    []*teller
	until time.Time
}

// Told notes that somebody has told of an address, and says whether it may be
// kept: not what could be nobody's address, nor more than one teller may tell.
// by names who is charged, "" all of whom nothing is known.
func (g *Gate) Told(by string, at netip.AddrPort) bool {
	at = clean(at)
	if !g.Allowed(at) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	t := g.tellerLocked(by, now)
	if t == nil {
		return false
	}
	e := g.told[at]
	if e == nil {
		if t.addrs >= tellerAddrs || len(g.told) >= toldMax {
			g.sweepLocked(now)
			g.tellers[by] = t // the sweep forgets whom nothing is remembered of
			if t.addrs >= tellerAddrs || len(g.told) >= toldMax {
				return false
			}
		}
		e = &told{}
		g.told[at] = e
	}
	e.until = now.Add(toldLife)
	for _, o := range e.by {
		if o == t {
			return true
		}
	}
	if len(e.by) == tellersEach {
		e.by[0].addrs--
		e.by = append(e.by[:0:0], e.by[1:]...)
	}
	e.by = append(e.by, t)
	t.addrs++
	return true
}

// tellerLocked returns a teller by its name, nil if there are too many.
func (g *Gate) tellerLocked(by string, now time.Time) *teller {
	t := g.tellers[by]
	if t == nil {
		if len(g.tellers) >= tellersMax {
			if g.sweepLocked(now); len(g.tellers) >= tellersMax {
				return nil
			}
		}
		t = &teller{left: TellerPackets, filled: now}
		g.tellers[by] = t
	}
	t.fill(now)
	return t
}

// payerLocked returns who is charged for an address: of those that told it the
// one with most left. nil if there is no room for one more.
func (g *Gate) payerLocked(at netip.AddrPort, now time.Time) *teller {
	e := g.told[at]
	if e == nil || len(e.by) == 0 {
		return g.tellerLocked("", now)
	}
	var out *teller
	for _, t := range e.by {
		if t.fill(now); out == nil || t.left > out.left {
			out = t
		}
	}
	return out
}
