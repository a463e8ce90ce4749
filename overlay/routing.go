package overlay

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/p2p"
)

// What package offers needs of the connections and of the database.

func (o *Overlay) newRouter() (*offers.Router, error) {
	return offers.New(offers.Config{
		Self: o.self, Mesh: offerMesh{o}, Directory: offerDirectory{o}, Forward: !o.cfg.NoRelay,
		Offered: func(_ context.Context, q offers.Request, from peerid.ID) offers.Response {
			return o.establish.Offered(q, from)
		},
		PipeDead: o.establish.PipeDead, Events: o.cfg.Events, Logger: o.log,
	})
}

var offerProtocol = mesh.Protocol{Name: "offer", MaxRequest: offers.MaxRequest, MaxAnswer: offers.MaxResponse, Timeout: offers.ServeTimeout}

func (o *Overlay) serveOffer(_ context.Context, m *membership.Member, request []byte) ([]byte, error) {
	return o.router.Serve(o.ctx, m.Peer, request)
}

// offerMesh is offers.Mesh.
type offerMesh struct{ o *Overlay }

func (m offerMesh) Members() []*membership.Member {
	var out []*membership.Member
	for _, d := range m.o.mesh.Members() {
		out = append(out, d.Member)
	}
	return out
}

func (m offerMesh) Member(p peerid.ID) (*membership.Member, bool) {
	return m.o.mesh.Member(p2p.ID(p))
}

func (m offerMesh) Connect(ctx context.Context, p peerid.ID) error {
	_, err := m.o.mesh.Connect(ctx, peer.AddrInfo{ID: p2p.ID(p)})
	return err
}

func (m offerMesh) Latest(p peerid.ID) context.Context { return m.o.mesh.Latest(p2p.ID(p)) }

func (m offerMesh) Suspect(p peerid.ID) { m.o.mesh.Suspect(p2p.ID(p)) }

func (m offerMesh) Reachable(p peerid.ID) bool { return len(m.o.mesh.Ways(p2p.ID(p))) > 0 }

func (m offerMesh) Ask(ctx context.Context, p peerid.ID, q offers.Request) (offers.Response, error) {
	b, err := m.o.mesh.Ask(ctx, p2p.ID(p), offerProtocol, q.Append(nil))
	if err != nil {
		return offers.Response{}, err
	}
	return offers.ParseResponse(b)
}

// offerDirectory is offers.Directory.
type offerDirectory struct{ o *Overlay }

func (d offerDirectory) Hints(target peerid.ID) []peerid.ID { return d.o.directory.Hints(target) }

func (d offerDirectory) Contacts(ctx context.Context, target peerid.ID) []peerid.ID {
	rec := d.o.directory.Contact(ctx, target)
	if rec == nil {
		return nil
	}
	// The peer's own addresses: it may be reachable itself.
	if addrs := p2p.Parse(rec.Addrs); len(addrs) > 0 && d.o.Server() {
		p := p2p.ID(target)
		d.o.host.Peerstore().AddAddrs(p, d.o.mesh.Told(p, addrs), peerstore.TempAddrTTL)
	}
	return rec.Contact.Members
}

func (d offerDirectory) Servers() []peerid.ID { return peerIDs(d.o.directory.Servers()) }

func (d offerDirectory) Nearest(ctx context.Context, target peerid.ID) []peerid.ID {
	nearest := d.o.directory.Nearest(ctx, string(p2p.ID(target)))
	return peerIDs(nearest[:min(len(nearest), nearServers)])
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
