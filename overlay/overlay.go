package overlay

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// Overlay is one peer's part in one overlay: the peer protocol of the draft
// (§4.2). It is safe for concurrent use.
type Overlay struct {
	cfg   Config
	log   *slog.Logger
	self  peerid.ID
	ov    membership.Overlay
	root  *membership.Root // the founder's; nil for others
	pipes *pipe.Endpoint

	host      host.Host
	metrics   *prometheus.Registry // libp2p's
	gate      *gate
	db        *database
	validator *naming.Validator
	demux     *stunDemux
	mapped    *reflexive
	turn      *turnServers
	portmap   *portMapper // nil on a simulated network, which has no routers
	ice       []ICEServer // Config.ICEServers
	names     *names
	publisher *publisher
	router    *router
	connects  *connects
	nulls     *nulls
	stale     *stale
	peers     *remembered
	registry  *registry
	filter    candidateFilter
	keeper    *keeper

	revoked atomic.Pointer[membership.RevocationList]

	mu         sync.Mutex // guards what follows
	chain      []byte
	member     *membership.Member
	label      string // the name claimed
	issuer     *membership.Issuer
	delegation []byte
	closed     bool

	started time.Time
	backAt  time.Time // when a dial-back was last asked for; of keepUp
	nearAt  time.Time // when the nearest servers were last looked for
	farAt   time.Time // when others were
	farSaw  int       // how many members were connected then
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	upkeep  chan struct{}
	moved   chan struct{} // the port's sockets have changed

	settling settling // the network, after it has changed
	// listening are the sockets that libp2p began with.
	listening []*socket.Conn
	done      chan struct{} // closed when Close is through
}

// Create founds an overlay for a domain, or resumes the one that cfg.State
// holds. The founder needs nobody to be there.
func Create(ctx context.Context, domain string, cfg Config) (*Overlay, error) {
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	clean, err := membership.CleanDomain(domain)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		if len(saved.Root) == 0 || saved.Domain != clean {
			return nil, fmt.Errorf("overlay: the state is of %q, which is not an overlay %q founded here", saved.Domain, clean)
		}
		return o.resume(ctx, saved, nil)
	}
	if o.root, err = membership.NewRoot(domain); err != nil {
		return nil, err
	}
	o.ov, o.issuer = o.root.Overlay(), o.root.Issuer()
	label := cleanLabel(cfg.Name)
	if err := o.issueSelf(label); err != nil {
		return nil, err
	}
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.found(ctx))
}

// Join enters an overlay with a token, or resumes it from cfg.State, in which
// case the token may have expired. When it returns, this peer's name is
// decided and published.
func Join(ctx context.Context, token string, cfg Config) (*Overlay, error) {
	t, err := membership.ParseToken(token)
	if err != nil {
		return nil, err
	}
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		if saved.overlay() != t.Overlay() {
			return nil, fmt.Errorf("overlay: the state is of another overlay, %q", saved.Domain)
		}
		return o.resume(ctx, saved, t)
	}
	o.ov = t.Overlay()
	label := t.Label()
	if label == membership.AnyLabel {
		label = cleanLabel(cfg.Name)
	}
	if err := o.enter(t, label); err != nil {
		return nil, err
	}
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.join(ctx, t, label))
}

// Open resumes the overlay that cfg.State holds; ErrNoState if there is none.
func Open(ctx context.Context, cfg Config) (*Overlay, error) {
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if saved == nil {
		return nil, ErrNoState
	}
	return o.resume(ctx, saved, nil)
}

// prepare checks cfg and loads what is saved.
func prepare(cfg Config) (*Overlay, *saved, error) {
	if cfg.Socket == nil || cfg.Pipes == nil {
		return nil, nil, errors.New("overlay: Config.Socket and Config.Pipes are required")
	}
	pub, err := publicKey(cfg.Key)
	if err != nil {
		return nil, nil, err
	}
	o := &Overlay{cfg: cfg, log: cfg.Logger, self: pub, metrics: prometheus.NewRegistry(), demux: newSTUNDemux(), upkeep: make(chan struct{}, 1), moved: make(chan struct{}, 1), done: make(chan struct{})}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.ice, err = parseICEServers(cfg.ICEServers); err != nil {
		return nil, nil, err
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	s, err := loadSaved(cfg.State)
	if err != nil {
		return nil, nil, err
	}
	return o, s, nil
}

// issueSelf makes the founder a member.
func (o *Overlay) issueSelf(label string) error {
	chain, err := o.issuer.Issue(o.self, membership.MemberOptions{
		Label: label, Roles: membership.RoleRelay | membership.RoleDelegate, Serial: 1,
	}, o.now())
	if err != nil {
		return fmt.Errorf("overlay: founder's certificate: %w", err)
	}
	return o.take(chain, label)
}

// enter makes this peer a provisional member by the token.
func (o *Overlay) enter(t *membership.Token, label string) error {
	chain, err := t.SelfIssue(o.cfg.Key, label, o.now())
	if err != nil {
		return err
	}
	return o.take(chain, label)
}

// take adopts a chain for this peer.
func (o *Overlay) take(chain []byte, label string) error {
	m, err := membership.VerifyChain(chain, o.ov, o.now(), o.revoked.Load())
	if err != nil {
		return fmt.Errorf("own membership: %w", err)
	}
	if m.Peer != o.self {
		return errors.New("overlay: a chain for another peer")
	}
	o.mu.Lock()
	o.chain, o.member, o.label = chain, m, label
	o.mu.Unlock()
	return nil
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
	o.started, o.farAt = time.Now(), time.Now()
	var err error
	if o.pipes, err = o.cfg.Pipes(o); err != nil {
		return err
	}
	o.filter = o.newFilter()
	o.mapped = newReflexive(o.demux, o.cfg.Socket.Conns, o.stunServers)
	o.mapped.changed = func() { o.connects.trickle() }
	o.turn = newTURNServers(o, o.ice)
	if o.cfg.Net == nil {
		o.portmap = newPortMapper(o)
	}
	o.validator = &naming.Validator{Overlay: o.ov, Now: o.now, Revoked: o.revoked.Load}
	if o.peers, err = newRemembered(o.cfg.State, o.self); err != nil {
		return err
	}
	if o.registry, err = newRegistry(o.cfg.State); err != nil {
		return err
	}
	o.listening = o.cfg.Socket.Conns()
	if o.host, err = newHost(o.cfg.Key, o.cfg.Socket, o.advertise, o.metrics); err != nil {
		return err
	}
	o.keeper = &keeper{o: o}
	o.gate = newGate(o.host, o.proto("hello"), o.log)
	o.gate.verify, o.gate.mine = o.verify, o.hello
	o.gate.entered, o.gate.heard, o.gate.left = o.entered, o.heard, o.left
	if o.db, err = newDatabase(o.gate, o.prefix(), &validator{Validator: o.validator, known: map[[32]byte]time.Time{}}, o.log); err != nil {
		return err
	}
	if o.names, err = newNames(o); err != nil {
		return err
	}
	o.publisher = newPublisher(o)
	o.connects = newConnects(o)
	if o.nulls, err = newNulls(o); err != nil {
		return err
	}
	o.router = newRouter(o)
	o.stale = &stale{o: o, asked: map[peer.ID]bool{}}
	if o.root != nil {
		o.db.setServer()
	}
	o.gate.handle(o.proto("offer"), o.router.serve)
	o.gate.handle(o.proto("confirm"), o.serveConfirm)
	o.gate.handle(o.proto("confirmed"), o.serveConfirmed)
	o.gate.handle(o.proto("revocation"), o.serveRevocation)
	o.gate.handle(o.proto("peers"), o.servePeers)
	o.gate.handle(o.proto("dialback"), o.serveDialBack)
	o.gate.start()
	o.wg.Go(func() { o.mapped.run(o.ctx) })
	o.wg.Go(func() { o.turn.run(o.ctx) })
	if o.portmap != nil {
		o.wg.Go(func() { o.portmap.run(o.ctx) })
	}
	o.wg.Go(func() { o.publisher.run(o.ctx) })
	o.wg.Go(o.keepUp)
	o.wg.Go(o.followNetwork)
	return nil
}

// found is the rest of Create: the founder's name is put, if only into its
// own part of the database.
func (o *Overlay) found(ctx context.Context) error {
	if err := o.save(); err != nil {
		return err
	}
	o.publisher.first(ctx)
	return nil
}

// join is the rest of Join: reach one member, have the name decided, put it.
func (o *Overlay) join(ctx context.Context, t *membership.Token, label string) error {
	if err := o.bootstrap(ctx, addrInfos(t.Addrs())); err != nil {
		return err
	}
	if err := o.settleName(ctx, t, label); err != nil {
		return err
	}
	if err := o.save(); err != nil {
		return err
	}
	// A crash from now on finds the way back.
	o.remember()
	if err := o.peers.save(); err != nil {
		return err
	}
	o.publisher.first(ctx)
	return nil
}

// resume continues a saved membership. That nobody answers is no error: the
// peer goes on trying, and others may find it.
func (o *Overlay) resume(ctx context.Context, s *saved, t *membership.Token) (*Overlay, error) {
	if err := o.restore(s); err != nil {
		return nil, err
	}
	if err := o.renewOffline(s, t); err != nil {
		return nil, err
	}
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.rejoin(ctx, t))
}

func (o *Overlay) rejoin(ctx context.Context, t *membership.Token) error {
	addrs := o.peers.addrInfos()
	if t != nil {
		addrs = append(addrs, addrInfos(t.Addrs())...)
	}
	if len(addrs) > 0 {
		if err := o.bootstrap(ctx, addrs); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o.log.Warn("no member reached yet", "err", err)
		}
	}
	if o.root == nil {
		o.renew(ctx)
	}
	if err := o.save(); err != nil {
		return err
	}
	o.publisher.first(ctx)
	return nil
}

// running returns o, or closes it if the last step of its start failed.
func (o *Overlay) running(err error) (*Overlay, error) {
	if err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
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
	var errs []error
	if o.host != nil && o.ov.Domain != "" && o.peers != nil {
		errs = append(errs, o.peers.save())
	}
	o.cancel()
	if o.nulls != nil {
		o.nulls.close()
	}
	if o.connects != nil {
		o.connects.close()
	}
	o.wg.Wait()
	if o.db != nil {
		o.db.close()
	}
	if o.gate != nil {
		o.gate.close()
	}
	if o.host != nil {
		errs = append(errs, o.host.Close())
	}
	if o.names != nil {
		errs = append(errs, o.names.save())
	}
	return errors.Join(errs...)
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
	return time.Now()
}

// prefix begins the protocol IDs of this overlay: peers of two overlays on
// one address do not even agree on a protocol.
func (o *Overlay) prefix() protocol.ID {
	return protocol.ID("/idloc/" + hex.EncodeToString(o.ov.ID[:8]))
}

func (o *Overlay) proto(name string) protocol.ID { return o.prefix() + protocol.ID("/"+name+"/1") }

// verify says whether a chain makes from a member now.
func (o *Overlay) verify(chain []byte, from peerid.ID) (*membership.Member, error) {
	m, err := membership.VerifyChain(chain, o.ov, o.now(), o.revoked.Load())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotMember, err)
	}
	if m.Peer != from {
		return nil, fmt.Errorf("%w: the chain is another peer's", ErrNotMember)
	}
	return m, nil
}

// hello is what this peer says first on each connection to p.
func (o *Overlay) hello(p peer.ID) hello {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := hello{chain: o.chain, revocation: o.revoked.Load().Seq()}
	if o.db != nil && o.db.isServer() {
		h.flags |= flagServer
	}
	if o.cfg.NoRelay {
		h.flags |= flagNoRelay
	}
	if o.issuer != nil {
		h.flags |= flagIssuer
	}
	if o.keeper.needs(p) {
		h.flags |= flagKeep
	}
	return h
}

// entered is called when a member has come through the gate.
func (o *Overlay) entered(d *door) {
	o.db.host.admitted(d.peer)
	remote, _ := addrPort(d.remote)
	o.cfg.Events.Emit(event.Event{Kind: event.PeerConnected, Peer: d.id, Name: o.fullName(d.member.Label), Remote: remote})
	o.publisher.contactChanged()
	if o.db.speaks(d) {
		o.mapped.again()
	}
	o.wake()
}

// heard is called for each valid hello, also later ones.
func (o *Overlay) heard(d *door, h hello) {
	o.names.saw(d.member)
	o.keeper.heard(d.peer, h.flags)
	o.db.host.admitted(d.peer)
	if h.flags&flagServer != 0 {
		o.publisher.serverFound()
		o.db.newServer(d.peer)
	}
	if h.revocation != o.revoked.Load().Seq() {
		o.gate.spawn(func() { o.compareLists(d.peer) })
	}
}

// left is called when a member's last connection is gone. One that was trimmed
// tells nothing about the member: it serves the database as before. (One that
// only says so stays in the routing table until a question to it fails.)
func (o *Overlay) left(p peer.ID, m *membership.Member, trimmed bool) {
	o.cfg.Events.Emit(event.Event{Kind: event.PeerGone, Peer: m.Peer, Name: o.fullName(m.Label)})
	o.keeper.left(p)
	o.publisher.contactChanged()
	if trimmed {
		o.wake()
		return
	}
	held := o.db.lostHolder(p)
	if held && o.db.small() {
		o.publisher.changed() // the record needs another home
		held = false
	}
	if held || o.db.kad.RoutingTable().Find(p) != "" {
		// Leave a server that is gone out of the answers of this one soon:
		// the question removes it if it is not there. If it is, and has only
		// closed a connection among many, it still has what it had.
		o.gate.spawn(func() {
			if o.db.ask(o.ctx, p, string(p)).err != nil && held {
				o.publisher.changed()
			} else if held {
				o.db.holds(p)
			}
		})
	}
	o.wake()
}

// wake runs the upkeep soon.
func (o *Overlay) wake() {
	select {
	case o.upkeep <- struct{}{}:
	default:
	}
}

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
func (o *Overlay) Label() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.label
}

// Domain returns the overlay's domain.
func (o *Overlay) Domain() string { return o.ov.Domain }

// ID returns the overlay's ID.
func (o *Overlay) ID() [32]byte { return o.ov.ID }

// Self returns this peer's ID.
func (o *Overlay) Self() peerid.ID { return o.self }

// Founder says whether this peer holds the overlay's root key.
func (o *Overlay) Founder() bool { return o.root != nil }

// Server says whether this peer keeps a part of the database.
func (o *Overlay) Server() bool { return o.db.isServer() }

// Member returns this peer's own membership.
func (o *Overlay) Member() *membership.Member {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.member
}

// Peers returns the members that this peer has a peer-protocol connection to.
func (o *Overlay) Peers() []PeerInfo {
	var out []PeerInfo
	for _, d := range o.gate.members() {
		remote, _ := addrPort(d.remote)
		label := d.member.Label
		if label == membership.AnyLabel {
			label = ""
		}
		out = append(out, PeerInfo{Peer: d.id, Label: label, Remote: remote, Server: o.db.speaks(d)})
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return a.Peer.Compare(b.Peer) })
	return out
}
