package socket

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/nat64"
)

// A host that has IPv6 only reaches IPv4 addresses by the NAT64 of its network
// (package nat64). Here is the one place that translates: the port has one Conn more,
// with an IPv4 address, which sends from one of the IPv6 sockets to the addresses that
// stand for those of IPv4, and is given what comes from them. So to all layers above it
// is a socket behind a NAT, and an IPv4 address is the same one on any network.

const (
	// prefixFirst is how long Listen waits for the prefix, prefixWithin how long it is
	// waited for later.
	prefixFirst  = time.Second
	prefixWithin = 5 * time.Second
	// prefixRetry is the pause before it is asked for again when there is none,
	// doubled up to prefixRetryMax, prefixAgain when there is one.
	prefixRetry    = time.Second
	prefixRetryMax = time.Minute
	prefixAgain    = 10 * time.Minute
	// prefixesMax bounds the networks whose prefixes are remembered.
	prefixesMax = 16
	// translationGrows is by how much the NAT64's IPv6 header is longer than its IPv4 one.
	translationGrows = 20
)

// translatedAddr is the local address of the Conn that translates: of those for hosts
// that do so (RFC 7335), which are nobody's.
var translatedAddr = netip.AddrFrom4([4]byte{192, 0, 0, 6})

var errUntranslatable = errors.New("socket: not a public IPv4 address, which is all that NAT64 is asked for")

// translation is how IPv4 is sent now. It is immutable.
type translation struct {
	prefix netip.Prefix
	under  *Conn // the socket that all goes over
	conn   *Conn // the IPv4 one that is made of it
}

// plain returns the IPv4 address that a stands for, if it does.
func (x *translation) plain(a netip.Addr) (netip.Addr, bool) {
	if x == nil || !x.prefix.Contains(a) {
		return a, false
	}
	four, ok := nat64.Extract(x.prefix, a)
	if !ok || !nat64.Translatable(four) {
		return a, false
	}
	return four, true
}

// translatedLink is the link of the Conn that translates. Nobody reads from it: what is
// for it the socket below takes in.
type translatedLink struct {
	prefix netip.Prefix
	under  *Conn
}

func (l translatedLink) read([]byte) (n, seg int, from netip.AddrPort, err error) {
	return 0, 0, netip.AddrPort{}, errNoRead
}

func (l translatedLink) write(b []byte, seg int, to netip.AddrPort, class uint8) error {
	if !nat64.Translatable(to.Addr()) {
		return errUntranslatable
	}
	return l.under.link.write(b, seg, netip.AddrPortFrom(nat64.Embed(l.prefix, to.Addr()), to.Port()), class)
}

func (l translatedLink) offloads() (gso, gro bool) { return l.under.link.offloads() }
func (l translatedLink) port() (uint16, error)     { return l.under.link.port() }
func (l translatedLink) close() error              { return nil }

// Translated says whether the Conn is the one that sends IPv4 by a NAT64. Its address
// is nobody's: it cannot be bound, and others have no use of it.
func (c *Conn) Translated() bool { return c.under != nil }

// Under returns the socket that the Conn's datagrams leave by: itself, or the one below
// that which translates.
func (c *Conn) Under() *Conn {
	if c.under != nil {
		return c.under
	}
	return c
}

// NAT64 returns the prefix by which IPv4 is sent, the zero one if it is sent as such or
// not at all.
func (p *Port) NAT64() netip.Prefix {
	if x := p.xlat.Load(); x != nil {
		return x.prefix
	}
	return netip.Prefix{}
}

// OnWire returns the address that what is sent to a is sent to: another one where a is
// of IPv4, and a NAT64 is in use for it.
func (p *Port) OnWire(a netip.Addr) netip.Addr {
	if x := p.xlat.Load(); x != nil && nat64.Translatable(a.Unmap()) {
		return nat64.Embed(x.prefix, a.Unmap())
	}
	return a
}

// Plain is OnWire read backwards: the IPv4 address that a stands for where a NAT64 is in
// use and a is behind it, as the addresses are that DNS64 makes; else a.
func (p *Port) Plain(a netip.Addr) netip.Addr {
	a, _ = p.xlat.Load().plain(a)
	return a
}

// BehindNAT64 says whether a stands for an address of IPv4, whichever, by the NAT64 that
// is in use or by one with the well-known prefix.
func (p *Port) BehindNAT64(a netip.Addr) bool {
	return a.Is6() && (p.NAT64().Contains(a) || nat64.WellKnown.Contains(a))
}

// prefixes are those of NAT64 that the resolver has told, by network.
type prefixes struct {
	mu sync.Mutex // guards of
	of map[string]netip.Prefix
}

func (s *prefixes) get(network string) netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[network]
}

// put keeps a network's prefix, and says whether it was another one; the zero one: there
// is none.
func (s *prefixes) put(network string, p netip.Prefix) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.of[network] != p
	if !p.IsValid() {
		delete(s.of, network)
		return changed
	}
	if s.of == nil {
		s.of = map[string]netip.Prefix{}
	}
	if _, ok := s.of[network]; !ok && len(s.of) >= prefixesMax {
		for other := range s.of {
			delete(s.of, other)
			break
		}
	}
	s.of[network] = p
	return changed
}

// networkOf names the network that a host is in, by the subnets of its IPv6 addresses.
func networkOf(conns []*Conn) string {
	return subnets(slices.DeleteFunc(slices.Clone(conns), func(c *Conn) bool { return !c.local.Addr().Is6() }))
}

func subnets(conns []*Conn) string {
	var nets []string
	for _, c := range conns {
		nets = append(nets, c.net.Masked().String())
	}
	slices.Sort(nets)
	return strings.Join(slices.Compact(nets), " ")
}

// Network names the network that the host is in, by the subnets that lead to the
// internet: another one where that leads elsewhere.
func (p *Port) Network() string {
	return subnets(slices.DeleteFunc(p.Conns(), func(c *Conn) bool { return c.Translated() || !c.Uplink() }))
}

// lacksIPv4 says whether this host has IPv6, and no way out for IPv4.
func (p *Port) lacksIPv4(conns []*Conn) bool {
	if p.cfg.NAT64 == nil || p.cfg.Net != nil {
		return false
	}
	six := slices.ContainsFunc(conns, func(c *Conn) bool { return c.local.Addr().Is6() && !c.local.Addr().IsLoopback() })
	return six && !p.route(anywhere4).IsValid()
}

// findPrefix asks for the prefix of the network that conns are in, and says whether
// there is one and whether it was not known before. What the resolver does not tell
// stays as it was.
func (p *Port) findPrefix(conns []*Conn, within time.Duration) (found, changed bool) {
	network := networkOf(conns)
	ctx, cancel := context.WithTimeout(p.life, within)
	defer cancel()
	prefix, err := nat64.Discover(ctx, p.cfg.NAT64)
	if err != nil && !errors.Is(err, nat64.ErrNone) {
		p.log.Debug("socket: NAT64", "err", err)
		return p.prefixes.get(network).IsValid(), false
	}
	if prefix.IsValid() && isOwn(conns, prefix) {
		p.log.Warn("socket: what the resolver says is the NAT64 prefix is this host's own network", "prefix", prefix)
		prefix = netip.Prefix{}
	}
	return prefix.IsValid(), p.prefixes.put(network, prefix)
}

// isOwn says whether a prefix has addresses of the networks in it that conns are in.
func isOwn(conns []*Conn, prefix netip.Prefix) bool {
	return slices.ContainsFunc(conns, func(c *Conn) bool { return c.net.Overlaps(prefix) })
}

// choosePrefix returns the prefix to send IPv4 by, the socket to send from, and who has
// told it: a router, before the resolver (RFC 8781 §5.1). A router's prefix is good on its
// link only: where the system sends to it by another, there is nothing that translates.
func (p *Port) choosePrefix(conns []*Conn) (prefix netip.Prefix, under *Conn, by string) {
	for _, a := range p.announced.all() {
		if isOwn(conns, a.prefix) {
			p.log.Warn("socket: what a router announces as NAT64 prefix is this host's own network", "prefix", a.prefix)
			continue
		}
		if c := p.underTranslation(conns, a.prefix); c != nil && c.Interface().Index == a.link {
			return a.prefix, c, "router"
		}
	}
	if prefix = p.prefixes.get(networkOf(conns)); prefix.IsValid() {
		under = p.underTranslation(conns, prefix)
	}
	return prefix, under, "resolver"
}

// translate adds the Conn that translates to conns, if there is need and a prefix: the
// one that there is, if it is still right.
func (p *Port) translate(conns []*Conn) ([]*Conn, *translation) {
	if !p.lacksIPv4(conns) {
		return conns, nil
	}
	prefix, under, by := p.choosePrefix(conns)
	if under == nil {
		return conns, nil
	}
	if x := p.xlat.Load(); x != nil && x.prefix == prefix && x.under == under {
		return append(conns, x.conn), x
	}
	c := &Conn{
		port: p, link: translatedLink{prefix, under}, under: under, net: netip.PrefixFrom(translatedAddr, 32),
		local:  netip.AddrPortFrom(translatedAddr, under.local.Port()),
		closed: make(chan struct{}),
	}
	about := Interface{Name: "nat64", Net: c.net}
	if mtu := under.LinkMTU(); mtu > translationGrows {
		about.MTU = mtu - translationGrows
	}
	c.iface.Store(&about)
	c.id = p.connIDs.get()
	c.views.Store(&noViews)
	p.log.Info("socket: IPv4 goes by NAT64", "prefix", prefix, "from", under.local, "by", by)
	return append(conns, c), &translation{prefix, under, c}
}

// underTranslation is the IPv6 socket that the system sends from to a prefix.
func (p *Port) underTranslation(conns []*Conn, prefix netip.Prefix) *Conn {
	from := p.route(nat64.Embed(prefix, anywhere4))
	var under *Conn
	for _, c := range conns {
		if a := c.local.Addr(); a.Is6() && !a.IsLoopback() && (under == nil || a == from) {
			under = c
		}
	}
	return under
}

// watchPrefix keeps the prefix that the resolver tells up to date until the Port is closed:
// also where a router announces one, to be there when that is withdrawn.
func (p *Port) watchPrefix() {
	retry := prefixRetry
	t := time.NewTimer(retry)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-p.moved:
			retry = prefixRetry
		case <-t.C:
		}
		conns := slices.DeleteFunc(p.Conns(), (*Conn).Translated)
		if !p.lacksIPv4(conns) {
			t.Reset(prefixAgain)
			continue
		}
		found, changed := p.findPrefix(conns, prefixWithin)
		if changed {
			p.changed()
		}
		if found || p.xlat.Load() != nil {
			t.Reset(prefixAgain)
			continue
		}
		t.Reset(retry)
		retry = min(2*retry, prefixRetryMax)
	}
}

// tellMoved has watchPrefix look again.
func (p *Port) tellMoved() {
	select {
	case p.moved <- struct{}{}:
	default:
	}
}
