package ice

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/socket"
)

// memory is a network in memory, for virtual time: what is sent arrives at once,
// unless lose says otherwise.
type memory struct {
	mu    sync.Mutex // guards what follows
	conns map[netip.AddrPort]*memConn
	seen  map[netip.AddrPort]netip.AddrPort // what a NAT shows of an address
	lose  func(from, to netip.AddrPort, b []byte) bool
	sent  map[netip.Addr]int // datagrams to an address, also lost ones
	boxes []*memBox
	ports uint16 // given to who asks for any
}

func newMemory() *memory {
	return &memory{conns: map[netip.AddrPort]*memConn{}, seen: map[netip.AddrPort]netip.AddrPort{}, sent: map[netip.Addr]int{}}
}

// losing sets what is lost.
func (m *memory) losing(lose func(from, to netip.AddrPort, b []byte) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lose = lose
}

// translate has what at sends be seen as another address, which leads back.
func (m *memory) translate(at, as string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[netip.MustParseAddrPort(at)] = netip.MustParseAddrPort(as)
}

func (m *memory) sentTo(a string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent[netip.MustParseAddr(a)]
}

func (m *memory) deliver(from, to netip.AddrPort, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent[to.Addr()]++
	for _, x := range m.boxes {
		if x.inner == from.Addr() {
			from = x.leave(from, to)
		}
	}
	for _, x := range m.boxes {
		if x.outer == to.Addr() {
			inner, ok := x.enter(from, to)
			if !ok {
				return
			}
			to = inner
		}
	}
	if as, ok := m.seen[from]; ok {
		from = as
	}
	if m.lose != nil && m.lose(from, to, b) {
		return
	}
	for own, as := range m.seen {
		if as == to {
			to = own
		}
	}
	if c := m.conns[to]; c != nil {
		select {
		case c.in <- memDatagram{from, append([]byte(nil), b...)}:
		default: // the buffer is full
		}
	}
}

// memBox is a NAT that lets in what answers (APDF, RFC 4787 §5). The memory's mu guards it.
type memBox struct {
	inner, outer netip.Addr
	next         func() uint16 // the next mapping's port; nil: it keeps the inner one (EIM)
	ports        map[[2]netip.AddrPort]uint16
	back         map[uint16]netip.AddrPort
	open         map[[2]netip.AddrPort]bool
}

// box puts a host behind a NAT.
func (m *memory) box(inner, outer string, next func() uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boxes = append(m.boxes, &memBox{netip.MustParseAddr(inner), netip.MustParseAddr(outer), next,
		map[[2]netip.AddrPort]uint16{}, map[uint16]netip.AddrPort{}, map[[2]netip.AddrPort]bool{}})
}

func (x *memBox) leave(from, to netip.AddrPort) netip.AddrPort {
	key := [2]netip.AddrPort{from, to}
	if x.next == nil {
		key[1] = netip.AddrPort{}
	}
	port, ok := x.ports[key]
	if !ok {
		port = from.Port()
		for x.next != nil && (!ok || x.back[port].IsValid()) {
			port, ok = x.next(), true
		}
		x.ports[key], x.back[port] = port, from
	}
	out := netip.AddrPortFrom(x.outer, port)
	x.open[[2]netip.AddrPort{out, to}] = true
	return out
}

func (x *memBox) enter(from, to netip.AddrPort) (netip.AddrPort, bool) {
	return x.back[to.Port()], x.open[[2]netip.AddrPort{to, from}]
}

// memHost is what one host has of the network.
type memHost struct {
	transport.Net
	m     *memory
	links []string // "name address/bits"
}

func (h *memHost) Interfaces() ([]*transport.Interface, error) {
	var out []*transport.Interface
	for i, s := range h.links {
		name, prefix, _ := strings.Cut(s, " ")
		p := netip.MustParsePrefix(prefix)
		t := transport.NewInterface(net.Interface{Index: i + 1, Name: name, Flags: net.FlagUp})
		t.AddAddress(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
		out = append(out, t)
	}
	return out, nil
}

func (h *memHost) ListenUDP(_ string, at *net.UDPAddr) (transport.UDPConn, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if at.Port == 0 {
		h.m.ports++
		at.Port = 20000 + int(h.m.ports)
	}
	c := &memConn{m: h.m, at: at.AddrPort(), in: make(chan memDatagram, 256), closed: make(chan struct{})}
	h.m.conns[c.at] = c
	return c, nil
}

type memDatagram struct {
	from netip.AddrPort
	b    []byte
}

type memConn struct {
	transport.UDPConn
	m      *memory
	at     netip.AddrPort
	in     chan memDatagram
	once   sync.Once
	closed chan struct{}
}

func (c *memConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }

func (c *memConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *memConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.m.deliver(c.at, to.(*net.UDPAddr).AddrPort(), b)
	return len(b), nil
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// memPeer is a host with a port and a demux.
type memPeer struct {
	demux *Demux
	port  *socket.Port
	net   transport.Net
}

// host opens a port of a host with these interfaces.
func (m *memory) host(t *testing.T, links ...string) *memPeer {
	t.Helper()
	h := &memHost{m: m, links: links}
	d := NewDemux(DemuxConfig{})
	p, err := socket.Listen(socket.Config{Net: h, Port: 4000, OnSTUN: d.Handle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return &memPeer{d, p, h}
}

// agent makes an agent of p's.
func (p *memPeer) agent(t *testing.T, change func(*Config)) *Agent {
	t.Helper()
	cfg := Config{Demux: p.demux, Conns: p.port.Conns(), Mapped: func(*socket.Conn) []netip.AddrPort { return nil }, Net: p.net}
	if change != nil {
		change(&cfg)
	}
	a, err := NewAgent(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}
