package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"github.com/idloc/idloc/shim/shimtest"
)

// marks are the bytes that nodes of a rig sent with a traffic class, and in how many
// batches.
type marks struct {
	mu     sync.Mutex
	of     map[mark]int
	writes map[mark]int // never taken
}

type mark struct {
	from  *shimtest.Node
	class uint8
}

func (r *rig) marks() *marks {
	m := &marks{of: map[mark]int{}, writes: map[mark]int{}}
	r.net.OnMarked(func(from *shimtest.Node, class uint8, b []byte, _ int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.of[mark{from, class}] += len(b)
		m.writes[mark{from, class}]++
	})
	return m
}

// take returns what was sent since the last take.
func (m *marks) take() map[mark]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.of
	m.of = map[mark]int{}
	return of
}

// only fails unless node sent at least n bytes of class and nobody anything of
// another.
func (m *marks) only(t *testing.T, node *node, class uint8, n int) {
	t.Helper()
	of := m.take()
	k := mark{node.Node, class}
	if of[k] < n || n > 0 && len(of) != 1 || n == 0 && len(of) != 0 {
		t.Errorf("marked: %v; want %d bytes of class %#x", of, n, class)
	}
}

// The class that a conn sets is that of the datagrams which carry its segments,
// small and large ones; the other end's have its own.
func TestTrafficClassTCP(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	m := r.marks()
	for _, at := range []netip.Addr{r.b4, r.b6} {
		c, s := r.pair(t, at)
		send := func(n int) {
			t.Helper()
			if _, err := c.Write(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		send(300_000)
		m.only(t, r.a, 0, 0)
		if err := c.SetTrafficClass(0xb8 | 3); err != nil {
			t.Fatal(err)
		}
		if class, err := c.TrafficClass(); class != 0xb8 || err != nil {
			t.Errorf("%#x, %v; want 0xb8 without the bits of ECN", class, err)
		}
		for _, n := range []int{1, 300_000} {
			send(n)
			m.only(t, r.a, 0xb8, n)
		}
		if err := c.SetTrafficClass(0); err != nil {
			t.Fatal(err)
		}
		send(300_000)
		m.only(t, r.a, 0, 0)
		refusesClasses(t, c)
	}
}

type classConn interface {
	net.Conn
	SetTrafficClass(int) error
	TrafficClass() (int, error)
}

// refusesClasses tries what is no class, and a closed conn.
func refusesClasses(t *testing.T, c classConn) {
	t.Helper()
	for _, class := range []int{-1, 256} {
		if err := c.SetTrafficClass(class); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%d: %v, want EINVAL", class, err)
		}
	}
	_ = c.Close()
	if err := c.SetTrafficClass(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := c.TrafficClass(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Datagrams have it whichever way they go: held for a pipe, past gVisor, and in
// pieces.
func TestTrafficClassUDP(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	m := r.marks()
	for _, at := range []netip.Addr{r.b4, r.b6} {
		pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := r.a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(at, port(pc.LocalAddr())))
		if err != nil {
			t.Fatal(err)
		}
		c := nc.(*udpConn)
		if err := c.SetTrafficClass(0x2e << 2); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{100, 100, 1000, 20000} {
			if _, err := c.Write(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if got, _, err := pc.ReadFrom(make([]byte, maxDatagram)); got != n || err != nil {
				t.Fatal(got, err)
			}
			m.only(t, r.a, 0xb8, n)
		}
		refusesClasses(t, c)
		_ = pc.Close()
	}
}

// Conns of several classes that send small packets in quick succession keep
// their own.
func TestTrafficClassesTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	sayPast(t, c, l, "up")
	m := r.marks()
	const each = 2000
	var wg sync.WaitGroup
	for _, class := range []int{0, 0x20, 0xb8} {
		nc, err := r.a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.LocalAddr())))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.(*udpConn).SetTrafficClass(class); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range each {
				_, _ = nc.Write([]byte{byte(class)})
			}
		})
	}
	wg.Wait()
	const size = 1 + 1 + 8 + 24 // the pipe's 25 bytes, in which the next header is, and UDP's
	want := map[mark]int{{r.a.Node, 0x20}: each * size, {r.a.Node, 0xb8}: each * size}
	got := map[mark]int{}
	eventually(t, "not all was sent with its class", func() bool {
		for k, n := range m.take() {
			got[k] += n
		}
		return got[mark{r.a.Node, 0x20}] >= want[mark{r.a.Node, 0x20}] && got[mark{r.a.Node, 0xb8}] >= want[mark{r.a.Node, 0xb8}]
	})
	for k, n := range got {
		if n != want[k] {
			t.Errorf("class %#x: %d bytes, want %d", k.class, n, want[k])
		}
	}
}

func TestTrafficClassNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	r := newRig(t)
	c, l := r.udpPair(t, r.b4)
	sayPast(t, c, l, "up")
	r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return nil })
	if err := c.SetTrafficClass(0xb8); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1000)
	if n := leastAllocs(func() { _, _ = c.Write(b) }); n >= 1 {
		t.Errorf("Write: %v allocations", n)
	}
}
