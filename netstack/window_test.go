package netstack

import (
	"io"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
)

// headerOf is what th says.
func headerOf(th header.TCP) *inner.Header {
	h := &inner.Header{Protocol: inner.TCP}
	h.ReadTransport(th)
	return h
}

// TCP sees the newest window in each segment, whatever the order in which they
// come.
func TestWindow(t *testing.T) {
	w := window{scale: 2, scaled: true}
	ack := func(seq uint32) uint32 {
		th := segmentOf(header.TCPFlagAck, 1, 100)
		th.SetSequenceNumber(seq)
		w.send(headerOf(th), th, true)
		return th.SequenceNumber()
	}
	if got := ack(0x7fff_0000); got != 0x7fff_0000 {
		t.Errorf("an acknowledgement has number %d before a window was announced", got)
	}
	for _, x := range []struct {
		what      string
		seq, ack  uint32
		size, see uint16
		end       uint32
	}{
		{"the first", 0xffff_ff00, 0xffff_fff0, 100, 100, 384},
		{"more acknowledged", 0xffff_ff00, 10, 50, 50, 210},
		{"less acknowledged, and later", 20, 0xffff_fff0, 900, 50, 210},
		{"later", 20, 10, 40, 40, 170},
		{"earlier", 0xffff_ff00, 10, 60, 40, 170},
		{"sent again, and more acknowledged", 0xffff_ff00, 11, 60, 60, 251},
		{"grown", 0xffff_ff00, 11, 70, 70, 291},
		{"overtaken by what has grown", 0xffff_ff00, 11, 65, 70, 291},
		{"closed", 0xffff_ff00, 11, 0, 0, 11},
		{"open again", 0xffff_ff00, 11, 1, 1, 15},
	} {
		th := segmentOf(header.TCPFlagAck, x.ack, x.size)
		th.SetSequenceNumber(x.seq)
		w.take(headerOf(th), th, true)
		if got := th.WindowSize(); got != x.see {
			t.Errorf("%s: TCP sees a window of %d, want %d", x.what, got, x.see)
		}
		if end := ack(x.end); end != x.end {
			t.Errorf("%s: an acknowledgement at the window's end, %d, has number %d", x.what, x.end, end)
		}
		if end := ack(x.end + 5); end != x.end {
			t.Errorf("%s: an acknowledgement beyond the window's end, %d, has number %d", x.what, x.end, end)
		}
	}
}

// What is known of a connection that is over does not hold for the next between
// the same ports.
func TestWindowOfTheNextConnection(t *testing.T) {
	s, l := listenScript(t)
	_ = l.(*listener).SetDeadline(time.Now().Add(20 * time.Second))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.c = c.(*tcpConn)
	s.close()
	s.want(flagFIN|flagACK, 1, 1, 0)
	s.send(flagFIN|flagACK, 1, 2, 0)
	s.want(flagACK, 2, 2, 0)
	s.state(tcp.StateTimeWait)
	const begin = 1 << 20
	s.window = 1000
	s.send(flagSYN, begin, 0, 0)
	th := s.next("SYN-ACK")
	for th.Flags() != flagSYN|flagACK {
		th = s.next("SYN-ACK")
	}
	s.iss = th.SequenceNumber()
	s.send(flagACK, begin+1, 1, 0)
	if c, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s.send(flagACK, begin+1, 1, 10)
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Error(err)
	}
}
