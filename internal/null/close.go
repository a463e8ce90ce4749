package null

import (
	"net"
	"time"
)

// CloseWrite ends this side's stream, as net.TCPConn's does: the peer reads
// what was written and then io.EOF. During a pause the end is sent after it.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return s.opError("close", net.ErrClosed)
	case s.err != nil:
		return s.opError("close", s.err)
	}
	s.shutLocked()
	return nil
}

// shutLocked ends the writing side; the end goes out as soon as nobody writes.
func (s *Stream) shutLocked() {
	if s.writeShut {
		return
	}
	s.writeShut = true
	s.deadlinesLocked() // a Write that waits leaves
	s.finishLocked()
	s.wakeLocked()
}

// finishLocked sends the FIN if it is due.
func (s *Stream) finishLocked() {
	c := s.conn
	if !s.writeShut || s.finSent || c == nil || s.stopping || s.writing || s.behind {
		return
	}
	_ = c.SetWriteDeadline(time.Time{})
	s.finSent = true
	if err := c.CloseWrite(); err != nil {
		s.finSent = false
		s.lostLocked(c, err)
	}
}

// CloseRead ends the reading side: Read returns io.EOF.
func (s *Stream) CloseRead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("close", net.ErrClosed)
	}
	s.readShut, s.pending = true, nil
	s.deadlinesLocked() // a Read that waits leaves
	s.wakeLocked()
	return nil
}

// Close implements net.Conn. It returns at once; in the background the stream
// goes on for Config.Linger at most, over other connections too, until the
// peer has everything that was written.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("close", net.ErrClosed)
	}
	if s.abortive {
		s.abortLocked()
		return nil
	}
	s.closed = true
	s.pending = nil
	s.readTimer = s.timerLocked(s.readTimer, time.Time{})
	s.writeTimer = s.timerLocked(s.writeTimer, time.Time{})
	s.writeShut = true
	if s.conn != nil && !s.stopping {
		_ = s.conn.SetReadDeadline(longAgo)
		if !s.behind {
			_ = s.conn.SetWriteDeadline(longAgo)
		}
	}
	s.finishLocked()
	s.wakeLocked()
	if !s.ended {
		s.wg.Go(s.linger)
	} else if s.conn != nil {
		s.conn.Abort()
		s.conn = nil
	}
	return nil
}

// SetLinger is net.TCPConn's: with 0 Close does what Abort does; with other
// values what it does by itself.
func (s *Stream) SetLinger(sec int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", net.ErrClosed)
	}
	s.abortive = sec == 0
	return nil
}

// Abort ends the stream at once with a reset. Of a stream that was closed
// before, the system still sends what it has. It is idempotent.
func (s *Stream) Abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abortLocked()
}

func (s *Stream) abortLocked() {
	before := s.closed
	s.closed = true
	s.readTimer = s.timerLocked(s.readTimer, time.Time{})
	s.writeTimer = s.timerLocked(s.writeTimer, time.Time{})
	s.failLocked(net.ErrClosed)
	c := s.conn
	if c == nil || s.stopping {
		return // stop resets it
	}
	s.conn = nil
	_ = c.SetDeadline(longAgo)
	if before && !s.behind {
		_ = c.Close()
	} else {
		c.Abort()
	}
}

// Wait returns when all goroutines of the stream have ended, which they do
// after Abort, or when what Close began is done.
func (s *Stream) Wait() { s.wg.Wait() }

// deliveredLocked says whether the peer's system has all, our end included.
func (s *Stream) deliveredLocked() bool {
	if s.finTaken {
		return true
	}
	if !s.finSent || s.conn == nil {
		return false
	}
	n, ok := s.conn.Unacked()
	return ok && n == 0
}

const (
	lingerFirst = 2 * time.Millisecond
	lingerMax   = 100 * time.Millisecond
)

// linger brings a closed stream to its end. The stream is kept until the
// peer's own end has come, which shows that it goes on with this connection;
// or until it is known to need nothing.
func (s *Stream) linger() {
	end := time.Now().Add(s.cfg.Linger)
	scratch := make([]byte, 1<<10)
	poll := lingerFirst
	refused := false // the peer goes on sending to who has closed
	var drained Conn // is dead, and nothing more will come of it
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended {
		delivered := s.deliveredLocked()
		switch {
		case !time.Now().Before(end),
			delivered && (s.eof || refused),
			s.finTaken && s.eof:
			s.endLocked()
			continue
		}
		c := s.conn
		switch {
		case c == nil || s.stopping || s.eof || s.reading || refused || c == drained:
			s.sleepLocked(poll)
		case s.dead:
			// The system calls a connection closed, too, when both ends have
			// been said: what has come, with the peer's end, is still there.
			drained = c
			s.drainLocked(c)
			continue
		default:
			_ = c.SetReadDeadline(time.Now().Add(poll))
			n, _ := s.receiveLocked(scratch)
			refused = n > 0
		}
		poll = min(2*poll, lingerMax)
	}
	if c := s.conn; c != nil && !s.stopping {
		s.conn = nil
		_ = c.Close() // with something unread: a reset, as from the kernel
	}
}

// sleepLocked waits for a change or for d.
func (s *Stream) sleepLocked(d time.Duration) {
	t := time.AfterFunc(d, s.wake)
	s.waitLocked()
	t.Stop()
}
