package congestion

import (
	"math"
	"time"
)

// The draft's constants, by their names there.
const (
	startupGain      = 2.77
	drainGain        = 0.5
	startupWindow    = 2.0
	cruiseWindow     = 2.0
	upWindow         = 2.25
	upGain           = 1.25
	downGain         = 0.9
	gentleGain       = 1.1                  // in place of upGain beside what minds a queue, and
	gentleQueue      = 8 * time.Millisecond // when it ends
	pacingMargin     = 0.99
	streamMargin     = 0.92 // on a stream, whose bursts are taken for more than its rate
	lossThreshold    = 0.02
	beta             = 0.7
	headroom         = 0.15
	probeRTTEvery    = 5 * time.Second
	probeRTTFor      = 200 * time.Millisecond
	probeRTTWindow   = 0.5
	fullGrowth       = 1.25
	fullRounds       = 3
	startupFullLoss  = 6  // packets lost in a round
	minPipeSegments  = 4  // MinPipeCwnd
	initialSegments  = 20 // what TCP above begins with; RFC 6928 says 10
	renoRounds       = 63 // RenoCoexistence: a reno flow's rounds between two losses
	probeAtLeast     = 2 * time.Second
	extraAckedRounds = 10
)

type bbrState uint8

const (
	bbrStartup bbrState = iota
	bbrDrain
	bbrDown
	bbrCruise
	bbrRefill
	bbrUp
	bbrProbeRTT
)

var bbrStates = [...]string{"startup", "drain", "down", "cruise", "refill", "up", "probe rtt"}

// phase is what acknowledgements are about (ack_phase).
type phase uint8

const (
	phaseInit phase = iota
	phaseRefilling
	phaseStarting
	phaseFeedback
	phaseStopping
)

// BBR is a Controller; see the package's text.
type BBR struct {
	segment int
	random  func() float64
	margin  float64 // of the rate that is used

	state        bbrState
	windowGain   float64
	pacingGain   float64
	window       int
	saved        int     // the window before ProbeRTT
	rate         float64 // bytes a second, 0: none yet
	minRTT       time.Duration
	restarted    bool // idle_restart
	roundTrips   int
	maxBW        [2]float64 // of the present cycle of probing and of the one before
	bw           float64
	full         fullEstimate
	everFull     bool // full_bw_reached
	cycleAt      time.Duration
	ack          phase
	wait         time.Duration
	sinceProbe   int  // rounds
	probeSamples bool // losses tell of what a probe had under way
	upRounds     int  // growth of the long-term bound
	upAcked      int  // bytes
	upEvery      int  // bytes per segment of growth
	extra        extraAcked
	bound        bounds
	shortRTT     time.Duration // probe_rtt_min_delay
	shortRTTAt   time.Duration
	probeUntil   time.Duration // of ProbeRTT; 0: what is under way has not left yet
	probeRound   bool
	stoppedRound bool
	undo         undo
}

// undo is what b was before it answered losses (BBRSaveStateUponLoss).
type undo struct {
	state       bbrState
	everFull    bool
	long, short int
	bw          float64
	startups    int // that were begun anew
}

// undoStartups is how often Startup may begin anew on one path: a peer that
// acknowledges late on purpose is not to keep it there.
const undoStartups = 3

// fullEstimate sees whether a rate has stopped growing.
type fullEstimate struct {
	bw     float64
	rounds int
	now    bool
}

func (f *fullEstimate) reset(bw float64) { *f = fullEstimate{bw: bw} }

// NewBBR returns one that begins in Startup.
func NewBBR(c Config) *BBR {
	b := &BBR{segment: c.Segment, random: c.Random, minRTT: c.RTT, windowGain: startupWindow, pacingGain: startupGain}
	b.margin = pacingMargin
	if c.Stream {
		b.margin = streamMargin
	}
	b.window = initialSegments * b.segment
	rtt := c.RTT
	if rtt == 0 {
		rtt = 10 * time.Millisecond
	}
	b.rate = startupGain * float64(b.window) / rtt.Seconds()
	b.bound.reset()
	b.bound.long = math.MaxInt
	return b
}

func (b *BBR) max() float64 { return max(b.maxBW[0], b.maxBW[1]) }

// bdp is what the path holds, times a gain.
func (b *BBR) bdp(bw, gain float64) int {
	if bw == 0 || b.minRTT == 0 {
		return initialSegments * b.segment
	}
	return int(gain * bw * b.minRTT.Seconds())
}

// quantum is what leaves at once: a millisecond's worth.
func (b *BBR) quantum() int { return min(max(int(b.rate/1000), 2*b.segment), 64<<10) }

// inFlight is bdp with what bursts need (BBRInflight).
func (b *BBR) inFlight(bw, gain float64) int {
	n := max(b.bdp(bw, gain), 3*b.quantum(), minPipeSegments*b.segment)
	if b.state == bbrUp {
		n += 2 * b.segment
	}
	return n
}

func (b *BBR) probing() bool { return b.state >= bbrDown && b.state <= bbrUp }

// Restart implements Controller.
func (b *BBR) Restart(time.Duration) {
	b.restarted = true
	b.extra.begin(0, 0)
	if b.probing() && b.bw > 0 {
		b.rate = b.margin * b.bw
	}
}

// Update implements Controller.
func (b *BBR) Update(s *Sample) {
	if s.Acked == 0 {
		return
	}
	b.minRTT = s.MinRTT
	if s.Round {
		b.roundTrips++
		b.sinceProbe++
	}
	if s.Rate > 0 && (s.Rate >= b.max() || !s.Limited) {
		b.maxBW[1] = max(b.maxBW[1], s.Rate)
	}
	b.bound.update(b, s)
	b.extra.update(s, b.bw)
	b.checkFull(s)
	b.checkStartup(s)
	if b.state == bbrDrain && s.InFlight <= b.inFlight(b.max(), 1) {
		b.down(s)
	}
	b.cycle(s)
	b.checkProbeRTT(s)
	b.bound.advance(s)
	b.bw = min(b.max(), b.bound.bw)
	b.control(s)
	if s.RTT > 0 {
		b.restarted = false
	}
}

// Undo implements Controller (BBRHandleSpuriousLossDetection).
func (b *BBR) Undo(now time.Duration) {
	u, d := &b.undo, &b.bound
	d.lossInRound, d.losses, d.roundLosses = false, 0, 0
	d.bw, d.short, d.long = max(d.bw, u.bw), max(d.short, u.short), max(d.long, u.long)
	b.full.reset(0)
	if b.state == bbrProbeRTT || b.state == u.state {
		return
	}
	switch {
	case u.state == bbrStartup && !u.everFull && u.startups < undoStartups:
		u.startups++
		b.everFull = false
		b.state, b.windowGain, b.pacingGain = bbrStartup, startupWindow, startupGain
	case u.state == bbrUp:
		b.enterUp(now)
	}
}

// checkFull sees whether the path is full: BBRCheckFullBWReached.
func (b *BBR) checkFull(s *Sample) {
	f := &b.full
	if f.now || !s.Round || s.Limited || s.Rate == 0 {
		return
	}
	if s.Rate >= fullGrowth*f.bw {
		f.reset(s.Rate)
		return
	}
	if f.rounds++; f.rounds >= fullRounds {
		f.now, b.everFull = true, true
	}
}

// checkStartup ends Startup.
func (b *BBR) checkStartup(s *Sample) {
	if b.state != bbrStartup {
		return
	}
	if !b.everFull && s.Round && b.bound.roundLosses >= startupFullLoss && b.bound.congested(s, s.RoundLoss, b.packets(s)) {
		b.everFull = true
		b.bound.long = max(b.bdp(b.max(), 1), b.bound.latest)
	}
	if b.everFull {
		b.state, b.windowGain, b.pacingGain = bbrDrain, cruiseWindow, drainGain
	}
}

// cycle goes through the states of ProbeBW (BBRUpdateProbeBWCyclePhase).
func (b *BBR) cycle(s *Sample) {
	if !b.everFull {
		return
	}
	b.adaptLong(s)
	switch b.state {
	case bbrDown:
		switch {
		case b.probeTime(s):
			b.refill()
		case s.InFlight <= b.withHeadroom() && s.InFlight <= b.inFlight(b.max(), 1):
			b.cruise()
		}
	case bbrCruise:
		if b.probeTime(s) {
			b.refill()
		}
	case bbrRefill:
		if s.Round {
			b.probeSamples = true
			b.up(s)
		}
	case bbrUp:
		if s.Full && b.window >= b.bound.long {
			b.full.reset(s.Rate)
		} else if b.full.now || s.Gentle && s.RTT > s.MinRTT+gentleQueue {
			b.down(s)
		}
	}
}

// probeTime says whether to look for more: by the clock, or as often as a reno
// flow would have lost something.
func (b *BBR) probeTime(s *Sample) bool {
	reno := min(b.inFlight(b.bw, 1)/b.segment, renoRounds)
	return s.Now-b.cycleAt > b.wait || b.sinceProbe >= reno
}

func (b *BBR) down(s *Sample) {
	b.bound.signals()
	b.upEvery = math.MaxInt
	b.sinceProbe = int(2 * b.random())
	b.wait = probeAtLeast + time.Duration(b.random()*float64(time.Second))
	b.cycleAt, b.ack, b.stoppedRound = s.Now, phaseStopping, false
	b.state, b.pacingGain, b.windowGain = bbrDown, downGain, cruiseWindow
}

func (b *BBR) cruise() { b.state, b.pacingGain, b.windowGain = bbrCruise, 1, cruiseWindow }

func (b *BBR) refill() {
	b.bound.reset()
	b.upRounds, b.upAcked, b.ack = 0, 0, phaseRefilling
	b.state, b.pacingGain, b.windowGain = bbrRefill, 1, cruiseWindow
}

func (b *BBR) up(s *Sample) {
	b.full.reset(s.Rate)
	b.enterUp(s.Now)
}

func (b *BBR) enterUp(now time.Duration) {
	b.ack = phaseStarting
	b.cycleAt = now
	b.state, b.pacingGain, b.windowGain = bbrUp, upGain, upWindow
	b.raiseSlope()
}

// checkProbeRTT lets the queue drain where the shortest round trip has not been
// seen for a while.
func (b *BBR) checkProbeRTT(s *Sample) {
	expired := s.Now > b.shortRTTAt+probeRTTEvery && b.shortRTTAt > 0
	if s.RTT > 0 && (s.RTT < b.shortRTT || b.shortRTTAt == 0 || expired) {
		b.shortRTT, b.shortRTTAt = s.RTT, max(s.Now, 1)
	}
	switch {
	case b.state != bbrProbeRTT && expired && !b.restarted && !s.Limited:
		b.state, b.pacingGain, b.windowGain = bbrProbeRTT, 1, probeRTTWindow
		b.saved = max(b.saved, b.window)
		b.ack, b.probeUntil, b.probeRound, b.stoppedRound = phaseStopping, 0, false, false
	case b.state != bbrProbeRTT:
	case b.probeUntil == 0:
		if s.InFlight <= b.probeWindow() {
			b.probeUntil = s.Now + probeRTTFor
		}
	default:
		b.probeRound = b.probeRound || s.Round
		if b.probeRound && s.Now > b.probeUntil {
			b.shortRTTAt = s.Now
			b.window, b.saved = max(b.window, b.saved), 0
			b.bound.reset()
			if b.everFull {
				b.down(s)
				b.cruise()
			} else {
				b.state, b.windowGain, b.pacingGain = bbrStartup, startupWindow, startupGain
			}
		}
	}
}

func (b *BBR) probeWindow() int {
	return max(b.bdp(b.bw, probeRTTWindow), minPipeSegments*b.segment)
}

// control sets rate and window.
func (b *BBR) control(s *Sample) {
	if b.bw > 0 {
		gain := b.pacingGain
		if s.Gentle && b.state == bbrUp {
			gain = gentleGain
		}
		if rate := gain * b.bw * b.margin; b.everFull || rate > b.rate {
			b.rate = rate
		}
	}
	most := b.inFlight(b.bw, b.windowGain) + b.extra.most()
	switch {
	case b.everFull:
		b.window = min(b.window+s.Acked, most)
	case b.window < most || s.Delivered < int64(initialSegments*b.segment):
		b.window += s.Acked
	}
	limit := math.MaxInt
	switch {
	case b.state == bbrProbeRTT:
		limit = min(b.withHeadroom(), b.probeWindow())
	case b.state == bbrCruise:
		limit = b.withHeadroom()
	case b.probing():
		limit = b.bound.long
	}
	b.window = max(min(b.window, limit, b.bound.short), minPipeSegments*b.segment)
}

// Window implements Controller.
func (b *BBR) Window() int { return b.window }

// Rate implements Controller.
func (b *BBR) Rate() float64 { return b.rate }

// State implements Controller.
func (b *BBR) State() string { return bbrStates[b.state] }

// extraAcked is the most that was acknowledged beyond the path's rate: peers and
// links hand over acknowledgements in bursts (BBRUpdateACKAggregation).
type extraAcked struct {
	at     time.Duration
	acked  int64
	rounds int
	best   [2]int
}

func (x *extraAcked) begin(at time.Duration, acked int64) { x.at, x.acked = at, acked }

func (x *extraAcked) update(s *Sample, bw float64) {
	if s.Round {
		if x.rounds++; x.rounds >= extraAckedRounds/2 {
			x.rounds, x.best[0], x.best[1] = 0, x.best[1], 0
		}
	}
	expected := int64(bw * (s.Now - x.at).Seconds())
	if x.at == 0 || x.acked <= expected {
		x.begin(s.Now, 0)
		expected = 0
	}
	x.acked += int64(s.Acked)
	x.best[1] = max(x.best[1], int(min(x.acked-expected, 1<<20)))
}

func (x *extraAcked) most() int { return max(x.best[0], x.best[1]) }
