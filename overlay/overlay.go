package overlay

import (
	"context"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wallclock"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/offers"
)

// Overlay is one peer's part in one overlay: the peer protocol of the draft
// (§4.2). It is safe for concurrent use.
type Overlay struct {
	cfg    Config
	log    *slog.Logger
	self   peerid.ID
	ov     membership.Overlay
	roster *admission.Roster
	pipes  *pipe.Endpoint

	host      host.Host
	metrics   *prometheus.Registry // libp2p's
	mesh      *mesh.Mesh
	directory *directory.Directory
	demux     *ice.Demux
	nat       *nat.Addresses
	ice       []nat.ICEServer // Config.ICEServers
	router    *offers.Router
	establish *establish.Establisher
	flows     *nullflow.Flows
	peers     *mesh.Known
	filter    ice.Filter
	out       *hearsay.Gate // for addresses that were only heard of

	mu     sync.Mutex // guards what follows
	closed bool

	resumed bool // from what was saved
	started time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	moved   chan func() // the port's sockets have changed; called when the network has settled

	// listening are the sockets that libp2p began with.
	listening []*socket.Conn
	done      chan struct{} // closed when Close is through
}

// start brings up everything that talks, and is undone by Close.
func (o *Overlay) start() error {
	if err := o.compose(); err != nil {
		_ = o.Close()
		return err
	}
	return nil
}

func (o *Overlay) compose() error {
	o.ov = o.roster.Overlay()
	o.started = time.Now()
	var err error
	o.filter = ice.NewFilter(o.cfg.Socket.Conns(), o.cfg.LSIPrefixes, o.cfg.AllowLoopback)
	o.out = hearsay.New(o.filter.Allowed, time.Now)
	o.demux = ice.NewDemux(ice.DemuxConfig{Servers: o.out})
	if o.pipes, err = o.cfg.Pipes(o); err != nil {
		return err
	}
	o.nat = o.newAddresses()
	o.listening = o.cfg.Socket.Conns()
	if o.mesh, err = o.newMesh(); err != nil {
		return err
	}
	o.host = o.mesh.Host()
	if o.directory, err = o.newDirectory(); err != nil {
		return err
	}
	if o.establish, err = o.newEstablisher(); err != nil {
		return err
	}
	if o.flows, err = o.newFlows(); err != nil {
		return err
	}
	if o.router, err = o.newRouter(); err != nil {
		return err
	}
	if o.roster.Founder() {
		if o.resumed {
			o.directory.Serve()
		} else {
			o.directory.ServeNew()
		}
	}
	o.mesh.Serve(offerProtocol, o.serveOffer)
	o.mesh.Serve(mesh.Protocol(admission.ConfirmProtocol), o.roster.AnswerConfirm)
	o.mesh.Serve(mesh.Protocol(admission.ConfirmedProtocol), o.roster.AnswerConfirmed)
	o.mesh.Serve(mesh.Protocol(admission.RevocationProtocol), o.roster.AnswerList)
	o.mesh.Start()
	o.wg.Go(func() { o.nat.Run(o.ctx) })
	o.wg.Go(o.directory.Run)
	o.wg.Go(o.mesh.Run)
	if o.resumed && o.roster.Founder() {
		o.wg.Go(o.mesh.Recall)
	}
	decide := time.AfterFunc(directory.ServerAfter, o.mesh.Wake)
	context.AfterFunc(o.ctx, func() { decide.Stop() })
	o.wg.Go(o.watchClock)
	o.wg.Go(o.followNetwork)
	return nil
}

// Close leaves: the name stays in the database until it expires. It waits for
// everything it started and is idempotent. The port, the pipes and the state
// directory belong to the caller.
func (o *Overlay) Close() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		<-o.done
		return nil
	}
	o.closed = true
	o.mu.Unlock()
	defer close(o.done)
	if o.mesh != nil {
		o.mesh.Save()
		o.mesh.Leave()
	}
	o.cancel()
	if o.directory != nil {
		o.directory.Stop()
	}
	if o.flows != nil {
		o.flows.Close()
	}
	if o.establish != nil {
		o.establish.Close()
	}
	o.wg.Wait()
	if o.directory != nil {
		o.directory.Close()
	}
	if o.mesh == nil {
		return nil
	}
	o.mesh.Stop()
	return o.mesh.Close()
}

// spawn runs f in the Overlay's life; Close waits for it. It says whether it
// was not too late.
func (o *Overlay) spawn(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.wg.Go(f)
	return true
}

// now is the wall clock, which certificates and records are judged by.
func (o *Overlay) now() time.Time {
	if o.cfg.clock != nil {
		return o.cfg.clock()
	}
	return wallclock.Now()
}

// prefix begins the protocol IDs of this overlay: peers of two overlays on
// one address do not even agree on a protocol.
func (o *Overlay) prefix() protocol.ID {
	return protocol.ID("/idloc/" + hex.EncodeToString(o.ov.ID[:8]))
}

func (o *Overlay) proto(name string) protocol.ID { return o.prefix() + protocol.ID("/"+name+"/1") }

// fullName is a label under the overlay's domain, "" for none.
func (o *Overlay) fullName(label string) string {
	if label == "" || label == membership.AnyLabel {
		return ""
	}
	return label + "." + o.ov.Domain
}

// Name returns this peer's name, "mars.example.com".
func (o *Overlay) Name() string { return o.fullName(o.Label()) }

// Label returns the first label of Name.
func (o *Overlay) Label() string { return o.roster.Own().Label }

// Domain returns the overlay's domain.
func (o *Overlay) Domain() string { return o.ov.Domain }

// ID returns the overlay's ID.
func (o *Overlay) ID() [32]byte { return o.ov.ID }

// Self returns this peer's ID.
func (o *Overlay) Self() peerid.ID { return o.self }

// Founder says whether this peer holds the overlay's root key.
func (o *Overlay) Founder() bool { return o.roster.Founder() }

// Member returns this peer's own membership.
func (o *Overlay) Member() *membership.Member { return o.roster.Own().Member }
