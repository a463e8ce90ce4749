package socket

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// fakeCarrier is a Carrier whose far ends a test plays.
type fakeCarrier struct {
	mu      sync.Mutex
	deliver func(b []byte, seg int, from netip.AddrPort)
	sent    [][]byte
	to      []netip.AddrPort
	closed  bool
	err     error
}

func (k *fakeCarrier) Local() netip.Addr { return netip.MustParseAddr("100::1") }
func (k *fakeCarrier) Start(d func(b []byte, seg int, from netip.AddrPort)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deliver = d
}
func (k *fakeCarrier) Write(b []byte, seg int, to netip.AddrPort) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent, k.to = append(k.sent, append([]byte(nil), b...)), append(k.to, to)
	return k.err
}
func (k *fakeCarrier) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// What comes by a carrier is sorted as from a socket, and what is for its addresses goes
// there and nowhere else.
func TestCarrier(t *testing.T) {
	t.Parallel()
	type heard struct {
		c    *Conn
		from netip.AddrPort
		b    string
	}
	pipes, stuns := make(chan heard, 4), make(chan heard, 4)
	k := &fakeCarrier{}
	long := errors.New("too long")
	p, err := Listen(Config{
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Carrier: k, CarrierTooLong: long,
		OnPipe: func(c *Conn, from netip.AddrPort, b []byte, _ int) { pipes <- heard{c, from, string(b)} },
		OnSTUN: func(c *Conn, from netip.AddrPort, b []byte) { stuns <- heard{c, from, string(b)} },
	})
	if err != nil {
		t.Fatal(err)
	}
	c, far := p.Carrier(), netip.MustParseAddrPort("[100::4000:0:0:1]:443")
	if c == nil || !c.Carried() || c.LocalAddr() != netip.AddrPortFrom(k.Local(), p.Number()) {
		t.Fatalf("the Conn of carriers is %v", c)
	}
	for _, s := range p.Conns() {
		if s == c || s.Carried() || s.Reaches(far.Addr()) {
			t.Errorf("%v reaches carriers", s)
		}
	}
	if p.ConnFor(far.Addr()) != c || p.ConnOn(k.Local()) != c || c.Reaches(netip.MustParseAddr("2001:db8::1")) || !c.Reaches(far.Addr()) {
		t.Error("carriers are reached from elsewhere, or reach elsewhere")
	}
	k.deliver([]byte("\x80data"), 5, far)
	k.deliver([]byte{0, 1, 2}, 3, far)
	if got := <-pipes; got != (heard{c, far, "\x80data"}) {
		t.Errorf("a pipe's: %v", got)
	}
	if got := <-stuns; got != (heard{c, far, "\x00\x01\x02"}) {
		t.Errorf("STUN: %v", got)
	}
	if err := c.WriteTo([]byte("there"), far); err != nil {
		t.Error(err)
	}
	k.mu.Lock()
	if len(k.sent) != 1 || string(k.sent[0]) != "there" || k.to[0] != far {
		t.Errorf("sent %q to %v", k.sent, k.to)
	}
	k.err = long
	k.mu.Unlock()
	if err := c.WriteTo([]byte("x"), far); err != ErrMessageTooLong {
		t.Errorf("too long: %v", err)
	}
	if err := p.Rescan(); err != nil || p.Carrier() != c || p.ConnFor(far.Addr()) != c {
		t.Errorf("after Rescan: %v, %v", p.Carrier(), err)
	}
	if err := p.Close(); err != nil || !k.closed {
		t.Errorf("closing: %v, %v", err, k.closed)
	}
	if err := c.WriteTo([]byte("x"), far); !errors.Is(err, net.ErrClosed) && err != ErrMessageTooLong {
		t.Errorf("after Close: %v", err)
	}
}

// QUIC runs over carriers as over sockets.
func TestCarrierQUIC(t *testing.T) {
	t.Parallel()
	k := &fakeCarrier{}
	p, err := Listen(Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Carrier: k})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	v, err := p.ListenQUIC("udp6", net.UDPAddrFromAddrPort(p.Carrier().LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	far := netip.MustParseAddrPort("[100::8000:0:0:1]:443")
	if _, err := v.WriteTo([]byte("\x40short, to who is spoken with"), net.UDPAddrFromAddrPort(far)); err != nil {
		t.Fatal(err)
	}
	answer := append([]byte{0x40}, make([]byte, 40)...)
	k.deliver(answer, len(answer), far)
	if err := v.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := v.ReadFrom(b)
	if err != nil || n != len(answer) || from.(*net.UDPAddr).AddrPort() != far {
		t.Errorf("%d bytes from %v, %v", n, from, err)
	}
}
