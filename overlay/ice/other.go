package ice

import (
	"net/netip"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/socket"
)

// A NAT whose mapping depends on the destination shows itself only to who asks two of
// them (RFC 5780 §4.3), and the smallest overlay has one member to ask. So whoever is
// asked names a second port of its own in OTHER-ADDRESS: an extra socket, opened when the
// first question comes, that answers questions as well. A firewall that lets in one port
// only keeps it from answering, and the mapping stays unknown.

// othersKept bounds the servers whose second port is remembered.
const othersKept = 64

// others are the second ports of this node's sockets, and those that servers have named.
// It is safe for concurrent use.
type others struct {
	port Sockets // nil: this node has none

	mu    sync.Mutex // guards what follows
	mine  map[*socket.Conn]*socket.Conn
	named *simplelru.LRU[netip.AddrPort, uint16] // by server
}

func newOthers(port Sockets) *others {
	return &others{port: port, mine: map[*socket.Conn]*socket.Conn{}, named: newLRU[netip.AddrPort, uint16](othersKept)}
}

// of returns the address of a socket's second port, which is opened if need be; invalid
// where there is none.
func (o *others) of(c *socket.Conn) netip.AddrPort {
	if o.port == nil || o.port.ConnOn(c.LocalAddr().Addr()) != c {
		return netip.AddrPort{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if x := o.mine[c]; x != nil {
		return x.LocalAddr()
	}
	x, err := o.port.OpenExtra(c.LocalAddr().Addr())
	if err != nil {
		return netip.AddrPort{} // the next question tries again
	}
	if !o.port.Keep(x, func() { o.ended(c) }) {
		o.port.CloseExtra(x)
		return netip.AddrPort{}
	}
	o.mine[c] = x
	return x.LocalAddr()
}

func (o *others) ended(c *socket.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.mine, c)
}

func (o *others) note(server netip.AddrPort, port uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.named.Add(server, port)
}

// Other returns another port of a STUN server's, which has named it in the newest answer.
func (d *Demux) Other(server netip.AddrPort) (netip.AddrPort, bool) {
	d.others.mu.Lock()
	defer d.others.mu.Unlock()
	port, ok := d.others.named.Get(server)
	return netip.AddrPortFrom(server.Addr(), port), ok
}
