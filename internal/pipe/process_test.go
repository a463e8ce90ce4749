package pipe

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// What is open with a process of a peer is taken from the Handler's hands by Gone:
// nothing of the next process is handed on before that has returned, however the end
// became known.
func TestNextProcessWaitsForGone(t *testing.T) {
	for _, x := range []struct {
		what string
		end  func(a, anew, b *host, pa, pb *Pipe)
	}{
		{"it says so", func(a, _, _ *host, pa, _ *Pipe) { pa.Delivered(); go a.Close() }},
		{"it was put out", func(_, _, _ *host, _, pb *Pipe) { go pb.End(ErrClosed) }},
		{"the next says so elsewhere", func(a, anew, b *host, _, _ *Pipe) { go b.PeerStarted(a.id, anew.Start()) }},
		{"the next comes", func(_, _, _ *host, _, _ *Pipe) {}},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b, pa, pb := inUse(t, n)
			settle(time.Second)
			anew := newHost(t, n, 1, "192.0.2.3:1000")
			returns := make(chan struct{})
			b.r.onGone = func() { <-returns }
			x.end(a, anew, b, pa, pb)
			settle(100 * time.Millisecond)
			p, _ := connect(t, anew, b)
			for i := range uint64(5) { // each in a goroutine that receives
				_ = sendNumber(p, i)
				settle(20 * time.Millisecond)
			}
			if n := b.r.numbers(); n != 0 {
				t.Errorf("%s: %d packets of the next process have come", x.what, n)
			}
			if n := b.r.wentAway(); n != 1 {
				t.Errorf("%s: Gone was called %d times", x.what, n)
			}
			close(returns)
			settle(100 * time.Millisecond)
			if n := b.r.numbers(); n != 5 {
				t.Errorf("%s: %d of 5 packets have come", x.what, n)
			}
		})
	}
}

// numbers is how many numbered plaintexts were seen.
func (r *recorder) numbers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// The peers that are remembered are bounded, and one with an end that is not told
// yet is not forgotten.
func TestProcessesAreBounded(t *testing.T) {
	var s processes
	s.init()
	s.ends(peerNumber(0))
	for i := range maxStarts + 100 {
		if anew, wait := s.begins(peerNumber(1+i), 7); anew || wait {
			t.Fatal("another process of a peer that was never seen")
		}
	}
	if len(s.by) != maxStarts {
		t.Errorf("%d are remembered", len(s.by))
	}
	if _, wait := s.begins(peerNumber(0), 7); !wait {
		t.Error("one whose end is not told was forgotten")
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.wait(peerNumber(0)) })
	s.gone(peerNumber(0))
	wg.Wait()
	if anew, wait := s.begins(peerNumber(0), 7); anew || wait {
		t.Error("it is waited for though the end is told")
	}
	if anew, _ := s.begins(peerNumber(0), 6); !anew {
		t.Error("another start number is no news")
	}
	if s.rises(peerNumber(0), 5) || s.rises(peerNumber(maxStarts+500), 5) {
		t.Error("a lower number, or one of a stranger, is news")
	}
}

// A peer that answers pings late must not have Close wait as long as it likes.
func TestCloseBesideALatePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b, pa, pb := inUse(t, n)
		mute := false
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			if from != b.s.addr {
				return false
			}
			if mute {
				return true
			}
			if h, _, ok := wire.ParseHeader(d); ok && h.Type == wire.TypeCtrl {
				late := bytes.Clone(d)
				time.AfterFunc(60*time.Second, func() { a.s.e.Receive(a.s, b.s.addr, late, len(late)) })
				return true
			}
			return false
		})
		for range 900 {
			send(pb, packet(100))
			send(pa, packet(100))
			settle(100 * time.Millisecond)
		}
		if rtt := pa.Status().RTT; rtt < time.Second {
			t.Fatalf("the round trip is %v", rtt)
		}
		mute = true
		began := time.Now()
		a.Close()
		if took := time.Since(began); took != time.Duration(farewellMost) {
			t.Errorf("Close took %v", took)
		}
	})
}

func peerNumber(n int) (id peerid.ID) {
	binary.BigEndian.PutUint32(id[:], uint32(n))
	return id
}
