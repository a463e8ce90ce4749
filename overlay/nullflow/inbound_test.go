package nullflow

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// slow are UDPChecks that find nothing, as soon as they are let go.
type slow struct {
	*checks
	letGo <-chan struct{}
}

func (s slow) Run(context.Context, bool, pipe.Remote) (local, to netip.AddrPort, err error) {
	<-s.letGo
	return local, to, errors.New("no pair")
}

// offers is a flow that s asks b to open, and its offer as b reads it.
func (s *side) offers(b *side, protocol uint8) (*pipe.Offer, *pipe.Incoming) {
	s.t.Helper()
	w := wire.Flow{Kind: wire.FlowOpen, Protocol: protocol, Policy: wire.PolicyPlain, ID: newFlowID(), OpenerPort: 1, ListenerPort: 2}
	o, err := s.ends.NewOffer(b.id, pipe.Local{Encapsulation: wire.Null, Flow: w})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(o.Cancel)
	in, err := b.ends.ReadOffer(o.Bytes())
	if err != nil {
		s.t.Fatal(err)
	}
	return o, in
}

// Flows that peers have begun to open count, since each has sockets, and count no more
// when nothing has come of them.
func TestInboundUnderWay(t *testing.T) {
	t.Parallel()
	letGo := make(chan struct{})
	a := newSide(t, 1, wire.PolicyPlain)
	var b *side
	b = newSide(t, 2, wire.PolicyPlain, func(c *Config) {
		c.UDP = func(context.Context) (UDPChecks, error) {
			k, err := b.newChecks()
			return slow{k, letGo}, err
		}
	})
	open := func(protocol uint8) wire.FlowKind {
		t.Helper()
		o, in := a.offers(b, protocol)
		s, err := o.Finish(b.Answer(in).Sealed)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Cancel()
		return s.Remote().Flow.Kind
	}
	const rest = inboundShare - 1
	b.Flows.mu.Lock()
	for range rest {
		b.inbound.add(b.account(a.id))
	}
	b.Flows.mu.Unlock()
	back := func() bool {
		b.Flows.mu.Lock()
		defer b.Flows.mu.Unlock()
		return b.inbound.all == rest
	}
	if kind := open(wire.FlowUDP); kind != wire.FlowOpen {
		t.Errorf("the last one: %v", kind)
	}
	for _, protocol := range []uint8{wire.FlowUDP, wire.FlowTCP} {
		if kind := open(protocol); kind != wire.FlowRefused {
			t.Errorf("one more while that is under way: %v", kind)
		}
	}
	close(letGo)
	eventually(t, "UDP counts no more", back)
	if kind := open(wire.FlowTCP); kind != wire.FlowOpen {
		t.Errorf("TCP then: %v", kind)
	}
	eventually(t, "nor does TCP, without a candidate", back)
}

// Of a UDP flow that a peer has not opened after all nothing is left.
func TestUDPNotOpened(t *testing.T) {
	t.Parallel()
	letGo := make(chan struct{})
	close(letGo)
	for _, failed := range []error{errors.New("no sockets"), nil} {
		a := newSide(t, 1, wire.PolicyPlain)
		var b *side
		b = newSide(t, 2, wire.PolicyPlain, func(c *Config) {
			c.UDP = func(context.Context) (UDPChecks, error) {
				if failed != nil {
					return nil, failed
				}
				k, err := b.newChecks()
				return slow{k, letGo}, err
			}
		})
		_, in := a.offers(b, wire.FlowUDP)
		f := &flow{fs: b.Flows, key: flowKey{a.id, in.Remote.Flow.ID}, Flow: Flow{Peer: a.id, UDP: true, Local: 2, Remote: 1}}
		if _, begun := b.answerOpenUDP(in, f); begun != (failed == nil) {
			t.Errorf("sockets: %v; begun: %v", failed, begun)
		}
		eventually(t, "its context ends", func() bool { return f.udp.ctx.Err() != nil })
		eventually(t, "the node is told", func() bool { return b.over.Load() == 1 })
	}
}
