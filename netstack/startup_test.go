package netstack

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
)

// bottleneck plays a connection that doubles what is under way each round trip,
// within the window that s leaves it, over a path of so many bytes a second. What
// is sent is acknowledged by datagrams of size bytes. It returns the window and the
// longest queue, in bytes, after so many round trips.
func bottleneck(s *startup, bps float64, rtt time.Duration, size, rounds int, jitter time.Duration) (window, queue int) {
	rnd := rand.New(rand.NewPCG(1, uint64(bps)))
	type flight struct {
		at  time.Duration // when its acknowledgement comes
		seq uint32
	}
	var under []flight // a queue
	now := time.Duration(1)
	free := now
	seq, una := uint32(1<<31-200_000), uint32(1<<31-200_000) // runs into the sign
	cwnd, window := 10*size, 1<<30
	last := now
	for now < time.Duration(rounds)*rtt {
		for int(seq-una)+size <= min(cwnd, window) {
			free = max(free, now)
			queue = max(queue, int((free-now).Seconds()*bps))
			free += time.Duration(float64(size) / bps * 1e9)
			seq += uint32(size)
			last = max(last, free+rtt+time.Duration(rnd.Int64N(int64(jitter)+1)))
			under = append(under, flight{last, seq})
		}
		now = under[0].at
		una = under[0].seq
		under = under[1:]
		cwnd += size // slow start
		if w := s.ack(una, false, now); w > 0 {
			window = w
		}
	}
	return window, queue
}

// The window comes to what the path holds, however wide and long it is, and not
// later than doubling would. On the way it leaves most of a queue alone.
func TestStartup(t *testing.T) {
	for _, x := range []struct {
		bps    float64 // bytes a second
		rtt    time.Duration
		jitter time.Duration
	}{
		{2.5e6, 100 * time.Millisecond, 0},
		{25e6, 100 * time.Millisecond, 0},
		{25e6, 100 * time.Millisecond, 2 * time.Millisecond},
		{125e6, 100 * time.Millisecond, time.Millisecond},
		{125e6, 20 * time.Millisecond, 100 * time.Microsecond},
		{12e6, 300 * time.Millisecond, 10 * time.Millisecond},
	} {
		holds := int(x.bps * x.rtt.Seconds())
		doublings := 0
		for w := 10 * 1400; w < holds; w *= 2 {
			doublings++
		}
		window, queue := bottleneck(&startup{rtt: x.rtt}, x.bps, x.rtt, 1400, doublings+8, x.jitter)
		t.Logf("%.1f MB/s, %v: the path holds %d, window %d, queue %d", x.bps/1e6, x.rtt, holds, window, queue)
		if window < holds || window > holds*3/2 {
			t.Errorf("%.1f MB/s, %v: window %d for a path that holds %d", x.bps/1e6, x.rtt, window, holds)
		}
		if queue > holds*2/3 {
			t.Errorf("%.1f MB/s, %v: a queue of %d on a path that holds %d", x.bps/1e6, x.rtt, queue, holds)
		}
	}
}

// After a gap what is under way grows step by step from a part of what it was, so
// that it does not come as one burst; and what filled the gap, which acknowledges
// much at once, says nothing of the path.
func TestStartupGap(t *testing.T) {
	for _, lossy := range []bool{false, true} {
		const rtt = 100 * time.Millisecond
		s := &startup{rtt: rtt}
		seq, now := uint32(0), time.Duration(1)
		steady := func(n int) (w int) {
			for range n {
				seq, now = seq+10_000, now+time.Millisecond // 10 MB/s
				w = s.ack(seq, false, now)
			}
			return w
		}
		before := steady(1000)
		if lossy {
			s.lost()
		}
		for range 100 {
			now += time.Millisecond
			want := before
			if lossy {
				want = 0
			}
			if w := s.ack(seq, true, now); w != want {
				t.Fatalf("lossy %v: window %d in a gap, want %d", lossy, w, want)
			}
		}
		seq += 1_000_000
		if w := s.ack(seq, false, now); w < before/6 || w > before/3 {
			t.Errorf("lossy %v: window %d right after a gap, %d before", lossy, w, before)
		}
		if w := steady(200); w < before*3/4 || w > before*5/4 {
			t.Errorf("lossy %v: window %d two round trips after a gap, %d before", lossy, w, before)
		}
		switch w := steady(800); {
		case lossy && w != 0:
			t.Errorf("window %d long after a loss", w)
		case !lossy && (w < before*9/10 || w > before*5/4):
			t.Errorf("window %d long after a gap, %d before", w, before)
		}
	}
}

// What was only overtaken changes nothing, however often.
func TestStartupLate(t *testing.T) {
	const rtt = 100 * time.Millisecond
	s := &startup{rtt: rtt}
	seq, now := uint32(0), time.Duration(1)
	steady := func(n int) (w int) {
		for range n {
			seq, now = seq+10_000, now+time.Millisecond
			w = s.ack(seq, false, now)
		}
		return w
	}
	before := steady(1000)
	for range 100 {
		for range 20 {
			now += time.Millisecond
			s.ack(seq, true, now)
		}
		seq += 200_000
		if w := steady(10); w < before || w > before*5/4 {
			t.Fatalf("window %d after a late datagram, %d before", w, before)
		}
	}
}

// Another path, another measurement; the same one a little slower is the same.
func TestStartupMoves(t *testing.T) {
	const rtt = 100 * time.Millisecond
	s := &startup{rtt: rtt}
	bottleneck(s, 25e6, rtt, 1400, 20, 0)
	was := s.rate
	if s.retime(rtt * 5 / 4); s.rate != was || s.rtt != rtt {
		t.Errorf("rate %.0f, %v after the path had slowed down a little", s.rate, s.rtt)
	}
	if s.retime(3 * rtt); s.rate != 0 || s.rtt != 3*rtt {
		t.Errorf("rate %.0f, %v after a move", s.rate, s.rtt)
	}
	if w := s.ack(1, false, time.Second); w != 0 {
		t.Errorf("window %d of a path that nothing is known of", w)
	}
}

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

// A watched connection is shown the smaller of two windows, in the units of its
// scale; all else of the segment, and all other segments, stay as they are.
func TestStartupShows(t *testing.T) {
	watched, other := new(tcpConn), new(tcpConn)
	watched.startup.Store(&startup{scale: 9, rtt: 100 * time.Millisecond, rate: 1e6}) // 10⁵ bytes, 195 units of 512
	for _, x := range []struct {
		what  string
		conn  *tcpConn
		th    header.TCP
		shown uint16
	}{
		{"a larger window", watched, segmentOf(header.TCPFlagAck, 5, 60000), uint16(int(0.9*1e5) >> 9)},
		{"with options", watched, segmentOf(header.TCPFlagAck, 5, 60000, header.TCPOptionTS, 10, 0, 0, 0, 0, 0, 0, 0, 0), uint16(int(0.9*1e5) >> 9)},
		{"a smaller window", watched, segmentOf(header.TCPFlagAck, 5, 7), 7},
		{"a closed window", watched, segmentOf(header.TCPFlagAck, 5, 0), 0},
		{"another connection", other, segmentOf(header.TCPFlagAck, 5, 60000), 60000},
	} {
		want := append(header.TCP(nil), x.th...)
		binary.BigEndian.PutUint16(want[14:], x.shown)
		if x.conn.show(headerOf(x.th), x.th); string(x.th) != string(want) {
			t.Errorf("%s: % x, want % x", x.what, x.th, want)
		}
	}
}

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

func TestSelective(t *testing.T) {
	for _, x := range []struct {
		o    []byte
		want bool
	}{
		{nil, false},
		{[]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		{[]byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}, true},
		{[]byte{0, 5, 10}, false},
		{[]byte{8}, false},
		{[]byte{8, 0, 5, 10}, false},
		{[]byte{8, 200, 5, 10}, false},
		{[]byte{5}, true},
	} {
		if got := selective(x.o); got != x.want {
			t.Errorf("% x: %v", x.o, got)
		}
	}
}

// A connection over a long path that begins to write much is watched until it is
// closed, and loses nothing by it; one over a short path is not.
func TestStartupOfAConn(t *testing.T) {
	r := newBareRig(t)
	near, far := r.pair(t, r.b4)
	bulk(t, near, far, 8*paceEvery)
	if near.startup.Load() != nil {
		t.Error("a connection over a short path is being watched")
	}
	r.net.SetDelay(15 * time.Millisecond)
	eventually(t, "the pipe does not measure the longer path", func() bool {
		// Measured only now and then while nothing asks for it.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p, err := r.a.Connect(ctx, r.b.ID)
		if err != nil {
			return false
		}
		_, _, _ = p.Ping(ctx)
		return r.a.Shim.RTT(r.b4) >= startupRTT
	})
	for _, at := range []netip.Addr{r.b4, r.b6} {
		c, s := r.pair(t, at)
		bulk(t, c, s, 16*paceEvery)
		w := c.startup.Load()
		if w == nil {
			t.Fatalf("%v: a connection over a long path is not watched", at)
		}
		w.mu.Lock()
		if w.rate == 0 || w.rtt < startupRTT {
			t.Errorf("%v: rate %.0f, round trip %v", at, w.rate, w.rtt)
		}
		w.mu.Unlock()
		_ = c.Close()
		if c.startup.Load() != nil {
			t.Errorf("%v: still watched after Close", at)
		}
	}
}
