package mesh

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// What one member, and all of one invitation, get in a time; another gets its own.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const seconds = 60
		member := func(n, invitation byte) *membership.Member {
			m := &membership.Member{Peer: peerid.ID{n}}
			if invitation > 0 {
				m.Invitation = membership.Key{invitation}
			}
			return m
		}
		got := func(p *pace, members ...*membership.Member) int64 {
			ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
			defer cancel()
			var n atomic.Int64
			var wg sync.WaitGroup
			for _, m := range members {
				for range 16 {
					wg.Go(func() {
						for wait(ctx, p.limiters(m), streamCost) == nil {
							n.Add(1)
						}
					})
				}
			}
			wg.Wait()
			return n.Load()
		}
		const one = (memberBurst + memberRate*seconds) / streamCost
		near := func(what string, got, want int64) {
			t.Helper()
			if got > want+64 || got < want*9/10 {
				t.Errorf("%s: %d streams in a minute, want %d", what, got, want)
			}
		}
		p := newPace()
		near("one member", got(p, member(1, 0)), one)
		var crowd []*membership.Member
		for n := range 16 {
			crowd = append(crowd, member(byte(10+n), 7))
		}
		near("sixteen of one token", got(p, crowd...), accountTimes*one)
		crowd = nil
		for n := range 4 * accountTimes {
			m := member(byte(100+n), byte(100+n))
			m.Inviter = membership.Key{1}
			crowd = append(crowd, m)
		}
		near("sixteen of as many tokens of one delegate", got(p, crowd...), 2*accountTimes*one)
		near("two of two tokens", got(p, member(2, 1), member(3, 2)), 2*one)
		// An allowance that is whole again is forgotten.
		for n := range 3 * pacedMax {
			p.limiters(&membership.Member{Peer: peerid.ID{9: 1, 10: byte(n), 11: byte(n >> 8)}})
		}
		if len(p.of) > pacedMax+64 {
			t.Errorf("%d are remembered", len(p.of))
		}
		for range memberBurst/connCost + 8 {
			p.connects(member(1, 0))
		}
		if p.connects(member(1, 0)) || !p.connects(member(50, 0)) {
			t.Error("connections are not counted, or another's are")
		}
	})
}

// TestQuestionsWithoutEnd is the attack: one member asks as fast as it can. It gets what
// its allowance is, and another member's question is answered meanwhile.
func TestQuestionsWithoutEnd(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	earth, bad, venus := f.launch(), f.launch(), f.launch()
	// Each question is long: the allowance is used up on a slow machine too.
	const size = 16 << 10
	long := Protocol{Name: "long", MaxRequest: size, MaxAnswer: size, Timeout: time.Minute}
	var served atomic.Int64
	earth.Serve(long, func(_ context.Context, from *membership.Member, request []byte) ([]byte, error) {
		if from.Peer == bad.id {
			served.Add(1)
		}
		return request, nil
	})
	bad.meet(earth)
	venus.meet(earth)
	start := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = bad.Ask(ctx, earth.peer(), long, make([]byte, size))
			}
		})
	}
	await(t, "the allowance used up", func() bool {
		for _, l := range earth.gate.pace.limiters(&membership.Member{Peer: bad.id}) {
			if l.Tokens() > 0 {
				return false
			}
		}
		return true
	})
	for range 8 {
		if b, err := venus.Ask(t.Context(), earth.peer(), long, []byte("venus")); err != nil || string(b) != "venus" {
			t.Errorf("another member: %q, %v", b, err)
		}
	}
	cancel()
	wg.Wait()
	if most := (memberBurst + memberRate*int64(time.Since(start)/time.Millisecond)/1000) / (streamCost + size); served.Load() > most+1 {
		t.Errorf("%d questions in %v, at most %d", served.Load(), time.Since(start), most)
	}
}

// TestStreamWithoutEnd is the attack: all comes on one stream.
func TestStreamWithoutEnd(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	earth, bad := f.launch(), f.launch()
	read := make(chan int64, 1)
	earth.HandleStreams(testPrefix+"/much/1", func(s network.Stream, _ *membership.Member) {
		n, _ := io.Copy(io.Discard, s)
		read <- n
	})
	bad.meet(earth)
	s, err := bad.Stream(t.Context(), earth.peer(), testPrefix+"/much/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	const size = memberBurst + memberRate
	start := time.Now()
	if _, err := s.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	if n := <-read; n != size {
		t.Errorf("%d bytes of %d", n, size)
	}
	if took := time.Since(start); took < (size-memberBurst)*time.Second/memberRate {
		t.Errorf("%d bytes in %v", size, took)
	}
}
