package idloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/shim"
)

// cutConnector reaches nobody: the connection through which each offer goes is closed.
type cutConnector struct{ tries int }

func (c *cutConnector) Connect(context.Context, PeerID) (*pipe.Pipe, error) {
	c.tries++
	return nil, &overlay.StageError{Stage: StageOffer, Err: fmt.Errorf("asking: %w", &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed})}
}

// What was closed on the way to a peer is not this node: a Dial goes on, and what it says
// in the end is that the peer is unreachable, at its stage.
func TestClosedElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		self, mars := peerid.ID{1}, peerid.ID{2}
		table, err := lsi.New(lsi.Config{Overlay: [32]byte{3}, Self: self})
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		addr, _, _, err := table.Assign(mars)
		if err != nil {
			t.Fatal(err)
		}
		var c cutConnector
		s := shim.New(shim.Config{Table: table, Connector: &c, Events: func(Event) {}, Logger: slog.New(slog.DiscardHandler)})
		defer s.Close()
		n := &Node{ctx: ctx, shim: s}
		bound, done := n.bindWithin(ctx, connectTimeout)
		defer done()
		_, err = n.redial(bound, "tcp", target{peer: mars}, []netip.Addr{addr}, 80, time.Now(), false)
		var stage *StageError
		var op *net.OpError
		if !errors.As(err, &stage) || stage.Stage != StageOffer || !errors.Is(err, ErrUnreachable) || !errors.As(err, &op) {
			t.Errorf("%v", err)
		}
		if errors.Is(err, net.ErrClosed) {
			t.Errorf("%v says that this node is closed", err)
		}
		_, cut := c.Connect(ctx, mars)
		if !passes(&flowError{cut}) {
			t.Error("a Dial with null encapsulation does not go on")
		}
		if c.tries < 3 {
			t.Errorf("it was tried %d times", c.tries-1)
		}
	})
}
