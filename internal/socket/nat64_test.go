package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	testPrefix = netip.MustParsePrefix("64:ff9b::/96")
	noRoute4   = func(to netip.Addr) netip.Addr {
		if to.Is4() {
			return netip.Addr{}
		}
		return netip.MustParseAddr("2a00:9::2")
	}
)

// wireLink is a link whose other end a test plays.
type wireLink struct {
	in   chan wireDatagram
	out  chan wireDatagram
	done chan struct{}
}

type wireDatagram struct {
	b   string
	at  netip.AddrPort
	seg int
}

func newWireLink() *wireLink {
	return &wireLink{make(chan wireDatagram, 8), make(chan wireDatagram, 8), make(chan struct{})}
}

func (l *wireLink) read(b []byte) (n, seg int, from netip.AddrPort, err error) {
	select {
	case d := <-l.in:
		n = copy(b, d.b)
		return n, d.seg, d.at, nil
	case <-l.done:
		return 0, 0, from, net.ErrClosed
	}
}

func (l *wireLink) write(b []byte, seg int, to netip.AddrPort, _ uint8) error {
	l.out <- wireDatagram{string(b), to, seg}
	return nil
}
func (l *wireLink) offloads() (gso, gro bool) { return true, true }
func (l *wireLink) port() (uint16, error)     { return 4000, nil }
func (l *wireLink) close() error              { close(l.done); return nil }

// sixOnly is a host with one IPv6 address.
func sixOnly(p *Port, l link) []*Conn {
	c := &Conn{port: p, link: l, net: netip.MustParsePrefix("2a00:9::/64"), local: netip.MustParseAddrPort("[2a00:9::2]:4000"), closed: make(chan struct{})}
	c.iface.Store(&Interface{Net: c.net, MTU: 1500})
	c.views.Store(&noViews)
	return []*Conn{c}
}

// What is sent to an IPv4 address goes to the one behind the prefix, and what comes from
// there is from the IPv4 address: all of it public ones only.
func TestTranslates(t *testing.T) {
	t.Parallel()
	type heard struct {
		c    *Conn
		from netip.AddrPort
		b    string
		seg  int
	}
	pipes := make(chan heard, 4)
	p, err := Listen(Config{
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, route: noRoute4,
		NAT64:  func(context.Context, string) ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} },
		OnPipe: func(c *Conn, from netip.AddrPort, b []byte, seg int) { pipes <- heard{c, from, string(b), seg} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	far, farWire := netip.MustParseAddrPort("200.0.0.7:443"), netip.MustParseAddrPort("[64:ff9b::c800:7]:443")
	if p.NAT64().IsValid() || p.OnWire(far.Addr()) != far.Addr() || p.Plain(farWire.Addr()) != farWire.Addr() {
		t.Error("a host without IPv6 translates")
	}
	l := newWireLink()
	six := sixOnly(p, l)
	p.prefixes.put(networkOf(six), testPrefix)
	conns, x := p.translate(six)
	if x == nil || len(conns) != 2 || !conns[1].Translated() || conns[1].Under() != six[0] || conns[0].Translated() || conns[0].Under() != six[0] {
		t.Fatalf("%v, %+v", conns, x)
	}
	if again, same := p.translate(six); same == x || len(again) != 2 {
		t.Error("what is not in use yet is taken for what is")
	}
	p.install(conns)
	p.xlat.Store(x)
	if again, same := p.translate(six); same != x || again[1] != conns[1] {
		t.Error("another one is made though nothing has changed")
	}
	four := conns[1]
	if p.NAT64() != testPrefix || p.OnWire(far.Addr()) != farWire.Addr() || p.Plain(farWire.Addr()) != far.Addr() || !p.BehindNAT64(farWire.Addr()) || p.BehindNAT64(far.Addr()) {
		t.Error("the port does not say how it translates")
	}
	if four.LinkMTU() != 1480 || four.LocalAddr().Port() != 4000 {
		t.Errorf("MTU %d, %v", four.LinkMTU(), four.LocalAddr())
	}
	for text, want := range map[string]*Conn{"200.0.0.7": four, "::ffff:200.0.0.7": four, "2a00:8::1": six[0], "10.1.2.3": nil, "100.64.0.1": nil, "127.0.0.1": nil} {
		if got := p.ConnFor(netip.MustParseAddr(text)); got != want {
			t.Errorf("to %s from %v", text, got)
		}
	}
	if !four.Reaches(far.Addr()) || four.Reaches(netip.MustParseAddr("10.1.2.3")) || six[0].Reaches(far.Addr()) {
		t.Error("what the sockets reach")
	}
	if err := four.WriteBatch([]byte("\x80one\x80two"), 4, far); err != nil {
		t.Error(err)
	} else if d := <-l.out; d != (wireDatagram{"\x80one\x80two", farWire, 4}) {
		t.Errorf("%+v is sent", d)
	}
	for _, to := range []string{"10.1.2.3:443", "127.0.0.1:443", "100.64.1.1:443", "192.0.0.170:443"} {
		if err := four.WriteTo([]byte("\x80"), netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("sent to %s: %+v", to, <-l.out)
		}
	}
	for from, want := range map[string]heard{
		farWire.String():         {four, far, "\x80three\x80four!", 6},
		"[64:ff9b::10.1.2.3]:5":  {six[0], netip.MustParseAddrPort("[64:ff9b::10.1.2.3]:5"), "\x80three\x80four!", 6},
		"[64:ff9b:0:0:1::c]:9":   {six[0], netip.MustParseAddrPort("[64:ff9b:0:0:1::c]:9"), "\x80three\x80four!", 6},
		"[2a00:8::c800:7]:65535": {six[0], netip.MustParseAddrPort("[2a00:8::c800:7]:65535"), "\x80three\x80four!", 6},
	} {
		l.in <- wireDatagram{want.b, netip.MustParseAddrPort(from), want.seg}
		if got := <-pipes; got != want {
			t.Errorf("from %s: %+v, want %+v", from, got, want)
		}
	}
}

// A host that has a way out for IPv4 asks for no prefix, nor does one without IPv6.
func TestNoTranslation(t *testing.T) {
	t.Parallel()
	asked := func(context.Context, string) ([]netip.Addr, error) { t.Error("asked"); return nil, nil }
	for _, route := range []func(netip.Addr) netip.Addr{noRoute4, func(a netip.Addr) netip.Addr { return a }} {
		p, err := Listen(Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, route: route, NAT64: asked})
		if err != nil {
			t.Fatal(err)
		}
		if conns, x := p.translate(sixOnly(p, newWireLink())); len(conns) != 1 || x != nil {
			t.Errorf("%v without a prefix", conns)
		}
		six := sixOnly(p, newWireLink())
		p.prefixes.put(networkOf(six), testPrefix)
		if conns, _ := p.translate(six); (len(conns) == 2) != !route(anywhere4).IsValid() {
			t.Errorf("%d sockets", len(conns))
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The prefix is remembered for its network, as long as the resolver does not say that
// there is none, and one that takes the host's own network in is not believed.
func TestFindPrefix(t *testing.T) {
	t.Parallel()
	var say []string
	var fail error
	p := newPort(Config{NAT64: func(context.Context, string) (out []netip.Addr, _ error) {
		for _, s := range say {
			out = append(out, netip.MustParseAddr(s))
		}
		return out, fail
	}})
	here := sixOnly(p, nil)
	there := []*Conn{{local: netip.MustParseAddrPort("[2a00:7::2]:1"), net: netip.MustParsePrefix("2a00:7::/64")}}
	for _, c := range []struct {
		what     string
		conns    []*Conn
		say      []string
		fail     error
		found    bool
		changed  bool
		have     string
		elsewere string
	}{
		{"no answer", here, nil, errors.New("time-out"), false, false, "", ""},
		{"an answer", here, []string{"64:ff9b::c000:aa"}, nil, true, true, "64:ff9b::/96", ""},
		{"the same", here, []string{"64:ff9b::c000:ab"}, nil, true, false, "64:ff9b::/96", ""},
		{"another network without one", there, nil, &net.DNSError{IsNotFound: true}, false, false, "64:ff9b::/96", ""},
		{"another network", there, []string{"2a00:64::c000:ab"}, nil, true, true, "64:ff9b::/96", "2a00:64::/96"},
		{"no answer any more", here, nil, errors.New("time-out"), true, false, "64:ff9b::/96", "2a00:64::/96"},
		{"this host's network", here, []string{"2a00:9::c000:aa"}, nil, false, true, "", "2a00:64::/96"},
		{"around this host's network", here, []string{"2a00:9:c000:aa::"}, nil, false, false, "", "2a00:64::/96"},
		{"none any more", there, nil, nil, false, true, "", ""},
	} {
		say, fail = c.say, c.fail
		found, changed := p.findPrefix(c.conns, time.Minute)
		have, elsewhere := p.prefixes.get(networkOf(here)), p.prefixes.get(networkOf(there))
		text := func(p netip.Prefix) string {
			if !p.IsValid() {
				return ""
			}
			return p.String()
		}
		if found != c.found || changed != c.changed || text(have) != c.have || text(elsewhere) != c.elsewere {
			t.Errorf("%s: %v, %v, here %v, elsewhere %v", c.what, found, changed, have, elsewhere)
		}
	}
	for i := range 10 * prefixesMax {
		p.prefixes.put(string(rune(i)), testPrefix)
	}
	if n := len(p.prefixes.of); n > prefixesMax {
		t.Errorf("%d prefixes are remembered", n)
	}
}

// The resolver is asked again when the network has changed, now and then, and soon while
// there is no prefix.
func TestPrefixIsAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var answer atomic.Pointer[[]netip.Addr]
		p := newPort(Config{route: noRoute4})
		p.cfg.NAT64 = func(context.Context, string) ([]netip.Addr, error) {
			asked.Add(1)
			if a := answer.Load(); a != nil {
				return *a, nil
			}
			return nil, &net.DNSError{IsTimeout: true}
		}
		six := sixOnly(p, newWireLink())
		p.set.Store(newConnSet(six))
		ended := make(chan struct{})
		go func() { defer close(ended); p.watchPrefix() }()
		after := func(d time.Duration) int32 {
			before := asked.Load()
			time.Sleep(d)
			synctest.Wait()
			return asked.Load() - before
		}
		if n := after(10 * time.Second); n != 4 { // after 1, 2, 4 and 8 s
			t.Errorf("asked %d times in 10 s", n)
		}
		if n := after(time.Hour); n < 59 || n > 66 {
			t.Errorf("asked %d times in an hour without an answer", n)
		}
		p.prefixes.put(networkOf(six), testPrefix)
		answer.Store(&[]netip.Addr{netip.MustParseAddr("64:ff9b::c000:aa")})
		after(prefixRetryMax)
		if n := after(time.Hour); n != 6 {
			t.Errorf("asked %d times in an hour when the prefix is known", n)
		}
		p.tellMoved()
		if n := after(time.Millisecond); n != 1 {
			t.Errorf("asked %d times when the network has changed", n)
		}
		p.end()
		close(p.done)
		<-ended
	})
}
