package admission

import (
	"sync"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// Where no authority can be met, nobody renews the certificates of delegates, and in the end
// of nobody: after 30 days no member would be left. So certificates do not end while no
// authority is heard of: who was a member when the last word of one was given stays one,
// for as long as the authorities say (membership.RevocationList.Unattended, a year if they
// do not). The word of an authority is its assurance, or a list.
//
// When an authority is back after long all certificates that have ended meanwhile have to be
// renewed: that takes until every member has met somebody who does it. So what its return
// tells counts only after renewFor.

const (
	// absentFor is how long without a word of an authority counts as their absence.
	absentFor = 24 * time.Hour
	// renewFor is how long after that members have to be renewed.
	renewFor = 24 * time.Hour
)

// attendance is as of when authorities were heard of. It is safe for concurrent use.
type attendance struct {
	mu     sync.Mutex
	last   time.Time // of the newest word, by the authority's clock
	before time.Time // the last one before an absence
	back   time.Time // when that ended, by this peer's clock
}

// heardOfAuthorities notes a word that an authority has given at a time.
func (r *Roster) heardOfAuthorities(at time.Time) {
	a, now := &r.heard, r.now()
	if at.After(now.Add(membership.Tolerance)) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !at.After(a.last) {
		return
	}
	if !a.last.IsZero() && at.Sub(a.last) > absentFor {
		a.before, a.back = a.last, now
	}
	a.last = at
}

// begin says as of when authorities were there if none is ever heard of: since this peer is a
// member.
func (a *attendance) begin(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last.IsZero() {
		a.last = at
	}
}

// attended returns the time as of which authorities were there to renew who had to be.
func (r *Roster) attended() time.Time {
	if r.authority() {
		return r.now() // this peer is one itself
	}
	now := r.now()
	a := &r.heard
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.back.IsZero() && now.Sub(a.back).Abs() < renewFor {
		return a.before
	}
	if a.last.IsZero() {
		return now // this peer is no member itself
	}
	return a.last
}

// inTime says why a member's certificate does not hold by the clock; nil if it does.
func (r *Roster) inTime(m *membership.Member) error {
	now := r.now()
	err := membership.CheckTimes("member certificate", m.NotBefore, m.NotAfter, now)
	if err != nil && now.After(m.NotAfter) && m.Unattended(now, r.attended(), r.Revocations()) {
		return nil
	}
	return err
}

// Attended is as of when authorities were heard of to renew members: membership.VerifyAsOf.
func (r *Roster) Attended() time.Time { return r.attended() }

// Unattended returns since when this peer has heard of no authority, and until when members go
// on without one: until their certificates have ended for so long. Zero times if it has
// heard of one within a day, or is one.
func (r *Roster) Unattended() (since, until time.Time) {
	own := r.Own().Member
	if r.authority() || own == nil {
		return since, until
	}
	r.heard.mu.Lock()
	last := r.heard.last
	r.heard.mu.Unlock()
	if last.IsZero() {
		last = own.NotBefore
	}
	if r.now().Sub(last) < absentFor {
		return since, until
	}
	return last, own.NotAfter.Add(r.Revocations().Unattended())
}
