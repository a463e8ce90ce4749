package socket

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"
	"github.com/pion/transport/v3/vnet"
)

// simulate runs f in a bubble with hosts on one simulated network, each with
// the given address.
func simulate(t *testing.T, f func(t *testing.T, nets []*vnet.Net), addrs ...string) {
	synctest.Test(t, func(t *testing.T) {
		r, err := vnet.NewRouter(&vnet.RouterConfig{CIDR: "192.0.2.0/24", LoggerFactory: logging.NewDefaultLoggerFactory()})
		if err != nil {
			t.Fatal(err)
		}
		var nets []*vnet.Net
		for _, a := range addrs {
			n, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{a}})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.AddNet(n); err != nil {
				t.Fatal(err)
			}
			nets = append(nets, n)
		}
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		f(t, nets)
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestSimulatedNetwork(t *testing.T) {
	simulate(t, func(t *testing.T, nets []*vnet.Net) {
		a, _ := listenTest(t, Config{Net: nets[0]})
		b, ch := listenTest(t, Config{Net: nets[1], Port: 4500})
		defer a.Close()
		defer b.Close()
		if n := len(b.Conns()); n != 1 || b.Number() != 4500 {
			t.Fatalf("%d sockets on port %d", n, b.Number())
		}
		if a.Number() == 0 || a.ConnFor(netip.MustParseAddr("192.0.2.3")) != a.Conns()[0] {
			t.Error("no number, or no source")
		}
		if _, err := Listen(Config{Net: nets[1], Port: 4500}); !isAddrInUse(err) {
			t.Errorf("the same number again: %v", err)
		}
		want := batch(5, 100, 9)
		if err := a.Conns()[0].WriteBatch(want, 100, b.Conns()[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		collect(t, ch, want, 100)
		if err := a.Conns()[0].WriteTo(nil, b.Conns()[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := b.Stats().Dropped["empty"]; n != 1 {
			t.Errorf("%d empty datagrams arrived, want 1", n)
		}

		v, err := b.ListenQUIC("udp4", &net.UDPAddr{IP: net.IPv4zero})
		if err != nil {
			t.Fatal(err)
		}
		first := longPacket(longInitial, 1, 8, 4, 1200)
		if err := a.Conns()[0].WriteTo(first, b.Conns()[0].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1500)
		n, from, err := v.ReadFrom(buf)
		if err != nil || n != len(first) || from.String() != a.Conns()[0].String() {
			t.Errorf("%d bytes from %v, %v", n, from, err)
		}
	}, "192.0.2.2", "192.0.2.3")
}

// movingNet is a simulated network whose host gains and loses addresses.
type movingNet struct {
	transport.Net
	mu    sync.Mutex
	addrs []string
}

func (n *movingNet) set(addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs = addrs
}

func (n *movingNet) Interfaces() ([]*transport.Interface, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := transport.NewInterface(net.Interface{Index: 1, Name: "sim0", Flags: net.FlagUp})
	for _, a := range n.addrs {
		i.AddAddress(&net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
	}
	return []*transport.Interface{i}, nil
}

func TestAddressesComeAndGo(t *testing.T) {
	simulate(t, func(t *testing.T, nets []*vnet.Net) {
		n := &movingNet{Net: nets[0], addrs: []string{"192.0.2.2"}}
		var changes atomic.Int32
		p, err := Listen(Config{Net: n, OnChange: func() { changes.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		v, err := p.ListenQUIC("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		addrs := func() (s []string) {
			for _, c := range p.Conns() {
				s = append(s, c.LocalAddr().Addr().String())
				if c.LocalAddr().Port() != p.Number() {
					t.Errorf("%v is on another port", c)
				}
			}
			return s
		}
		old := p.Conns()[0]

		n.set("192.0.2.2", "127.0.0.1") // loopback only if there is nothing else
		time.Sleep(pollInterval + time.Second)
		synctest.Wait()
		if changes.Load() != 0 {
			t.Errorf("changed to %v", addrs())
		}
		n.set("127.0.0.1")
		time.Sleep(pollInterval)
		synctest.Wait()
		if want := []string{"127.0.0.1"}; changes.Load() != 1 || !slices.Equal(addrs(), want) {
			t.Errorf("%d changes, %v", changes.Load(), addrs())
		}
		if !isDone(old.Closed()) {
			t.Error("the Conn of the lost address is open")
		}
		n.set("192.0.2.2")
		if err := p.Rescan(); err != nil { // at once
			t.Error(err)
		}
		if changes.Load() != 2 || p.Conns()[0] == old || p.ConnFor(netip.MustParseAddr("192.0.2.9")) != p.Conns()[0] {
			t.Errorf("%d changes, %v", changes.Load(), addrs())
		}
		// The view sees the new socket.
		p.Conns()[0].quic(longPacket(longInitial, 1, 8, 4, 1200), netip.MustParseAddrPort("192.0.2.9:1"))
		if v.(*view).waiting() != 1 {
			t.Error("the view does not see the new socket")
		}
		n.set()
		if err := p.Rescan(); err != nil || len(p.Conns()) != 0 {
			t.Errorf("%v, %v", err, addrs())
		}
		n.set("192.0.2.2", "192.0.2.77") // the second cannot be bound
		if err := p.Rescan(); err == nil || len(p.Conns()) != 1 {
			t.Errorf("%v, %v", err, addrs())
		}
	}, "192.0.2.2")
}

// pion's stdnet is the kernel: its sockets get the fast path.
func TestStdnetIsTheKernel(t *testing.T) {
	n, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	p, _ := listenTest(t, Config{Net: n, Addrs: []netip.Addr{lo4}})
	if _, ok := p.Conns()[0].link.(*kernelLink); !ok {
		t.Errorf("%T", p.Conns()[0].link)
	}
}
