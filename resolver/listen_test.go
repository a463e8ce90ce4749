package resolver

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// A port that is free for TCP and taken for UDP is not the end when any port
// would do, and is said to be taken when it was asked for.
func TestListen(t *testing.T) {
	t.Parallel()
	var taken []net.PacketConn
	defer func() {
		for _, pc := range taken {
			pc.Close()
		}
	}()
	first := func(network, address string) (net.PacketConn, error) { // somebody is faster, twice
		if len(taken) < 2 {
			pc, err := net.ListenPacket(network, address)
			if err != nil {
				return nil, err
			}
			taken = append(taken, pc)
		}
		return net.ListenPacket(network, address)
	}
	pc, l, err := listen("127.0.0.1:0", first)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer pc.Close()
	if pc.LocalAddr().String() != l.Addr().String() {
		t.Errorf("UDP at %v, TCP at %v", pc.LocalAddr(), l.Addr())
	}
	if len(taken) != 2 {
		t.Errorf("%d ports were taken, want 2", len(taken))
	}
	if _, _, err := Listen(taken[0].LocalAddr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a taken port: %v, want EADDRINUSE", err)
	}
	for _, bad := range []string{"", "127.0.0.1", "127.0.0.1:x"} {
		if _, _, err := Listen(bad); err == nil {
			t.Errorf("listens on %q", bad)
		}
	}
	full := errors.New("no socket")
	asked := 0
	_, _, err = listen("127.0.0.1:0", func(string, string) (net.PacketConn, error) { asked++; return nil, full })
	if !errors.Is(err, full) || asked != maxPorts {
		t.Errorf("after %d ports: %v, want %d and %v", asked, err, maxPorts, full)
	}
}
