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

	"github.com/idloc/idloc/shim"
)

// Limits of what is remembered about UDP flows.
const (
	maxFlows     = 4096
	maxPeerFlows = maxFlows / 4    // that one address of a peer began; of those beyond, each datagram is asked about
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
	shim    *shim.Shim // answers go there
	refused atomic.Uint64

	mu    sync.Mutex // guards what follows
	flows map[flow]verdict
	began map[netip.Addr]int // of flows, how many a peer's address began
	swept time.Time          // when idle flows were last forgotten
}

type flow struct{ local, remote netip.AddrPort }

type verdict struct {
	ok   bool
	ours bool      // we sent the first datagram, or one since
	at   time.Time // last datagram
}

// NewAdmission returns an Admission that asks ask, see Config.Admit, and
// answers refused flows through s.
func NewAdmission(ask func(network string, local, remote netip.AddrPort) bool, s *shim.Shim) *Admission {
	return &Admission{ask: ask, shim: s, flows: make(map[flow]verdict), began: make(map[netip.Addr]int)}
}

// Refused returns how many flows were refused.
func (a *Admission) Refused() uint64 { return a.refused.Load() }

// inner is the part of a packet that decides: addresses, protocol, and the
// first bytes of the transport header.
type inner struct {
	src, dst netip.Addr
	next     byte
	first    bool // not a later fragment
	head     []byte
}

func parseInner(v6 bool, ip, transport []byte) (p inner, ok bool) {
	p.first = true
	if v6 {
		if len(ip) < header.IPv6MinimumSize {
			return p, false
		}
		p.next = ip[6]
		p.src, p.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		if p.next == byte(header.IPv6FragmentHeader) {
			if len(transport) < header.IPv6FragmentHeaderSize {
				return p, false
			}
			p.next = transport[0]
			p.first = binary.BigEndian.Uint16(transport[2:])&^7 == 0
			transport = transport[header.IPv6FragmentHeaderSize:]
		}
	} else {
		if len(ip) < header.IPv4MinimumSize {
			return p, false
		}
		p.next = ip[9]
		p.src, p.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		p.first = binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
	}
	p.head = transport
	return p, true
}

func (p *inner) ports() (src, dst uint16, ok bool) {
	if len(p.head) < 4 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(p.head), binary.BigEndian.Uint16(p.head[2:]), true
}

// Sent notes the flows that we begin. It is shown what goes out.
func (a *Admission) Sent(pk *shim.Packet) {
	p, ok := parseInner(pk.V6, pk.IP, pk.Transport)
	if !ok || p.next != byte(header.UDPProtocolNumber) || !p.first {
		return
	}
	if src, dst, ok := p.ports(); ok {
		a.sent(flow{netip.AddrPortFrom(p.src, src), netip.AddrPortFrom(p.dst, dst)})
	}
}

// sent notes that we sent a datagram of f.
func (a *Admission) sent(f flow) {
	a.mu.Lock()
	a.putLocked(f, verdict{ok: true, ours: true, at: time.Now()})
	a.mu.Unlock()
}

// received says whether the packet in b may go on to the stack; if not it was
// answered. b stays the caller's.
func (a *Admission) received(v6 bool, b *buffer.Buffer) bool {
	if a.Received(v6, heads(v6, b)) {
		return true
	}
	quote := make([]byte, maxQuote)
	n, _ := b.ReadAt(quote, 0)
	a.Refuse(v6, quote[:n])
	return false
}

// heads returns the IP and transport headers of a packet, as far as the end of a
// TCP header, and perhaps more. Those of TCP lie together; a copy is made of
// others, a fragment's above all.
func heads(v6 bool, b *buffer.Buffer) []byte {
	hl := header.IPv4MinimumSize
	if v6 {
		hl = header.IPv6MinimumSize
	}
	views := b.AsViewList()
	if v := views.Front(); v != nil && v.Size() >= hl+header.TCPMinimumSize {
		return v.AsSlice()
	}
	head := make([]byte, header.IPv6MinimumSize+header.IPv6FragmentHeaderSize+header.TCPMinimumSize)
	n, _ := b.ReadAt(head, 0)
	return head[:n]
}

// maxQuote is how much of a refused packet an answer quotes, at most.
const maxQuote = 548

// Received says whether a packet that came in may go on. head is the packet,
// IP header first, or the first part of it: as far as the TCP header's end.
// If it may not, Refuse is due.
func (a *Admission) Received(v6 bool, head []byte) bool {
	hl := header.IPv4MinimumSize
	if v6 {
		hl = header.IPv6MinimumSize
	}
	if len(head) < hl {
		return true // the stack's to reject
	}
	p, ok := parseInner(v6, head[:hl], head[hl:])
	if !ok || !p.first {
		return true
	}
	src, dst, ok := p.ports()
	if !ok {
		return true
	}
	f := flow{netip.AddrPortFrom(p.dst, dst), netip.AddrPortFrom(p.src, src)}
	switch p.next {
	case byte(header.TCPProtocolNumber):
		const mask = header.TCPFlagSyn | header.TCPFlagAck
		if len(p.head) < header.TCPMinimumSize || header.TCPFlags(p.head[13])&mask != header.TCPFlagSyn || a.ask("tcp", f.local, f.remote) {
			return true
		}
		a.refused.Add(1)
	case byte(header.UDPProtocolNumber):
		return a.udp(f)
	default:
		return true
	}
	return false
}

// Refuse answers a packet that Received did not let on: a SYN with a reset,
// a datagram with "port unreachable", which quotes 548 bytes at most.
func (a *Admission) Refuse(v6 bool, packet []byte) {
	hl := header.IPv4MinimumSize
	if v6 {
		hl = header.IPv6MinimumSize
	}
	if len(packet) < hl {
		return
	}
	p, ok := parseInner(v6, packet[:hl], packet[hl:])
	if !ok {
		return
	}
	src, dst, ok := p.ports()
	if !ok {
		return
	}
	f := flow{netip.AddrPortFrom(p.dst, dst), netip.AddrPortFrom(p.src, src)}
	switch {
	case p.next == byte(header.TCPProtocolNumber) && len(p.head) >= header.TCPMinimumSize:
		resetSYN(a.shim, v6, f, p.head)
	case p.next == byte(header.UDPProtocolNumber):
		a.unreachable(v6, f, packet[:min(len(packet), maxQuote)])
	}
}

func (a *Admission) udp(f flow) bool {
	now := time.Now()
	a.mu.Lock()
	v, known := a.flows[f]
	if known && now.Sub(v.at) < flowIdle {
		v.at = now
		a.flows[f] = v
		a.mu.Unlock()
		return v.ok
	}
	a.mu.Unlock()
	v = verdict{ok: a.ask("udp", f.local, f.remote), at: now}
	if !v.ok {
		a.refused.Add(1)
	}
	a.mu.Lock()
	a.putLocked(f, v)
	a.mu.Unlock()
	return v.ok
}

// putLocked remembers v, making room by forgetting what is idle, or else
// something: it would be asked about again. A peer with its share of flows is
// not remembered more of, so that it pushes out nobody.
func (a *Admission) putLocked(f flow, v verdict) {
	old, known := a.flows[f]
	if !known {
		full := len(a.flows) >= maxFlows || !v.ours && a.began[f.remote.Addr()] >= maxPeerFlows
		if full && v.at.Sub(a.swept) >= flowSweep {
			a.swept = v.at
			for k, old := range a.flows {
				if v.at.Sub(old.at) >= flowIdle {
					a.forgetLocked(k, old)
				}
			}
		}
		if !v.ours && a.began[f.remote.Addr()] >= maxPeerFlows {
			return
		}
		for k, old := range a.flows {
			if len(a.flows) < maxFlows {
				break
			}
			a.forgetLocked(k, old)
		}
	} else {
		a.forgetLocked(f, old)
	}
	if a.flows[f] = v; !v.ours {
		a.began[f.remote.Addr()]++
	}
}

func (a *Admission) forgetLocked(f flow, v verdict) {
	delete(a.flows, f)
	if v.ours {
		return
	}
	if at := f.remote.Addr(); a.began[at] > 1 {
		a.began[at]--
	} else {
		delete(a.began, at)
	}
}

// resetSYN answers a SYN as a closed port does (RFC 9293 §3.5.2).
func resetSYN(sh *shim.Shim, v6 bool, f flow, syn []byte) {
	th := make(header.TCP, header.TCPMinimumSize)
	th.Encode(&header.TCPFields{
		SrcPort: f.local.Port(), DstPort: f.remote.Port(),
		AckNum:     binary.BigEndian.Uint32(syn[4:]) + 1,
		DataOffset: header.TCPMinimumSize,
		Flags:      header.TCPFlagRst | header.TCPFlagAck,
	})
	_ = sh.Output(&shim.Packet{
		V6:        v6,
		IP:        ipHeader(v6, byte(header.TCPProtocolNumber), len(th), f.local.Addr(), f.remote.Addr()),
		Transport: th,
	})
}

// unreachable answers a datagram with "port unreachable".
func (a *Admission) unreachable(v6 bool, f flow, quote []byte) {
	msg := make([]byte, 8, 8+len(quote))
	msg = append(msg, quote...)
	next := byte(header.ICMPv4ProtocolNumber)
	if v6 {
		next = byte(header.ICMPv6ProtocolNumber)
		msg[0], msg[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6PortUnreachable)
	} else {
		msg[0], msg[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4PortUnreachable)
		binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, 0))
	}
	_ = a.shim.Output(&shim.Packet{
		V6:      v6,
		IP:      ipHeader(v6, next, len(msg), f.local.Addr(), f.remote.Addr()),
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
