package nullflow

import (
	"context"
	"errors"
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/offers"
)

const (
	offerTries = 20 // while the peer is busy
	offerPause = 100 * time.Millisecond
)

// RoutedOffers are Offers that go the way of a pipe's. All fields are required, and
// the functions may be called from any goroutine.
type RoutedOffers struct {
	// New seals an offer of l for a peer.
	New func(p peerid.ID, l pipe.Local) (*pipe.Offer, error)
	// Deliver brings an offer to its peer, once, and makes a session of the answer.
	Deliver func(ctx context.Context, p peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error)
	// Verify says whether a chain makes a member of a peer now.
	Verify func(chain []byte, p peerid.ID) error
	// Unreached is told of a peer that an offer has not reached: what is known of
	// where it is may be old.
	Unreached func(p peerid.ID)
}

var _ Offers = RoutedOffers{}

// Ask implements Offers; its errors are *offers.StageError.
func (r RoutedOffers) Ask(ctx context.Context, p peerid.ID, l pipe.Local) (pipe.Remote, error) {
	var err error
	for try := range offerTries {
		if try > 0 && !pause.For(ctx, offerPause) {
			break
		}
		var remote pipe.Remote
		if remote, err = r.askOnce(ctx, p, l); !errors.Is(err, offers.ErrBusy) {
			return remote, err
		}
	}
	return pipe.Remote{}, err
}

func (r RoutedOffers) askOnce(ctx context.Context, p peerid.ID, l pipe.Local) (remote pipe.Remote, err error) {
	offer, err := r.New(p, l)
	if err != nil {
		return remote, &offers.StageError{Stage: offers.StageOffer, Peer: p, Err: err}
	}
	defer offer.Cancel()
	session, _, err := r.Deliver(ctx, p, offer)
	if errors.Is(err, pipe.ErrHandshake) {
		return remote, &offers.StageError{Stage: offers.StageHandshake, Peer: p, Err: err}
	}
	if err != nil {
		if !errors.Is(err, offers.ErrBusy) {
			r.Unreached(p)
		}
		return remote, &offers.StageError{Stage: offers.StageOffer, Peer: p, Err: err}
	}
	remote = session.Remote()
	session.Cancel() // a flow has no use for a pipe's keys
	if err := r.Verify(remote.Chain, p); err != nil {
		return remote, &offers.StageError{Stage: offers.StageHandshake, Peer: p, Err: err}
	}
	return remote, nil
}

// Response is the answer as an offer's way back has it.
func (a Answer) Response() offers.Response {
	status := map[Verdict]offers.Status{Answered: offers.Answered, Refused: offers.Refused, Glare: offers.Glare, Busy: offers.Busy}
	return offers.Response{Status: status[a.Verdict], Answer: a.Sealed}
}

// StageError says to whom and at which stage a flow failed, with the error that
// DialTCP or DialUDP has returned.
func StageError(p peerid.ID, err error) error {
	var s *offers.StageError
	if errors.As(err, &s) {
		return err
	}
	stage, e := offers.StageOffer, (*Error)(nil)
	if errors.As(err, &e) {
		err = e.Err
		stage = [...]string{StageOffer: offers.StageOffer, StageCheck: offers.StageCheck, StageHandshake: offers.StageHandshake}[e.Stage]
	}
	return &offers.StageError{Stage: stage, Peer: p, Err: err}
}
