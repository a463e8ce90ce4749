package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-netroute"

	"github.com/idloc/idloc/internal/socket"
)

// Port mapping: the router before this peer is asked to lead a port of its
// outer address to the shared one, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP IGD. That
// makes a peer at home one that others reach unasked. libp2p has the same; its
// NAT-PMP half neither takes a context nor takes a mapping back, and a Close
// that waits for it may wait for minutes, so this is ours.
const (
	// mapLife is asked for, and renewed at half of what was granted. A
	// crashed peer leaves its mapping for no longer.
	mapLife      = 20 * time.Minute
	mapRenewMin  = 20 * time.Second
	mapTimeout   = 10 * time.Second // of one exchange with the router
	mapTakeBack  = 2 * time.Second  // of the last one, at Close
	mapRetry     = time.Minute      // after nothing was found, doubled up to
	mapRetryMax  = 30 * time.Minute
	mapOthers    = 3     // ports tried when the router refuses ours
	mapOtherPort = 20000 // and above
)

var (
	errNoRouter   = errors.New("no router answers to PCP, NAT-PMP or UPnP")
	errNotPrivate = errors.New("the local address is no private one")
	errSimulated  = errors.New("a simulated network has no routers to ask")
	errMapMoved   = errors.New("the local address is gone")
)

// gateway is a router that maps ports. One goroutine uses it.
type gateway interface {
	// String names the protocol.
	String() string
	// external is the router's outer address.
	external(ctx context.Context) (netip.Addr, error)
	// add maps an outer port, if it can the one wanted, to a UDP port of
	// local, for as long as granted; zero: until it is taken back.
	add(ctx context.Context, local netip.AddrPort, want uint16, life time.Duration) (port uint16, granted time.Duration, err error)
	// remove takes the mapping back.
	remove(ctx context.Context, local netip.AddrPort, port uint16) error
}

// PortMapper keeps one mapping. It is safe for concurrent use.
type PortMapper struct {
	sockets *socket.Port
	log     *slog.Logger
	changed func()
	// route returns the socket that the internet is reached from and the router on
	// the way, find how that router maps ports; tests have others.
	route func() (*socket.Conn, netip.Addr, error)
	find  func(ctx context.Context, local, router netip.Addr) (gateway, error)

	kick chan struct{} // capacity 1: local addresses have changed

	mu     sync.Mutex // guards what follows
	conn   *socket.Conn
	at     netip.AddrPort // outer address; zero: none
	by     string
	reason error // why there is none
}

// PortMapping is what a node tells of the mapping that it asked its router for.
type PortMapping struct {
	Protocol string         // "PCP", "NAT-PMP", "UPnP"; "" without a mapping
	Address  netip.AddrPort // outer address; zero without
	Err      error          // why there is none
}

// NewPortMapper makes a PortMapper for one of the sockets. changed is called
// when the outer address has come, gone or become another.
func NewPortMapper(sockets *socket.Port, log *slog.Logger, changed func()) *PortMapper {
	m := &PortMapper{sockets: sockets, log: log, changed: changed, find: findGateway, kick: make(chan struct{}, 1)}
	m.route = m.uplink
	return m
}

// Of returns the outer address that leads to c, if there is one.
func (m *PortMapper) Of(c *socket.Conn) (netip.AddrPort, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at, m.conn == c && m.at.IsValid()
}

// Status returns what there is now.
func (m *PortMapper) Status() PortMapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	return PortMapping{m.by, m.at, m.reason}
}

// NetworkChanged tells that local addresses have changed.
func (m *PortMapper) NetworkChanged() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

func (m *PortMapper) set(c *socket.Conn, at netip.AddrPort, by string, reason error) {
	m.mu.Lock()
	told := m.at != at || m.conn != c && at.IsValid()
	m.conn, m.at, m.by, m.reason = c, at, by, reason
	m.mu.Unlock()
	if told {
		m.changed()
	}
}

// Run keeps a mapping until ctx ends, and takes it back.
func (m *PortMapper) Run(ctx context.Context) {
	wait := mapRetry
	for {
		err := m.keep(ctx)
		if m.Status().Address.IsValid() {
			wait = mapRetry
		}
		m.set(nil, netip.AddrPort{}, "", err)
		if ctx.Err() != nil {
			return
		}
		m.log.Debug("no port mapping", "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, mapRetryMax)
		case <-m.kick:
			wait = mapRetry
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// keep gets a mapping and renews it. It returns when there is none to be had,
// the local address has gone, or ctx ends.
func (m *PortMapper) keep(ctx context.Context) error {
	local, router, err := m.route()
	if err != nil {
		return err
	}
	g, err := m.find(ctx, local.LocalAddr().Addr(), router)
	if err != nil {
		return err
	}
	want, mapped := local.LocalAddr().Port(), false
	defer func() {
		if !mapped {
			return // the port may be somebody else's
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mapTakeBack)
		defer cancel()
		if err := g.remove(ctx, local.LocalAddr(), want); err != nil {
			m.log.Debug("port mapping not taken back", "err", err)
		}
	}()
	for {
		at, granted, err := renew(ctx, g, local.LocalAddr(), want)
		if err != nil {
			return err
		}
		want, mapped = at.Port(), true
		if m.Status().Address != at {
			m.log.Info("port mapped", "by", g.String(), "addr", at)
		}
		m.set(local, at, g.String(), nil)
		// One that lasts for longer than was asked for may be gone before, with a router
		// that starts again: it is renewed all the same.
		if granted <= 0 || granted > mapLife {
			granted = mapLife
		}
		t := time.NewTimer(max(granted/2, mapRenewMin))
		select {
		case <-t.C:
		case <-m.kick:
			if !slices.Contains(m.sockets.Conns(), local) {
				t.Stop()
				return errMapMoved
			}
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		t.Stop()
	}
}

// renew asks for a mapping once, or for more of its time.
func renew(ctx context.Context, g gateway, local netip.AddrPort, want uint16) (netip.AddrPort, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, mapTimeout)
	defer cancel()
	port, granted, err := g.add(ctx, local, want, mapLife)
	for i := 0; err != nil && i < mapOthers && ctx.Err() == nil; i++ {
		// Somebody else may have it.
		port, granted, err = g.add(ctx, local, mapOtherPort+(want+uint16(i)*7919)%40000, mapLife)
	}
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("%v: %w", g, err)
	}
	ip, err := g.external(ctx)
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("%v: %w", g, err)
	}
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsLoopback() || port == 0 {
		return netip.AddrPort{}, 0, fmt.Errorf("%v: the router's outer address is %v, port %d", g, ip, port)
	}
	return netip.AddrPortFrom(ip, port), granted, nil
}

// someAddress is anywhere on the internet (RFC 5737); nothing is sent there.
var someAddress = netip.MustParseAddr("192.0.2.1")

// uplink returns the socket that the internet is reached from and the router on
// the way, if the address is one that needs mapping.
func (m *PortMapper) uplink() (*socket.Conn, netip.Addr, error) {
	c := m.sockets.ConnFor(someAddress)
	if c == nil {
		return nil, netip.Addr{}, errNoRouter
	}
	if a := c.LocalAddr().Addr(); !private(a) {
		return nil, netip.Addr{}, errNotPrivate
	}
	r, err := netroute.New()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	_, via, _, err := r.Route(someAddress.AsSlice())
	if err != nil {
		return nil, netip.Addr{}, err
	}
	router, ok := netip.AddrFromSlice(via)
	if !ok {
		return nil, netip.Addr{}, errNoRouter
	}
	return c, router.Unmap(), nil
}

// findGateway looks for a router that maps ports: by PCP and NAT-PMP, which answer at
// once if at all, then by UPnP.
func findGateway(ctx context.Context, local, router netip.Addr) (gateway, error) {
	ctx, cancel := context.WithTimeout(ctx, mapTimeout)
	defer cancel()
	if g := findPortControl(ctx, local, netip.AddrPortFrom(router, natPMPPort)); g != nil {
		return g, nil
	}
	return findUPnP(ctx, router)
}

// findPortControl asks a router for PCP and for NAT-PMP at the same time, since one that
// speaks neither answers neither: PCP is better if it has both. nil: it has none.
func findPortControl(ctx context.Context, local netip.Addr, router netip.AddrPort) gateway {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	newer, older := newPCP(local, router), &natPMP{router: router}
	is, was := make(chan error, 1), make(chan error, 1)
	wg.Go(func() { is <- newer.announce(ctx) })
	wg.Go(func() { _, err := older.external(ctx); was <- err })
	select {
	case err := <-is:
		if err == nil {
			return newer
		}
		if <-was == nil {
			return older
		}
		return nil
	case err := <-was:
		if err != nil {
			if <-is == nil {
				return newer
			}
			return nil
		}
	}
	late := time.NewTimer(pcpGrace)
	defer late.Stop()
	select {
	case err := <-is:
		if err == nil {
			return newer
		}
	case <-late.C:
	}
	return older
}
