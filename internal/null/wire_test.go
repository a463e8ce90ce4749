package null

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// link is a TCP connection as two kernels see it, with small buffers and
// faults: from some byte on nothing comes through any more, in one direction
// or both, and what was delivered last may never be acknowledged.
type link struct {
	mu      sync.Mutex
	changed chan struct{}
	ends    [2]*end
	fault   fault
	passed  [2]int // bytes delivered from each end
	down    [2]bool
	payload [2][]byte // everything that crossed, for who wants to look
}

// fault is when and how a link dies. Negative counts: never.
type fault struct {
	after    [2]int // bytes delivered from end i before its direction is cut
	finLost  bool   // a FIN counts as one more byte for after
	both     bool   // the other direction is cut as well
	lag      int    // how many bytes delivered before the cut stay unacknowledged
	silent   [2]bool
	noticing time.Duration // how long it takes an end that is not silent
}

var healthy = fault{after: [2]int{-1, -1}}

type end struct {
	l        *link
	i        int
	in, out  []byte
	inFin    bool
	outFin   bool
	finGone  bool
	err      error
	told     bool // a call has returned err: the next ones see an end
	closed   bool
	rd, wd   time.Time
	rcv, snd int
}

var _ Conn = (*end)(nil)

func newLink(rcv, snd int, f fault) (*link, Conn, Conn) {
	l := &link{changed: make(chan struct{}), fault: f}
	for i := range l.ends {
		l.ends[i] = &end{l: l, i: i, rcv: rcv, snd: snd}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moveLocked()
	return l, l.ends[0], l.ends[1]
}

func (l *link) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// moveLocked delivers what can be.
func (l *link) moveLocked() {
	for i, e := range l.ends {
		p := l.ends[1-i]
		for !l.down[i] && e.err == nil {
			if l.fault.after[i] >= 0 && l.passed[i] >= l.fault.after[i] {
				l.cutLocked(i)
				break
			}
			n := min(len(e.out), p.rcv-len(p.in))
			if l.fault.after[i] >= 0 {
				n = min(n, l.fault.after[i]-l.passed[i])
			}
			if p.closed {
				if len(e.out) > 0 { // data to who has closed: reset
					e.err = syscall.ECONNRESET
				} else if e.outFin {
					e.finGone = true
				}
				break
			}
			if n > 0 {
				p.in = append(p.in, e.out[:n]...)
				l.payload[i] = append(l.payload[i], e.out[:n]...)
				e.out = e.out[n:]
				l.passed[i] += n
				continue
			}
			if len(e.out) == 0 && e.outFin && !e.finGone {
				e.finGone, p.inFin = true, true
				if l.fault.finLost {
					l.passed[i]++
				}
				continue
			}
			break
		}
	}
	l.wakeLocked()
}

func (l *link) cutLocked(i int) {
	l.down[i] = true
	if l.fault.both {
		l.down[1-i] = true
	}
	for _, e := range l.ends {
		if !l.fault.silent[e.i] {
			time.AfterFunc(l.fault.noticing, func() { e.fail(syscall.ETIMEDOUT) })
		}
	}
}

// cut kills the link now.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault.both = true
	l.cutLocked(0)
}

func (e *end) fail(err error) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	if e.err == nil && !e.closed {
		e.err = err
		e.l.wakeLocked()
	}
}

func (e *end) waitLocked(until time.Time) {
	ch := e.l.changed
	e.l.mu.Unlock()
	if until.IsZero() {
		<-ch
	} else {
		t := time.NewTimer(time.Until(until))
		select {
		case <-ch:
		case <-t.C:
		}
		t.Stop()
	}
	e.l.mu.Lock()
}

func (e *end) Read(b []byte) (int, error) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	for {
		if e.closed {
			return 0, net.ErrClosed
		}
		if passed(e.rd) {
			return 0, os.ErrDeadlineExceeded
		}
		if n, err := e.takeLocked(b); n > 0 || err != nil {
			return n, err
		}
		e.waitLocked(e.rd)
	}
}

func (e *end) takeLocked(b []byte) (int, error) {
	if len(e.in) > 0 {
		n := copy(b, e.in)
		e.in = e.in[n:]
		e.l.moveLocked()
		return n, nil
	}
	if e.inFin || e.told {
		return 0, io.EOF
	}
	e.told = e.err != nil
	return 0, e.err
}

func (e *end) Ended() bool {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	return e.err == nil || e.inFin && !e.told
}

func (e *end) Take(b []byte) (int, error) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	return e.takeLocked(b)
}

func (e *end) Write(b []byte) (n int, err error) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	for {
		switch {
		case e.closed:
			return n, net.ErrClosed
		case passed(e.wd):
			return n, os.ErrDeadlineExceeded
		case e.told:
			return n, syscall.EPIPE
		case e.err != nil:
			e.told = true
			return n, e.err
		case e.outFin:
			return n, syscall.EPIPE
		case n == len(b):
			return n, nil
		}
		if k := min(len(b)-n, e.snd-len(e.out)); k > 0 {
			e.out = append(e.out, b[n:n+k]...)
			n += k
			e.l.moveLocked()
			continue
		}
		e.waitLocked(e.wd)
	}
}

func (e *end) Unacked() (int, bool) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	n := len(e.out)
	if e.outFin && !e.finGone {
		n++
	}
	if e.l.down[e.i] || e.l.down[1-e.i] {
		n += min(e.l.fault.lag, e.l.passed[e.i])
	}
	return n, true
}

func (e *end) Silent() bool {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	return e.err != nil
}

func (e *end) CloseWrite() error {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	e.outFin = true
	e.l.moveLocked()
	return nil
}

func (e *end) Abort() {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.resetLocked()
}

func (e *end) resetLocked() {
	if e.closed {
		return
	}
	e.closed = true
	e.out, e.err = nil, net.ErrClosed // nothing of it moves any more
	if p := e.l.ends[1-e.i]; !e.l.down[e.i] && p.err == nil && !(p.inFin && p.finGone) {
		p.err = syscall.ECONNRESET
	}
	e.l.wakeLocked()
}

func (e *end) Close() error {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	if len(e.in) > 0 {
		e.resetLocked()
		return nil
	}
	e.outFin = true
	e.l.moveLocked()
	e.closed = true
	e.l.wakeLocked()
	return nil
}

func (e *end) SetDeadline(t time.Time) error {
	_ = e.SetReadDeadline(t)
	return e.SetWriteDeadline(t)
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.rd = t
	e.l.wakeLocked()
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.wd = t
	e.l.wakeLocked()
	return nil
}

func (e *end) LocalAddr() net.Addr  { return &net.TCPAddr{Port: 1 + e.i} }
func (e *end) RemoteAddr() net.Addr { return &net.TCPAddr{Port: 2 - e.i} }
