package directory

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	corestore "github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// overlay is one overlay without a network: what a member of it can ask, and how
// the others answer. Time is the bubble's (testing/synctest).
type overlay struct {
	t    *testing.T
	root *membership.Root
	ov   membership.Overlay

	mu      sync.Mutex // guards the rest
	servers map[peer.ID]*server
	asks    int // questions for a record
	gives   int // records given
	revoked *membership.RevocationList
}

// server is another member that keeps a part of the database.
type server struct {
	late    time.Duration // how long it thinks; negative: for ever
	run     uint64
	away    bool // it is not connected, and cannot be reached
	apart   bool // it is not connected, and answers
	young   bool
	deaf    bool // it takes no record
	records map[string][]byte
}

func newOverlay(t *testing.T) *overlay {
	root, err := membership.NewRoot("example.com")
	if err != nil {
		t.Fatal(err)
	}
	return &overlay{t: t, root: root, ov: root.Overlay(), servers: map[peer.ID]*server{}}
}

// add makes a server.
func (o *overlay) add() (peer.ID, *server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := peerid.ID(sha256.Sum256(fmt.Append(nil, "server ", len(o.servers))))
	s := &server{records: map[string][]byte{}}
	o.servers[toPeer(id)] = s
	return toPeer(id), s
}

// sorted returns the servers by their distance from a key.
func (o *overlay) sorted(key string) []*server {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []peer.ID
	for p := range o.servers {
		ids = append(ids, p)
	}
	target := kb.ConvertKey(key)
	slices.SortFunc(ids, func(a, b peer.ID) int {
		return slices.Compare(distance(kb.ConvertPeerID(a), target), distance(kb.ConvertPeerID(b), target))
	})
	out := make([]*server, len(ids))
	for i, p := range ids {
		out[i] = o.servers[p]
	}
	return out
}

// counts returns how many requests there were since the last time.
func (o *overlay) counts() (asks, gives int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asks, gives = o.asks, o.gives
	o.asks, o.gives = 0, 0
	return asks, gives
}

func (o *overlay) SendMessage(context.Context, peer.ID, *pb.Message) error { return nil }

// SendRequest is what a member sends to a server.
func (o *overlay) SendRequest(ctx context.Context, p peer.ID, q *pb.Message) (*pb.Message, error) {
	o.mu.Lock()
	s := o.servers[p]
	give := q.GetType() == pb.Message_PUT_VALUE
	switch q.GetType() {
	case pb.Message_PUT_VALUE:
		o.gives++
	case pb.Message_GET_VALUE:
		o.asks++
	}
	away, late := s == nil || s.away, time.Duration(0)
	if !away {
		late = s.late
	}
	o.mu.Unlock()
	if away {
		return nil, network.ErrNoConn
	}
	if late < 0 {
		late = 24 * time.Hour
	}
	if late > 0 && !pause.For(ctx, late) {
		return nil, ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	a := pb.NewMessage(q.GetType(), q.GetKey(), 0)
	switch {
	case give && s.deaf:
		return nil, errors.New("not taken")
	case give:
		s.records[string(q.GetKey())] = q.GetRecord().GetValue()
		a.Record = q.GetRecord()
	case s.records[string(q.GetKey())] != nil:
		a.Record = record.MakePutRecord(string(q.GetKey()), s.records[string(q.GetKey())])
	}
	return a, nil
}

// member is this peer's or another's key and confirmed chain.
type member struct {
	key   ed25519.PrivateKey
	id    peerid.ID
	chain []byte
	label string
}

func (o *overlay) member(label string) member {
	o.t.Helper()
	seed := sha256.Sum256([]byte(label))
	key := ed25519.NewKeyFromSeed(seed[:])
	id := peerid.ID(key.Public().(ed25519.PublicKey))
	chain, err := o.root.Issuer().Issue(id, membership.MemberOptions{Label: label, Serial: 1}, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	return member{key, id, chain, label}
}

// provisional is a member that no issuer has confirmed.
func (o *overlay) provisional(label string) member {
	o.t.Helper()
	token, err := o.root.Issuer().Invite(membership.InviteOptions{}, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		o.t.Fatal(err)
	}
	chain, err := token.SelfIssue(key, label, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	return member{key, peerid.ID(key.Public().(ed25519.PublicKey)), chain, label}
}

// sign makes a name record of a member's; what rec leaves out is as it should be.
func (o *overlay) sign(m member, rec naming.Record) []byte {
	o.t.Helper()
	if rec.Label == "" {
		rec.Label = m.label
	}
	if rec.Issued.IsZero() {
		rec.Issued = time.Now()
	}
	if rec.Seq == 0 {
		rec.Seq = naming.Seq(rec.Issued, 0)
	}
	rec.Expires, rec.Chain = rec.Issued.Add(naming.MaxLife), m.chain
	value, err := rec.Sign(m.key, o.ov)
	if err != nil {
		o.t.Fatal(err)
	}
	return value
}

// node is a member's Directory with all of the overlay's servers connected, unless
// they are away. Its database is one without kad-dht, which serves nobody.
type node struct {
	*Directory
	o      *overlay
	m      member
	mesh   *mesh
	roster *roster
}

func (o *overlay) node(m member) *node {
	o.t.Helper()
	n := &node{o: o, m: m, mesh: &mesh{o: o}, roster: &roster{own: m, ov: o, members: map[peerid.ID]*membership.Member{}}}
	cfg := &Config{
		Key: m.key, Self: m.id, Overlay: o.ov, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Mesh: n.mesh, Roster: n.roster,
		Addrs: func(int) []string { return nil }, Remembered: func() int { return len(o.servers) },
		JustBack: func() bool { return false }, ServerHeard: func() bool { return false }, Piped: func(peerid.ID) bool { return false }, Silent: func(peer.ID) {},
	}
	check := &naming.Validator{Overlay: o.ov, Now: cfg.Now, Revoked: n.roster.Revocations}
	d := &Directory{cfg: cfg}
	d.ctx, d.cancel = context.WithCancel(o.t.Context())
	db, err := newPart(d.ctx, cfg, newValidator(check))
	if err != nil {
		o.t.Fatal(err)
	}
	db.reach = noEvents{}
	db.host = &memberHost{Host: noHost{m: n.mesh}, mesh: n.mesh}
	if db.table, err = kb.NewRoutingTable(20, kb.ConvertPeerID(toPeer(m.id)), time.Hour, peerstore.NewMetrics(), time.Hour, nil); err != nil {
		o.t.Fatal(err)
	}
	if db.rpc, err = pb.NewProtocolMessenger(o); err != nil {
		o.t.Fatal(err)
	}
	d.db = db
	if d.runs.last, err = simplelru.NewLRU[peer.ID, serverRun](serverRunsMax, nil); err != nil {
		o.t.Fatal(err)
	}
	if d.names, err = newNames(d.ctx, cfg, db, check, &naming.HighWater{}, &d.jobs); err != nil {
		o.t.Fatal(err)
	}
	if d.users, err = newUsers(cfg, db, check, d.names); err != nil {
		o.t.Fatal(err)
	}
	d.publisher = newPublisher(cfg, db, 0)
	d.publisher.more = d.users.records
	n.Directory = d
	n.Enter()
	return n
}

// know puts all servers into the node's routing table.
func (n *node) know() {
	for p := range n.o.servers {
		if _, err := n.db.table.TryAddPeer(p, true, false); err != nil {
			n.o.t.Fatal(err)
		}
	}
}

type noEvents struct{}

var _ event.Emitter = noEvents{}

func (noEvents) Emit(any) error { return nil }
func (noEvents) Close() error   { return nil }

// mesh is a node's connections: to each server that is not away.
type mesh struct {
	Mesh
	o *overlay

	mu      sync.Mutex // guards the rest
	greet   int
	clients []peerid.ID // members that are no servers
}

// addClient connects a member that is no server, with a smaller ID than all servers
// or a larger one.
func (m *mesh) addClient(smaller bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := peerid.ID{0: 0xff, 31: byte(len(m.clients))}
	if smaller {
		id[0], id[1] = 0, 0
	}
	id[30] = 1
	m.clients = append(m.clients, id)
}

func (m *mesh) greetings() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.greet
}

func (m *mesh) Host() host.Host { return noHost{m: m} }

func (m *mesh) Neighbors() []Neighbor {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	var out []Neighbor
	for p, s := range m.o.servers {
		if !s.away && !s.apart {
			out = append(out, Neighbor{Peer: p, ID: fromPeer(p), Server: true})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range m.clients {
		out = append(out, Neighbor{Peer: toPeer(id), ID: id})
	}
	return out
}

func (m *mesh) Member(p peer.ID) (*membership.Member, bool) {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	s := m.o.servers[p]
	return nil, s != nil && !s.away && !s.apart
}

func (m *mesh) Young(p peer.ID) bool {
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	return m.o.servers[p].young
}

func (m *mesh) Greet() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.greet++
}

func (m *mesh) KeepNamed([]peerid.ID) {}
func (m *mesh) Go(f func())           { go f() }

// noHost has a network that knows who is connected, and nothing else.
type noHost struct {
	host.Host
	m *mesh
}

type noNetwork struct {
	network.Network
	m *mesh
}

// noPeerstore knows of no protocols.
type noPeerstore struct{ corestore.Peerstore }

func (h noHost) Peerstore() corestore.Peerstore { return noPeerstore{} }

func (noPeerstore) SupportsProtocols(peer.ID, ...protocol.ID) ([]protocol.ID, error) { return nil, nil }

func (h noHost) Network() network.Network { return noNetwork{m: h.m} }

func (n noNetwork) Connectedness(p peer.ID) network.Connectedness {
	if _, ok := n.m.Member(p); ok {
		return network.Connected
	}
	return network.NotConnected
}

// roster believes in all members that it was shown.
type roster struct {
	own     member
	only    bool // OnlyIssuer
	account account.Account
	ov      *overlay
	mu      sync.Mutex // guards members
	members map[peerid.ID]*membership.Member
}

func (r *roster) Own() ([]byte, string, bool) { return r.own.chain, r.own.label, true }

func (r *roster) Note(m *membership.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[m.Peer] = m
}

func (r *roster) Member(id peerid.ID) (*membership.Member, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.members[id]
	return m, ok && !r.Revocations().Revokes(m)
}

func (r *roster) Revoked(id peerid.ID) bool {
	return r.Revocations().Has(membership.RevokePeer, membership.KeyOf(id))
}

func (r *roster) LabelRevoked(label string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, m := range r.members {
		if m.Label == label && r.Revoked(id) {
			return true
		}
	}
	return false
}

func (r *roster) OnlyIssuer() bool { return r.only }

func (r *roster) OwnAccount() account.Account { return r.account }

func (r *roster) Attended() time.Time { return time.Now() }

func (r *roster) Revocations() *membership.RevocationList {
	r.ov.mu.Lock()
	defer r.ov.mu.Unlock()
	return r.ov.revoked
}
