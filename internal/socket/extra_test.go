package socket

import (
	"net"
	"net/netip"
	"testing"
)

// An extra socket has a number of its own, is none of Conns, hands out what comes in, and
// ends with who has opened it, with the address, and with the port.
func TestExtra(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParseAddr("127.0.0.1")
	got := make(chan *Conn, 1)
	p, err := Listen(Config{Addrs: []netip.Addr{loopback}, OnSTUN: func(c *Conn, _ netip.AddrPort, b []byte) { got <- c }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	out, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	heard := func(c *Conn) {
		t.Helper()
		if _, err := out.WriteToUDPAddrPort([]byte{0}, c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if at := <-got; at != c {
			t.Errorf("a datagram for %v came to %v", c, at)
		}
	}
	x, err := p.OpenExtra(loopback)
	if err != nil {
		t.Fatal(err)
	}
	heard(x)
	if x.LocalAddr().Port() == p.Number() || len(p.Conns()) != 1 || p.ConnOn(loopback) == x {
		t.Errorf("it is %v beside %v", x, p.Conns())
	}
	ended := make(chan struct{})
	if !p.Keep(x, func() { close(ended) }) || p.Keep(x, func() { t.Error("kept twice") }) {
		t.Error("it is kept once")
	}
	p.CloseExtra(x)
	before := p.Stats().STUN
	heard(x) // it was kept
	if n := p.Stats().STUN - before; n != 1 {
		t.Errorf("%d datagrams were counted", n)
	}
	big := make([]byte, 9000)
	for range 2 { // its buffer is as long as that of any other now
		if _, err := out.WriteToUDPAddrPort(big, x.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		<-got
	}
	y, err := p.OpenExtra(loopback)
	if err != nil {
		t.Fatal(err)
	}
	p.CloseExtra(y)
	<-y.Closed()
	if _, err := p.OpenExtra(netip.MustParseAddr("127.0.0.2")); err == nil {
		t.Error("one on an address that the port does not have")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	<-x.Closed()
	if _, err := p.OpenExtra(loopback); err == nil {
		t.Error("one of a closed port")
	}
}

// There are bounds for those that are open and for those that are kept.
func TestExtraIsBounded(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParseAddr("127.0.0.1")
	p, err := Listen(Config{Addrs: []netip.Addr{loopback}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	var all []*Conn
	kept := 0
	for range extraMost {
		x, err := p.OpenExtra(loopback)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
		if p.Keep(x, func() {}) {
			kept++
		}
	}
	if _, err := p.OpenExtra(loopback); err == nil || kept != keptMost {
		t.Errorf("one more: %v; %d are kept", err, kept)
	}
	for _, x := range all {
		p.CloseExtra(x)
	}
	if x, err := p.OpenExtra(loopback); err != nil {
		t.Errorf("after all others were closed: %v", err)
	} else {
		p.CloseExtra(x)
	}
}
