package mesh

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/overlay/p2p"
)

// strangersMax is how many connections there may be at a time whose other end
// has not shown its membership. It is what the resource manager allows to be
// set up at once, and leaves half of all connections to members.
const strangersMax = 384

// inboundMax is how many connections that came in there are. From crowdedAt on those of one
// invitation are no more than connsShare (package account): keys of one token leave room for
// others, and an office may have more where there is room.
const (
	inboundMax = 2 * strangersMax
	crowdedAt  = inboundMax * 3 / 4
	connsShare = inboundMax / 6

	connsOfOne = 8 // connections to one peer
)

// allowance is what one address may have of strangers. An office of two hundred
// that comes back after a power cut is strangers at first: all of it fits.
type allowance struct {
	atOnce int           // connections
	burst  int           // that may follow each other and turn out to be no members'
	every  time.Duration // and then one in so long
	verify int           // above this the address has to prove itself first (RFC 9000 §8.1.2)
}

var perAddress = allowance{atOnce: 256, burst: 256, every: strangerEvery, verify: 64}

// errCrowded says that an address, or all together, have too many connections
// of strangers. QUIC refuses the connection without giving the reason.
var errCrowded = errors.New("too many connections without membership from this address")

// limits is libp2p's resource manager, and what bounds strangers by their
// address: connections that come in, from the first packet until a hello was
// verified. Who has been admitted is not counted, nor is whom we dial. It is
// safe for concurrent use.
//
// libp2p's own limits by address do not tell strangers from members: sixteen
// connections of one office, and then one in five seconds.
type limits struct {
	network.ResourceManager
	rcmgr.ResourceManagerState // for tests that look
	per                        allowance
	most                       int
	// origin says where the far end of a carrier comes from, for who opens many is no
	// more than one address; nil: there are none.
	origin func(netip.Addr) netip.Addr

	mu    sync.Mutex // guards the rest
	now   int        // strangers, all together
	nets  map[netip.Prefix]*strangersOf
	swept time.Time
}

// strangersOf is what is known of the strangers in one network.
type strangersOf struct {
	now  int
	full time.Time // when all of the burst may be had again
}

// newLimits makes the resource manager of a host. Its limits are fixed, not a
// share of the machine: a node is a guest in its process.
func newLimits() (*limits, error) {
	part := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: 1024, ConnsInbound: inboundMax, ConnsOutbound: 512,
			Streams: 8192, StreamsInbound: 4096, StreamsOutbound: 6144,
			Memory: 256 << 20,
		},
		// Connections whose handshake is under way, streams without a protocol.
		Transient: rcmgr.ResourceLimits{
			Conns: 512, ConnsInbound: strangersMax, ConnsOutbound: 192,
			Streams: 1024, StreamsInbound: 768, StreamsOutbound: 384,
			Memory: 64 << 20,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: connsOfOne, ConnsInbound: 6, ConnsOutbound: 6,
			Streams: 1024, StreamsInbound: 512, StreamsOutbound: 768,
			Memory: 32 << 20,
		},
		ProtocolDefault:     rcmgr.ResourceLimits{Streams: 4096, StreamsInbound: 3072, StreamsOutbound: 3072, Memory: 64 << 20},
		ProtocolPeerDefault: rcmgr.ResourceLimits{Streams: 512, StreamsInbound: 256, StreamsOutbound: 512, Memory: 16 << 20},
	}
	m, err := rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(part.Build(rcmgr.DefaultLimits.Scale(256<<20, 1024))),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{}, []rcmgr.ConnLimitPerSubnet{}),
		rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{}, []rcmgr.NetworkPrefixLimit{}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}), // none
	)
	if err != nil {
		return nil, err
	}
	return &limits{
		ResourceManager: m, ResourceManagerState: m.(rcmgr.ResourceManagerState),
		per: perAddress, most: strangersMax, nets: map[netip.Prefix]*strangersOf{},
	}, nil
}

// networks are what an address is counted as: itself, or the networks that one
// subscriber of IPv6 has, with how many times the allowance of an address. The far end
// of a carrier, where it is not known whence that comes, is counted by itself.
func networks(a netip.Addr) (nets [2]netip.Prefix, times [2]int) {
	if a = a.Unmap().WithZone(""); a.Is4() {
		nets[0], _ = a.Prefix(32)
		return nets, [2]int{1, 0}
	}
	if carrier.Prefix.Contains(a) {
		nets[0], _ = a.Prefix(128)
		return nets, [2]int{1, 0}
	}
	nets[0], _ = a.Prefix(56)
	nets[1], _ = a.Prefix(48)
	return nets, [2]int{1, 2}
}

// OpenConnection implements network.ResourceManager.
func (l *limits) OpenConnection(dir network.Direction, usefd bool, endpoint ma.Multiaddr) (network.ConnManagementScope, error) {
	at, ok := p2p.FarEnd(endpoint)
	if dir != network.DirInbound || !ok {
		return l.ResourceManager.OpenConnection(dir, usefd, endpoint)
	}
	from := l.counted(at.Addr())
	if !l.enter(from, time.Now()) {
		return nil, errCrowded
	}
	s, err := l.ResourceManager.OpenConnection(dir, usefd, endpoint)
	if err != nil {
		l.leave(from, false)
		return nil, err
	}
	return &strangerScope{ConnManagementScope: s, leave: func(member bool) { l.leave(from, member) }}, nil
}

// counted is the address that a connection from a is charged to.
func (l *limits) counted(a netip.Addr) netip.Addr {
	if l.origin == nil || !carrier.Prefix.Contains(a) {
		return a
	}
	return l.origin(a)
}

// VerifySourceAddress implements network.ResourceManager: whether an address has
// to show that it is no forged one, for the price of a round trip, before a
// connection of it is counted.
func (l *limits) VerifySourceAddress(a net.Addr) bool {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return true
	}
	nets, times := networks(l.counted(u.AddrPort().Addr()))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now >= l.most/2 {
		return true
	}
	now := time.Now()
	for i, n := range nets {
		if c := l.nets[n]; c != nil && times[i] > 0 && (c.now >= l.per.verify || c.full.Sub(now) >= time.Duration(l.per.verify)*l.per.every) {
			return true
		}
	}
	return false
}

// enter counts one more stranger, if there is room for it.
func (l *limits) enter(a netip.Addr, now time.Time) bool {
	nets, times := networks(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	if l.now >= l.most {
		return false
	}
	for i, n := range nets {
		if c := l.nets[n]; c != nil && times[i] > 0 &&
			(c.now >= times[i]*l.per.atOnce || c.full.Sub(now) > time.Duration(times[i]*l.per.burst-1)*l.per.every) {
			return false
		}
	}
	l.now++
	for i, n := range nets {
		if times[i] == 0 {
			continue
		}
		c := l.nets[n]
		if c == nil {
			c = &strangersOf{}
			l.nets[n] = c
		}
		c.now++
		if c.full.Before(now) {
			c.full = now
		}
		c.full = c.full.Add(l.per.every)
	}
	return true
}

// leave counts one less; a member's connection was none of a stranger, and
// costs the address nothing.
func (l *limits) leave(a netip.Addr, member bool) {
	nets, times := networks(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now--
	for i, n := range nets {
		if times[i] == 0 {
			continue
		}
		c := l.nets[n]
		c.now--
		if member {
			c.full = c.full.Add(-l.per.every)
		}
	}
}

// strangers is how many there are.
func (l *limits) strangers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// sweep forgets the networks that have used nothing of their allowance. The
// caller holds mu.
func (l *limits) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for n, c := range l.nets {
		if c.now == 0 && !c.full.After(now) {
			delete(l.nets, n)
		}
	}
}

// strangerScope is the scope of a connection that came in. The gate says when
// its peer is known to be a member.
type strangerScope struct {
	network.ConnManagementScope
	once  sync.Once
	leave func(member bool)
}

// admitted ends the count. free says that the connection costs its address nothing.
func (s *strangerScope) admitted(free bool) { s.once.Do(func() { s.leave(free) }) }

// Done implements network.ResourceScopeSpan.
func (s *strangerScope) Done() {
	s.once.Do(func() { s.leave(false) })
	s.ConnManagementScope.Done()
}

// countMember says that a connection is a member's. One of a member that has had too many
// of late is counted no longer, but was one of those that its address may have.
func countMember(c network.Conn, free bool) {
	if s, ok := c.Scope().(*strangerScope); ok {
		s.admitted(free)
	}
}
