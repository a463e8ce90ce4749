package quictransport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/yardstick"
)

// TestIDs: IDs are different ones, known again with the same key, and by nobody who
// has another. Looking allocates nothing.
func TestIDs(t *testing.T) {
	made, err := newConnIDs(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	again, _ := newConnIDs(make([]byte, 16))
	other, _ := newConnIDs(append(make([]byte, 15), 1))
	seen := map[string]bool{}
	for range 100 {
		id, err := made.GenerateConnectionID()
		if err != nil || id.Len() != made.ConnectionIDLen() {
			t.Fatal(id, err)
		}
		b := append(id.Bytes(), "and what follows"...)
		if seen[id.String()] || !again.own(b) || other.own(b) {
			t.Errorf("%v: seen %v, known %v, known with another key %v", id, seen[id.String()], again.own(b), other.own(b))
		}
		seen[id.String()] = true
		for i := range id.Len() * 8 {
			b[i/8] ^= 1 << (i % 8)
			if again.own(b) {
				t.Errorf("%x is known, which was not made", b[:id.Len()])
			}
			b[i/8] ^= 1 << (i % 8)
		}
		if again.own(b[:id.Len()-1]) || again.own(nil) {
			t.Error("a part is known")
		}
	}
	b := make([]byte, 30)
	if n := yardstick.Allocs(100, func() { made.own(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRestart: whoever has a connection to a peer that has started again, without a
// word of its former life's end, hears from it that the connection is gone as soon as
// it sends something, though the new process was never heard by this one, nor this
// one by it.
func TestRestart(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	listen := func(number uint16) (*socket.Port, *Transport, transport.Listener) {
		t.Helper()
		port, err := socket.Listen(socket.Config{Port: number, Addrs: []netip.Addr{loopback}})
		if err != nil {
			t.Fatal(err)
		}
		tr, err := New(port, key, &network.NullResourceManager{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tr.Listen(listenAddr(t, port))
		if err != nil {
			t.Fatal(err)
		}
		return port, tr, l
	}
	ends := func(port *socket.Port, tr *Transport, l transport.Listener) {
		_ = port.Close() // first: it says nothing any more
		_ = l.Close()
		_ = tr.Close()
	}
	was, trWas, lWas := listen(0)
	number, at := was.Number(), listenAddr(t, was)
	accepted := make(chan error, 1)
	go func() {
		_, err := lWas.Accept()
		accepted <- err
	}()
	port := newPort(t, nil)
	tr, err := New(port, newKey(t), &network.NullResourceManager{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	c, err := tr.Dial(t.Context(), at, self)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	ends(was, trWas, lWas)
	now, trNow, lNow := listen(number)
	defer ends(now, trNow, lNow)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the idle timeout is three times that
	defer cancel()
	s, err := c.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(s)
	var q *quic.Conn
	if !c.(*conn).As(&q) || err == nil {
		t.Fatalf("read: %v", err)
	}
	select {
	case <-q.Context().Done():
	case <-ctx.Done():
	}
	var reset *quic.StatelessResetError
	if cause := context.Cause(q.Context()); !errors.As(cause, &reset) {
		t.Errorf("the connection has not ended by a stateless reset: read %v, cause %v", err, cause)
	}
}

// TestResetsOfAnotherAddress: who sends what it has seen of a connection to another
// address of the same peer gets no reset there that is good for it.
func TestResetsOfAnotherAddress(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.2, which only Linux has by itself")
	}
	port := newPort(t, nil, loopback.Next())
	tr, err := New(port, newKey(t), &network.NullResourceManager{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	id, err := tr.ids.GenerateConnectionID()
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	packet := append(append([]byte{0x40}, id.Bytes()...), make([]byte, 60)...)
	// reset is the token that an address answers with.
	reset := func(at netip.AddrPort) string {
		t.Helper()
		b := make([]byte, 2000)
		for range 100 {
			if _, err := pc.WriteToUDPAddrPort(packet, at); err != nil {
				t.Fatal(err)
			}
			_ = pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // one may be lost
			if n, from, err := pc.ReadFromUDPAddrPort(b); err == nil && from == at && n > 16 {
				return string(b[n-16 : n])
			}
		}
		t.Fatalf("%v does not reset", at)
		return ""
	}
	tokens := map[string]bool{}
	for _, c := range port.Conns() {
		a, err := quicreuse.ToQuicMultiaddr(net.UDPAddrFromAddrPort(c.LocalAddr()), quic.Version1)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tr.Listen(a)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		token := reset(c.LocalAddr())
		if reset(c.LocalAddr()) != token {
			t.Error("two resets of one address differ")
		}
		tokens[token] = true
	}
	if len(tokens) != 2 {
		t.Errorf("%d tokens at two addresses", len(tokens))
	}
}
