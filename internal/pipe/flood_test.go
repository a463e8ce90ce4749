package pipe

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A member that makes ten times as many offers as are read of one is held to
// the limit, and the others' offers are served all the same.
func TestOfferFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			others   = 20
			duration = 5 * time.Second
			every    = time.Second / (10 * offersPerSecond)
		)
		n := newNetwork(time.Millisecond)
		b := newHost(t, n, 1, "192.0.2.1:1000")
		flooder := newHost(t, n, 2, "192.0.2.2:1000")
		var peers []*host
		for i := range others {
			peers = append(peers, newHost(t, n, byte(10+i), "192.0.2.3:1000"))
		}
		offer := func(h *host) error {
			o, err := h.NewOffer(b.id, Local{MTU: 1472})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Cancel()
			in, err := b.ReadOffer(o.Bytes())
			if err == nil {
				_, _, err = in.Accept(Local{MTU: 1472})
			}
			return err
		}
		flood, taken, asked, served := 0, 0, 0, 0
		for i := range int(duration / every) {
			flood++
			if err := offer(flooder); err == nil {
				taken++
			} else if !errors.Is(err, ErrBusy) {
				t.Fatalf("the flooder's offer: %v", err)
			}
			if i%20 == 0 { // each of the others every two seconds
				asked++
				if err := offer(peers[asked%others]); err == nil {
					served++
				} else {
					t.Logf("another's offer: %v", err)
				}
			}
			time.Sleep(every)
		}
		t.Logf("%d of %d of the flooder's, %d of %d of the others' offers were served", taken, flood, served, asked)
		if served*100 < asked*99 {
			t.Errorf("%d of %d of the others' offers were served", served, asked)
		}
		if limit := offersBurst + offersPerSecond*int(duration/time.Second) + 1; taken > limit || taken*2 < limit {
			t.Errorf("%d of the flooder's offers were served, its share is %d", taken, limit)
		}
	})
}
