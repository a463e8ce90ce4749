package idloctest

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// joinTimeout bounds the start of a node.
const joinTimeout = 30 * time.Second

// Lab is one simulated network with one overlay on it. It ends with the test.
type Lab struct {
	t       testing.TB
	net     *network
	domain  string
	founder *Node
}

// Option is an option of New.
type Option func(*Lab, *uint64)

// Seed fixes the network's chance.
func Seed(seed uint64) Option { return func(_ *Lab, s *uint64) { *s = seed } }

// Domain names the overlay; it is example.com otherwise.
func Domain(domain string) Option { return func(l *Lab, _ *uint64) { l.domain = domain } }

// New returns an empty network. Its seed is logged.
func New(t testing.TB, opts ...Option) *Lab {
	t.Helper()
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("IDLOCTEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	l := &Lab{t: t, domain: "example.com"}
	for _, o := range opts {
		o(l, &seed)
	}
	t.Logf("idloctest: IDLOCTEST_SEED=%d", seed)
	l.net = newNetwork(seed)
	t.Cleanup(l.net.close)
	return l
}

// Node is a node of the lab and the host that it runs on.
type Node struct {
	*idloc.Node
	*Host
	lab *Lab
}

// setting is what NodeOptions choose.
type setting struct {
	place  place
	link   Link
	config []func(*idloc.Config)
	invite idloc.InviteOptions
}

// NodeOption says where a node is and how it is configured.
type NodeOption func(*Lab, *setting)

// BehindNAT puts the host behind a box of its own; with several kinds behind
// several boxes, the one nearest to the host first.
func BehindNAT(kinds ...Kind) NodeOption {
	return func(l *Lab, s *setting) { s.place.box = l.NAT(kinds...) }
}

// Behind puts the host behind a box that other hosts may be behind too.
func Behind(box *NAT) NodeOption {
	return func(_ *Lab, s *setting) { s.place.box = box }
}

// IPv6 gives the host an IPv6 address of the internet and no IPv4 one.
func IPv6() NodeOption { return func(_ *Lab, s *setting) { s.place.v6, s.place.no4 = true, true } }

// DualStack gives the host an IPv6 address of the internet beside its IPv4
// one.
func DualStack() NodeOption { return func(_ *Lab, s *setting) { s.place.v6 = true } }

// ReachesOnly puts a firewall before the host that lets datagrams through to
// and from one other host and no others.
func ReachesOnly(other *Host) NodeOption {
	return func(_ *Lab, s *setting) { s.place.only = other }
}

// Over sets the host's link.
func Over(link Link) NodeOption { return func(_ *Lab, s *setting) { s.link = link } }

// Config changes the node's configuration. Net and Name are the lab's.
func Config(f func(*idloc.Config)) NodeOption {
	return func(_ *Lab, s *setting) { s.config = append(s.config, f) }
}

// Invited says what the token is that the node joins with; it has its name in
// it unless told otherwise here.
func Invited(o idloc.InviteOptions) NodeOption { return func(_ *Lab, s *setting) { s.invite = o } }

// Node starts a node with a name of one label. The first founds the overlay
// and should have a public address, since its address is in the tokens that
// all others join with. An error ends the test; the test's end closes the
// node.
func (l *Lab) Node(name string, opts ...NodeOption) *Node {
	l.t.Helper()
	n, err := l.start(name, opts)
	if err != nil {
		l.t.Fatalf("idloctest: starting %s: %v", name, err)
	}
	return n
}

func (l *Lab) start(name string, opts []NodeOption) (*Node, error) {
	s := setting{invite: idloc.InviteOptions{Name: name}}
	for _, o := range opts {
		o(l, &s)
	}
	n := &Node{lab: l, Host: l.net.host(name, s.place, s.link)}
	cfg := idloc.Config{}
	for _, f := range s.config {
		f(&cfg)
	}
	cfg.Name, cfg.Net = name, n.Host.Net()
	ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
	defer cancel()
	var err error
	if l.founder == nil {
		n.Node, err = idloc.Create(ctx, l.domain, cfg)
	} else {
		var token string
		if token, err = l.founder.Invite(s.invite); err == nil {
			n.Node, err = idloc.Join(ctx, token, cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	if l.founder == nil {
		l.founder = n
	}
	l.t.Cleanup(func() {
		if err := n.Node.Close(); err != nil {
			l.t.Errorf("idloctest: closing %s: %v", name, err)
		}
	})
	return n, nil
}

// Host adds a public host without a node: somebody else on the internet. Its
// Net makes sockets, and it counts what it receives.
func (l *Lab) Host(name string, opts ...NodeOption) *Host {
	var s setting
	for _, o := range opts {
		o(l, &s)
	}
	return l.net.host(name, s.place, s.link)
}

// Move takes the node's host elsewhere, as the options say; without any to
// another public address. The old addresses are gone at once. The node is
// told, as a kernel tells a real one.
func (n *Node) Move(opts ...NodeOption) {
	var s setting
	for _, o := range opts {
		o(n.lab, &s)
	}
	n.Host.move(s.place)
	n.NetworkChanged()
}

// NAT makes a box. With several kinds it is a chain of boxes, of which the
// first, nearest to the hosts, is returned.
func (l *Lab) NAT(kinds ...Kind) *NAT {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if len(kinds) == 0 {
		kinds = []Kind{PortRestricted}
	}
	var box *NAT
	for i := len(kinds) - 1; i >= 0; i-- {
		box = l.net.newNAT(kinds[i], box)
	}
	return box
}

// Cut drops every datagram between two hosts until Heal. Their common
// friends stay reachable for both.
func (l *Lab) Cut(a, b *Host) { l.net.setCut(a, b, true) }

// Heal undoes Cut.
func (l *Lab) Heal(a, b *Host) { l.net.setCut(a, b, false) }

// Filter has f asked about every datagram that a host sends; false drops it.
// f must be quick and must not call the lab. nil takes it away.
func (l *Lab) Filter(f func(Packet) bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.filter = f
}

// Packet is a datagram as Filter sees it, before any NAT. Payload is
// borrowed.
type Packet struct {
	From     *Host
	Src, Dst netip.AddrPort
	Payload  []byte
}
