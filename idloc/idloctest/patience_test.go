package idloctest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

// TestPatienceEnds: a Dial whose context ends before a silent peer answers
// returns at once, with the error that package net has for it, and says how
// far it came.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth")
	venus := lab.Node("venus")
	mars := lab.Node("mars")
	if c, err := venus.Dial(t.Context(), "udp", "mars.example.com:9"); err != nil { // the name is known then
		t.Fatal(err)
	} else {
		c.Close()
	}
	at := mars.Host.Addrs()
	lab.Filter(func(p Packet) bool { return p.From != mars.Host && !slices.Contains(at, p.Dst.Addr()) })
	offered := venus.Watch(t.Context())
	for _, tt := range []struct {
		what    string
		context func() (context.Context, context.CancelFunc)
		is      []error
		text    string
		timeout bool
	}{
		{"deadline", func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), time.Second) // in which the offer leaves on any machine
		}, []error{context.DeadlineExceeded, os.ErrDeadlineExceeded}, "i/o timeout", true},
		{"cancelled", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for e := range offered {
					if e.Kind == idloc.EventOfferSent || e.Kind == idloc.EventMiss {
						cancel()
						return
					}
				}
			}()
			return ctx, cancel
		}, []error{context.Canceled}, "operation was canceled", false},
	} {
		ctx, cancel := tt.context()
		took := yardstick.Start()
		c, err := venus.Dial(ctx, "tcp", "mars.example.com:80")
		cancel()
		late := took.Stop()
		if err == nil {
			c.Close()
			t.Fatalf("%s: connected", tt.what)
		}
		var op *net.OpError
		var stage *idloc.StageError
		if !errors.As(err, &op) || !errors.As(err, &stage) || stage.Stage != idloc.StageOffer || stage.Peer != mars.ID() ||
			op.Timeout() != tt.timeout || !strings.Contains(err.Error(), tt.text) ||
			slices.ContainsFunc(tt.is, func(target error) bool { return !errors.Is(err, target) }) {
			t.Errorf("%s: %v, timeout %v", tt.what, err, op.Timeout())
		}
		if late > 5*time.Second {
			t.Errorf("%s: returned after %v", tt.what, late)
		}
	}
}
