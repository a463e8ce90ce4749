package tun

import (
	"io"
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// BenchmarkBulk is netstack's benchmark of that name, kernel above both shims,
// and one on each side.
func BenchmarkBulk(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		name := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
		b.Run("kernel-kernel/"+name, func(b *testing.B) {
			n := shimtest.NewNet()
			d, l := newHost(b, n, nil), newHost(b, n, nil)
			benchBulk(b, in{d}, in{l}, pick(b, d.Node, l.Node, v6))
		})
		b.Run("kernel-gVisor/"+name, func(b *testing.B) {
			n := shimtest.NewNet()
			d, l := newHost(b, n, nil), newStack(b, n)
			benchBulk(b, in{d}, l, pick(b, d.Node, l.Node, v6))
		})
		b.Run("gVisor-gVisor/"+name, func(b *testing.B) {
			n := shimtest.NewNet()
			d, l := newStack(b, n), newStack(b, n)
			benchBulk(b, d, l, pick(b, d.Node, l.Node, v6))
		})
	}
}

func pick(tb testing.TB, from, to *shimtest.Node, v6 bool) netip.Addr {
	a4, a6 := from.LSI(tb, to)
	if v6 {
		return a6
	}
	return a4
}

func benchBulk(b *testing.B, d, l dialer, to netip.Addr) {
	ln, err := l.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	got := make(chan int64, 1)
	go func() {
		s, err := ln.Accept()
		if err != nil {
			got <- -1
			return
		}
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{s})
		s.Close()
		got <- n
	}()
	c, err := d.DialTCP(testContext(b), "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, addrOf(ln.Addr()).Port()))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		n += int64(len(buf))
	}
	c.Close()
	if m := <-got; m != n {
		b.Errorf("%d of %d bytes arrived", m, n)
	}
}

// BenchmarkPacket is what one packet costs on its way to the kernel: its
// checksum and the write. The kernel drops it, nobody listens.
func BenchmarkPacket(b *testing.B) {
	for _, p := range []struct {
		name      string
		next      byte
		size, seg int
	}{{"UDP/64", inner.UDP, 64, 0}, {"UDP/512", inner.UDP, 512, 0}, {"UDP/1400", inner.UDP, 1400, 0}, {"TCP/run of 44", inner.TCP, 44 * 1415, 1415}} {
		b.Run(p.name, func(b *testing.B) {
			h := newHost(b, shimtest.NewNet(), nil)
			head, payload := deliverable(h, p.next, p.size)
			is := said(head)
			b.SetBytes(int64(p.size))
			b.ReportAllocs()
			for b.Loop() {
				h.Packet(is, head, payload, p.seg)
			}
		})
	}
}

func deliverable(h *host, next byte, size int) (head, payload []byte) {
	th := udpHeader(size)
	if next == inner.TCP {
		th = tcpHeader(0x10)
	}
	head = packet(false, next, th, size)
	copy(head[16:], h.v4.AsSlice())
	return head, make([]byte, size)
}

// Neither way allocates for a packet.
func TestNoAllocations(t *testing.T) {
	n := shimtest.NewNet()
	h, peer := newHost(t, n, nil), newStack(t, n)
	v4, _ := h.LSI(t, peer.Node)
	for _, next := range []byte{inner.UDP, inner.TCP} {
		head, payload := deliverable(h, next, 1200)
		is := said(head)
		if a := yardstick.Allocs(1000, func() { h.Packet(is, head, payload, 0) }); a != 0 && !raceEnabled {
			t.Errorf("protocol %d up: %v allocations", next, a)
		}
	}
	datagrams(t, in{h}, peer, v4) // the pipe is up then
	n.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
	b := append(make([]byte, vnetLen), packet(false, inner.UDP, udpHeader(1200), 1200)...)
	b = append(b, make([]byte, 1200)...)
	copy(b[vnetLen+12:], h.v4.AsSlice())
	copy(b[vnetLen+16:], v4.AsSlice())
	before := h.Shim.Stats().Out
	var pk shim.Packet
	if a := yardstick.Allocs(1000, func() { h.sent(&pk, b) }); a != 0 && !raceEnabled {
		t.Errorf("down: %v allocations", a)
	}
	if h.Shim.Stats().Out < before+1000 {
		t.Errorf("%v", h.Shim.Stats())
	}
}
