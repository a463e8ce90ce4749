package membership

import (
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// What can be wrong with a chain, a token or a list; tested for with
// errors.Is. The texts around them say which certificate it was.
var (
	ErrNonCanonical = canon.ErrNonCanonical
	ErrSignature    = canon.ErrSignature

	ErrVersion      = errors.New("written by a newer version")
	ErrWrongOverlay = errors.New("belongs to another overlay")
	ErrTooDeep      = errors.New("chain too deep")
	ErrIncomplete   = errors.New("chain does not end in a member")
	ErrKind         = errors.New("certificate of this kind may not stand here")
	ErrRole         = errors.New("role not granted by the issuer")
	ErrLabel        = errors.New("label not granted by the issuer")
	ErrLifetime     = errors.New("a lifetime that the issuer may not grant")
	ErrExpired      = errors.New("expired")
	ErrNotYetValid  = errors.New("not yet valid")
	ErrRevoked      = errors.New("revoked")
	ErrStale        = errors.New("what is known of who was revoked is too old")
	ErrPossession   = errors.New("member key did not prove possession")
	ErrTags         = errors.New("not tags that can be given")
	ErrUses         = errors.New("not a number of members that an invitation can be for")
	ErrSerial       = errors.New("serial number of a time at which it cannot have been given")
	ErrKey          = errors.New("not a usable Ed25519 key")
	ErrTooLarge     = errors.New("too large")
	ErrBadLabel     = errors.New("not a host label")
	ErrBadDomain    = errors.New("not a domain")

	// ErrUsed: an invitation has made as many members as it is for.
	ErrUsed = errors.New("the token was used already")
	// ErrContested: as many others have entered by an invitation as it is for, and
	// nobody has decided who stands.
	ErrContested = errors.New("another peer has entered by the invitation, and the founder or a delegate has not confirmed either yet")

	ErrNotToken     = errors.New("not an idloc token")
	ErrTokenVersion = errors.New("token of a newer version of idloc")
	ErrTokenDamaged = errors.New("token is damaged")

	ErrListFull       = errors.New("revocation list is full")
	ErrListUnverified = errors.New("revocation list was not verified")

	// ErrSignatures: fewer authorities have signed than have to agree.
	ErrSignatures = errors.New("too few authorities have signed")
	// ErrVoid: an authority has signed it that was removed with all that it has signed.
	ErrVoid = fmt.Errorf("%w with the authority that has given it", ErrRevoked)
	// ErrNothing: a motion by which nothing changes.
	ErrNothing = errors.New("it is so already")
	// ErrAuthority: a change that cannot be made of who the authorities are.
	ErrAuthority = errors.New("the authorities cannot be changed so")
)

// ErrNotMember is wrapped by errors about a peer that has shown no valid chain.
var ErrNotMember = errors.New("not a member of this overlay")

// A TimeError says that something is expired or not yet valid by this
// machine's clock, and by how much. It wraps ErrExpired or ErrNotYetValid.
type TimeError struct {
	Err   error     // ErrExpired or ErrNotYetValid
	What  string    // "invitation certificate"
	Limit time.Time // the bound that Now is outside of
	Now   time.Time // what this machine's clock said
}

// farOff is where a clock is suspected rather than a delay: far beyond what
// two clocks within Tolerance can differ by.
const farOff = time.Hour

// FarOff says whether a wrong clock is a better explanation than a delay.
func (e *TimeError) FarOff() bool { return e.Now.Sub(e.Limit).Abs() >= farOff }

func (e *TimeError) Error() string {
	off := e.Now.Sub(e.Limit).Abs().Round(time.Second)
	limit, now := e.Limit.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339)
	if e.Err == ErrNotYetValid {
		s := fmt.Sprintf("%s: not yet valid: begins %s, %v after this machine's clock (%s)", e.What, limit, off, now)
		if e.FarOff() {
			s += "; the clock of this machine, or of the one that issued it, is wrong"
		}
		return s
	}
	s := fmt.Sprintf("%s: expired at %s, %v ago by this machine's clock (%s)", e.What, limit, off, now)
	if e.FarOff() {
		s += "; if that is not the time, the clock is wrong"
	}
	return s
}

func (e *TimeError) Unwrap() error { return e.Err }

// CheckTimes returns a *TimeError if now, give or take Tolerance, is outside
// of [from, to]; a zero bound does not bound. what begins the error's text.
func CheckTimes(what string, from, to, now time.Time) error {
	return checkWithin(what, from, to, now, Tolerance)
}

// CheckEntry is CheckTimes for the end of an invitation, which is kept more
// narrowly: who lets somebody in until then means then.
func CheckEntry(end, now time.Time) error {
	return checkWithin("invitation", time.Time{}, end, now, EntryTolerance)
}

func checkWithin(what string, from, to, now time.Time, late time.Duration) error {
	if !from.IsZero() && from.After(now.Add(Tolerance)) {
		return &TimeError{ErrNotYetValid, what, from, now}
	}
	if !to.IsZero() && to.Before(now.Add(-late)) {
		return &TimeError{ErrExpired, what, to, now}
	}
	return nil
}
