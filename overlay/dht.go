package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/membership"
)

const (
	// serverAfter is how long a peer must have been up before it becomes a
	// server: one that lives for seconds costs lookups more than it gives.
	serverAfter = 30 * time.Second
	// takeOverSettle is how long after takeOver members may need to put their
	// records again: twice the pause between two rounds of theirs.
	takeOverSettle = 2 * publishPause
	keepMax        = 1024
	// fewServers is below which a peer does not wait for a dial-back.
	fewServers = 3
	// recordAge is how long a server keeps a record that nobody repeats;
	// records themselves expire before (DESIGN §8: ≤4 h).
	recordAge = 4 * time.Hour
)

// database is this peer's part of the distributed database (draft §5): a
// kad-dht that sees members only. It is safe for concurrent use.
type database struct {
	gate  *gate
	host  *gatedHost
	kad   *dht.IpfsDHT
	proto protocol.ID
	rpc   *pb.ProtocolMessenger
	local *records.ValueStore // the same store that kad serves from
	valid record.Validator
	log   *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc

	store ds.Batching

	mu     sync.Mutex // guards what follows
	server bool
	since  time.Time             // when it took the database over, if nobody served then
	keep   map[peer.ID]struct{}  // servers that took records of ours
	handed map[peer.ID]time.Time // when a server was given records

	reach event.Emitter
}

// newDatabase starts the database with the protocol prefix of one overlay.
func newDatabase(g *gate, prefix protocol.ID, valid record.Validator, log *slog.Logger) (*database, error) {
	d := &database{gate: g, proto: prefix + "/kad/1.0.0", valid: valid, log: log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	var err error
	if d.host, err = newGatedHost(g, d.proto, d.newServer); err != nil {
		return nil, err
	}
	store := dssync.MutexWrap(ds.NewMapDatastore())
	d.store, d.handed, d.keep = store, map[peer.ID]time.Time{}, map[peer.ID]struct{}{}
	d.local = records.NewValueStore(store, valid, recordAge)
	if d.reach, err = d.host.bus.Emitter(new(event.EvtLocalReachabilityChanged), eventbus.Stateful); err != nil {
		d.host.stop()
		return nil, err
	}
	d.kad, err = dht.New(d.host,
		dht.ProtocolPrefix(prefix),
		dht.Mode(dht.ModeAuto), // by our own event, see setServer
		dht.Validator(valid),
		dht.Datastore(store),
		dht.DisableProviders(),
		dht.MaxRecordAge(recordAge),
		dht.BootstrapPeers(),
		// Private and loopback addresses are as good as any here.
		dht.AddressFilter(func(a []ma.Multiaddr) []ma.Multiaddr { return a }),
		dht.QueryFilter(func(any, peer.AddrInfo) bool { return true }),
		dht.RoutingTableFilter(func(_ any, p peer.ID) bool {
			_, ok := g.member(p)
			return ok
		}),
		// It would walk towards every bucket whenever the table is young, and
		// connect to a hundred members to do so. What this peer asks anyway
		// fills the far buckets, and stayNear the near ones.
		dht.DisableAutoRefresh(),
	)
	if err != nil {
		d.host.stop()
		return nil, fmt.Errorf("overlay: database: %w", err)
	}
	if d.rpc, err = pb.NewProtocolMessenger(checkedSender{d.kad.MessageSender()}); err != nil {
		d.close()
		return nil, fmt.Errorf("overlay: database: %w", err)
	}
	return d, nil
}

func (d *database) close() {
	d.cancel()
	if err := d.kad.Close(); err != nil {
		d.log.Debug("closing the database", "err", err)
	}
	_ = d.reach.Close()
	d.host.stop()
}

// isServer says whether this peer keeps a part of the database.
func (d *database) isServer() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.server
}

// takeOver makes this peer a server because there is no other any more. What
// the others had kept comes back as their owners put it again.
func (d *database) takeOver() {
	d.mu.Lock()
	if !d.server {
		d.since = time.Now()
	}
	d.mu.Unlock()
	d.setServer()
}

// tookOver says whether records may still be missing after takeOver.
func (d *database) tookOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.since.IsZero() && time.Since(d.since) < takeOverSettle
}

// holds notes that a server took a record of ours.
func (d *database) holds(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.keep) >= keepMax {
		clear(d.keep)
	}
	d.keep[p] = struct{}{}
}

// lostHolder says whether a peer that has gone kept records of ours.
func (d *database) lostHolder(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.keep[p]
	delete(d.keep, p)
	return ok
}

// setServer makes this peer a server. It stays one: taking the role back
// would lose the records again.
func (d *database) setServer() {
	d.mu.Lock()
	was := d.server
	d.server = true
	d.mu.Unlock()
	if was {
		return
	}
	d.log.Info("this peer now keeps a part of the database")
	_ = d.reach.Emit(event.EvtLocalReachabilityChanged{Reachability: network.ReachabilityPublic})
}

// servers returns the members that are known to be servers and connected.
func (d *database) servers() []peer.ID {
	var out []peer.ID
	for _, m := range d.gate.members() {
		if d.speaks(m) {
			out = append(out, m.peer)
		}
	}
	return out
}

// speaks says whether a member serves the database: its hello said so, or
// identify has told since.
func (d *database) speaks(m *door) bool { return m.flags&flagServer != 0 }

// newServer gives a member that serves what it should keep.
func (d *database) newServer(p peer.ID) {
	d.gate.spawn(func() { d.handOver(d.ctx, p) })
}

// gatedHost is the libp2p host as the DHT sees it: streams to and from members
// only, and an event bus of its own, on which a peer appears once it is
// through the gate and on which reachability is what we say (DESIGN §14.6).
type gatedHost struct {
	host.Host
	gate *gate
	kad  protocol.ID // who speaks it is a server
	// newServer is told of each member that turns out to be one.
	newServer func(peer.ID)
	bus       event.Bus

	sub       event.Subscription
	protocols event.Emitter
	addrs     event.Emitter
	connected event.Emitter
	done      chan struct{}
}

var _ host.Host = (*gatedHost)(nil)

func newGatedHost(g *gate, kad protocol.ID, newServer func(peer.ID)) (*gatedHost, error) {
	h := &gatedHost{Host: g.host, gate: g, kad: kad, newServer: newServer, bus: eventbus.NewBus(), done: make(chan struct{})}
	var err error
	if h.protocols, err = h.bus.Emitter(new(event.EvtPeerProtocolsUpdated)); err != nil {
		return nil, err
	}
	if h.addrs, err = h.bus.Emitter(new(event.EvtLocalAddressesUpdated)); err != nil {
		return nil, err
	}
	if h.connected, err = h.bus.Emitter(new(event.EvtPeerConnectednessChanged)); err != nil {
		return nil, err
	}
	h.sub, err = g.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted),
		new(event.EvtPeerProtocolsUpdated),
		new(event.EvtLocalAddressesUpdated),
		new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256))
	if err != nil {
		return nil, err
	}
	go h.forward()
	return h, nil
}

// forward copies the events that the DHT may see.
func (h *gatedHost) forward() {
	defer close(h.done)
	for e := range h.sub.Out() {
		switch e := e.(type) {
		case event.EvtPeerIdentificationCompleted:
			h.admitted(e.Peer)
		case event.EvtPeerProtocolsUpdated:
			h.admitted(e.Peer)
		case event.EvtLocalAddressesUpdated:
			_ = h.addrs.Emit(e)
		case event.EvtPeerConnectednessChanged:
			_ = h.connected.Emit(e)
		}
	}
}

// admitted shows p to the DHT if it is a member. It is called when p came
// through the gate and when identify learned something, in either order.
func (h *gatedHost) admitted(p peer.ID) {
	if _, ok := h.gate.member(p); ok {
		if has, err := h.Peerstore().SupportsProtocols(p, h.kad); err == nil && len(has) > 0 {
			if h.gate.markServer(p) {
				h.newServer(p)
			}
		}
		_ = h.protocols.Emit(event.EvtPeerProtocolsUpdated{Peer: p})
	}
}

func (h *gatedHost) stop() {
	_ = h.sub.Close()
	<-h.done
	_ = h.protocols.Close()
	_ = h.addrs.Close()
	_ = h.connected.Close()
}

func (h *gatedHost) EventBus() event.Bus { return h.bus }

func (h *gatedHost) Connect(ctx context.Context, ai peer.AddrInfo) error {
	_, err := h.gate.connect(ctx, ai)
	return err
}

func (h *gatedHost) NewStream(ctx context.Context, p peer.ID, pids ...protocol.ID) (network.Stream, error) {
	if noDial, _ := network.GetNoDial(ctx); !noDial {
		if err := h.Host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil {
			return nil, err
		}
	}
	if _, err := h.gate.wait(ctx, p); err != nil {
		return nil, err
	}
	if len(pids) == 1 {
		return openStream(ctx, h.Host, p, pids[0])
	}
	return h.Host.NewStream(ctx, p, pids...)
}

func (h *gatedHost) SetStreamHandler(pid protocol.ID, f network.StreamHandler) {
	h.gate.handle(pid, func(s network.Stream, _ *membership.Member) { f(s) })
}

func (h *gatedHost) SetStreamHandlerMatch(pid protocol.ID, match func(protocol.ID) bool, f network.StreamHandler) {
	h.Host.SetStreamHandlerMatch(pid, match, func(s network.Stream) {
		if !h.gate.admitted(s) {
			_ = s.Reset()
			return
		}
		f(s)
	})
}

// checkedSender keeps answers from kad-dht that it does not expect: its
// PutValue reads the record of the answer without asking whether there is one,
// so that any member could end this process.
type checkedSender struct{ pb.MessageSender }

var errNoRecord = errors.New("answer to a put without the record")

func (s checkedSender) SendRequest(ctx context.Context, p peer.ID, m *pb.Message) (*pb.Message, error) {
	answer, err := s.MessageSender.SendRequest(ctx, p, m)
	if err != nil {
		return nil, err
	}
	if m.GetType() == pb.Message_PUT_VALUE && answer.GetRecord() == nil {
		return nil, errNoRecord
	}
	return answer, nil
}
