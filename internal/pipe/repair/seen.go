package repair

import (
	"encoding/binary"
	"time"
)

// MaxRanges is how many ranges an acknowledgement has.
const MaxRanges = 32

// Range is counters that have come, ends included.
type Range struct{ Low, High uint32 }

const (
	ackEvery   = 16                   // packets
	ackAtLeast = time.Millisecond     // that one waits
	ackAtMost  = 5 * time.Millisecond // and at most an eighth of a round trip
)

// Receiver is what has come under one key, and what of it is to be acknowledged. The
// zero value is ready; it belongs to whoever holds its owner's lock.
type Receiver struct {
	seen    Seen
	noting  bool // a packet came that wants to be acknowledged
	wanting int  // of these, since the last acknowledgement
	since   time.Duration
	newest  time.Duration // when the last of them came
	told    uint64        // 1 + the highest counter that was acknowledged
}

// Note takes the counter of a datagram that was opened for the first time. wanted says
// that it wants to be acknowledged.
func (r *Receiver) Note(c uint32, wanted bool) {
	if wanted {
		r.noting = true
		r.wanting++
	}
	if r.noting {
		r.seen.Note(c)
	}
}

// Due is asked when a run of datagrams has come, and when it is time, but not while one
// is being noted: that may be done in any order, and what is not noted yet would be
// taken for lost. It says whether to acknowledge now, and if not when to ask again, 0:
// there is nothing to say. rtt is the path's round trip.
func (r *Receiver) Due(now, rtt time.Duration, came bool) (send bool, at time.Duration) {
	if r.wanting == 0 {
		return false, 0
	}
	if r.since == 0 {
		r.since = now
	}
	if came {
		r.newest = now
	}
	at = r.since + min(max(rtt/8, ackAtLeast), ackAtMost)
	return r.wanting >= ackEvery || r.gap() || now >= at, at
}

// gap says whether a counter was passed over that the last acknowledgement had not
// come to.
func (r *Receiver) gap() bool { return r.told > 0 && uint64(r.seen.r[0].Low) > r.told }

// Len is how many bytes Append appends.
func (r *Receiver) Len() int { return ackHead + r.seen.n*ackRange }

// Wants says whether a packet came that wants to be acknowledged and is not yet.
func (r *Receiver) Wants() bool { return r.wanting > 0 }

// Append appends the acknowledgement (Seen.Append), after which nothing is due.
func (r *Receiver) Append(b []byte, index uint32, now time.Duration) []byte {
	b = r.seen.Append(b, index, now-r.newest)
	r.wanting, r.since, r.told = 0, 0, uint64(r.seen.r[0].High)+1
	return b
}

// Seen is which counters of one key have come, as far back as MaxRanges ranges tell.
// The zero value has seen none.
type Seen struct {
	r [MaxRanges]Range // the newest first
	n int
}

// Note takes a counter; each comes once.
func (s *Seen) Note(c uint32) {
	if s.n > 0 && s.r[0].High != 1<<32-1 && c == s.r[0].High+1 {
		s.r[0].High = c
		return
	}
	// The first range that does not lie wholly above c.
	i := 0
	for i < s.n && s.r[i].Low > c {
		i++
	}
	if i < s.n && c <= s.r[i].High {
		return
	}
	below := i < s.n && s.r[i].High+1 == c
	above := i > 0 && s.r[i-1].Low == c+1
	switch {
	case below && above:
		s.r[i-1].Low = s.r[i].Low
		copy(s.r[i:s.n], s.r[i+1:s.n])
		s.n--
	case below:
		s.r[i].High = c
	case above:
		s.r[i-1].Low = c
	case i == MaxRanges:
	default:
		if s.n < MaxRanges {
			s.n++
		}
		copy(s.r[i+1:s.n], s.r[i:s.n-1])
		s.r[i] = Range{c, c}
	}
}

// MarkedLen is how long the count of marks behind an acknowledgement is.
const MarkedLen = 4

// The body of an ACK frame (package wire): receiver index (3) | delay in 16 µs (2) |
// ranges (1), each first (4) and last (4), the newest first | datagrams that routers
// have marked (4), if both sides count them.
const (
	ackHead   = 6
	ackRange  = 8
	delayUnit = 16 * time.Microsecond
)

// Ack is what an acknowledgement says.
type Ack struct {
	Index  uint32        // the receiver's, of the key
	Delay  time.Duration // since the newest one came
	Ranges [MaxRanges]Range
	N      int
	Marks  bool   // Marked was there
	Marked uint32 // DATA datagrams that came with CE (RFC 3168), of all under the key
}

// Append appends the acknowledgement of what s has seen under the key of that index.
func (s *Seen) Append(b []byte, index uint32, delay time.Duration) []byte {
	b = append(b, byte(index>>16), byte(index>>8), byte(index))
	b = binary.BigEndian.AppendUint16(b, uint16(min(max(delay/delayUnit, 0), 1<<16-1)))
	b = append(b, byte(s.n))
	for _, r := range s.r[:s.n] {
		b = binary.BigEndian.AppendUint32(b, r.Low)
		b = binary.BigEndian.AppendUint32(b, r.High)
	}
	return b
}

// Parse reads b, all of it: at least one range, the newest first, none of which
// touches the next.
func (a *Ack) Parse(b []byte) bool {
	if len(b) < ackHead+ackRange || b[5] == 0 || b[5] > MaxRanges {
		return false
	}
	switch n := ackHead + int(b[5])*ackRange; len(b) {
	case n:
		a.Marks = false
	case n + MarkedLen:
		a.Marks, a.Marked = true, binary.BigEndian.Uint32(b[n:])
	default:
		return false
	}
	a.Index = uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
	a.Delay = time.Duration(binary.BigEndian.Uint16(b[3:])) * delayUnit
	a.N = int(b[5])
	for i := range a.N {
		r := Range{binary.BigEndian.Uint32(b[ackHead+i*ackRange:]), binary.BigEndian.Uint32(b[ackHead+i*ackRange+4:])}
		if r.Low > r.High || i > 0 && uint64(r.High)+1 >= uint64(a.Ranges[i-1].Low) {
			return false
		}
		a.Ranges[i] = r
	}
	return true
}
