package quictransport

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
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
	if n := testing.AllocsPerRun(100, func() { made.own(b) }); n != 0 {
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
