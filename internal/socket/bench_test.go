package socket

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

// nowhere is a bound port that nobody reads from: it swallows what is sent.
func nowhere(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// dataPath lists what carries packets; each must not allocate.
func dataPath(t testing.TB, size int) map[string]func() {
	t.Helper()
	p, err := Listen(Config{Addrs: []netip.Addr{lo4},
		OnPipe: func(*Conn, netip.AddrPort, []byte, int) {},
		OnSTUN: func(*Conn, netip.AddrPort, []byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, to := p.Conns()[0], nowhere(t)
	one, many := filled(size, 0x80), batch(16, size, 0)

	quiet := silentPort(t, "192.0.2.1", "198.51.100.1")
	v, qc := listenView(t, quiet, "udp4", ""), quiet.Conns()[0]
	from := netip.MustParseAddrPort("192.0.2.9:4444")
	var addr net.Addr = net.UDPAddrFromAddrPort(from)
	short, b := shortPacket(size), make([]byte, 1500)
	first := longPacket(longInitial, 1, 8, 4, 1200)
	stun := batch(16, size, 0)
	for i := 0; i < len(stun); i += size {
		stun[i] = 0
	}

	// Our own socket to itself: the read goroutine runs too.
	self := c.LocalAddr()
	return map[string]func(){
		"WriteTo":          func() { must(t, c.WriteTo(one, to)) },
		"WriteBatch":       func() { must(t, c.WriteBatch(many, size, to)) },
		"ReadLoop":         func() { must(t, c.WriteTo(one, self)) },
		"DemuxPipe":        func() { c.demux(many, size, from) },
		"DemuxSTUN":        func() { c.demux(stun, size, from) },
		"QUICView":         func() { view1(t, v, qc, short, b, addr, from) },
		"QUICFirstPackets": func() { first1(v, qc, first, from) },
		"ConnFor":          func() { p.ConnFor(to.Addr()) },
	}
}

// view1 sends a packet through a view and receives one.
func view1(t testing.TB, v *view, c *Conn, p, b []byte, addr net.Addr, from netip.AddrPort) {
	if _, err := v.WriteTo(p, addr); err != nil {
		t.Fatal(err)
	}
	c.quic(p, from)
	if _, _, err := v.ReadFrom(b); err != nil {
		t.Fatal(err)
	}
}

// first1 passes a first packet and gives its buffer back, as ReadFrom does.
func first1(v *view, c *Conn, p []byte, from netip.AddrPort) {
	c.quic(p, from)
	if q, ok, _ := v.take(); ok {
		quicPool.Put(q.buf)
	}
}

func must(t testing.TB, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func TestDataPathDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("pools lose what they hold under the race detector")
	}
	for name, f := range dataPath(t, 1200) {
		f()
		if n := yardstick.Allocs(500, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDataPath(b *testing.B) {
	for _, size := range []int{64, 512, 1400} {
		for _, name := range []string{"WriteTo", "WriteBatch", "DemuxPipe", "DemuxSTUN", "QUICView"} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				f := dataPath(b, size)[name]
				n := size
				if name != "WriteTo" && name != "QUICView" {
					n *= 16
				}
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}
