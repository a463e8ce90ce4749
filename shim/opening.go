package shim

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
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

// opening notes a SYN-ACK that goes out.
func (s *Shim) opening(m *mapping, pk *Packet) {
	th := pk.Transport
	flow := ackFlow(pk.V6, binary.BigEndian.Uint16(th[0:]), binary.BigEndian.Uint16(th[2:]))
	s.watchAcks(m).openingSlot(flow).Store(flow)
}

// opened is shown what comes in of TCP, and gives the stack an acknowledgement
// if k has been sent in place of it as well.
func (s *Shim) opened(u Upper, m *mapping, k *packet, v6 bool, src, dst netip.Addr) {
	all := m.acks.Load()
	if all == nil {
		return
	}
	th := k.head[:k.hl]
	flow := ackFlow(v6, binary.BigEndian.Uint16(th[2:]), binary.BigEndian.Uint16(th[0:]))
	slot := all.openingSlot(flow)
	if slot.Load() != flow || th[13]&(flagACK|flagSYN) != flagACK {
		return
	}
	if !slot.CompareAndSwap(flow, 0) || k.n == 0 && th[13]&flagFIN == 0 || th[13]&flagRST != 0 {
		return
	}
	ack := *k
	ack.n, ack.head[13] = 0, flagACK
	u.Deliver(v6, buffer.MakeWithView(ack.header(v6, src, dst)))
}
