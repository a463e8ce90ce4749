package socket

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	lo4 = netip.MustParseAddr("127.0.0.1")
	lo6 = netip.MustParseAddr("::1")
)

// got is a delivery that a test port copied out of its callback.
type got struct {
	conn *Conn
	from netip.AddrPort
	b    []byte
	seg  int
	kind kind
}

// listenTest opens a port whose deliveries go to the channel.
func listenTest(t testing.TB, cfg Config) (*Port, chan got) {
	t.Helper()
	ch := make(chan got, 4096)
	cfg.OnPipe = func(c *Conn, from netip.AddrPort, b []byte, seg int) {
		ch <- got{c, from, bytes.Clone(b), seg, kindPipe}
	}
	cfg.OnSTUN = func(c *Conn, from netip.AddrPort, b []byte) {
		ch <- got{c, from, bytes.Clone(b), len(b), kindSTUN}
	}
	p, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, ch
}

func next(t testing.TB, ch chan got) got {
	t.Helper()
	select {
	case g := <-ch:
		return g
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

func filled(n int, first byte) []byte {
	b := bytes.Repeat([]byte{0xee}, n)
	b[0] = first
	return b
}

func TestOneNumberOnAllAddresses(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4, lo6, netip.MustParseAddr("127.0.0.2")}})
	conns := p.Conns()
	if len(conns) < 2 { // a host may lack IPv6
		t.Fatalf("%d sockets", len(conns))
	}
	for _, c := range conns {
		if c.LocalAddr().Port() != p.Number() || p.Number() == 0 {
			t.Errorf("%v is not on port %d", c, p.Number())
		}
		if p.ConnOn(c.LocalAddr().Addr()) != c {
			t.Errorf("ConnOn(%v) is another", c)
		}
	}
	if _, err := Listen(Config{Addrs: []netip.Addr{lo4}, Port: p.Number()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the same number again: %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("203.0.113.77")} {
		p, err := Listen(Config{Addrs: []netip.Addr{a}})
		var op *net.OpError
		if !errors.As(err, &op) {
			t.Errorf("%v: %v, want a *net.OpError", a, err)
		}
		if p != nil {
			p.Close()
		}
	}
}

func TestKindsArriveWhereTheyBelong(t *testing.T) {
	a, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	b, ch := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	to := b.Conns()[0].LocalAddr()
	for _, first := range []byte{0x04, 0x3f, 0x00, 0x80} { // the first two go nowhere
		if err := a.Conns()[0].WriteTo(filled(100, first), to); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []kind{kindSTUN, kindPipe} {
		g := next(t, ch)
		if g.kind != want || len(g.b) != 100 || g.seg != 100 || g.from != a.Conns()[0].LocalAddr() || g.conn != b.Conns()[0] {
			t.Errorf("got %+v, want kind %d", g, want)
		}
	}
	s := b.Stats()
	if s.Other != 2 || s.Dropped["unknown-kind"] != 2 || s.STUN != 1 || s.Pipe != 1 || s.Received != 400 {
		t.Errorf("stats: %+v", s)
	}
	if s := a.Stats(); s.Sent != 4 || s.SentBytes != 400 {
		t.Errorf("sender's stats: %+v", s)
	}
}

// A datagram may be empty, as with package net: it is sent like any other, alone
// and with a traffic class, and counted.
func TestEmptyDatagram(t *testing.T) {
	a, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4, lo6}})
	for _, c := range a.Conns() {
		l, err := net.ListenUDP("udp", &net.UDPAddr{IP: c.LocalAddr().Addr().AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		before := a.Stats()
		for i, send := range []func(to netip.AddrPort) error{
			func(to netip.AddrPort) error { return c.WriteTo(nil, to) },
			func(to netip.AddrPort) error { return c.WriteBatch([]byte{}, 1200, to) },
			func(to netip.AddrPort) error { return c.WriteClass(nil, 0, to, 0xb8) },
			func(to netip.AddrPort) error { return c.WriteTo([]byte("end"), to) },
		} {
			if err := send(l.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
				t.Fatalf("datagram %d on %v: %v", i, c, err)
			}
		}
		_ = l.SetReadDeadline(time.Now().Add(2 * time.Minute))
		b := make([]byte, 100)
		for i, want := range []string{"", "", "", "end"} {
			n, from, err := l.ReadFromUDPAddrPort(b)
			if err != nil || string(b[:n]) != want || from.Port() != a.Number() {
				t.Fatalf("datagram %d on %v: %q from %v, %v; want %q", i, c, b[:n], from, err, want)
			}
		}
		if s := a.Stats(); s.Sent-before.Sent != 4 || s.SentBytes-before.SentBytes != 3 {
			t.Errorf("%v: %d datagrams and %d bytes counted, want 4 and 3", c, s.Sent-before.Sent, s.SentBytes-before.SentBytes)
		}
	}
}

// collect reads runs until n bytes arrived, and checks them against want.
func collect(t *testing.T, ch chan got, want []byte, seg int) (runs int) {
	t.Helper()
	var all []byte
	for len(all) < len(want) {
		g := next(t, ch)
		if g.kind != kindPipe || g.seg > seg || len(g.b) > g.seg && g.seg != seg {
			t.Fatalf("run of %d bytes, segments of %d, want %d", len(g.b), g.seg, seg)
		}
		all = append(all, g.b...)
		runs++
	}
	if !bytes.Equal(all, want) {
		t.Fatal("bytes changed on the way")
	}
	return runs
}

// batch is n datagrams of seg bytes and one of last bytes, all for pipes.
func batch(n, seg, last int) []byte {
	var b []byte
	for i := range n {
		b = append(b, filled(seg, 0x80)...)
		b[len(b)-1] = byte(i)
	}
	if last > 0 {
		b = append(b, filled(last, 0x81)...)
	}
	return b
}

func TestWriteBatch(t *testing.T) {
	for _, addr := range []netip.Addr{lo4, lo6} {
		t.Run(addr.String(), func(t *testing.T) {
			a, _ := listenTest(t, Config{Addrs: []netip.Addr{addr}})
			b, ch := listenTest(t, Config{Addrs: []netip.Addr{addr}})
			from, to := a.Conns()[0], b.Conns()[0].LocalAddr()
			for _, x := range []struct{ n, seg, last int }{
				{1, 1200, 0}, {2, 1200, 0}, {40, 1200, 7}, {64, 1000, 0}, {200, 300, 1},
				{3, 30000, 100}, {1, 40000, 40000 - 1}, {100, 2, 0}, {54, 1200, 1199},
			} {
				want := batch(x.n, x.seg, x.last)
				if err := from.WriteBatch(want, x.seg, to); err != nil {
					t.Fatalf("%+v: %v", x, err)
				}
				runs := collect(t, ch, want, x.seg)
				t.Logf("%+v: %d runs", x, runs)
			}
			if s := b.Stats(); s.Sockets[0].GRO && s.Reads >= s.Pipe {
				t.Errorf("receive offload gains nothing: %+v", s)
			}
		})
	}
}

// A mixed run cannot come from one sender of ours, but from a stranger's GSO.
func TestMixedRun(t *testing.T) {
	p, ch := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	c := p.Conns()[0]
	from := netip.MustParseAddrPort("192.0.2.1:5")
	var run []byte
	for _, first := range []byte{0x80, 0x81, 0x00, 0x20, 0x01, 0x82} {
		run = append(run, filled(10, first)...)
	}
	run = append(run, filled(4, 0x83)...)
	c.demux(run, 10, from)
	for i, want := range []struct {
		kind kind
		n    int
	}{{kindPipe, 20}, {kindSTUN, 10}, {kindSTUN, 10}, {kindPipe, 14}} {
		if g := next(t, ch); g.kind != want.kind || len(g.b) != want.n || g.seg != 10 || g.from != from {
			t.Errorf("%d: %d bytes of kind %d in %d, want %+v", i, len(g.b), g.kind, g.seg, want)
		}
	}
	c.demux(nil, 0, from)
	s := p.Stats()
	if s.Dropped["unknown-kind"] != 1 || s.Dropped["empty"] != 1 || s.Pipe != 4 {
		t.Errorf("%+v", s)
	}
}

func TestSendErrors(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	c := p.Conns()[0]
	to := netip.AddrPortFrom(lo4, 9)
	for _, x := range []struct {
		what string
		b    []byte
		seg  int
		to   netip.AddrPort
		want error
	}{
		{"longer than UDP", make([]byte, 65508), 0, to, ErrMessageTooLong},
		{"as long as UDP", make([]byte, 65507), 0, to, nil},
		{"other family", make([]byte, 1), 0, netip.AddrPortFrom(lo6, 9), ErrFamily},
		{"mapped", make([]byte, 1), 0, netip.MustParseAddrPort("[::ffff:127.0.0.1]:9"), nil},
		{"segment longer than the batch", make([]byte, 5), 50, to, nil},
		{"nothing", nil, 0, to, nil},
	} {
		if err := c.WriteBatch(x.b, x.seg, x.to); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.what, err, x.want)
		}
	}
	if !errors.Is(ErrMessageTooLong, syscall.EMSGSIZE) {
		t.Error("ErrMessageTooLong is not EMSGSIZE")
	}
	// A closed port at the other end must not be an error of ours.
	for range 5 {
		if err := c.WriteTo([]byte{1}, to); err != nil {
			t.Error(err)
		}
	}
	p.Close()
	if err := c.WriteTo([]byte{1}, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if !isDone(c.Closed()) {
		t.Error("Closed is open")
	}
}

func TestCloseIsIdempotentAndWaits(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4}})
	v, err := p.ListenQUIC("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, _, err := v.ReadFrom(make([]byte, 10))
		read <- err
	}()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { p.Close() })
	}
	wg.Wait()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom: %v", err)
	}
	if err := p.Rescan(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Rescan: %v", err)
	}
	if _, err := p.ListenQUIC("udp4", nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ListenQUIC: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

func TestConnFor(t *testing.T) {
	p, _ := listenTest(t, Config{Addrs: []netip.Addr{lo4, netip.MustParseAddr("127.0.0.2"), lo6}})
	for remote, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.0.0.2": "127.0.0.2", "127.0.0.3": "127.0.0.1", "::ffff:127.0.0.1": "127.0.0.1",
		"203.0.113.1": "", "0.0.0.0": "", "2001:db8::1": "", "::1": "::1",
	} {
		var have string
		if c := p.ConnFor(netip.MustParseAddr(remote)); c != nil {
			have = c.LocalAddr().Addr().String()
		}
		if want == "::1" && p.ConnOn(lo6) == nil {
			continue
		}
		if have != want {
			t.Errorf("ConnFor(%s) = %q, want %q", remote, have, want)
		}
	}
	if p.ConnFor(netip.Addr{}) != nil {
		t.Error("ConnFor of no address")
	}
}

// The default set must agree with what the system would do.
func TestConnForAgreesWithTheSystem(t *testing.T) {
	p, _ := listenTest(t, Config{})
	for _, remote := range []string{"203.0.113.1", "2001:db8::1"} {
		a := netip.MustParseAddr(remote)
		src := routedSource(a)
		if p.ConnOn(src) == nil {
			t.Logf("no route to %s", remote)
			continue
		}
		if c := p.ConnFor(a); c == nil || c.LocalAddr().Addr() != src {
			t.Errorf("ConnFor(%s) = %v, the system takes %v", remote, c, src)
		}
	}
}
