package null

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/netconn"
)

// classy is a connection with the kernel's options.
type classy struct {
	Conn
	class *int
	err   error
}

func (c classy) SetTrafficClass(class int) error { *c.class = class; return c.err }
func (c classy) Info() (netconn.TCPInfo, error) {
	return netconn.TCPInfo{State: "ESTABLISHED", RTT: time.Second, BytesWritten: 999, BytesReceived: 999}, c.err
}

// A traffic class is that of the stream: each connection has it, those as well that
// come later, and one that is set while there is none.
func TestTrafficClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := [3]int{-1, -1, -1}
		_, first, _ := newLink(64, 64, healthy)
		next := 1
		var s *Stream
		s = New(Config{Unread: 64, Resume: func(_ context.Context, mine Report) error {
			time.Sleep(time.Second) // a while without a connection
			_, c, _ := newLink(64, 64, healthy)
			next++
			return s.Install(classy{c, &classes[next-1], nil}, mine, Report{Unread: 64})
		}}, classy{first, &classes[0], nil}, 64)
		if class, err := s.TrafficClass(); class != 0 || err != nil {
			t.Errorf("at first: %#x, %v", class, err)
		}
		s.Lost(nil, io.ErrUnexpectedEOF)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if classes != [3]int{-1, -1, -1} {
			t.Errorf("nothing was set, and there is %#x", classes)
		}
		if err := s.SetTrafficClass(0x28); err != nil {
			t.Error(err)
		}
		if err := s.SetTrafficClass(256); err == nil {
			t.Error("a class of nine bits")
		}
		s.Lost(nil, io.ErrUnexpectedEOF)
		synctest.Wait()
		if err := s.SetTrafficClass(0xb8); err != nil {
			t.Errorf("without a connection: %v", err)
		}
		if class, err := s.TrafficClass(); class != 0xb8 || err != nil {
			t.Errorf("%#x, %v", class, err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if classes != [3]int{-1, 0x28, 0xb8} {
			t.Errorf("the connections have %#x", classes)
		}
		s.Abort()
		s.Wait()
	})
}

// What a stream says of itself: the connection's state, and its own bytes; without a
// connection, that it stands; after a failure, that it is over.
func TestInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var class int
		_, c, peer := newLink(64, 64, healthy)
		resume := make(chan error)
		s := New(Config{Resume: func(context.Context, Report) error { return <-resume }}, classy{c, &class, nil}, 64)
		if _, err := s.Write([]byte("twelve bytes")); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write([]byte("four")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		ask := func(want netconn.TCPInfo) {
			t.Helper()
			if got, err := s.Info(); got != want || err != nil {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		}
		ask(netconn.TCPInfo{State: "ESTABLISHED", RTT: time.Second, BytesWritten: 12, BytesReceived: 4})
		s.Lost(nil, io.ErrUnexpectedEOF)
		synctest.Wait()
		ask(netconn.TCPInfo{State: "STANDING", BytesWritten: 12, BytesReceived: 4})
		resume <- ErrReset
		synctest.Wait()
		ask(netconn.TCPInfo{State: "CLOSED", BytesWritten: 12, BytesReceived: 4})
		s.Abort()
		s.Wait()
	})
}

// What a connection cannot, or does not do, is an error of the stream's, with its
// addresses; a stream that is closed says that first.
func TestOptionsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errFull := errors.New("no")
		var class int
		for _, closed := range []bool{false, true} {
			for what, c := range map[string]struct {
				conn func(Conn) Conn
				want error // of the class and Info; the others are not supported anyway
			}{
				"none":        {func(c Conn) Conn { return c }, errors.ErrUnsupported},
				"one refused": {func(c Conn) Conn { return classy{c, &class, &net.OpError{Op: "x", Err: errFull}} }, errFull},
				"one that is": {func(c Conn) Conn { return classy{c, &class, nil} }, nil},
			} {
				_, conn, _ := newLink(64, 64, healthy)
				s := New(Config{Local: &net.TCPAddr{Port: 1}, Remote: &net.TCPAddr{Port: 2}}, c.conn(conn), 64)
				if closed {
					s.Abort()
					s.Wait()
				}
				for name, call := range map[string]struct {
					f    func() error
					want error
				}{
					"SetTrafficClass":    {func() error { return s.SetTrafficClass(4) }, c.want},
					"Info":               {func() error { _, err := s.Info(); return err }, c.want},
					"TrafficClass":       {func() error { _, err := s.TrafficClass(); return err }, nil},
					"SetKeepAlive":       {func() error { return s.SetKeepAlive(true) }, errors.ErrUnsupported},
					"SetKeepAlivePeriod": {func() error { return s.SetKeepAlivePeriod(1) }, errors.ErrUnsupported},
					"SetKeepAliveConfig": {func() error { return s.SetKeepAliveConfig(net.KeepAliveConfig{}) }, errors.ErrUnsupported},
					"SetUserTimeout":     {func() error { return s.SetUserTimeout(1) }, errors.ErrUnsupported},
					"SetReadBuffer":      {func() error { return s.SetReadBuffer(1) }, errors.ErrUnsupported},
					"SetWriteBuffer":     {func() error { return s.SetWriteBuffer(1) }, errors.ErrUnsupported},
				} {
					want := call.want
					if closed {
						want = net.ErrClosed
					}
					err := call.f()
					if !errors.Is(err, want) || (err == nil) != (want == nil) {
						t.Errorf("%s of a connection with options, %s, closed %v: %v, want %v", name, what, closed, err, want)
					}
					var op *net.OpError
					if err != nil && (!errors.As(err, &op) || op.Source != s.cfg.Local || op.Addr != s.cfg.Remote) {
						t.Errorf("%s, %s: %#v", name, what, err)
					}
				}
				if _, err := s.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("SyscallConn: %v", err)
				}
				if mp, err := s.MultipathTCP(); mp || err != nil {
					t.Errorf("MultipathTCP: %v, %v", mp, err)
				}
				s.Abort()
				s.Wait()
			}
		}
	})
}

// A report fits, or is refused: each thing that it may say, both sides of each.
func TestFits(t *testing.T) {
	type st = Stream
	for what, c := range map[string]struct {
		state func(*st)
		peer  Report
		want  bool
	}{
		"all that was sent":              {nil, Report{Taken: 50}, true},
		"more":                           {nil, Report{Taken: 51}, false},
		"all that is kept":               {nil, Report{Taken: 10}, true},
		"what is not kept any more":      {nil, Report{Taken: 9}, false},
		"what it confirmed":              {func(s *st) { s.confirmed = 20 }, Report{Taken: 20}, true},
		"less than that":                 {func(s *st) { s.confirmed = 20 }, Report{Taken: 19}, false},
		"as much unread as there may be": {nil, Report{Taken: 50, Unread: MaxPeerUnread}, true},
		"more unread":                    {nil, Report{Taken: 50, Unread: MaxPeerUnread + 1}, false},
		"our end":                        {func(s *st) { s.writeShut = true }, Report{Taken: 50, Ended: true}, true},
		"our end before all came":        {func(s *st) { s.writeShut = true }, Report{Taken: 49, Ended: true}, false},
		"an end that was not said":       {nil, Report{Taken: 50, Ended: true}, false},
		"our end again":                  {func(s *st) { s.writeShut, s.finTaken = true, true }, Report{Taken: 50, Ended: true}, true},
		"our end no more":                {func(s *st) { s.writeShut, s.finTaken = true, true }, Report{Taken: 50}, false},
		"its end where we are":           {nil, Report{Taken: 50, Closed: true, End: 7}, true},
		"its end later":                  {nil, Report{Taken: 50, Closed: true, End: 70}, true},
		"its end before that":            {nil, Report{Taken: 50, Closed: true, End: 6}, false},
		"its end where it was taken":     {func(s *st) { s.eof = true }, Report{Taken: 50, Closed: true, End: 7}, true},
		"its end later than taken":       {func(s *st) { s.eof = true }, Report{Taken: 50, Closed: true, End: 8}, false},
		"its end as before":              {func(s *st) { s.endKnown, s.peerEnd = true, 9 }, Report{Taken: 50, Closed: true, End: 9}, true},
		"its end elsewhere":              {func(s *st) { s.endKnown, s.peerEnd = true, 9 }, Report{Taken: 50, Closed: true, End: 10}, false},
		"no end after it was taken":      {func(s *st) { s.eof = true }, Report{Taken: 50}, false},
		"no end after it was told":       {func(s *st) { s.endKnown, s.peerEnd = true, 9 }, Report{Taken: 50}, false},
	} {
		s := &Stream{taken: 7}
		s.kept.append(make([]byte, 50))
		s.kept.trim(10)
		if c.state != nil {
			c.state(s)
		}
		if got := s.fitsLocked(c.peer); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// A connection is refused while there is one, though the counts are the same.
func TestInstallBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, peer := newLink(64, 64, healthy)
		s := New(Config{Unread: 64}, c, 64)
		_, d, other := newLink(64, 64, healthy)
		if err := s.Install(d, Report{}, Report{}); !errors.Is(err, ErrStale) {
			t.Errorf("Install: %v", err)
		}
		if _, err := other.Write([]byte("x")); err == nil {
			t.Error("the one that was refused is open")
		}
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if n, err := s.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		s.Abort()
		if s.Fresh(Report{}) != true { // it has none, and had no other
			t.Error("an aborted stream has a connection")
		}
		s.Wait()
	})
}

// Pauses between attempts double, and end at two seconds.
func TestResumePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := newLink(64, 64, healthy)
		var at []time.Duration
		start := time.Now()
		s := New(Config{Resume: func(ctx context.Context, _ Report) error {
			if ctx.Err() == nil {
				at = append(at, time.Since(start))
			}
			return errNoWay
		}}, c, 64)
		s.Lost(nil, io.ErrUnexpectedEOF)
		s.Lost(nil, io.ErrUnexpectedEOF) // again, for nothing
		_, err := s.Read(make([]byte, 1))
		if !errors.Is(err, ErrLost) || time.Since(start) != defaultPatience || defaultPatience != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		want := []time.Duration{0, 100, 300, 700, 1500, 3100, 5100, 7100}
		for i, ms := range want {
			if i >= len(at) || at[i] != ms*time.Millisecond {
				t.Fatalf("attempts at %v", at[:min(len(at), 10)])
			}
		}
		if n := len(at); n != len(want)+26 {
			t.Errorf("%d attempts", n)
		}
		s.Abort()
		s.Wait()
	})
}

// A Write that is late costs the stream nothing but that: the connection stays, and
// what was not taken can be written again.
func TestLateWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 16, 16)
		defer r.close()
		a, b := r.streams[0], r.streams[1]
		data := pattern(100, 3)
		if err := a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := a.Write(data)
		if n == 0 || n == len(data) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		}
		if err := a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = a.Write(data[n:]) }()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes in order, %v", prefix(got, data), err)
		}
		if n := r.switches(); n != 0 {
			t.Errorf("the connection was replaced %d times", n)
		}
	})
}

// A connection that the peer brings ends the pause between two attempts: when it is
// lost, too, the next attempt is made at once.
func TestPauseEndsWithConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := newLink(64, 64, healthy)
		start := time.Now()
		var at []time.Duration
		s := New(Config{Unread: 64, Resume: func(context.Context, Report) error {
			at = append(at, time.Since(start))
			return errNoWay
		}}, c, 64)
		s.Lost(nil, io.ErrUnexpectedEOF)
		time.Sleep(4 * time.Second) // pauses are of two seconds now, to 5.1 s
		synctest.Wait()
		tries := len(at)
		mine, ok := s.Pause()
		if !ok {
			t.Fatal("ended")
		}
		_, d, _ := newLink(64, 64, healthy)
		if err := s.Install(d, mine, Report{Unread: 77}); err != nil || s.peerUnread != 77 {
			t.Fatal(err, s.peerUnread)
		}
		synctest.Wait()
		s.Lost(nil, io.ErrUnexpectedEOF)
		synctest.Wait()
		if len(at) != tries+1 || at[tries] != 4*time.Second {
			t.Errorf("attempts at %v", at)
		}
		if s.Fresh(mine) {
			t.Error("a report from before another connection is fresh")
		}
		s.Abort()
		s.Wait()
	})
}

// Where the system does not tell what was acknowledged, all is kept that may not be;
// where it does, what it says and what may lie unread.
func TestKeptForPeer(t *testing.T) {
	const size = 3 * maxUnacked
	for what, c := range map[string]struct {
		conn      func(Conn) Conn
		confirmed uint64
		want      int
	}{
		"it does not tell":   {func(c Conn) Conn { return mute{c} }, 0, maxUnacked + 1000},
		"nothing lies there": {func(c Conn) Conn { return c }, 0, 1000},
		"less is left":       {func(c Conn) Conn { return mute{c} }, size - 500, 500},
	} {
		_, c2, _ := newLink(10, 10, healthy)
		conn := c.conn(c2)
		s := New(Config{}, conn, 1000)
		s.kept.append(make([]byte, size))
		s.sent, s.confirmed = size, c.confirmed
		if s.trim(conn); s.kept.len() != c.want {
			t.Errorf("%s: %d bytes are kept, want %d", what, s.kept.len(), c.want)
		}
	}
	s := New(Config{}, nil, 0)
	if r := s.reportLocked(); r.Unread != MaxUnread {
		t.Errorf("%d bytes may lie unread here", r.Unread)
	}
	if s.cfg.Patience != time.Minute || s.cfg.Linger != 30*time.Second {
		t.Errorf("patience %v, linger %v", s.cfg.Patience, s.cfg.Linger)
	}
}

// When the peer has read, a Write that had to wait before goes on at once.
func TestRoomAtOnce(t *testing.T) {
	const rcv = 64 << 10
	synctest.Test(t, func(t *testing.T) {
		_, c, peer := newLink(rcv, 8<<20, healthy)
		s := New(Config{Resume: func(context.Context, Report) error { return ErrReset }}, c, rcv)
		_ = s.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := s.Write(make([]byte, 8<<20))
		if n != s.limit() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d bytes of %d, %v", n, s.limit(), err)
		}
		if _, err := io.ReadFull(peer, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		_ = s.SetWriteDeadline(time.Time{})
		start := time.Now()
		if n, err := s.Write(make([]byte, 1000)); n != 1000 || err != nil || time.Since(start) != 0 {
			t.Errorf("%d bytes, %v, after %v", n, err, time.Since(start))
		}
		s.Abort()
		s.Wait()
	})
}

// Who waits while there is no connection is let go of at its deadline, and by Close.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := newLink(64, 64, healthy)
		s := New(Config{Linger: time.Millisecond, Resume: func(ctx context.Context, _ Report) error { <-ctx.Done(); return ctx.Err() }}, c, 64)
		s.Lost(nil, io.ErrUnexpectedEOF)
		synctest.Wait()
		start := time.Now()
		if err := s.SetWriteDeadline(start.Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("Write: %d, %v after %v", n, err, time.Since(start))
		}
		if err := s.SetReadDeadline(start.Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("Read: %d, %v after %v", n, err, time.Since(start))
		}
		if err := s.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		ends := make(chan error, 2)
		go func() { _, err := s.Read(make([]byte, 1)); ends <- err }()
		go func() { _, err := s.Write([]byte("x")); ends <- err }()
		time.Sleep(time.Second)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-ends; !errors.Is(err, net.ErrClosed) || time.Since(start) != 6*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		s.Wait()
	})
}

// Errors read as those of the kernel's connections do.
func TestErrorsRead(t *testing.T) {
	_, c, _ := newLink(10, 10, healthy)
	s := New(Config{Local: &net.TCPAddr{Port: 1}, Remote: &net.TCPAddr{Port: 2}}, c, 10)
	for err, want := range map[error]string{
		syscall.ECONNRESET: "read tcp :1->:2: read: connection reset by peer", net.ErrClosed: "read tcp :1->:2: use of closed network connection",
		io.EOF: "EOF", os.ErrDeadlineExceeded: "read tcp :1->:2: i/o timeout",
	} {
		if got := s.opError("read", err).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := s.opError("read", nil); err != nil {
		t.Errorf("no error: %v", err)
	}
	s.Abort()
	s.Wait()
}

// endless is a connection that cannot say its end.
type endless struct{ Conn }

func (endless) CloseWrite() error { return syscall.ENOTCONN }

// An end that the connection did not take was not said: Close has another connection
// made for it.
func TestEndNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := newLink(64, 64, healthy)
		_, d, peer := newLink(64, 64, healthy)
		var s *Stream
		s = New(Config{Unread: 64, Resume: func(_ context.Context, mine Report) error {
			if !mine.Closed || mine.End != 4 {
				t.Errorf("%+v", mine)
			}
			return s.Install(d, mine, Report{Unread: 64})
		}}, endless{c}, 64)
		if _, err := s.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(peer); err != nil || string(got) != "last" {
			t.Errorf("%q, %v", got, err)
		}
		_ = peer.CloseWrite()
		s.Wait()
	})
}

// The peer's end is met when a connection is stopped, too, if it is where the peer has
// said.
func TestEndMetWhenStopped(t *testing.T) {
	for end, want := range map[uint64]bool{3: false, 4: true, 5: false} {
		synctest.Test(t, func(t *testing.T) {
			_, c, peer := newLink(64, 64, healthy)
			s := New(Config{Resume: func(ctx context.Context, _ Report) error { <-ctx.Done(); return ctx.Err() }}, c, 64)
			s.endKnown, s.peerEnd = true, end
			if _, err := peer.Write([]byte("four")); err != nil {
				t.Fatal(err)
			}
			if err := peer.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if r, ok := s.Pause(); !ok || r.Ended != want || r.Taken != 4 {
				t.Errorf("the end told at %d: %+v", end, r)
			}
			s.Abort()
			s.Wait()
		})
	}
}

// Bytes at the seams of the store's blocks are those that were put there.
func TestStoreSeams(t *testing.T) {
	var q store
	all := make([]byte, 3*blockLen)
	for i := range all {
		all[i] = byte(i/blockLen*64 + i%61)
	}
	q.append(all)
	for k := 1; k <= 2; k++ {
		for d := -3; d <= 3; d++ {
			at := k*blockLen + d
			if got := q.at(uint64(at)); len(got) == 0 || !bytes.Equal(got, all[at:at+len(got)]) {
				t.Errorf("at %d: %d bytes, others", at, len(got))
			}
		}
	}
}
