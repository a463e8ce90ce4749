package quictransport

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// firstFlight is how many datagrams a dial begins with: the hello of TLS
	// with a post-quantum key is longer than one.
	firstFlight = 2
	// answerCredit is how many datagrams one that came from an address that is
	// dialled may draw: QUIC's own limit before an address is validated
	// (RFC 9000 §8.1), in datagrams.
	answerCredit = 3
	creditMax    = 64
)

// Gate decides what may be sent to an address before the peer that is meant has
// answered there. Its methods may be called by any number of goroutines.
type Gate interface {
	// Begin waits until a dial may begin with so many datagrams.
	Begin(ctx context.Context, p peer.ID, to netip.AddrPort, packets, bytes int) error
	// Pass says whether one more datagram may go.
	Pass(p peer.ID, to netip.AddrPort, n int) bool
	// Proven tells that a handshake with p was completed.
	Proven(p peer.ID, at netip.AddrPort)
}

// packetConn is what quic-go wants of a view.
type packetConn interface {
	net.PacketConn
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

// gatedConn is a view from which handshakes leave as the gate allows: what it
// holds back is like what the network lost. Only long headers to addresses that
// are being dialled are looked at: a short one goes to who has completed a
// handshake. It may be used by any number of goroutines.
type gatedConn struct {
	packetConn
	gate Gate

	mu    sync.Mutex // held to replace dials
	dials atomic.Pointer[map[netip.AddrPort]*dialling]
}

// dialling are the dials to one address that are under way.
type dialling struct {
	peer   peer.ID
	users  int          // guarded by gatedConn.mu
	credit atomic.Int32 // datagrams that are paid for
}

func newGatedConn(c packetConn, g Gate) *gatedConn {
	return &gatedConn{packetConn: c, gate: g}
}

// begin notes a dial whose first flight the gate has let through.
func (c *gatedConn) begin(p peer.ID, to netip.AddrPort) *dialling {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.clone()
	d := all[to]
	if d == nil {
		d = &dialling{peer: p}
		all[to] = d
		c.dials.Store(&all)
	}
	d.users++
	d.pay(firstFlight)
	return d
}

// end undoes begin.
func (c *gatedConn) end(d *dialling, to netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.users--; d.users > 0 {
		return
	}
	all := c.clone()
	delete(all, to)
	c.dials.Store(&all)
}

// clone copies the dials, which readers may look at. c.mu is held.
func (c *gatedConn) clone() map[netip.AddrPort]*dialling {
	out := map[netip.AddrPort]*dialling{}
	if all := c.dials.Load(); all != nil {
		for to, d := range *all {
			out[to] = d
		}
	}
	return out
}

// to returns the dials to an address, nil if there are none.
func (c *gatedConn) to(a net.Addr) (*dialling, netip.AddrPort) {
	all := c.dials.Load()
	if all == nil || len(*all) == 0 {
		return nil, netip.AddrPort{}
	}
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return nil, netip.AddrPort{}
	}
	at := u.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	return (*all)[at], at
}

// ReadFrom implements net.PacketConn.
func (c *gatedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.packetConn.ReadFrom(b)
	if err == nil {
		if d, _ := c.to(from); d != nil {
			d.pay(answerCredit)
		}
	}
	return n, from, err
}

// WriteTo implements net.PacketConn.
func (c *gatedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if len(b) > 0 && b[0]&0x80 != 0 {
		if d, at := c.to(to); d != nil && !d.spend() && !c.gate.Pass(d.peer, at, len(b)) {
			return len(b), nil
		}
	}
	return c.packetConn.WriteTo(b, to)
}

func (d *dialling) pay(n int32) {
	if d.credit.Add(n) > creditMax {
		d.credit.Store(creditMax)
	}
}

// spend takes one datagram of those that are paid for, if there is one.
func (d *dialling) spend() bool {
	for {
		n := d.credit.Load()
		if n <= 0 {
			return false
		}
		if d.credit.CompareAndSwap(n, n-1) {
			return true
		}
	}
}
