package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	ds "github.com/ipfs/go-datastore"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
)

const (
	// YoungFor is how long members may need to give a server that has only just
	// begun the records that it should keep: twice the pause between two rounds of
	// theirs.
	YoungFor = 2 * publishPause
	// recordAge is how long a server keeps a record that nobody repeats;
	// records themselves expire before (DESIGN §8: ≤4 h).
	recordAge = 4 * time.Hour
)

// database is this peer's part of the distributed database (draft §5): a
// kad-dht that sees members only. It is safe for concurrent use.
type database struct {
	ctx   context.Context
	cfg   *Config
	valid record.Validator
	table *kb.RoutingTable
	rpc   *pb.ProtocolMessenger
	local *records.ValueStore // the same store that kad serves from
	store ds.Batching

	host  *memberHost // the DHT's, and what follows
	kad   *dht.IpfsDHT
	reach event.Emitter // whether it serves

	tableMu sync.Mutex // is held while one server takes another's place in the table

	mu     sync.Mutex // guards what follows
	server bool
	since  time.Time                       // when it became one; zero for the founder of a new overlay
	handed *simplelru.LRU[peer.ID, handed] // servers that were given records, or need none
	asking map[peer.ID]bool                // servers that may come into the table, asked whether they answer
}

// newDatabase starts the database. What it asks by itself it gives up with ctx.
func newDatabase(ctx context.Context, cfg *Config, valid record.Validator) (*database, error) {
	d, err := newPart(ctx, cfg, valid)
	if err != nil {
		return nil, err
	}
	if d.host, err = newMemberHost(cfg.Mesh, cfg.Prefix+kadProtocol); err != nil {
		return nil, err
	}
	if d.reach, err = d.host.bus.Emitter(new(event.EvtLocalReachabilityChanged), eventbus.Stateful); err != nil {
		d.host.stop()
		return nil, err
	}
	d.kad, err = dht.New(d.host,
		dht.ProtocolPrefix(cfg.Prefix),
		dht.Mode(dht.ModeAuto), // by our own event, see serve
		dht.Validator(valid),
		dht.Datastore(d.store),
		dht.DisableProviders(),
		dht.MaxRecordAge(recordAge),
		dht.BootstrapPeers(),
		// Private and loopback addresses are as good as any here.
		dht.AddressFilter(func(a []ma.Multiaddr) []ma.Multiaddr { return a }),
		dht.QueryFilter(func(any, peer.AddrInfo) bool { return true }),
		// It adds nobody to the table: any that comes could replace any other.
		dht.RoutingTableFilter(func(_ any, p peer.ID) bool { d.consider(p); return false }),
		// It would walk towards every bucket whenever the table is young, and
		// connect to a hundred members to do so. What this peer asks anyway
		// fills the far buckets, and walks towards its own ID the near ones.
		dht.DisableAutoRefresh(),
	)
	if err != nil {
		d.host.stop()
		return nil, fmt.Errorf("database: %w", err)
	}
	d.table = d.kad.RoutingTable()
	d.keepStrangersOut()
	if d.rpc, err = pb.NewProtocolMessenger(checkedSender{d.kad.MessageSender()}); err != nil {
		d.close()
		return nil, fmt.Errorf("database: %w", err)
	}
	return d, nil
}

// newPart makes a database that keeps records and is not connected to any other.
func newPart(ctx context.Context, cfg *Config, valid record.Validator) (*database, error) {
	handed, err := simplelru.NewLRU[peer.ID, handed](handedMax, nil)
	if err != nil {
		return nil, err
	}
	store := newBoundedStore()
	return &database{ctx: ctx, cfg: cfg, valid: valid, store: store, local: records.NewValueStore(store, valid, recordAge), handed: handed, asking: map[peer.ID]bool{}}, nil
}

func (d *database) close() {
	if err := d.kad.Close(); err != nil {
		d.cfg.Log.Debug("closing the database", "err", err)
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

// isYoung says whether this peer has only just become a server: records that it
// should have may still be missing.
func (d *database) isYoung() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.since.IsZero() && time.Since(d.since) < YoungFor
}

// serve makes this peer a server since then. What it should keep comes as the
// owners put it again and as other servers hand it over. It stays one: taking the
// role back would lose the records again.
func (d *database) serve(since time.Time) {
	there := d.cfg.servers() // before this peer: they lack nothing that it has
	d.mu.Lock()
	was := d.server
	d.server = true
	if !was {
		d.since = since
		for _, p := range there {
			d.handed.Add(p, handed{at: time.Now()})
		}
	}
	d.mu.Unlock()
	if was {
		return
	}
	d.cfg.Log.Info("this peer now keeps a part of the database")
	_ = d.reach.Emit(event.EvtLocalReachabilityChanged{Reachability: network.ReachabilityPublic})
}

// dismiss takes a peer that is no member any more out of the database.
func (d *database) dismiss(p peer.ID) {
	d.table.RemovePeer(p)
	d.forgetHandOver(p)
}

// known is how many other servers this peer knows of.
func (d *database) known() int { return max(d.table.Size(), len(d.cfg.servers())) }

// small says whether so few servers are known that each keeps every record.
func (d *database) small() bool { return d.known() < replicas }

// knows says whether a peer is in the routing table.
func (d *database) knows(p peer.ID) bool { return d.table.Find(p) != "" }

// servers returns the servers that are connected.
func (d *database) servers() []peer.ID { return d.cfg.servers() }

// keeps says whether a server is one of those that should keep a key, as far as
// this peer knows servers.
func (d *database) keeps(p peer.ID, key string) bool {
	target := kb.ConvertKey(key)
	theirs := kb.ConvertPeerID(p)
	before := 0
	seen := map[peer.ID]bool{p: true}
	count := func(q peer.ID) bool {
		if !seen[q] && nearer(kb.ConvertPeerID(q), theirs, target) {
			before++
		}
		seen[q] = true
		return before < replicas
	}
	for _, q := range d.table.NearestPeers(target, replicas) {
		if !count(q) {
			return false
		}
	}
	for _, q := range d.cfg.servers() {
		if !count(q) {
			return false
		}
	}
	return true
}

// walk asks the servers nearest key for its value, learning nearer ones on
// the way, until the nearest have all answered. Kademlia as kad-dht has it,
// but ours, because kad-dht's own does not tell who gave a record, nor how
// many have answered that there is none. each, if not nil, is called for each
// valid record as it comes, one at a time; false ends the walk.
func (d *database) walk(ctx context.Context, key string, each func(found) bool) walkResult {
	if each == nil {
		return d.walkOn(ctx, key, replicas, false, nil) // for whom to ask
	}
	return d.walkOn(ctx, key, depth, false, each)
}

// replicasOf is walk for those that keep a key's record: they are of several
// invitations, as far as there are several.
func (d *database) replicasOf(ctx context.Context, key string) walkResult {
	return d.walkOn(ctx, key, replicas, true, nil)
}

func (d *database) walkOn(ctx context.Context, key string, depth int, spread bool, each func(found) bool) walkResult {
	ctx, cancel := context.WithTimeout(ctx, LookupTimeout)
	defer cancel()
	w := newWalker(d, toPeer(d.cfg.Self), d.valid, key, depth, each)
	w.spread = spread
	if d.isServer() {
		if rec, err := d.local.Get(ctx, key); err == nil {
			w.answerSelf(rec.GetValue(), d.isYoung())
		}
	}
	w.begin(append(d.table.ListPeers(), d.cfg.servers()...))
	return w.run(ctx)
}

var _ servers = (*database)(nil)

func (d *database) young(p peer.ID) bool { return d.cfg.Mesh.Young(p) }

func (d *database) connected(p peer.ID) bool {
	return d.cfg.Mesh.Host().Network().Connectedness(p) == network.Connected
}

func (d *database) account(p peer.ID) (a account.Account, known bool) {
	m, known := d.cfg.Roster.Member(fromPeer(p))
	if known {
		a = m.Account()
	}
	return a, known
}

func (d *database) revoked(p peer.ID) bool { return d.cfg.Roster.Revoked(fromPeer(p)) }

// learn takes the addresses of a server that another one has named. Hearsay must
// not displace what a connection taught.
func (d *database) learn(by peer.ID, ai *peer.AddrInfo) {
	if !d.connected(ai.ID) {
		d.cfg.Mesh.Host().Peerstore().AddAddrs(ai.ID, d.cfg.Told(by, ai.Addrs), peerstore.TempAddrTTL)
	}
}

// ask puts one question to one server.
func (d *database) ask(parent context.Context, p peer.ID, key string) reply {
	ctx, cancel := context.WithTimeout(parent, askTimeout)
	defer cancel()
	rec, closer, err := d.rpc.GetValue(ctx, p, key)
	if err != nil {
		switch connected := d.connected(p); {
		case parent.Err() == nil && !connected:
			d.table.RemovePeer(p)
		case connected && ctx.Err() != nil && parent.Err() == nil:
			d.cfg.Silent(p) // it may be dead without a word
		}
		return reply{err: err}
	}
	d.table.UpdateLastSuccessfulOutboundQueryAt(p, time.Now())
	return reply{value: rec.GetValue(), closer: closer}
}

var errNoServer = errors.New("no server of the database reached")

// keep stores a record in this peer's own part, also while it is no server: it may
// become one later.
func (d *database) keep(ctx context.Context, key string, value []byte) error {
	if err := d.valid.Validate(key, value); err != nil {
		return err
	}
	_ = d.local.Put(ctx, key, record.MakePutRecord(key, value))
	return nil
}

// place stores a record at the servers nearest its key, which it walks to, and in
// this peer's own part. It returns the other servers that have taken it; the error
// says why none has.
func (d *database) place(ctx context.Context, key string, value []byte) ([]peer.ID, error) {
	if err := d.keep(ctx, key, value); err != nil {
		return nil, err
	}
	return giveAll(ctx, d.replicasOf(ctx, key).nearest, func(ctx context.Context, p peer.ID) error { return d.give(ctx, p, key, value) })
}

// give stores a record at one server.
func (d *database) give(ctx context.Context, p peer.ID, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return d.rpc.PutValue(ctx, p, record.MakePutRecord(key, value))
}

// giveAll gives a record to several servers at a time, and returns those that have
// taken it; the error says why none has.
func giveAll(ctx context.Context, to []peer.ID, give func(context.Context, peer.ID) error) ([]peer.ID, error) {
	var (
		mu    sync.Mutex
		taken []peer.ID
		last  error = errNoServer
		wg    sync.WaitGroup
	)
	for _, p := range to {
		wg.Go(func() {
			err := give(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				last = err
				return
			}
			taken = append(taken, p)
		})
	}
	wg.Wait()
	if len(taken) > 0 {
		last = nil
	}
	return taken, last
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
