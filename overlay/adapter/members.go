package adapter

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
	"github.com/idloc/idloc/overlay/pki"
)

// Mesh is what the Roster sees of the connections to members.
type Mesh interface {
	Members() []mesh.Neighbor
	Ask(ctx context.Context, p peer.ID, pr mesh.Protocol, request []byte) ([]byte, error)
	Go(f func())
}

// Neighbours is admission.Network. The Roster is made before the mesh is.
type Neighbours struct {
	Mesh func() Mesh
	Life context.Context // of what runs by itself
}

var _ admission.Network = Neighbours{}

// Neighbours implements admission.Network.
func (n Neighbours) Neighbours() []admission.Neighbour {
	var out []admission.Neighbour
	for _, d := range n.Mesh().Members() {
		out = append(out, admission.Neighbour{Peer: d.ID, Issuer: d.Issuer, Server: d.Server})
	}
	return out
}

// Ask implements admission.Network.
func (n Neighbours) Ask(ctx context.Context, p peerid.ID, pr admission.Protocol, request []byte) ([]byte, error) {
	return n.Mesh().Ask(ctx, p2p.ID(p), mesh.Protocol(pr), request)
}

// Go implements admission.Network.
func (n Neighbours) Go(f func(ctx context.Context)) { n.Mesh().Go(func() { f(n.Life) }) }

// Certify gives a Keeper, which may be nil, its peer, for the peer's life.
func Certify(life context.Context, k *pki.Keeper, r *admission.Roster, m *mesh.Mesh) {
	if k != nil {
		k.Attach(r, Neighbours{Mesh: func() Mesh { return m }, Life: life})
		m.Serve(mesh.Protocol(pki.Protocol), k.Answer)
	}
}

// DirectoryMesh is directory.Mesh.
type DirectoryMesh struct{ *mesh.Mesh }

var _ directory.Mesh = DirectoryMesh{}

// Neighbors implements directory.Mesh.
func (m DirectoryMesh) Neighbors() []directory.Neighbor { return neighbors(m.Members()) }

func neighbors(members []mesh.Neighbor) []directory.Neighbor {
	var out []directory.Neighbor
	for _, n := range members {
		out = append(out, directory.Neighbor{Peer: n.Peer, ID: n.ID, Server: n.Server, NoRelay: n.NoRelay})
	}
	return out
}

// DirectoryRoster is directory.Roster.
type DirectoryRoster struct{ *admission.Roster }

var _ directory.Roster = DirectoryRoster{}

// Own implements directory.Roster.
func (r DirectoryRoster) Own() (chain []byte, label string, confirmed bool) {
	own := r.Roster.Own()
	return own.Chain, own.Label, own.Member.Confirmed
}

// Relays are the members whose invitation lets them relay (DESIGN §8, §14.4), but
// those that have refused: those connected, and others that have shown their
// membership.
func Relays(connected []mesh.Neighbor, shown []*membership.Member) []establish.Relay {
	var out []establish.Relay
	refused := map[peerid.ID]bool{}
	for _, d := range connected {
		if refused[d.ID] = d.NoRelay; !d.NoRelay && d.Member.Roles.Has(membership.RoleRelay) {
			out = append(out, establish.Relay{Peer: d.ID, Connected: true, Server: d.Server})
		}
	}
	for _, m := range shown {
		if m.Roles.Has(membership.RoleRelay) && !refused[m.Peer] {
			out = append(out, establish.Relay{Peer: m.Peer})
		}
	}
	return out
}
