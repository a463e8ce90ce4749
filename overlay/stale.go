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

	mu    sync.Mutex // guards what follows
	asked map[peer.ID]bool
	last  time.Time // due said so
}

// due says whether it is time to ask everybody for a reason that may come
// often.
func (s *stale) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < staleTimeout/2 {
		return false
	}
	s.last = time.Now()
	return true
}

// check asks a member a question, and closes the connections to it if no
// answer comes. It returns at once.
func (s *stale) check(p peer.ID) {
	s.mu.Lock()
	busy := s.asked[p]
	s.asked[p] = true
	s.mu.Unlock()
	if busy {
		return
	}
	s.o.spawn(func() {
		s.question(p)
		s.mu.Lock()
		delete(s.asked, p)
		s.mu.Unlock()
	})
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
		at, ok := addrPort(c.RemoteMultiaddr())
		if ok && s.o.cfg.Socket.HeardQUIC(at, staleTimeout) {
			continue // the answer is late, or lost: the connection lives
		}
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

// checkAll asks all members.
func (s *stale) checkAll() {
	for _, d := range s.o.gate.members() {
		s.check(d.peer)
	}
}
