package ice

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of checks to addresses that have not answered one, over all
// establishments of this node: a peer may name any address as a candidate,
// and may make offers again and again (DESIGN §8).
const (
	// targetGap is the time between two checks of one address and port from
	// one socket (RFC 8445 §14: Ta); sockets do not wait for each other.
	targetGap = 50 * time.Millisecond
	// victimBurst checks to one IP address may be without an answer; then
	// one more each victimRefill: 46 in a minute, of some hundred bytes. NATs
	// open by three where nothing is lost, and by these in time where a third
	// of all datagrams is; with 12 every second first Dial fails there.
	victimBurst  = 40
	victimRefill = 10 * time.Second
	// trusted is how long an address that answered is not counted.
	trusted = 30 * time.Second
	// pacedMax bounds what the pacer remembers of each kind.
	pacedMax = 4096
)

// Pacer spaces and bounds the connectivity checks that leave this node. It is
// safe for concurrent use.
type Pacer struct {
	mu      sync.Mutex // guards both maps
	next    map[pacedWay]time.Time
	victims map[netip.Addr]*victim
}

// pacedWay is a socket's way to an address; from is zero where it does not
// matter who sends.
type pacedWay struct{ from, to netip.AddrPort }

// victim is an IP address that gets checks and may have no part in this.
type victim struct {
	unanswered int
	refilled   time.Time // unanswered was last lowered
	answered   time.Time
}

// NewPacer makes a Pacer.
func NewPacer() *Pacer {
	return &Pacer{next: map[pacedWay]time.Time{}, victims: map[netip.Addr]*victim{}}
}

// Allow says whether a check may go from one address to another now, and counts
// it.
func (p *Pacer) Allow(from, to netip.AddrPort, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.victims[to.Addr()]
	if v == nil {
		if len(p.victims) >= pacedMax && !p.forget(now) {
			return false
		}
		v = &victim{refilled: now}
		p.victims[to.Addr()] = v
	}
	if now.Sub(v.answered) < trusted {
		return true
	}
	if n := int(now.Sub(v.refilled) / victimRefill); n > 0 {
		v.unanswered = max(0, v.unanswered-n)
		v.refilled = v.refilled.Add(time.Duration(n) * victimRefill)
	}
	if v.unanswered >= victimBurst || now.Before(p.next[pacedWay{from, to}]) {
		return false
	}
	if len(p.next) >= pacedMax {
		p.expire(now)
		if len(p.next) >= pacedMax {
			return false
		}
	}
	v.unanswered++
	p.next[pacedWay{from, to}] = now.Add(targetGap)
	return true
}

// NoteAnswer notes that an address has answered a check of ours.
func (p *Pacer) NoteAnswer(a netip.Addr, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.victims[a]; v != nil {
		v.answered, v.unanswered = now, 0
	}
}

// expire drops gaps that are over.
func (p *Pacer) expire(now time.Time) {
	for to, at := range p.next {
		if !now.Before(at) {
			delete(p.next, to)
		}
	}
}

// forget drops addresses that would be allowed everything again, and says
// whether there is room now.
func (p *Pacer) forget(now time.Time) bool {
	for a, v := range p.victims {
		if now.Sub(v.answered) >= trusted && now.Sub(v.refilled) >= time.Duration(v.unanswered)*victimRefill {
			delete(p.victims, a)
		}
	}
	return len(p.victims) < pacedMax
}
