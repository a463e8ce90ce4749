package quictransport

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

// wireConn counts what is written, and reads what comes from one address.
type wireConn struct {
	net.PacketConn
	from net.Addr
	sent int
}

func (c *wireConn) SetReadBuffer(int) error                  { return nil }
func (c *wireConn) SetWriteBuffer(int) error                 { return nil }
func (c *wireConn) ReadFrom(b []byte) (int, net.Addr, error) { return len(b), c.from, nil }
func (c *wireConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.sent++
	return len(b), nil
}

// closedGate lets nothing through but what was paid for.
type closedGate struct{}

func (closedGate) Begin(context.Context, peer.ID, netip.AddrPort, int, int) error { return nil }
func (closedGate) Pass(peer.ID, netip.AddrPort, int) bool                         { return false }
func (closedGate) Proven(peer.ID, netip.AddrPort)                                 {}

func TestGatedConn(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:4000")
	addr, other := net.UDPAddrFromAddrPort(to), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1}
	w := &wireConn{from: addr}
	c := newGatedConn(w, closedGate{})
	long, short := make([]byte, PacketSize), make([]byte, PacketSize)
	long[0], short[0] = 0xc0, 0x40
	write := func(b []byte, to net.Addr, n int) int {
		w.sent = 0
		for range n {
			if k, err := c.WriteTo(b, to); k != len(b) || err != nil {
				t.Fatal(k, err)
			}
		}
		return w.sent
	}
	if n := write(long, addr, 9); n != 9 {
		t.Errorf("%d of 9 to who is not being dialled: it came to us", n)
	}
	d := c.begin("mars", to)
	if n := write(long, addr, 9); n != firstFlight {
		t.Errorf("%d datagrams of a dial, want the %d that are paid for", n, firstFlight)
	}
	if write(short, addr, 9) != 9 || write(long, other, 9) != 9 {
		t.Error("a connection that stands, or somebody else, is held back by a dial")
	}
	if _, _, err := c.ReadFrom(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if n := write(long, addr, 9); n != answerCredit {
		t.Errorf("%d datagrams after one came from there, want %d", n, answerCredit)
	}
	if !race.Enabled {
		b := make([]byte, 100)
		if n := yardstick.Allocs(100, func() { c.ReadFrom(b); c.WriteTo(long, addr); c.WriteTo(short, addr) }); n != 0 {
			t.Errorf("%v allocations for a datagram", n)
		}
	}
	c.end(d, to)
	if n := write(long, addr, 9); n != 9 {
		t.Errorf("%d of 9 after the dial", n)
	}
}
