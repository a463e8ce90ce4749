package pipe

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// stampOf is a timestamp that is ahead of the bubble's clock.
func stampOf(ahead time.Duration) uint64 { return uint64(time.Now().Add(ahead).UnixMicro()) }

// An offer from the future is refused, and locks nobody out: not its own key,
// whoever has made it, nor the peer in whose name a thief of this peer's key
// makes offers that nobody confirms.
func TestOfferFromTheFuture(t *testing.T) {
	for _, ahead := range []time.Duration{9 * time.Minute, 11 * time.Minute, 1000 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			b := newHost(t, n, 2, "192.0.2.2:1000")
			thief := newHost(t, n, 1, "192.0.2.66:1000")
			for range 3 {
				thief.mu.Lock()
				thief.timestamp = 0 // as a thief would: any it likes
				thief.mu.Unlock()
				offer, err := thief.newOfferAt(b, stampOf(ahead))
				if err != nil {
					t.Fatal(err)
				}
				defer offer.Cancel()
				in, err := b.ReadOffer(offer.Bytes())
				if want := ahead <= 10*time.Minute; want != (err == nil) || err != nil && !errors.Is(err, ErrClock) {
					t.Errorf("%v ahead: %v", ahead, err)
				}
				if err == nil {
					if _, _, err := in.Accept(Local{}); err != nil {
						t.Error(err)
					}
				}
			}
			a := newHost(t, n, 1, "192.0.2.1:1000")
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			settle(time.Second)
			if pa.Err() != nil || pb.Err() != nil {
				t.Errorf("the peer itself: %v, %v", pa.Err(), pb.Err())
			}
		})
	}
}

// newOfferAt makes an offer with a timestamp.
func (h *host) newOfferAt(to *host, stamp uint64) (*Offer, error) {
	o, err := h.NewOffer(to.id, Local{})
	if err != nil {
		return nil, err
	}
	o.Cancel()
	o = &Offer{e: h.Endpoint, peer: to.id, stamp: stamp, kp: &keypair{}}
	copy(o.session[:], "of a thief's own")
	if o.x, err = h.Endpoint.id.Initiate(h.cfg.Overlay, to.id, nil, h.ent); err != nil {
		return nil, err
	}
	return o, o.write(Local{})
}

// Once an offer was confirmed, those before it are old, and a peer whose clock
// was ahead, and is set, makes offers that are taken.
func TestTimestampsCountOnceConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		older, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		defer older.Cancel()
		pa, _ := connect(t, a, b)
		send(pa, packet(100))
		settle(time.Second)
		if _, err := b.ReadOffer(older.Bytes()); !errors.Is(err, ErrReplayed) {
			t.Errorf("an offer older than a confirmed one: %v", err)
		}
		ahead := newHost(t, n, 3, "192.0.2.3:1000", func(c *Config) { c.LastTimestamp = stampOf(1000 * time.Hour) })
		set, err := ahead.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		defer set.Cancel()
		if _, err := b.ReadOffer(set.Bytes()); err != nil {
			t.Errorf("from a peer whose clock was ahead: %v", err)
		}
	})
}

// A recorded offer is not taken by a process that a restart has made forget it,
// once it is older than clocks differ.
func TestRecordedOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		recorded, err := a.NewOffer(b.id, Local{})
		if err != nil {
			t.Fatal(err)
		}
		defer recorded.Cancel()
		b.Close()
		settle(10*time.Minute + time.Second)
		b = newHost(t, n, 2, "192.0.2.2:1000")
		if _, err := b.ReadOffer(recorded.Bytes()); !errors.Is(err, ErrClock) {
			t.Errorf("a recorded offer: %v", err)
		}
	})
}
