package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/shim/shimtest"
)

// udpPair is a listening conn on b, and one on a that is connected to it.
func (r *rig) udpPair(tb testing.TB, at netip.Addr) (c, l *udpConn) {
	tb.Helper()
	pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		tb.Fatal(err)
	}
	d, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, port(pc.LocalAddr())))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = d.Close(), pc.Close() })
	deadline := time.Now().Add(2 * time.Minute)
	_, _ = pc.SetDeadline(deadline), d.SetDeadline(deadline)
	return d.(*udpConn), pc.(*udpConn)
}

// say sends one datagram and checks that it arrives.
func say(tb testing.TB, c, l *udpConn, text string) (from netip.AddrPort) {
	tb.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	buf := make([]byte, 3000)
	n, from, err := l.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != text {
		tb.Fatalf("%q, %v; want %q", buf[:n], err, text)
	}
	return from
}

// sayPast says things until one went past gVisor at both ends: the pipe is
// there for the sender only after it took what was held for it.
func sayPast(tb testing.TB, c, l *udpConn, text string) (from netip.AddrPort) {
	tb.Helper()
	for range 10000 {
		out, in := c.s.link.udp.out.Load(), l.s.link.udp.in.Load()
		from = say(tb, c, l, text)
		if c.s.link.udp.out.Load() > out && l.s.link.udp.in.Load() > in {
			return from
		}
	}
	tb.Fatal("all datagrams went through gVisor")
	return from
}

// The first datagram is a miss and takes gVisor's way; once the pipe is
// up they do not, in either family, and nobody can tell.
func TestUDPPastGVisor(t *testing.T) {
	r := newRig(t)
	for i, at := range []netip.Addr{r.b4, r.b6} {
		c, l := r.udpPair(t, at)
		say(t, c, l, "one")
		from := sayPast(t, c, l, "two")
		if want := netip.AddrPortFrom([]netip.Addr{r.a4, r.a6}[i], port(c.LocalAddr())); from != want {
			t.Errorf("from %v, want %v", from, want)
		}
		if _, err := l.WriteToUDPAddrPort([]byte("back"), from); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "back" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if a, b := r.a.Stats(), r.b.Stats(); a.DatagramsOut < 2 || a.DatagramsIn < 1 || b.DatagramsIn < 2 {
			t.Errorf("not counted: %+v, %+v", a, b)
		}
	}
}

// Who gets a datagram: only a conn whose address, family and peer are its.
func TestUDPDemux(t *testing.T) {
	var ports udpPorts
	conn := func(local, remote string, only6 bool) *udpConn {
		l := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))
		var r *net.UDPAddr
		if remote != "" {
			r = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote))
		}
		c := &udpConn{at: boundTo(l, r, only6)}
		ports.add(c)
		return c
	}
	dual := conn("[::]:80", "", false)
	v4 := conn("0.0.0.0:81", "", false)
	v6 := conn("[::]:81", "", true)
	at := conn("198.18.0.1:82", "", false)
	open := conn("198.18.0.1:83", "", false)
	peer := conn("198.18.0.1:83", "198.18.0.2:9", false)
	for _, tt := range []struct {
		local, remote string
		want          *udpConn
	}{
		{"198.18.0.1:80", "198.18.0.2:9", dual},
		{"[2001:20::1]:80", "[2001:20::2]:9", dual},
		{"198.18.0.1:81", "198.18.0.2:9", v4},
		{"[2001:20::1]:81", "[2001:20::2]:9", v6},
		{"198.18.0.1:82", "198.18.0.2:9", at},
		{"[2001:20::1]:82", "[2001:20::2]:9", nil},
		{"198.18.0.1:83", "198.18.0.2:9", peer},
		{"198.18.0.1:83", "198.18.0.2:10", open},
		{"198.18.0.1:83", "198.18.0.3:9", open},
		{"198.18.0.1:84", "198.18.0.2:9", nil},
		{"198.18.0.1:336", "198.18.0.2:9", nil}, // 80 and 256
	} {
		if got := ports.find(netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.remote)); got != tt.want {
			t.Errorf("%s from %s: %p, want %p", tt.local, tt.remote, got, tt.want)
		}
	}
	for _, c := range []*udpConn{dual, v4, v6, at, open, peer} {
		ports.remove(c)
		if got := ports.find(c.at.local, netip.MustParseAddrPort("198.18.0.2:9")); got == c {
			t.Errorf("%v is still found", c.at.local)
		}
	}
}

// A datagram says nothing about its source but what the pipe proved: a third
// peer that knows both ports is refused, and a connected conn does not see it.
func TestUDPFromAnotherPeer(t *testing.T) {
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	from := say(t, c, l, "mine")
	if _, err := l.WriteToUDPAddrPort([]byte("ours"), from); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); string(buf[:n]) != "ours" || err != nil {
		t.Fatalf("%q, %v", buf[:n], err)
	}

	third := newNode(t, r.net, nil)
	a4, _ := third.LSI(t, r.a.Node)
	forger, err := third.DialUDP(context.Background(), "udp", netip.AddrPortFrom(third.v4, port(l.LocalAddr())), netip.AddrPortFrom(a4, port(c.LocalAddr())))
	if err != nil {
		t.Fatal(err)
	}
	defer forger.Close()
	_ = forger.SetDeadline(time.Now().Add(2 * time.Minute))
	for range 2 { // through gVisor, and past it
		if _, err := forger.Write([]byte("forged")); err != nil {
			t.Fatal(err)
		}
		if _, err := forger.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the forger's Read: %v", err)
		}
	}
	if _, err := l.WriteToUDPAddrPort([]byte("next"), from); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); string(buf[:n]) != "next" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// What nobody reads is bounded; the oldest stay and the loss is counted.
func TestUDPOverflow(t *testing.T) {
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	sayPast(t, c, l, "up")
	const room = 8
	if err := l.SetReadBuffer(room * bigDatagram); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	sent := uint64(0)
	for missed := r.b.Stats().DatagramsMissed; r.b.Stats().DatagramsMissed < missed+3; sent++ {
		if sent > 1e6 {
			t.Fatal("nothing was dropped")
		}
		binary.BigEndian.PutUint64(b, sent)
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(room) {
		n, err := l.Read(b)
		if err != nil || n != len(b) || binary.BigEndian.Uint64(b) != i {
			t.Fatalf("datagram %d: %d bytes, number %d, %v", i, n, binary.BigEndian.Uint64(b), err)
		}
	}
}

func TestQueue(t *testing.T) {
	q := queue{limit: 100 * bigDatagram}
	from := netip.MustParseAddrPort("198.18.0.2:9")
	b := make([]byte, bigDatagram)
	next := 0
	take := func(n int) {
		for range n {
			k, _, f, ok := q.pop(b)
			if want := next * 7 % bigDatagram; !ok || k != want || f != from || k > 0 && b[0] != byte(next) {
				t.Fatalf("datagram %d: %d bytes, %v, %v", next, k, f, ok)
			}
			next++
		}
	}
	put := 0
	for ; put < 90; put++ { // turns in the ring, and growth
		b[0] = byte(put)
		want := pushed
		if q.n == 0 {
			want = pushFirst
		}
		if got := q.push(from, b[:put*7%bigDatagram]); got != want {
			t.Fatalf("push %d: %d", put, got)
		}
		if put%3 == 2 {
			take(2)
		}
	}
	take(put - next)
	if _, _, _, ok := q.pop(b); ok || q.size != 0 {
		t.Errorf("something is left: %v, %d", ok, q.size)
	}
	q.setLimit(bigDatagram)
	for i, want := range []int{pushFirst, pushFull} {
		if got := q.push(from, b); got != want {
			t.Errorf("push %d of two: %d", i, got)
		}
	}
	q.close()
	if got := q.push(from, b); got != pushClosed {
		t.Errorf("push after close: %d", got)
	}
	if _, _, _, ok := q.pop(b); ok {
		t.Error("pop after close")
	}
}

// Conns close while datagrams are on their way and readers wait.
func TestUDPCloseUnderLoad(t *testing.T) {
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	sayPast(t, c, l, "up")
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() {
		b := make([]byte, 500)
		for !isClosed(stop) {
			_, _ = c.Write(b) // refused now and then
		}
	})
	at := netip.AddrPortFrom(netip.Addr{}, port(l.LocalAddr()))
	for range 20 {
		got := make(chan error, 1)
		n := make(chan struct{}, 1)
		go func() {
			b := make([]byte, 500)
			for {
				if _, err := l.Read(b); err != nil {
					got <- err
					return
				}
				nudge(n)
			}
		}()
		<-n // one arrived
		_ = l.Close()
		if err := <-got; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		pc, err := r.b.ListenUDP("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		l = pc.(*udpConn)
	}
	_ = l.Close()
}

func TestUDPNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	r := newBareRig(t) // what is kept is internal/pipe's to test
	c, l := r.udpPair(t, r.b4)
	from := sayPast(t, c, l, "up")
	r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
	b := make([]byte, 1000)
	before := r.a.link.udp.out.Load()
	if n := leastAllocs(func() { _, _ = c.Write(b) }); n >= 1 {
		t.Errorf("Write: %v allocations", n)
	}
	if r.a.link.udp.out.Load() < before+300 {
		t.Error("not past gVisor")
	}
	to := netip.AddrPortFrom(r.b.v4, port(l.LocalAddr()))
	if n := leastAllocs(func() {
		if !r.b.link.Datagram(from, to, b) {
			t.Fatal("not taken")
		}
		_, _, _ = l.ReadFromUDPAddrPort(b)
	}); n >= 1 {
		t.Errorf("Datagram and Read: %v allocations", n)
	}
}
