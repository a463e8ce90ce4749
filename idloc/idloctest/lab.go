package idloctest

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// joinTimeout bounds the start of a node.
const joinTimeout = 2 * time.Minute

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

// setting is what NodeOptions choose.
type setting struct {
	attachment
	more   []attachment
	ends   []deadEnd
	config []func(*idloc.Config)
	invite idloc.InviteOptions
}

func (s *setting) attachments() []attachment {
	return append([]attachment{s.attachment}, s.more...)
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

// Uplink gives the host one more attachment to the internet, with an address,
// a box and a link of its own: options that say nothing of these do not belong
// here. The host's own options are those of uplink 0, and the first Uplink is
// number 1. A datagram leaves by the uplink that its source address is on.
func Uplink(opts ...NodeOption) NodeOption {
	return func(l *Lab, s *setting) {
		var u setting
		for _, o := range opts {
			o(l, &u)
		}
		s.more = append(s.more, u.attachment)
	}
}

// DeadEnd gives the host one more interface, with an address and the subnet
// around it, which leads nowhere: a bridge of containers, a host-only network.
// The name says what it is, as on a real host: docker0 and the like are known
// to be of no use to others, another name tells nothing. Hosts may have the
// same address there; what is sent to it stays on the sender's own host.
func DeadEnd(name string, at netip.Prefix) NodeOption {
	return func(_ *Lab, s *setting) { s.ends = append(s.ends, deadEnd{name, at}) }
}

// Over sets the link.
func Over(link Link) NodeOption { return func(_ *Lab, s *setting) { s.link = link } }

// Config changes the node's configuration. Net and Name are the lab's.
func Config(f func(*idloc.Config)) NodeOption {
	return func(_ *Lab, s *setting) { s.config = append(s.config, f) }
}

// Invited says what the token is that the node joins with; it has its name in
// it unless told otherwise here.
func Invited(o idloc.InviteOptions) NodeOption { return func(_ *Lab, s *setting) { s.invite = o } }

// Host adds a public host without a node: somebody else on the internet. Its
// Net makes sockets, and it counts what it receives.
func (l *Lab) Host(name string, opts ...NodeOption) *Host {
	var s setting
	for _, o := range opts {
		o(l, &s)
	}
	return l.net.host(name, s.attachments(), s.ends)
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

// Partition splits the internet: datagrams pass only between hosts of the same
// group, and between hosts that are in none. It replaces the partition before
// it; without groups there is none. Cuts stay.
func (l *Lab) Partition(groups ...[]*Host) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.side = map[*Host]int{}
	for i, g := range groups {
		for _, h := range g {
			l.net.side[h] = i + 1
		}
	}
}

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
