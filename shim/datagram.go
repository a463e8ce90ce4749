package shim

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/idloc/idloc/internal/pipe"
)

// UDP without IP packets: what a stack that knows its sockets needs for a
// datagram that fits the pipe is its ports and payload, since the inner IP
// header is not sent anyway (DESIGN §6). All else takes the way of packets:
// fragments, large datagrams, destinations without a mapping.

// DatagramUpper is an Upper that may take UDP datagrams as they are.
type DatagramUpper interface {
	Upper

	// Datagram is offered the payload b, borrowed for the call, of a whole
	// UDP datagram; src has the LSI of the peer that the pipe authenticated,
	// dst one of our own. False means that Deliver is to have it as a packet.
	// It may be called from several goroutines.
	Datagram(src, dst netip.AddrPort, b []byte) bool
}

// datagram is a Packet with room for what it points to.
type datagram struct {
	pk      Packet
	head    [udpLen]byte
	payload [1][]byte
}

var datagramPool = sync.Pool{New: func() any { return new(datagram) }}

// SendDatagram sends the payload b, borrowed for the call, from our port src
// to a peer's dst, if there is a pipe that takes it in one piece now. False
// means that nothing was done: Output is to have it as a packet. Like Output
// it does not tell what became of it.
func (s *Shim) SendDatagram(src uint16, dst netip.AddrPort, b []byte) bool {
	if s.sendBare(src, dst, b) {
		return true
	}
	a := dst.Addr()
	m := s.byLSI(a)
	if m == nil {
		return false
	}
	p := m.pipe.Load()
	n := 1 + udpLen + len(b)
	if p == nil || n > p.MaxSegment()+1 {
		return false
	}
	d := datagramPool.Get().(*datagram)
	binary.BigEndian.PutUint16(d.head[0:], src)
	binary.BigEndian.PutUint16(d.head[2:], dst.Port())
	binary.BigEndian.PutUint16(d.head[4:], uint16(udpLen+len(b)))
	d.payload[0] = b
	d.pk = Packet{V6: a.Is6(), Transport: d.head[:], Payload: d.payload[:], Size: len(b)}
	s.count.out.Add(1)
	s.sendOne(m, p, &d.pk, parsed{next: protoUDP}, n)
	d.payload[0] = nil
	datagramPool.Put(d)
	return true
}

// sendDatagrams cuts a UDP super packet, which a program made by UDP_SEGMENT,
// into the datagrams that it stands for: each with the payload of MSS bytes,
// the last with the rest.
func (s *Shim) sendDatagrams(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, limit int) {
	if in.next != protoUDP || len(pk.Transport) != udpLen {
		s.count.drop(DropOutMalformed)
		return
	}
	s.flushDense(m) // what was sent before stays before
	var large *[maxPlain]byte
	if 1+udpLen+pk.MSS > limit {
		large = plainPool.Get().(*[maxPlain]byte)
		defer plainPool.Put(large)
	}
	c := cursor{pieces: pk.Payload}
	b := p.Batch(pk.V6)
	for off := 0; off < pk.Size; off += pk.MSS {
		n := 1 + udpLen + min(pk.MSS, pk.Size-off)
		var r []byte
		if large != nil {
			r = large[:n]
		} else if r = b.Room(n); r == nil {
			s.flush(b)
			r = b.Room(n)
		}
		if r == nil {
			s.count.drop(DropOutTooBig)
			break
		}
		r[0] = protoUDP
		copy(r[1:], pk.Transport)
		binary.BigEndian.PutUint16(r[1+4:], uint16(n-1))
		c.fill(r[1+udpLen:])
		if large == nil {
			b.Seal()
		} else if p.SendLarge(pk.V6, r) != nil {
			s.count.drop(DropOutPipe)
		}
	}
	s.flush(b)
	b.Free()
}

// deliverDatagram offers k to u, which may be nil, as a datagram.
func (s *Shim) deliverDatagram(u DatagramUpper, k *packet, src, dst netip.Addr, view []byte) bool {
	if u == nil || k.next != protoUDP || k.isFrag {
		return false
	}
	from := netip.AddrPortFrom(src, binary.BigEndian.Uint16(k.head[0:]))
	to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(k.head[2:]))
	if !u.Datagram(from, to, view[k.pay:k.pay+k.n]) {
		return false
	}
	s.count.in.Add(1)
	return true
}
