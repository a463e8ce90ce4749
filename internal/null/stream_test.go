package null

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var seeds = flag.Int("seeds", 100, "how many runs TestCutAgainAndAgain makes")

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

// exchange sends data both ways, each side ending its own half when it has
// sent all, and wants every byte once.
func (r *rig) exchange(t *testing.T, sizes [2]int, piece int) {
	t.Helper()
	var wg sync.WaitGroup
	for i, s := range r.streams {
		data, want := pattern(sizes[i], byte(i)), pattern(sizes[1-i], byte(1-i))
		wg.Go(func() {
			for b := data; len(b) > 0; {
				n, err := s.Write(b[:min(piece, len(b))])
				if err != nil {
					t.Errorf("stream %d: write: %v", i, err)
					return
				}
				b = b[n:]
			}
			if err := s.CloseWrite(); err != nil {
				t.Errorf("stream %d: CloseWrite: %v", i, err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %d of %d bytes, equal prefix %d, err %v", i, len(got), len(want), prefix(got, want), err)
			}
		})
	}
	wg.Wait()
}

func prefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// TestCutAtEveryByte cuts the first connection after each byte, FIN included,
// in one direction or both, with acknowledgements lost, noticed by both sides
// or by one alone.
func TestCutAtEveryByte(t *testing.T) {
	const n = 90
	cases := []struct {
		name string
		f    func(k int) fault
	}{
		{"both notice", func(k int) fault { return fault{after: [2]int{k, -1}, both: true, finLost: true} }},
		{"sender notices", func(k int) fault {
			return fault{after: [2]int{k, -1}, both: true, finLost: true, silent: [2]bool{false, true}}
		}},
		{"receiver notices", func(k int) fault {
			return fault{after: [2]int{k, -1}, both: true, finLost: true, silent: [2]bool{true, false}}
		}},
		{"one way only", func(k int) fault { return fault{after: [2]int{k, -1}, finLost: true, noticing: time.Second} }},
		{"acknowledgements lost", func(k int) fault { return fault{after: [2]int{-1, k}, both: true, finLost: true, lag: 13} }},
		{"both ways at once", func(k int) fault { return fault{after: [2]int{k, k}, both: true, finLost: true, lag: 3} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for k := range n + 2 {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, 16, 16, c.f(k))
					r.exchange(t, [2]int{n, n}, 11)
					r.close()
				})
				if t.Failed() {
					t.Fatalf("cut after %d bytes", k)
				}
			}
		})
	}
}

// TestCutAgainAndAgain kills every connection after a few bytes, and the
// attempts to replace it in every way.
func TestCutAgainAndAgain(t *testing.T) {
	for seed := range uint64(*seeds) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 8))
			var faults []fault
			for range 40 {
				faults = append(faults, fault{
					after: [2]int{rng.IntN(50) - 1, rng.IntN(50) - 1}, both: rng.IntN(2) == 0, finLost: rng.IntN(2) == 0,
					lag: rng.IntN(20), noticing: time.Duration(rng.IntN(3)) * time.Second,
					silent: [2]bool{rng.IntN(4) == 0, false},
				})
			}
			r := newRig(t, 1+rng.IntN(40), 1+rng.IntN(40), faults...)
			r.broken = func(int) int { return max(0, rng.IntN(9)-4) }
			r.exchange(t, [2]int{rng.IntN(2000), rng.IntN(2000)}, 1+rng.IntN(100))
			r.close()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestCloseDelivers: what was written before Close arrives although the
// connection dies at any byte of it, and then the next.
func TestCloseDelivers(t *testing.T) {
	const n = 60
	for i := range 2 * (n + 2) {
		k, alone := i/2, i%2 == 1 // whether only the one that closes notices
		synctest.Test(t, func(t *testing.T) {
			f := fault{after: [2]int{k, -1}, both: true, finLost: true, noticing: time.Second, silent: [2]bool{false, alone}}
			r := newRig(t, 100, 100, f, f)
			a, b := r.streams[0], r.streams[1]
			if _, err := a.Write(pattern(n, 0)); err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after Close: %v", err)
			}
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, pattern(n, 0)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			_ = b.Close()
			a.Wait()
			b.Wait()
			r.close()
			if !r.gone[0] || !r.gone[1] {
				t.Errorf("still there: %v", r.gone)
			}
		})
		if t.Failed() {
			t.Fatalf("cut after %d bytes", k)
		}
	}
}

// over is a connection whose both ends have been said, but whose reader is late
// each time: the system calls it closed before the peer's end has been read.
type over struct{ Conn }

func (over) Silent() bool { return true }
func (o over) Read([]byte) (int, error) {
	time.Sleep(time.Millisecond)
	return 0, os.ErrDeadlineExceeded
}

// A closed stream whose connection is found closed by Check before it has read
// the peer's end is over at once; it does not linger.
func TestClosedBeforeTheEndIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := newLink(64, 64, healthy)
		start := time.Now()
		var took time.Duration
		s := New(Config{
			Resume: func(context.Context, Report) error { return errNoWay },
			Ended:  func(error) { took = time.Since(start) },
		}, over{a}, 64)
		if err := b.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("the peer reads %d, %v", n, err)
		}
		s.Check()
		s.Wait()
		if took > time.Second {
			t.Errorf("ended %v after Close", took)
		}
	})
}

// TestResetIsNoLostPath: a side that aborted is known to be gone as soon as it
// can be asked; reading what was taken before goes on.
func TestResetIsNoLostPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		a, b := r.streams[0], r.streams[1]
		_, _ = a.Write([]byte("last words"))
		synctest.Wait()
		_ = a.SetLinger(0)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "last words" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := b.Read(got); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read: %v", err)
		}
		if _, err := b.Write(got); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
		_ = b.Close()
		r.close()
	})
}

// TestCloseResetsWhatCame: a connection that the peer has brought while this side
// was told that the stream is over is not left open by Close.
func TestCloseResetsWhatCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, first, _ := newLink(64, 64, healthy)
		_, second, peer := newLink(64, 64, healthy)
		var s *Stream
		s = New(Config{
			Unread: 64,
			Resume: func(_ context.Context, rep Report) error {
				if err := s.Install(second, rep, Report{Unread: 64}); err != nil {
					t.Error(err)
				}
				return ErrReset
			},
		}, first, 64)
		s.Lost(nil, io.ErrUnexpectedEOF)
		synctest.Wait()
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("Write: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_, _ = peer.Read(make([]byte, 1)) // the end that was said before the reset
		if _, err := peer.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the peer's system: %v", err)
		}
		s.Wait()
	})
}

// TestPause: deadlines, CloseWrite and Close work while there is no
// connection, and a peer that never comes back ends the stream.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		r.deaf = true
		a := r.streams[0]
		r.links[0].cut()
		start := time.Now()
		if err := a.SetReadDeadline(start.Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("Read: %v after %v", err, time.Since(start))
		}
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %d, %v", n, err)
		}
		_ = a.SetDeadline(time.Time{})
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
			t.Errorf("Read: %v", err)
		}
		if d := time.Since(start); d > defaultPatience+retryMax {
			t.Errorf("gave up after %v", d)
		}
		r.close()
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100, 100)
		r.deaf = true
		a, b := r.streams[0], r.streams[1]
		_, _ = a.Write([]byte("before "))
		r.links[0].cut()
		synctest.Wait()
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		go func() {
			_, _ = b.Write([]byte("answer")) // waits
			_ = b.Close()
		}()
		time.Sleep(5 * time.Second)
		r.mu.Lock()
		r.deaf = false
		r.mu.Unlock()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Errorf("%q, %v", got, err)
		}
		r.close()
	})
}

// TestCountOutside: a peer that asks for what it has confirmed, or for what
// was never sent, gets a reset.
func TestCountOutside(t *testing.T) {
	for name, rep := range map[string]Report{
		"too much":             {Taken: 51},
		"confirmed before":     {Taken: 9},
		"an end never sent":    {Taken: 50, Ended: true},
		"ends before its data": {Taken: 50, Closed: true, End: 2},
		"too much unread":      {Taken: 50, Unread: MaxPeerUnread + 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 10, 10)
			a, b := r.streams[0], r.streams[1]
			go a.Write(pattern(50, 0))
			_, _ = io.ReadFull(b, make([]byte, 50))
			_, _ = b.Write([]byte("123"))
			_, _ = io.ReadFull(a, make([]byte, 3))
			synctest.Wait()
			r.deaf = true
			a.Lost(nil, io.ErrUnexpectedEOF)
			synctest.Wait()
			a.mu.Lock()
			a.confirmed = 10
			mine := a.reportLocked()
			a.mu.Unlock()
			_, c, peer := newLink(10, 10, healthy)
			if err := a.Install(c, mine, rep); !errors.Is(err, ErrCount) {
				t.Errorf("%s: Install: %v", name, err)
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the peer's system: %v", name, err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, ErrCount) {
				t.Errorf("%s: Write: %v", name, err)
			}
			r.close()
		})
	}
}

// TestEndIsKnown: a peer that had our end when the connection was lost is not told it
// again, and Close does not wait for it.
func TestEndIsKnown(t *testing.T) {
	for _, ended := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 10, 10)
			r.deaf = true
			a := r.streams[0]
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			a.Lost(nil, io.ErrUnexpectedEOF)
			synctest.Wait()
			a.mu.Lock()
			mine := a.reportLocked()
			a.mu.Unlock()
			_, c, _ := newLink(10, 10, healthy)
			if err := a.Install(c, mine, Report{Ended: ended, Unread: 10}); err != nil {
				t.Fatal(err)
			}
			a.mu.Lock()
			if a.finTaken != ended {
				t.Errorf("the peer has our end: %v, known: %v", ended, a.finTaken)
			}
			a.mu.Unlock()
			a.Abort()
			r.close()
		})
	}
}

// TestMemory: what is kept stays within what can be unacknowledged or unread.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rcv, snd, lag, piece = 300 << 10, 100 << 10, 50 << 10, 100 << 10
		const total = 200 * piece
		var faults []fault
		for i := range 10 {
			faults = append(faults, fault{after: [2]int{i * 300 << 10, -1}, both: true, lag: lag})
		}
		r := newRig(t, rcv, snd, faults...)
		a, b := r.streams[0], r.streams[1]
		most := 0
		go func() {
			p := pattern(piece, 0)
			for n := 0; n < total; n += len(p) {
				if _, err := a.Write(p); err != nil {
					t.Error(err)
				}
				a.mu.Lock()
				most = max(most, a.kept.len())
				a.mu.Unlock()
			}
			_ = a.Close()
		}()
		n, err := io.Copy(io.Discard, b)
		if err != nil || n != total {
			t.Errorf("%d bytes, %v", n, err)
		}
		// Unacknowledged and unread bytes when the system was asked, and what
		// went by until it is asked again, which is before a piece, not in it.
		if bound := rcv + snd + lag + trimEvery + piece; most > bound {
			t.Errorf("%d bytes kept, bound %d", most, bound)
		}
		if n := r.switches(); n != len(faults) {
			t.Errorf("%d connections replaced, %d were lost", n, len(faults))
		}
		t.Logf("at most %d KiB kept", most>>10)
		_ = b.Close()
		r.close()
	})
}

func TestStore(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var q store
	var ref []byte
	next := byte(0)
	for range 800 {
		b := make([]byte, rng.IntN(3*blockLen))
		for i := range b {
			b[i] = next
			next += 3
		}
		q.append(b)
		ref = append(ref, b...)
		if k := rng.IntN(len(ref) + 1); rng.IntN(2) == 0 {
			q.trim(q.base + uint64(k))
			ref = ref[k:]
		}
		if q.len() != len(ref) {
			t.Fatalf("%d bytes, want %d", q.len(), len(ref))
		}
		if len(ref) > 0 {
			at := rng.IntN(len(ref))
			if got := q.at(q.base + uint64(at)); len(got) == 0 || !bytes.Equal(got, ref[at:at+len(got)]) {
				t.Fatal(fmt.Sprint("wrong bytes at ", at))
			}
		}
		if got := q.at(q.end); len(got) > 0 {
			t.Fatalf("%d bytes beyond the end", len(got))
		}
		if most := len(ref)/blockLen + 2; len(q.blocks) > most {
			t.Fatalf("%d blocks for %d bytes", len(q.blocks), len(ref))
		}
	}
}
