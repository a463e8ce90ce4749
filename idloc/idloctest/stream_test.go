package idloctest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"

	"github.com/idloc/idloc/internal/yardstick"
)

// stream is a live TCP connection over which numbered records flow from one
// node to another, one each tick, until end.
type stream struct {
	stop chan struct{}
	wg   sync.WaitGroup

	more chan struct{} // capacity 1: something below has changed

	mu      sync.Mutex // guards what follows
	last    time.Time  // when the newest record came
	stall   time.Duration
	records uint64
	err     error
}

const (
	streamTick = 5 * time.Millisecond
	recordLen  = 512
)

// record fills b with what record n is.
func record(b []byte, n uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], (n+1)*0x9e3779b97f4a7c15+uint64(i))
	}
}

// startStream opens the connection and returns when it has flowed for a while:
// TCP has forgotten how long its SYN waited for the pipe, and standby paths
// are found.
func startStream(t testing.TB, from, to *Node, port int) *stream {
	t.Helper()
	l, err := to.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", to.Name(), port))
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{stop: make(chan struct{}), more: make(chan struct{}, 1)}
	s.wg.Go(func() { s.send(c) })
	s.wg.Go(func() { s.receive(in) })
	s.await(t, "the first records", 20*time.Second, func() bool { return s.records > 300 })
	return s
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed()
}

func (s *stream) changed() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// await waits until ok, which is asked under mu, or until the stream breaks.
func (s *stream) await(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	took := yardstick.Start()
	defer took.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		done, err, n := ok(), s.err, s.records
		s.mu.Unlock()
		switch {
		case err != nil:
			t.Fatalf("the stream broke after %d records: %v", n, err)
		case done:
			return
		}
		if took.Elapsed() > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		select {
		case <-s.more:
		case <-tick.C:
		}
	}
}

func (s *stream) send(c net.Conn) {
	defer c.Close()
	b := make([]byte, recordLen)
	tick := time.NewTicker(streamTick)
	defer tick.Stop()
	for n := uint64(0); ; n++ {
		record(b, n)
		if _, err := c.Write(b); err != nil {
			s.fail(err)
			return
		}
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}

func (s *stream) receive(c net.Conn) {
	defer c.Close()
	b, want := make([]byte, recordLen), make([]byte, recordLen)
	for n := uint64(0); ; n++ {
		if _, err := io.ReadFull(c, b); err == io.EOF {
			return
		} else if err != nil {
			s.fail(err)
			return
		}
		if record(want, n); string(want) != string(b) {
			s.fail(fmt.Errorf("record %d differs", n))
			return
		}
		s.mu.Lock()
		now := time.Now()
		if s.records++; s.records > 1 {
			s.stall = max(s.stall, now.Sub(s.last))
		}
		s.last = now
		s.mu.Unlock()
		s.changed()
	}
}

func (s *stream) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records
}

// disturb runs f and returns how long the stream then stood still, once it
// has been flowing again for a while.
func (s *stream) disturb(t testing.TB, f func()) time.Duration {
	t.Helper()
	s.mu.Lock()
	s.stall = 0
	s.mu.Unlock()
	f()
	// Data that was on its way may still come: count from so many records
	// that there was none.
	before := s.count()
	s.await(t, "the stream goes on", 60*time.Second, func() bool { return s.records > before+200 })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stall
}

// silence waits until nothing has come for a while.
func (s *stream) silence(t testing.TB, d time.Duration) {
	t.Helper()
	quiet := time.NewTimer(d)
	defer quiet.Stop()
	for {
		select {
		case <-s.more:
			quiet.Reset(d)
		case <-quiet.C:
			return
		}
	}
}

// end closes the stream and wants every byte to have come.
func (s *stream) end(t testing.TB) {
	t.Helper()
	close(s.stop)
	s.wg.Wait()
	if s.err != nil {
		t.Errorf("after %d records: %v", s.records, s.err)
	}
}
