package shim

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
)

// Of more failures than are kept the oldest goes, and whoever waited for its pause to
// end is let go; one that is known is counted on, until a while has passed.
func TestFailuresKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Shim{failed: make(map[peerid.ID]failure)}
		id := func(i int) (id peerid.ID) {
			id[0], id[1] = byte(i), byte(i>>8)
			return id
		}
		why := errors.New("no way")
		fail := func(i int) failure {
			s.setFailedLocked(id(i), why)
			return s.failed[id(i)]
		}
		if maxFailed != 1024 {
			t.Errorf("LastError's doc says 1024, and %d are kept", maxFailed)
		}
		over := make([]chan struct{}, maxFailed)
		// From the middle up, then from the start: the order of the numbers is not that of time.
		for n := range maxFailed {
			i := (n + maxFailed/2) % maxFailed
			over[i] = fail(i).over
			time.Sleep(time.Millisecond)
		}
		oldest := maxFailed / 2
		if f := fail(oldest); f.tries != 2 || f.over != over[oldest] || len(s.failed) != maxFailed {
			t.Errorf("one that failed again: %d tries, of %d kept", f.tries, len(s.failed))
		}
		fail(maxFailed)
		next := oldest + 1 // now
		if _, ok := s.failed[id(next)]; ok || len(s.failed) != maxFailed {
			t.Errorf("the oldest is among the %d kept", len(s.failed))
		}
		for i, c := range over {
			select {
			case <-c:
				if i != next {
					t.Errorf("number %d is over", i)
				}
			default:
				if i == next {
					t.Error("what was forgotten is not over")
				}
			}
		}
		time.Sleep(pauseForget - time.Nanosecond)
		if f := fail(maxFailed); f.tries != 2 {
			t.Errorf("just before it is forgotten: %d tries", f.tries)
		}
		time.Sleep(pauseForget)
		if f := fail(maxFailed); f.tries != 1 {
			t.Errorf("after it is forgotten: %d tries", f.tries)
		}
		if s.LastError(id(maxFailed)) != why || s.LastError(id(next)) != nil {
			t.Error("LastError does not say so")
		}
	})
}

// Segments are merged as long as an IPv4 packet can have them, datagrams as well.
func TestJoinLongest(t *testing.T) {
	for _, proto := range []byte{inner.TCP, inner.UDP} {
		for _, n := range []int{maxTransport, maxTransport + 1} {
			hl := map[byte]int{inner.TCP: inner.TCPLen, inner.UDP: inner.UDPLen}[proto]
			first := 40000
			second := n - hl - first
			var a, k packet
			for p, size := range map[*packet]int{&a: first, &k: second} {
				b := tcpSegment(100, 5, inner.ACK, nil, make([]byte, size))
				if p == &k {
					b = tcpSegment(100+uint32(first), 5, inner.ACK, nil, make([]byte, size))
				}
				if proto == inner.UDP {
					b = append([]byte{0, 1, 0, 2, byte((8 + size) >> 8), byte(8 + size), 0, 0}, make([]byte, size)...)
				}
				if why, ok := p.parse(append([]byte{proto}, b...), false, peer4, self4); !ok {
					t.Fatal(why)
				}
			}
			k.seg = k.n
			got := proto == inner.TCP && k.join(&a) || proto == inner.UDP && k.joinUDP(&a)
			if got != (n == maxTransport) {
				t.Errorf("protocol %d, %d bytes: joined %v", proto, n, got)
			}
		}
	}
}

// A run that has a segment that was not sent before is not one that was: what is
// missing before it may be lost.
func TestJoinAgain(t *testing.T) {
	for _, c := range []struct{ a, k bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		a, k := packet{n: 10, again: c.a}, packet{n: 10, again: c.k}
		if k.prepend(&a); k.again != (c.a && c.k) {
			t.Errorf("%v: %v", c, k.again)
		}
	}
}

// A segment whose timestamp stands still is the next one as much as one whose moves on.
func TestSameTimestamp(t *testing.T) {
	x := timestamps(7, 1)
	for val, want := range map[uint32]bool{6: false, 7: true, 8: true, 7 + 1<<31 - 1: true, 7 + 1<<31: false} {
		if got := sameOptions(x, timestamps(val, 2)); got != want {
			t.Errorf("after 7, %d: %v", val, got)
		}
	}
	if sameOptions(x, bytes.Repeat([]byte{1}, 12)) {
		t.Error("no timestamp after one")
	}
}

// Datagrams of one length make a run, and a shorter one ends it.
func TestJoinUDPRuns(t *testing.T) {
	for _, tt := range []struct {
		sizes []int
		want  int // how many of the last are one run
	}{
		{[]int{100, 100, 100, 100}, 4}, {[]int{100, 100, 100, 30}, 4}, {[]int{100, 30, 30, 30}, 3}, {[]int{120, 100, 100}, 2},
		{[]int{30, 100, 100}, 2}, {[]int{120, 100}, 2}, {[]int{30, 100}, 1}, {[]int{100, 0}, 1},
	} {
		var k packet
		got := 1
		for i := len(tt.sizes) - 1; i >= 0; i-- {
			n := tt.sizes[i]
			var a packet
			d := append([]byte{inner.UDP, 0, 1, 0, 2, 0, byte(8 + n), 0, 0}, bytes.Repeat([]byte{byte(i)}, n)...)
			if why, ok := a.parse(d, false, peer4, self4); !ok {
				t.Fatal(why)
			}
			a.seg = a.n
			if i == len(tt.sizes)-1 {
				k = a
				continue
			}
			if !k.joinUDP(&a) {
				break
			}
			got++
		}
		if got != tt.want {
			t.Errorf("%v: %d of them in one run, want %d", tt.sizes, got, tt.want)
		}
	}
}

// What a fragment header reserves does not come through: who reads it may take it for
// something.
func TestFragmentReserved(t *testing.T) {
	var k packet
	if why, ok := k.parse([]byte{inner.Fragment, inner.UDP, 0xff, 0, 15, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8}, true, peer6, self6); !ok {
		t.Fatal(why)
	}
	if want := []byte{inner.UDP, 0, 0, 9, 0, 0, 0, 1}; !bytes.Equal(k.head[:k.hl], want) {
		t.Errorf("%x, want %x", k.head[:k.hl], want)
	}
}
