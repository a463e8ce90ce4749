package admission

import (
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// assureEvery is how old the newest assurance gets before an issuer gives another.
	assureEvery = 10 * time.Minute
	// assureKept is how much newer than what is saved one has to be to be saved.
	assureKept = time.Hour
	// listOld is how old what is known of who was revoked may get, if Config does not
	// say, before that is said: half of the time in which a member has to be renewed.
	listOld = 7 * 24 * time.Hour
	// docAssurance is the newest assurance in the state directory.
	docAssurance = "assurance"
)

// assurance is one that was opened.
type assurance struct {
	membership.Assurance
	bytes []byte
}

// assured returns the newest assurance that there is for the list in force; nil: none.
func (r *Roster) assured() *assurance {
	if a := r.assurance.Load(); a.counts(r.Revocations(), r.now()) {
		return a
	}
	return nil
}

// counts says whether an assurance says something of a list now. One from the future does
// not: it was taken by a clock that has been set back since.
func (a *assurance) counts(l *membership.RevocationList, now time.Time) bool {
	return a != nil && a.Number == l.Rank() && a.Stands(l) && !a.At.After(now.Add(membership.Tolerance))
}

// Assurance returns an issuer's word that there is no newer list than this peer's, for a
// hello: the newest one known. An issuer gives another when that is old.
func (r *Roster) Assurance() []byte {
	a, now := r.assured(), r.now()
	if i := r.issuing(); i != nil && (a == nil || now.Sub(a.At).Abs() >= assureEvery || i.IsRoot() && !a.Delegate.IsZero()) {
		b, err := i.Assure(r.Revocations(), now)
		if err == nil {
			err = r.takeAssurance(b)
		}
		if err != nil {
			r.cfg.Log.Debug("an assurance of this peer's own", "err", err)
		}
		a = r.assured()
	}
	if a == nil {
		return nil
	}
	return a.bytes
}

// HearAssurance takes what a neighbour has shown. What is for another list than the one
// in force tells nothing: it is shown again when that has come.
func (r *Roster) HearAssurance(p peerid.ID, b []byte) {
	if len(b) == 0 {
		return
	}
	if err := r.takeAssurance(b); err != nil {
		r.cfg.Log.Debug("assurance refused", "from", p, "err", err)
	}
}

func (r *Roster) takeAssurance(b []byte) error {
	l, now := r.Revocations(), r.now()
	claim, err := membership.ReadAssurance(b)
	if err != nil {
		return err
	}
	old := r.assured()
	if claim.Number != l.Rank() || old != nil && !claim.At.After(old.At) {
		return nil
	}
	open, err := membership.OpenAssurance(b, r.overlay, now, l)
	if err != nil {
		return err
	}
	next := &assurance{open, append([]byte(nil), b...)}
	for {
		old := r.assurance.Load()
		if old.counts(l, now) && !next.At.After(old.At) {
			return nil
		}
		if r.assurance.CompareAndSwap(old, next) {
			break
		}
	}
	if next.Delegate.IsZero() { // delegates need somebody who renews them, too
		r.heardOfAuthorities(next.At)
	}
	r.keepAssurance(next)
	return nil
}

// keepAssurance saves one for the next start, now and then.
func (r *Roster) keepAssurance(a *assurance) {
	if r.cfg.State == nil {
		return
	}
	r.mu.Lock()
	due := a.At.Sub(r.assuranceKept).Abs() >= assureKept
	if due {
		r.assuranceKept = a.At
	}
	r.mu.Unlock()
	if due {
		r.saving.Lock()
		defer r.saving.Unlock()
		r.cfg.State.Keep(r.cfg.Log, docAssurance, a.bytes)
	}
}

// recallAssurance takes what was saved. One that is damaged is put aside, and said: until
// a neighbour shows another, this peer takes what it knows of who was revoked for older
// than it is.
func (r *Roster) recallAssurance() {
	if r.cfg.State == nil {
		return
	}
	var b []byte
	found, aside := r.cfg.State.LoadCache(docAssurance, &b)
	if aside != nil {
		r.cfg.Log.Warn("saved state is damaged and begun anew", "name", docAssurance, "err", aside)
	}
	if found {
		r.HearAssurance(r.self, b)
	}
}

// ListAsOf returns as of when this peer knows who was revoked: whoever is cut off from
// the issuers, or kept from them, knows nothing later. It is when the list in force was
// signed, or an issuer has last given its word that there is no newer one; where neither
// is known, or a clock was wrong then that was ahead by more than clocks may differ, when
// this peer's membership began. The founder's own is as of now.
func (r *Roster) ListAsOf() time.Time {
	now := r.now()
	if r.onlyAuthority() {
		return now
	}
	at := r.Revocations().Issued()
	if at.After(now.Add(membership.Tolerance)) {
		at = time.Time{}
	}
	if a := r.assured(); a != nil && a.At.After(at) {
		at = a.At
	}
	if own := r.Own(); at.IsZero() && own.Member != nil {
		at = own.Member.NotBefore
	}
	if at.After(now) { // by a clock that is ahead of this one
		return now
	}
	return at
}

// Admit says whether a chain makes a member of a peer now that may begin something new
// with this one: nobody, where what this peer knows of who was revoked is too old.
func (r *Roster) Admit(chain []byte, p peerid.ID) error {
	if _, err := r.Verify(chain, p); err != nil {
		return err
	}
	if at, old := r.listAge(); old && r.cfg.MaxListAge > 0 {
		return fmt.Errorf("%w: as of %s", membership.ErrStale, at.UTC().Format(time.RFC3339))
	}
	return nil
}

// listAge is ListAsOf, and whether that is too long ago.
func (r *Roster) listAge() (at time.Time, old bool) {
	most := r.cfg.MaxListAge
	if most <= 0 {
		most = listOld
	}
	at = r.ListAsOf()
	return at, r.now().Sub(at) > most
}

// TellAge tells Config.Aged how old what this peer knows of who was revoked is.
func (r *Roster) TellAge() {
	if r.cfg.Aged != nil {
		r.cfg.Aged(r.listAge())
	}
}
