package admission

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Certificates and records have dates, so a peer whose clock is wrong takes what
// is good for what is over, or not begun, and others do so with what it makes.
// It cannot be told from a peer alone; hellos and refusals say what time their
// sender has, and a peer compares. What is found is said, in Status and in the
// log, and nothing else follows from it: no peer sets another's clock.

const (
	// clockEvery is how often it is looked whether the clock was set.
	clockEvery = time.Second
	// clockJump is what counts as that: more than a clock is slewed by.
	clockJump = 2 * time.Second
	// clocksMax bounds how many members' clocks are remembered.
	clocksMax = 64
)

// clocks remembers how far other members' clocks are ahead of this one. It is
// safe for concurrent use.
type clocks struct {
	mu    sync.Mutex // guards the rest
	ahead map[peerid.ID]time.Duration
	order []peerid.ID // oldest first
	said  bool
}

// note keeps what time a member has.
func (c *clocks) note(p peerid.ID, theirs, ours time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead == nil {
		c.ahead = map[peerid.ID]time.Duration{}
	}
	if i := slices.Index(c.order, p); i >= 0 {
		c.order = slices.Delete(c.order, i, i+1)
	} else if len(c.order) >= clocksMax {
		delete(c.ahead, c.order[0])
		c.order = slices.Delete(c.order, 0, 1)
	}
	c.order = append(c.order, p)
	c.ahead[p] = theirs.Round(0).Sub(ours.Round(0))
}

// forget drops all: this clock was set.
func (c *clocks) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead, c.order, c.said = nil, nil, false
}

// off returns how far this clock is ahead of the others' (the median), and how
// many there are; how many of those agree with each other within the tolerance.
func (c *clocks) off() (off time.Duration, agree, of int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []time.Duration
	for _, d := range c.ahead {
		all = append(all, -d)
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	off = all[len(all)/2]
	for _, d := range all {
		if (d - off).Abs() <= membership.Tolerance {
			agree++
		}
	}
	return off, agree, len(all)
}

// sayOnce says whether a wrong clock was not said yet.
func (c *clocks) sayOnce() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.said
	c.said = true
	return !was
}

// ClockOff returns how far this machine's clock is ahead of those of the members
// it has met (the median; negative: behind), and how many those are. Hellos tell
// whole seconds.
func (r *Roster) ClockOff() (time.Duration, int) {
	off, _, of := r.clocks.off()
	return off, of
}

// ClockWrong says whether this machine's clock is too far from those of the members it
// has met for certificates to be judged by it.
func (r *Roster) ClockWrong() bool {
	off, n := r.ClockOff()
	return n > 0 && off.Abs() > membership.Tolerance
}

// HearTime notes what time a peer has said it is, in seconds since 1970, and
// says so if one of the two clocks is wrong.
func (r *Roster) HearTime(p peerid.ID, seconds uint64) {
	theirs := clockTime(seconds)
	if theirs.IsZero() {
		return
	}
	r.clocks.note(p, theirs, r.now())
	off, agree, of := r.clocks.off()
	if off.Abs() <= membership.Tolerance || 2*agree <= of || !r.clocks.sayOnce() {
		return
	}
	which, by := "ahead", off
	if off < 0 {
		which, by = "behind", -off
	}
	if of == 1 {
		r.cfg.Log.Warn("this machine's clock and that of a member differ: one of them is wrong, and what one makes the other takes for over or not begun",
			"this_one_is", which, "by", by.Round(time.Second), "now", r.now().UTC().Format(time.RFC3339), "member", p)
		return
	}
	r.cfg.Log.Warn("this machine's clock is wrong: what others make it takes for over or not begun, and they do so with what it makes",
		"it_is", which, "by", by.Round(time.Second), "now", r.now().UTC().Format(time.RFC3339), "members_that_agree", agree)
}

// clockTime is what a stranger says the time is; zero if no clock could.
func clockTime(s uint64) time.Time {
	const most = 1 << 38 // the year 10680
	if s < most {
		return time.Unix(int64(s), 0)
	}
	return time.Time{}
}

// sayBehind says that what this peer has was made later than it is by its clock.
func (r *Roster) sayBehind(e *membership.TimeError) {
	if !r.clocks.sayOnce() {
		return
	}
	r.cfg.Log.Warn("this machine's clock is behind: this node waits, and goes on trying, until it is set",
		"by_at_least", e.Limit.Sub(e.Now).Round(time.Second), "now", e.Now.UTC().Format(time.RFC3339), "why", e.What+" begins "+e.Limit.UTC().Format(time.RFC3339))
}

// WatchClock notices that the clock was set since the Roster was made, until ctx
// ends. One goroutine may call it, once. When the clock was set it calls
// before, which ends what the new time makes invalid; makes again what of this
// peer's own was dated by the wrong clock; and calls after, which tries again what
// failed for the clock's sake.
func (r *Roster) WatchClock(ctx context.Context, before, after func()) {
	t := time.NewTicker(clockEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		by := r.jumps.Since(r.now())
		if by.Abs() < clockJump {
			continue
		}
		r.cfg.Log.Info("the clock was set", "by", by.Round(time.Millisecond), "now", r.now().UTC().Format(time.RFC3339))
		r.clocks.forget()
		before()
		r.reissue(ctx)
		after()
	}
}

// reissue makes this peer's own delegation and chain good again where the old one
// was dated by a clock that was wrong: the founder's is its own business, others
// ask.
func (r *Roster) reissue(ctx context.Context) {
	r.mu.Lock()
	own, delegation := r.own, r.delegation
	if r.issuer != nil {
		delegation = nil
	}
	r.mu.Unlock()
	r.takeDelegation(delegation)
	if !r.authority() || !own.Member.NotBefore.After(r.now().Add(membership.Tolerance)) {
		r.Renew(ctx)
		return
	}
	if err := r.issueSelf(own.Label); err != nil {
		r.cfg.Log.Error("the founder's membership", "err", err)
		return
	}
	r.cfg.Renewed()
	r.Keep()
}
