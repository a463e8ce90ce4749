package quictransport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
)

// end is a Transport that listens, without a host.
type end struct {
	*Transport
	port     *socket.Port
	at       ma.Multiaddr
	accepted chan transport.CapableConn
}

func newEnd(t *testing.T, gate Gate) *end {
	t.Helper()
	e := &end{port: newPort(t, nil), accepted: make(chan transport.CapableConn, 8)}
	e.at = listenAddr(t, e.port)
	var err error
	if e.Transport, err = New(e.port, newKey(t), &network.NullResourceManager{}, nil, gate); err != nil {
		t.Fatal(err)
	}
	l, err := e.Listen(e.at)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.accepted <- c
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		_ = e.Transport.Close()
	})
	return e
}

// patient is how long a test waits for what must happen.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// pair is a connection from both sides.
func pair(t *testing.T) (dialled, accepted transport.CapableConn) {
	t.Helper()
	a, b := newEnd(t, nil), newEnd(t, nil)
	ctx := patient(t)
	x, err := a.Dial(ctx, b.at, b.self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	select {
	case y := <-b.accepted:
		t.Cleanup(func() { _ = y.Close() })
		if y.RemotePeer() != a.self || x.RemotePeer() != b.self || !y.RemoteMultiaddr().Equal(a.at) || !x.LocalMultiaddr().Equal(a.at) {
			t.Errorf("%v at %v, %v at %v", y.RemotePeer(), y.RemoteMultiaddr(), x.RemotePeer(), x.RemoteMultiaddr())
		}
		return x, y
	case <-ctx.Done():
		t.Fatal("nothing was accepted")
		return nil, nil
	}
}

// Whoever answers in somebody else's place is found out, is no connection to anybody,
// and the gate is not told that anybody has answered.
func TestSomebodyElseAnswers(t *testing.T) {
	t.Parallel()
	gate := &noting{}
	a, b := newEnd(t, gate), newEnd(t, nil)
	victim, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := a.Dial(patient(t), b.at, victim); err == nil {
		t.Errorf("a connection to %v", c.RemotePeer())
	}
	if gate.mu.Lock(); len(gate.proven) != 0 {
		t.Errorf("the gate believes in %v", gate.proven)
	}
	gate.mu.Unlock()
	c, err := a.Dial(patient(t), b.at, b.self) // the right one is reached all the same
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if gate.mu.Lock(); !slices.Equal(gate.proven, []peer.ID{b.self}) {
		t.Errorf("the gate believes in %v", gate.proven)
	}
	gate.mu.Unlock()
}

// noting is a gate that lets all pass unless it is closed.
type noting struct {
	mu     sync.Mutex // guards what follows
	closed error
	begun  int
	proven []peer.ID
}

func (g *noting) Begin(context.Context, peer.ID, netip.AddrPort, int, int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun++
	return g.closed
}

func (g *noting) Pass(peer.ID, netip.AddrPort, int) bool { return true }

func (g *noting) Proven(p peer.ID, _ netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven = append(g.proven, p)
}

// A dial that the gate forbids, that is called off or that comes after the end fails,
// and keeps nothing open.
func TestDialFails(t *testing.T) {
	t.Parallel()
	gate := &noting{closed: errors.New("too much")}
	a, b := newEnd(t, gate), newEnd(t, nil)
	if _, err := a.Dial(patient(t), b.at, b.self); !errors.Is(err, gate.closed) {
		t.Errorf("%v", err)
	}
	gate.mu.Lock()
	gate.closed = nil
	gate.mu.Unlock()
	silent, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	nobody := ma.StringCast("/ip4/127.0.0.1/udp/" + silent.LocalAddr().String()[len("127.0.0.1:"):] + "/quic-v1")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := a.Dial(ctx, nobody, b.self); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	for _, bad := range []string{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1"} {
		if _, err := a.Dial(t.Context(), ma.StringCast(bad), b.self); err == nil {
			t.Errorf("dialled %s", bad)
		}
	}
	a.mu.Lock()
	for _, e := range a.endpoints {
		if e.users != 1 { // the listener
			t.Errorf("%d use the endpoint", e.users)
		}
		if all := e.gated.dials.Load(); all != nil && len(*all) != 0 {
			t.Errorf("dials are left: %v", *all)
		}
	}
	a.mu.Unlock()
	_ = a.Transport.Close()
	if _, err := a.Dial(t.Context(), b.at, b.self); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What one side says as it resets a stream or closes a connection is what the other
// hears, as libp2p has it.
func TestEndsHaveReasons(t *testing.T) {
	t.Parallel()
	x, y := pair(t)
	ctx := patient(t)
	s, err := x.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("words")); err != nil {
		t.Fatal(err)
	}
	r, err := y.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := s.ResetWithError(77); err != nil {
		t.Fatal(err)
	}
	var se *network.StreamError
	if _, err := r.Read(make([]byte, 1)); !errors.As(err, &se) || se.ErrorCode != 77 || !se.Remote {
		t.Errorf("reading what was reset: %v", err)
	}
	if _, err := s.Write([]byte("more")); !errors.As(err, &se) || se.Remote {
		t.Errorf("writing what was reset: %v", err)
	}
	if err := x.CloseWithError(88); err != nil {
		t.Fatal(err)
	}
	var ce *network.ConnError
	if _, err := y.AcceptStream(); !errors.As(err, &ce) || ce.ErrorCode != 88 || !ce.Remote {
		t.Errorf("accepting: %v", err)
	}
	var closed *quic.Conn
	if !y.As(&closed) {
		t.Fatal("not QUIC's connection")
	}
	select { // it is over a moment after its streams are
	case <-closed.Context().Done():
	case <-ctx.Done():
	}
	if !y.IsClosed() {
		t.Error("it goes on at the other side")
	}
	if _, err := x.OpenStream(ctx); !errors.As(err, &ce) || ce.Remote {
		t.Errorf("opening: %v", err)
	}
	var q *quic.Conn
	if !x.As(&q) || q == nil || x.As(new(string)) {
		t.Error("not QUIC's connection, or a string")
	}
}

// A half of a stream that was closed is the end of what is read, and the other half
// goes on.
func TestHalves(t *testing.T) {
	t.Parallel()
	x, y := pair(t)
	s, err := x.OpenStream(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r, err := y.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "question" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := r.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(s); err != nil || string(b) != "answer" {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.CloseRead(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := x.OpenStream(ctx); err == nil { // there is room for streams: it need not wait
		_ = s.Reset()
	}
}

// Codes that libp2p cannot say are one that says so; other errors stay what they are.
func TestErrorCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code quic.StreamErrorCode
		want network.StreamErrorCode
	}{
		{0, 0}, {1<<32 - 1, 1<<32 - 1}, {1 << 32, network.StreamCodeOutOfRange}, {1<<62 - 1, network.StreamCodeOutOfRange},
	} {
		var se *network.StreamError
		if err := libp2pError(&quic.StreamError{ErrorCode: c.code, Remote: true}); !errors.As(err, &se) || se.ErrorCode != c.want || !se.Remote {
			t.Errorf("stream, %d: %v", c.code, err)
		}
	}
	for _, c := range []struct {
		code quic.ApplicationErrorCode
		want network.ConnErrorCode
	}{
		{0, 0}, {1<<32 - 1, 1<<32 - 1}, {1 << 32, network.ConnCodeOutOfRange},
	} {
		var ce *network.ConnError
		if err := libp2pError(&quic.ApplicationError{ErrorCode: c.code}); !errors.As(err, &ce) || ce.ErrorCode != c.want || ce.Remote {
			t.Errorf("connection, %d: %v", c.code, err)
		}
	}
	if libp2pError(nil) != nil || libp2pError(io.EOF) != io.EOF {
		t.Error("another error is not what it was")
	}
}

// Dials to one address share what is paid for, which has a bound, and end one by one.
func TestDialsAtOnce(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("192.0.2.1:4000")
	c := newGatedConn(&wireConn{from: net.UDPAddrFromAddrPort(at)}, closedGate{})
	first := c.begin("mars", at)
	if second := c.begin("mars", at); second != first {
		t.Fatal("two accounts for one address")
	}
	if n := first.credit.Load(); n != 2*firstFlight {
		t.Errorf("%d datagrams are paid for", n)
	}
	for range 3 * creditMax {
		if _, _, err := c.ReadFrom(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if n := first.credit.Load(); n != creditMax {
		t.Errorf("%d datagrams are paid for, at most %d", n, creditMax)
	}
	c.end(first, at)
	if d, _ := c.to(net.UDPAddrFromAddrPort(at)); d != first {
		t.Error("the first end ends both")
	}
	c.end(first, at)
	if d, _ := c.to(net.UDPAddrFromAddrPort(at)); d != nil {
		t.Error("something is left")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			to := netip.AddrPortFrom(at.Addr(), uint16(4000+i%3))
			for range 200 {
				d := c.begin("mars", to)
				if now, _ := c.to(net.UDPAddrFromAddrPort(to)); now == nil || now.peer != "mars" {
					t.Error("a dial is not noted")
				} else {
					now.spend()
				}
				c.end(d, to)
			}
		})
	}
	wg.Wait()
	if all := c.dials.Load(); len(*all) != 0 {
		t.Errorf("%d dials are left", len(*all))
	}
}
