package socket

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/vnet"
)

// quietCarrier is a Carrier that nothing comes out of.
type quietCarrier struct{ wrote atomic.Int64 }

func (*quietCarrier) Local() netip.Addr                                  { return netip.MustParseAddr("100::1") }
func (*quietCarrier) Start(func(b []byte, seg int, from netip.AddrPort)) {}
func (k *quietCarrier) Write([]byte, int, netip.AddrPort) error          { k.wrote.Add(1); return nil }
func (*quietCarrier) Close() error                                       { return nil }

// What comes out of a socket with a carrier's address as its source is forged: it
// reaches nobody, and nobody answers it over a carrier.
func TestForgedCarrier(t *testing.T) {
	simulate(t, func(t *testing.T, nets []*vnet.Net) {
		far := netip.MustParseAddrPort("[100::4000:0:0:7]:443")
		k := &quietCarrier{}
		var got atomic.Int64
		a, _ := listenTest(t, Config{Net: nets[0]})
		defer a.Close()
		b, err := Listen(Config{
			Net: forgingNet{nets[1], far}, Port: 4500, Carrier: k,
			OnPipe: func(c *Conn, from netip.AddrPort, d []byte, _ int) { got.Add(1) },
			OnSTUN: func(c *Conn, from netip.AddrPort, d []byte) { got.Add(1) },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		to := b.Conns()[0].LocalAddr()
		for _, d := range [][]byte{{0x80, 1, 2}, {0, 1, 2}, longPacket(longInitial, 1, 8, 4, 1200)} {
			if err := a.Conns()[0].WriteTo(d, to); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := b.Stats().Dropped["forged"]; n != 3 || got.Load() != 0 {
			t.Errorf("%d dropped, %d delivered", n, got.Load())
		}
		if b.HeardQUIC(far, 1<<40) {
			t.Error("a carrier was heard on a socket")
		}
		if b.ConnFor(far.Addr()) != b.Carrier() {
			t.Error("a carrier is reached by a socket")
		}
	}, "192.0.2.2", "192.0.2.3")
}

// forgingNet is a network in which all datagrams come from one address, as they say.
type forgingNet struct {
	transport.Net
	from netip.AddrPort
}

func (n forgingNet) ListenUDP(network string, at *net.UDPAddr) (transport.UDPConn, error) {
	c, err := n.Net.ListenUDP(network, at)
	return forgingConn{c, n.from}, err
}

type forgingConn struct {
	transport.UDPConn
	from netip.AddrPort
}

func (c forgingConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, _, err := c.UDPConn.ReadFrom(b)
	return n, net.UDPAddrFromAddrPort(c.from), err
}
