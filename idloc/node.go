package idloc

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/netstack/tun"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/adapter"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/pki"
	"github.com/idloc/idloc/resolver"
	"github.com/idloc/idloc/shim"
)

// Node is one peer of one overlay: a TCP/IP stack, the pipes below it and
// the peer protocol beside it. Its methods may be called concurrently, until
// and after Close.
type Node struct {
	cfg    Config
	id     PeerID
	log    *slog.Logger
	hub    *hub
	meter  *meter
	state  *state.Dir
	offers *state.Journal

	warnings warnings

	// The stair, from the top. Each is closed by Close in this order.
	stack hostStack
	shim  *shim.Shim
	pipes atomic.Pointer[pipe.Endpoint] // the port receives before it is there
	sock  *socket.Port
	// Of sock, which closes them; nil on a simulated network.
	carriers    *carrier.Set
	carrierPort uint16 // of TCP; 0: none
	// Beside it.
	ov    *overlay.Overlay                // set before anyone has the Node
	early atomic.Pointer[overlay.Overlay] // the same, while it is being entered: for STUN only
	late  atomic.Pointer[overlay.Overlay] // the same, once it was entered: for callbacks
	moved atomic.Bool                     // the port's sockets have changed, and late was not told
	table *lsi.Table
	dns   *resolver.Server
	certs *pki.Keeper // attached as soon as ov is set

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc

	closing sync.Once // does shutDown

	granting  granting
	proposals toldProposals

	bare sync.Map // shim.BareFlow: UDP flows with null encapsulation

	traffic *traffic // for the Handlers

	saving  sync.Mutex              // serialises save
	dirty   dirt                    // what there is for keepState
	capture atomic.Pointer[capture] // the one that runs
	wg      sync.WaitGroup          // the DNS server's sockets, keepState, watchTraffic and watchServers
}

// Create founds the overlay of domain ("example.com") and returns its first
// node, or resumes the overlay that was founded in cfg.Dir; that it was
// another domain is then an error. Any domain name that the founder has
// authority over will do (draft §5); it needs no DNS.
//
// The founder's key rules the overlay, alone until Promote has made others authorities:
// keep cfg.Dir, and see RUNBOOK.md for what to do before it is lost. The context covers the
// call only. A founder that resumes waits for the members it knows as Open does,
// but for three seconds at most: it needs nobody.
func Create(ctx context.Context, domain string, cfg Config) (*Node, error) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	return start(ctx, cfg, func(ctx context.Context, c overlay.Config) (*overlay.Overlay, error) {
		return overlay.Create(ctx, domain, c)
	})
}

// Join enters an overlay with a token from Node.Invite, or resumes from
// cfg.Dir as Open does: the token may have expired or been used by then. The case of
// a token's letters and white space in it do not matter: in capitals it makes a
// smaller QR code, and it may be broken into lines. It
// returns when the node is connected to a member, its name is decided, and the members'
// database has it, so that the others find it. For the last of these it waits half a minute at
// the most; that the context's deadline passes meanwhile is no error: the node is in, and goes on. The
// context covers the call only, and all of it is used: Join tries the members that
// the token names again and again until it ends, for ever if it does not, and waits
// for this machine's clock if that is behind. What no time mends ends it at once: a
// token that has expired or was revoked, a name that is another's. The error tells
// which members were tried at which addresses, and the last reason of each. What
// Join waits for, when that lasts for a second and each minute, is in the log at
// Info.
func Join(ctx context.Context, token string, cfg Config) (*Node, error) {
	return start(ctx, cfg, func(ctx context.Context, c overlay.Config) (*overlay.Overlay, error) {
		return overlay.Join(ctx, token, c)
	})
}

// Open resumes the node whose state is in cfg.Dir, founder or not. It fails
// with ErrNoState if there is none. The context covers the call only.
//
// Open returns as soon as one member is reached. If none is until the context's
// deadline, or for ten seconds where it has none, Open returns all the same: the
// node is up, and alone. A founder, who needs nobody, waits three seconds at most. It
// goes on trying, every few seconds, and others may find it. That it is alone, and why
// nobody was reached, is in Status().Self.Alone and AloneWhy, in an event of kind
// "alone" and in a line of the log at Warn; the event "peer-connected" ends it. Only a
// context that is cancelled is an error.
//
// A node that was off for so long that its membership has ended (30 days) is renewed by
// whomever it reaches, if that is an authority or a delegate, or reaches one; nobody else
// serves it before, unless they have heard of no authority and no delegate either since
// its membership ended (SetUnattended). 400 days later, and when it was revoked and knows it, Open fails: Join
// with a new token then.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("idloc: %w: Config.Dir is empty", ErrNoState)
	}
	if _, err := os.Stat(cfg.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("idloc: %w: %s", ErrNoState, cfg.Dir)
	}
	return start(ctx, cfg, overlay.Open)
}

// start puts a node together: the only place where the layers meet.
func start(ctx context.Context, cfg Config, enter func(context.Context, overlay.Config) (*overlay.Overlay, error)) (_ *Node, err error) {
	resumes := cfg.Dir != "" && state.Has(cfg.Dir, admission.DocOverlay)
	cfg, doubts, err := cfg.withDefaults(resumes)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, hub: newHub(), meter: newMeter(), traffic: newTraffic(time.Now()), dirty: newDirt()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			n.Close()
		}
	}()

	for _, d := range doubts {
		n.warnings.set(n.log, d.Field+d.Err.Error(), fmt.Sprintf("Config.%s: %v: a node that is new would not start with this", d.Field, d.Err))
	}
	host := machineName()
	if cfg.Name == "" {
		n.cfg.Name, _ = machineLabel(host)
	}
	if n.state, err = state.Open(cfg.Dir); err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	if err := n.state.ReadOnly(); err != nil {
		n.log.Warn("the state directory cannot be written: this node runs on what it holds", "dir", cfg.Dir, "err", err)
	}
	n.checkDir()
	key, err := identity(n.state)
	if err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	if n.id, err = peerid.FromPublicKey(key.Public().(ed25519.PublicKey)); err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	if err := n.makeCarriers(); err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	if err := n.listen(); errors.As(err, new(*ConfigError)) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	n.certs = pki.New(pki.Config{Key: key, State: n.state, Log: cfg.Logger})
	n.ov, err = enter(ctx, overlay.Config{
		Key: key, Socket: n.sock, State: n.state, Certificates: n.certs,
		Pipes: func(ov *overlay.Overlay) (*pipe.Endpoint, error) { return n.assemble(ov, key) },
		Name:  n.cfg.Name, NoRelay: cfg.NoRelay, NoLAN: cfg.NoLAN, Paths: overlay.PathPolicy(cfg.Paths),
		MaxListAge: cfg.MaxListAge, ListAged: n.listAged, Proposed: n.proposed, PolicyChanged: n.grantsChanged, Tags: n.memberTags,
		Events: n.emit, Logger: cfg.Logger,
		ICEServers: cfg.ICEServers, LSIPrefixes: cfg.lsiRanges(), AllowLoopback: listsLoopback(cfg.Addrs),
		Net: cfg.Net, Null: n.nullConfig(),
		Carriers: carry.Config{Set: n.carriers, Port: n.carrierPort, At: cfg.reached.carriers, Forwarded: cfg.reached.udp},
	})
	if errors.Is(err, overlay.ErrNoState) {
		err = fmt.Errorf("%w: %s", ErrNoState, cfg.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	n.late.Store(n.ov)
	n.grantsChanged()
	n.checkNamed(cfg.Name, host)
	n.checkPresent()
	n.tellMoved()
	if err := n.startDNS(); err != nil {
		return nil, fmt.Errorf("idloc: %w", err)
	}
	n.wg.Go(n.keepState)
	n.wg.Go(n.watchTraffic)
	n.wg.Go(func() { n.warnings.watchServers(n.ctx, n.log, cfg.namedServers(), lookupHost) })
	n.log.Info("node is up", "name", n.Name(), "peer", n.id, "port", n.sock.Number())
	return n, nil
}

// assemble builds the stair above the port for an overlay whose ID is known,
// before anything is sent in it.
func (n *Node) assemble(ov *overlay.Overlay, key ed25519.PrivateKey) (*pipe.Endpoint, error) {
	var saved []lsi.Entry
	if !n.load(stateLSIs, &saved) {
		saved = nil
	}
	var err error
	tcfg := lsi.Config{Prefix4: n.cfg.LSIPrefix, Overlay: ov.ID(), Self: n.id, Saved: saved}
	if n.cfg.TUN != "" {
		tcfg.InUse = tun.Remotes
	}
	n.table, err = lsi.New(tcfg)
	if err != nil {
		return nil, err
	}
	n.shim = shim.New(shim.Config{Table: n.table, Connector: connector{n}, Events: n.emit, Logger: n.log})
	if n.stack, err = n.newStack(); err != nil {
		return nil, err
	}
	n.stack.Ask(n.cfg.Admit != nil) // asking costs each datagram a look at its flow
	var last uint64
	if !n.load(stateTimestamp, &last) {
		last = 0
	}
	if n.offers, err = n.state.OpenJournal(stateOffers); err != nil {
		return nil, err
	}
	pipes, err := pipe.NewEndpoint(pipe.Config{
		Key: key, Overlay: ov.ID(), Handler: n.shim, Events: n.emit, Logger: n.log, LastTimestamp: last, Offers: n.offers,
		Account: ov.Account,
		Relay: func(from, to PeerID) (account.Account, bool) {
			if !n.mayMeet(from, to) {
				return account.Account{}, false
			}
			return ov.RelayFor(from)
		},
		Dead: ov.PeerSilent, Moved: ov.PeerMoved, Spare: ov.SparePaths,
		Locals: func() []pipe.Sender { return adapter.Senders(n.sock) },
		// The host's kernel repairs what is lost itself, and wants to know of it.
		NoRepair: n.cfg.TUN != "" || n.cfg.Repair == RepairOff, Cubic: n.cfg.Repair == RepairCubic,
	})
	if err != nil {
		return nil, err
	}
	n.pipes.Store(pipes)
	n.early.Store(ov)
	return pipes, nil
}

// onPipe, onSTUN and onChange are the port's callbacks. Datagrams that come
// before the layer above exists are dropped.
func (n *Node) onPipe(c *socket.Conn, from netip.AddrPort, b []byte, seg int) {
	if pipes := n.pipes.Load(); pipes != nil {
		pipes.ReceiveMarked(c, from, b, seg, c.ECN())
	}
}

func (n *Node) onSTUN(c *socket.Conn, from netip.AddrPort, b []byte) {
	if ov := n.early.Load(); ov != nil {
		ov.HandleSTUN(c, from, b)
	}
}

func (n *Node) onChange() {
	n.moved.Store(true)
	n.tellMoved()
}

// tellMoved tells the overlay that the port's sockets have changed, also while it was
// being entered, which may take long.
func (n *Node) tellMoved() {
	if ov := n.late.Load(); ov != nil && n.moved.Swap(false) {
		n.checkPresent()
		ov.NetworkChanged()
	}
}

// connector is the peer protocol as the shim sees it.
type connector struct{ n *Node }

func (c connector) Connect(ctx context.Context, peer peerid.ID) (*pipe.Pipe, error) {
	ov := c.n.late.Load()
	if ov == nil {
		return nil, errStarting
	}
	return ov.Connect(ctx, peer)
}

var errStarting = errors.New("the node has not entered the overlay yet")

// defaultLSIs is where nodes without a Config.LSIPrefix have their LSIs.
var defaultLSIs = netip.MustParsePrefix("198.18.0.0/15")

// lsiRanges are the addresses that may be LSIs: no real address lies there.
func (cfg Config) lsiRanges() []netip.Prefix {
	ranges := []netip.Prefix{defaultLSIs, netip.MustParsePrefix("2001:20::/28")}
	if cfg.LSIPrefix.IsValid() {
		ranges = append(ranges, cfg.LSIPrefix)
	}
	return ranges
}

// closeFor is how long Close waits at most for peers to take what was written.
const closeFor = 10 * time.Second

// Close leaves. It means to conns what the end of a process means on a kernel:
// what was written before arrives, and then the end of the stream, on conns that
// were closed as well as on those that are still open; unread data, or nobody
// who accepted it, makes that a reset. Close waits for that as long as the peers
// take it, 10 s at most; a peer that says nothing holds it up for 4 s. One that
// has all but the ends of its conns hears these with the end of the node, which is
// said until it answers, for a second, 3 s at most where the round trip is long, also to a
// peer that has gone silent in the last ten seconds; it holds Close up for half a second more
// if a conn with it has been reset or has timed out. Shutdown says how long, and waits
// for conns in use.
//
// Listeners and pending calls end with net.ErrClosed, peers are told that the
// node has ended, and every goroutine of the node has ended when Close returns.
// The error has a *CutError inside if peers have not acknowledged all that was
// written to them. It is idempotent and may be called at any time; calls after the
// first wait for it and return nil.
func (n *Node) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeFor)
	defer cancel()
	return n.closeWithin(ctx)
}

// Shutdown is Close for a node whose conns may finish first, as
// http.Server.Shutdown is: listeners close at once, so that new connections are
// refused, and when the application has closed its last TCP conn, or ctx has
// ended, the node closes. What was written before arrives while ctx lasts. Dial,
// packet conns and the node's place in the overlay go on until then; flows with
// null encapsulation are not waited for.
//
// The error is ctx's if conns were still open when it ended, besides what Close
// would say. Close may be called meanwhile, and ends the waiting.
func (n *Node) Shutdown(ctx context.Context) error {
	var err error
	if n.alive() == nil {
		err = n.stack.Drain(ctx)
	}
	return errors.Join(err, n.closeWithin(ctx))
}

func (n *Node) closeWithin(ctx context.Context) (err error) {
	n.closing.Do(func() { err = n.shutDown(ctx) })
	return err
}

// Leave is Close for a node that does not come back soon: first it puts a
// tombstone in place of its name's record, so that whoever asks for the name
// hears at once that there is none, instead of finding a record for up to four
// hours that leads nowhere. The membership is not given up: Open on the same
// Config.Dir comes back under the name if nobody was given it meanwhile.
//
// The node is closed in any case. The error says, besides what Close would,
// if no member has taken the tombstone until ctx ended, for at most 15 s.
func (n *Node) Leave(ctx context.Context) error {
	if err := n.alive(); err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	err := n.ov.Withdraw(ctx)
	cancel()
	if err != nil {
		err = n.ended(fmt.Errorf("idloc: %w", err))
	}
	return errors.Join(err, n.Close())
}

// Rotate gives this node another key under the same name, for one that somebody may have
// got hold of, or by habit. An authority has to be connected, and signs for the new key;
// when it returns nil the key is in Config.Dir, and the node is closed. The next Open is
// by the new key: the peer ID is another, the LSIs are, and as soon as it meets that
// authority the old key is revoked, everywhere within 60 s. Where more than one authority
// has to agree that is a proposal of its, and the old key stays a member until others have
// approved it. Who knew the name finds the new key.
//
// If it fails before the key is in Config.Dir the node goes on as it was. If it fails after
// that it is closed all the same, and a *CutError or whatever else Close has to say is the
// error; calls of the node give net.ErrClosed then. The founder's own node cannot: whoever
// has its directory has the overlay's root key. Nor can an authority: Promote another
// member, and Demote it, first. A delegate's invitations end with its key, and
// so would members that it has confirmed: it is refused until an authority has renewed them.
func (n *Node) Rotate(ctx context.Context) error {
	if err := n.alive(); err != nil {
		return err
	}
	if n.cfg.Dir == "" {
		return errors.New("idloc: rotate: Config.Dir is empty: the new key would be lost with the process")
	}
	ctx, cancel := n.bind(ctx)
	err := n.ov.Roster().Rotate(ctx)
	cancel()
	if err != nil {
		return n.ended(fmt.Errorf("idloc: rotate: %w", err))
	}
	return n.Close()
}

func (n *Node) shutDown(ctx context.Context) error {
	n.cancel()
	var errs []error
	note := func(err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	// From the top: what the application holds, then who would make new
	// pipes, then the pipes, then the port under all of them.
	if n.dns != nil {
		note(n.dns.Close())
	}
	if n.stack != nil {
		if err := n.stack.Close(ctx); err != nil {
			n.nameCuts(err)
			note(fmt.Errorf("idloc: %w", err))
		}
	}
	n.wg.Wait()
	if c := n.capture.Load(); c != nil {
		c.stop()
	}
	if n.shim != nil {
		note(n.shim.Close())
	}
	if n.table != nil {
		n.saveLSIs()
	}
	if n.ov != nil {
		note(n.ov.Close())
	}
	if pipes := n.pipes.Load(); pipes != nil {
		n.save(stateTimestamp, pipes.LastTimestamp())
		note(pipes.Close())
	}
	if n.offers != nil {
		note(n.offers.Close())
	}
	if n.sock != nil {
		note(n.sock.Close())
	}
	if n.carriers != nil {
		note(n.carriers.Close())
	}
	if n.table != nil {
		note(n.table.Close())
	}
	if n.state != nil {
		note(n.state.Close())
	}
	n.hub.close()
	return errors.Join(errs...)
}

// nameCuts gives the peers in a *CutError their names.
func (n *Node) nameCuts(err error) {
	var cut *CutError
	if !errors.As(err, &cut) {
		return
	}
	for i, c := range cut.Cuts {
		if !c.Peer.IsZero() {
			cut.Cuts[i].Name = n.peer(c.Peer).Name
		}
	}
}

// alive is nil until Close.
func (n *Node) alive() error {
	if n.ctx.Err() != nil {
		return net.ErrClosed
	}
	return nil
}

// emit is the event sink of every layer.
func (n *Node) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	n.dirty.note(e.Kind)
	n.meter.observe(&e)
	n.logEvent(e)
	n.hub.publish(e)
}

// logEvent writes what a node's user wants to find in a log: one line for
// each pipe that comes up, moves, ends or fails, and for each Dial that fails;
// the other steps at Debug. Nothing is logged for a packet.
func (n *Node) logEvent(e Event) {
	level := slog.LevelDebug
	switch e.Kind {
	case event.PipeUp, event.PipeMoved, event.PipeClosed, event.PipeFailed, event.Revoked:
		level = slog.LevelInfo
	case event.Dialed:
		if e.Err != "" {
			level = slog.LevelInfo
		}
	}
	if !n.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	if !e.Peer.IsZero() {
		name := e.Name
		if ov := n.late.Load(); name == "" && ov != nil {
			name = ov.NameOf(e.Peer)
		}
		attrs = append(attrs, slog.String("name", name), slog.String("peer", e.Peer.String()))
	} else if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	if !e.Via.IsZero() {
		attrs = append(attrs, slog.String("via", e.Via.String()))
	}
	if e.Local.IsValid() || e.Remote.IsValid() {
		attrs = append(attrs, slog.String("local", e.Local.String()), slog.String("remote", e.Remote.String()))
	}
	if e.Duration > 0 {
		attrs = append(attrs, slog.Duration("took", e.Duration))
	}
	if e.Stage != "" {
		attrs = append(attrs, slog.String("stage", e.Stage))
	}
	if e.Detail != "" {
		attrs = append(attrs, slog.String("detail", e.Detail))
	}
	if e.Err != "" {
		attrs = append(attrs, slog.String("err", e.Err))
	}
	n.log.LogAttrs(context.Background(), level, string(e.Kind), attrs...)
}

// NetworkChanged tells the node that addresses came or went, for hosts that
// know before the node finds out (mobile systems). It returns at once.
func (n *Node) NetworkChanged() {
	if n.alive() != nil {
		return
	}
	if err := n.sock.Rescan(); err != nil {
		n.log.Warn("reading the local addresses", "err", err)
	}
	n.ov.NetworkChanged()
}

func listsLoopback(addrs []netip.Addr) bool {
	for _, a := range addrs {
		if a.IsLoopback() {
			return true
		}
	}
	return false
}
