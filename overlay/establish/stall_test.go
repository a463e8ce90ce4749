package establish

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/offers"
)

// TestDialBesideADeadOffer: the peer's process has ended just after its offer, and another
// one has been started. Whoever dials it waits three seconds for that offer, and not until
// it has failed.
func TestDialBesideADeadOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small := l.add("small", AnyPath, script{check: 20 * ms})
		large := l.add("large", AnyPath, script{never: true}, script{check: 20 * ms})
		agent, err := small.newAgent(false, false)
		if err != nil {
			t.Fatal(err)
		}
		before := (&establishment{c: small.Establisher, agent: agent}).local()
		offer, err := small.pipes.NewOffer(large.cfg.Self, before)
		if err != nil {
			t.Fatal(err)
		}
		q := offers.Request{Target: large.cfg.Self, From: small.cfg.Self, Offer: offer.Bytes()}
		answer := large.Offered(q, small.cfg.Self)
		if answer.Status != offers.Answered {
			t.Fatalf("the offer draws status %d", answer.Status)
		}
		offer.Cancel() // the end of that process
		_, took, _, err := large.connectTo(small)
		want := table[stallFor].after + 2*offerLatency + 20*ms
		if err != nil || took != want {
			t.Errorf("connected after %v, want %v: %v", took, want, err)
		}
		// The offer may still come again, by a slow way: it draws the same answer.
		if a := large.Offered(q, small.cfg.Self); a.Status != offers.Answered || !bytes.Equal(a.Answer, answer.Answer) {
			t.Errorf("again it draws status %d, and another answer", a.Status)
		}
		l.lasting()
		if small.up(large.cfg.Self) == nil || large.up(small.cfg.Self) == nil {
			t.Error("the end of the dead offer has ended the pipe")
		}
		large.mu.Lock()
		defer large.mu.Unlock()
		if len(large.offers) != 1 {
			t.Errorf("%d offers", len(large.offers))
		}
		large.Establisher.mu.Lock()
		defer large.Establisher.mu.Unlock()
		if large.responding.Len() != 0 || len(large.byPeer)+len(large.searching) > 0 {
			t.Errorf("%d responding, %d and %d establishments are left", large.responding.Len(), len(large.byPeer), len(large.searching))
		}
	})
}

// TestDialBesideASlowOffer: the peer lives, and is slow to get the answer. Whose offer stands
// is settled as always, and both get a pipe.
func TestDialBesideASlowOffer(t *testing.T) {
	for _, smallOffers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			small := l.add("small", AnyPath, script{check: 20 * ms})
			large := l.add("large", AnyPath, script{check: 20 * ms})
			offerer, dialler := small, large
			if !smallOffers {
				offerer, dialler = large, small
			}
			offerer.answerAfter = 4 * time.Second
			dialler.scripts = []script{{never: true}, {check: 20 * ms}}
			done := make(chan error, 1)
			go func() {
				_, err := offerer.Connect(t.Context(), dialler.cfg.Self)
				done <- err
			}()
			l.sleep(2 * offerLatency)
			_, took, _, err := dialler.connectTo(offerer)
			if err != nil || took > 4*time.Second+table[yieldFor].after {
				t.Errorf("the smaller one offers: %v: the dial took %v: %v", smallOffers, took, err)
			}
			if err := <-done; err != nil {
				t.Errorf("the smaller one offers: %v: who offered: %v", smallOffers, err)
			}
			l.lasting()
			if small.up(large.cfg.Self) == nil || large.up(small.cfg.Self) == nil {
				t.Error("there is no pipe")
			}
		})
	}
}

// TestNoGuessForADeadOffer: the pipe of another establishment is no reason for one that has
// stalled to guess a port: nobody has its passwords any more, and there is one run at a time.
func TestNoGuessForADeadOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		hard := script{check: -5 * time.Second, guess: 2 * time.Second}
		small := l.add("small", AnyPath, hard, hard, script{check: 20 * ms})
		large := l.add("large", AnyPath, hard, script{check: -5 * time.Second, guess: 2 * time.Second}, script{check: 20 * ms})
		relay := l.add("relay", AnyPath, script{check: 20 * ms})
		small.seenAs("20.0.0.1:7", "20.0.0.1:8")
		large.seenAs("20.0.0.2:7")
		for _, p := range []*peer{small, large} {
			p.relays = []peerid.ID{relay.cfg.Self}
			p.seen = func(peerid.ID, peerid.ID, netip.Addr) bool { return true }
		}
		agent, err := small.newAgent(false, false)
		if err != nil {
			t.Fatal(err)
		}
		said := (&establishment{c: small.Establisher, agent: agent, named: small.relays}).local()
		offer, err := small.pipes.NewOffer(large.cfg.Self, said)
		if err != nil {
			t.Fatal(err)
		}
		large.Offered(offers.Request{Target: large.cfg.Self, From: small.cfg.Self, Offer: offer.Bytes()}, small.cfg.Self)
		offer.Cancel()
		if _, _, _, err := large.connectTo(small); err != nil {
			t.Fatal(err)
		}
		l.sleep(4 * time.Second)
		if large.agent(0).guessBegan > 0 {
			t.Error("the one that has stalled guesses")
		}
		if pp := large.up(small.cfg.Self); pp == nil || pp.Relayed() {
			t.Error("the pipe is not direct")
		}
	})
}
