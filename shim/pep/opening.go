package pep

import (
	"sync/atomic"

	"github.com/idloc/idloc/internal/inner"
)

// A client that has data at once sends them with what acknowledges our SYN-ACK
// (ack.go). gVisor then completes the handshake and puts the segment back at
// the end of what waits for the connection: the client's next ones overtake it,
// and the duplicate acknowledgements that they draw look like a loss. So the
// stack is given the acknowledgement by itself first, as it would have come.

// openingSlots is how many connections of a peer may open at once; of those
// beyond some go without.
const openingSlots = 16

func (a *acks) openingSlot(flow uint64) *atomic.Uint64 {
	return &a.answered[uint32(flow)*0x9e3779b1>>28]
}

// noteSYNACK notes one that goes out.
func (p *Proxy) noteSYNACK(h *inner.Header) {
	flow := h.Outbound().Word()
	p.watchAcks().openingSlot(flow).Store(flow)
}

// Opens is shown what comes in of TCP, with n bytes of payload, and says whether
// it has been sent in place of the acknowledgement of a SYN-ACK: the stack is to
// have that by itself before.
func (p *Proxy) Opens(h *inner.Header, n int) bool {
	all := p.acks.Load()
	if all == nil {
		return false
	}
	flow := h.Inbound().Word()
	slot := all.openingSlot(flow)
	if slot.Load() != flow || h.Flags&(inner.ACK|inner.SYN) != inner.ACK {
		return false
	}
	return slot.CompareAndSwap(flow, 0) && (n > 0 || h.Flags&inner.FIN != 0) && h.Flags&inner.RST == 0
}
