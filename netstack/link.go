package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
)

// Sizes in bytes.
const (
	linkMTU = 65535 + header.IPv6MinimumSize // the largest packet of IPv6; IPv4 stops at 65535 by itself

	// segment is what a UDP payload of 1472 bytes, an Ethernet frame's, holds
	// of a TCP segment: 25 bytes are the pipe's (DESIGN §6).
	segment = 1472 - 25

	// perSegment is how many datagrams a segment of the stack has; the shim
	// cuts it. gVisor counts its congestion window in segments and adds one
	// each round trip, however large: with two datagrams a connection behaves
	// as two of reno's would. That is what Chromium's QUIC long did for the
	// same reason, and over long paths it is near what the kernel's cubic does,
	// which gVisor's cannot (stack.go).
	perSegment = 2

	// tcpMSS is announced to peers, for both families. gVisor sends tcpOptions
	// less, for which SACK may need room, and with timestamps, the only option
	// that data usually has, what it sends fills datagrams.
	tcpMSS     = perSegment*(segment-header.TCPMinimumSize-tcpStamps) + tcpOptions
	tcpStamps  = 12
	tcpOptions = header.TCPOptionsMaximumSize

	// gsoSegments is how many full segments make a super packet: as many as
	// 64 KiB of datagrams hold.
	gsoMSS      = tcpMSS - tcpOptions
	gsoSegments = (65507 - 64) / 1472 / perSegment
	superPacket = gsoSegments * gsoMSS

	// gsoMaxSize is said to TCP, which takes header.TCPTotalHeaderMaximumSize
	// and one off before it fills a super packet.
	gsoMaxSize = superPacket + header.TCPTotalHeaderMaximumSize + 1
)

// link is the shim as gVisor's link endpoint, and the stack as the shim's
// Upper. WritePacket runs in the goroutine of whoever sends.
type link struct {
	shim  *shim.Shim
	admit *Admission // nil: everything
	tap   atomic.Pointer[Tap]

	connected sync.Map // inner.Flow → *udpConn: connected UDP, for noteUnreachable

	windows sync.Map     // inner.Flow → *window: of connections until they are over
	ending  atomic.Int32 // how many of these will send no more
	scales  scales       // of those that are not there yet
	shares  shares       // of inbound TCP

	muted      muted
	deliveries deliveries
	closing    atomic.Bool                             // the stack is: what begins now is not accepted
	gone       func(v4, v6 netip.Addr, delivered bool) // a peer's process is over

	stack    *stack.Stack
	leastRTO atomic.Int64 // that the stack has, 0: minRTO

	unreadDropped atomic.Uint64 // segments beyond what a peer may have unread

	self4, self6 netip.Addr // the node's own LSIs
	ports        udpPorts   // UDP conns
	udp          udpCounters

	mu   sync.RWMutex // guards disp
	disp stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
	_ shim.DatagramUpper = (*link)(nil)
	_ shim.PeerUpper     = (*link)(nil)

	_ stack.QueueingDiscipline = (*link)(nil)
)

// Tap sees inner packets, IP header first, whole or the first part; it must
// not keep them. A super packet is seen as one.
type Tap func(outbound bool, packet []byte)

func (*link) MTU() uint32                             { return linkMTU }
func (*link) SetMTU(uint32)                           {}
func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) Wait()                                   {}
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}
func (*link) GSOMaxSize() uint32                      { return gsoMaxSize }
func (*link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }

func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disp = d
}

func (l *link) IsAttached() bool { return l.dispatcher() != nil }

func (l *link) dispatcher() stack.NetworkDispatcher {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.disp
}

var packetPool = sync.Pool{New: func() any { return new(shim.Packet) }}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for n, p := range pkts.AsSlice() {
		if err := l.WritePacket(p); err != nil {
			return n, err
		}
	}
	return pkts.Len(), nil
}

// WritePacket implements stack.QueueingDiscipline: there is no queue, and no
// list to be made of each packet.
func (l *link) WritePacket(p *stack.PacketBuffer) tcpip.Error {
	if l.muted.mutes(p) {
		return nil
	}
	pk := packetPool.Get().(*shim.Packet)
	defer packetPool.Put(pk)
	borrow(pk, p)
	if !l.sends(pk) {
		clear(pk.Payload)
		return nil
	}
	if tap := l.tap.Load(); tap != nil {
		(*tap)(true, pk.Flat())
	}
	if l.admit.Asks() {
		if h, ok := pk.Header(); ok {
			l.admit.Sent(h)
		}
	}
	err := l.shim.Output(pk)
	clear(pk.Payload)
	if err != nil {
		return &tcpip.ErrHostUnreachable{}
	}
	return nil
}

// borrow makes pk point into p.
func borrow(pk *shim.Packet, p *stack.PacketBuffer) {
	pk.Reset()
	pk.V6 = p.NetworkProtocolNumber == header.IPv6ProtocolNumber
	pk.IP = p.NetworkHeader().Slice()
	pk.Transport = p.TransportHeader().Slice()
	pk.Size = p.Data().Size()
	if p.GSOOptions.Type != stack.GSONone && p.GSOOptions.MSS < gsoMSS {
		// Else the peer takes segments as large as its socket reads, and the
		// shim cuts at what the path takes, which may be more than an
		// Ethernet frame: fewer segments, and a cipher that is quicker on
		// long ones.
		pk.MSS = int(p.GSOOptions.MSS)
	}
	views, skip := p.AsViewList()
	skip += len(pk.IP) + len(pk.Transport)
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		pk.Payload = append(pk.Payload, b[skip:])
		skip = 0
	}
}

// Deliver implements shim.Upper.
func (l *link) Deliver(h *inner.Header, b buffer.Buffer) {
	d := l.dispatcher()
	if d == nil {
		b.Release()
		return
	}
	if tap := l.tap.Load(); tap != nil {
		(*tap)(false, b.Flatten())
	}
	if l.admit.Asks() && !l.admit.received(h, &b) {
		b.Release()
		return
	}
	if !l.withinShare(h, &b) {
		b.Release()
		return
	}
	if h.Protocol == inner.TCP && h.Flags&inner.SYN != 0 {
		l.patient(h.Src)
	}
	if h.Protocol == inner.ICMP || h.Protocol == inner.ICMPv6 {
		l.noteUnreachable(h, &b)
	}
	proto := header.IPv4ProtocolNumber
	if h.V6 {
		proto = header.IPv6ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	d.DeliverNetworkPacket(proto, p)
	p.DecRef()
}

// noteUnreachable tells a connected UDP conn of an ICMP error that says that
// the host, not just the port, cannot be reached.
func (l *link) noteUnreachable(h *inner.Header, b *buffer.Buffer) {
	if h.Fragment {
		return
	}
	v6 := h.V6
	var msg [inner.ICMPLen + inner.IPv6Len + inner.FragmentLen + inner.UDPLen]byte
	n, _ := b.ReadAt(msg[:], int64(ipLen(v6)))
	if n < inner.ICMPLen {
		return
	}
	switch kind, code := msg[0], msg[1]; {
	case v6 && kind == byte(header.ICMPv6DstUnreachable) && code == byte(header.ICMPv6NetworkUnreachable):
	case !v6 && kind == byte(header.ICMPv4DstUnreachable) &&
		(code == byte(header.ICMPv4HostUnreachable) || code == byte(header.ICMPv4AdminProhibited)):
	default:
		return
	}
	var quoted inner.Header
	if _, ok := quoted.Parse(msg[inner.ICMPLen:n]); !ok || quoted.V6 != v6 || quoted.Protocol != inner.UDP || !quoted.Ports {
		return
	}
	if c, ok := l.connected.Load(quoted.Outbound()); ok {
		c.(*udpConn).unreachable()
	}
}
