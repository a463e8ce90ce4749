package difftest

func (m *model) write(s *Step, c *modelConn, e, p *end) bool {
	switch s.Op {
	case CutWrite:
		if !e.writing {
			return false
		}
		m.stops(s, s.Conn, s.Side, expect{anyN: true, why: "how much buffers take is the system's"})
		p.chunks, p.blur = nil, true
		return true
	case WritePast:
		return !e.writing
	case WriteFail:
		if e.writing || e.wclosed || e.murky || p.open && !e.reset {
			return false
		}
		s.anyN, s.why = true, "how many writes it takes is a race's"
		e.told = e.crashed
		if e.fin {
			s.allow, s.lossy = failed, false
			s.why = "whether a FIN or the reset comes first"
			e.murky = true
		}
		e.reset = true
		return true
	}
	if e.writing || s.Op == BeginWrite && (!e.tight || e.reset || e.fin || e.murky || e.wclosed || !p.open || p.rclosed || p.reading > 0 || !c.accepted) {
		return false
	}
	if p.reading > 0 && s.N > 0 && s.N < p.reading {
		return false
	}
	limit := maxAhead
	if p.tight {
		limit = maxAheadTight
	}
	if s.Op != BeginWrite && (p.blur || p.avail()+s.N > limit) {
		return false
	}
	switch {
	case e.wclosed:
		if e.reset || e.murky {
			s.allow, s.why, e.murky = failed, arrivals, true
		}
		return s.N > 0
	case e.reset || e.murky:
		if e.ended && !e.fin && !e.rclosed && !e.murky { // the reset has been seen
			return true
		}
		s.allow, s.anyN, s.why, e.murky = broken, true, arrivals, true
		return true
	case s.N == 0:
		return true
	case !p.open:
		e.reset = true
		return true
	case p.rclosed && p.wclosed:
		e.reset, e.murky = true, true
		p.reset, p.murky = true, true
		return true
	}
	p.chunks = append(p.chunks, chunk{n: s.N, alone: s.N <= 1000 && len(p.chunks) == 0 && !p.tight})
	if s.Op == BeginWrite {
		e.writing = true
	}
	if p.reading > 0 {
		p.consume(p.reading)
		m.wakes(s, p, 1-s.Side, expect{})
	}
	return true
}

func (m *model) closeWrite(s *Step, e, p *end) bool {
	if e.writing {
		return false
	}
	s.closes(e)
	e.wclosed = true
	if p.open {
		p.fin, p.held = true, p.held || p.overfull()
	}
	e.bothShut(p)
	if p.open {
		m.wakes(s, p, 1-s.Side, expect{})
	}
	return true
}

// closes says what to expect of CloseRead and CloseWrite.
func (s *Step) closes(e *end) {
	switch {
	case e.wclosed && e.fin:
		s.allow, s.why = shut, "whether the FINs have been acknowledged by then"
	case e.murky, e.reset && (e.fin || e.rclosed || !e.ended):
		s.allow, s.why = shut, arrivals
	}
}

// bothShut is the end of CloseRead and CloseWrite: what comes for one who has
// called both is answered by a reset, and what has not been read yet may be
// about to come.
func (e *end) bothShut(p *end) {
	if e.rclosed && e.wclosed && e.unread() {
		e.reset, e.murky = true, true
		p.reset, p.murky = true, true
	}
}

func (m *model) read(s *Step, e, p *end) bool {
	if s.Op == CutRead {
		if e.reading == 0 {
			return false
		}
		m.wakes(s, e, s.Side, expect{})
		return true
	}
	if e.reading > 0 {
		return false
	}
	clear := !e.rclosed && !e.reset && !e.murky && !e.blur
	switch s.Op {
	case ReadPast:
		return true
	case ReadSoon:
		return clear && len(e.chunks) == 0 && !e.fin
	case BeginRead:
		if !clear || len(e.chunks) > 0 || e.fin || s.N == 0 || e.tight {
			return false
		}
		e.reading = s.N
		return true
	case Read:
		if !clear || p.writing || s.N == 0 {
			return false
		}
		if n := e.avail(); s.N > n {
			if !e.fin {
				return false
			}
			e.ended = true
			e.chunks = nil
			return true
		}
		e.consume(s.N)
		return true
	case ReadAgain:
		if !e.ended {
			return false
		}
	case ReadEnd:
		if p.writing {
			// Until all that the Write has is read: then it is over.
			if !clear {
				return false
			}
			s.N = e.avail()
			s.Op = Read
			e.chunks = nil
			m.stops(s, s.Conn, 1-s.Side, expect{})
			return true
		}
		if !e.fin && !e.reset && !e.rclosed {
			return false
		}
	}
	m.end(s, e)
	return true
}

// end is what to expect of a read that meets the end.
func (m *model) end(s *Step, e *end) {
	switch {
	case e.blur:
		s.anyN, s.why = true, "how much buffers take is the system's"
	case e.rclosed:
		s.anyN, s.why = true, "what comes after CloseRead"
	}
	switch {
	case e.crashed && !e.murky && !e.ended && !e.rclosed:
		e.crashes(s)
	case e.rclosed && e.reset:
		e.murky = true
		fallthrough
	case e.murky:
		s.allow, s.anyN, s.why = cut, true, arrivals
	case e.reset && e.fin && e.wclosed:
		s.allow, s.anyN, s.why = cut, true, "a FIN that came after CloseWrite is forgotten with a reset"
	case e.reset && e.fin && e.held:
		s.allow, s.anyN, s.why = cut, true, holding
	case e.reset && e.unread() && e.held:
		s.anyN, s.why = true, holding
	case e.reset && e.fin:
		s.lossy = !s.anyN
		s.allow, s.anyN, s.why = cut, true, "a reset overtakes a FIN that was lost"
	case e.reset && e.unread():
		s.lossy = !s.anyN
		s.anyN, s.why = true, "a reset discards what was lost before it"
	}
	if e.rclosed && s.Op == ReadAgain {
		s.allow = append([]Class{OK, EOF}, s.allow...)
	}
	e.blur = e.rclosed && e.unread() // and may come yet
	e.chunks = nil
	e.ended = true
}

// crashes is what to expect of the first read after the peer has crashed.
func (e *end) crashes(s *Step) {
	s.anyN, s.why = true, crashing
	if s.crash = []Class{Reset}; e.whole || e.told {
		s.crash = cut // the FIN may have come, or the reset is said already
	}
}

// close is the end of one side's end of a connection, by Close or Exit.
func (m *model) close(s *Step, c *modelConn, side int) {
	conn := m.index(c)
	e, p := &c.ends[side], &c.ends[1-side]
	m.wakesOf(s, conn, side, expect{})
	if e.writing {
		m.stops(s, conn, side, expect{anyN: true, why: "how much buffers take is the system's"})
		p.chunks, p.blur = nil, true
	}
	e.open = false
	if !p.open {
		return
	}
	p.held = p.held || p.overfull()
	switch {
	case e.linger == 0:
		p.reset = true
		if p.fin || e.unread() && !e.arrived() || e.reset || e.murky {
			p.murky = true
		}
	case e.unread() && (e.rclosed || e.wclosed || !e.arrived()):
		p.fin, p.reset, p.murky = true, true, true
	case e.unread():
		p.reset = true
	default:
		p.fin = true
	}
	x := expect{}
	if p.murky {
		x = expect{allow: cut, anyN: true, why: arrivals}
	}
	m.wakesOf(s, conn, 1-side, x)
	m.stops(s, conn, 1-side, expect{allow: failed, anyN: true, why: arrivals})
}

func (m *model) index(c *modelConn) int {
	for i := range m.conns {
		if c == &m.conns[i] {
			return i
		}
	}
	panic("difftest: a connection of another model")
}

// exit ends one side. The kernel does the same when its process crashes.
func (m *model) exit(s *Step) bool {
	for i := range m.conns {
		if e := &m.conns[i].ends[s.Side]; m.conns[i].exists && e.open && e.linger == 0 && e.wclosed {
			return false
		}
	}
	for i := range m.lis {
		if l := &m.lis[i]; l.open && l.side == s.Side {
			m.closeListener(s, i)
		}
	}
	for i := range m.conns {
		c := &m.conns[i]
		if p := &c.ends[1-s.Side]; s.Op == Crash && p.open {
			p.crashed, p.whole = true, p.fin
		}
		if c.exists && c.ends[s.Side].open {
			m.close(s, c, s.Side)
		}
		if p := &m.conns[i].ends[1-s.Side]; p.open && p.fin {
			p.reset = true // a node says that it has ended, and no conn to it is open any more
		}
	}
	m.gone[s.Side] = true
	if s.Op == Crash {
		m.crashWaits(s)
	}
	return true
}

// crashWaits says of calls of the other side that end with a crash that a reset ends
// them, of which one call of a connection hears.
func (m *model) crashWaits(s *Step) {
	heard := make(map[int]int)
	for _, w := range s.waits {
		if w.side != s.Side {
			heard[w.conn]++
		}
	}
	for i := range s.waits {
		w := &s.waits[i]
		if w.side == s.Side {
			continue
		}
		w.anyN, w.why, w.crash = true, crashing, []Class{Reset}
		switch {
		case w.read:
			m.conns[w.conn].ends[w.side].ended = true
			if heard[w.conn] > 1 {
				w.crash = cut
			}
		case heard[w.conn] > 1, m.conns[w.conn].ends[w.side].whole:
			w.crash = failed
		}
	}
}
