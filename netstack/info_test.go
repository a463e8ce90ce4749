package netstack

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim/shimtest"
)

// No buffer has a size that stops the bytes, or no bound.
func TestBufferSizes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c, _ := r.pair(t, r.b4)
	for _, size := range []int{-1 << 31, -1, 0, 1, 1<<31 - 1} {
		if err := errors.Join(c.SetReadBuffer(size), c.SetWriteBuffer(size)); err != nil {
			t.Fatal(err)
		}
		o := c.ep.SocketOptions()
		if n := o.GetReceiveBufferSize(); n < tcpBufferMin || n > tcpReceiveMax {
			t.Errorf("SetReadBuffer(%d) gave %d", size, n)
		}
		if n := o.GetSendBufferSize(); n < tcpBufferMin || n > tcpBufferMax {
			t.Errorf("SetWriteBuffer(%d) gave %d", size, n)
		}
	}
}

// Info counts what was sent again, and tells the threshold that a loss sets.
func TestInfoOfLosses(t *testing.T) {
	t.Parallel()
	r := newBareRig(t)
	c, s := r.pair(t, r.b4)
	if info, err := c.Info(); err != nil || info.Retransmits != 0 || info.SlowStartThreshold != 0 || info.State != "ESTABLISHED" {
		t.Errorf("at first: %+v, %v", info, err)
	}
	// Batches of data, not probes of the pipe's: the third, and one in forty.
	var large atomic.Int32
	r.net.SetFilter(func(from, _ *shimtest.Node, b []byte, _ int) []byte {
		if from == r.a.Node && len(b) > 1000 && b[0] != wire.TypeCtrl {
			if n := large.Add(1); n == 3 || n%40 == 0 {
				return nil
			}
		}
		return b
	})
	go func() { _, _ = c.Write(make([]byte, 500_000)) }()
	got, err := io.ReadFull(s, make([]byte, 500_000))
	if err != nil {
		t.Fatal(got, err)
	}
	info, err := c.Info()
	if err != nil || info.Retransmits == 0 || info.SlowStartThreshold == 0 || info.BytesWritten != 500_000 || info.RTT == 0 || info.PathRTT < 0 {
		t.Errorf("after a loss: %+v, %v", info, err)
	}
	if info, err := s.Info(); err != nil || info.BytesReceived != 500_000 {
		t.Errorf("at the reader: %+v, %v", info, err)
	}
	_ = c.Close()
	if _, err := c.Info(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
