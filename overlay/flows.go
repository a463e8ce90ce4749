package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/ice/tcp"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/quictransport"
)

// Here package nullflow gets what it needs of the overlay.

// newFlows wires the flows with null encapsulation.
func (o *Overlay) newFlows() (*nullflow.Flows, error) {
	var identity *libp2ptls.Identity
	if o.cfg.Null.Policy != wire.PolicyRefuse {
		priv, err := crypto.UnmarshalEd25519PrivateKey(o.cfg.Key)
		if err == nil {
			identity, err = libp2ptls.NewIdentity(priv, quictransport.Timeless())
		}
		if err != nil {
			return nil, fmt.Errorf("TLS identity: %w", err)
		}
	}
	pacer := o.demux.Pacer()
	return nullflow.New(nullflow.Config{
		Self: o.self, Handler: o.cfg.Null, RelaysOnly: o.cfg.Paths == PathRelayOnly, Identity: identity,
		Chain: func() []byte { return o.roster.Own().Chain }, Offers: flowOffers{o}, Usable: o.filter.Keep,
		TCP: tcp.Config{
			Net: o.cfg.Net, Addrs: o.nat.Local, Port: o.cfg.Socket.Number(), Servers: o.stunServers, Logger: o.log,
			Reaches: o.nat.Reaches,
			Allow:   func(to netip.AddrPort) bool { return pacer.Allow(netip.AddrPort{}, to, time.Now()) },
		},
		UDP:      o.newFlowChecks,
		Answered: func(a netip.Addr) { pacer.NoteAnswer(a, time.Now()) },
		Events:   o.cfg.Events, Logger: o.log,
	})
}

func (o *Overlay) newFlowChecks(ctx context.Context) (nullflow.UDPChecks, error) {
	s, err := ice.NewFlowSockets(ctx, ice.FlowConfig{
		Pacer: o.demux.Pacer(), Gate: o.out, STUNServers: o.stunServers, Addrs: o.nat.Local(), Net: o.cfg.Net, Logger: o.log,
	})
	if err != nil {
		return nil, err
	}
	return flowChecks{s}, nil
}

// flowChecks are FlowSockets as package nullflow has them.
type flowChecks struct{ *ice.FlowSockets }

var _ nullflow.UDPChecks = flowChecks{}

func (f flowChecks) Credentials() (ufrag, pwd string) {
	c := f.FlowSockets.Credentials()
	return c.Ufrag, c.Pwd
}

func (f flowChecks) Run(ctx context.Context, controlling bool, remote pipe.Remote) (local, to netip.AddrPort, err error) {
	p, err := f.FlowSockets.Run(ctx, controlling, credentials(remote), remote.Candidates)
	if err != nil {
		return local, to, err
	}
	return p.Local.LocalAddr(), p.Remote, nil
}

const (
	flowOfferTries = 20 // while the peer is busy
	flowOfferPause = 100 * time.Millisecond
)

// flowOffers routes offers about flows as those of pipes.
type flowOffers struct{ o *Overlay }

// Ask implements nullflow.Offers; its errors are *StageError.
func (f flowOffers) Ask(ctx context.Context, p peerid.ID, l pipe.Local) (pipe.Remote, error) {
	var err error
	for try := range flowOfferTries {
		if try > 0 && !pause.For(ctx, flowOfferPause) {
			break
		}
		var r pipe.Remote
		if r, err = f.askOnce(ctx, p, l); !errors.Is(err, offers.ErrBusy) {
			return r, err
		}
	}
	return pipe.Remote{}, err
}

func (f flowOffers) askOnce(ctx context.Context, p peerid.ID, l pipe.Local) (r pipe.Remote, err error) {
	offer, err := f.o.pipes.NewOffer(p, l)
	if err != nil {
		return r, &StageError{Stage: StageOffer, Peer: p, Err: err}
	}
	defer offer.Cancel()
	session, _, err := f.o.router.DeliverOnce(ctx, p, offer)
	if errors.Is(err, pipe.ErrHandshake) {
		return r, &StageError{Stage: StageHandshake, Peer: p, Err: err}
	}
	if err != nil {
		if !errors.Is(err, offers.ErrBusy) {
			f.o.directory.Forget(p)
		}
		return r, &StageError{Stage: StageOffer, Peer: p, Err: err}
	}
	r = session.Remote()
	session.Cancel() // a flow has no use for a pipe's keys
	if _, err := f.o.roster.Verify(r.Chain, p); err != nil {
		return r, &StageError{Stage: StageHandshake, Peer: p, Err: err}
	}
	return r, nil
}

// answerFlow answers an offer about a flow, whose sender is a member.
func (o *Overlay) answerFlow(in *pipe.Incoming) offers.Response {
	a := o.flows.Answer(in)
	return offers.Response{Status: flowStatus[a.Verdict], Answer: a.Sealed}
}

var flowStatus = map[nullflow.Verdict]offers.Status{
	nullflow.Answered: offers.Answered, nullflow.Refused: offers.Refused, nullflow.Glare: offers.Glare, nullflow.Busy: offers.Busy,
}

// DialNull opens a TCP flow with null encapsulation to a peer: see
// nullflow.Flows.DialTCP. Errors are *StageError.
func (o *Overlay) DialNull(ctx context.Context, f nullflow.Flow, ended func()) (net.Conn, error) {
	c, err := o.flows.DialTCP(ctx, f, ended)
	if err != nil {
		return nil, flowError(f.Peer, err)
	}
	return c, nil
}

// DialNullUDP opens a UDP flow with null encapsulation to a peer: see
// nullflow.Flows.DialUDP. Errors are *StageError.
func (o *Overlay) DialNullUDP(ctx context.Context, f nullflow.Flow) (end func(), err error) {
	end, err = o.flows.DialUDP(ctx, f)
	if err != nil {
		return nil, flowError(f.Peer, err)
	}
	return end, nil
}

// NullFlows returns the flows with null encapsulation, ordered by peer and ports.
func (o *Overlay) NullFlows() []nullflow.Status { return o.flows.Status() }

// flowError says the stage at which a flow failed.
func flowError(p peerid.ID, err error) error {
	var s *StageError
	if errors.As(err, &s) {
		return err
	}
	stage, e := StageOffer, (*nullflow.Error)(nil)
	if errors.As(err, &e) {
		err = e.Err
		stage = [...]string{nullflow.StageOffer: StageOffer, nullflow.StageCheck: StageCheck, nullflow.StageHandshake: StageHandshake}[e.Stage]
	}
	return &StageError{Stage: stage, Peer: p, Err: err}
}
