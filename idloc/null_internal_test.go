package idloc

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay"
)

// A Dial with null encapsulation says why the newest attempt has failed that had its time,
// whether its own ends in a pause, where the stack opens nothing any more, or within an
// attempt. With a deadline that is a timeout too, and without one it ends within ten seconds.
func TestNullDialEnds(t *testing.T) {
	const attempt = 100 * time.Millisecond
	why := errors.New("nobody is there")
	for desc, c := range map[string]struct {
		within, took time.Duration
	}{
		"in a pause":             {attempt + lookAgain/2, attempt + lookAgain/2},
		"in an attempt":          {attempt + lookAgain + attempt/2, attempt + lookAgain + attempt/2},
		"without a deadline":     {0, goneAfter},
		"within its first":       {attempt / 2, attempt / 2},
		"when it has just begun": {0, 0},
	} {
		t.Run(desc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.within > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.within)
					defer cancel()
				} else if c.took == 0 {
					cancel()
				}
				open := func(ctx context.Context) (net.Conn, error) {
					if err := ctx.Err(); err != nil { // as Stack.DialUDP
						return nil, &net.OpError{Op: "dial", Net: "udp", Err: err}
					}
					select {
					case <-time.After(attempt):
						return nil, &flowError{&overlay.StageError{Stage: StageOffer, Err: why}}
					case <-ctx.Done():
						return nil, &flowError{&overlay.StageError{Stage: StageOffer, Err: ctx.Err()}}
					}
				}
				begun := time.Now()
				var n Node
				_, err := n.tryNull(ctx, target{}, open)
				if took := time.Since(begun); took != c.took {
					t.Errorf("it took %v", took)
				}
				var stage *StageError
				if full := c.took > attempt; errors.Is(err, why) != full || errors.As(err, &stage) != (c.took > 0) {
					t.Error(err)
				}
				if ended := c.within > 0 || c.took == 0; errors.Is(err, ctx.Err()) != ended {
					t.Errorf("%v, and the context: %v", err, ctx.Err())
				}
			})
		})
	}
}
