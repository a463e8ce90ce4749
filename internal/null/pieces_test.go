package null

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// What a stopped connection still brought waits for who reads, and is read in
// pieces of any size: every byte of it, the last one too, before what comes on the
// next connection and before the end.
func TestPendingInPieces(t *testing.T) {
	for _, n := range []int{1, 2, 3, 16} {
		for _, piece := range []int{1, 2, 3, 5, 16, 32} {
			synctest.Test(t, func(t *testing.T) {
				_, c, peer := newLink(64, 64, healthy)
				s := New(Config{}, c, 64)
				s.pending = pattern(n, 7)
				if _, err := peer.Write(pattern(4, 9)); err != nil {
					t.Fatal(err)
				}
				if err := peer.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				var got []byte
				b := make([]byte, piece)
				for {
					k, err := s.Read(b)
					got = append(got, b[:k]...)
					if len(got) < n && len(s.pending) != n-len(got) {
						t.Fatalf("%d bytes wait after %d of %d", len(s.pending), len(got), n)
					}
					if len(got) >= n && s.pending != nil {
						t.Errorf("%d bytes wait when all were read", len(s.pending))
					}
					if err == io.EOF {
						break
					}
					if err != nil || k == 0 {
						t.Fatalf("%d bytes, %v", k, err)
					}
				}
				if want := append(pattern(n, 7), pattern(4, 9)...); !bytes.Equal(got, want) {
					t.Errorf("%d bytes by %d: %d came, %d in order", n, piece, len(got), prefix(got, want))
				}
				if !s.eof || s.taken != 4 {
					t.Errorf("%d bytes taken", s.taken)
				}
				s.Abort()
				s.Wait()
			})
		}
	}
}

// However often a peer changes the connection, what waits for an application that does
// not read is bounded, and what was left on the old connections comes again.
func TestPendingBounded(t *testing.T) {
	all := pattern(2*takeMax, 5)
	_, c, peer := newLink(MaxUnread, MaxUnread, healthy)
	s := New(Config{Resume: func(ctx context.Context, _ Report) error { <-ctx.Done(); return ctx.Err() }}, c, 64)
	at := 0
	for range 8 {
		n, err := peer.Write(all[at:min(at+MaxUnread, len(all))])
		if err != nil {
			t.Fatal(err)
		}
		mine, ok := s.Pause()
		if !ok || mine.Taken < uint64(at) || mine.Taken > uint64(at+n) {
			t.Fatalf("%d taken of %d and %d, %v", mine.Taken, at, n, ok)
		}
		if len(s.pending) > takeMax {
			t.Fatalf("%d bytes wait, of %d", len(s.pending), takeMax)
		}
		at = int(mine.Taken)
		_, c, peer = newLink(MaxUnread, MaxUnread, healthy)
		if err := s.Install(c, mine, Report{}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_, _ = peer.Write(all[at:])
		_ = peer.CloseWrite()
	}()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d of %d bytes, %d in order: %v", len(got), len(all), prefix(got, all), err)
	}
	s.Abort()
	s.Wait()
}

// Streams that are closed, late, ended or shut are said so by Read and Write in
// this order, before anything is read or written.
func TestOrderOfReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := newLink(64, 64, healthy)
		s := New(Config{}, c, 64)
		past := time.Now().Add(-time.Second)
		s.mu.Lock()
		s.pending, s.eof, s.err = []byte{1, 2}, true, ErrReset
		s.mu.Unlock()
		b := make([]byte, 8)
		if n, err := s.read(b); n != 2 || err != nil {
			t.Errorf("what waits: %d, %v", n, err)
		}
		if n, err := s.read(b); n != 0 || err != io.EOF {
			t.Errorf("then the end: %d, %v", n, err)
		}
		s.eof = false
		if n, err := s.read(b); n != 0 || err != ErrReset {
			t.Errorf("then the error: %d, %v", n, err)
		}
		if n, err := s.write(b); n != 0 || err != ErrReset {
			t.Errorf("to write: %d, %v", n, err)
		}
		s.readShut = true
		if n, err := s.read(b); n != 0 || err != io.EOF {
			t.Errorf("shut: %d, %v", n, err)
		}
		if n, err := s.read(nil); n != 0 || err != nil {
			t.Errorf("nothing: %d, %v", n, err)
		}
		s.readDeadline, s.writeDeadline = past, past
		if _, err := s.read(b); err == nil || err == io.EOF || err == ErrReset {
			t.Errorf("late: %v", err)
		}
		if _, err := s.write(b); err == nil || err == ErrReset {
			t.Errorf("late to write: %v", err)
		}
		s.Abort()
		s.Wait()
	})
}

// What a peer says that it may have unread is believed within bounds: it is memory of
// this side's.
func TestPeerUnread(t *testing.T) {
	if MaxPeerUnread != 8<<20 {
		t.Errorf("a peer may have %d bytes unread", MaxPeerUnread)
	}
	for said, want := range map[int]uint64{-1: 0, 0: 0, 1: 1, MaxPeerUnread: MaxPeerUnread, MaxPeerUnread + 1: MaxPeerUnread, 2 * MaxPeerUnread: MaxPeerUnread} {
		_, c, _ := newLink(10, 10, healthy)
		if s := New(Config{}, c, said); s.peerUnread != want {
			t.Errorf("said %d: %d", said, s.peerUnread)
		}
	}
}
