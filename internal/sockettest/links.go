// Package sockettest has ports on interfaces that a test chooses.
package sockettest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/socket"
)

// Port is the port number of what Listen opens.
const Port = 4000

// Links is a network of which nothing is known but the interfaces; nothing comes
// in on its sockets, and what they send is lost. It may be used concurrently.
type Links struct {
	transport.Net
	mu   sync.Mutex // guards list
	list []string   // "name address/bits"
}

// Listen opens a port on these interfaces, each "name address/bits", until the
// test ends.
func Listen(t *testing.T, list ...string) (*socket.Port, *Links) {
	t.Helper()
	n := &Links{list: list}
	p, err := socket.Listen(socket.Config{Net: n, Port: Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p, n
}

// Change replaces the interfaces; a port notices when it next looks.
func (n *Links) Change(list ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = list
}

// Interfaces implements transport.Net.
func (n *Links) Interfaces() ([]*transport.Interface, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*transport.Interface
	for i, s := range n.list {
		name, prefix, _ := strings.Cut(s, " ")
		p := netip.MustParsePrefix(prefix)
		t := transport.NewInterface(net.Interface{Index: i + 1, Name: name, Flags: net.FlagUp})
		t.AddAddress(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
		out = append(out, t)
	}
	return out, nil
}

// ListenUDP implements transport.Net.
func (n *Links) ListenUDP(_ string, at *net.UDPAddr) (transport.UDPConn, error) {
	if at.Port == 0 {
		at.Port = Port
	}
	return &deafConn{at: at, closed: make(chan struct{})}, nil
}

type deafConn struct {
	transport.UDPConn
	at     *net.UDPAddr
	once   sync.Once
	closed chan struct{}
}

func (c *deafConn) LocalAddr() net.Addr { return c.at }
func (c *deafConn) ReadFrom([]byte) (int, net.Addr, error) {
	<-c.closed
	return 0, nil, net.ErrClosed
}
func (c *deafConn) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
