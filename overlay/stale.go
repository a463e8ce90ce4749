package overlay

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A NAT that forgets, or a host that wakes up elsewhere with the same private
// address, leaves QUIC connections behind that nobody answers on: QUIC's
// server follows no client that changes its address without saying so, and
// its idle timeout is half a minute. An offer must not wait for that.

// staleTimeout is how long a member has to answer the question whether it is
// still there.
const staleTimeout = 2 * time.Second

// stale finds out which connections are dead, one question at a time for each
// member. It is safe for concurrent use.
type stale struct {
	o *Overlay

	mu    sync.Mutex // guards asked
	asked map[peer.ID]bool
}

// check asks a member a question, and closes the connections to it if no
// answer comes. It returns at once; done, if not nil, is called after, or at
// once if a question is out.
func (s *stale) check(p peer.ID, done func()) {
	s.mu.Lock()
	busy := s.asked[p]
	s.asked[p] = true
	s.mu.Unlock()
	if done == nil {
		done = func() {}
	}
	if busy || !s.o.spawn(func() {
		defer done()
		s.question(p)
		s.mu.Lock()
		delete(s.asked, p)
		s.mu.Unlock()
	}) {
		done()
	}
}

func (s *stale) question(p peer.ID) {
	old := s.o.host.Network().ConnsToPeer(p)
	if len(old) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.o.ctx, staleTimeout)
	defer cancel()
	// Only silence counts: any other failure is an answer, or a connection
	// that has ended by itself.
	if s.answers(ctx, p) || ctx.Err() == nil || s.o.ctx.Err() != nil {
		return
	}
	s.o.log.Debug("a member does not answer on its connection", "peer", p)
	for _, c := range old {
		_ = c.Close()
	}
	s.o.wake()
}

// answers says whether a member says anything on a new stream: it gives its
// list of members, if only an empty one.
func (s *stale) answers(ctx context.Context, p peer.ID) bool {
	st, err := s.o.gate.stream(ctx, p, s.o.proto("peers"))
	if err != nil {
		return false
	}
	defer st.Reset()
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	_ = st.CloseWrite()
	var b [1]byte
	_, err = st.Read(b[:])
	return err == nil
}

// checkAll asks all members and returns a channel that is closed when all
// have answered or were let go.
func (s *stale) checkAll() <-chan struct{} {
	all := s.o.gate.members()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(len(all))
	for _, d := range all {
		s.check(d.peer, wg.Done)
	}
	if !s.o.spawn(func() { wg.Wait(); close(done) }) {
		close(done)
	}
	return done
}
