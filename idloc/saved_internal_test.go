package idloc

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/state"
)

// noPipes is the Handler of an Endpoint that has no pipes.
type noPipes struct{ pipe.Handler }

// The timestamp on the disk is never below that of an offer which was made, whenever a
// crash comes, and is written each timestampEvery, however many offers there are.
func TestTimestampIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, err := state.Open("")
		if err != nil {
			t.Fatal(err)
		}
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		pub, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		mars, err := peerid.FromPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		pipes, err := pipe.NewEndpoint(pipe.Config{Key: key, Handler: noPipes{}})
		if err != nil {
			t.Fatal(err)
		}
		defer pipes.Close()
		n := &Node{log: slog.New(slog.DiscardHandler), state: dir, dirty: newDirt()}
		n.pipes.Store(pipes)
		n.ctx, n.cancel = context.WithCancel(t.Context())
		n.wg.Go(n.keepState)
		var last uint64
		writes := 0
		const times = 5
		for range times * timestampEvery / (time.Second / 10) {
			offer, err := pipes.NewOffer(mars, pipe.Local{})
			if err != nil {
				t.Fatal(err)
			}
			offer.Cancel()
			n.dirty.note(event.OfferSent)
			synctest.Wait()
			var saved uint64
			if found, err := dir.Load(stateTimestamp, &saved); !found || err != nil || saved < pipes.LastTimestamp() {
				t.Fatalf("after an offer with %d there is %d on the disk: %v", pipes.LastTimestamp(), saved, err)
			}
			if saved != last {
				last = saved
				writes++
			}
			time.Sleep(time.Second / 10)
		}
		if writes < times-1 || writes > times {
			t.Errorf("it was written %d times in %v", writes, times*timestampEvery)
		}
		n.cancel()
		n.wg.Wait()
	})
}
