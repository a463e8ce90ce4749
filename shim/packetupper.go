package shim

import "github.com/idloc/idloc/internal/inner"

// PacketUpper is an Upper that wants a packet's pieces for the time of a call,
// and no buffer of its own: one that writes them somewhere else at once.
// Deliver still gets what the shim itself makes, ICMP errors.
type PacketUpper interface {
	Upper

	// Packet takes an inner packet: head has the IP and transport headers,
	// payload the rest, and h says what is in head. All are borrowed for the
	// call; they may be written to. The checksum of a TCP or UDP header that is not in a fragment is not valid (DESIGN §6); who
	// needs one computes it. With seg > 0 the packet is a run that was merged,
	// TCP segments or UDP datagrams with at most seg bytes of payload each. It
	// may be called from several goroutines, and must not call back into the
	// shim's Handler methods.
	Packet(h *inner.Header, head, payload []byte, seg int)

	// MergesUDP says whether Packet takes runs of UDP datagrams as one.
	MergesUDP() bool
}

// show gives u a packet whose payload lies in view.
func (s *Shim) show(u PacketUpper, r *run, k *packet, view []byte) {
	n := k.putHeader(r.head[:])
	seg := 0
	if k.merged > 0 {
		seg = k.seg
	}
	s.count.in.Add(1)
	u.Packet(&k.h, r.head[:n], view[k.pay:k.pay+k.n], seg)
}
