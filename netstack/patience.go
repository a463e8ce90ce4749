package netstack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Where the pipe repairs what the path loses (pipe.Pipe.Keep), a segment may come one
// or more round trips late, and TCP must not take it for lost: one timeout would have
// it send all anew that the pipe has, and begin again with one segment. So there
// its timeout is a second at least, as RFC 6298 §2.4 has it, and not minRTO, and four
// round trips: a copy of a copy takes three.
//
// gVisor has one minimum for the whole stack, which a connection takes when it comes
// about. It is set by each SYN that comes in from a peer for which it is another one
// than for the peer before. Where two connections come about at once, one may get the
// other's: it is then too patient on a short path, or not patient enough on a long one.

const (
	patientRTO  = time.Second
	patientRTTs = 4
)

// patient sets the least timeout for a connection with peer that is about to come
// about.
func (l *link) patient(peer netip.Addr) {
	want := minRTO
	if l.shim.MayRepair(peer) {
		want = max(patientRTO, patientRTTs*l.shim.RTT(peer))
	}
	if l.leastRTO.Swap(int64(want)) == int64(want) {
		return
	}
	if s := l.stack; s != nil {
		o := tcpip.TCPMinRTOOption(want)
		_ = s.SetTransportProtocolOption(tcp.ProtocolNumber, &o)
	}
}
