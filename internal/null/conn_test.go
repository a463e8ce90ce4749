package null

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// TestClosed: every method of a closed stream says so, as net.TCPConn's do,
// and names the addresses.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		defer r.close()
		a := r.streams[0]
		if l, p := a.LocalAddr(), a.RemoteAddr(); l != a.cfg.Local || p != a.cfg.Remote {
			t.Errorf("addresses %v and %v", l, p)
		}
		if err := errors.Join(a.SetNoDelay(true), a.SetLinger(-1), a.SetDeadline(time.Time{})); err != nil {
			t.Error(err)
		}
		if n, err := a.Read(nil); n != 0 || err != nil {
			t.Errorf("Read of nothing: %d, %v", n, err) // although nothing has come
		}
		if err := errors.Join(a.CloseWrite(), a.CloseWrite(), a.Close()); err != nil {
			t.Error(err)
		}
		b := make([]byte, 1)
		for name, f := range map[string]func() error{
			"Read":        func() error { _, err := a.Read(b); return err },
			"Write":       func() error { _, err := a.Write(b); return err },
			"ReadFrom":    func() error { _, err := a.ReadFrom(bytes.NewReader(b)); return err },
			"WriteTo":     func() error { _, err := a.WriteTo(io.Discard); return err },
			"Close":       a.Close,
			"CloseRead":   a.CloseRead,
			"CloseWrite":  a.CloseWrite,
			"SetNoDelay":  func() error { return a.SetNoDelay(true) },
			"SetLinger":   func() error { return a.SetLinger(0) },
			"SetDeadline": func() error { return a.SetDeadline(time.Now()) },
		} {
			var op *net.OpError
			if err := f(); !errors.As(err, &op) || op.Err != net.ErrClosed || op.Source != a.cfg.Local || op.Addr != a.cfg.Remote {
				t.Errorf("%s: %#v", name, err)
			}
		}
	})
}

// TestCloseRead: a Read that waits leaves, what comes later is not read, not
// even off a connection that is stopped, and the other direction goes on.
func TestCloseRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		defer r.close()
		a, b := r.streams[0], r.streams[1]
		done := make(chan error, 1)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		if err := a.CloseRead(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != io.EOF {
			t.Errorf("the Read that waited: %v", err)
		}
		_, _ = b.Write([]byte("to nobody"))
		r.links[0].cut()
		if _, err := a.Write([]byte("still here")); err != nil {
			t.Error(err)
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "still here" {
			t.Errorf("%q, %v", got, err)
		}
		if n, err := a.Read(got); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v", n, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.installs != 1 || len(a.pending) > 0 {
			t.Errorf("%d switches, %d bytes for nobody", a.installs, len(a.pending))
		}
	})
}

// short takes less than it is given and says nothing.
type short struct{}

func (short) Write(b []byte) (int, error) { return len(b) - 1, nil }

// TestCopy: ReadFrom and WriteTo count what went through and return the error
// of the side that failed.
func TestCopy(t *testing.T) {
	errFull := errors.New("full")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		defer r.close()
		a, b := r.streams[0], r.streams[1]
		n, err := a.ReadFrom(io.MultiReader(strings.NewReader("twelve bytes"), iotest.ErrReader(errFull)))
		if n != 12 || err != errFull {
			t.Errorf("ReadFrom a reader that fails: %d, %v", n, err)
		}
		if n, err := b.WriteTo(short{}); n != 11 || err != io.ErrShortWrite {
			t.Errorf("WriteTo a writer that takes less: %d, %v", n, err)
		}
		_, _ = a.Write([]byte("more"))
		if n, err := b.WriteTo(iotest.TruncateWriter(failing{errFull}, 100)); n != 0 || err != errFull {
			t.Errorf("WriteTo a writer that fails: %d, %v", n, err)
		}
		_, _ = a.Write([]byte("last"))
		synctest.Wait()
		a.Abort()
		var got bytes.Buffer
		if n, err := b.WriteTo(&got); n != 4 || !errors.Is(err, syscall.ECONNRESET) || got.String() != "last" {
			t.Errorf("WriteTo of a stream that is reset: %d %q, %v", n, got.String(), err)
		}
		if n, err := b.ReadFrom(strings.NewReader("x")); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("ReadFrom into a stream that was reset: %d, %v", n, err)
		}
		if err := b.CloseWrite(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("CloseWrite: %v", err)
		}
	})
}

type failing struct{ err error }

func (w failing) Write([]byte) (int, error) { return 0, w.err }

// TestEndAtAnotherPlace: a FIN at another place than where the peer has said
// its stream ends is no end, whoever has sent it: the application must not take
// what came for all.
func TestEndAtAnotherPlace(t *testing.T) {
	for _, unread := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, c, first := newLink(100, 100, healthy)
			_, d, second := newLink(100, 100, healthy)
			var s *Stream
			tries := 0
			s = New(Config{Resume: func(_ context.Context, mine Report) error {
				if tries++; tries > 1 {
					return ErrReset
				}
				_, _ = second.Write(pattern(40, 0))
				_ = second.CloseWrite()
				return s.Install(d, mine, Report{Closed: true, End: 100})
			}}, c, 100)
			first.Abort()
			if unread { // the FIN is met when the connection is stopped
				s.Lost(c, io.ErrUnexpectedEOF)
				synctest.Wait()
				s.Lost(d, io.ErrUnexpectedEOF)
				synctest.Wait()
			}
			got, err := io.ReadAll(s)
			if !errors.Is(err, ErrReset) || !bytes.Equal(got, pattern(40, 0)) {
				t.Errorf("unread %v: %d bytes, %v", unread, len(got), err)
			}
			if tries != 2 {
				t.Errorf("unread %v: asked %d times", unread, tries)
			}
			_ = s.Close()
			s.Wait()
		})
	}
}

// TestStale: a connection that was agreed on before another came in its place
// is refused and reset, and the stream goes on where it is.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		defer r.close()
		a, b := r.streams[0], r.streams[1]
		old, _ := a.Pause()
		synctest.Wait() // it has found another by itself
		if a.Fresh(old) {
			t.Fatal("still paused")
		}
		_, c, peer := newLink(100, 100, healthy)
		if err := a.Install(c, old, Report{}); !errors.Is(err, ErrStale) {
			t.Errorf("Install: %v", err)
		}
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer's system: %v", err)
		}
		if _, err := a.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

// TestInstallTooLate: a connection for a stream that has ended, or that the
// peer then denies to have, is ended and not leaked.
func TestInstallTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		a := r.streams[0]
		a.Abort()
		_, c, peer := newLink(100, 100, healthy)
		if err := a.Install(c, Report{}, Report{}); !errors.Is(err, ErrReset) {
			t.Errorf("Install: %v", err)
		}
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer's system: %v", err)
		}
		if _, ok := a.Pause(); ok {
			t.Error("a stream that has ended can be paused")
		}
		r.close()
	})
	synctest.Test(t, func(t *testing.T) {
		_, c, first := newLink(100, 100, healthy)
		_, d, second := newLink(100, 100, healthy)
		var s *Stream
		s = New(Config{Resume: func(_ context.Context, mine Report) error {
			if err := s.Install(d, mine, Report{}); err != nil {
				t.Error(err)
			}
			return ErrReset
		}}, c, 100)
		first.Abort()
		if _, err := s.Write([]byte("x")); err != nil && !errors.Is(err, ErrReset) {
			t.Errorf("Write: %v", err)
		}
		synctest.Wait()
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("Write: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// What was written may have gone out once more before the denial.
		if _, err := io.Copy(io.Discard, second); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer's system: %v", err)
		}
		s.Wait()
	})
}

// mute is a connection of a system that does not tell what was acknowledged.
type mute struct{ Conn }

func (mute) Unacked() (int, bool) { return 0, false }

// TestNoAcknowledgement: a peer whose system reads nothing, in front of a
// system that takes everything, cannot make a sender keep more than the
// limit; and once it reads, the rest goes out.
func TestNoAcknowledgement(t *testing.T) {
	const rcv, total = 64 << 10, 8 << 20
	data := pattern(total, 0)
	synctest.Test(t, func(t *testing.T) {
		_, c, peer := newLink(rcv, total, healthy)
		s := New(Config{Resume: func(context.Context, Report) error { return ErrReset }}, c, rcv)
		_ = s.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := s.Write(data)
		if n != s.limit() || err == nil {
			t.Errorf("%d bytes written, limit %d, %v", n, s.limit(), err)
		}
		go func() {
			_ = s.SetWriteDeadline(time.Time{})
			_, _ = s.Write(data[n:])
			_ = s.CloseWrite()
		}()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		s.Abort()
		s.Wait()
	})
}

// TestMuteSystem: where the system does not tell what was acknowledged, a
// stream goes on beyond its limit all the same, and keeps no more than it.
func TestMuteSystem(t *testing.T) {
	const rcv, snd, total = 64 << 10, 64 << 10, 16 << 20
	synctest.Test(t, func(t *testing.T) {
		_, c, peer := newLink(rcv, snd, healthy)
		s := New(Config{Resume: func(context.Context, Report) error { return ErrReset }}, mute{c}, rcv)
		go func() {
			p := pattern(total, 0)
			for len(p) > 0 {
				_ = s.SetWriteDeadline(time.Now().Add(time.Minute))
				n, err := s.Write(p[:min(len(p), 1<<20)])
				if err != nil {
					t.Errorf("%d bytes before the end: %v", len(p)-n, err)
					s.Abort()
					return
				}
				p = p[n:]
				if k := s.kept.len(); k > s.limit() {
					t.Errorf("%d bytes kept, limit %d", k, s.limit())
				}
			}
			_ = s.CloseWrite()
		}()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, pattern(total, 0)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		s.Abort()
		s.Wait()
	})
}

// elsewhere is a connection with other addresses.
type elsewhere struct {
	Conn
	local, remote net.Addr
}

func (c elsewhere) LocalAddr() net.Addr  { return c.local }
func (c elsewhere) RemoteAddr() net.Addr { return c.remote }

func TestAddrs(t *testing.T) {
	mapped := &net.TCPAddr{IP: net.ParseIP("192.0.2.1").To16(), Port: 80}
	local, remote := Addrs(elsewhere{local: mapped, remote: &net.UnixAddr{Name: "x"}})
	if want := netip.MustParseAddrPort("192.0.2.1:80"); local != want || remote.IsValid() {
		t.Errorf("%v and %v", local, remote)
	}
}

// TestReadFromEndsLate: ReadFrom succeeds when every byte was written before
// the write deadline, however long the source then takes to say that this was
// all.
func TestReadFromEndsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		defer r.close()
		a := r.streams[0]
		src, sink := io.Pipe()
		go func() {
			_, _ = io.WriteString(sink, "all")
			time.Sleep(time.Second)
			sink.Close()
		}()
		if err := a.SetWriteDeadline(time.Now().Add(time.Second / 2)); err != nil {
			t.Fatal(err)
		}
		if n, err := a.ReadFrom(src); n != 3 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
