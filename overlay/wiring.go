package overlay

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/lag"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/adapter"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/ice/tcp"
	"github.com/idloc/idloc/overlay/lan"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/quictransport"
	"github.com/idloc/idloc/overlay/roaming"
	"github.com/idloc/idloc/overlay/upkeep"
)

// hearsayAddrs are the addresses taken of a server that another one names.
const hearsayAddrs = 8

// wiring is what the rooms share while they are made.
type wiring struct {
	*Overlay
	filter ice.Filter
	gate   *hearsay.Gate // for addresses that were only heard of
	stun   func() []netip.AddrPort
	keep   *upkeep.Upkeep
	router *offers.Router
	lan    *lan.LAN // nil: members are not looked for on local networks
	lag    *lag.Meter
}

// start brings up everything that talks, and is undone by Close. resumed says that
// the membership is one that was saved.
func (o *Overlay) start(resumed bool) error {
	if err := o.compose(resumed); err != nil {
		_ = o.Close()
		return err
	}
	return nil
}

func (o *Overlay) compose(resumed bool) error {
	var err error
	w := &wiring{Overlay: o, lag: new(lag.Meter)}
	w.filter = ice.NewFilter(o.cfg.Socket.Conns(), o.cfg.LSIPrefixes, o.cfg.AllowLoopback)
	w.filter.Indirect = o.cfg.Socket.BehindNAT64
	w.gate = hearsay.New(w.filter.Allowed, time.Now)
	w.gate.Through(o.cfg.Socket.OnWire)
	o.carriers = &carry.Carriers{
		Config: o.cfg.Carriers, Socket: o.cfg.Socket, Hidden: o.cfg.Paths == PathRelayOnly,
		NAT: func() *nat.Addresses { return o.nat }, Ways: func(p peerid.ID) []netip.AddrPort { return o.mesh.Carriers(p) },
	}
	o.demux = ice.NewDemux(ice.DemuxConfig{Servers: w.gate, Extra: o.cfg.Socket})
	if o.pipes, err = o.cfg.Pipes(o); err != nil {
		return err
	}
	sources := &nat.STUNSources{
		Configured: o.cfg.servers, Given: w.gate.Given, Plain: o.cfg.Socket.Plain,
		Connected:  func() []nat.Remote { return o.mesh.Remotes() },
		Remembered: func() []netip.AddrPort { return o.mesh.Remembered() },
	}
	w.stun = func() []netip.AddrPort { return sources.Servers(o.life.ctx) }
	o.nat = w.newAddresses()
	listening := adapter.Senders(o.cfg.Socket)
	if o.mesh, err = w.newMesh(); err != nil {
		return err
	}
	if o.directory, err = w.newDirectory(); err != nil {
		return err
	}
	w.keep = upkeep.New(upkeep.Config{
		Self: o.mesh.Host().ID(), Mesh: o.mesh, Roster: o.roster, Directory: o.directory, Enforce: w.enforce,
	})
	if o.establish, err = w.newEstablisher(); err != nil {
		return err
	}
	if o.flows, err = w.newFlows(); err != nil {
		return err
	}
	if w.router, err = w.newRouter(); err != nil {
		return err
	}
	w.lan = w.newLAN()
	o.roaming = w.newRoaming(listening)
	if founder := o.roster.Founder(); founder && resumed {
		o.directory.Serve()
	} else if founder {
		o.directory.ServeNew()
	}
	w.run(resumed)
	o.life.wg.Go(func() { w.lan.Run(o.life.ctx) })
	return nil
}

// newLAN makes what finds members on the local networks; nil: nothing does.
func (w *wiring) newLAN() *lan.LAN {
	if w.cfg.NoLAN || w.cfg.Net != nil || w.cfg.Paths == PathRelayOnly {
		return nil
	}
	return lan.New(lan.Config{
		Overlay: w.ID(), Self: w.Self(), Log: w.cfg.Logger,
		Places: func() []lan.Place { return adapter.Places(w.cfg.Socket) },
		Wanted: func() int { return adapter.Lookout(len(w.mesh.Members())) },
		Inside: func() bool { m := w.Member(); return m != nil && m.Confirmed && w.roster.Lapsed() == nil },
		Met:    w.mesh.Meet,
	})
}

// run answers others and starts what the rooms do by themselves.
func (w *wiring) run(resumed bool) {
	w.mesh.Serve(adapter.OfferProtocol, func(_ context.Context, m *membership.Member, request []byte) ([]byte, error) {
		return w.router.Serve(w.life.ctx, m.Peer, request)
	})
	for pr, answer := range w.roster.Answers() {
		w.mesh.Serve(mesh.Protocol(pr), answer)
	}
	adapter.Certify(w.life.ctx, w.cfg.Certificates, w.roster, w.mesh)
	w.mesh.Start()
	run := w.life.wg.Go
	run(func() { w.nat.Run(w.life.ctx) })
	run(w.directory.Run)
	run(w.mesh.Run)
	if resumed && w.roster.Authority() {
		run(w.mesh.Recall)
	}
	decide := time.AfterFunc(directory.ServerAfter, w.mesh.Wake)
	context.AfterFunc(w.life.ctx, func() { decide.Stop() })
	run(w.watchClock)
	run(func() { w.roaming.Run(w.life.ctx) })
}

// prefix begins the protocol IDs of this overlay.
func (o *Overlay) prefix() protocol.ID { return mesh.Prefix(o.ID()) }

// rosterConfig is what the Roster needs of the rest.
func (o *Overlay) rosterConfig() admission.Config {
	return admission.Config{
		Key: o.cfg.Key, State: o.cfg.State, Now: o.cfg.clock, Log: o.cfg.Logger,
		Network: adapter.Neighbours{Mesh: func() adapter.Mesh { return o.mesh }, Life: o.life.ctx},
		Lookup:  func(ctx context.Context, label string) *naming.Record { return o.directory.Read(ctx, label) },
		Changed: o.membersChanged, Ended: o.enforce, Renewed: func() { o.directory.Renewed(); o.cfg.PolicyChanged() }, PolicyChanged: o.cfg.PolicyChanged, MaxListAge: o.cfg.MaxListAge, Aged: o.cfg.ListAged, Proposed: o.cfg.Proposed,
		Shown: func(p peerid.ID) []byte { return adapter.Pipes{Endpoint: o.pipes}.Chain(p) },
	}
}

// newAddresses makes what knows and finds this peer's addresses. TURN servers are
// asked for none where paths are to be direct.
func (w *wiring) newAddresses() *nat.Addresses {
	turn := nat.AllocationsConfig{
		Servers: w.cfg.servers,
		STUN:    func(a *nat.Allocation, from netip.AddrPort, b []byte) { w.demux.HandleAllocated(a, from, b) },
		Data:    func(a *nat.Allocation, from netip.AddrPort, b []byte) { w.pipes.Receive(a, from, b, len(b)) },
		Ended:   func(a *nat.Allocation) { w.pipes.RemoveLocal(a) },
	}
	if w.cfg.Paths == PathDirectOnly {
		turn.Servers = nil
	}
	return nat.New(nat.Config{
		Sockets: w.cfg.Socket, Net: w.cfg.Net, Logger: w.cfg.Logger, Asker: w.demux, Servers: w.stun, TURN: turn,
		Forwarded: w.cfg.Carriers.Forwarded,
		Arrivals:  func() nat.Arrivals { return w.mesh.Arrivals() },
		Seen:      func() { w.establish.CandidatesChanged() },
		Changed: func() {
			w.establish.CandidatesChanged()
			w.directory.ContactsChanged()
			w.mesh.Wake()
		},
	})
}

var _ pipe.TURN = (*nat.Allocation)(nil)

func (w *wiring) newMesh() (*mesh.Mesh, error) {
	known, damaged := mesh.LoadKnown(w.cfg.State, w.Self(), w.gate)
	if damaged != nil {
		w.cfg.Logger.Warn("saved state is damaged and begun anew", "name", mesh.KnownFile, "err", damaged)
	}
	known.ForgetRevoked(w.roster.Revocations()) // while this peer was not there to hear of it
	return mesh.New(mesh.Config{
		Key: w.cfg.Key, Port: w.cfg.Socket, Prefix: w.prefix(), Log: w.cfg.Logger,
		Carriers: w.cfg.Carriers.Set, UDPSilent: w.udpSilent, State: w.cfg.State, Network: w.cfg.Socket.Network,
		Hearsay: w.gate, Known: known, Pipes: adapter.Pipes{Endpoint: w.pipes},
		Verify: w.roster.Verify, Charter: w.roster.HearCharter, Current: w.roster.Current, Hello: w.hello, YoungFor: directory.YoungFor,
		Readmit: w.roster.Readmit, Readmitted: w.roster.TakeReadmission, Lapsed: w.roster.Lapsed,
		Entered: w.entered, Heard: w.heard, Left: w.left, Clock: w.roster.HearTime,
		Answers: w.nat.Probes().NoteConnection, Probed: w.nat.Probes().Note,
		ClockWrong: w.roster.ClockWrong, Stretch: w.lag.Stretch,
		Alone:   func(why string) { w.cfg.Events.Emit(event.Event{Kind: event.Alone, Err: why}) },
		Serving: w.Server, EnoughServers: directory.FewServers, Account: w.roster.OwnAccount,
		Record: func(p peerid.ID) []byte { return w.directory.Record(p) },
		Show:   func(p peerid.ID, record []byte) bool { return w.directory.Show(p, record) },
		Allow:  func(p peerid.ID) bool { return w.router.Allow(p) },
		Pulse:  func() { w.keep.Pulse(w.life.ctx) }, Decide: func() bool { return w.directory.DecideRole() },
	})
}

// udpSilent says whether nothing comes back over UDP here.
func (o *Overlay) udpSilent() bool {
	carried, _ := o.mesh.CarriedMembers()
	return o.nat.Status(len(o.mesh.Members()) > carried).UDP == nat.UDPSilent
}

// hello is what this peer says of itself.
func (o *Overlay) hello() mesh.Hello {
	own := o.roster.Own()
	h := mesh.Hello{Chain: own.Chain, Revocation: o.roster.Revocations().Rank(), Seconds: uint64(o.now().Unix()), Start: o.pipes.Start()}
	h.Issuer, h.NoRelay, h.Charter = own.Issuer, o.cfg.NoRelay, o.roster.Revocations().Charter()
	h.Record, h.Assurance = o.directory.OwnRecord(), o.roster.Assurance()
	if o.cfg.Paths != PathRelayOnly {
		h.Addrs = o.carriers.Addrs(mesh.HelloAddrs)
	}
	h.Server, h.Young = o.directory.Serving()
	return h
}

// entered is called when a member has come through the gate.
func (o *Overlay) entered(n mesh.Neighbor) {
	remote, _ := p2p.AddrPort(n.Remote)
	o.nat.Probes().NoteConnection(remote)
	o.cfg.Events.Emit(event.Event{Kind: event.PeerConnected, Peer: n.ID, Name: o.roster.Overlay().FullName(n.Member.Label), Remote: remote})
	o.directory.Entered()
	if n.Server || !o.nat.Mapped().Known() {
		o.nat.Mapped().Remeasure()
	}
}

// heard is called for each valid hello, also later ones.
func (o *Overlay) heard(n mesh.Neighbor, h mesh.Hello) {
	o.pipes.PeerStarted(n.ID, h.Start)
	o.directory.Heard(n.Peer, h.Server, h.Young, h.Start)
	o.roster.HearNumber(n.ID, h.Revocation)
	o.roster.HearAssurance(n.ID, h.Assurance)
}

// left is called when a member's last connection is gone. One that was trimmed
// tells nothing about the member.
func (w *wiring) left(p peer.ID, m *membership.Member, trimmed bool) {
	w.cfg.Events.Emit(event.Event{Kind: event.PeerGone, Peer: m.Peer, Name: w.roster.Overlay().FullName(m.Label)})
	w.directory.Left(p, trimmed)
	if len(w.mesh.Members()) == 0 {
		w.lan.Changed()
	}
}

func (w *wiring) newDirectory() (*directory.Directory, error) {
	d, err := directory.New(directory.Config{
		Key: w.cfg.Key, Self: w.Self(), Overlay: w.roster.Overlay(), Prefix: w.prefix(), Now: w.now,
		Log: w.cfg.Logger, Events: w.cfg.Events, State: w.cfg.State,
		Mesh: adapter.DirectoryMesh{Mesh: w.mesh}, Roster: adapter.DirectoryRoster{Roster: w.roster},
		Addrs: w.carriers.Texts, JustBack: w.mesh.JustBack, ServerHeard: w.mesh.ServerHeard,
		Remembered: func() int { return len(w.mesh.Known().AddrInfos()) },
		Piped:      func(p peerid.ID) bool { return adapter.Alive(w.pipes.Pipe(p)) },
		Silent:     func(p peer.ID) { w.mesh.Suspect(p) }, Tags: w.cfg.Tags, Reached: func() bool { return w.mesh.Reached().Unasked() },
		Told: func(by peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
			return w.mesh.Told(by, mesh.BestOf(addrs, hearsayAddrs))
		},
		AskDialBack: w.mesh.AskDialBack, DialedBack: func() bool { return w.mesh.DialledBack().Decided() },
	})
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return d, nil
}

func (w *wiring) newEstablisher() (*establish.Establisher, error) {
	local := adapter.Local{Demux: w.demux, Port: w.cfg.Socket, Addresses: w.nat, Carriers: w.carriers, Net: w.cfg.Net, Ended: func(e ice.End) { w.pipes.RemoveLocal(e) }}
	return establish.New(establish.Config{
		Self: w.Self(), Pipes: w.pipes, Offers: adapter.Offers(func() establish.Offers { return w.router }), Policy: w.cfg.Paths,
		NewAgent: local.Checks().New, Candidates: local.Candidates,
		Allocated: func() bool { return len(w.nat.Allocations()) > 0 },
		Usable:    w.filter.Keep, Allowed: w.filter.Allowed, Carriers: w.mesh.Carriers, SeenAt: w.mesh.SeenAt,
		Chain: w.chain, Verify: w.verify, Account: w.roster.Account, Relays: func() []establish.Relay { return adapter.Relays(w.mesh.Members(), w.roster.Members()) }, Unreached: w.directory.Forget,
		Flow:   func(in *pipe.Incoming) offers.Response { return w.flows.Answer(in).Response() },
		Events: w.cfg.Events, Logger: w.cfg.Logger, Stretch: w.lag.Stretch,
	})
}

func (o *Overlay) chain() []byte { return o.roster.Own().Chain }

func (o *Overlay) verify(chain []byte, p peerid.ID) error {
	return o.roster.Admit(chain, p)
}

// newFlows wires the flows with null encapsulation.
func (w *wiring) newFlows() (*nullflow.Flows, error) {
	var identity *libp2ptls.Identity
	if w.cfg.Null.Policy != wire.PolicyRefuse {
		var err error
		if identity, err = quictransport.NewIdentity(w.cfg.Key); err != nil {
			return nil, err
		}
	}
	pacer := w.demux.Pacer()
	return nullflow.New(nullflow.Config{
		Self: w.Self(), Handler: w.cfg.Null, RelaysOnly: w.cfg.Paths == PathRelayOnly, Identity: identity,
		Chain: w.chain, Usable: w.filter.Keep, Account: w.roster.Account,
		Offers: nullflow.RoutedOffers{
			New: w.pipes.NewOffer, Verify: w.verify, Unreached: w.directory.Forget,
			Deliver: func(ctx context.Context, p peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error) {
				return w.router.DeliverOnce(ctx, p, offer)
			},
		},
		TCP: tcp.Config{
			Net: w.cfg.Net, Addrs: w.nat.Local, Port: w.cfg.Socket.Number(), Servers: w.stun, Logger: w.cfg.Logger,
			Reaches: w.nat.Reaches,
			Allow:   func(to netip.AddrPort) bool { return pacer.Allow(netip.AddrPort{}, to, time.Now()) },
		},
		UDP: func(ctx context.Context) (nullflow.UDPChecks, error) {
			return nullflow.NewUDPChecks(ctx, ice.FlowConfig{
				Pacer: pacer, Gate: w.gate, STUNServers: w.stun, Addrs: w.nat.Local(), Net: w.cfg.Net, Logger: w.cfg.Logger,
			})
		},
		Answered: func(a netip.Addr) { pacer.NoteAnswer(a, time.Now()) },
		Events:   w.cfg.Events, Logger: w.cfg.Logger,
	})
}

func (w *wiring) newRouter() (*offers.Router, error) {
	return offers.New(offers.Config{
		Self: w.Self(), Mesh: adapter.OfferMesh{Mesh: w.mesh}, Directory: adapter.OfferDirectory{Mesh: w.mesh, Directory: w.directory}, Forward: !w.cfg.NoRelay,
		Offered: func(_ context.Context, q offers.Request, from peerid.ID) offers.Response {
			return w.establish.Offered(q, from)
		},
		PipeDead: w.establish.PipeDead, Events: w.cfg.Events, Logger: w.cfg.Logger, Stretch: w.lag.Stretch,
	})
}

func (w *wiring) newRoaming(inUse []pipe.Sender) *roaming.Follower {
	return roaming.New(roaming.Config{
		Sockets: func() []pipe.Sender { return adapter.Senders(w.cfg.Socket) },
		Pipes:   w.pipes, Mesh: w.mesh, Mapped: w.nat.Mapped(), Establisher: w.establish,
		Moved: func() {
			w.nat.NetworkChanged()
			w.carriers.Moved()
			w.flows.NetworkChanged()
			w.lan.Changed()
		},
		Changed: w.directory.Changed,
	}, inUse)
}
