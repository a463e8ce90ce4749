package adapter

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/p2p"
)

// Offers is establish.Offers of a Router that is made after the Establisher.
type Offers func() establish.Offers

var (
	_ establish.Offers = Offers(nil)
	_ establish.Offers = (*offers.Router)(nil)
)

// Deliver implements establish.Offers.
func (f Offers) Deliver(ctx context.Context, target peerid.ID, offer *pipe.Offer) (*pipe.Session, peerid.ID, error) {
	return f().Deliver(ctx, target, offer)
}

// Tell implements establish.Offers.
func (f Offers) Tell(ctx context.Context, target, via peerid.ID, message []byte) error {
	return f().Tell(ctx, target, via, message)
}

// OfferProtocol brings an offer to a member and the answer back.
var OfferProtocol = mesh.Protocol{Name: "offer", MaxRequest: offers.MaxRequest, MaxAnswer: offers.MaxResponse, Timeout: offers.ServeTimeout}

// Ways is what a Router sees of the connections to members.
type Ways interface {
	Members() []mesh.Neighbor
	Member(p peer.ID) (*membership.Member, bool)
	Connect(ctx context.Context, ai peer.AddrInfo) (*membership.Member, error)
	Latest(p peer.ID) context.Context
	Arrival() <-chan struct{}
	Ask(ctx context.Context, p peer.ID, pr mesh.Protocol, request []byte) ([]byte, error)
	Suspect(p peer.ID)
	Received(p peer.ID) uint64
	Ways(p peer.ID) []ma.Multiaddr
	Learn(p peer.ID, addrs []ma.Multiaddr)
}

// OfferMesh is offers.Mesh.
type OfferMesh struct{ Mesh Ways }

var _ offers.Mesh = OfferMesh{}

// Members implements offers.Mesh.
func (m OfferMesh) Members() []*membership.Member {
	var out []*membership.Member
	for _, d := range m.Mesh.Members() {
		out = append(out, d.Member)
	}
	return out
}

// Member implements offers.Mesh.
func (m OfferMesh) Member(p peerid.ID) (*membership.Member, bool) { return m.Mesh.Member(p2p.ID(p)) }

// Connect implements offers.Mesh.
func (m OfferMesh) Connect(ctx context.Context, p peerid.ID) error {
	_, err := m.Mesh.Connect(ctx, peer.AddrInfo{ID: p2p.ID(p)})
	return err
}

// Latest implements offers.Mesh.
func (m OfferMesh) Latest(p peerid.ID) context.Context { return m.Mesh.Latest(p2p.ID(p)) }

// Arrival implements offers.Mesh.
func (m OfferMesh) Arrival() <-chan struct{} { return m.Mesh.Arrival() }

// Suspect implements offers.Mesh.
func (m OfferMesh) Suspect(p peerid.ID) { m.Mesh.Suspect(p2p.ID(p)) }

// Received implements offers.Mesh.
func (m OfferMesh) Received(p peerid.ID) uint64 { return m.Mesh.Received(p2p.ID(p)) }

// Reachable implements offers.Mesh.
func (m OfferMesh) Reachable(p peerid.ID) bool { return len(m.Mesh.Ways(p2p.ID(p))) > 0 }

// Ask implements offers.Mesh.
func (m OfferMesh) Ask(ctx context.Context, p peerid.ID, q offers.Request) (offers.Response, error) {
	b, err := m.Mesh.Ask(ctx, p2p.ID(p), OfferProtocol, q.Append(nil))
	if err != nil {
		return offers.Response{}, err
	}
	return offers.ParseResponse(b)
}

// Database is what a Router sees of the database.
type Database interface {
	Hints(p peerid.ID) []peerid.ID
	Contact(ctx context.Context, id peerid.ID) *naming.ContactRecord
	Servers() []peer.ID
	Nearest(ctx context.Context, key string) []peer.ID
	Serving() (server, young bool)
}

// OfferDirectory is offers.Directory.
type OfferDirectory struct {
	Mesh      Ways
	Directory Database
}

var _ offers.Directory = OfferDirectory{}

// Hints implements offers.Directory.
func (d OfferDirectory) Hints(target peerid.ID) []peerid.ID { return d.Directory.Hints(target) }

// Contacts implements offers.Directory. A server learns the peer's own addresses
// beside: it may be reachable itself.
func (d OfferDirectory) Contacts(ctx context.Context, target peerid.ID) []peerid.ID {
	rec := d.Directory.Contact(ctx, target)
	if rec == nil {
		return nil
	}
	if addrs := p2p.Parse(rec.Addrs); len(addrs) > 0 {
		if server, _ := d.Directory.Serving(); server {
			d.Mesh.Learn(p2p.ID(target), addrs)
		}
	}
	return rec.Contact.Members
}

// Servers implements offers.Directory.
func (d OfferDirectory) Servers() []peerid.ID { return peerIDs(d.Directory.Servers()) }

// Nearest implements offers.Directory. A peer sees to it that it is connected to three of
// them, and has met the others.
func (d OfferDirectory) Nearest(ctx context.Context, target peerid.ID) []peerid.ID {
	return peerIDs(d.Directory.Nearest(ctx, string(p2p.ID(target))))
}

// peerIDs leaves out what is no member of any overlay.
func peerIDs(peers []peer.ID) []peerid.ID {
	var out []peerid.ID
	for _, p := range peers {
		if id, err := p2p.PeerID(p); err == nil {
			out = append(out, id)
		}
	}
	return out
}
