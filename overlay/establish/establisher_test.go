package establish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/offers"
)

// TestOnePipeForAll: all who ask for one peer wait for one establishment.
func TestOnePipeForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 20 * ms})
		got := make(chan *pipe.Pipe, 8)
		for range cap(got) {
			go func() {
				pp, err := small.Connect(t.Context(), large.cfg.Self)
				if err != nil {
					t.Error(err)
				}
				got <- pp
			}()
		}
		pp := <-got
		for range cap(got) - 1 {
			if <-got != pp {
				t.Error("two pipes")
			}
		}
		if len(small.offers) != 1 {
			t.Errorf("%d offers", len(small.offers))
		}
		if _, took, _, err := small.connectTo(large); err != nil || took != 0 {
			t.Errorf("a pipe that is up: %v after %v", err, took)
		}
		if small.PipeDead(large.cfg.Self) || small.PipeDead(small.cfg.Self) {
			t.Error("a live pipe and none are dead")
		}
	})
}

// TestCallerGivesUp: who does not wait any longer does not end the establishment,
// and hears how far it was.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 20 * ms}), l.add("large", AnyPath, script{check: 20 * ms})
		ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
		defer cancel()
		_, err := small.Connect(ctx, large.cfg.Self)
		var s *offers.StageError
		if !errors.As(err, &s) || s.Stage != offers.StageOffer || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		l.sleep(time.Second)
		if small.up(large.cfg.Self) == nil {
			t.Error("the establishment has ended with its caller")
		}
		if _, err := small.Connect(t.Context(), small.cfg.Self); err == nil {
			t.Error("a pipe to oneself")
		}
	})
}

// TestClose: in whatever state an establishment is, Close ends it at once, on both
// sides, and those who wait for it hear so.
func TestClose(t *testing.T) {
	for _, at := range []time.Duration{0, 30 * ms, 60 * ms, 110 * ms, 130 * ms, 450 * ms, 600 * ms, 1500 * ms} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			small := l.add("small", AnyPath, script{check: 2 * time.Second, turn: time.Hour}, script{check: 20 * ms})
			large := l.add("large", AnyPath, script{check: 2 * time.Second, turn: time.Hour}, script{check: 20 * ms})
			relay := l.add("relay", AnyPath, script{check: 20 * ms})
			small.relays, large.relays = []peerid.ID{relay.cfg.Self}, []peerid.ID{relay.cfg.Self}
			result := make(chan error, 1)
			go func() {
				_, err := small.Connect(t.Context(), large.cfg.Self)
				result <- err
			}()
			l.sleep(at)
			small.Close()
			large.Close()
			small.Close() // once more
			if l.now() != at {
				t.Errorf("Close at %v took until %v", at, l.now())
			}
			synctest.Wait()
			select {
			case err := <-result:
				if up := at > 650*ms; (err == nil) != up {
					t.Errorf("at %v: %v", at, err)
				}
			default:
				t.Errorf("at %v: the caller waits", at)
			}
			for _, p := range []*peer{small, large} {
				for _, a := range p.agents {
					if a.closed == 0 && at > 0 || a.TURN() != nil && a.turnClosed == 0 && at > 0 {
						t.Errorf("at %v: an agent of %s is left", at, p.name)
					}
				}
			}
			_, err := small.Connect(t.Context(), large.cfg.Self)
			var s *offers.StageError
			if up := at > 650*ms; up != (err == nil) || !up && (!errors.As(err, &s) || !s.Final()) {
				t.Errorf("after Close at %v: %v", at, err)
			}
			if a := small.Offered(offers.Request{Offer: relay.offer(small)}, relay.cfg.Self); a.Status != offers.NotHere {
				t.Errorf("an offer after Close gets status %d", a.Status)
			}
			small.CandidatesChanged()
			small.Reopen(large.cfg.Self)
			small.Renew(t.Context(), nil)
		})
	}
}

// offer makes an offer that nobody waits for.
func (p *peer) offer(to *peer) []byte {
	p.lab.t.Helper()
	pwd := password("offer", 0)
	o, err := p.pipes.NewOffer(to.cfg.Self, pipe.Local{Chain: []byte("chain"), Ufrag: wire.Ufrag(pwd), Pwd: pwd, Candidates: p.candidates})
	if err != nil {
		p.lab.t.Fatal(err)
	}
	p.lab.t.Cleanup(o.Cancel)
	return o.Bytes()
}

// flowOffer is the bytes of an offer about a flow with null encapsulation.
func (p *peer) flowOffer(to *peer) []byte {
	p.lab.t.Helper()
	o, err := p.pipes.NewOffer(to.cfg.Self, pipe.Local{Chain: []byte("chain"), Encapsulation: wire.Null,
		Flow: wire.Flow{Kind: wire.FlowRefused, Protocol: wire.FlowTCP, Policy: wire.PolicyTLS, OpenerPort: 1, ListenerPort: 2}})
	if err != nil {
		p.lab.t.Fatal(err)
	}
	p.lab.t.Cleanup(o.Cancel)
	return o.Bytes()
}

// TestOfferTwice: the same offer gets the same answer, while it is answered, while
// its establishment runs and after it has ended; a refused one the same refusal.
func TestOfferTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		settled := large.NetworkChanging()
		offer := small.offer(large)
		answers := make(chan offers.Response, 3)
		ask := func() { answers <- large.Offered(offers.Request{Offer: offer}, small.cfg.Self) }
		go ask()
		go ask()
		l.sleep(100 * ms)
		settled()
		one, two := <-answers, <-answers
		ask()
		three := <-answers
		l.sleep(20 * time.Second) // a session that was not confirmed has ended
		ask()
		four := <-answers
		for _, a := range []offers.Response{one, two, three, four} {
			if a.Status != offers.Answered || string(a.Answer) != string(one.Answer) {
				t.Errorf("status %d, %d bytes", a.Status, len(a.Answer))
			}
		}
		if len(large.agents) != 1 {
			t.Errorf("%d agents", len(large.agents))
		}
		large.noMember[small.cfg.Self] = true
		offer = small.offer(large)
		ask()
		if a := <-answers; a.Status != offers.Refused || len(a.Answer) == 0 {
			t.Errorf("%+v", a)
		}
		large.noMember[small.cfg.Self] = false
		ask()
		if a := <-answers; a.Status != offers.Refused || len(a.Answer) == 0 {
			t.Errorf("again: %+v", a)
		}
		if a := large.Offered(offers.Request{Offer: []byte("nonsense")}, small.cfg.Self); a.Status != offers.Refused || len(a.Answer) > 0 {
			t.Errorf("nonsense: %+v", a)
		}
	})
}

// TestOvertakenOffer: an offer that comes once more when a newer one of the peer's has taken
// its place, as by a forwarder that was slow, does not take it back: the peer has given it
// up, and would wait in vain for checks of what it goes on with.
func TestOvertakenOffer(t *testing.T) {
	for _, answered := range []bool{true, false} { // before the newer one came
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
			read := func(offer []byte) *pipe.Incoming {
				in, err := large.pipes.ReadOffer(offer)
				if err != nil {
					t.Fatal(err)
				}
				return in
			}
			settled := large.NetworkChanging()
			if answered {
				settled()
			}
			older := small.offer(large)
			if _, _, status := large.admit(read(older), peerid.ID{}); status != offers.Answered {
				t.Fatalf("status %d", status)
			}
			l.sleep(20 * ms)
			// Before what the older one has begun sees that it is over:
			newer, _, status := large.admit(read(small.offer(large)), peerid.ID{})
			if newer == nil || status != offers.Answered {
				t.Fatalf("the newer one gets status %d", status)
			}
			e, again, status := large.admit(read(older), peerid.ID{})
			if e != nil || (again != nil) != answered || again == nil && status != offers.Busy {
				t.Errorf("answered %v: the older one begins %v, and gets an answer of %d bytes, status %d", answered, e != nil, len(again), status)
			}
			large.mu.Lock()
			stands := large.byPeer[small.cfg.Self]
			large.mu.Unlock()
			if stands != newer {
				t.Errorf("answered %v: what the newer offer has begun was given up", answered)
			}
			if !answered {
				settled()
			}
		})
	}
}

// TestNewerOffer: an offer of a peer whose offer is being answered takes that one's
// place.
func TestNewerOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		go large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self)
		l.sleep(100 * ms)
		waiting := make(chan error, 1)
		go func() {
			_, err := large.Connect(t.Context(), small.cfg.Self)
			waiting <- err
		}()
		l.sleep(100 * ms)
		go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
		l.sleep(100 * ms)
		if got, want := large.trace(0), "settling@0 checking@0 lingering@250"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		select {
		case err := <-waiting:
			t.Errorf("who waits does not wait for the newer one: %v", err)
		default:
		}
		if len(large.order) != 2 {
			t.Errorf("%d establishments", len(large.order))
		}
		for _, e := range large.events {
			if e.Stage != "" {
				t.Errorf("it failed: %+v", e)
			}
		}
	})
}

// TestManyOffers: others can begin so many establishments here and no more.
func TestManyOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		free := large.hold(respondMax, account.Account{})
		if a := large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self); a.Status != offers.Busy || len(a.Answer) > 0 {
			t.Errorf("%+v", a)
		}
		free(respondMax)
		if a := large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self); a.Status != offers.Answered {
			t.Errorf("%+v", a)
		}
		l.lasting()
		if n := large.responding.Len(); n != 0 {
			t.Errorf("%d are counted", n)
		}
	})
}

// hold has n establishments counted that an account has begun; free ends so many of them.
func (p *peer) hold(n int, of account.Account) (free func(n int)) {
	p.Establisher.mu.Lock()
	defer p.Establisher.mu.Unlock()
	var held []*establishment
	for range n {
		e := p.newEstablishment(peerid.ID{})
		p.responding.Add(e, of)
		held = append(held, e)
	}
	return func(n int) {
		p.Establisher.mu.Lock()
		defer p.Establisher.mu.Unlock()
		for _, e := range held[:n] {
			p.responding.Remove(e)
		}
		held = held[n:]
	}
}

// TestManyOffersOfOneToken is the attack: keys of one token begin all establishments
// that others may. They get a quarter, and who came by another token is answered. So it is
// with keys that one delegate has let in, each by a token of its own: they get half.
func TestManyOffersOfOneToken(t *testing.T) {
	manyOffersOf(t, account.Account{Invitation: "a token"}, account.Account{Invitation: "a token"}, respondPerAccount)
	manyOffersOf(t, account.Account{Delegate: "a delegate"}, account.Account{Invitation: "a token", Delegate: "a delegate"}, 2*respondPerAccount)
}

// manyOffersOf has as many establishments as most counted as an account's, and one more
// begun by a peer with another account, which is to have no more of it.
func manyOffersOf(t *testing.T, counted, charged account.Account, most int) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, other, large := l.add("small", AnyPath, script{never: true}), l.add("other", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		large.cfg.Account = func(p peerid.ID) account.Account {
			if p == other.cfg.Self {
				return account.Account{Invitation: "another token", Delegate: "another delegate"}
			}
			return charged
		}
		free := large.hold(most, counted)
		if a := large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self); a.Status != offers.Busy || len(a.Answer) > 0 {
			t.Errorf("one more of the token: %+v", a)
		}
		if a := large.Offered(offers.Request{Offer: other.offer(large)}, other.cfg.Self); a.Status != offers.Answered {
			t.Errorf("of another token: %+v", a)
		}
		free(1)
		if a := large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self); a.Status != offers.Answered {
			t.Errorf("the last of the token: %+v", a)
		}
		l.lasting()
		large.Establisher.mu.Lock()
		n := large.responding.Len()
		large.Establisher.mu.Unlock()
		if free(most - 1); n != most-1 || large.responding.Len() != 0 {
			t.Errorf("%d are charged when they have ended", n)
		}
	})
}

// TestManyOffersOfTwoDelegates is the attack: two delegates have begun all establishments that
// others may. Who came by a token of the founder's is answered, and the last one of those who
// have most ends for it; its peer is told that this one is busy if it has had no answer yet,
// and does not get the place back.
func TestManyOffersOfTwoDelegates(t *testing.T) {
	for _, changing := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			small, other, large := l.add("small", AnyPath, script{never: true}), l.add("other", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
			large.cfg.Account = func(p peerid.ID) account.Account {
				if p == other.cfg.Self {
					return account.Account{Invitation: "a token of the founder's"}
				}
				return account.Account{Invitation: "token 0", Delegate: "delegate 0"}
			}
			const most = respondMax / 2
			large.hold(most-1, account.Account{Invitation: "token 1", Delegate: "delegate 1"})
			large.hold(1, account.Account{})
			for i := range most - 1 {
				large.hold(1, account.Account{Invitation: fmt.Sprint("token 0.", i), Delegate: "delegate 0"})
			}
			if changing { // no answer leaves for a while
				defer large.NetworkChanging()()
			}
			offered := func(p *peer) chan offers.Response {
				answer := make(chan offers.Response, 1)
				b := p.offer(large)
				go func() { answer <- large.Offered(offers.Request{Offer: b}, p.cfg.Self) }()
				synctest.Wait()
				return answer
			}
			first, friend := offered(small), offered(other)
			again := offered(small)
			if a := <-friend; a.Status != offers.Answered || len(a.Answer) == 0 {
				t.Errorf("changing %v: of the founder's token: %+v", changing, a)
			}
			want := offers.Answered
			if changing {
				want = offers.Busy
			}
			if a := <-first; a.Status != want {
				t.Errorf("changing %v: who gave way was told %+v", changing, a)
			}
			if a := <-again; a.Status != offers.Busy {
				t.Errorf("changing %v: who gave way comes again: %+v", changing, a)
			}
			if got := large.trace(0); !strings.HasSuffix(got, "lingering@0") && !strings.Contains(got, "lingering@0 ") {
				t.Errorf("changing %v: who gave way: %s", changing, got)
			}
			l.lasting()
			if n := large.responding.Len(); n != 2*most-1 {
				t.Errorf("changing %v: %d are counted when they have ended", changing, n)
			}
		})
	}
}

// TestHalfOpenOfOneToken: who makes an offer while keys of its token hold all that may be
// half open of one is told that the peer is busy, which no Dial ends for, and not that it
// refuses.
func TestHalfOpenOfOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.account = "a token"
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		for i := range 64 {
			key := ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-2), 1, byte(i)))
			e, err := pipe.NewEndpoint(pipe.Config{Key: key, Handler: handler{}})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			offer, err := e.NewOffer(large.cfg.Self, pipe.Local{})
			if err != nil {
				t.Fatal(err)
			}
			defer offer.Cancel()
			in, err := large.pipes.ReadOffer(offer.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := in.Accept(pipe.Local{}); err != nil {
				t.Fatal(err)
			}
		}
		large.flow = func(in *pipe.Incoming) offers.Response {
			t.Error("it is asked about a flow")
			return offers.Refuse(in, offers.Busy)
		}
		more, flow := small.offer(large), small.flowOffer(large)
		for range 2 { // each by two ways
			for what, b := range map[string][]byte{"a pipe": more, "a flow": flow} {
				if a := large.Offered(offers.Request{Offer: b}, small.cfg.Self); a.Status != offers.Busy || len(a.Answer) > 0 {
					t.Errorf("one more of the token, of %s: %+v", what, a)
				}
			}
		}
		time.Sleep(40 * time.Second)
		if a := large.Offered(offers.Request{Offer: more}, small.cfg.Self); a.Status != offers.Busy {
			t.Errorf("the same, late: %+v", a)
		}
		time.Sleep(20 * time.Second) // they have ended
		if a := large.Offered(offers.Request{Offer: small.offer(large)}, small.cfg.Self); a.Status != offers.Answered {
			t.Errorf("in the end: %+v", a)
		}
		l.lasting()
	})
}

// TestFlows: offers about flows with null encapsulation go to whom they concern.
func TestFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{}), l.add("large", AnyPath, script{})
		offer := func() []byte { return small.flowOffer(large) }
		var got peerid.ID
		large.flow = func(in *pipe.Incoming) offers.Response {
			got = in.Peer
			return offers.Refuse(in, offers.Busy)
		}
		if a := large.Offered(offers.Request{Offer: offer()}, small.cfg.Self); a.Status != offers.Busy || got != small.cfg.Self {
			t.Errorf("status %d, from %v", a.Status, got)
		}
		large.cfg.Flow = nil
		if a := large.Offered(offers.Request{Offer: offer()}, small.cfg.Self); a.Status != offers.Refused {
			t.Errorf("status %d where there are none", a.Status)
		}
	})
}

// TestRevived: who waits for a new session of a silent pipe has the old one when it
// comes back by itself.
func TestRevived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{check: 20 * ms}, script{never: true}), l.add("large", AnyPath, script{check: 20 * ms}, script{never: true})
		pp, _, _, err := small.connectTo(large)
		if err != nil {
			t.Fatal(err)
		}
		l.sleep(5 * time.Second)
		silence(l, small, large)
		if !small.PipeDead(large.cfg.Self) {
			t.Error("a silent pipe is not dead")
		}
		small.deliver = always(context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() { l.setBlock(nil) })
		again, took, _, err := small.connectTo(large)
		if err != nil || again != pp || took > 3*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
