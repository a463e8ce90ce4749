package shim

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
)

// Who is about to connect to a peer waits here for the pipe instead of having
// its SYN held: however many they are, none is dropped, all go on the moment
// that the pipe is up, and all hear why there is none.

// Open's pauses between two attempts to reach a peer: the first, doubled up to
// the last. They count for all who wait for that peer, so that these make one
// attempt together. A peer that comes to us ends a pause.
const (
	pauseFirst = 100 * time.Millisecond
	pauseMost  = 2 * time.Second
	// pauseForget is after what time an attempt counts as the first again.
	pauseForget = 30 * time.Second
)

// attempt is what those wait for who need a pipe.
type attempt struct {
	waiting int           // how many they are
	done    chan struct{} // closed when it is decided; then:
	up      context.Context
	err     error
}

// Open returns when there is a pipe to the peer whose LSI dst is, and asks for
// one, as a packet does, if there is none. up ends when that pipe is gone, or
// replaced by another. The error is the Connector's, ctx's, or net.ErrClosed. A
// dst that is no peer's is no error: the packet will be told (up is nil).
//
// With again, for those who have been here in vain, it first waits until the
// pause after the last attempt is over.
func (s *Shim) Open(ctx context.Context, dst netip.Addr, again bool) (up context.Context, err error) {
	id, ok := s.cfg.Table.Peer(dst)
	if !ok || dst == s.self4 || dst == s.self6 {
		return nil, nil
	}
	last, err := s.pause(ctx, id, again)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, net.ErrClosed
	}
	if f, ok := s.failed[id]; ok && !last.IsZero() && f.at != last {
		s.mu.Unlock()
		return nil, f.err // of those who had waited too, one was faster
	}
	m, ok := s.mappingLocked(id)
	if !ok {
		s.mu.Unlock()
		return nil, nil
	}
	m.mu.Lock()
	if m.pipe.Load() != nil {
		up = m.upLocked(s.ctx)
		m.mu.Unlock()
		s.mu.Unlock()
		return up, nil
	}
	if m.attempt == nil {
		m.attempt = &attempt{done: make(chan struct{})}
	}
	a := m.attempt
	a.waiting++
	start := s.startLocked(m)
	m.mu.Unlock()
	s.mu.Unlock()
	if start {
		s.missed(m, dst)
	}
	select {
	case <-a.done:
		return a.up, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// pause waits until a peer may be tried again, or is there, and returns when the
// attempt was after which it has waited; zero: there was none. Whoever comes for
// the first time waits for what keeps packets back as well.
func (s *Shim) pause(ctx context.Context, id peerid.ID, again bool) (time.Time, error) {
	s.mu.Lock()
	f, ok := s.failed[id]
	s.mu.Unlock()
	if !ok {
		return time.Time{}, nil
	}
	wait := retryAfter
	if again {
		wait = min(pauseFirst<<min(f.tries-1, 8), pauseMost)
	}
	t := time.NewTimer(time.Until(f.at.Add(wait)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.over:
	case <-ctx.Done():
		return f.at, ctx.Err()
	case <-s.ctx.Done():
		return f.at, net.ErrClosed
	}
	return f.at, nil
}

// startLocked says whether a Connect has to begin, and counts it. s.mu and m.mu
// are held.
func (s *Shim) startLocked(m *mapping) bool {
	if m.connecting {
		return false
	}
	m.connecting = true
	s.count.misses.Add(1)
	s.wg.Add(1) // while Close cannot wait yet
	return true
}

// missed begins the Connect.
func (s *Shim) missed(m *mapping, dst netip.Addr) {
	s.cfg.Events.Emit(event.Event{Kind: event.Miss, Peer: m.id, LSI: dst})
	go func() { defer s.wg.Done(); s.connect(m, time.Now()) }()
}

// upLocked returns what ends with the pipe that m has. m.mu is held.
func (m *mapping) upLocked(parent context.Context) context.Context {
	if m.up == nil {
		m.up, m.upEnds = context.WithCancel(parent)
	}
	return m.up
}

// decideLocked tells those who wait for a pipe that m has one, or why it has
// none, and returns how many they are. m.mu is held.
func (s *Shim) decideLocked(m *mapping, err error) int {
	a := m.attempt
	if a == nil {
		return 0
	}
	m.attempt = nil
	if a.err = err; err == nil {
		a.up = m.upLocked(s.ctx)
	}
	close(a.done)
	return a.waiting
}

// lostLocked tells those who use m's pipe that it is gone. m.mu is held.
func (m *mapping) lostLocked() {
	if m.up != nil {
		m.upEnds()
		m.up, m.upEnds = nil, nil
	}
}
