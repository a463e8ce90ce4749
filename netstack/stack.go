package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/shim"
)

// Buffer sizes in bytes. The largest TCP buffer is the bandwidth × delay of
// 1 Gbit/s and 100 ms, and a quarter (DESIGN §12); twice that to receive,
// because gVisor announces half of the buffer.
const (
	tcpBufferMin     = 4 << 10
	tcpBufferDefault = 4 << 20
	tcpBufferMax     = 16 << 20
	tcpReceiveMax    = 2 * tcpBufferMax
	udpBufferDefault = 1 << 20
	udpBufferMax     = 16 << 20
)

// timeWait is how long a closed connection's addresses are kept from new
// ones: long beside a pipe's delay and its 1 s of reassembly, short enough
// that a client which opens many connections keeps finding ports.
const timeWait = 10 * time.Second

// Retransmission timeouts. Our TCP acknowledges at once, but a peer's may wait
// 40 ms, so that 100 ms is a safe minimum beside gVisor's 200 ms. The maximum
// is far below RFC 6298's 60 s for two reasons: the outages of a pipe end
// suddenly, on another path, and a connection should go on soon after; and
// gVisor's receiver echoes an old timestamp in the acknowledgement of a
// duplicate, so that the loss of acknowledgements counts as round-trip time and
// drives the timeout up to the maximum. retries makes the time until a
// connection is given up the usual quarter of an hour again.
const (
	minRTO  = 100 * time.Millisecond
	maxRTO  = 3 * time.Second
	retries = 300
)

const nicID = 1

// Config is what a Stack works with. Shim is needed.
type Config struct {
	Shim *shim.Shim // Attach is called; the Shim must be closed after the Stack

	// Admit is asked before a SYN is answered and before the first datagram
	// of an inbound UDP flow is delivered, with remote being the peer's LSI
	// and port, local our own. A refused flow is reset, or told that the
	// port is unreachable. It is called where packets are received: it must
	// be quick and must not use the stack. Nil admits everything.
	Admit func(network string, local, remote netip.AddrPort) bool

	Logger *slog.Logger // nil = silent
}

// Stack is one node's TCP/IP. All methods may be used concurrently.
type Stack struct {
	shim  *shim.Shim
	stack *stack.Stack
	link  *link
	log   *slog.Logger
	self  peerid.ID // this node

	orphans orphans
	endings endings

	done chan struct{} // closed by Close

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[closer]struct{}      // what Close closes: conns, listeners
	near   map[netip.Addr]*nearPeer // of the conns that write much
	added  map[netip.Addr]struct{}  // by AddAddress
	conns  int                      // of TCP in open
	asked  time.Time                // when Recheck was last called
	idle   chan struct{}            // closed when there is none; nil: nobody waits
	ended  chan struct{}            // closed when Close has finished
}

// closer is a conn or a listener as Close sees it.
type closer interface {
	quit() // ends it as its own Close does, but does not wait; idempotent
}

// New returns a Stack that has the node's own LSIs.
func New(cfg Config) (*Stack, error) {
	silence()
	s := &Stack{
		shim:  cfg.Shim,
		link:  &link{shim: cfg.Shim},
		log:   cfg.Logger,
		done:  make(chan struct{}),
		ended: make(chan struct{}),
		open:  make(map[closer]struct{}),
		near:  make(map[netip.Addr]*nearPeer),
		added: make(map[netip.Addr]struct{}),
	}
	s.log = logpace.New(s.log)
	s.link.self4, s.link.self6 = cfg.Shim.Table().Self()
	s.self, _ = cfg.Shim.Table().Peer(s.link.self4)
	s.link.shares.init()
	s.endings.init(s)
	s.link.gone = func(v4, v6 netip.Addr, delivered bool) { s.peerGone(v4, v6, delivered) }
	s.orphans.link = s.link
	if cfg.Admit != nil {
		s.link.admit = NewAdmission(cfg.Admit, cfg.Shim)
	}
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// No neighbours, no routers, no groups: neither duplicate
			// address detection nor solicitations nor MLD.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true, // to our own LSIs without leaving the stack
	})
	s.link.stack = s.stack
	s.link.leastRTO.Store(int64(minRTO))
	if err := s.configure(); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	cfg.Shim.Attach(s.link)
	return s, nil
}

func (s *Stack) configure() error {
	sack := tcpip.TCPSACKEnabled(true)
	// Not RACK: it deals with the super packets of host GSO as wholes. One lost
	// datagram makes it resend all of one, a segment per round trip, and its
	// tail loss probes, spurious after any pause of two round trips, halve the
	// window because gVisor sends no DSACK: 32 MB over 10 ms without loss took
	// 3 to 17 s with it, 0.4 s without. RFC 6675 recovery splits super packets,
	// and counts bytes that were selectively acknowledged, so that one
	// acknowledgement of a merged run is enough for it.
	rack := tcpip.TCPRecovery(0)
	// Not cubic: gVisor's truncates the window to whole packets at each
	// acknowledgement. After a few losses it stays at two packets, and once it
	// is 0 nothing is ever sent again, with no timer running. Over 5 ms each way
	// and 200 Mbit/s (internal/peerbench -impaired) reno with RFC 6675 got 134,
	// 49 and 15 Mbit/s at 0.01, 0.1 and 1 % of loss, cubic 90, 11 and 10, cubic
	// with RACK 114, 27 and 10.
	reno := tcpip.CongestionControlOption("reno")
	rtoMin, rtoMax, tries := tcpip.TCPMinRTOOption(minRTO), tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(retries)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	reuse := tcpip.TCPTimeWaitReuseOption(tcpip.TCPTimeWaitReuseGlobal)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &rack, &reno, &rtoMin, &rtoMax, &tries, &moderate, &wait, &reuse,
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpBufferMax},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcpBufferMin, Default: tcpBufferDefault, Max: tcpReceiveMax},
	} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("%T: %s", o, err)
		}
	}
	for _, o := range []any{
		tcpip.SendBufferSizeOption{Min: tcpBufferMin, Default: udpBufferDefault, Max: udpBufferMax},
		tcpip.ReceiveBufferSizeOption{Min: tcpBufferMin, Default: udpBufferDefault, Max: udpBufferMax},
	} {
		if err := s.stack.SetOption(o); err != nil {
			return fmt.Errorf("%T: %s", o, err)
		}
	}
	if err := s.stack.CreateNICWithOptions(nicID, s.link, stack.NICOptions{QDisc: s.link}); err != nil {
		return fmt.Errorf("link: %s", err)
	}
	table := s.shim.Table()
	var routes []tcpip.Route
	p4, p6 := table.Prefixes()
	for _, p := range []netip.Prefix{p4, p6} {
		if !p.IsValid() {
			continue
		}
		subnet, err := tcpip.NewSubnet(address(p.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(p.Bits(), p.Addr().BitLen())))
		if err != nil {
			return fmt.Errorf("route %v: %w", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: subnet, NIC: nicID})
	}
	s.stack.SetRouteTable(routes)
	v4, v6 := table.Self()
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			if err := s.addAddress(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// AddAddress gives the stack one more address of its own, such as the
// resolver's. Peers cannot reach it, the shim knows no mapping to it; the
// node itself can. Who listens there keeps nobody from listening on the same
// port at all addresses: it gets what is for this address, and the other the
// rest.
func (s *Stack) AddAddress(a netip.Addr) error {
	a = a.Unmap()
	if err := s.addAddress(a); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added[a] = struct{}{}
	return nil
}

func (s *Stack) addAddress(a netip.Addr) error {
	a = a.Unmap()
	err := s.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          protocolOf(a),
		AddressWithPrefix: address(a).WithPrefix(),
	}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("address %v: %w", a, sysError(err))
	}
	return nil
}

// SetTap shows every inner packet to t from now on; nil ends that. Packets
// between the stack's own addresses are not seen.
func (s *Stack) SetTap(t Tap) {
	if t == nil {
		s.link.tap.Store(nil)
		return
	}
	s.link.tap.Store(&t)
}

// Close ends what the application has open as the end of a process does on a
// kernel: calls that wait return net.ErrClosed, what was written before goes
// out and a FIN after it, a conn with unread data and one that nobody has
// accepted are reset. Close waits until the peers have acknowledged that, while
// they go on taking it and ctx lasts; a peer that says nothing is waited for 4 s.
// One that lacks only the ends is not waited for, as it is told of the node's end
// that it has all (delivered.go), but where a connection with it was reset or has
// timed out: there 0.5 s, a little more where round trips are
// longer. Then it resets the rest and waits for the stack's
// goroutines. Its error is a *CutError if something was not delivered. It is
// idempotent: further calls wait for the first.
func (s *Stack) Close(ctx context.Context) error {
	open, first := s.shut()
	if !first {
		<-s.ended
		return nil
	}
	s.quit(open)
	err := s.orphans.cut(s.orphans.flush(ctx))
	s.finish()
	return err
}

// shut has nothing begin any more, and returns what is open.
func (s *Stack) shut() (open map[closer]struct{}, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.closed = true
	s.link.closing.Store(true)
	open = s.open
	s.open = nil
	close(s.done) // with the lock held: what is not tracked any more finds it closed
	return open, true
}

// quit ends what is open as if the application had closed it.
func (s *Stack) quit(open map[closer]struct{}) {
	s.doubtOpening()
	for c := range open { // first, or what waits for Accept would end like what was accepted
		if l, ok := c.(*listener); ok {
			l.quit()
		}
	}
	for _, c := range byPeer(open) {
		c.quit()
	}
}

// finish ends the stack, whatever is left in closing.
func (s *Stack) finish() {
	s.tellDelivered()
	s.endings.close()
	s.orphans.end()
	s.stack.Close()
	s.shim.Attach(nil)
	s.stack.Wait()
	close(s.ended)
}

// byPeer returns conns in an order in which those with one peer follow each other:
// what is sent to a peer in quick succession shares system calls.
func byPeer(open map[closer]struct{}) []closer {
	peers := make(map[peerid.ID][]closer)
	for c := range open {
		var id peerid.ID
		if c, ok := c.(*tcpConn); ok {
			id = c.pinned
		}
		peers[id] = append(peers[id], c)
	}
	return slices.Concat(slices.Collect(maps.Values(peers))...)
}

// Drain closes the listeners and waits until the application has closed all
// its TCP conns, or ctx ends. Nothing is taken from it meanwhile: it may go on
// to dial. What listens at an address of AddAddress is left alone.
func (s *Stack) Drain(ctx context.Context) error {
	s.mu.Lock()
	var listeners []*listener
	for c := range s.open {
		if l, ok := c.(*listener); ok {
			if _, added := s.added[l.bound.Addr()]; !added {
				listeners = append(listeners, l)
			}
		}
	}
	s.mu.Unlock()
	for _, l := range listeners {
		l.quit()
	}
	for {
		s.mu.Lock()
		if s.conns == 0 || s.closed {
			s.mu.Unlock()
			return nil
		}
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle := s.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endpoints are those of TCP, until their connections are over. gVisor lists a
// listener of both families twice.
func (s *Stack) endpoints() map[*tcp.Endpoint]struct{} {
	eps := make(map[*tcp.Endpoint]struct{})
	for _, e := range s.stack.RegisteredEndpoints() {
		if ep, ok := e.(*tcp.Endpoint); ok {
			eps[ep] = struct{}{}
		}
	}
	return eps
}

// track notes c for Close; false if it is too late.
func (s *Stack) track(c closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	if s.countsLocked(c) {
		s.conns++
	}
	return true
}

// countsLocked says whether Drain waits for c: it is a TCP conn, and not one
// that a part of the node has at an address of its own.
func (s *Stack) countsLocked(c closer) bool {
	conn, ok := c.(*tcpConn)
	if !ok {
		return false
	}
	_, local := s.added[conn.laddr.AddrPort().Addr()]
	_, remote := s.added[conn.raddr.AddrPort().Addr()]
	return !local && !remote
}

// overlapLocked says whether two that are bound to a and b at one port would get
// each other's packets: one is the other's address or a wildcard that covers it.
// only6 is of the one at a.
func (s *Stack) overlapLocked(a netip.Addr, only6 bool, b netip.Addr) bool {
	_, added := s.added[b]
	switch {
	case a == b:
		return true
	case !a.IsUnspecified(), added:
		return false
	case a.Is4():
		return b.Is4()
	}
	return b.Is6() || !only6
}

func (s *Stack) untrack(c closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[c]; !open {
		return
	}
	delete(s.open, c)
	if !s.countsLocked(c) {
		return
	}
	if s.conns--; s.conns == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// pin keeps the LSI of the peer at a from being given to another while a
// conn names it. The function it returns undoes that.
func (s *Stack) pin(a netip.Addr) (unpin func()) {
	id := s.pinPeer(a)
	return sync.OnceFunc(func() { s.unpinPeer(id) })
}

// pinPeer is pin for those who call unpinPeer once, with the ID it returns: of
// the peer at a, zero if there is none.
func (s *Stack) pinPeer(a netip.Addr) peerid.ID {
	table := s.shim.Table()
	if id, ok := table.Peer(a); ok && table.Pin(id) {
		return id
	}
	return peerid.ID{}
}

func (s *Stack) unpinPeer(id peerid.ID) {
	if id != (peerid.ID{}) {
		s.shim.Table().Unpin(id)
	}
}

// Stats is a snapshot of the stack's own counters.
type Stats struct {
	Conns           int // conns and listeners open
	Endpoints       int // gVisor's of TCP: those of these, and connections that wait, close or are in TIME-WAIT
	Retransmits     uint64
	SegmentsIn      uint64
	SegmentsOut     uint64
	ResetsOut       uint64
	DatagramsIn     uint64
	DatagramsOut    uint64
	DatagramsMissed uint64 // dropped for a full receive buffer
	Refused         uint64 // flows that Admit refused
	Limited         uint64 // SYNs and connections beyond a peer's share
	Unread          uint64 // TCP segments beyond what may be unread of one peer
}

// Stats may be called at any time from any goroutine.
func (s *Stack) Stats() Stats {
	t := s.stack.Stats()
	s.mu.Lock()
	n := len(s.open)
	s.mu.Unlock()
	st := Stats{
		Conns:           n,
		Endpoints:       len(s.endpoints()),
		Retransmits:     t.TCP.Retransmits.Value(),
		SegmentsIn:      t.TCP.ValidSegmentsReceived.Value(),
		SegmentsOut:     t.TCP.SegmentsSent.Value(),
		ResetsOut:       t.TCP.ResetsSent.Value(),
		DatagramsIn:     t.UDP.PacketsReceived.Value() + s.link.udp.in.Load(),
		DatagramsOut:    t.UDP.PacketsSent.Value() + s.link.udp.out.Load(),
		Limited:         s.link.shares.limited.Load(),
		Unread:          s.link.unreadDropped.Load(),
		DatagramsMissed: t.UDP.ReceiveBufferErrors.Value() + s.link.udp.missed.Load(),
	}
	if s.link.admit != nil {
		st.Refused = s.link.admit.Refused()
	}
	return st
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Unmap().Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// address is a as gVisor has it.
func address(a netip.Addr) tcpip.Address {
	a = a.Unmap()
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

// full is ap as gVisor has it; an unspecified address is gVisor's empty one.
func full(ap netip.AddrPort) tcpip.FullAddress {
	if !ap.Addr().IsValid() || ap.Addr().IsUnspecified() {
		return tcpip.FullAddress{Port: ap.Port()}
	}
	return tcpip.FullAddress{Addr: address(ap.Addr()), Port: ap.Port()}
}

// addrPort is the reverse of full; wildcard stands for an empty address.
func addrPort(f tcpip.FullAddress, wildcard netip.Addr) netip.AddrPort {
	a, ok := netip.AddrFromSlice(f.Addr.AsSlice())
	if !ok || a.IsUnspecified() {
		a = wildcard
	}
	return netip.AddrPortFrom(a.Unmap(), f.Port)
}

// family says for an endpoint of a network ("tcp", "tcp4", "udp6") that is to
// be bound to a, which protocol it is of, what its wildcard address is, and
// whether it must not take IPv4. An unspecified address of either family and
// none at all mean the same, as in package net: all addresses, of both
// families if the network does not choose one.
func family(network string, a netip.Addr) (proto tcpip.NetworkProtocolNumber, wildcard netip.Addr, only6 bool) {
	a = a.Unmap()
	wild := !a.IsValid() || a.IsUnspecified()
	if strings.HasSuffix(network, "4") || a.Is4() && !wild {
		return header.IPv4ProtocolNumber, netip.IPv4Unspecified(), false
	}
	return header.IPv6ProtocolNumber, netip.IPv6Unspecified(), strings.HasSuffix(network, "6")
}

var errNoAddress = errors.New("no address")
