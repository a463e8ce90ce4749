package nat

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/socket"
)

// Config says what an Addresses works with. It is read once.
type Config struct {
	Sockets *socket.Port  // the shared port; required
	Net     transport.Net // nil is the kernel's; another one has no routers to ask
	Asker   Asker         // required
	// Servers are the STUN servers to ask for mapped addresses, members among
	// them, the best first; required.
	Servers func() []netip.AddrPort
	// TURN says which servers are asked for an address and what becomes of it.
	// Sockets, Net, Logger and Changed are set by New.
	TURN AllocationsConfig
	// Arrivals tells who has come in; nil: nobody.
	Arrivals func() Arrivals
	// Forwarded are places of the outside, "host:port", from which the user has had the
	// port forwarded to this host. Names are looked up by Lookup again and again; nil is the
	// system's DNS.
	Forwarded []string
	Lookup    func(ctx context.Context, host string) ([]netip.Addr, error)
	// Seen is called when a server has seen a socket at an address that is new,
	// Changed when a router or a TURN server gives an address or takes it back;
	// both required.
	Seen, Changed func()
	Logger        *slog.Logger // nil is silent
}

// An Arrival is something that came in at a socket's own address.
type Arrival struct{ Local, From netip.AddrPort }

// Arrivals are what proves that others reach this host.
type Arrivals struct {
	// Open are the connections that members have made and that stand.
	Open []Arrival
	// Unasked is one of a member that this host had never sent anything to; zero:
	// there was none.
	Unasked Arrival
}

// Addresses are those at which others reach this host, and what is done to have
// more of them. It is safe for concurrent use.
type Addresses struct {
	cfg       Config
	probes    *Probes
	mapped    *MappedAddrs
	turn      *Allocations
	forwarded *forwarded
	router    *PortMapper // nil on a simulated network
}

// New makes an Addresses that knows those of the sockets only; Run finds others.
func New(cfg Config) *Addresses {
	cfg.Logger = logpace.New(cfg.Logger)
	a := &Addresses{cfg: cfg, probes: NewProbes()}
	a.mapped = NewMappedAddrs(MappedConfig{
		Asker: cfg.Asker, Conns: cfg.Sockets.Conns, Servers: cfg.Servers, Probes: a.probes, Changed: cfg.Seen,
	})
	cfg.TURN.Sockets, cfg.TURN.Net, cfg.TURN.Logger, cfg.TURN.Changed = cfg.Sockets, cfg.Net, cfg.Logger, cfg.Changed
	a.turn = NewAllocations(cfg.TURN)
	a.forwarded = newForwarded(cfg.Forwarded, cfg.Lookup, cfg.Changed)
	if cfg.Net == nil {
		a.router = NewPortMapper(cfg.Sockets, cfg.Logger, cfg.Changed)
	}
	return a
}

// Run looks for addresses and keeps them, until ctx ends and what was taken is
// given back.
func (a *Addresses) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { a.mapped.Run(ctx) })
	wg.Go(func() { a.turn.Run(ctx) })
	wg.Go(func() { a.forwarded.run(ctx) })
	if a.router != nil {
		wg.Go(func() { a.router.Run(ctx) })
	}
	wg.Wait()
}

// NetworkChanged tells that the port's sockets are others than before.
func (a *Addresses) NetworkChanged() {
	a.probes.KeepOnly(a.cfg.Sockets.Conns())
	a.turn.NetworkChanged()
	if a.router != nil {
		a.router.NetworkChanged()
	}
}

// Mapped returns the addresses that servers see.
func (a *Addresses) Mapped() *MappedAddrs { return a.mapped }

// Probes returns what came of sending over UDP.
func (a *Addresses) Probes() *Probes { return a.probes }

// Allocations returns what TURN servers lend now.
func (a *Addresses) Allocations() []*Allocation { return a.turn.Current() }

// AllocatedAddrs returns the addresses of Allocations.
func (a *Addresses) AllocatedAddrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range a.turn.Current() {
		out = append(out, l.LocalAddr())
	}
	return out
}

// Outer returns the addresses at which c is reached from outside: the one that
// the router was asked for, those that servers have seen, and those that the user has
// had forwarded.
func (a *Addresses) Outer(c *socket.Conn) []netip.AddrPort {
	out := a.mapped.Of(c)
	if a.router != nil {
		if at, ok := a.router.Of(c); ok && !slices.Contains(out, at) {
			out = append([]netip.AddrPort{at}, out...)
		}
	}
	for _, at := range a.forwarded.all() {
		if local := c.LocalAddr().Addr(); local.Is4() == at.Addr().Is4() && local.IsLoopback() == at.Addr().IsLoopback() && !slices.Contains(out, at) && at != c.LocalAddr() {
			out = append(out, at)
		}
	}
	return out
}

// Kinds says of what use each of this host's addresses is to others. One of the
// internet's is proven when a member has come in there from the internet; what a
// NAT shows of a socket when one did so unasked.
func (a *Addresses) Kinds() map[netip.AddrPort]Kind {
	kinds := map[netip.AddrPort]Kind{}
	shown := map[netip.AddrPort]netip.AddrPort{} // by a socket's own address
	for _, c := range a.cfg.Sockets.Conns() {
		kinds[c.LocalAddr()] = OfConn(c)
		outer := a.Outer(c)
		for _, at := range outer {
			kinds[at] = Mapped
		}
		if len(outer) == 1 {
			shown[c.LocalAddr()] = outer[0]
		}
	}
	if a.cfg.Arrivals == nil {
		return kinds
	}
	in := a.cfg.Arrivals()
	for _, r := range in.Open {
		if kinds[r.Local] == Global && Of(r.From.Addr()) == Global {
			kinds[r.Local] = Proven
		}
	}
	if Of(in.Unasked.From.Addr()) == Global {
		if at, ok := shown[in.Unasked.Local]; ok {
			kinds[at] = Proven
		}
	}
	return kinds
}

// Own ranks this host's own addresses.
func (a *Addresses) Own() *Ranking[netip.AddrPort] {
	r := new(Ranking[netip.AddrPort])
	kinds := a.Kinds()
	for _, c := range a.cfg.Sockets.Conns() {
		for _, at := range append([]netip.AddrPort{c.LocalAddr()}, a.Outer(c)...) {
			r.Add(at, kinds[at], at)
		}
	}
	return r
}

// Local returns the sockets' own addresses without their port, the best first, of
// equal ones IPv6 (RFC 8421 §4).
func (a *Addresses) Local() []netip.Addr {
	var r Ranking[netip.Addr]
	conns := a.cfg.Sockets.Conns()
	slices.SortStableFunc(conns, func(x, y *socket.Conn) int {
		return y.LocalAddr().Addr().BitLen() - x.LocalAddr().Addr().BitLen()
	})
	for _, c := range conns {
		r.Add(c.LocalAddr(), OfConn(c), c.LocalAddr().Addr())
	}
	return r.Best(r.Len())
}

// Reaches says whether something that is sent from one of Local's addresses can
// get to another host's.
func (a *Addresses) Reaches(local, remote netip.Addr) bool {
	c := a.cfg.Sockets.ConnOn(local)
	return c != nil && c.Reaches(remote)
}

// Status is what an Addresses tells of its part. A snapshot.
type Status struct {
	UDP         string           // UDPWorks, UDPSilent, UDPUnsent; "": nobody was there to send to
	Translation string           // before the port, see Translation
	Probes      []Probe          // whom was sent to over UDP, to find out
	Mapped      []netip.AddrPort // addresses of the port as servers saw them, where they differ from its own
	PortMapping PortMapping      // what the router was asked for
	TURN        []TURNStatus     // one for each TURN server
}

// Status tells what is known now. connected says whether a member is connected,
// to whom UDP gets through.
func (a *Addresses) Status(connected bool) Status {
	s := Status{Probes: a.probes.List(), TURN: a.turn.Status()}
	s.Translation = Translation(s.Probes)
	s.UDP = UDP(s.Probes, connected, time.Now())
	s.PortMapping.Err = errSimulated
	if a.router != nil {
		s.PortMapping = a.router.Status()
	}
	for _, c := range a.cfg.Sockets.Conns() {
		for _, at := range a.mapped.Of(c) {
			if !slices.Contains(s.Mapped, at) {
				s.Mapped = append(s.Mapped, at)
			}
		}
	}
	return s
}
