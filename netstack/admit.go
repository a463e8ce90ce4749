package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
)

// Limits of what is remembered about UDP flows.
const (
	maxFlows     = 4096
	maxPeerFlows = maxFlows / 4    // with one address of a peer; beyond, each datagram of those that it began is asked about
	flowIdle     = 3 * time.Minute // RFC 4787 REQ-5 has at least 2
	flowSweep    = time.Minute     // how often idle ones are looked for, at least when there is no room
)

// Admission asks Config.Admit about inbound flows. A TCP flow begins with its
// SYN; a UDP flow with a datagram between two ports that exchanged none for
// flowIdle, and is ours if we sent that one. The stack uses one, and so does
// what puts the host's kernel in its place (netstack/tun). Its methods may be
// used concurrently.
type Admission struct {
	ask     func(network string, local, remote netip.AddrPort) bool
	asks    atomic.Bool // else it is not asked
	shim    *shim.Shim  // answers go there
	refused atomic.Uint64

	mu    sync.Mutex // guards what follows
	flows map[inner.Flow]verdict
	count map[netip.Addr]int // of flows, how many are with a peer's address
	swept time.Time          // when idle flows were last forgotten
	round uint64             // counts Recheck
}

type verdict struct {
	ok   bool
	ours bool      // we sent the newest datagram that was noted
	in   bool      // the peer began it: it was asked about
	at   time.Time // last datagram
}

// NewAdmission returns an Admission that asks ask, see Config.Admit, and
// answers refused flows through s.
func NewAdmission(ask func(network string, local, remote netip.AddrPort) bool, s *shim.Shim) *Admission {
	a := &Admission{ask: ask, shim: s, flows: make(map[inner.Flow]verdict), count: make(map[netip.Addr]int)}
	a.asks.Store(true)
	return a
}

// Asks says whether flows are asked about; if not, no packet need be shown.
func (a *Admission) Asks() bool { return a != nil && a.asks.Load() }

// Ask has flows asked about from now on, or not any more.
func (a *Admission) Ask(on bool) { a.asks.Store(on) }

// Recheck asks keep about the UDP flows that peers have begun and that were let on. Those
// that it does not want end: the next datagram of one is asked about as if it was the
// first. It returns how many those are. Of our own address keep is told the port only.
func (a *Admission) Recheck(keep func(network string, local, remote netip.AddrPort) bool) (ended int) {
	a.mu.Lock()
	a.round++
	var all []inner.Flow
	for f, v := range a.flows {
		if v.in && v.ok {
			all = append(all, f)
		}
	}
	a.mu.Unlock()
	for _, f := range all {
		if keep("udp", netip.AddrPortFrom(netip.Addr{}, f.Port), f.Remote()) {
			continue
		}
		a.mu.Lock()
		if _, known := a.flows[f]; known {
			a.forgetLocked(f)
			ended++
		}
		a.mu.Unlock()
	}
	return ended
}

// Refused returns how many flows were refused.
func (a *Admission) Refused() uint64 { return a.refused.Load() }

// Sent notes the flows that we begin. It is shown what goes out.
func (a *Admission) Sent(h *inner.Header) {
	if h.Protocol == inner.UDP && h.Ports {
		a.sent(h.Outbound())
	}
}

// sent notes that we sent a datagram of f.
func (a *Admission) sent(f inner.Flow) {
	a.mu.Lock()
	a.putLocked(f, verdict{ok: true, ours: true, at: time.Now()})
	a.mu.Unlock()
}

// received says whether the packet in b may go on to the stack; if not it was
// answered. b stays the caller's.
func (a *Admission) received(h *inner.Header, b *buffer.Buffer) bool {
	if a.Received(h) {
		return true
	}
	quote := make([]byte, maxQuote)
	n, _ := b.ReadAt(quote, 0)
	a.Refuse(h, quote[:n])
	return false
}

// maxQuote is how much of a refused packet an answer quotes, at most.
const maxQuote = 548

// Received says whether a packet that came in may go on. If it may not, Refuse
// is due.
func (a *Admission) Received(h *inner.Header) bool {
	switch {
	case !h.Ports:
	case h.Protocol == inner.UDP:
		return a.udp(h.Inbound(), h.Dst)
	case h.Opens() && !a.ask("tcp", netip.AddrPortFrom(h.Dst, h.DstPort), netip.AddrPortFrom(h.Src, h.SrcPort)):
		a.refused.Add(1)
		return false
	}
	return true
}

// Refuse answers a packet that Received did not let on: a SYN with a reset,
// a datagram with "port unreachable", which quotes 548 bytes at most.
func (a *Admission) Refuse(h *inner.Header, packet []byte) {
	switch {
	case !h.Ports:
	case h.Opens():
		resetSYN(a.shim, h)
	case h.Protocol == inner.UDP:
		a.unreachable(h, packet[:min(len(packet), maxQuote)])
	}
}

// udp says whether a datagram that came in to our address local may go on.
func (a *Admission) udp(f inner.Flow, local netip.Addr) bool {
	now := time.Now()
	a.mu.Lock()
	round := a.round
	v, known := a.flows[f]
	if known && now.Sub(v.at) < flowIdle {
		v.at = now
		a.flows[f] = v
		a.mu.Unlock()
		return v.ok
	}
	for {
		a.mu.Unlock()
		v = verdict{ok: a.ask("udp", netip.AddrPortFrom(local, f.Port), f.Remote()), in: true, at: now}
		a.mu.Lock()
		if a.round == round {
			break
		}
		round = a.round // the answer may be that of before
	}
	a.putLocked(f, v)
	a.mu.Unlock()
	if !v.ok {
		a.refused.Add(1)
	}
	return v.ok
}

// putLocked remembers v, making room by forgetting what is idle, or else
// something: it would be asked about again. A peer with its share of flows is
// not remembered more that it begins; those that we begin, answers to others
// among them, take the place of its own where there is no room: it pushes out
// nobody.
func (a *Admission) putLocked(f inner.Flow, v verdict) {
	if old, known := a.flows[f]; known {
		v.in = v.in || old.in && v.at.Sub(old.at) < flowIdle // an answer of ours does not make it ours
		a.flows[f] = v
		return
	}
	full := len(a.flows) >= maxFlows || !v.ours && a.count[f.Peer] >= maxPeerFlows
	if full && v.at.Sub(a.swept) >= flowSweep {
		a.swept = v.at
		for k, old := range a.flows {
			if v.at.Sub(old.at) >= flowIdle {
				a.forgetLocked(k)
			}
		}
	}
	if !v.ours && a.count[f.Peer] >= maxPeerFlows {
		return
	}
	if len(a.flows) >= maxFlows {
		a.forgetLocked(a.lesserLocked(f.Peer))
	}
	a.flows[f] = v
	a.count[f.Peer]++
}

// lesserLocked returns a flow that may make room for one with peer: peer's own if
// it has its share, else that of one that has, if such a one is soon found.
func (a *Admission) lesserLocked(peer netip.Addr) (f inner.Flow) {
	own, looks := a.count[peer] >= maxPeerFlows, 64
	for f = range a.flows {
		if looks--; looks == 0 || own && f.Peer == peer || !own && a.count[f.Peer] >= maxPeerFlows {
			break
		}
	}
	return f
}

func (a *Admission) forgetLocked(f inner.Flow) {
	delete(a.flows, f)
	if a.count[f.Peer]--; a.count[f.Peer] == 0 {
		delete(a.count, f.Peer)
	}
}

// resetSYN answers a SYN as a closed port does (RFC 9293 §3.5.2).
func resetSYN(sh *shim.Shim, syn *inner.Header) {
	th := make(header.TCP, header.TCPMinimumSize)
	th.Encode(&header.TCPFields{
		SrcPort: syn.DstPort, DstPort: syn.SrcPort,
		AckNum:     syn.Seq + 1,
		DataOffset: header.TCPMinimumSize,
		Flags:      header.TCPFlagRst | header.TCPFlagAck,
	})
	_ = sh.Output(&shim.Packet{
		V6:        syn.V6,
		IP:        ipHeader(syn.V6, inner.TCP, len(th), syn.Dst, syn.Src),
		Transport: th,
	})
}

// unreachable answers a datagram with "port unreachable".
func (a *Admission) unreachable(h *inner.Header, quote []byte) {
	msg := make([]byte, inner.ICMPLen, inner.ICMPLen+len(quote))
	msg = append(msg, quote...)
	next := byte(inner.ICMP)
	if h.V6 {
		next = inner.ICMPv6
		msg[0], msg[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6PortUnreachable)
	} else {
		msg[0], msg[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4PortUnreachable)
		binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, 0))
	}
	_ = a.shim.Output(&shim.Packet{
		V6:      h.V6,
		IP:      ipHeader(h.V6, next, len(msg), h.Dst, h.Src),
		Payload: [][]byte{msg},
		Size:    len(msg),
	})
}

// ipHeader is what the shim reads of one.
func ipHeader(v6 bool, next byte, n int, src, dst netip.Addr) []byte {
	if v6 {
		h := make(header.IPv6, header.IPv6MinimumSize)
		h.Encode(&header.IPv6Fields{
			PayloadLength: uint16(n), TransportProtocol: tcpip.TransportProtocolNumber(next), HopLimit: 64,
			SrcAddr: address(src), DstAddr: address(dst),
		})
		return h
	}
	h := make(header.IPv4, header.IPv4MinimumSize)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + n), TTL: 64, Protocol: next,
		SrcAddr: address(src), DstAddr: address(dst),
	})
	return h
}
