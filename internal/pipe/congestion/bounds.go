package congestion

import (
	"math"
	"time"
)

// What counts as congestion beside the draft's 2 % of loss.
const (
	// queueAtLeast and a part of the round trip is by how much a round's shortest
	// one shows a queue.
	queueAtLeast = 5 * time.Millisecond
	queuePart    = 8
	queueAtMost  = 16 * time.Millisecond // of that part (RFC 9406 §4.2)
	// heavyLoss is congestion without a queue too: a policer's, or that of a buffer
	// too short to show.
	heavyLoss  = 0.2
	heavyLeast = 16 // packets of which that part is lost
	// chanceSigmas is how many standard deviations are chance.
	chanceSigmas = 3
	// baseMost is the most that is taken for the path's own.
	baseMost = 0.15
)

// bounds is what congestion has taught: the long-term bound on what may be under
// way, and the short-term ones, which hold until the next probe.
type bounds struct {
	long  int // inflight_longterm
	short int // inflight_shortterm
	bw    float64

	base        float64 // which part is lost where nothing is queued
	latest      int     // the most delivered in a round trip (inflight_latest)
	latestBW    float64
	roundEnd    int64 // loss_round_delivered
	roundStart  bool
	lossInRound bool // a loss that is congestion
	losses      int  // packets, in this round
	roundLosses int  // and in the one before
}

// reset forgets the short-term bounds.
func (d *bounds) reset() { d.short, d.bw = math.MaxInt, math.Inf(1) }

// signals begins anew to collect what a round shows.
func (d *bounds) signals() { d.lossInRound, d.latestBW, d.latest = false, 0, 0 }

// queued says whether the shortest round trip of late shows a queue.
func (d *bounds) queued(s *Sample) bool {
	return s.RoundRTT > s.MinRTT+min(s.MinRTT/queuePart, queueAtMost)+queueAtLeast
}

// congested says whether it is congestion that this part of n packets is lost: what
// chance has three times in a thousand is not.
func (d *bounds) congested(s *Sample, part, n float64) bool {
	n = max(n, 1)
	chance := chanceSigmas * math.Sqrt(d.base/n)
	return part > heavyLoss+2*chance && n >= heavyLeast || part > d.base+lossThreshold+chance && d.queued(s)
}

func (d *bounds) update(b *BBR, s *Sample) {
	d.roundStart = false
	d.latestBW = max(d.latestBW, s.Rate)
	d.latest = max(d.latest, int(s.Since))
	if s.Round {
		d.roundLosses, d.losses = d.losses, 0
		if !d.queued(s) {
			d.base += (min(s.RoundLoss, baseMost) - d.base) / 8
		}
	}
	d.losses += s.Losses
	if s.Marked {
		b.mark(s)
	}
	if s.Delivered-s.Since < d.roundEnd {
		return
	}
	d.roundEnd, d.roundStart = s.Delivered, true
	if d.lossInRound && !b.raising() {
		d.bw = max(d.latestBW, beta*min(d.bw, b.max()))
		d.short = max(d.latest, int(beta*float64(min(d.short, b.window))))
	}
	d.lossInRound = false
}

// advance begins a round with what the last sample showed.
func (d *bounds) advance(s *Sample) {
	if d.roundStart {
		d.latestBW, d.latest = s.Rate, int(s.Since)
	}
}

// raising says whether b puts more under way than the path is known to hold
// (BBRIsProbingBW).
func (b *BBR) raising() bool {
	return b.state == bbrStartup || b.state == bbrRefill || b.state == bbrUp
}

// withHeadroom leaves room for others (BBRInflightWithHeadroom).
func (b *BBR) withHeadroom() int {
	if b.bound.long == math.MaxInt {
		return math.MaxInt
	}
	room := max(b.segment, int(headroom*float64(b.bound.long)))
	return max(b.bound.long-room, minPipeSegments*b.segment)
}

// packets is how many were under way with the one that s is about.
func (b *BBR) packets(s *Sample) float64 { return float64(s.Begin) / float64(b.segment) }

// Lost implements Controller (BBRHandleLostPacket).
func (b *BBR) Lost(s *Sample) {
	if d := &b.bound; s.First {
		b.undo = undo{b.state, b.everFull, d.long, d.short, d.bw, b.undo.startups}
	}
	part := float64(s.Lost) / float64(max(s.Begin, 1))
	if !b.bound.congested(s, part, b.packets(s)) {
		return
	}
	b.bound.lossInRound = true
	if !b.probeSamples {
		return
	}
	// How much was under way when the part became too much.
	limit := b.bound.base + lossThreshold
	before := float64(s.Begin - s.Size)
	prefix := max((limit*before-float64(s.Lost-int64(s.Size)))/(1-limit), 0)
	b.tooHigh(s, int(before+prefix))
}

// mark takes what a router has marked for a loss by congestion (RFC 3168 §5), in
// Startup for a path that is full.
func (b *BBR) mark(s *Sample) {
	d := &b.bound
	d.lossInRound = true
	if b.state == bbrStartup && !b.everFull {
		b.everFull = true
		d.long = max(b.bdp(b.max(), 1), d.latest)
	}
	if b.probeSamples {
		b.tooHigh(s, s.Begin)
	}
}

// tooHigh bounds what may be under way from now on.
func (b *BBR) tooHigh(s *Sample, inFlight int) {
	b.probeSamples = false
	if !s.Limited {
		b.bound.long = max(inFlight, int(beta*float64(min(b.inFlight(b.bw, 1), b.window))))
	}
	if b.state == bbrUp {
		b.down(s)
	}
}

// adaptLong is BBRAdaptLongTermModel.
func (b *BBR) adaptLong(s *Sample) {
	if b.ack == phaseStarting && s.Round {
		b.ack = phaseFeedback
	}
	if b.ack == phaseStopping && s.Round && !b.stoppedRound {
		// The samples of the last probe end.
		b.stoppedRound = true
		b.probeSamples = false
		if b.probing() && !s.Limited {
			b.maxBW[0], b.maxBW[1] = b.maxBW[1], 0
		}
	}
	if s.Begin == 0 || b.bound.congested(s, float64(s.Lost)/float64(s.Begin), b.packets(s)) {
		return
	}
	if b.bound.long == math.MaxInt {
		return
	}
	b.bound.long = max(b.bound.long, s.Begin)
	if b.state == bbrUp {
		b.raise(s)
	}
}

// raiseSlope doubles with each round of a probe by how much it grows.
func (b *BBR) raiseSlope() {
	growth := b.segment << min(b.upRounds, 20)
	b.upRounds++
	b.upEvery = max(b.window/max(growth/b.segment, 1), 1)
}

// raise lets the long-term bound grow (BBRProbeInflightLongtermUpward).
func (b *BBR) raise(s *Sample) {
	if !s.Full || b.window < b.bound.long {
		return
	}
	b.upAcked += s.Acked
	if b.upAcked >= b.upEvery {
		n := b.upAcked / b.upEvery
		b.upAcked -= n * b.upEvery
		b.bound.long += n * b.segment
	}
	if s.Round {
		b.raiseSlope()
	}
}
