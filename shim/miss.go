package shim

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
)

// Limits of what waits for a pipe, per peer (DESIGN §12).
const (
	maxWaitingPackets = 64
	maxWaitingBytes   = 256 << 10
)

// retryAfter keeps packets that nobody waits for (all but a TCP SYN) from
// starting a Connect right after one that failed.
const retryAfter = 100 * time.Millisecond

// waitingPacket is a packet of the stack, flattened.
type waitingPacket struct {
	packet []byte // IP header first
	mss    int
}

// ErrNoPeer is what Output returns for a destination that is no peer's LSI.
var ErrNoPeer error = DropOutNoPeer

// miss holds a packet and sees to it that a Connect is under way. The caller
// found no pipe at dst, which may have changed since.
func (s *Shim) miss(pk *Packet, in parsed) error {
	dst := pk.h.Dst
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.count.drop(DropOutClosed)
		return net.ErrClosed
	}
	id, ok := s.cfg.Table.Peer(dst)
	if !ok || dst == s.self4 || dst == s.self6 {
		s.mu.Unlock()
		s.answer(pk.Flat(), unreachableNoPeer)
		return s.count.drop(DropOutNoPeer)
	}
	if f, ok := s.failed[id]; ok && !pk.h.Opens() && s.byPeer(id) == nil && time.Since(f.at) < retryAfter {
		s.mu.Unlock()
		s.answer(pk.Flat(), codeFor(f.err))
		return s.count.drop(DropOutFailed)
	}
	m, ok := s.mappingLocked(id)
	if !ok {
		s.mu.Unlock()
		return s.count.drop(DropOutNoPeer)
	}
	m.mu.Lock()
	if p := m.pipe.Load(); p != nil { // it came up meanwhile
		m.mu.Unlock()
		s.mu.Unlock()
		return s.send(m, p, pk, in)
	}
	s.enqueueLocked(m, waitingPacket{pk.Flat(), pk.MSS})
	start := s.startLocked(m)
	m.mu.Unlock()
	s.mu.Unlock()
	if start {
		s.missed(m, dst)
	}
	return nil
}

// enqueueLocked appends h and drops the oldest beyond the limits; m.mu is held.
func (s *Shim) enqueueLocked(m *mapping, h waitingPacket) {
	m.waiting = append(m.waiting, h)
	m.waitingBytes += len(h.packet)
	n := 0
	for len(m.waiting)-n > maxWaitingPackets || m.waitingBytes > maxWaitingBytes {
		m.waitingBytes -= len(m.waiting[n].packet)
		m.waiting[n] = waitingPacket{}
		n++
		s.count.drop(DropOutQueue)
	}
	m.waiting = m.waiting[n:]
}

func (s *Shim) dropWaitingLocked(m *mapping, why Drop) {
	for range m.waiting {
		s.count.drop(why)
	}
	m.waiting, m.waitingBytes = nil, 0
}

// upTries is how often a pipe may come up and be gone again before a packet that
// has come since is answered instead of held on.
const upTries = 3

// connect asks the peer protocol for a pipe to m's peer. It is the one
// goroutine of a mapping while m.connecting, and Close waits for it.
func (s *Shim) connect(m *mapping, since time.Time) {
	for try := 1; ; try++ {
		p, err := s.cfg.Connector.Connect(s.ctx, m.id)
		if err == nil {
			err = s.ready(p)
		}
		up := err == nil
		if up {
			s.install(m, p)
			err = cmp.Or(p.Err(), net.ErrClosed) // if it is gone
		} else if p != nil {
			m.mu.Lock()
			up = m.last == p // and closed before ready looked
			m.mu.Unlock()
		}
		if s.connected(m, up, try, err, since) {
			return
		}
		s.count.misses.Add(1)
	}
}

// connected ends an attempt, err being why there is no pipe if there is none,
// and says whether it was the last.
func (s *Shim) connected(m *mapping, up bool, try int, err error, since time.Time) bool {
	s.mu.Lock()
	m.mu.Lock()
	// The peer may have opened one towards us while our own attempt failed.
	if m.pipe.Load() != nil || up && len(m.waiting) == 0 && m.attempt == nil {
		m.connecting = false
		s.forgetLocked(m.id)
		s.removeLocked(m)
		gone := m.gone
		m.mu.Unlock()
		s.mu.Unlock()
		if gone {
			m.tcp.End()
		}
		return true
	}
	if up && try < upTries && s.ctx.Err() == nil {
		// It has gone again already. What is held has come since: that is
		// another miss.
		m.mu.Unlock()
		s.mu.Unlock()
		return false
	}
	m.connecting = false
	s.setFailedLocked(m.id, err)
	waiting := m.waiting
	s.dropWaitingLocked(m, DropOutFailed)
	connects := s.decideLocked(m, err)
	s.removeLocked(m)
	m.mu.Unlock()
	s.mu.Unlock()

	m.tcp.End()
	s.cfg.Logger.Info("no pipe to peer", "peer", m.id, "held", len(waiting), "connects", connects, "after", time.Since(since), "err", err)
	for _, h := range waiting {
		s.deliverAnswer(answer{h.packet, codeFor(err)})
	}
	return true
}

// ready waits until p can carry data.
func (s *Shim) ready(p *pipe.Pipe) error {
	select {
	case <-p.Ready():
		return nil
	case <-p.Closed():
		return fmt.Errorf("pipe closed before it was up: %w", p.Err())
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// releaseRounds is how often the hold queue is emptied before its pipe is made
// visible all the same. A sender that is faster than the release would fill it,
// and lose packets, without end; now what is left is overtaken, once.
const releaseRounds = 4

// install makes p the mapping's pipe, after the packets that waited for it
// have gone in, in their order. Packets that come meanwhile queue behind
// them, because the pipe is not visible yet.
func (s *Shim) install(m *mapping, p *pipe.Pipe) {
	m.release.Lock()
	defer m.release.Unlock()
	if m.pipe.Load() == p {
		return
	}
	released := 0
	for round := 1; ; round++ {
		m.mu.Lock()
		if m.gone || !isReady(p) { // what waits, and what comes, is a miss again
			m.mu.Unlock()
			return
		}
		if len(m.waiting) == 0 {
			released += s.visibleLocked(m, p)
			m.mu.Unlock()
			break
		}
		batch := m.waiting
		m.waiting, m.waitingBytes = nil, 0
		if round == releaseRounds {
			released += s.visibleLocked(m, p)
		}
		m.mu.Unlock()
		for i := range batch {
			s.sendWaiting(m, p, &batch[i])
		}
		released += len(batch)
		if round == releaseRounds {
			break
		}
	}
	if released > 0 {
		s.cfg.Events.Emit(event.Event{Kind: event.PacketsReleased, Peer: m.id, LSI: m.v4, Detail: strconv.Itoa(released)})
	}
	s.Forget(m.id)
	// Down may have come before the pipe was visible to it. If p is to come
	// up again, Up follows.
	if !isReady(p) {
		s.Down(p, p.Err())
	}
}

// visibleLocked makes p the pipe of m, and returns how many were waiting for
// that. m.mu is held.
func (s *Shim) visibleLocked(m *mapping, p *pipe.Pipe) int {
	m.lostLocked()
	m.pipe.Store(p)
	m.last = p
	return s.decideLocked(m, nil)
}

// isReady says whether p can carry data now.
func isReady(p *pipe.Pipe) bool {
	select {
	case <-p.Ready():
		return true
	default:
		return false
	}
}

func (s *Shim) sendWaiting(m *mapping, p *pipe.Pipe, h *waitingPacket) {
	pk, ok := unflatten(h.packet, h.mss)
	if !ok {
		s.count.drop(DropOutMalformed)
		return
	}
	in, why, ok := s.parse(&pk)
	if !ok {
		s.count.drop(why)
		return
	}
	_ = s.send(m, p, &pk, in) // counted
}

// Forget lets the next packet for peer try again at once, whatever became of
// the last Connect. For those who know that something changed.
func (s *Shim) Forget(peer peerid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(peer)
}

// forgetLocked is Forget with s.mu held.
func (s *Shim) forgetLocked(peer peerid.ID) {
	if f, ok := s.failed[peer]; ok {
		delete(s.failed, peer)
		close(f.over)
	}
}
