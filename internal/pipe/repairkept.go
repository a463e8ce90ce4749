package pipe

import "github.com/idloc/idloc/internal/pipe/repair"

// Kept is plaintexts of one flow that are being written; see Keep. It belongs to one
// goroutine.
type Kept struct {
	p     *Pipe
	x     *sending
	flow  uint64
	v6    bool
	class uint8
	open  *repair.Packet
}

// Keep begins to take TCP segments of a flow: each is kept until the peer has
// acknowledged it. Room returns where to write a plaintext, next header first, until
// Room is called again or Done, which must be called and sends what may leave now. In
// between nothing else may be done with the pipe. class is as in Batch.SetClass.
func (p *Pipe) Keep(flow uint64, v6 bool, class uint8) Kept {
	x := p.repair.sender.Load()
	if x == nil {
		p.mu.Lock()
		p.startSending()
		p.mu.Unlock()
		x = p.repair.sender.Load()
	}
	x.mu.Lock()
	return Kept{p: p, x: x, flow: flow, v6: v6, class: class &^ 3}
}

// Bits of the next header in what Open returns: the peer keeps the packet, a TCP
// segment, until it is acknowledged, which Open sees to; and it has sent it before.
const (
	Wanted = repair.Wanted
	Again  = repair.Again
)

// MaxKept is the longest transport segment that Keep takes.
const MaxKept = repair.MaxPlain - 1

// Room returns n bytes, n ≤ MaxKept + 1; nil: too much is kept already.
func (k *Kept) Room(n int) []byte {
	k.queue()
	if k.x.closed {
		return nil
	}
	var b []byte
	k.open, b = k.x.s.Room(k.flow, k.v6, k.class, n)
	return b
}

func (k *Kept) queue() {
	if k.open != nil {
		k.x.s.Queue(k.open, around)
		k.open = nil
	}
}

// Done ends Keep.
func (k *Kept) Done() {
	k.queue()
	k.x.mu.Unlock()
	k.p.sendKept(k.x)
}
