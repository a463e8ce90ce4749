package overlay

import (
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
)

// What package mesh needs of the rest.

func (o *Overlay) newMesh() (*mesh.Mesh, error) {
	known, damaged := mesh.LoadKnown(o.cfg.State, o.self, o.out)
	if damaged != nil {
		o.log.Warn("saved state is damaged and begun anew", "name", mesh.KnownFile, "err", damaged)
	}
	for _, e := range o.roster.Revocations().Entries() {
		if e.Kind == membership.RevokePeer {
			known.Forget(e.Key.Peer()) // while this peer was not there to hear of it
		}
	}
	o.peers = known
	keep := &upkeep{o: o, farAt: time.Now()}
	return mesh.New(mesh.Config{
		Key: o.cfg.Key, Port: o.cfg.Socket, Prefix: o.prefix(), Log: o.log, Metrics: o.metrics,
		Hearsay: o.out, Known: known, Pipes: meshPipes{o.pipes}, Advertise: o.advertise,
		Verify: o.roster.Verify, Current: o.roster.Current, Hello: o.hello, YoungFor: directory.YoungFor,
		Entered: o.entered, Heard: o.heard, Left: o.left, Clock: o.roster.HearTime,
		Answers: o.nat.Probes().NoteConnection, Probed: o.nat.Probes().Note,
		ClockWrong: func() bool {
			off, n := o.ClockOff()
			return n > 0 && off.Abs() > membership.Tolerance
		},
		Alone:   func(why string) { o.cfg.Events.Emit(event.Event{Kind: event.Alone, Err: why}) },
		Serving: o.Server, EnoughServers: directory.FewServers,
		Record: func(p peerid.ID) []byte { return o.directory.Record(p) },
		Show:   func(p peerid.ID, record []byte) bool { return o.directory.Show(p, record) },
		Allow:  func(p peerid.ID) bool { return o.router.Allow(p) },
		Pulse:  keep.pulse, Decide: func() bool { return o.directory.DecideRole() },
	})
}

// meshPipes is mesh.Pipes.
type meshPipes struct{ *pipe.Endpoint }

func (p meshPipes) Peers() []peerid.ID {
	var out []peerid.ID
	for _, pp := range p.Pipes() {
		out = append(out, pp.Peer())
	}
	return out
}

func (p meshPipes) Remotes(id peerid.ID) []netip.AddrPort {
	pp := p.Pipe(id)
	if !alive(pp) {
		return nil
	}
	var out []netip.AddrPort
	for _, at := range pp.Direct() {
		out = append(out, at.Remote)
	}
	return out
}

func (p meshPipes) Source(remote netip.AddrPort) netip.Addr {
	for _, pp := range p.Pipes() {
		for _, at := range pp.Direct() {
			if at.Remote == remote {
				return at.Local.LocalAddr().Addr()
			}
		}
	}
	return netip.Addr{}
}

// PeerMoved is pipe.Config.Moved. The connection to the peer may have ended by
// what moved the pipe.
func (o *Overlay) PeerMoved(pp *pipe.Pipe) { o.mesh.PipeMoved(pp.Peer()) }

// hello is what this peer says of itself.
func (o *Overlay) hello() mesh.Hello {
	own := o.roster.Own()
	h := mesh.Hello{Chain: own.Chain, Revocation: o.roster.Revocations().Seq(), Seconds: uint64(o.now().Unix()), Start: o.pipes.Start()}
	h.Issuer, h.NoRelay = own.Issuer, o.cfg.NoRelay
	h.Record = o.directory.OwnRecord()
	if o.cfg.Paths != PathRelayOnly {
		for _, a := range o.nat.Own().Best(mesh.HelloAddrs) {
			h.Addrs = append(h.Addrs, p2p.QUIC(a))
		}
	}
	h.Server, h.Young = o.directory.Serving()
	return h
}

// entered is called when a member has come through the gate.
func (o *Overlay) entered(n mesh.Neighbor) {
	remote, _ := p2p.AddrPort(n.Remote)
	o.nat.Probes().NoteConnection(remote)
	o.cfg.Events.Emit(event.Event{Kind: event.PeerConnected, Peer: n.ID, Name: o.fullName(n.Member.Label), Remote: remote})
	o.directory.Entered(n.Peer)
	if n.Server || !o.nat.Mapped().Known() {
		o.nat.Mapped().Remeasure()
	}
}

// heard is called for each valid hello, also later ones.
func (o *Overlay) heard(n mesh.Neighbor, h mesh.Hello) {
	o.pipes.PeerStarted(n.ID, h.Start)
	o.directory.Heard(n.Peer, h.Server, h.Young, h.Start)
	o.roster.HearNumber(n.ID, h.Revocation)
}

// left is called when a member's last connection is gone. One that was trimmed
// tells nothing about the member.
func (o *Overlay) left(p peer.ID, m *membership.Member, trimmed bool) {
	o.cfg.Events.Emit(event.Event{Kind: event.PeerGone, Peer: m.Peer, Name: o.fullName(m.Label)})
	o.directory.Left(p, trimmed)
}

// Alone says whether this peer knows members and is connected to none, and why
// the last attempts to reach one have failed.
func (o *Overlay) Alone() (bool, string) { return o.mesh.Alone() }

// Peers returns the members that this peer has a peer-protocol connection to.
func (o *Overlay) Peers() []PeerInfo {
	var out []PeerInfo
	for _, n := range o.mesh.Members() {
		remote, _ := p2p.AddrPort(n.Remote)
		label := n.Member.Label
		if label == membership.AnyLabel {
			label = ""
		}
		out = append(out, PeerInfo{Peer: n.ID, Label: label, Remote: remote, Server: n.Server, RTT: o.mesh.RTT(n.Peer)})
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return a.Peer.Compare(b.Peer) })
	return out
}
