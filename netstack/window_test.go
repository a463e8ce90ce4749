package netstack

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
)

// segmentOf builds a TCP header with an acknowledgement, a window and options.
func segmentOf(flags header.TCPFlags, ack uint32, window uint16, options ...byte) header.TCP {
	for len(options)%4 != 0 {
		options = append(options, header.TCPOptionNOP)
	}
	th := make(header.TCP, header.TCPMinimumSize+len(options))
	copy(th[header.TCPMinimumSize:], options)
	th.Encode(&header.TCPFields{SrcPort: 7, DstPort: 9, AckNum: ack, DataOffset: uint8(len(th)), Flags: flags, WindowSize: window})
	return th
}

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

// A scale is that of the SYN that has said it, or not known.
func TestScales(t *testing.T) {
	var s scales
	key := func(i int) inner.Flow {
		return inner.Flow{Peer: netip.MustParseAddr("198.18.0.9"), PeerPort: uint16(i >> 16), Port: uint16(i)}
	}
	if _, ok := s.of(key(1)); ok {
		t.Error("a scale of a connection that nobody opened")
	}
	s.note(key(1), segmentOf(header.TCPFlagSyn, 0, 100)) // no option: not scaled
	if n, ok := s.of(key(1)); !ok || n != 0 {
		t.Errorf("scale %d, %v without the option", n, ok)
	}
	s.note(key(1), segmentOf(header.TCPFlagSyn, 0, 100, header.TCPOptionWS, 3, 200))
	if n, _ := s.of(key(1)); n > header.MaxWndScale {
		t.Errorf("scale %d", n)
	}
	for i := range 100_000 {
		s.note(key(i), segmentOf(header.TCPFlagSyn, 0, 100, header.TCPOptionWS, 3, byte(i%15)))
	}
	wrong := 0
	for i := range 100_000 {
		if n, ok := s.of(key(i)); ok && int(n) != i%15 {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d scales of others", wrong)
	}
}
