package socket

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// longPacket builds a long header packet in a datagram of size bytes.
func longPacket(kind byte, version byte, dcid, scid, size int) []byte {
	b := []byte{0xc0 | kind<<4, 0, 0, 0, version, byte(dcid)}
	b = append(b, make([]byte, dcid)...)
	b = append(b, byte(scid))
	b = append(b, make([]byte, scid)...)
	for i := range scid {
		b[len(b)-1-i] = byte(i + 1)
	}
	if kind == longInitial {
		b = append(b, 0) // no token
	}
	n := max(size-len(b)-2, 0)
	b = append(b, 0x40|byte(n>>8), byte(n))
	at := len(b)
	b = append(b, make([]byte, n)...)
	if kind == longInitial && version == 1 && dcid <= maxCID && n >= 20 {
		protect(b, at)
	}
	return b
}

// protect seals a client's first Initial packet whose number, of one byte,
// stands at at; the last 16 bytes are for the tag.
func protect(b []byte, at int) {
	k, err := newInitialKeys(b[6 : 6+b[5]])
	if err != nil {
		panic(err)
	}
	n := int(b[0]&3) + 1
	pn := uint32(0)
	for _, c := range b[at : at+n] {
		pn = pn<<8 | uint32(c)
	}
	k.packet.Seal(b[at+n:at+n], k.nonce(pn), b[at+n:len(b)-16], b[:at+n])
	m := k.mask(b[at+4 : at+20])
	b[0] ^= m[0] & 0x0f
	for i := range n {
		b[at+i] ^= m[1+i]
	}
}

func shortPacket(size int) []byte { return append([]byte{0x40}, make([]byte, size-1)...) }

// silentLink is a socket that never receives and takes all that is sent.
type silentLink struct{ closed chan struct{} }

func (l silentLink) read([]byte) (int, int, netip.AddrPort, error) {
	<-l.closed
	return 0, 0, netip.AddrPort{}, net.ErrClosed
}
func (l silentLink) write([]byte, int, netip.AddrPort, uint8) error { return nil }
func (l silentLink) offloads() (gso, gro bool)                      { return false, false }
func (l silentLink) port() (uint16, error)                          { return 7, nil }
func (l silentLink) close() error                                   { close(l.closed); return nil }

// silentPort is a port with one socket per address that stays off any network.
func silentPort(t testing.TB, addrs ...string) *Port {
	t.Helper()
	p := newPort(Config{})
	p.number = 7
	var conns []*Conn
	for _, a := range addrs {
		c := &Conn{port: p, link: silentLink{make(chan struct{})}, local: netip.AddrPortFrom(netip.MustParseAddr(a), 7), closed: make(chan struct{}), id: p.connIDs.get()}
		c.net = netip.PrefixFrom(c.local.Addr(), 24)
		c.views.Store(&noViews)
		conns = append(conns, c)
	}
	p.install(conns)
	t.Cleanup(func() { p.Close() })
	return p
}

func listenView(t testing.TB, p *Port, network, addr string) *view {
	t.Helper()
	var l *net.UDPAddr
	if addr != "" {
		l = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	}
	pc, err := p.ListenQUIC(network, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc.(*view)
}

func (v *view) waiting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n
}

func TestGate(t *testing.T) {
	stranger := netip.MustParseAddrPort("192.0.2.9:4444")
	retry := append(longPacket(longRetry, 1, 8, 4, 0), make([]byte, 40)...)
	short := func(b []byte, n int) []byte { return b[:n] }
	for _, x := range []struct {
		what    string
		b       []byte
		unknown dropReason // from a stranger; dropReasons = let through
		known   dropReason // from an address that we sent to
	}{
		{"first Initial", longPacket(longInitial, 1, 8, 4, 1200), dropReasons, dropReasons},
		{"Initial with an empty source ID", longPacket(longInitial, 1, 20, 0, 1252), dropReasons, dropReasons},
		{"Initial of made-up bytes", forged(longPacket(longInitial, 1, 8, 4, 1200), 600), dropQUICForged, dropReasons},
		{"Initial with another connection ID", forged(longPacket(longInitial, 1, 8, 4, 1200), 6), dropQUICForged, dropReasons},
		{"Initial with another packet number", forged(longPacket(longInitial, 1, 8, 4, 1200), 22), dropQUICForged, dropReasons},
		{"Initial not padded", longPacket(longInitial, 1, 8, 4, 1199), dropQUICStranger, dropReasons},
		{"Initial to an ID of ours", longPacket(longInitial, 1, 4, 8, 1200), dropQUICStranger, dropReasons},
		{"Handshake", longPacket(longHandshake, 1, 8, 4, 300), dropQUICStranger, dropReasons},
		{"0-RTT", longPacket(longZeroRTT, 1, 8, 4, 1200), dropQUICStranger, dropReasons},
		{"Retry", retry, dropQUICStranger, dropReasons},
		{"version 2", longPacket(longInitial, 2, 8, 4, 1200), dropQUICVersion, dropQUICVersion},
		{"version negotiation", longPacket(longInitial, 0, 8, 4, 1200), dropQUICVersion, dropQUICVersion},
		{"connection ID too long", longPacket(longInitial, 1, 21, 4, 1200), dropQUICLength, dropQUICLength},
		{"length beyond the datagram", short(longPacket(longInitial, 1, 8, 4, 1300), 1250), dropQUICLength, dropQUICLength},
		{"longer than any QUIC packet", longPacket(longInitial, 1, 8, 4, 1600), dropQUICLength, dropQUICLength},
		{"no fixed bit", append([]byte{0x80}, longPacket(longInitial, 1, 8, 4, 1200)[1:]...), dropQUICLength, dropQUICLength},
		{"short header", shortPacket(100), dropQUICStranger, dropReasons},
		{"shortest short header", shortPacket(21), dropQUICStranger, dropReasons},
		{"too short", shortPacket(20), dropQUICLength, dropQUICLength},
	} {
		for _, known := range []bool{false, true} {
			p := silentPort(t, "192.0.2.1")
			v := listenView(t, p, "udp4", "")
			c, want := p.Conns()[0], x.unknown
			if known {
				want = x.known
				if _, err := v.WriteTo(shortPacket(30), net.UDPAddrFromAddrPort(stranger)); err != nil {
					t.Fatal(err)
				}
			}
			c.quic(x.b, stranger)
			if want == dropReasons {
				if v.waiting() != 1 {
					t.Errorf("%s (known %v): dropped: %v", x.what, known, p.Stats().Dropped)
				}
			} else if v.waiting() != 0 || c.count.dropped[want].Load() != 1 {
				t.Errorf("%s (known %v): dropped %v, want %v", x.what, known, p.Stats().Dropped, want)
			}
		}
	}
}

// forged is b with another bit at at.
func forged(b []byte, at int) []byte {
	b[at] ^= 0x10
	return b
}

func TestGateForgetsAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := silentPort(t, "192.0.2.1")
		v := listenView(t, p, "udp4", "")
		c, from := p.Conns()[0], netip.MustParseAddrPort("192.0.2.9:4444")
		c.quic(longPacket(longInitial, 1, 8, 4, 1200), from)
		time.Sleep(59 * time.Second)
		c.quic(shortPacket(50), from)
		if v.waiting() != 2 {
			t.Errorf("%d through within a minute, want 2", v.waiting())
		}
		v.WriteTo(shortPacket(30), net.UDPAddrFromAddrPort(from))
		time.Sleep(59 * time.Second)
		c.quic(shortPacket(50), from)
		if v.waiting() != 3 {
			t.Error("sending did not renew")
		}
		time.Sleep(3 * time.Second)
		c.quic(shortPacket(50), from)
		if v.waiting() != 3 || c.count.dropped[dropQUICStranger].Load() != 1 {
			t.Error("a minute did not end")
		}
	})
}

func TestInitialsAreLimitedPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := silentPort(t, "192.0.2.1")
		listenView(t, p, "udp4", "")
		c := p.Conns()[0]
		first := longPacket(longInitial, 1, 8, 4, 1200)
		for port := range uint16(limitBurst + 100) { // changing the port does not help
			c.quic(first, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), port+1))
		}
		if n := c.count.dropped[dropQUICRate].Load(); n != 100 {
			t.Errorf("%d dropped, of %d", n, limitBurst+100)
		}
		time.Sleep(time.Second)
		before := c.count.dropped[dropQUICRate].Load()
		for range 100 {
			c.quic(first, netip.MustParseAddrPort("192.0.2.9:1"))
		}
		if n := c.count.dropped[dropQUICRate].Load() - before; n != 100-limitRate {
			t.Errorf("a second later %d dropped of 100", n)
		}
	})
}

// Peers that we talk with survive a flood from made-up addresses.
func TestStrangersDoNotPushOutPeers(t *testing.T) {
	s := newSources()
	var peers []sourceKey
	var taken [sourceBuckets]int
	for i := 0; len(peers) < 200; i++ {
		k := s.key(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1))
		// One peer too many for a bucket, as chance has it with some of the
		// keys, pushes out another peer.
		if n := &taken[k%sourceBuckets]; *n < sourceWays {
			*n++
			peers = append(peers, k)
		}
	}
	for _, k := range peers {
		s.sent(k, 1, 2)
	}
	for i := range 100000 {
		s.heard(s.key(netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 1)), 3)
	}
	for i, k := range peers {
		if v, c, ok := s.find(k); !ok || v != 1 || c != 2 {
			t.Fatalf("peer %d: %d %d %v", i, v, c, ok)
		}
	}
	s.forgetConn(2)
	if v, c, ok := s.find(peers[0]); !ok || v != 1 || c != 0 {
		t.Errorf("after its socket closed: %d %d %v", v, c, ok)
	}
}

func TestOverlappingViews(t *testing.T) {
	p := silentPort(t, "192.0.2.1", "198.51.100.1")
	exact := listenView(t, p, "udp4", "192.0.2.1:0")
	wild := listenView(t, p, "udp4", "0.0.0.0:7")
	from := netip.MustParseAddrPort("192.0.2.9:4444")
	c := p.ConnOn(netip.MustParseAddr("192.0.2.1"))
	count := func() [2]int { return [2]int{exact.waiting(), wild.waiting()} }

	c.quic(longPacket(longInitial, 1, 8, 4, 1200), from) // whoever listens
	if count() != [2]int{1, 1} {
		t.Errorf("first packet: %v", count())
	}
	out := longPacket(longInitial, 1, 8, 4, 1200) // its source ID is 4 3 2 1
	wild.WriteTo(out, net.UDPAddrFromAddrPort(from))
	exact.WriteTo(shortPacket(40), net.UDPAddrFromAddrPort(from))
	in := shortPacket(40)
	copy(in[1:], []byte{4, 3, 2, 1})
	c.quic(in, from)
	if count() != [2]int{1, 2} {
		t.Errorf("short header to an ID of the wildcard view: %v", count())
	}
	c.quic(shortPacket(40), from) // an ID never seen: the view that spoke last
	if count() != [2]int{2, 2} {
		t.Errorf("short header to an unseen ID: %v", count())
	}
	exact.Close()
	c.quic(in, from)
	if wild.waiting() != 3 {
		t.Error("closing a view took the other's packets")
	}
	if _, _, err := exact.ReadFrom(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom after Close: %v", err)
	}
}

func TestListenQUICAddresses(t *testing.T) {
	p := silentPort(t, "192.0.2.1", "2001:db8::1")
	for _, x := range []struct{ network, addr, local string }{
		{"udp4", "", "0.0.0.0:7"}, {"udp4", "0.0.0.0:0", "0.0.0.0:7"}, {"udp4", "192.0.2.1:7", "192.0.2.1:7"},
		{"udp6", "", "[::]:7"}, {"udp6", "[::]:7", "[::]:7"}, {"udp6", "[2001:db8::1]:0", "[2001:db8::1]:7"},
		{"udp", "", "[::]:7"}, {"udp", "192.0.2.1:0", "192.0.2.1:7"},
		{"udp4", "192.0.2.1:8", ""}, {"udp4", "192.0.2.2:0", ""}, {"udp4", "[::1]:0", ""}, {"udp6", "192.0.2.1:0", ""}, {"tcp", "", ""},
	} {
		var l *net.UDPAddr
		if x.addr != "" {
			l = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(x.addr))
		}
		pc, err := p.ListenQUIC(x.network, l)
		var op *net.OpError
		switch {
		case x.local == "" && !errors.As(err, &op):
			t.Errorf("%s %s: %v", x.network, x.addr, err)
		case x.local != "" && (err != nil || pc.LocalAddr().String() != x.local):
			t.Errorf("%s %s: %v %v, want %s", x.network, x.addr, pc, err, x.local)
		}
		if pc != nil {
			pc.Close()
			pc.Close()
		}
	}
	// A family without a socket has a view, and no way out.
	v := listenView(t, silentPort(t, "192.0.2.1"), "udp6", "")
	if _, err := v.WriteTo(shortPacket(30), &net.UDPAddr{IP: net.ParseIP("2001:db8::9"), Port: 1}); !errors.Is(err, ErrNoSource) {
		t.Errorf("write without a socket: %v", err)
	}
}

func TestViewDropsTheOldest(t *testing.T) {
	p := silentPort(t, "192.0.2.1")
	v, c := listenView(t, p, "udp4", ""), p.Conns()[0]
	from := netip.MustParseAddrPort("192.0.2.9:4444")
	for i := range viewQueue + 10 {
		v.put(c, []byte{0x40, byte(i >> 8), byte(i)}, from)
	}
	b := make([]byte, 2) // too short: cut off
	n, a, err := v.ReadFrom(b)
	if err != nil || n != 2 || a.String() != from.String() {
		t.Fatal(n, a, err)
	}
	n, _, _ = v.ReadFrom(make([]byte, 9))
	if n != 3 || c.count.dropped[dropQueueFull].Load() != 10 || v.waiting() != viewQueue-2 {
		t.Errorf("%d bytes, %d dropped, %d waiting", n, c.count.dropped[dropQueueFull].Load(), v.waiting())
	}
}

func TestViewDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := silentPort(t, "192.0.2.1")
		v, c := listenView(t, p, "udp4", ""), p.Conns()[0]
		b := make([]byte, 100)
		v.SetDeadline(time.Now().Add(time.Second))
		start := time.Now()
		if _, _, err := v.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		synctest.Wait() // both timers
		to := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 1}
		if _, err := v.WriteTo(shortPacket(30), to); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		v.SetDeadline(time.Time{})
		if _, err := v.WriteTo(shortPacket(30), to); err != nil {
			t.Errorf("write: %v", err)
		}
		done := make(chan error, 1)
		go func() { _, _, err := v.ReadFrom(b); done <- err }()
		synctest.Wait()
		v.SetReadDeadline(time.Now().Add(-1)) // reaches a blocked reader
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		v.SetReadDeadline(time.Now().Add(time.Hour))
		go func() { _, _, err := v.ReadFrom(b); done <- err }()
		synctest.Wait()
		v.put(c, shortPacket(30), netip.MustParseAddrPort("192.0.2.9:1"))
		if err := <-done; err != nil {
			t.Error(err)
		}
		v.Close()
		if err := v.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetReadDeadline after Close: %v", err)
		}
	})
}

func FuzzParseLong(f *testing.F) {
	for k := range byte(4) {
		p := longPacket(k, 1, 8, 4, 60)
		for n := range p {
			f.Add(p[:n])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, bad := parseLong(b)
		if bad == dropReasons && (len(h.dcid) > maxCID || len(h.scid) > maxCID || b[4] != 1 || len(b) < 7+len(h.dcid)+len(h.scid)+17) {
			t.Errorf("%x: %+v", b, h)
		}
		if bad == dropReasons && h.kind == longInitial {
			opensInitial(b, h)
		}
	})
}

// A connection ID that this host has chosen lets a peer go on from another address, or
// after this host has started anew, and nobody else in.
func TestGateKnowsOwnIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the limit is one of time
		p := silentPort(t, "192.0.2.1")
		v := listenView(t, p, "udp4", "")
		c := p.Conns()[0]
		peer, moved := netip.MustParseAddrPort("192.0.2.9:4444"), netip.MustParseAddrPort("192.0.2.9:5555")
		with := func(id byte) []byte {
			b := shortPacket(60)
			copy(b[1:], []byte{id, 2, 3, 4})
			return b
		}
		if c.quic(with(1), moved); v.waiting() != 0 {
			t.Error("let through where no ID is known")
		}
		p.KnowIDs(func(b []byte) bool { return len(b) >= 4 && b[0] == 1 && b[1] == 2 })
		if c.quic(with(1), moved); v.waiting() != 1 {
			t.Fatal("an ID of this host is not let through")
		}
		if c.quic(with(7), moved); v.waiting() != 1 {
			t.Error("an ID that somebody has made up is let through")
		}
		if p.HeardQUIC(moved, time.Second) {
			t.Error("heard, though we have not sent there: it may be anybody who has seen an ID")
		}
		if _, err := v.WriteTo(shortPacket(30), net.UDPAddrFromAddrPort(peer)); err != nil {
			t.Fatal(err)
		}
		if c.quic(with(7), peer); p.HeardQUIC(peer, time.Second) {
			t.Error("heard by an ID that is not ours")
		}
		c.quic(with(1), peer)
		if !p.HeardQUIC(peer, time.Second) || p.HeardQUIC(netip.MustParseAddrPort("192.0.2.8:1"), time.Second) {
			t.Error("who was heard is wrong")
		}
		for range 2 * limitBurst {
			c.quic(with(1), moved)
		}
		if n := c.count.dropped[dropQUICStranger].Load(); n < limitBurst {
			t.Errorf("%d dropped: no limit", n)
		}
	})
}
