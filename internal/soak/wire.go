package main

import (
	"bytes"
	"math/rand/v2"
	"net"
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

	percent atomic.Int32 // of the datagrams suffer
	dark    atomic.Bool  // nothing leaves
}

func newWire(t *tally) (*wire, error) {
	std, err := stdnet.NewNet()
	if err != nil {
		return nil, err
	}
	return &wire{Net: std, t: t}, nil
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
