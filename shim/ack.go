package shim

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
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
// So it is where a connection begins and ends. What acknowledges a SYN-ACK
// waits for the client's first data, as Linux has it (TCP_DEFER_ACCEPT on a
// client), and what acknowledges a FIN for our own. Nothing of the flow follows
// what acknowledges the second FIN: it waits for any small packet to the peer,
// of the next connection say, and shares its system call. A flow has one of
// each, so there it is the service, by its port, that is trusted or not.
//
// What says more than "I have all until here" is never held: duplicates, from
// which the peer learns of a loss, selective acknowledgements, window updates.

const (
	ackHold    = time.Millisecond
	ackSmall   = 1000 // bytes of a segment that may be a request
	ackSlots   = 16   // flows of a peer that are watched at once
	ackPenalty = 32   // acknowledgements not held after too many that waited in vain
	ackMaxLen  = tcpMinLen + 12
	ackPorts   = 16 // services of a peer that are told apart, by the hash of the port
)

// acks are the flows of a mapping that are watched.
type acks struct {
	slots    [ackSlots]atomic.Pointer[ackSlot] // nil until used
	opens    [ackPorts]ackTrust                // of services whose clients speak first
	closes   [ackPorts]ackTrust                // where a FIN is answered by one
	lasts    [ackPorts]ackTrust                // where more goes to the peer after the second
	rides    atomic.Pointer[ackSlot]           // holds one that any packet may take along; nil: none
	armed    atomic.Bool                       // timer will come, and look at all slots
	timer    *time.Timer
	answered [openingSlots]atomic.Uint64
}

// ackTrust says whether holding pays: below 0 it does not. What several
// goroutines do to it at once may count as one.
type ackTrust struct{ score atomic.Int32 }

func (t *ackTrust) paid() { t.score.Store(min(t.score.Load()+1, 4)) }

func (t *ackTrust) failed() {
	score := t.score.Load() - 3
	if score < 0 {
		score = -ackPenalty
	}
	t.score.Store(score)
}

// try says whether to hold, which is tried again after a while.
func (t *ackTrust) try() bool {
	if score := t.score.Load(); score < 0 {
		t.score.Store(score + 1)
		return false
	}
	return true
}

// ackSlot watches one flow. The zero value watches none.
type ackSlot struct {
	mu      sync.Mutex // guards what follows; held while a held packet is sent
	flow    uint64
	expects bool      // an acknowledgement of next, which was not sent yet
	next    uint32    // sequence number
	trust   *ackTrust // of what is expected
	ended   bool      // our FIN went out
	last    bool      // what is expected follows the second FIN
	data    ackTrust  // of the flow's segments

	has   bool      // the rest is of the one that is held
	held  *ackTrust // by whose trust
	v6    bool
	n     int
	head  [ackMaxLen]byte
	pk    Packet
	since time.Duration
}

// ackFlow is how a flow is known to an ackSlot, by the ports as they go out.
func ackFlow(v6 bool, src, dst uint16) uint64 {
	f := uint64(src)<<16 | uint64(dst) | 1<<33
	if v6 {
		f |= 1 << 32
	}
	return f
}

func (a *acks) at(flow uint64) *atomic.Pointer[ackSlot] {
	return &a.slots[uint32(flow)*0x9e3779b1>>28]
}

// slot returns where flow is watched, made if need be.
func (a *acks) slot(flow uint64) *ackSlot {
	p := a.at(flow)
	if slot := p.Load(); slot != nil {
		return slot
	}
	p.CompareAndSwap(nil, new(ackSlot))
	return p.Load()
}

// ackPort is where a service's trust is kept. Of a flow's two ports the lower
// one is the service's.
func ackPort(flow uint64) uint32 {
	return uint32(min(uint16(flow), uint16(flow>>16))) * 0x9e3779b1 >> 28
}

// watchAcks returns m's acks, made if need be.
func (s *Shim) watchAcks(m *mapping) *acks {
	if all := m.acks.Load(); all != nil {
		return all
	}
	all := new(acks)
	all.timer = time.AfterFunc(time.Hour, func() { s.ackTimeout(m, all) })
	all.timer.Stop()
	m.acks.CompareAndSwap(nil, all)
	return m.acks.Load()
}

// ackExpect notes a TCP segment with n bytes of payload that came in.
func (s *Shim) ackExpect(m *mapping, v6 bool, th []byte, n int) {
	const answer = flagSYN | flagACK
	opens, closes := th[13]&answer == answer, th[13]&flagFIN != 0
	if th[13]&flagRST != 0 || n > ackSmall || n == 0 && !opens && !closes {
		return
	}
	flow := ackFlow(v6, binary.BigEndian.Uint16(th[2:]), binary.BigEndian.Uint16(th[0:]))
	all := s.watchAcks(m)
	a := all.slot(flow)
	a.mu.Lock()
	if a.flow != flow || opens {
		s.releaseAck(m, a)
		a.flow, a.ended = flow, false
		a.data.score.Store(0)
	}
	if opens || closes {
		n++ // a SYN and a FIN count as a byte
	}
	a.trust, a.last = &a.data, false
	switch {
	case opens:
		a.trust = &all.opens[ackPort(flow)]
	case closes && a.ended:
		a.trust, a.last = &all.lasts[ackPort(flow)], true
	case closes:
		a.trust = &all.closes[ackPort(flow)]
	}
	a.expects, a.next = true, binary.BigEndian.Uint32(th[4:])+uint32(n)
	a.mu.Unlock()
}

// holdAck sees every TCP packet that goes out, and says whether it was kept.
func (s *Shim) holdAck(m *mapping, pk *Packet) bool {
	th := pk.Transport
	if th[13]&(flagSYN|flagACK) == flagSYN|flagACK {
		s.opening(m, pk)
	}
	all := m.acks.Load()
	if all == nil {
		return false
	}
	flow := ackFlow(pk.V6, binary.BigEndian.Uint16(th[0:]), binary.BigEndian.Uint16(th[2:]))
	a := all.at(flow).Load()
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flow != flow {
		return false
	}
	ack := binary.BigEndian.Uint32(th[8:])
	if pk.Size > 0 || th[13] != flagACK {
		if a.has {
			// A reset does not say that the connection had come about.
			if th[13]&(flagACK|flagRST) == flagACK && int32(ack-binary.BigEndian.Uint32(a.head[8:])) >= 0 {
				a.has = false
				a.held.paid()
			} else {
				s.releaseAck(m, a)
			}
		}
		a.expects = a.expects && ack != a.next
		a.ended = a.ended || th[13]&flagFIN != 0
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
	if !a.trust.try() {
		return false
	}
	a.has, a.held, a.v6, a.n = true, a.trust, pk.V6, copy(a.head[:], th)
	a.since = time.Since(start)
	if a.last {
		all.rides.Store(a)
	}
	if all.armed.CompareAndSwap(false, true) {
		all.timer.Reset(ackHold)
	}
	return true
}

// ackTimeout sends what was held for too long. The timer is not set anew for
// each packet: if it is early for one it comes again.
func (s *Shim) ackTimeout(m *mapping, all *acks) {
	all.armed.Store(false)
	again := time.Duration(0) // the shortest that one has left
	for i := range all.slots {
		a := all.slots[i].Load()
		if a == nil {
			continue
		}
		a.mu.Lock()
		if a.has {
			left := ackHold - (time.Since(start) - a.since)
			switch {
			case left <= ackHold/4:
				a.held.failed()
				s.releaseAck(m, a)
			case again == 0 || left < again:
				again = left
			}
		}
		a.mu.Unlock()
	}
	if again > 0 && all.armed.CompareAndSwap(false, true) {
		all.timer.Reset(again)
	}
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

// releaseAcks sends all that are held.
func (s *Shim) releaseAcks(m *mapping, all *acks) {
	for i := range all.slots {
		if a := all.slots[i].Load(); a != nil {
			a.mu.Lock()
			s.releaseAck(m, a)
			a.mu.Unlock()
		}
	}
}

// rideAlong adds the last acknowledgement of a connection to b, which is about
// to be sent, if one is held and fits.
func (m *mapping) rideAlong(b *pipe.Batch, v6 bool) {
	all := m.acks.Load()
	if all == nil {
		return
	}
	a := all.rides.Load()
	if a == nil || !a.mu.TryLock() { // it may be the one that sends b
		return
	}
	defer a.mu.Unlock()
	if !a.has || !a.last {
		all.rides.CompareAndSwap(a, nil)
		return
	}
	if a.v6 != v6 {
		return
	}
	if r := b.Room(1 + a.n); r != nil {
		r[0] = protoTCP
		copy(r[1:], a.head[:a.n])
		b.Seal()
		a.has = false
		a.held.paid()
		all.rides.CompareAndSwap(a, nil)
	}
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
