package difftest

import "slices"

// model is what is known of both sides without having run anything: enough to
// tell whether a step may wait for ever, and where its outcome is a race's.
type model struct {
	lis   []modelLis
	conns []modelConn
	gone  [2]bool // the side has exited
}

type modelLis struct {
	side   int
	exists bool
	open   bool
}

type modelConn struct {
	exists   bool
	lis      int
	accepted bool
	ends     [2]end
}

// end is one side's end of a connection.
type end struct {
	open             bool // and in the program's hands, or waiting for Accept
	wclosed, rclosed bool
	linger           int
	tight            bool
	chunks           []chunk // written by the peer, not read yet
	blur             bool    // and an unknown part of a Write that was cut
	fin              bool    // the peer has sent its FIN
	reset            bool    // the peer has sent, or will send, a reset
	murky            bool    // whether and how a reset has been seen is a race's
	held             bool    // of what the peer has written before its end some may not have been sent yet
	ended            bool    // a Read has met the end
	crashed          bool    // the peer has ended without a word
	whole            bool    // and had sent its FIN before
	told             bool    // which a Write has heard
	reading          int     // bytes that a Read waits for
	writing          bool    // a Write waits
}

type chunk struct {
	n     int
	alone bool // small, and nothing else was under way
	begun bool // partly read
}

// overfull says whether more segments may be under way than a congestion window
// begins with.
func (e *end) overfull() bool {
	n := 0
	for _, c := range e.chunks {
		n += (c.n + segment - 1) / segment
	}
	return n >= firstWindow
}

func (e *end) avail() (n int) {
	for _, c := range e.chunks {
		n += c.n
	}
	return n
}

func (e *end) unread() bool { return e.blur || len(e.chunks) > 0 }

// arrived says whether all that can be read has surely come: the rest of one
// segment of which something was read.
func (e *end) arrived() bool {
	return !e.blur && len(e.chunks) == 1 && e.chunks[0].alone && e.chunks[0].begun
}

func (e *end) consume(n int) {
	for n > 0 {
		c := &e.chunks[0]
		if n < c.n {
			c.n -= n
			c.begun = true
			return
		}
		n -= c.n
		e.chunks = e.chunks[1:]
	}
}

const (
	maxAhead      = 60_000  // bytes written and not read: the kernel takes so many at once
	maxAheadTight = 4_000   // with small buffers
	bigWrite      = 400_000 // more than these and what is under way
	smallBuffer   = 32 << 10

	// What a conn may send before anything is acknowledged, in segments, and how
	// long one is: less than on the loopback interface, which has 64 kB.
	firstWindow = 10
	segment     = 2 * 1400
)

var (
	cut      = []Class{Reset, EOF}
	broken   = []Class{OK, Pipe, Reset}
	failed   = []Class{Pipe, Reset}
	shut     = []Class{OK, NotConn}
	arrivals = "whether a reset has arrived by then is a race's"
	holding  = "what the congestion window holds back is discarded by a reset"
	crashing = "a crash sends nothing: what is under way is lost, and no end comes that had not been sent"
)

// valid runs the steps through the model: those that may wait for ever, or for
// what is not there, are left out, and the others get what to expect.
func valid(steps []Step) []Step {
	var m model
	var out []Step
	for _, s := range steps {
		s.expect = expect{}
		s.waits = nil
		if m.apply(&s) {
			out = append(out, s)
		}
	}
	return out
}

func (m *model) listener(n int) *modelLis {
	for len(m.lis) <= n {
		m.lis = append(m.lis, modelLis{})
	}
	return &m.lis[n]
}

func (m *model) conn(n int) *modelConn {
	for len(m.conns) <= n {
		m.conns = append(m.conns, modelConn{})
	}
	return &m.conns[n]
}

// waiting says whether connections wait for Accept.
func (m *model) waiting(lis int) bool {
	return slices.ContainsFunc(m.conns, func(c modelConn) bool { return c.exists && !c.accepted && c.lis == lis })
}

// apply takes a step, or says that it may not be taken.
func (m *model) apply(s *Step) bool {
	if m.gone[s.Side] {
		return false
	}
	switch s.Op {
	case Listen, CloseListener, AcceptPast, AcceptClosed, Dial, Accept:
		return m.applyListener(s)
	case Exit, Crash:
		return m.exit(s)
	}
	c := m.conn(s.Conn)
	e, p := &c.ends[s.Side], &c.ends[1-s.Side]
	if !c.exists || !e.open || !c.accepted && s.Side == m.lis[c.lis].side {
		return false
	}
	switch s.Op {
	case Tight:
		if !c.accepted || e.tight || !p.open || e.unread() || p.unread() || e.fin || p.fin || e.reset || p.reset {
			return false
		}
		e.tight, p.tight = true, true
		return true
	case Linger:
		e.linger = s.N
		return true
	case Write, ReadFrom, WritePast, WriteFail, BeginWrite, CutWrite:
		return m.write(s, c, e, p)
	case CloseWrite:
		return m.closeWrite(s, e, p)
	case CloseRead:
		if p.writing || e.writing {
			return false
		}
		s.closes(e)
		e.rclosed = true
		e.bothShut(p)
		m.wakes(s, e, s.Side, expect{})
		return true
	case Close:
		if e.linger == 0 && e.wclosed {
			return false
		}
		m.close(s, c, s.Side)
		return true
	}
	return m.read(s, e, p)
}

func (m *model) applyListener(s *Step) bool {
	l := m.listener(s.Lis)
	switch s.Op {
	case Listen:
		if l.exists {
			return false
		}
		*l = modelLis{side: s.Side, exists: true, open: true}
		return true
	case Dial:
		c := m.conn(s.Conn)
		if c.exists || !l.exists || l.side == s.Side || m.gone[l.side] {
			return false
		}
		if l.open {
			*c = modelConn{exists: true, lis: s.Lis}
			c.ends[0], c.ends[1] = end{open: true, linger: -1}, end{open: true, linger: -1}
		}
		return true
	}
	if !l.open || l.side != s.Side {
		return false
	}
	switch s.Op {
	case Accept:
		c := m.conn(s.Conn)
		if !c.exists || c.accepted || c.lis != s.Lis {
			return false
		}
		c.accepted = true
	case CloseListener:
		m.closeListener(s, s.Lis)
	case AcceptClosed:
		if m.waiting(s.Lis) {
			return false
		}
		l.open = false
	}
	return true
}

// closeListener resets the connections that wait.
func (m *model) closeListener(s *Step, lis int) {
	m.lis[lis].open = false
	for i := range m.conns {
		c := &m.conns[i]
		if !c.exists || c.accepted || c.lis != lis {
			continue
		}
		c.accepted = true
		side := m.lis[lis].side
		c.ends[side].open = false
		e := &c.ends[1-side]
		if e.open {
			e.reset = true
			if e.wclosed || c.ends[side].unread() {
				e.murky = true
			}
			m.wakesOf(s, i, 1-side, expect{allow: cut, why: arrivals})
		}
	}
}

// wakes ends the calls of the step's own connection that wait at one side.
func (m *model) wakes(s *Step, _ *end, side int, x expect) { m.wakesOf(s, s.Conn, side, x) }

func (m *model) wakesOf(s *Step, conn, side int, x expect) {
	e := &m.conns[conn].ends[side]
	if e.murky {
		x = expect{allow: cut, anyN: true, why: arrivals}
	}
	if e.reading > 0 {
		e.reading = 0
		s.waits = append(s.waits, wait{true, side, conn, x})
	}
}

// stops ends a Write that waits.
func (m *model) stops(s *Step, conn, side int, x expect) {
	e := &m.conns[conn].ends[side]
	if e.writing {
		e.writing = false
		s.waits = append(s.waits, wait{false, side, conn, x})
	}
}
