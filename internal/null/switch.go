package null

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A change of connections:
//
//  1. lostLocked, Lost or Pause: the connection is to be left.
//  2. stop: whoever is inside it is made to leave, what its system has
//     received is taken, it is reset. From here on the counts stand still.
//  3. Config.Resume tells the peer the counts (Report) and gets its own.
//  4. Install: the new connection is first given what the peer lacks (catchUp),
//     then what the application writes.

const (
	// takeMax bounds what is taken off connections that are stopped and waits to be
	// read, beyond what one may have unread. What is left there the peer has kept.
	takeMax   = 2 * MaxUnread
	takePiece = 64 << 10
)

// Pauses between attempts to resume.
const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 2 * time.Second
)

// lostLocked notes that c no longer serves and has it replaced.
func (s *Stream) lostLocked(c Conn, err error) {
	if s.conn != c || s.stopping || s.ended || s.dead {
		return
	}
	s.dead, s.why = true, err
	s.wakeLocked()
	if s.closed && s.deliveredLocked() {
		return // the peer may still want another; linger ends it
	}
	s.resumeLocked()
}

// Lost has the connection replaced: its path is known to be dead, or its local
// address is gone. c, if not nil, is the connection meant.
func (s *Stream) Lost(c Conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		c = s.conn
	}
	if c != nil {
		s.lostLocked(c, err)
	}
}

// Check looks for a loss that no Read or Write would meet, because nobody is
// reading or writing. Call it now and then.
func (s *Stream) Check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conn; c != nil && !s.stopping && !s.dead && c.Silent() {
		s.lostLocked(c, errSilent)
	}
}

var errSilent = errors.New("null: the peer's system does not answer")

func (s *Stream) resumeLocked() {
	if s.resuming || s.ended {
		return
	}
	s.resuming = true
	s.wg.Go(s.resume)
}

// Pause stops the connection because the peer wants another, and says where
// the stream stands. The count does not change until Install, which must
// follow; else the stream looks for a connection itself. ok is false if the
// stream has ended.
func (s *Stream) Pause() (r Report, ok bool) {
	s.stop(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return r, false
	}
	s.resumeLocked()
	return s.reportLocked(), true
}

func (s *Stream) reportLocked() Report {
	r := Report{Taken: s.taken, Ended: s.eof, Unread: uint32(s.cfg.Unread), installs: s.installs}
	if s.writeShut {
		r.Closed, r.End = true, s.kept.end
	}
	return r
}

// Fresh says whether the stream still stands where r says: it has had no
// connection since. Whoever tells a peer r must have made sure that none comes
// in between.
func (s *Stream) Fresh(r Report) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil && s.installs == r.installs
}

// stop leaves the connection: after it nothing more of the old one is counted.
// With lostOnly a connection that serves stays: it was installed between the
// loss, or the peer's wish, and whoever sees to it now.
func (s *Stream) stop(lostOnly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn
	if c == nil || lostOnly && !s.dead && !s.stopping {
		return
	}
	if s.stopping {
		for s.stopping {
			s.waitLocked()
		}
		return
	}
	s.stopping = true
	s.wakeLocked()
	_ = c.SetDeadline(longAgo)
	for s.reading || s.writing {
		s.waitLocked()
	}
	_ = c.SetDeadline(time.Time{})
	s.drainLocked(c)
	c.Abort()
	s.conn, s.stopping, s.dead, s.behind, s.finSent = nil, false, false, false, false
	s.wakeLocked()
}

// drainLocked takes what has come on c. Nobody else uses it.
func (s *Stream) drainLocked(c Conn) {
	b := make([]byte, takePiece)
	for room := takeMax - len(s.pending); room > 0 && !s.eof; {
		n, err := c.Take(b[:min(len(b), room)])
		s.taken += uint64(n)
		room -= n
		if !s.closed && !s.readShut {
			s.pending = append(s.pending, b[:n]...)
		}
		if n == 0 {
			if err == io.EOF && c.Ended() && !(s.endKnown && s.taken != s.peerEnd) {
				s.eof = true
			}
			return
		}
	}
}

// resume finds a connection in place of the one lost.
func (s *Stream) resume() {
	err := s.replace()
	s.mu.Lock()
	s.resuming = false
	if err != nil {
		s.failLocked(err)
	}
	if s.conn == nil || s.dead { // again, while resuming was still set
		s.resumeLocked()
	}
	s.mu.Unlock()
}

func (s *Stream) replace() error {
	s.stop(true)
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Patience)
	defer cancel()
	wait := retryFirst
	for {
		s.mu.Lock()
		if s.conn != nil || s.ended {
			s.mu.Unlock()
			return nil
		}
		r := s.reportLocked()
		s.mu.Unlock()
		err := s.cfg.Resume(ctx, r)
		switch {
		case err == nil:
			continue
		case errors.Is(err, ErrReset):
			return ErrReset
		case ctx.Err() != nil:
			return ErrLost
		}
		s.pause(ctx, wait)
		wait = min(2*wait, retryMax)
	}
}

// pause waits, until the stream has a connection at most.
func (s *Stream) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		s.mu.Lock()
		ch, done := s.changed, s.conn != nil || s.ended
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Install goes on with c, which the stream owns from now on, where the peer's
// report says. mine is the report that the peer got for c: if the stream has
// been given another connection since, the peer would begin at the wrong byte,
// and the error is ErrStale. ErrCount says that the peer's report cannot be:
// the stream has then failed, as after a reset.
func (s *Stream) Install(c Conn, mine, peer Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		c.Abort()
		return ErrReset
	case s.conn != nil || mine.installs != s.installs:
		c.Abort()
		return ErrStale
	}
	if !s.fitsLocked(peer) {
		err := fmt.Errorf("%w: %+v, with bytes from %d to %d here, %d confirmed, %d taken",
			ErrCount, peer, s.kept.base, s.kept.end, s.confirmed, s.taken)
		c.Abort()
		s.failLocked(err)
		return err
	}
	s.confirmed = max(s.confirmed, peer.Taken)
	s.kept.trim(peer.Taken)
	s.sent = peer.Taken
	s.finTaken = s.finTaken || peer.Ended
	if peer.Closed {
		s.endKnown, s.peerEnd = true, peer.End
	}
	s.peerUnread = uint64(peer.Unread)
	s.conn = c
	s.installs++
	if s.class != 0 {
		s.classLocked()
	}
	if s.sent < s.kept.end {
		s.behind, s.writing = true, true
		s.wg.Go(func() { s.catchUp(c) })
	}
	s.deadlinesLocked()
	s.finishLocked()
	s.wakeLocked()
	return nil
}

// fitsLocked says whether the peer's report fits what was sent and received.
func (s *Stream) fitsLocked(peer Report) bool {
	switch {
	case peer.Taken < s.kept.base || peer.Taken < s.confirmed || peer.Taken > s.kept.end,
		peer.Ended && (!s.writeShut || peer.Taken != s.kept.end),
		s.finTaken && !peer.Ended,
		peer.Closed && (peer.End < s.taken || s.eof && peer.End != s.taken || s.endKnown && peer.End != s.peerEnd),
		!peer.Closed && (s.eof || s.endKnown),
		peer.Unread > MaxPeerUnread:
		return false
	}
	return true
}

// catchUp sends what the peer lacks. It has writing.
func (s *Stream) catchUp(c Conn) {
	s.mu.Lock()
	at, end := s.sent, s.kept.end
	s.mu.Unlock()
	var err error
	for at < end && err == nil {
		var n int
		n, err = c.Write(s.kept.at(at))
		at += uint64(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	if s.conn == c {
		s.sent = at
		s.behind = at < end
	}
	if !s.stopping {
		s.deadlinesLocked()
	}
	s.wroteLocked(c, err)
	s.wakeLocked()
}

// failLocked ends the stream with an error.
func (s *Stream) failLocked(err error) {
	if s.err == nil {
		s.err = err
	}
	s.endLocked()
}

// endLocked says that no connection is needed any more.
func (s *Stream) endLocked() {
	if s.ended {
		return
	}
	s.ended = true
	s.cancel()
	if s.cfg.Ended != nil {
		err := s.err
		s.wg.Go(func() { s.cfg.Ended(err) })
	}
	s.wakeLocked()
}
