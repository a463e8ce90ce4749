package repair

import "time"

const (
	threshold   = 3  // packets that have arrived and were sent later (RFC 9002 §6.1.1)
	calmAfter   = 64 // losses, none of which was late, that halve the reordering window
	reorderPart = 4  // of a round trip, that it is at most

	// An acknowledgement costs as many packets as it passes over, and each packet that
	// was sent pays for workEach: the peer has no work done by what it says alone.
	workEach = 256
	workMost = 1 << 16
	workLate = 32 // for what was lost
)

// Acked takes an acknowledgement; sent is how many counters of its key have been used.
// After ErrLie nothing more is to be taken.
func (s *Sender) Acked(a *Ack, sent uint64, now time.Duration) error {
	if a.N == 0 {
		return nil
	}
	if err := s.honest(a, sent); err != nil {
		return err
	}
	if s.work <= 0 {
		s.Stats.Ignored++
		return nil
	}
	s.work--
	high := a.Ranges[0].High
	i := a.N - 1 // the range that is looked at: the oldest first
	got := false
	for k := s.in.first; k != nil; {
		next := k.next
		s.work--
		if k.index != a.Index {
			if k.index == s.in.last.index {
				break // the newest key's: nothing of another's comes behind
			}
			k = next
			continue
		}
		if k.counter > high {
			break
		}
		for i >= 0 && a.Ranges[i].High < k.counter {
			i--
		}
		if i >= 0 && k.counter >= a.Ranges[i].Low {
			got = true
			s.work++
			s.arrived = max(s.arrived, k.seq)
			s.in.remove(k)
			if k.epoch == s.epoch {
				s.path.Acked(&k.Packet, now)
			}
			s.free(k)
		}
		k = next
	}
	s.late(a, now)
	if got {
		s.probes, s.lastAck, s.heard = 0, now, true
	}
	s.work = max(s.work-s.detectLosses(now), 0)
	s.path.Update(now, a.Delay, s.marked)
	s.marked = false
	return nil
}

// honest refuses what was not sent.
func (s *Sender) honest(a *Ack, sent uint64) error {
	if uint64(a.Ranges[0].High) >= sent {
		return ErrLie
	}
	for _, skip := range s.skips[:min(s.nskips, maxSkips)] {
		if uint32(skip>>32) != a.Index {
			continue
		}
		for _, r := range a.Ranges[:a.N] {
			if c := uint32(skip); c >= r.Low && c <= r.High {
				return ErrLie
			}
		}
	}
	return nil
}

// detect is for losses that time shows.
func (s *Sender) detect(now time.Duration) {
	before := s.in.n
	s.detectLosses(now)
	if s.in.n != before {
		s.path.Update(now, 0, false)
	}
}

func (s *Sender) detectLosses(now time.Duration) (passed int) {
	after := s.lossAfter()
	overtaken := time.Duration(0)
	if s.reorder > 0 {
		overtaken = s.path.Latest() + s.reorder
	}
	for k := s.in.first; k != nil && k.seq < s.arrived; {
		next := k.next
		passed++
		since := now - k.Sent()
		if s.arrived-k.seq >= threshold && since >= overtaken || since >= after {
			s.lose(k, now, true)
		}
		k = next
	}
	return passed
}

// lose has k sent again, unless it is a datagram. It counts as lost unless it is only asked after.
func (s *Sender) lose(k *Packet, now time.Duration, counts bool) {
	s.in.remove(k)
	switch {
	case k.epoch != s.epoch:
	case counts:
		s.path.Lost(&k.Packet, now)
	default:
		s.path.Forget(&k.Packet)
	}
	if s.lost == nil {
		s.lost = lossPool.Get().(*[maxLosses]loss)
	}
	s.unlink(k)
	l := loss{k: k, index: k.index, counter: k.counter, sent: k.Sent(), epoch: k.epoch, open: true}
	if counts {
		l.size = k.Size
	}
	if k.once {
		l.k = nil
	}
	s.lost[s.nlost%maxLosses] = l
	s.nlost++
	k.loss = s.nlost
	if s.sinceOne++; s.sinceOne >= calmAfter {
		s.sinceOne = 0
		s.reorder /= 2
	}
	if k.once {
		s.free(k)
		return
	}
	s.again.push(k)
}

// late finds those that were taken for lost and have arrived. One whose copy has not
// left needs none.
func (s *Sender) late(a *Ack, now time.Duration) {
	if s.lost != nil {
		s.work -= workLate
	}
	for j := range min(s.nlost, maxLosses) {
		if s.lost == nil {
			return // nothing is kept any more
		}
		l := &s.lost[j]
		if !l.open || l.index != a.Index || l.counter > a.Ranges[0].High {
			continue
		}
		if !a.has(l.counter) {
			continue
		}
		l.open = false
		if l.epoch == s.epoch && l.size > 0 {
			s.path.Spurious(l.sent, now, l.size)
		}
		s.Stats.Late++
		s.sinceOne = 0
		shortest, smoothed, _ := s.path.RTT()
		by := now - a.Delay - l.sent - smoothed
		s.reorder = min(max(s.reorder, by, shortest/16), max(smoothed, shortest)/reorderPart)
		if k := l.k; k != nil && k.list == &s.again && k.index == l.index && k.counter == l.counter {
			s.again.remove(k)
			s.free(k)
		}
	}
}

// has says whether c was acknowledged.
func (a *Ack) has(c uint32) bool {
	for _, r := range a.Ranges[:a.N] {
		if c >= r.Low {
			return c <= r.High
		}
	}
	return false
}
