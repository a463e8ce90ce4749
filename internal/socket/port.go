package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/nat64"
)

// portTries bounds the search for a number that is free on every address.
const portTries = 64

// Config tells Listen what to do. The callbacks are called on the read
// goroutine of the socket: several at once, one per socket. They must not
// block, and must not call Port.Close.
type Config struct {
	Net    transport.Net // nil = the kernel's network
	Addrs  []netip.Addr  // local addresses; nil = all usable, loopback only if nothing else
	Port   uint16        // 0 = one that is free on all addresses
	Logger *slog.Logger  // nil = silent

	// NotReal are more prefixes of LSIs: with nil Addrs no address in them is
	// used, because a TUN device may have it.
	NotReal []netip.Prefix

	// Carrier, if not nil, is one more link, with addresses of its own; the Port closes
	// it. CarrierTooLong is its error for a datagram that is too long.
	Carrier        Carrier
	CarrierTooLong error

	// NAT64, if not nil, asks the resolver for the prefix by which IPv4 is sent where this
	// host has no route for it. Listen waits for the first answer for up to a second. One
	// that a router announces (Linux) comes before it; nil: that one is not used either.
	NAT64 nat64.Lookup

	// route is routedSource, hostAddrs is Port.interfaceAddrs, of tests others.
	route     func(netip.Addr) netip.Addr
	hostAddrs func() ([]localAddr, error)

	// OnPipe takes a run of pipe datagrams from one sender: seg bytes each,
	// the last maybe shorter. b is borrowed for the call.
	OnPipe func(c *Conn, from netip.AddrPort, b []byte, seg int)
	// OnSTUN takes one STUN message. b is borrowed for the call.
	OnSTUN func(c *Conn, from netip.AddrPort, b []byte)
	// OnAny, if not nil, takes everything instead, without a look at the first
	// byte: a run of datagrams from one sender like OnPipe.
	OnAny func(c *Conn, from netip.AddrPort, b []byte, seg int)
	// OnChange tells that the set of Conns changed after Listen. It is called
	// by the goroutine that found out, must not call Port.Close, and is
	// never called twice at once.
	OnChange func()
}

// A Port is one UDP port number on all local addresses. Its methods may be
// called by any number of goroutines.
type Port struct {
	cfg    Config
	log    *slog.Logger
	number uint16

	set       atomic.Pointer[connSet]           // the open sockets
	leftOut   atomic.Pointer[[]netip.Addr]      // addresses that were taken for LSIs
	sources   *sources                          // whom we speak QUIC with
	ownID     atomic.Pointer[func([]byte) bool] // of KnowIDs; nil: none is known
	quicPeers *sources                          // who was heard on connections of QUIC
	limit     *limiter                          // of first QUIC packets

	carrier *Conn // of Config.Carrier; nil: none

	route     func(netip.Addr) netip.Addr // which address the system sends from
	hostAddrs func() ([]localAddr, error) // those of the interfaces that are up
	xlat      atomic.Pointer[translation] // nil: IPv4 goes as such, or nowhere
	prefixes  prefixes
	announced announced
	moved     chan struct{} // capacity 1: the sockets are others
	life      context.Context
	end       context.CancelFunc // of life, by Close

	scan     sync.Mutex // held by one Rescan at a time
	onChange sync.Mutex // held while OnChange runs

	mu      sync.Mutex // guards what follows, and replacing set and Conn.views
	views   []*view    // open ones, oldest first
	viewIDs idPool
	connIDs idPool
	retired []*counters    // of closed Conns, merged by address
	extras  map[*Conn]bool // open ones of OpenExtra
	closed  bool

	notifier notifier // nil if the watcher polls; set by Listen
	cids     cidTable // whose QUIC connection IDs are whose

	done chan struct{}  // closed by Close
	wg   sync.WaitGroup // read goroutines and the watcher
}

// connSet is an immutable set of open sockets, in a stable order: IPv4 before
// IPv6, loopback last, as the interfaces list them, and one that translates behind all.
type connSet struct {
	conns  []*Conn
	byAddr map[netip.Addr]*Conn
	byID   [256]*Conn
	source sourceCache // what ConnFor found for this set
}

func newConnSet(conns []*Conn, beside ...*Conn) *connSet {
	s := &connSet{conns: conns, byAddr: make(map[netip.Addr]*Conn, len(conns))}
	for _, c := range append(beside, conns...) {
		if c == nil {
			continue
		}
		s.byAddr[c.local.Addr()] = c
		if c.id != 0 {
			s.byID[c.id] = c
		}
	}
	return s
}

// newPort makes a Port without sockets.
func newPort(cfg Config) *Port {
	p := &Port{
		cfg: cfg, log: logpace.New(cfg.Logger), route: cfg.route, done: make(chan struct{}), moved: make(chan struct{}, 1),
		sources: newSources(), quicPeers: newSources(), limit: newLimiter(), extras: map[*Conn]bool{},
	}
	if p.route == nil {
		p.route = routedSource
	}
	if p.hostAddrs = cfg.hostAddrs; p.hostAddrs == nil {
		p.hostAddrs = p.interfaceAddrs
	}
	p.life, p.end = context.WithCancel(context.Background())
	p.set.Store(newConnSet(nil))
	return p
}

// Listen opens one socket per address, all on one port number, and reads from
// them until Close. It fails if no address can be used, and if the number asked
// for is taken on any of them.
func Listen(cfg Config) (*Port, error) {
	p := newPort(cfg)
	for _, a := range cfg.Addrs {
		if a = a.Unmap(); !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return nil, listenError(a, cfg.Port, errors.New("not the address of an interface"))
		}
	}
	want, err := p.wanted()
	if err != nil {
		return nil, listenError(netip.Addr{}, cfg.Port, err)
	}
	conns, err := p.openAll(want)
	if err != nil {
		return nil, err
	}
	p.number = conns[0].local.Port()
	p.listen()
	p.carry()
	if p.lacksIPv4(conns) {
		p.findPrefix(conns, prefixFirst)
	}
	conns, x := p.translate(conns)
	p.install(conns)
	p.xlat.Store(x)
	if p.carrier != nil {
		p.cfg.Carrier.Start(p.carrier.demux)
	}
	p.watch()
	if cfg.NAT64 != nil && cfg.Net == nil {
		p.wg.Go(p.watchPrefix)
	}
	return p, nil
}

// openAll opens the first set of sockets and settles the port number.
func (p *Port) openAll(want []localAddr) ([]*Conn, error) {
	var last error
	for range portTries {
		number := p.cfg.Port
		var conns []*Conn
		last = nil
		for _, a := range want {
			c, err := p.open(a, number)
			if err != nil {
				last = err
				if !isAddrInUse(err) {
					// Not bindable now, such as an IPv6 address that is still
					// being checked for duplicates: Rescan tries again.
					p.log.Warn("socket: address not usable", "addr", a.addr, "err", err)
					continue
				}
				break
			}
			number = c.local.Port()
			conns = append(conns, c)
		}
		taken := last != nil && isAddrInUse(last)
		if !taken && len(conns) > 0 {
			return conns, nil
		}
		for _, c := range conns {
			_ = c.shut()
			p.connIDs.put(c.id)
		}
		if p.cfg.Port != 0 || !taken {
			break
		}
	}
	if last == nil {
		last = p.explain(ErrNoAddress, netip.Addr.IsValid)
	}
	return nil, listenError(netip.Addr{}, p.cfg.Port, last)
}

// ErrNoAddress is wrapped by Listen's error if this host has none that can be used.
var ErrNoAddress = errors.New("no usable local address")

// listenError is what Listen fails with.
func listenError(a netip.Addr, port uint16, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	return &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)), Err: err}
}

// open binds one socket. It does not read yet.
func (p *Port) open(a localAddr, number uint16) (*Conn, error) {
	l, err := p.listenOn(p.cfg.Net, netip.AddrPortFrom(a.addr, number))
	if err != nil {
		return nil, err
	}
	if number == 0 {
		if number, err = l.port(); err != nil {
			_ = l.close()
			return nil, err
		}
	}
	c := &Conn{
		port: p, link: l, net: a.net,
		local:  netip.AddrPortFrom(a.addr, number),
		closed: make(chan struct{}),
	}
	c.iface.Store(&a.iface)
	c.id = p.connIDs.get()
	c.views.Store(&noViews)
	return c, nil
}

// install makes conns the open set and starts to read from the new ones. It
// reports false, and closes the new ones, if the Port was closed meanwhile.
func (p *Port) install(conns []*Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.set.Load()
	if p.closed {
		for _, c := range conns {
			if old.byAddr[c.local.Addr()] != c {
				_ = c.shut()
			}
		}
		return false
	}
	next := newConnSet(conns, p.carrier)
	p.set.Store(next)
	for _, c := range old.conns {
		if next.byAddr[c.local.Addr()] != c {
			p.retire(c)
		}
	}
	p.dropExtras(next)
	p.arrangeViews()
	for _, c := range conns {
		if old.byAddr[c.local.Addr()] != c && !c.Translated() {
			p.wg.Go(c.read)
		}
	}
	return true
}

// retire closes c and keeps its counts. p.mu is held.
func (p *Port) retire(c *Conn) {
	_ = c.shut()
	c.views.Store(&noViews)
	if c.id != 0 {
		p.sources.forgetConn(c.id)
		p.connIDs.put(c.id)
	}
	p.retired = append(p.retired, &c.count)
	if len(p.retired) > 16 {
		sum := new(counters)
		for _, r := range p.retired {
			sum.merge(r)
		}
		p.retired = append(p.retired[:0], sum)
	}
}

// Number returns the port number.
func (p *Port) Number() uint16 { return p.number }

// Conns returns the open sockets: IPv4 before IPv6, loopback last, and behind them the
// one that sends IPv4 by a NAT64 (Conn.Translated). The slice is the caller's.
func (p *Port) Conns() []*Conn {
	return append([]*Conn(nil), p.set.Load().conns...)
}

// ConnOn returns the socket on the local address a, nil if there is none.
func (p *Port) ConnOn(a netip.Addr) *Conn { return p.set.Load().byAddr[a.Unmap()] }

// KnowIDs has the port know QUIC connection IDs that this host has chosen: own says whether
// b begins with one, also of a process before this. It is called for each packet of a
// connection, by any number of goroutines, and keeps nothing of b. Without it only those are
// heard whose addresses have spoken QUIC with this port.
func (p *Port) KnowIDs(own func(b []byte) bool) { p.ownID.Store(&own) }

// owns says whether b begins with a connection ID that this host has chosen.
func (p *Port) owns(b []byte) bool {
	own := p.ownID.Load()
	return own != nil && (*own)(b)
}

// HeardQUIC says whether a packet of a QUIC connection came from an address in
// the last seconds, rounded up to whole ones.
func (p *Port) HeardQUIC(from netip.AddrPort, within time.Duration) bool {
	return p.quicPeers.heardWithin(p.quicPeers.key(from), uint64((within+time.Second-1)/time.Second))
}

// Rescan reads the addresses of the interfaces again, opens and closes
// sockets accordingly, and calls OnChange if the set changed. An address that
// cannot be bound is tried again by the next Rescan.
func (p *Port) Rescan() error {
	changed, err := p.rescan()
	if changed && p.cfg.OnChange != nil {
		p.onChange.Lock()
		defer p.onChange.Unlock()
		if isDone(p.done) {
			return net.ErrClosed
		}
		p.cfg.OnChange()
	}
	return err
}

func (p *Port) rescan() (changed bool, err error) {
	p.scan.Lock()
	defer p.scan.Unlock()
	if isDone(p.done) {
		return false, net.ErrClosed
	}
	want, err := p.wanted()
	if err != nil {
		return false, fmt.Errorf("socket: reading the interfaces: %w", err)
	}
	old := p.set.Load()
	var conns []*Conn
	var failed error
	for _, a := range want {
		if c := old.byAddr[a.addr]; c != nil && !c.Translated() {
			c.iface.Store(&a.iface)
			c.uplink.entry.Store(nil)
			conns = append(conns, c)
			continue
		}
		c, err := p.open(a, p.number)
		if err != nil {
			p.log.Warn("socket: address not usable", "addr", a.addr, "err", err)
			failed = err
			continue
		}
		p.log.Info("socket: address appeared", "addr", a.addr)
		changed = true
		conns = append(conns, c)
	}
	conns, x := p.translate(conns)
	changed = changed || x != nil && x != p.xlat.Load()
	kept := newConnSet(conns)
	for _, c := range old.conns {
		if kept.byAddr[c.local.Addr()] != c {
			p.log.Info("socket: address vanished", "addr", c.local.Addr())
			changed = true
		}
	}
	if changed && !p.install(conns) {
		return false, net.ErrClosed
	}
	p.xlat.Store(x)
	if changed {
		p.tellMoved()
	}
	return changed, failed
}

// Close closes all sockets and views, and returns when no goroutine of the
// Port runs and no callback will be called any more.
func (p *Port) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.done)
		p.end()
		for _, v := range p.views {
			v.shut()
		}
		p.views = nil
		if p.notifier != nil {
			_ = p.notifier.close()
		}
		for _, c := range p.set.Load().conns {
			_ = c.shut()
		}
		p.dropExtras(nil)
	}
	p.mu.Unlock()
	if p.carrier != nil {
		_ = p.carrier.shut()
	}
	p.wg.Wait()
	// A Rescan of another goroutine may still be in OnChange.
	p.onChange.Lock()
	defer p.onChange.Unlock()
	return nil
}

// idPool gives out the numbers 1 to 255, each to one owner at a time, the
// longest unused first. Safe for concurrent use.
type idPool struct {
	mu   sync.Mutex
	used [256]bool
	next uint8
}

// get returns a free number, 0 if there is none.
func (p *idPool) get() uint8 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 255 {
		p.next++
		if p.next == 0 {
			p.next = 1
		}
		if !p.used[p.next] {
			p.used[p.next] = true
			return p.next
		}
	}
	return 0
}

func (p *idPool) put(id uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[id] = false
}
