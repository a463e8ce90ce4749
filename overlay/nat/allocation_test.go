package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/internal/socket"
)

// turnOverUDP runs pion's TURN server; u with password p may use it.
func turnOverUDP(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: "lab", LoggerFactory: silent,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, "p"), user == "u"
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: c, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1",
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// events are what an AllocationsConfig was called with.
type events struct {
	stun, data chan string
	changed    chan struct{}
	ended      chan *Allocation
}

func allocations(t *testing.T, p *socket.Port, servers ...string) (*Allocations, *events) {
	t.Helper()
	list, err := ParseICEServers(servers)
	if err != nil {
		t.Fatal(err)
	}
	e := &events{make(chan string, 16), make(chan string, 16), make(chan struct{}, 16), make(chan *Allocation, 16)}
	return NewAllocations(AllocationsConfig{
		Servers: list, Sockets: p,
		STUN:    func(_ *Allocation, _ netip.AddrPort, b []byte) { e.stun <- string(b) },
		Data:    func(_ *Allocation, _ netip.AddrPort, b []byte) { e.data <- string(b) },
		Changed: func() { e.changed <- struct{}{} },
		Ended:   func(a *Allocation) { e.ended <- a },
	}), e
}

// An address is there until the end, and carries what peers send: STUN and what
// may be a pipe's, nothing else, and only to whom a check has opened it.
func TestAllocations(t *testing.T) {
	t.Parallel()
	at := turnOverUDP(t)
	p := listen(t, loopback)
	as, e := allocations(t, p, fmt.Sprintf("turn:u:p@%v", at), "stun:127.0.0.1:9")
	if st := as.Status(); len(st) != 1 || st[0].Address.IsValid() || len(as.Current()) != 0 {
		t.Errorf("before Run: %+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); as.Run(ctx) }()
	<-e.changed
	current := as.Current()
	if len(current) != 1 {
		t.Fatalf("%d addresses", len(current))
	}
	a := current[0]
	if st := as.Status(); st[0].Address != a.LocalAddr() || st[0].Err != nil || st[0].Server != fmt.Sprintf("turn:%v", at) {
		t.Errorf("%+v", st)
	}
	if a.MaxDatagram() < 1200 {
		t.Errorf("datagrams of %d bytes", a.MaxDatagram())
	}
	as.NetworkChanged() // the socket is still there

	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	there := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := a.WriteBatch([]byte("abc"), 1, there); !errors.Is(err, errNoPermit) {
		t.Errorf("before a check: %v", err)
	}
	if err := a.Open([]byte("check"), there); err != nil {
		t.Fatal(err)
	}
	if err := a.Open([]byte("again"), there); err != nil {
		t.Fatal(err)
	}
	if err := a.WriteBatch([]byte("oneTWOlast"), 3, there); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	for _, want := range []string{"check", "again", "one", "TWO", "las", "t"} {
		n, from, err := peer.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != want || from != a.LocalAddr() {
			t.Errorf("%q from %v, %v; want %q", b[:n], from, err, want)
		}
	}
	for _, d := range []string{"\x00stun", "text", "", "\xc0quic", "\x80pipe", "\x03stun"} {
		if _, err := peer.WriteToUDPAddrPort([]byte(d), a.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	if x, y, z := <-e.stun, <-e.data, <-e.stun; x != "\x00stun" || y != "\x80pipe" || z != "\x03stun" {
		t.Errorf("%q, %q, %q came in", x, y, z)
	}
	if len(e.stun)+len(e.data) > 0 {
		t.Error("more than that came in")
	}
	a.mu.Lock()
	for i := range turnPeers {
		a.permitted[netip.AddrFrom4([4]byte{20, 0, 0, byte(i)})] = true
	}
	a.mu.Unlock()
	if err := a.Open([]byte("x"), netip.MustParseAddrPort("20.0.1.1:1")); !errors.Is(err, errTURNFull) {
		t.Errorf("one peer more than it takes: %v", err)
	}
	cancel()
	<-done
	if got := <-e.ended; got != a {
		t.Error("another address has ended")
	}
	if len(as.Current()) != 0 || as.Status()[0].Err == nil {
		t.Errorf("at the end: %+v", as.Status())
	}
	if err := a.WriteTo([]byte("x"), there); err == nil {
		t.Error("an address that was given back sends")
	}
}

// What keeps an address alive ends with its context, and says why: whoever is told that
// there is none is told the reason as well, whichever of the two is seen first.
func TestKeepAliveEnds(t *testing.T) {
	t.Parallel()
	why := errors.New("the node has closed")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := new(Allocation).keepAlive(ctx); !errors.Is(err, why) {
		t.Errorf("it has ended for %v", err)
	}
}

// Why there is no address is told.
func TestAllocationsFail(t *testing.T) {
	t.Parallel()
	at := turnOverUDP(t)
	p := listen(t, loopback)
	as, e := allocations(t, p, fmt.Sprintf("turn:u:wrong@%v", at), "turn:u:p@[2001:db8::1]:9")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); as.Run(ctx) }()
	for { // until both have failed once
		st := as.Status()
		if st[0].Err != nil && st[1].Err != nil {
			if !errors.Is(st[1].Err, errNoTURNRoute) || st[0].Address.IsValid() {
				t.Errorf("%+v", st)
			}
			break
		}
		select {
		case <-e.changed:
			t.Fatal("a wrong password has an address")
		case <-t.Context().Done():
			t.Fatal("no attempt has failed")
		default:
			runtime.Gosched()
		}
	}
	cancel()
	<-done
	if len(e.changed) > 0 || len(e.ended) > 0 {
		t.Error("what never was has changed or ended")
	}
}

// An address whose socket is gone is given back, and another one is asked for.
func TestAllocationsMove(t *testing.T) {
	t.Parallel()
	at := turnOverUDP(t)
	p := listen(t, loopback)
	as, e := allocations(t, p, fmt.Sprintf("turn:u:p@%v", at))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); as.Run(ctx) }()
	<-e.changed
	a := as.Current()[0]
	a.server.mu.Lock()
	a.conn = nil // none of the port's
	a.server.mu.Unlock()
	as.NetworkChanged()
	if got := <-e.ended; got != a {
		t.Error("another address has ended")
	}
	<-e.changed // it has gone
	as.NetworkChanged()
	<-e.changed // there is another
	if now := as.Current(); len(now) != 1 || now[0] == a || now[0].LocalAddr() == a.LocalAddr() {
		t.Errorf("%d addresses after a change", len(now))
	}
	cancel()
	<-done
}
