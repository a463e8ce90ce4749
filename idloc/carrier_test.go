package idloc_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/carrier"
)

// firewall is the kernel's network, which lets UDP out, or does not.
type firewall struct {
	*stdnet.Net
	blocked atomic.Bool
	lost    atomic.Int64
}

type firewalledConn struct {
	transport.UDPConn
	f *firewall
}

func newFirewall(t *testing.T) *firewall {
	t.Helper()
	std, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	return &firewall{Net: std}
}

func (f *firewall) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := f.Net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return &firewalledConn{c, f}, nil
}

func (f *firewall) drops() bool {
	if !f.blocked.Load() {
		return false
	}
	f.lost.Add(1)
	return true
}

func (c *firewalledConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.f.drops() {
		return len(b), nil
	}
	return c.UDPConn.WriteTo(b, to)
}

func (c *firewalledConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.UDPConn.ReadFrom(b)
		if err != nil || !c.f.drops() {
			return n, from, err
		}
	}
}

// behind is the Config of a node behind f, which has carriers all the same.
func behind(f *firewall) idloc.Config {
	cfg := idloc.Config{Addrs: loopback, Net: f}
	cfg.Carry(carrier.Config{})
	return cfg
}

// carriedPath waits until data to a peer takes a path of a kind.
func awaitKind(t *testing.T, n *idloc.Node, name, kind string) idloc.PathStatus {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		for _, p := range n.Status().Peers {
			for _, path := range p.Paths {
				if p.Name == name && path.Active && path.Kind == kind {
					return path
				}
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no path of kind %q to %s: %+v", kind, name, n.Status().Peers)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A node that no UDP gets in or out of joins, dials, and is dialled, over a carrier.
func TestCarrierWithoutUDP(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{Name: "earth", Addrs: loopback, Carrier: "127.0.0.1:0"})
	mars := join(t, earth, "mars", idloc.Config{Addrs: loopback})
	wall := newFirewall(t)
	wall.blocked.Store(true)
	venus := join(t, earth, "venus", behind(wall))
	st := venus.Status().Self
	if st.Carried == 0 || len(st.CarriedBy) == 0 {
		t.Errorf("no member is carried: %+v", st)
	}
	for _, to := range []*idloc.Node{earth, mars} {
		port := echo(t, to)
		c, err := dialTimeout(t, venus, "tcp", to.Name()+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c, []byte("over a carrier")); err != nil {
			t.Errorf("%s: %v", to.Name(), err)
		}
		_ = c.Close()
	}
	if p := awaitKind(t, venus, earth.Name(), "tcp"); p.Carrier == "" {
		t.Errorf("a path of kind tcp without its carrier: %+v", p)
	}
	awaitKind(t, venus, mars.Name(), "relayed")
	port := echo(t, venus)
	for _, from := range []*idloc.Node{earth, mars} {
		c, err := dialTimeout(t, from, "tcp", venus.Name()+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c, []byte("to who is carried")); err != nil {
			t.Errorf("from %s: %v", from.Name(), err)
		}
		_ = c.Close()
	}
	if wall.lost.Load() == 0 {
		t.Error("the firewall has had nothing to do")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := venus.Ping(ctx, earth.Name()); err != nil {
		t.Error(err)
	}
}
