package shim

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/pipe"
)

// The stack acknowledges every segment at once. Where a request is followed
// by its reply that is a datagram and a system call too many: the reply
// carries the same acknowledgement. So the acknowledgement of a small segment
// is held back for a moment (RFC 9293 §3.8.6.3 allows 500 ms), as long as
// replies keep coming:
//
//	small segment in ──► expects its acknowledgement
//	that one, alone, out ──► held
//	    data of the flow out that acknowledges as much ──► dropped
//	    a later acknowledgement ──► dropped, that one goes
//	    anything else of the flow ──► goes first
//	    ackHold passed ──► goes; the flow is trusted less
//
// What says more than "I have all until here" is never held: duplicates, from
// which the peer learns of a loss, selective acknowledgements, window updates.

const (
	ackHold    = time.Millisecond
	ackSmall   = 1000 // bytes of a segment that may be a request
	ackSlots   = 4    // flows of a peer that are watched at once
	ackPenalty = 32   // acknowledgements not held after too many that waited in vain
	ackMaxLen  = tcpMinLen + 12
)

// acks are the flows of a mapping that are watched.
type acks [ackSlots]ackSlot

// ackSlot watches one flow. The zero value watches none.
type ackSlot struct {
	mu      sync.Mutex // guards what follows; held while a held packet is sent
	flow    uint64
	expects bool   // an acknowledgement of next, which was not sent yet
	next    uint32 // sequence number
	score   int    // below 0: do not hold

	has   bool
	v6    bool
	n     int
	head  [ackMaxLen]byte
	pk    Packet
	since time.Duration
	armed bool
	timer *time.Timer
}

// ackFlow is how a flow is known to an ackSlot, by the ports as they go out.
func ackFlow(v6 bool, src, dst uint16) uint64 {
	f := uint64(src)<<16 | uint64(dst) | 1<<33
	if v6 {
		f |= 1 << 32
	}
	return f
}

func (a *acks) slot(flow uint64) *ackSlot {
	h := uint32(flow) * 0x9e3779b1
	return &a[h>>30]
}

// ackExpect notes a TCP segment with n bytes of payload that came in.
func (s *Shim) ackExpect(m *mapping, v6 bool, th []byte, n int) {
	if n == 0 || n > ackSmall {
		return
	}
	flow := ackFlow(v6, binary.BigEndian.Uint16(th[2:]), binary.BigEndian.Uint16(th[0:]))
	all := m.acks.Load()
	for all == nil {
		m.acks.CompareAndSwap(nil, new(acks))
		all = m.acks.Load()
	}
	a := all.slot(flow)
	a.mu.Lock()
	if a.flow != flow {
		s.releaseAck(m, a)
		a.flow, a.score = flow, 0
	}
	a.expects, a.next = true, binary.BigEndian.Uint32(th[4:])+uint32(n)
	a.mu.Unlock()
}

// holdAck sees every TCP packet that goes out, and says whether it was kept.
func (s *Shim) holdAck(m *mapping, pk *Packet) bool {
	all := m.acks.Load()
	if all == nil {
		return false
	}
	th := pk.Transport
	flow := ackFlow(pk.V6, binary.BigEndian.Uint16(th[0:]), binary.BigEndian.Uint16(th[2:]))
	a := all.slot(flow)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flow != flow {
		return false
	}
	ack := binary.BigEndian.Uint32(th[8:])
	if pk.Size > 0 || th[13] != flagACK {
		if a.has {
			if th[13]&flagACK != 0 && int32(ack-binary.BigEndian.Uint32(a.head[8:])) >= 0 {
				a.has = false
				a.score = min(a.score+1, 4)
			} else {
				s.releaseAck(m, a)
			}
		}
		a.expects = a.expects && ack != a.next
		return false
	}
	if a.has {
		if int32(ack-binary.BigEndian.Uint32(a.head[8:])) > 0 && len(th) <= ackMaxLen {
			a.has, a.expects = false, false
			return false
		}
		s.releaseAck(m, a)
	}
	if !a.expects || ack != a.next || len(th) > ackMaxLen {
		return false
	}
	a.expects = false
	if a.score < 0 {
		a.score++
		return false
	}
	a.has, a.v6, a.n = true, pk.V6, copy(a.head[:], th)
	a.since = time.Since(start)
	if !a.armed {
		a.armed = true
		if a.timer == nil {
			a.timer = time.AfterFunc(ackHold, func() { s.ackTimeout(m, a) })
		} else {
			a.timer.Reset(ackHold)
		}
	}
	return true
}

// ackTimeout sends what was held for too long. It is not set anew for each
// packet: if it is early for the present one it comes again.
func (s *Shim) ackTimeout(m *mapping, a *ackSlot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.armed = false
	if !a.has {
		return
	}
	if left := ackHold - (time.Since(start) - a.since); left > ackHold/4 {
		a.armed = true
		a.timer.Reset(left)
		return
	}
	if a.score -= 3; a.score < 0 {
		a.score = -ackPenalty
	}
	s.releaseAck(m, a)
}

// releaseAck sends what is held, if anything; a.mu is held, so that nothing
// of the flow overtakes it.
func (s *Shim) releaseAck(m *mapping, a *ackSlot) {
	if !a.has {
		return
	}
	a.has = false
	p := m.pipe.Load()
	if p == nil {
		return // a retransmission will be acknowledged
	}
	a.pk = Packet{V6: a.v6, Transport: a.head[:a.n]}
	s.sendOne(m, p, &a.pk, parsed{next: protoTCP}, 1+a.n)
}

// sendTCP is send for TCP.
func (s *Shim) sendTCP(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, n, limit int) {
	switch {
	case s.holdAck(m, pk):
	case pk.MSS > 0 && pk.Size > pk.MSS || n > limit:
		s.sendSegments(m, p, pk, limit)
	default:
		s.sendOne(m, p, pk, in, n)
	}
}
