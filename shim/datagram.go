package shim

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/idloc/idloc/internal/inner"
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
	head    [inner.UDPLen]byte
	payload [1][]byte
}

var datagramPool = sync.Pool{New: func() any { return new(datagram) }}

// SendDatagram sends the payload b, borrowed for the call, from our port src
// to a peer's dst, with a traffic class whose lower two bits are 0, if there is
// a pipe that takes it in one piece now. False
// means that nothing was done: Output is to have it as a packet. Like Output
// it does not tell what became of it.
func (s *Shim) SendDatagram(src uint16, dst netip.AddrPort, b []byte, class uint8) bool {
	if s.sendBare(src, dst, b) {
		return true
	}
	a := dst.Addr()
	m := s.byLSI(a)
	if m == nil {
		return false
	}
	p := m.pipe.Load()
	n := 1 + inner.UDPLen + len(b)
	if p == nil || n > p.MaxSegment()+1 {
		return false
	}
	d := datagramPool.Get().(*datagram)
	binary.BigEndian.PutUint16(d.head[0:], src)
	binary.BigEndian.PutUint16(d.head[2:], dst.Port())
	binary.BigEndian.PutUint16(d.head[4:], uint16(inner.UDPLen+len(b)))
	d.payload[0] = b
	d.pk = Packet{V6: a.Is6(), Transport: d.head[:], Payload: d.payload[:], Size: len(b)}
	s.count.out.Add(1)
	if in := (parsed{next: inner.UDP, class: class}); keepsDatagram(p, n) {
		s.keepDatagram(m, p, &d.pk, in, n)
	} else {
		s.sendOne(m, p, &d.pk, in, n)
	}
	d.payload[0] = nil
	datagramPool.Put(d)
	return true
}

// Burst takes datagrams that are sent together: those for one peer, of one
// traffic class, that follow each other and have one length, but for a last one
// that may be shorter, leave as one batch. It belongs to one goroutine, and Flush
// must come in the end, after which it may be used on.
type Burst struct {
	s     *Shim
	m     *mapping
	p     *pipe.Pipe
	b     *pipe.Batch // nil: empty
	v6    bool
	class uint8
	kept  *pipe.Pipe // what waits there is to be sent; nil: nothing does
}

// Burst returns an empty one.
func (s *Shim) Burst() Burst { return Burst{s: s} }

// Send is SendDatagram, but that Flush may have to come before the datagram goes.
// After false, Flush comes before whatever else is to send it.
func (u *Burst) Send(src uint16, dst netip.AddrPort, b []byte, class uint8) bool {
	s := u.s
	if s.sendBare(src, dst, b) {
		return true
	}
	m := s.byLSI(dst.Addr())
	if m == nil {
		return false
	}
	p := m.pipe.Load()
	n := 1 + inner.UDPLen + len(b)
	if p == nil || n > p.MaxSegment()+1 {
		return false
	}
	v6 := dst.Addr().Is6()
	if u.b != nil && (u.m != m || u.p != p || u.v6 != v6 || u.class != class) {
		u.Flush()
	}
	if keepsDatagram(p, n) {
		u.keep(m, p, src, dst, b, class, n)
		return true
	}
	if u.b == nil {
		s.flushCoalesced(m) // what was sent before stays before
		u.m, u.p, u.b, u.v6, u.class = m, p, p.Batch(v6), v6, class
		u.b.SetClass(class)
	}
	r := u.b.Room(n)
	if r == nil {
		s.flush(u.b)
		if r = u.b.Room(n); r == nil {
			return false
		}
	}
	putDatagram(r, src, dst.Port(), b)
	u.b.Seal()
	s.count.out.Add(1)
	return true
}

// putDatagram writes the plaintext of a UDP datagram.
func putDatagram(r []byte, src, dst uint16, b []byte) {
	r[0] = inner.UDP
	binary.BigEndian.PutUint16(r[1:], src)
	binary.BigEndian.PutUint16(r[3:], dst)
	binary.BigEndian.PutUint16(r[5:], uint16(inner.UDPLen+len(b)))
	binary.BigEndian.PutUint16(r[7:], 0)
	copy(r[1+inner.UDPLen:], b)
}

// keep is Send to a pipe that paces what it sends: Flush has it begin.
func (u *Burst) keep(m *mapping, p *pipe.Pipe, src uint16, dst netip.AddrPort, b []byte, class uint8, n int) {
	if u.b != nil || u.kept != p {
		u.Flush()
		u.s.flushCoalesced(m) // what was sent before stays before
	}
	k := p.KeepOnce(uint64(src)<<16|uint64(dst.Port()), dst.Addr().Is6(), class)
	if r := k.Room(n); r != nil {
		putDatagram(r, src, dst.Port(), b)
	} else {
		u.s.count.drop(DropOutPipe)
	}
	k.Leave()
	u.kept = p
	u.s.count.out.Add(1)
}

// Flush sends what is left.
func (u *Burst) Flush() {
	if u.kept != nil {
		u.kept.SendKept()
		u.kept = nil
	}
	if u.b == nil {
		return
	}
	u.s.flush(u.b)
	u.b.Free()
	u.b, u.m, u.p = nil, nil, nil
}

// sendDatagrams cuts a UDP super packet, which a program made by UDP_SEGMENT,
// into the datagrams that it stands for: each with the payload of MSS bytes,
// the last with the rest.
func (s *Shim) sendDatagrams(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, limit int) {
	if in.next != inner.UDP || len(pk.Transport) != inner.UDPLen {
		s.count.drop(DropOutMalformed)
		return
	}
	s.flushCoalesced(m) // what was sent before stays before
	var large *[maxPlain]byte
	if 1+inner.UDPLen+pk.MSS > limit {
		large = plainPool.Get().(*[maxPlain]byte)
		defer plainPool.Put(large)
	}
	c := cursor{pieces: pk.Payload}
	if n := 1 + inner.UDPLen + pk.MSS; n <= limit && keepsDatagram(p, n) {
		s.keepDatagrams(p, pk, in, &c)
		return
	}
	b := p.Batch(pk.V6)
	b.SetClass(in.class)
	for off := 0; off < pk.Size; off += pk.MSS {
		n := 1 + inner.UDPLen + min(pk.MSS, pk.Size-off)
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
		r[0] = inner.UDP
		copy(r[1:], pk.Transport)
		binary.BigEndian.PutUint16(r[1+4:], uint16(n-1))
		c.fill(r[1+inner.UDPLen:])
		if large == nil {
			b.Seal()
		} else if p.SendLarge(pk.V6, r, in.class) != nil {
			s.count.drop(DropOutPipe)
		}
	}
	s.flush(b)
	b.Free()
}

// keepDatagrams is sendDatagrams to a pipe that paces what it sends; c is at the
// payload's beginning.
func (s *Shim) keepDatagrams(p *pipe.Pipe, pk *Packet, in parsed, c *cursor) {
	k := p.KeepOnce(portsOf(pk.Transport), pk.V6, in.class)
	for off := 0; off < pk.Size; off += pk.MSS {
		n := 1 + inner.UDPLen + min(pk.MSS, pk.Size-off)
		r := k.Room(n)
		if r == nil {
			s.count.drop(DropOutPipe)
			break
		}
		r[0] = inner.UDP
		copy(r[1:], pk.Transport)
		binary.BigEndian.PutUint16(r[1+4:], uint16(n-1))
		c.fill(r[1+inner.UDPLen:])
	}
	k.Done()
}

// deliverDatagram offers k to u, which may be nil, as a datagram.
func (s *Shim) deliverDatagram(u DatagramUpper, k *packet, view []byte) bool {
	if u == nil || !k.isUDP() {
		return false
	}
	from, to := netip.AddrPortFrom(k.h.Src, k.h.SrcPort), netip.AddrPortFrom(k.h.Dst, k.h.DstPort)
	if !u.Datagram(from, to, view[k.pay:k.pay+k.n]) {
		return false
	}
	s.count.in.Add(1)
	return true
}
