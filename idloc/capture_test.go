package idloc_test

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"
)

// recorder is the kernel's network with a copy of every datagram sent.
type recorder struct {
	*stdnet.Net
	mu    sync.Mutex // guards grams
	grams [][]byte
}

type recordedConn struct {
	transport.UDPConn
	r *recorder
}

func (r *recorder) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := r.Net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return &recordedConn{c, r}, nil
}

func (r *recorder) add(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grams = append(r.grams, bytes.Clone(b))
}

func (r *recorder) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.grams
	r.grams = nil
	return g
}

func (c *recordedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.r.add(b)
	return c.UDPConn.WriteTo(b, to)
}

func (c *recordedConn) WriteToUDP(b []byte, to *net.UDPAddr) (int, error) {
	c.r.add(b)
	return c.UDPConn.WriteToUDP(b, to)
}

// What leaves venus holds nothing readable, and a pipe datagram is 25 bytes
// longer than the transport segment in it (8 clear, 1 next header, 16 tag).
func TestNothingReadableOnTheWire(t *testing.T) {
	t.Parallel()
	std, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	wire := &recorder{Net: std}
	earth := found(t, directly) // a relayed datagram is longer
	mars := join(t, earth, "mars", directly)
	cfg := directly
	cfg.Net = wire
	venus := join(t, earth, "venus", cfg)
	port := echo(t, mars)
	secret := []byte("the plaintext that no one on the path may read, 0123456789")
	tcp, err := dialTimeout(t, venus, "tcp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if err := roundTrip(tcp, secret); err != nil {
		t.Fatal(err)
	}
	udp, err := dialTimeout(t, venus, "udp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	const udpHeader, overhead = 8, 25
	sizes := map[int]int{}
	for _, n := range []int{700, 803, 911} {
		if err := roundTrip(udp, bytes.Repeat(secret, 20)[:n]); err != nil {
			t.Fatal(err)
		}
		sizes[udpHeader+n+overhead] = n
	}
	pipe := 0
	for _, g := range wire.take() {
		if bytes.Contains(g, secret[:16]) || bytes.Contains(g, []byte("mars.example.com")) {
			t.Fatalf("plaintext on the wire: %q", g)
		}
		if len(g) > 0 && g[0]&0xC0 == 0x80 {
			pipe++
			delete(sizes, len(g))
		}
	}
	if pipe == 0 {
		t.Fatal("no pipe datagram was recorded")
	}
	for _, n := range sizes {
		t.Errorf("no pipe datagram of %d+%d+%d bytes was seen", udpHeader, n, overhead)
	}
}
