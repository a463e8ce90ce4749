package congestion

import "time"

// Packet is what a Path knows of one packet under way. Size is set by the caller;
// one Packet serves every time that a packet is sent anew.
type Packet struct {
	Size int // bytes of the datagram

	sent        time.Duration
	delivered   int64 // the Path's counts when it was sent
	lost        int64
	deliveredAt time.Duration
	firstSent   time.Duration
	inFlight    int  // with it
	limited     bool // there was nothing more to send
}

// Sent says when the packet was sent last.
func (k *Packet) Sent() time.Duration { return k.sent }

// Controller decides what may be under way. It is told by its Path.
type Controller interface {
	// Update takes what an event has shown.
	Update(s *Sample)
	// Lost takes the loss of a packet; s says what was lost since it was sent.
	Lost(s *Sample)
	// Undo takes back what it made of the losses since the last one that was First:
	// most of them were none.
	Undo(now time.Duration)
	// Restart is told that something is sent where nothing was under way.
	Restart(now time.Duration)
	// Window is how many bytes may be under way.
	Window() int
	// Rate is how many bytes a second may leave.
	Rate() float64
	// State is a word for people.
	State() string
}

// Sample is what a Path tells its Controller. Sizes are bytes, rates bytes a
// second.
type Sample struct {
	Now       time.Duration
	RTT       time.Duration // of the newest packet that was acknowledged, 0: none was
	MinRTT    time.Duration // the shortest one that is known
	RoundRTT  time.Duration // the shortest of this round trip, or, until there is one, of the last
	SRTT      time.Duration
	Rate      float64 // of delivery, 0: not measured
	Limited   bool    // there was not enough to send for Rate to be the path's
	Acked     int     // by this event
	InFlight  int     // after it
	Prior     int     // before it
	Begin     int     // when the newest packet that was acknowledged, or the lost one, left
	Delivered int64   // in all
	Since     int64   // of these, since that packet left
	Lost      int64   // since that packet left
	Losses    int     // packets that were lost by this event
	Size      int     // of the lost packet
	Round     bool    // a round trip has passed since the last such Sample
	First     bool    // no other packet was lost in this round trip
	RoundLoss float64 // which part was lost in the one that passed
	Full      bool    // the window was what kept more from leaving
	Gentle    bool    // what has to wait behind a queue minds
	Marked    bool    // routers marked what was acknowledged (RFC 3168)
}

// Config says how a Path works.
type Config struct {
	Segment int            // bytes of a full datagram
	RTT     time.Duration  // what is known of the round trip; 0 = nothing
	Stream  bool           // a stream carries the path: what it holds, it delivers late and in bursts
	Random  func() float64 // in [0, 1)
	// New makes the Controller; nil is BBR's.
	New func(Config) Controller
}

// Path is the state of one path. The zero value is not ready; see New.
type Path struct {
	c Controller

	inFlight    int
	delivered   int64
	lost        int64
	deliveredAt time.Duration
	firstSent   time.Duration
	limitedTo   int64 // the path is short of packets until so much was delivered; 0: it is not
	full        bool
	gentle      time.Duration // until when the queue is kept short

	srtt, rttvar, latest time.Duration
	min                  time.Duration
	minAt                time.Duration
	roundRTT, lastRound  time.Duration
	roundEnd             int64
	roundAt              time.Duration
	roundLost, roundGot  int64

	event  Sample // of the event under way
	newest Packet // of those that were acknowledged by it
	loss   Sample // what Lost tells; here because it would be allocated anew for each

	losses episode

	past *[pastLen]past // of what was delivered; nil until that is much
	n    int
}

// episode is losses that a controller answers together: those of a round trip.
type episode struct {
	from    time.Duration // when the first of them was sent
	end     int64         // it is over when so much was delivered
	lost, n int           // packets that were lost, and that had only been late
	open    bool          // it is not over, or may still be taken back
}

// past is how much had been delivered at a time.
type past struct {
	at        time.Duration
	delivered int64
}

const (
	pastLen       = 64
	muchDelivered = 128 << 10 // bytes

	leastFor = 40 * time.Millisecond // that a rate is measured over
	minFor   = 10 * time.Second      // that the shortest round trip is believed

	gentleFor = 2 * time.Second

	leastRound = leastFor / 2 // that a round lasts
)

// New returns a Path on which nothing is under way.
func New(c Config) *Path {
	p := &Path{srtt: c.RTT, rttvar: c.RTT / 2, min: c.RTT, latest: c.RTT}
	if c.New == nil {
		c.New = func(c Config) Controller { return NewBBR(c) }
	}
	p.c = c.New(c)
	return p
}

// Sent counts a packet that leaves.
func (p *Path) Sent(k *Packet, now time.Duration) {
	if p.inFlight == 0 {
		p.firstSent, p.deliveredAt = now, now
		p.c.Restart(now)
	}
	p.inFlight += k.Size
	k.sent, k.delivered, k.lost = now, p.delivered, p.lost
	k.deliveredAt, k.firstSent = p.deliveredAt, p.firstSent
	k.inFlight, k.limited = p.inFlight, p.limitedTo != 0
}

// Limited is told that there is nothing to send, though more might leave.
func (p *Path) Limited() { p.limitedTo = max(p.delivered+int64(p.inFlight), 1) }

// Full is told that Window keeps something from leaving.
func (p *Path) Full() { p.full = true }

// Gentle is told that something leaves for which a queue on the path is bad.
func (p *Path) Gentle(now time.Duration) { p.gentle = now + gentleFor }

// Acked counts a packet as delivered.
func (p *Path) Acked(k *Packet, now time.Duration) {
	e := &p.event
	if e.Acked == 0 && e.Losses == 0 {
		e.Prior = p.inFlight
	}
	p.inFlight -= k.Size
	p.delivered += int64(k.Size)
	p.roundGot += int64(k.Size)
	p.deliveredAt = now
	e.Acked += k.Size
	if p.newest.Size == 0 || k.sent > p.newest.sent || k.sent == p.newest.sent && k.delivered >= p.newest.delivered {
		p.newest = *k
	}
}

// Lost counts a packet as lost.
func (p *Path) Lost(k *Packet, now time.Duration) {
	e := &p.event
	if e.Acked == 0 && e.Losses == 0 {
		e.Prior = p.inFlight
	}
	p.inFlight -= k.Size
	p.lost += int64(k.Size)
	p.roundLost += int64(k.Size)
	e.Losses++
	p.loss = Sample{
		Now: now, MinRTT: p.min, RoundRTT: p.shortest(), SRTT: p.srtt, Limited: k.limited,
		InFlight: p.inFlight, Begin: k.inFlight, Delivered: p.delivered, Since: p.delivered - k.delivered,
		Lost: p.lost - k.lost, Losses: 1, Size: k.Size,
	}
	if l := &p.losses; p.delivered >= l.end {
		*l = episode{from: k.sent, end: p.delivered + int64(p.inFlight) + 1, open: true}
		p.loss.First = true
	}
	p.losses.lost++
	p.c.Lost(&p.loss)
}

// Spurious is told that a packet that was Lost, of size bytes and sent then, has arrived
// after all. Where that is so of most that were lost with it, the Controller takes back
// what it did (draft-ietf-ccwg-bbr §5.5.10.3, RFC 9438 §4.9).
func (p *Path) Spurious(sent, now time.Duration, size int) {
	p.lost -= int64(size)
	p.roundLost = max(p.roundLost-int64(size), 0)
	l := &p.losses
	if !l.open || sent < l.from {
		return
	}
	if l.n++; 2*l.n > l.lost {
		l.open = false
		p.c.Undo(now)
	}
}

// Forget takes back what was sent and will be neither acknowledged nor lost.
func (p *Path) Forget(k *Packet) { p.inFlight -= k.Size }

// shortest is the shortest round trip of late.
func (p *Path) shortest() time.Duration {
	if p.roundRTT > 0 {
		return p.roundRTT
	}
	return p.lastRound
}

// Update ends an event: what Acked and Lost were told since the last one. delay is
// how long the peer has kept its acknowledgement, marked whether routers marked
// what it is for.
func (p *Path) Update(now, delay time.Duration, marked bool) {
	e := &p.event
	e.Now, e.Marked, e.Delivered, e.InFlight = now, marked, p.delivered, p.inFlight
	if k := &p.newest; k.Size > 0 {
		p.sample(k, now, delay)
	}
	e.Gentle = now < p.gentle
	e.MinRTT, e.RoundRTT, e.SRTT, e.Full = p.min, p.shortest(), p.srtt, p.full
	p.full = false
	p.c.Update(e)
	*e, p.newest.Size = Sample{}, 0
}

// sample measures by k, the newest packet that an event has acknowledged.
func (p *Path) sample(k *Packet, now, delay time.Duration) {
	e := &p.event
	e.RTT = now - k.sent
	p.timed(e.RTT, delay, now)
	if p.limitedTo != 0 && p.delivered > p.limitedTo {
		p.limitedTo = 0
	}
	e.Limited, e.Begin = k.limited, k.inFlight
	e.Since, e.Lost = p.delivered-k.delivered, p.lost-k.lost
	interval := max(k.sent-k.firstSent, now-k.deliveredAt)
	p.firstSent = k.sent
	if interval >= p.min && interval > 0 {
		e.Rate = float64(e.Since) / interval.Seconds()
		if r, ok := p.steady(now); ok {
			e.Rate = min(e.Rate, r)
		}
	}
	if k.delivered >= p.roundEnd && now-p.roundAt >= leastRound {
		p.roundEnd, p.roundAt = p.delivered, now
		e.Round = true
		if all := p.roundGot + p.roundLost; all > 0 {
			e.RoundLoss = float64(p.roundLost) / float64(all)
		}
		p.roundGot, p.roundLost = 0, 0
		p.lastRound, p.roundRTT = p.shortest(), 0
	}
}

// steady is the rate of delivery over the last while, of a path whose round trip is
// shorter than that.
func (p *Path) steady(now time.Duration) (float64, bool) {
	if p.past == nil {
		if p.delivered < muchDelivered {
			return 0, false
		}
		p.past = new([pastLen]past)
	}
	if p.n == 0 || now-p.past[(p.n-1)%pastLen].at >= leastFor/32 {
		p.past[p.n%pastLen] = past{now, p.delivered}
		p.n++
	}
	if p.min >= leastFor {
		return 0, false
	}
	for i := p.n - 1; i >= 0 && i > p.n-pastLen; i-- {
		h := p.past[i%pastLen]
		if now-h.at >= 2*leastFor {
			return 0, false // nothing came for a while
		}
		if now-h.at >= leastFor {
			return float64(p.delivered-h.delivered) / (now - h.at).Seconds(), true
		}
	}
	return 0, false
}

// timed takes a round trip (RFC 9002 §5).
func (p *Path) timed(rtt, delay, now time.Duration) {
	if rtt <= 0 {
		rtt = 1
	}
	p.latest = rtt
	if p.roundRTT == 0 || rtt < p.roundRTT {
		p.roundRTT = rtt
	}
	first := p.minAt == 0
	if first || rtt <= p.min || now-p.minAt > minFor {
		p.min, p.minAt = rtt, max(now, 1)
	}
	if rtt-delay >= p.min {
		rtt -= delay
	}
	if first {
		p.srtt, p.rttvar = rtt, rtt/2
		return
	}
	d := p.srtt - rtt
	p.rttvar += (max(d, -d) - p.rttvar) / 4
	p.srtt += (rtt - p.srtt) / 8
}

// Window says how many bytes may be under way, Rate how many may leave in a second.
func (p *Path) Window() int { return p.c.Window() }

// Rate is never 0.
func (p *Path) Rate() float64 { return max(p.c.Rate(), 1000) }

// InFlight is how many bytes are under way.
func (p *Path) InFlight() int { return p.inFlight }

// RTT returns the round trip: the shortest one of late, the smoothed one and how
// much it varies, all 0 until one was measured or told.
func (p *Path) RTT() (shortest, smoothed, varies time.Duration) { return p.min, p.srtt, p.rttvar }

// Latest is the newest round trip.
func (p *Path) Latest() time.Duration { return p.latest }

// State says what the Controller is doing.
func (p *Path) State() string { return p.c.State() }
