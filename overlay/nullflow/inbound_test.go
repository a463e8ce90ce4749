package nullflow

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// hold has n flows of an account counted as inbound.
func (fs *Flows) hold(n int, of account.Account) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for range n {
		fs.inbound.Add(&flow{cancel: func() {}}, of)
	}
}

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
	b.hold(rest, b.account(a.id))
	back := func() bool {
		b.Flows.mu.Lock()
		defer b.Flows.mu.Unlock()
		return b.inbound.Len() == rest
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

// asked is flow n that a peer opens.
func (fs *Flows) asked(peer byte, n int) *flow {
	return &flow{fs: fs, key: flowKey{peer: peerid.ID{peer}, id: [16]byte{byte(n), byte(n >> 8)}}}
}

// bare are Flows without a network.
func bare(t *testing.T, of func(p peerid.ID) account.Account) *Flows {
	fs := &Flows{flows: map[flowKey]*flow{}}
	fs.cfg.Account = of
	fs.ctx, fs.cancel = context.WithCancel(t.Context())
	t.Cleanup(fs.cancel)
	return fs
}

// Peers may open so many flows and no more, and those of one account a part of them;
// one's own are not counted.
func TestInboundLimit(t *testing.T) {
	t.Parallel()
	fs := bare(t, func(p peerid.ID) (a account.Account) { // 0 and 1 are of one invitation
		if p[0] < 2 {
			a.Invitation = "one"
		}
		return a
	})
	var known *flow
	for i := range inboundMax {
		peer := byte(i / inboundShare)
		if peer > 0 {
			peer++ // 0, 2, 3, 4
		}
		f := fs.asked(peer, i)
		if !fs.reserve(f) || known == nil && !fs.add(f) {
			t.Fatalf("flow %d was refused", i)
		}
		if known == nil {
			known = f
		}
		if i == inboundShare-1 {
			for peer := range byte(3) {
				more := fs.asked(peer, inboundMax+1)
				if fs.reserve(more) != (peer >= 2) {
					t.Errorf("one account has %d; more of peer %d: %v", inboundShare, peer, peer < 2)
				}
				fs.release(more)
				fs.release(more)
			}
		}
	}
	if fs.reserve(fs.asked(4, inboundMax)) {
		t.Error("one too many")
	}
	if own := (&flow{Flow: Flow{Opener: true}, fs: fs, key: flowKey{id: [16]byte{15: 2}}}); !fs.add(own) || fs.add(own) {
		t.Error("a flow of one's own is added once")
	}
	fs.release(known)
	if n := fs.inbound.Len(); n != inboundMax {
		t.Errorf("%d flows of peers, with one that is known", n)
	}
	fs.remove(known)
	fs.remove(known)
	if n := fs.inbound.Len(); n != inboundMax-1 || known.ctx.Err() == nil {
		t.Errorf("%d flows of peers after one has ended", n)
	}
	if more := fs.asked(0, inboundMax); !fs.reserve(more) || !fs.add(more) {
		t.Error("no other in its place")
	}
}

// TestInboundOfTwoDelegates is the attack: two delegates, each by many tokens, hold all flows
// that peers may open, and ask for more again and again. One that came by a token of the
// founder's opens hundreds, and keeps them.
func TestInboundOfTwoDelegates(t *testing.T) {
	t.Parallel()
	const friend = 200
	fs := bare(t, func(p peerid.ID) account.Account {
		if p[0] == friend {
			return account.Account{Invitation: "a token of the founder's"}
		}
		return account.Account{Invitation: string(p[:]), Delegate: string('a' + p[0]%2)}
	})
	flood := func() {
		for i := range 2 * inboundMax {
			fs.reserve(fs.asked(byte(i%friend), i))
		}
	}
	flood()
	if n := fs.inbound.Len(); n != inboundMax {
		t.Fatalf("%d flows, of %d", n, inboundMax)
	}
	var mine []*flow
	for n := range 500 {
		f := fs.asked(friend, n)
		if !fs.reserve(f) || !fs.add(f) {
			t.Fatalf("flow %d of another token is refused", n)
		}
		mine = append(mine, f)
	}
	flood()
	for n, f := range mine {
		if f.ctx.Err() != nil {
			t.Fatalf("flow %d of another token has ended for theirs", n)
		}
	}
	if n := fs.inbound.Len(); n != inboundMax {
		t.Errorf("%d flows, of %d", n, inboundMax)
	}
}

// A flow that makes room ends, at both ends, and one that is being opened is not opened.
func TestFlowMakesRoom(t *testing.T) {
	t.Parallel()
	for _, udp := range []bool{false, true} {
		a := newSide(t, 1, wire.PolicyPlain)
		b := newSide(t, 2, wire.PolicyPlain, func(c *Config) {
			c.Account = func(p peerid.ID) account.Account {
				if p == a.id {
					return account.Account{Invitation: "token", Delegate: "delegate"}
				}
				return account.Account{Invitation: "a token of the founder's"}
			}
		})
		a.to, b.to = b, a
		const most = inboundMax / 2
		b.hold(most-3, account.Account{Delegate: "delegate"})
		b.hold(most-8, account.Account{Delegate: "another delegate"})
		b.hold(9, account.Account{Invitation: "a third token"})
		ended := make(chan error, 1)
		if udp {
			end, err := a.DialUDP(t.Context(), Flow{Peer: b.id, Local: 4000, Remote: 80})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(end)
			ended <- nil
		} else {
			c, _ := dialTCP(t, a, b)
			go func() {
				_, err := io.ReadAll(c)
				ended <- err
			}()
		}
		opening := &flow{fs: b.Flows, key: flowKey{peer: a.id, id: [16]byte{1}}}
		if !b.reserve(opening) {
			t.Fatal("the last one is refused")
		}
		if !b.reserve(b.asked(7, 1)) || opening.ctx.Err() == nil || b.add(opening) {
			t.Errorf("udp %v: the newest of those who have most is opened all the same", udp)
		}
		if !b.reserve(b.asked(7, 2)) {
			t.Errorf("udp %v: nobody makes room", udp)
		}
		eventually(t, "it is over", func() bool { return len(b.all()) == 0 && b.over.Load() == 1 })
		wait(t, ended)
	}
}
