package offers

import (
	"errors"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// A no ends an offer only if the target has sealed it, as it seals an answer, or
// says it on its own connection. What a forwarder says in its name is one way
// that has failed, and no reason to give up if it was the last.

// Refuse says no to an offer, by this peer's key where that ends it.
func Refuse(in *pipe.Incoming, status Status) Response {
	switch status {
	case Refused:
		return Response{Status: status, Answer: in.Refuse(wire.Refused)}
	case Glare:
		return Response{Status: status, Answer: in.Refuse(wire.Glare)}
	}
	in.Reject()
	return Response{Status: status}
}

// Refusal is what was said to this offer before, if it was refused.
func Refusal(in *pipe.Incoming) (a Response, ok bool) {
	reason, b := in.Refusal()
	switch {
	case b == nil:
		return a, false
	case reason == wire.Glare:
		return Response{Status: Glare, Answer: b}, true
	}
	return Response{Status: Refused, Answer: b}, true
}

// finish makes a session of what has come back, directly or by a forwarder. over
// says that no other way would bring another result.
func finish(offer *pipe.Offer, a Response, direct bool) (s *pipe.Session, over bool, err error) {
	said := a.Err()
	if said == nil || len(a.Answer) > 0 {
		s, err = offer.Finish(a.Answer)
		var no *pipe.RefusedError
		switch {
		case err == nil:
			return s, false, nil // whatever the status is
		case errors.As(err, &no) && no.Reason == wire.Glare:
			return nil, true, ErrGlare
		case no != nil:
			return nil, true, ErrRefused
		case said == nil:
			return nil, !errors.Is(err, pipe.ErrHandshake), err
		}
	}
	if direct && a.Forwarder.IsZero() {
		return nil, final(said), said
	}
	if final(said) {
		said = errClaimed
	}
	return nil, false, said
}
