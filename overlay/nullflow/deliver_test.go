package nullflow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/pipetest"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/offers"
)

// route is a way between two endpoints.
type route struct {
	a, b      *pipetest.End
	fail      func(try int) error // before an offer arrives
	lie       bool                // the answer is changed on its way
	tries     int
	unreached int
	member    error
}

func newRoute(t *testing.T) *route {
	var n pipetest.Net
	return &route{a: n.New(t, 1), b: n.New(t, 2)}
}

func (r *route) offers() RoutedOffers {
	return RoutedOffers{
		New: r.a.NewOffer,
		Deliver: func(_ context.Context, p peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error) {
			r.tries++
			if r.fail != nil {
				if err := r.fail(r.tries); err != nil {
					return nil, peerid.ID{}, err
				}
			}
			in, err := r.b.ReadOffer(offer.Bytes())
			if err != nil {
				return nil, peerid.ID{}, err
			}
			answer, s, err := in.Accept(pipe.Local{Chain: []byte("theirs")})
			if err != nil {
				return nil, peerid.ID{}, err
			}
			s.Cancel()
			if r.lie {
				answer[len(answer)/2] ^= 1
			}
			mine, err := offer.Finish(answer)
			return mine, peerid.ID{}, err
		},
		Verify:    func([]byte, peerid.ID) error { return r.member },
		Unreached: func(peerid.ID) { r.unreached++ },
	}
}

// An offer of a flow waits for a peer that is busy, not for ever, and not for one that
// cannot be reached; what it says of its end is a Dial's.
func TestRoutedOffers(t *testing.T) {
	busyFor := func(n int) func(int) error {
		return func(try int) error {
			if try <= n {
				return fmt.Errorf("a forwarder: %w", offers.ErrBusy)
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		fail      func(int) error
		lie       bool
		member    error
		stage     string // "": it succeeds
		is        error
		tries     int
		unreached int
		took      time.Duration
	}{
		"at once":             {nil, false, nil, "", nil, 1, 0, 0},
		"busy for a while":    {busyFor(3), false, nil, "", nil, 4, 0, 3 * offerPause},
		"busy for ever":       {busyFor(1000), false, nil, offers.StageOffer, offers.ErrBusy, offerTries, 0, (offerTries - 1) * offerPause},
		"nobody knows it":     {func(int) error { return offers.ErrNotHere }, false, nil, offers.StageOffer, offers.ErrNotHere, 1, 1, 0},
		"it says no":          {func(int) error { return offers.ErrRefused }, false, nil, offers.StageOffer, offers.ErrRefused, 1, 1, 0},
		"a forged answer":     {nil, true, nil, offers.StageHandshake, pipe.ErrHandshake, 1, 0, 0},
		"no member, it turns": {nil, false, membership.ErrNotMember, offers.StageHandshake, membership.ErrNotMember, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoute(t)
				r.fail, r.lie, r.member = c.fail, c.lie, c.member
				start := time.Now()
				remote, err := r.offers().Ask(t.Context(), r.b.ID, pipe.Local{Chain: []byte("mine")})
				var s *offers.StageError
				switch {
				case c.stage == "" && (err != nil || string(remote.Chain) != "theirs"):
					t.Errorf("%q, %v", remote.Chain, err)
				case c.stage != "" && (!errors.As(err, &s) || s.Stage != c.stage || s.Peer != r.b.ID || !errors.Is(err, c.is)):
					t.Errorf("%v", err)
				}
				if took := time.Since(start); r.tries != c.tries || r.unreached != c.unreached || took != c.took {
					t.Errorf("%d tries in %v, told %d times", r.tries, took, r.unreached)
				}
			})
		})
	}
}

// Whoever gives up waiting for a busy peer is not kept.
func TestRoutedOffersCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t)
		r.fail = func(int) error { return offers.ErrBusy }
		ctx, cancel := context.WithTimeout(t.Context(), 5*offerPause/2)
		defer cancel()
		start := time.Now()
		_, err := r.offers().Ask(ctx, r.b.ID, pipe.Local{})
		if took := time.Since(start); !errors.Is(err, offers.ErrBusy) || took != 5*offerPause/2 || r.tries != 3 {
			t.Errorf("%v after %d tries in %v", err, r.tries, took)
		}
	})
}

// A local side that no offer can be made of is an error, and nothing is sent.
func TestRoutedOffersOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t)
		var s *offers.StageError
		_, err := r.offers().Ask(t.Context(), r.b.ID, pipe.Local{Chain: make([]byte, wire.MaxChain+1)})
		if !errors.As(err, &s) || s.Stage != offers.StageOffer || r.tries != 0 || r.unreached != 0 {
			t.Errorf("%v after %d tries", err, r.tries)
		}
	})
}

func TestStageError(t *testing.T) {
	p := peerid.ID{1}
	inner := errors.New("why")
	routed := &offers.StageError{Stage: offers.StageHandshake, Peer: peerid.ID{2}, Err: inner}
	for _, c := range []struct {
		err   error
		stage string
		peer  peerid.ID
	}{
		{inner, offers.StageOffer, p},
		{&Error{StageOffer, inner}, offers.StageOffer, p},
		{&Error{StageCheck, inner}, offers.StageCheck, p},
		{fmt.Errorf("dial: %w", &Error{StageHandshake, inner}), offers.StageHandshake, p},
		{routed, offers.StageHandshake, routed.Peer},
	} {
		var s *offers.StageError
		if err := StageError(p, c.err); !errors.As(err, &s) || s.Stage != c.stage || s.Peer != c.peer || !errors.Is(err, inner) {
			t.Errorf("%v is %v", c.err, err)
		}
	}
	for v, want := range map[Verdict]offers.Status{Answered: offers.Answered, Refused: offers.Refused, Glare: offers.Glare, Busy: offers.Busy} {
		if r := (Answer{Verdict: v, Sealed: []byte{7}}).Response(); r.Status != want || len(r.Answer) != 1 {
			t.Errorf("%v is %v", v, r)
		}
	}
}

// UDP checks of package ice find a pair between two sockets of this host, and carry
// what is sent over it.
func TestUDPChecksOfICE(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	make1 := func() UDPChecks {
		c, err := NewUDPChecks(ctx, ice.FlowConfig{
			Pacer: ice.NewDemux(ice.DemuxConfig{}).Pacer(), Addrs: []netip.Addr{home}, STUNServers: func() []netip.AddrPort { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	x, y := make1(), make1()
	remoteOf := func(c UDPChecks) (r pipe.Remote) {
		r.Ufrag, r.Pwd = c.Credentials()
		r.Candidates = c.Candidates()
		return r
	}
	type result struct {
		local, to netip.AddrPort
		err       error
	}
	results := make(chan result, 1)
	go func() {
		local, to, err := y.Run(ctx, false, remoteOf(x))
		results <- result{local, to, err}
	}()
	local, to, err := x.Run(ctx, true, remoteOf(y))
	other := <-results
	if err != nil || other.err != nil || local != other.to || to != other.local {
		t.Fatalf("%v to %v, %v; %v to %v, %v", local, to, err, other.local, other.to, other.err)
	}
	got := make(chan string, 1)
	y.Receive(func(b []byte) { got <- string(b) })
	if err := x.Send([]byte("bare")); err != nil {
		t.Fatal(err)
	}
	if s := wait(t, got); s != "bare" {
		t.Errorf("%q came", s)
	}
}

// Without an address there is nothing to check from.
func TestUDPChecksWithoutAddress(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := NewUDPChecks(ctx, ice.FlowConfig{STUNServers: func() []netip.AddrPort { return nil }})
	if err == nil {
		defer c.Close()
		if _, _, err = c.Run(ctx, true, pipe.Remote{}); err == nil {
			t.Error("a pair of nothing")
		}
	}
}
