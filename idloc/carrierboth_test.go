package idloc_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/idloc/idloc/idloc"
)

// freePort is a TCP port of loopback that nobody listens on. It is none of those that
// systems give to who asks for any: another test would have it while a node restarts.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// Two members that one carries reach each other through it, and so they do when it has
// been away. They find it by a name.
func TestCarriedBoth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := freePort(t)
	cfg := idloc.Config{Name: "earth", Dir: dir, Addrs: loopback, Carrier: fmt.Sprintf("127.0.0.1:%d", port), Reached: []string{fmt.Sprintf("tls://localhost:%d", port), fmt.Sprintf("tls://127.0.0.1:%d", port)}}
	earth := found(t, cfg)
	var nodes []*idloc.Node
	for _, name := range []string{"mars", "venus"} {
		wall := newFirewall(t)
		wall.blocked.Store(true)
		nodes = append(nodes, join(t, earth, name, behind(wall)))
	}
	mars, venus := nodes[0], nodes[1]
	p := echo(t, venus)
	try := func(what string) {
		c, err := dialTimeout(t, mars, "tcp", "venus:"+p)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := roundTrip(c, []byte("both carried")); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = c.Close()
	}
	try("at first")
	awaitKind(t, mars, venus.Name(), "relayed")
	if err := earth.Close(); err != nil {
		t.Fatal(err)
	}
	earth, err := idloc.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = earth.Close() })
	try("after a restart")
	for _, n := range nodes { // before who carries for them: an acknowledgement may be on its way
		if err := n.Close(); err != nil {
			t.Errorf("closing %s: %v", n.Name(), err)
		}
	}
}

// A Config.Carrier that is no address is told by the field's name.
func TestCarrierAddress(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"nonsense", "1.2.3.4", ":99999", "tcp://:443", "::1:443", "[::1]", ":", "host:-1"} {
		n, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", Addrs: loopback, Carrier: s})
		if err == nil {
			_ = n.Close()
			t.Errorf("%q is taken", s)
			continue
		}
		var wrong *idloc.ConfigError
		if !errors.As(err, &wrong) || wrong.Field != "Carrier" {
			t.Errorf("%q: %v", s, err)
		}
	}
}
