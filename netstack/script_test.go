package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
)

// script is a peer whose segments a test writes down one by one, as packetdrill
// does: no TCP of its own, no timers. Numbers are relative to the initial ones;
// the SYN of each side is number 0.
type script struct {
	t    *testing.T
	r    *rig
	in   chan header.TCP // what the stack at b has sent
	port uint16          // b's
	iss  uint32          // b's
	c    *tcpConn        // b's conn, if it was accepted

	window uint16
	wanted []string // segments that want has seen
}

const (
	scriptPort = 4711
	scriptISS  = 1_000_000
)

// Flags of segments as scripts have them.
const (
	flagSYN = header.TCPFlagSyn
	flagFIN = header.TCPFlagFin
	flagRST = header.TCPFlagRst
	flagACK = header.TCPFlagAck
)

// Deliver implements shim.Upper.
func (s *script) Deliver(_ *inner.Header, b buffer.Buffer) {
	flat := b.Flatten()
	b.Release()
	s.in <- header.TCP(flat[header.IPv4MinimumSize:])
}

// newScript opens a connection to a listener of b and accepts it.
func newScript(t *testing.T) *script {
	t.Helper()
	s, l := listenScript(t)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s.c = c.(*tcpConn)
	t.Cleanup(func() { _ = s.c.SetLinger(0); s.c.Close() })
	return s
}

// listenScript opens a connection that nobody has accepted.
func listenScript(t *testing.T) (*script, net.Listener) {
	t.Helper()
	r := newRig(t)
	s := &script{t: t, r: r, in: make(chan header.TCP, 1000), window: 65535}
	r.a.Shim.Attach(s)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.port = port(l.Addr())
	s.send(flagSYN, 0, 0, 0)
	th := s.next("SYN-ACK")
	if th.Flags() != flagSYN|flagACK {
		t.Fatalf("%v instead of a SYN-ACK", th.Flags())
	}
	s.iss = th.SequenceNumber()
	s.send(flagACK, 1, 1, 0)
	return s, l
}

// send has a segment arrive at b.
func (s *script) send(flags header.TCPFlags, seq, ackNo uint32, payload int) {
	th := make(header.TCP, header.TCPMinimumSize)
	th.Encode(&header.TCPFields{
		SrcPort: scriptPort, DstPort: s.port, SeqNum: scriptISS + seq, AckNum: s.iss + ackNo,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: s.window,
	})
	if flags&flagACK == 0 {
		th.SetAckNumber(0)
	}
	b := append(ipHeader(false, byte(header.TCPProtocolNumber), len(th)+payload, s.r.a4, s.r.b.v4), th...)
	deliver(s.r.b.link, buffer.MakeWithData(append(b, make([]byte, payload)...)))
}

func (s *script) next(what string) header.TCP {
	s.t.Helper()
	select {
	case th := <-s.in:
		return th
	case <-time.After(20 * time.Second):
		s.t.Fatalf("no %s", what)
	}
	return nil
}

// want wants a segment next, in one piece or in several, but for ones that were sent
// before: the latter two are what time does to a script whose machine is busy.
func (s *script) want(flags header.TCPFlags, seq, ackNo uint32, payload int) {
	s.t.Helper()
	what := fmt.Sprintf("%v seq %d ack %d, %d bytes", flags, seq, ackNo, payload)
	for range 20 {
		th := s.next(what)
		n := len(th) - int(th.DataOffset())
		got := fmt.Sprintf("%v seq %d ack %d, %d bytes", th.Flags()&^header.TCPFlagPsh, th.SequenceNumber()-s.iss, th.AckNumber()-scriptISS, n)
		if th.Flags()&flagACK == 0 {
			got = fmt.Sprintf("%v seq %d ack 0, %d bytes", th.Flags(), th.SequenceNumber()-s.iss, n)
		}
		if got == what {
			s.wanted = append(s.wanted, what)
			return
		}
		if slices.Contains(s.wanted, got) {
			s.t.Logf("%s again, before %s", got, what)
			continue
		}
		if at := th.SequenceNumber() - s.iss; int32(at-seq) > 0 || flags != flagACK && th.Flags()&(flagRST|flagFIN) != 0 && flags&(flagRST|flagFIN) != th.Flags()&(flagRST|flagFIN) {
			s.t.Fatalf("%s, want %s", got, what)
		}
		s.t.Logf("%s, before %s", got, what)
		if n > 0 && n < payload && th.Flags()&^header.TCPFlagPsh == flags && th.SequenceNumber()-s.iss == seq && th.AckNumber()-scriptISS == ackNo {
			s.wanted = append(s.wanted, got, what) // the whole may come as well
			seq, payload = seq+uint32(n), payload-n
			what = fmt.Sprintf("%v seq %d ack %d, %d bytes", flags, seq, ackNo, payload)
		}
	}
	s.t.Fatalf("no %s", what)
}

func (s *script) state(want tcp.EndpointState) {
	s.t.Helper()
	ep := s.c.ep.(*tcp.Endpoint)
	eventually(s.t, "not in state "+want.String(), func() bool { return ep.EndpointState() == want })
}

func (s *script) write(n int) {
	s.t.Helper()
	if _, err := s.c.Write(make([]byte, n)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) read(n int) {
	s.t.Helper()
	if _, err := io.ReadFull(s.c, make([]byte, n)); err != nil {
		s.t.Fatal(err)
	}
}

// fails wants an error of Read.
func (s *script) fails(want error) {
	s.t.Helper()
	if _, err := s.c.Read(make([]byte, 1)); !errors.Is(err, want) {
		s.t.Fatalf("Read: %v, want %v", err, want)
	}
}

func (s *script) close() {
	s.t.Helper()
	if err := s.c.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// A connection that was reset before anybody took it from the listener is
// accepted, and says so when it is read.
func TestResetBeforeAccept(t *testing.T) {
	t.Parallel()
	for range 20 { // the stack may have taken it before
		s, l := listenScript(t)
		_ = l.(*listener).SetDeadline(time.Now().Add(20 * time.Second))
		s.send(flagRST, 1, 0, 0)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := port(c.RemoteAddr()); got != scriptPort {
			t.Errorf("accepted a connection from port %d", got)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
		c.Close()
	}
}

// What goes over the wire when connections end, after the scripts that Linux
// (tools/testing/selftests/net/packetdrill), packetdrill and gVisor
// (test/packetimpact) have for it.
func TestScripts(t *testing.T) {
	for _, tt := range scripts {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			tt.do(newScript(t))
		})
	}
}

var scripts = []struct {
	what string
	do   func(s *script)
}{
	{"close-local-close-then-remote-fin", func(s *script) {
		s.close()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 1, 2, 0)
		s.state(tcp.StateFinWait2)
		s.send(flagFIN|flagACK, 1, 2, 0)
		s.want(flagACK, 2, 2, 0)
		s.send(flagFIN|flagACK, 1, 2, 0) // again: its acknowledgement was lost
		s.want(flagACK, 2, 2, 0)
		s.state(tcp.StateTimeWait)
	}},
	{"close-remote-fin-then-close", func(s *script) {
		s.send(flagFIN|flagACK, 1, 1, 0)
		s.want(flagACK, 1, 2, 0)
		s.fails(io.EOF)
		s.close()
		s.want(flagFIN|flagACK, 1, 2, 0)
		s.send(flagACK, 2, 2, 0)
		s.state(tcp.StateClose)
		s.send(flagACK, 2, 2, 10) // to a connection that is over
		s.want(flagRST, 2, 0, 0)
	}},
	{"both close at once", func(s *script) {
		s.close()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagFIN|flagACK, 1, 1, 0)
		s.want(flagACK, 2, 2, 0)
		s.state(tcp.StateClosing)
		s.send(flagACK, 2, 2, 0)
		s.state(tcp.StateTimeWait)
	}},
	{"close with data that is not acknowledged", func(s *script) {
		s.write(1000)
		s.want(flagACK, 1, 1, 1000)
		s.close()
		s.want(flagFIN|flagACK, 1001, 1, 0)
		s.send(flagACK, 1, 501, 0) // the rest and the FIN were lost
		s.want(flagACK, 501, 1, 500)
		s.send(flagACK, 1, 1001, 0)
		s.want(flagFIN|flagACK, 1001, 1, 0)
		s.send(flagFIN|flagACK, 1, 1002, 0)
		s.want(flagACK, 1002, 2, 0)
	}},
	{"close with unread data", func(s *script) {
		s.send(flagACK, 1, 1, 100)
		s.want(flagACK, 1, 101, 0)
		s.read(50)
		s.close()
		s.want(flagRST|flagACK, 1, 101, 0)
	}},
	{"data after close", func(s *script) {
		s.close()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 1, 2, 0)
		s.state(tcp.StateFinWait2)
		s.send(flagACK, 1, 2, 100)
		s.want(flagRST|flagACK, 2, 1, 0)
	}},
	{"data after CloseWrite", func(s *script) {
		_ = s.c.CloseWrite()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 1, 2, 100)
		s.want(flagACK, 2, 101, 0)
		s.read(100)
		s.send(flagFIN|flagACK, 101, 2, 0)
		s.want(flagACK, 2, 102, 0)
		s.fails(io.EOF)
	}},
	{"shutdown-rd-wr-close: data after CloseRead and CloseWrite", func(s *script) {
		_, _ = s.c.CloseRead(), s.c.CloseWrite()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 1, 2, 100)
		s.want(flagRST|flagACK, 2, 1, 0)
	}},
	{"linger 0", func(s *script) {
		s.write(100)
		s.want(flagACK, 1, 1, 100)
		_ = s.c.SetLinger(0)
		s.close()
		s.want(flagRST|flagACK, 101, 1, 0)
	}},
	{"linger 0 after CloseWrite", func(s *script) {
		_ = s.c.CloseWrite()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 1, 2, 0)
		s.state(tcp.StateFinWait2)
		_ = s.c.SetLinger(0)
		s.close()
		s.want(flagRST|flagACK, 2, 1, 0)
	}},
	{"linger until acknowledged", func(s *script) {
		s.write(100)
		s.want(flagACK, 1, 1, 100)
		_ = s.c.SetLinger(100)
		closed := make(chan error, 1)
		go func() { closed <- s.c.Close() }()
		s.want(flagFIN|flagACK, 101, 1, 0)
		select {
		case <-closed:
			s.t.Error("Close did not wait")
		default:
		}
		s.send(flagACK, 1, 102, 0)
		if err := <-closed; err != nil {
			s.t.Error(err)
		}
	}},
	{"linger is over", func(s *script) {
		s.write(100)
		s.want(flagACK, 1, 1, 100)
		_ = s.c.SetLinger(1)
		s.close()
		s.want(flagFIN|flagACK, 101, 1, 0)
		s.send(flagFIN|flagACK, 1, 102, 0) // it goes on in the background
		s.want(flagACK, 102, 2, 0)
	}},
	{"close, and an acknowledgement overtakes the peer's FIN", func(s *script) {
		s.write(1000)
		s.want(flagACK, 1, 1, 1000)
		s.close()
		s.want(flagFIN|flagACK, 1001, 1, 0)
		s.send(flagACK, 2, 501, 0) // after a FIN that was lost
		s.want(flagACK, 501, 1, 500)
		s.send(flagACK, 2, 1002, 0)
		s.send(flagFIN|flagACK, 1, 1002, 0)
		s.want(flagACK, 1002, 2, 0)
	}},
	{"CloseRead and CloseWrite, and an acknowledgement overtakes the peer's FIN", func(s *script) {
		_, _ = s.c.CloseRead(), s.c.CloseWrite()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagACK, 2, 2, 0)
		s.state(tcp.StateFinWait2)
		s.send(flagFIN|flagACK, 1, 2, 0)
		s.want(flagACK, 2, 2, 0)
	}},
	{"a window that was overtaken by a smaller one", func(s *script) {
		s.write(100)
		s.want(flagACK, 1, 1, 100)
		s.window = 200
		s.send(flagACK, 11, 101, 0)
		s.window = 65535
		s.send(flagACK, 1, 1, 10) // sent before
		s.read(10)
		s.want(flagACK, 101, 11, 0)
		s.write(5000)
		s.want(flagACK, 101, 11, 200)
		s.window = 300
		s.send(flagACK, 11, 301, 0)
		s.want(flagACK, 301, 11, 300)
	}},
	{"an acknowledgement lies within a window that has shrunk", func(s *script) {
		s.write(1000)
		s.want(flagACK, 1, 1, 1000)
		s.window = 200
		s.send(flagACK, 1, 501, 10)
		s.want(flagACK, 701, 11, 0)
		s.window = 500
		s.send(flagACK, 11, 501, 10)
		s.want(flagACK, 1001, 21, 0)
	}},
	{"zero window, probe, and it opens", func(s *script) {
		s.shut()
		s.write(1000)
		s.probed(2)
		s.window = 65535
		s.send(flagACK, 2, 1, 0)
		s.want(flagACK, 1, 2, 536) // a segment: the peer has announced no MSS
	}},
	{"close with a zero window", func(s *script) {
		s.shut()
		s.write(1000)
		s.close()
		s.probed(2)
		s.r.b.orphans.sweep(time.Now().Add(orphanFor / 2))
		s.probed(1)
		s.r.b.orphans.sweep(time.Now().Add(orphanFor)) // the peer answers still
		s.window = 65535
		s.send(flagACK, 2, 1, 0)
		for flags := header.TCPFlags(0); flags&flagFIN == 0; {
			th := s.next("FIN")
			if flags = th.Flags(); flags&flagRST != 0 {
				s.t.Fatal("reset")
			}
			s.send(flagACK, 2, th.SequenceNumber()-s.iss+uint32(len(th)-int(th.DataOffset())), 0)
		}
	}},
	{"user_timeout", func(s *script) {
		_ = s.c.SetUserTimeout(500 * time.Millisecond)
		s.write(100)
		s.fails(syscall.ETIMEDOUT)
	}},
	{"user-timeout-probe: answers with a zero window", func(s *script) {
		_ = s.c.SetUserTimeout(time.Second)
		s.shut()
		s.write(100)
		failed := make(chan error, 1)
		go func() { _, err := s.c.Read(make([]byte, 1)); failed <- err }()
		for {
			select {
			case th := <-s.in:
				if th.Flags()&flagRST == 0 {
					s.send(flagACK, 2, 1, 0)
				}
				continue
			case err := <-failed:
				if !errors.Is(err, syscall.ETIMEDOUT) {
					s.t.Error(err)
				}
			case <-testContext(s.t).Done():
				s.t.Error("it does not end")
			}
			return
		}
	}},
	{"reset out of the window, in it, and where it has to be", func(s *script) {
		s.send(flagRST, 10_000_000, 0, 0)
		s.send(flagRST, 100, 0, 0)
		s.want(flagACK, 1, 1, 0) // RFC 5961 §3.2: a challenge
		s.state(tcp.StateEstablished)
		s.send(flagRST, 1, 0, 0)
		s.fails(syscall.ECONNRESET)
	}},
	{"reset in TIME-WAIT", func(s *script) {
		_ = s.c.CloseWrite()
		s.want(flagFIN|flagACK, 1, 1, 0)
		s.send(flagFIN|flagACK, 1, 2, 0)
		s.want(flagACK, 2, 2, 0)
		s.state(tcp.StateTimeWait)
		s.send(flagRST, 2, 0, 0) // RFC 1337
		s.send(flagFIN|flagACK, 1, 2, 0)
		s.want(flagACK, 2, 2, 0)
		s.fails(io.EOF)
	}},
	{"reset after the FIN", func(s *script) {
		s.send(flagACK, 1, 1, 10)
		s.send(flagFIN|flagACK, 11, 1, 0)
		s.state(tcp.StateCloseWait)
		s.send(flagRST, 12, 0, 0)
		s.state(tcp.StateClose)
		s.read(10)
		s.fails(io.EOF)
		if _, err := s.c.Write([]byte{0}); !errors.Is(err, syscall.EPIPE) {
			s.t.Errorf("Write: %v", err)
		}
	}},
}

// probed answers window probes, each with what the window is now.
func (s *script) probed(times int) {
	s.t.Helper()
	for n := 0; n < times; {
		th := s.next("window probe")
		if th.Flags()&(flagRST|flagFIN) != 0 || len(th)-int(th.DataOffset()) > 1 {
			s.t.Fatalf("%v with %d bytes into a zero window", th.Flags(), len(th)-int(th.DataOffset()))
		}
		s.send(flagACK, 2, 1, 0)
		n++
	}
}

// shut closes the peer's window, with a byte so that the stack says when it knows.
func (s *script) shut() {
	s.t.Helper()
	s.window = 0
	s.send(flagACK, 1, 1, 1)
	s.want(flagACK, 1, 2, 0)
	s.read(1)
}

// Those that nobody accepts: noaccept_close_rst.
func TestScriptNobodyAccepts(t *testing.T) {
	s, l := listenScript(t)
	eventually(t, "nothing waits", func() bool { return l.(*listener).waiting.len() > 0 })
	l.Close()
	s.want(flagRST|flagACK, 1, 1, 0)
}

// close-on-syn-sent: a SYN-ACK that comes after Dial was given up is reset.
func TestScriptGivenUpDial(t *testing.T) {
	r := newRig(t)
	s := &script{t: t, r: r, in: make(chan header.TCP, 1000), window: 65535}
	r.a.Shim.Attach(s)
	ctx, cancel := context.WithCancel(context.Background())
	dialled := make(chan error, 1)
	go func() {
		_, err := r.b.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.a4, scriptPort))
		dialled <- err
	}()
	th := s.next("SYN")
	s.iss, s.port = th.SequenceNumber(), th.SourcePort()
	cancel()
	if err := <-dialled; !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
	s.send(flagSYN|flagACK, 0, 1, 0)
	for {
		if th = s.next("reset"); th.Flags()&flagRST != 0 {
			return
		}
	}
}
