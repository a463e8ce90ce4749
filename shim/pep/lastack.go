package pep

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/inner"
)

// A pipe that repairs does not repair what only acknowledges: the next one says the
// same. The last one before a pause has no next one. If it is lost, and all that the
// sender has had under way was acknowledged by it, the sender waits for its timeout,
// and then takes all of that for lost and begins anew with one segment. So it is said
// once more after a while, and this time repaired.

const (
	lastSlots = 16
	lastAfter = 10 * time.Millisecond
	lastMax   = inner.TCPLen + 40
)

// lastAcks are the last acknowledgements of flows.
type lastAcks struct {
	slots [lastSlots]atomic.Pointer[lastAck] // by the hash of a flow, nil until used
	armed atomic.Bool
	timer *time.Timer
}

// lastAck is that of one flow.
type lastAck struct {
	mu   sync.Mutex // guards what follows
	flow uint64     // 0: none
	at   time.Duration
	said
}

// said is an acknowledgement.
type said struct {
	v6    bool
	class uint8
	n     int
	head  [lastMax]byte
}

var saidPool = sync.Pool{New: func() any { return new(said) }}

// take returns a copy of what a has, which has nothing any more; say sends it. a.mu is
// held, and is not to be when it is sent: what sends may bring another one.
func (a *lastAck) take() *said {
	c := saidPool.Get().(*said)
	*c = a.said
	a.flow = 0
	return c
}

func (p *Proxy) say(c *said) {
	if c != nil {
		p.link.SendSure(c.v6, c.class, c.head[:c.n])
		saidPool.Put(c)
	}
}

// AckSent is told of a segment without payload that only acknowledges and leaves; th
// is its header, borrowed.
func (p *Proxy) AckSent(h *inner.Header, th []byte, class uint8) {
	p.ackSent(h.Outbound().Word(), h.V6, th, class)
}

func (p *Proxy) ackSent(flow uint64, v6 bool, th []byte, class uint8) {
	o := p.order.Load()
	if o == nil || o.waits.Load() == 0 || len(th) > lastMax {
		return
	}
	all := p.last.Load()
	if all == nil {
		all = new(lastAcks)
		all.timer = time.AfterFunc(time.Hour, func() { p.lastTimeout(all) })
		all.timer.Stop()
		if !p.last.CompareAndSwap(nil, all) {
			all = p.last.Load()
		}
	}
	slot := all.at(flow)
	a := slot.Load()
	if a == nil {
		slot.CompareAndSwap(nil, new(lastAck))
		a = slot.Load()
	}
	var other *said
	a.mu.Lock()
	if a.flow != 0 && a.flow != flow {
		other = a.take()
	}
	a.flow, a.at, a.v6, a.class, a.n = flow, time.Since(start), v6, class, copy(a.head[:], th)
	a.mu.Unlock()
	p.say(other)
	if all.armed.CompareAndSwap(false, true) {
		all.timer.Reset(lastAfter)
	}
}

func (all *lastAcks) at(flow uint64) *atomic.Pointer[lastAck] {
	return &all.slots[uint32(flow)*0x9e3779b1>>28]
}

// MoreSent is told of a segment that is repaired: what it acknowledges is said.
func (p *Proxy) MoreSent(h *inner.Header) {
	all := p.last.Load()
	if all == nil {
		return
	}
	flow := h.Outbound().Word()
	if a := all.at(flow).Load(); a != nil {
		a.mu.Lock()
		if a.flow == flow {
			a.flow = 0
		}
		a.mu.Unlock()
	}
}

// lastTimeout says once more what was said before a pause. The timer is not set anew
// for each: if it is early for one it comes again.
func (p *Proxy) lastTimeout(all *lastAcks) {
	all.armed.Store(false)
	again := time.Duration(0)
	for i := range all.slots {
		a := all.slots[i].Load()
		if a == nil {
			continue
		}
		var c *said
		a.mu.Lock()
		if a.flow != 0 {
			if left := lastAfter - (time.Since(start) - a.at); left > lastAfter/8 {
				if again == 0 || left < again {
					again = left
				}
			} else {
				c = a.take()
			}
		}
		a.mu.Unlock()
		p.say(c)
	}
	if again > 0 && all.armed.CompareAndSwap(false, true) {
		all.timer.Reset(again)
	}
}
