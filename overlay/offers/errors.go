package offers

import (
	"context"
	"errors"
	"fmt"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Why an offer was not answered, found by errors.Is.
var (
	ErrNotHere = errors.New("no member reached has a connection to the peer")
	ErrGlare   = errors.New("the peer's own offer is under way")
	ErrBusy    = errors.New("too many offers: a limit of the member that was asked")
	ErrRefused = errors.New("refused by the peer")
	errLooped  = errors.New("offer went in a circle")
	errClaimed = errors.New("a member says that the peer refuses, and does not show that it does")
	errSilent  = fmt.Errorf("the peer does not answer its server: %w", context.DeadlineExceeded)
)

// ErrClosed says that this peer has left the overlay.
var ErrClosed = errors.New("closed")

// Err is what the initiator makes of a status; nil for an answer.
func (a Response) Err() error {
	switch a.Status {
	case Answered:
		return nil
	case Glare:
		return ErrGlare
	case Busy:
		return ErrBusy
	case Refused:
		return ErrRefused
	case Loop:
		return errLooped
	case Silent:
		return errSilent
	}
	return ErrNotHere
}

// The stages at which a connection can fail, as in a Dial's error.
const (
	StageName      = "name"
	StageOffer     = "offer"
	StageCheck     = "connectivity check"
	StageHandshake = "handshake"
)

// StageError says at which stage a connection failed and to whom.
type StageError struct {
	Stage string
	Peer  peerid.ID
	Err   error // never nil
}

func (e *StageError) Error() string { return fmt.Sprintf("%s (peer %s): %v", e.Stage, e.Peer, e.Err) }
func (e *StageError) Unwrap() error { return e.Err }

// Final says whether another attempt would be in vain: the peer has said no,
// has shown that it is no member, or this peer has left the overlay, or knows too little
// of who was revoked.
func (e *StageError) Final() bool {
	return errors.Is(e.Err, ErrRefused) || errors.Is(e.Err, ErrClosed) ||
		e.Stage == StageHandshake && (errors.Is(e.Err, membership.ErrNotMember) || errors.Is(e.Err, membership.ErrStale))
}

// OfflineError says that a peer is not in the overlay now, as far as its members
// can tell: none of those that were asked to forward an offer could, and it did
// not answer itself.
type OfflineError struct {
	Members int   // that were asked and have no connection to it, or a silent one
	Err     error // what the last way said
}

func (e *OfflineError) Error() string {
	switch e.Members {
	case 0:
		return "offline: no other member knows it, and it does not answer itself"
	case 1:
		return "offline: the 1 member that knew it cannot reach it"
	}
	return fmt.Sprintf("offline: none of the %d members that knew it can reach it", e.Members)
}

func (e *OfflineError) Unwrap() error { return e.Err }

// unreachedError is an error in words for people. What caused it, which may be
// libp2p's list of addresses, is for errors.Is.
type unreachedError struct {
	text string
	err  error
}

func (e *unreachedError) Error() string { return e.text }
func (e *unreachedError) Unwrap() error { return e.err }

// undelivered is the error of an offer that reached its target on no way, last
// being what the last one said: of unconnected members that have no connection to
// the target, and mute ones that did not answer. others says whether a member
// besides the target is connected.
func undelivered(last error, unconnected, mute int, others bool) error {
	switch {
	case final(last), errors.Is(last, ErrBusy), errors.Is(last, errLooped), errors.Is(last, context.Canceled):
		return last
	case unconnected == 0 && mute == 1:
		return &unreachedError{"no answer from the 1 member asked for it", last}
	case unconnected == 0 && mute > 0:
		return &unreachedError{fmt.Sprintf("no answer from the %d members asked for it", mute), last}
	case unconnected == 0 && !others:
		return &unreachedError{"no member is connected to ask for it, and it does not answer itself", last}
	}
	return &OfflineError{unconnected, last}
}

// final says whether no other way would bring another result, if it is the
// target that says so.
func final(err error) bool { return errors.Is(err, ErrGlare) || errors.Is(err, ErrRefused) }

// worse returns the error that tells more about why no way has led to the target: what
// the target itself has said, then silence, then the word of a forwarder. Silence is a
// reason to try again, which a forwarder must not take away.
func worse(a, b error) error {
	if weight(b) > weight(a) || weight(b) == weight(a) && weight(b) == aWord {
		return b
	}
	return a
}

// What an error of a way is worth.
const (
	nothing = iota
	notHere
	aWord // of a forwarder, or of this peer's own connection to one; the last one counts
	silence
	refused
	glare
)

func weight(err error) int {
	switch {
	case err == nil:
		return nothing
	case errors.Is(err, ErrGlare):
		return glare
	case final(err):
		return refused
	case errors.Is(err, context.DeadlineExceeded):
		return silence
	case errors.Is(err, ErrNotHere):
		return notHere
	}
	return aWord
}
