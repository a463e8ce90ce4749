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
	once  bool
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

// KeepsDatagrams says whether UDP datagrams, of MaxKept bytes at most, are to be given
// to KeepOnce.
func (p *Pipe) KeepsDatagrams() bool {
	return p.repair.datagrams.Load() && repairMode(p.repair.mode.Load()) == repairOn
}

// KeepOnce is Keep for UDP datagrams: each is counted and paced with all else, leaves
// before that within its share, and is not sent again.
func (p *Pipe) KeepOnce(flow uint64, v6 bool, class uint8) Kept {
	k := p.Keep(flow, v6, class)
	k.once = true
	return k
}

// Bits of the next header in what Open returns: the peer wants the packet acknowledged,
// which Open sees to, and repairs it if it is a TCP segment; and it has sent it before.
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
	if k.once {
		k.open, b = k.x.s.Once(k.flow, k.v6, k.class, n)
	} else {
		k.open, b = k.x.s.Room(k.flow, k.v6, k.class, n)
	}
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
	k.Leave()
	k.p.sendKept(k.x)
}

// Leave is Done, but that SendKept is to follow soon, perhaps after more of it.
func (k *Kept) Leave() {
	k.queue()
	k.x.mu.Unlock()
}

// SendKept sends what may leave now.
func (p *Pipe) SendKept() {
	if x := p.repair.sender.Load(); x != nil {
		p.sendKept(x)
	}
}
