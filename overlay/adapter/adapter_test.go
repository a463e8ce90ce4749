package adapter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/pipetest"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var (
	venus = peerid.ID{1}
	earth = peerid.ID{2}
	mars  = peerid.ID{3}
)

// neighbor is a connected member.
func neighbor(id peerid.ID, roles membership.Roles, of mesh.Roles) mesh.Neighbor {
	return mesh.Neighbor{Peer: p2p.ID(id), ID: id, Member: &membership.Member{Peer: id, Roles: roles}, Roles: of}
}

// web is a mesh that notes what it is asked.
type web struct {
	members []mesh.Neighbor
	answer  []byte
	err     error
	ways    []ma.Multiaddr

	asked     peer.ID
	protocol  mesh.Protocol
	request   []byte
	suspected peer.ID
	received  uint64
	learned   map[peer.ID]int
}

func (w *web) Members() []mesh.Neighbor { return w.members }

func (w *web) Member(p peer.ID) (*membership.Member, bool) {
	for _, n := range w.members {
		if n.Peer == p {
			return n.Member, true
		}
	}
	return nil, false
}

func (w *web) Connect(_ context.Context, ai peer.AddrInfo) (*membership.Member, error) {
	w.asked = ai.ID
	return nil, w.err
}

func (w *web) Ask(_ context.Context, p peer.ID, pr mesh.Protocol, request []byte) ([]byte, error) {
	w.asked, w.protocol, w.request = p, pr, request
	return w.answer, w.err
}

func (w *web) Go(f func())                       { f() }
func (w *web) Latest(peer.ID) context.Context    { return context.Background() }
func (w *web) Arrival() <-chan struct{}          { return nil }
func (w *web) Suspect(p peer.ID)                 { w.suspected = p }
func (w *web) Received(peer.ID) uint64           { return w.received }
func (w *web) Ways(peer.ID) []ma.Multiaddr       { return w.ways }
func (w *web) Learn(p peer.ID, a []ma.Multiaddr) { w.learned[p] += len(a) }

// A pipe is there for the mesh as long as it is up, and only its proven paths are.
func TestPipes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n pipetest.Net
		a, b := n.New(t, 1), n.New(t, 2)
		here, _ := a.Connect(b, []byte("mine"), []byte("theirs"))
		p := Pipes{a.Endpoint}
		if got := p.Chain(b.ID); string(got) != "theirs" {
			t.Errorf("shown %q", got)
		}
		if got := p.Peers(); !slices.Equal(got, []peerid.ID{b.ID}) {
			t.Errorf("peers %v", got)
		}
		if got := p.Remotes(b.ID); !slices.Equal(got, []netip.AddrPort{b.At}) {
			t.Errorf("remotes %v", got)
		}
		if got := p.Source(b.At); got != a.At.Addr() {
			t.Errorf("the path begins at %v", got)
		}
		elsewhere := netip.MustParseAddrPort("203.0.113.1:1")
		if got := p.Source(elsewhere); got.IsValid() || p.Remotes(mars) != nil {
			t.Errorf("a path to nobody begins at %v", got)
		}
		if !Alive(here) || Alive(nil) {
			t.Error("a pipe that is up is not alive, or none is")
		}
		here.Close(errors.New("enough"))
		synctest.Wait()
		if Alive(here) || p.Remotes(b.ID) != nil || p.Chain(b.ID) != nil || len(p.Peers()) != 0 {
			t.Error("a closed pipe still has addresses")
		}
	})
}

func TestNeighbours(t *testing.T) {
	w := &web{members: []mesh.Neighbor{neighbor(venus, 0, mesh.Roles{Issuer: true}), neighbor(mars, 0, mesh.Roles{Server: true, NoRelay: true})}, answer: []byte("yes")}
	life, end := context.WithCancel(t.Context())
	n := Neighbours{Mesh: func() Mesh { return w }, Life: life}
	want := []admission.Neighbour{{Peer: venus, Issuer: true}, {Peer: mars, Server: true}}
	if got := n.Neighbours(); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	b, err := n.Ask(t.Context(), mars, admission.ConfirmProtocol, []byte("may I"))
	if string(b) != "yes" || err != nil || w.asked != p2p.ID(mars) || w.protocol != mesh.Protocol(admission.ConfirmProtocol) || string(w.request) != "may I" {
		t.Errorf("asked %v %q by %v: %q, %v", w.asked, w.request, w.protocol, b, err)
	}
	end()
	n.Go(func(ctx context.Context) {
		if ctx.Err() == nil {
			t.Error("what runs by itself goes on after the peer's life")
		}
	})
	database := []directory.Neighbor{{Peer: p2p.ID(venus), ID: venus}, {Peer: p2p.ID(mars), ID: mars, Server: true, NoRelay: true}}
	if got := neighbors(w.members); !slices.Equal(got, database) {
		t.Errorf("the database sees %v", got)
	}
}

// Who relays: a connected member's own word counts more than its invitation.
func TestRelays(t *testing.T) {
	relay := membership.RoleRelay
	shown := []*membership.Member{{Peer: venus, Roles: relay}, {Peer: earth, Roles: relay}, {Peer: mars}}
	for name, c := range map[string]struct {
		connected []mesh.Neighbor
		want      []establish.Relay
	}{
		"nobody is connected": {nil, []establish.Relay{{Peer: venus}, {Peer: earth}}},
		"one has refused":     {[]mesh.Neighbor{neighbor(venus, relay, mesh.Roles{NoRelay: true})}, []establish.Relay{{Peer: earth}}},
		"one may not":         {[]mesh.Neighbor{neighbor(mars, 0, mesh.Roles{Server: true})}, []establish.Relay{{Peer: venus}, {Peer: earth}}},
		"a server may": {[]mesh.Neighbor{neighbor(earth, relay, mesh.Roles{Server: true})},
			[]establish.Relay{{Peer: earth, Connected: true, Server: true}, {Peer: venus}, {Peer: earth}}},
	} {
		if got := Relays(c.connected, shown); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOfferMesh(t *testing.T) {
	response := offers.Response{Status: offers.NotHere, Forwarder: venus}
	w := &web{members: []mesh.Neighbor{neighbor(venus, 0, mesh.Roles{})}, answer: response.Append(nil)}
	m := OfferMesh{w}
	q := offers.Request{TTL: 1, Target: mars, From: earth, Offer: []byte("offer")}
	a, err := m.Ask(t.Context(), venus, q)
	if err != nil || a.Status != offers.NotHere || a.Forwarder != venus || w.asked != p2p.ID(venus) {
		t.Errorf("%v, %v", a, err)
	}
	if got, err := offers.ParseRequest(w.request); err != nil || got.Target != mars || string(got.Offer) != "offer" || len(w.request) > w.protocol.MaxRequest {
		t.Errorf("the member was asked %+v, %v", got, err)
	}
	for _, lie := range [][]byte{nil, {0xff}, w.answer[:len(w.answer)-1], append(slices.Clone(w.answer), 0)} {
		w.answer = lie
		if a, err := m.Ask(t.Context(), venus, q); err == nil {
			t.Errorf("an answer of %x is %v", lie, a)
		}
	}
	w.err = errors.New("no connection")
	if _, err := m.Ask(t.Context(), venus, q); !errors.Is(err, w.err) || !errors.Is(m.Connect(t.Context(), mars), w.err) || w.asked != p2p.ID(mars) {
		t.Errorf("%v", err)
	}
	if got := m.Members(); len(got) != 1 || got[0].Peer != venus {
		t.Errorf("members %v", got)
	}
	_, in := m.Member(venus)
	if _, out := m.Member(mars); !in || out {
		t.Error("a member is not one, or a stranger is")
	}
	if m.Suspect(mars); w.suspected != p2p.ID(mars) || m.Reachable(mars) || m.Latest(mars).Err() != nil {
		t.Error("somebody else is suspected, or a peer without an address reachable")
	}
	if w.received = 3; m.Received(venus) != 3 {
		t.Error("what has come in is not counted")
	}
	if w.ways = p2p.QUICs([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.3:4")}); !m.Reachable(mars) {
		t.Error("a peer with an address is not reachable")
	}
}

// base is a database.
type base struct {
	record  *naming.ContactRecord
	server  bool
	servers []peer.ID
}

func (b *base) Hints(p peerid.ID) []peerid.ID                            { return []peerid.ID{p} }
func (b *base) Contact(context.Context, peerid.ID) *naming.ContactRecord { return b.record }
func (b *base) Servers() []peer.ID                                       { return b.servers }
func (b *base) Nearest(context.Context, string) []peer.ID                { return b.servers }
func (b *base) Serving() (server, young bool)                            { return b.server, false }

// What a record says of the peer itself is for servers, which others come in at.
func TestOfferDirectory(t *testing.T) {
	w, b := &web{learned: map[peer.ID]int{}}, &base{}
	d := OfferDirectory{w, b}
	if got := d.Contacts(t.Context(), mars); got != nil {
		t.Errorf("without a record %v", got)
	}
	b.record = &naming.ContactRecord{Contact: naming.Contact{Members: []peerid.ID{earth}}, Addrs: []string{"/ip4/192.0.2.3/udp/4/quic-v1", "nonsense"}}
	for _, b.server = range []bool{false, true} {
		if got := d.Contacts(t.Context(), mars); !slices.Equal(got, []peerid.ID{earth}) || w.learned[p2p.ID(mars)] > 0 != b.server {
			t.Errorf("a server: %v: %v, learned %v", b.server, got, w.learned)
		}
	}
	b.servers = []peer.ID{"no member of anything", p2p.ID(venus), p2p.ID(earth), p2p.ID(mars)}
	if got := d.Servers(); !slices.Equal(got, []peerid.ID{venus, earth, mars}) {
		t.Errorf("servers %v", got)
	}
	if got := d.Nearest(t.Context(), mars); !slices.Equal(got, []peerid.ID{venus, earth, mars}) {
		t.Errorf("nearest %v", got)
	}
	if got := d.Hints(mars); !slices.Equal(got, []peerid.ID{mars}) {
		t.Errorf("hints %v", got)
	}
}

// late is a router that is made later.
type late struct{ told peerid.ID }

func (l *late) Deliver(context.Context, peerid.ID, *pipe.Offer) (*pipe.Session, peerid.ID, error) {
	return nil, venus, offers.ErrNotHere
}

func (l *late) Tell(_ context.Context, target, _ peerid.ID, _ []byte) error {
	l.told = target
	return nil
}

func TestOffersOfALateRouter(t *testing.T) {
	var router *late
	o := Offers(func() establish.Offers { return router })
	router = &late{}
	if _, via, err := o.Deliver(t.Context(), mars, nil); via != venus || !errors.Is(err, offers.ErrNotHere) {
		t.Errorf("%v, %v", via, err)
	}
	if err := o.Tell(t.Context(), mars, venus, nil); err != nil || router.told != mars {
		t.Errorf("told %v: %v", router.told, err)
	}
}

// Who has nobody looks for two at once, who has few for one, and then for none.
func TestLookout(t *testing.T) {
	for members, want := range []int{0: 2, 1: 1, directory.FewServers - 1: 1, directory.FewServers: 0} {
		if want == 0 && members != directory.FewServers {
			want = 1
		}
		if got := Lookout(members); got != want {
			t.Errorf("with %d members: %d, want %d", members, got, want)
		}
	}
}
