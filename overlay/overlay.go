package overlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wallclock"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/roaming"
)

// Overlay is one peer's part in one overlay: the peer protocol of the draft
// (§4.2). It is safe for concurrent use.
type Overlay struct {
	cfg       Config
	life      *life
	roster    *admission.Roster
	pipes     *pipe.Endpoint
	demux     *ice.Demux
	carriers  *carry.Carriers
	nat       *nat.Addresses
	mesh      *mesh.Mesh
	directory *directory.Directory
	establish *establish.Establisher
	flows     *nullflow.Flows
	roaming   *roaming.Follower
}

// Close leaves: the name stays in the database until it expires. It waits for
// everything it started and is idempotent. The port, the pipes and the state
// directory belong to the caller.
func (o *Overlay) Close() error {
	if !o.life.close() {
		<-o.life.done
		return nil
	}
	defer close(o.life.done)
	defer o.roster.Close()
	if o.mesh != nil {
		o.mesh.Save()
		o.mesh.Leave()
	}
	o.life.cancel()
	if o.directory != nil {
		o.directory.Stop()
	}
	if o.flows != nil {
		o.flows.Close()
	}
	if o.establish != nil {
		o.establish.Close()
	}
	o.life.wg.Wait()
	if o.directory != nil {
		o.directory.Close()
	}
	if o.mesh == nil {
		return nil
	}
	o.mesh.Stop()
	return o.mesh.Close()
}

// now is the wall clock, which certificates and records are judged by.
func (o *Overlay) now() time.Time {
	if o.cfg.clock != nil {
		return o.cfg.clock()
	}
	return wallclock.Now()
}

// Name returns this peer's name, "mars.example.com".
func (o *Overlay) Name() string { return o.roster.Overlay().FullName(o.Label()) }

// Label returns the first label of Name.
func (o *Overlay) Label() string { return o.roster.Own().Label }

// Domain returns the overlay's domain.
func (o *Overlay) Domain() string { return o.roster.Overlay().Domain }

// ID returns the overlay's ID.
func (o *Overlay) ID() [32]byte { return o.roster.Overlay().ID }

// Self returns this peer's ID.
func (o *Overlay) Self() peerid.ID { return o.roster.Self() }

// Founder says whether this peer holds the overlay's root key.
func (o *Overlay) Founder() bool { return o.roster.Founder() }

// Member returns this peer's own membership.
func (o *Overlay) Member() *membership.Member { return o.roster.Own().Member }

// HandleSTUN takes what the shared port received with a first byte of 0–3; b
// is borrowed. It is called on the socket's read goroutine.
func (o *Overlay) HandleSTUN(c *socket.Conn, from netip.AddrPort, b []byte) {
	o.demux.Handle(c, from, b)
}

// Connect returns a pipe to the peer that can carry data, making one if there
// is none: see establish.Establisher.Connect. Errors are *StageError.
func (o *Overlay) Connect(ctx context.Context, p peerid.ID) (*pipe.Pipe, error) {
	return o.establish.Connect(ctx, p)
}

// Resolve returns the peer that has a label. The error is ErrNotFound only if
// enough servers have answered or, as ErrRevoked, if the membership of whoever had
// it was taken back, and ErrUnavailable, which is temporary, if not. A label that is
// a peer ID needs no record, only that the peer has once shown its membership.
func (o *Overlay) Resolve(ctx context.Context, label string) (Found, error) {
	f, err := o.directory.Resolve(ctx, label)
	if errors.Is(err, directory.ErrClosed) {
		err = ErrClosed
	}
	return f, err
}

// Withdraw gives this peer's name up in the database, to be called before
// Close by a peer that does not come back soon: whoever asks for the name is
// told from then on that there is none. Nothing is published any more.
func (o *Overlay) Withdraw(ctx context.Context) error { return o.directory.Withdraw(ctx) }

// Users is where users are, and where this peer says that they are.
func (o *Overlay) Users() directory.Users { return o.directory }

// DialNull opens a TCP flow with null encapsulation to a peer: see
// nullflow.Flows.DialTCP. Errors are *StageError.
func (o *Overlay) DialNull(ctx context.Context, f nullflow.Flow, ended func()) (net.Conn, error) {
	c, err := o.flows.DialTCP(ctx, f, ended)
	if err != nil {
		return nil, nullflow.StageError(f.Peer, err)
	}
	return c, nil
}

// DialNullUDP opens a UDP flow with null encapsulation to a peer: see
// nullflow.Flows.DialUDP. Errors are *StageError.
func (o *Overlay) DialNullUDP(ctx context.Context, f nullflow.Flow) (end func(), err error) {
	end, err = o.flows.DialUDP(ctx, f)
	if err != nil {
		return nil, nullflow.StageError(f.Peer, err)
	}
	return end, nil
}

// NullFlows returns the flows with null encapsulation, ordered by peer and ports.
func (o *Overlay) NullFlows() []nullflow.Status { return o.flows.Status() }

// NetworkChanged tells that the port's sockets are others than before. It
// returns at once; pipes are challenged from the new addresses, libp2p listens
// on them, and what others know of this peer is put anew.
func (o *Overlay) NetworkChanged() { o.roaming.NetworkChanged() }

// PeerMoved is pipe.Config.Moved. The connection to the peer may have ended by
// what moved the pipe.
func (o *Overlay) PeerMoved(pp *pipe.Pipe) {
	o.mesh.PipeMoved(pp.Peer(), pp.Carried())
	o.establish.Uncarry(pp)
}

// SparePaths is pipe.Config.Spare.
func (o *Overlay) SparePaths(p peerid.ID) []pipe.Path { return o.carriers.Spare(p) }

// PeerSilent is pipe.Config.Dead. If the fault is this side's, connections to
// members are dead too, or a NAT has forgotten them: asking a question shows
// their other ends where this peer is now. A pipe that was in use is opened
// again, without waiting for the next packet for it.
func (o *Overlay) PeerSilent(pp *pipe.Pipe, wanted bool) {
	o.mesh.SuspectAllNowAndThen()
	if wanted {
		o.establish.Reopen(pp.Peer())
	}
}

// Alone says whether this peer knows members and is connected to none, and why
// the last attempts to reach one have failed.
func (o *Overlay) Alone() (bool, string) { return o.mesh.Alone() }

// Peers returns the members that this peer has a peer-protocol connection to.
func (o *Overlay) Peers() []PeerInfo { return o.mesh.Peers() }

// Server says whether this peer keeps a part of the database.
func (o *Overlay) Server() bool {
	server, _ := o.directory.Serving()
	return server
}

// Drops counts, by reason, the STUN messages that drew no answer and went
// nowhere. It may be called at any time from any goroutine.
func (o *Overlay) Drops() map[string]uint64 { return o.demux.Drops() }

// DropReasons are the reasons by which Drops counts.
func DropReasons() []string { return ice.DropReasons() }

// Held is how many datagrams were not sent to addresses that were only heard of
// (package hearsay). It may be called at any time from any goroutine.
func (o *Overlay) Held() uint64 { return o.mesh.Held() }

// Metrics gathers libp2p's own metrics: see mesh.Mesh.Metrics.
func (o *Overlay) Metrics() prometheus.Gatherer { return o.mesh.Metrics() }
