package congestion

import (
	"math"
	"time"
)

// RFC 9438 and RFC 9406, by their names there.
const (
	cubicC        = 0.4
	cubicBeta     = 0.7
	cubicAlpha    = 3 * (1 - cubicBeta) / (1 + cubicBeta)
	minRTTThresh  = 4 * time.Millisecond
	maxRTTThresh  = 16 * time.Millisecond
	minRTTDivisor = 8
	nRTTSample    = 8
	cssGrowth     = 4
	cssRounds     = 5

	slowStartPace = 2.0 // windows a round trip
	avoidPace     = 1.25
)

// Cubic is a Controller; see the package's text.
type Cubic struct {
	segment   int
	window    float64
	threshold float64 // ssthresh
	srtt      time.Duration

	// Of congestion avoidance.
	epoch    time.Duration // when it began, 0: it has not
	wMax     float64
	k        float64 // seconds
	wEst     float64
	reducing int64 // no second reduction until so much was delivered

	before struct{ window, threshold, wMax float64 } // the losses that Undo takes back

	// Of slow start.
	lastMin, curMin, cssBase time.Duration
	samples                  int
	css                      int // rounds of conservative slow start; 0: none
}

// NewCubic returns one that begins in slow start.
func NewCubic(c Config) *Cubic {
	return &Cubic{
		segment: c.Segment, window: float64(initialSegments * c.Segment), threshold: math.Inf(1),
		srtt: max(c.RTT, 10*time.Millisecond), curMin: math.MaxInt64, lastMin: math.MaxInt64,
	}
}

// Restart implements Controller. What was idle does not count as time in which the
// window might have grown (RFC 9438 §4.2).
func (c *Cubic) Restart(time.Duration) { c.epoch = 0 }

// Lost implements Controller.
func (c *Cubic) Lost(s *Sample) {
	if s.First {
		c.before.window, c.before.threshold, c.before.wMax = c.window, c.threshold, c.wMax
	}
	c.reduce(s.Delivered-s.Since, s.Delivered+int64(s.InFlight))
}

// Undo implements Controller (RFC 9438 §4.9).
func (c *Cubic) Undo(time.Duration) {
	if b := &c.before; c.window < b.window {
		c.window, c.threshold, c.wMax = b.window, b.threshold, b.wMax
		c.epoch, c.reducing = 0, 0
	}
}

// reduce is the answer to congestion: once for what was under way together (RFC
// 9438 §4.6). sent is how much had been delivered when what shows it left.
func (c *Cubic) reduce(sent, all int64) {
	if sent < c.reducing {
		return
	}
	c.reducing = all
	if c.window < c.wMax { // fast convergence, §4.7
		c.wMax = c.window * (1 + cubicBeta) / 2
	} else {
		c.wMax = c.window
	}
	c.window = max(c.window*cubicBeta, float64(2*c.segment))
	c.threshold = c.window
	c.epoch, c.css = 0, 0
}

// Update implements Controller.
func (c *Cubic) Update(s *Sample) {
	c.srtt = s.SRTT
	if s.Acked == 0 {
		return
	}
	if s.Marked {
		c.reduce(s.Delivered-s.Since, s.Delivered+int64(s.InFlight))
		return
	}
	if c.window < c.threshold {
		c.slowStart(s)
		return
	}
	if !s.Full {
		return // the window was not used: RFC 9438 §5.8
	}
	c.avoid(s)
}

// slowStart grows by what is acknowledged, and ends where round trips grow.
func (c *Cubic) slowStart(s *Sample) {
	if s.Round {
		c.lastMin, c.curMin, c.samples = c.curMin, math.MaxInt64, 0
		if c.css > 0 {
			if c.css++; c.css > cssRounds {
				c.threshold, c.css = c.window, 0
				return
			}
		}
	}
	c.curMin = min(c.curMin, s.RTT)
	c.samples++
	growth := float64(s.Acked)
	switch {
	case c.css > 0:
		if c.samples >= nRTTSample && c.curMin < c.cssBase {
			c.css = 0 // it was not a queue
		}
		growth /= cssGrowth
	case c.samples >= nRTTSample && c.lastMin != math.MaxInt64:
		thresh := max(minRTTThresh, min(c.lastMin/minRTTDivisor, maxRTTThresh))
		if c.curMin >= c.lastMin+thresh {
			c.css, c.cssBase = 1, c.curMin
		}
	}
	if s.Full {
		c.window += growth
	}
}

// avoid is RFC 9438 §4.2 to §4.5, in segments and seconds.
func (c *Cubic) avoid(s *Sample) {
	seg := float64(c.segment)
	if c.epoch == 0 {
		c.epoch, c.wEst = max(s.Now, 1), c.window
		c.wMax = max(c.wMax, c.window)
		c.k = math.Cbrt((c.wMax - c.window) / seg / cubicC)
	}
	alpha := cubicAlpha
	if c.wEst >= c.wMax {
		alpha = 1
	}
	c.wEst += alpha * float64(s.Acked) / c.window * seg
	at := func(t time.Duration) float64 {
		d := t.Seconds() - c.k
		return (cubicC*d*d*d)*seg + c.wMax
	}
	t := s.Now - c.epoch
	if w := at(t); w < c.wEst {
		c.window = max(c.window, c.wEst)
		return
	}
	target := min(max(at(t+c.srtt), c.window), 1.5*c.window)
	c.window += (target - c.window) / c.window * float64(s.Acked)
}

// Window implements Controller.
func (c *Cubic) Window() int { return int(c.window) }

// Rate implements Controller.
func (c *Cubic) Rate() float64 {
	pace := avoidPace
	if c.window < c.threshold {
		pace = slowStartPace
	}
	return pace * c.window / max(c.srtt, 100*time.Microsecond).Seconds()
}

// State implements Controller.
func (c *Cubic) State() string {
	switch {
	case c.css > 0:
		return "conservative slow start"
	case c.window < c.threshold:
		return "slow start"
	}
	return "avoidance"
}
