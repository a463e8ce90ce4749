package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"
)

// wire is the kernel's network as one node sees it, with faults in what the
// node sends. It may be used concurrently.
type wire struct {
	*stdnet.Net
	t *tally

	addrs []netip.Addr // those that the node has, one after the other

	at      atomic.Int32 // which of them it has now
	percent atomic.Int32 // of the datagrams suffer
	dark    atomic.Bool  // nothing leaves
}

// newWire makes the wire of the i-th node.
func newWire(t *tally, i int) (*wire, error) {
	std, err := stdnet.NewNet()
	if err != nil {
		return nil, err
	}
	w := &wire{Net: std, t: t, addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	if runtime.GOOS == "linux" {
		w.addrs = nil
		for j := range 8 {
			w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{127, 1, byte(i), byte(1 + j)}))
		}
	}
	return w, nil
}

// move takes the node's address away and gives it another.
func (w *wire) move() { w.at.Store((w.at.Load() + 1) % int32(len(w.addrs))) }

// Interfaces implements transport.Net: one, with the address of now.
func (w *wire) Interfaces() ([]*transport.Interface, error) {
	i := transport.NewInterface(net.Interface{Index: 1, Name: "soak0", MTU: 1500, Flags: net.FlagUp})
	i.AddAddress(&net.IPNet{IP: w.addrs[w.at.Load()].AsSlice(), Mask: net.CIDRMask(32, 32)})
	return []*transport.Interface{i}, nil
}

// ListenUDP implements transport.Net.
func (w *wire) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := w.Net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	return &wireConn{c, w}, nil
}

type wireConn struct {
	transport.UDPConn
	w *wire
}

func (c *wireConn) WriteTo(b []byte, to net.Addr) (int, error) {
	return c.send(b, func(b []byte) (int, error) { return c.UDPConn.WriteTo(b, to) })
}

func (c *wireConn) WriteToUDP(b []byte, to *net.UDPAddr) (int, error) {
	return c.send(b, func(b []byte) (int, error) { return c.UDPConn.WriteToUDP(b, to) })
}

func (c *wireConn) send(b []byte, write func([]byte) (int, error)) (int, error) {
	w := c.w
	if w.dark.Load() {
		w.t.wireLost.Add(1)
		return len(b), nil
	}
	if len(b) == 0 || rand.Int32N(100) >= w.percent.Load() {
		return write(b)
	}
	switch rand.IntN(5) {
	case 0:
		w.t.wireDoubled.Add(1)
		_, _ = write(b)
		return write(b)
	case 1:
		w.t.wireChanged.Add(1)
		bad := bytes.Clone(b)
		bad[rand.IntN(len(bad))] ^= 1 << rand.IntN(8)
		return write(bad)
	case 2:
		w.t.wireLate.Add(1)
		late := bytes.Clone(b)
		time.AfterFunc(time.Duration(1+rand.IntN(50))*time.Millisecond, func() { _, _ = write(late) })
	default:
		w.t.wireLost.Add(1)
	}
	return len(b), nil
}
