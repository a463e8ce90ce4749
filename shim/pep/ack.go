package pep

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/inner"
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
	ackSmall   = 1000              // bytes of a segment that may be a request
	ackSlots   = 16                // flows of a peer that are watched at once
	ackPenalty = 32                // acknowledgements not held after too many that waited in vain
	ackMaxLen  = inner.TCPLen + 12 // with a timestamp
	ackPorts   = 16                // services of a peer that are told apart, by the hash of the port
)

// acks are the flows that are watched.
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
	flow    uint64     // inner.Flow.Word
	expects bool       // an acknowledgement of next, which was not sent yet
	next    uint32     // sequence number
	trust   *ackTrust  // of what is expected
	ended   bool       // our FIN went out
	last    bool       // what is expected follows the second FIN
	data    ackTrust   // of the flow's segments

	has   bool      // the rest is of the one that is held
	held  *ackTrust // by whose trust
	v6    bool
	class uint8
	ack   uint32 // what it acknowledges
	n     int
	head  [ackMaxLen]byte
	since time.Duration
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

// watchAcks returns p's acks, made if need be.
func (p *Proxy) watchAcks() *acks {
	if all := p.acks.Load(); all != nil {
		return all
	}
	all := new(acks)
	all.timer = time.AfterFunc(time.Hour, func() { p.ackTimeout(all) })
	all.timer.Stop()
	p.acks.CompareAndSwap(nil, all)
	return p.acks.Load()
}

// Expect is told of every TCP segment that came in, with n bytes of payload.
func (p *Proxy) Expect(h *inner.Header, n int) {
	const answer = inner.SYN | inner.ACK
	opens, closes := h.Flags&answer == answer, h.Flags&inner.FIN != 0
	if h.Flags&inner.RST != 0 || n > ackSmall || n == 0 && !opens && !closes {
		return
	}
	flow := h.Inbound().Word()
	all := p.watchAcks()
	a := all.slot(flow)
	a.mu.Lock()
	if a.flow != flow || opens {
		p.release(a)
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
	a.expects, a.next = true, h.Seq+uint32(n)
	a.mu.Unlock()
}

// Hold is shown every TCP segment that goes out, n bytes of payload behind its
// header th, both borrowed. True says that it was kept, and will go, or that
// another has come that says the same.
func (p *Proxy) Hold(h *inner.Header, th []byte, n int, class uint8) bool {
	if h.Flags&(inner.SYN|inner.ACK) == inner.SYN|inner.ACK {
		p.noteSYNACK(h)
	}
	all := p.acks.Load()
	if all == nil {
		return false
	}
	flow := h.Outbound().Word()
	a := all.at(flow).Load()
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flow != flow {
		return false
	}
	ack := h.Ack
	if n > 0 || h.Flags != inner.ACK {
		p.passes(a, h)
		return false
	}
	if a.has {
		if int32(ack-a.ack) > 0 && plainAck(th) {
			a.has, a.expects = false, false
			return false
		}
		p.release(a)
	}
	if !a.expects || ack != a.next || !plainAck(th) {
		return false
	}
	a.expects = false
	if !a.trust.try() {
		return false
	}
	a.has, a.held, a.v6, a.class, a.ack, a.n = true, a.trust, h.V6, class, ack, copy(a.head[:], th)
	a.since = time.Since(start)
	if a.last {
		all.rides.Store(a)
	}
	if all.armed.CompareAndSwap(false, true) {
		all.timer.Reset(ackHold)
	}
	return true
}

// plainAck says whether a TCP header has no options but a timestamp, laid out as
// RFC 7323 appendix A recommends.
func plainAck(th []byte) bool {
	const layout = 0x0101080a // NOP NOP timestamp length 10
	return len(th) == inner.TCPLen || len(th) == ackMaxLen && binary.BigEndian.Uint32(th[inner.TCPLen:]) == layout
}

// passes is told of a segment of a's flow that goes out and is more than an
// acknowledgement: one that was kept goes first, or is not needed any more. The
// caller holds a.mu.
func (p *Proxy) passes(a *ackSlot, h *inner.Header) {
	if a.has {
		// A reset does not say that the connection had come about.
		if h.Flags&(inner.ACK|inner.RST) == inner.ACK && int32(h.Ack-a.ack) >= 0 {
			a.has = false
			a.held.paid()
		} else {
			p.release(a)
		}
	}
	a.expects = a.expects && h.Ack != a.next
	a.ended = a.ended || h.Flags&inner.FIN != 0
}

// ackTimeout sends what was held for too long. The timer is not set anew for
// each packet: if it is early for one it comes again.
func (p *Proxy) ackTimeout(all *acks) {
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
				p.release(a)
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

// release sends what is held, if anything; a.mu is held, so that nothing of the
// flow overtakes it.
func (p *Proxy) release(a *ackSlot) {
	if a.has {
		a.has = false
		p.link.SendAck(a.v6, a.class, a.head[:a.n])
		p.ackSent(a.flow, a.v6, a.head[:a.n], a.class)
	}
}

// Release sends all acknowledgements that are held.
func (p *Proxy) Release() {
	all := p.acks.Load()
	if all == nil {
		return
	}
	for i := range all.slots {
		if a := all.slots[i].Load(); a != nil {
			a.mu.Lock()
			p.release(a)
			a.mu.Unlock()
		}
	}
}

// Ride adds the last acknowledgement of a connection to b, which is about to be
// sent, if one is held and fits.
func (p *Proxy) Ride(b Batch, v6 bool) {
	all := p.acks.Load()
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
		r[0] = inner.TCP
		copy(r[1:], a.head[:a.n])
		b.Seal()
		a.has = false
		a.held.paid()
		all.rides.CompareAndSwap(a, nil)
	}
}
