package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// service is a third party's, which a peer names as its candidate. It returns
// what it was told first.
func service(t *testing.T) (wire.Candidate, <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var head [2]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(head[:]))
		_, _ = io.ReadFull(c, b)
		got <- append(head[:], b...)
	}()
	return wire.Candidate{Type: wire.Host, TCP: wire.Passive, Addr: addrPort(l.Addr()),
		Priority: binary.BigEndian.Uint32([]byte("GET ")), Foundation: "QUIT"}, got
}

// TestUfragIsNoCommand: a peer of a flow names a service as its candidate and a
// command for it as its ufrag. No connection is made.
func TestUfragIsNoCommand(t *testing.T) {
	for name, ufrag := range map[string]string{
		"redis": "\r\nCONFIG SET dir /home/x/.ssh\r\nFLUSHALL\r\n", "statsd": "payments.failed:1000|c",
		"of a ufrag's length": "FLUSHALL/0000000", "none": "",
	} {
		t.Run(name, func(t *testing.T) {
			at, got := service(t)
			victim := session(t, listen(t, "127.0.0.1"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			over := towards(ctx, victim, ufrag, strings.Repeat("p", wire.PwdLen), at)
			select {
			case b := <-got:
				t.Errorf("the service was told %q", b)
			case r := <-over:
				if !errors.Is(r.err, ErrNoPair) || ctx.Err() != nil {
					t.Errorf("Run: %v", r.err)
				}
			}
		})
	}
}

func towards(ctx context.Context, s *Session, ufrag, pwd string, to wire.Candidate) <-chan result {
	ch := make(chan result, 1)
	go func() {
		c, err := s.Run(ctx, false, ufrag, pwd, []wire.Candidate{to})
		ch <- result{c, err}
	}()
	return ch
}

// TestChecksSayNothingOfThePeers: what a peer may still choose, its password
// and what its candidate says, is not in the bytes that its address is sent.
func TestChecksSayNothingOfThePeers(t *testing.T) {
	at, got := service(t)
	victim := session(t, listen(t, "127.0.0.1"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pwd := "FLUSHALL" + strings.Repeat("+", wire.PwdLen-8)
	over := towards(ctx, victim, wire.Ufrag(pwd), pwd, at)
	b := <-got
	cancel()
	<-over
	if len(b) < 20 || !bytes.Contains(b, []byte(wire.Ufrag(pwd))) {
		t.Fatalf("no check: %q", b)
	}
	for _, chosen := range []string{"FLUSH", "GET ", "QUIT"} {
		if bytes.Contains(b, []byte(chosen)) {
			t.Errorf("%q is in what was sent: %q", chosen, b)
		}
	}
}
