package shim

import (
	"encoding/binary"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/pipe"
)

// A packet's way down:
//
//  1. Output checks it (parse) and looks the mapping up. No mapping: miss.
//  2. send decides by size: one datagram (sendOne), several TCP segments
//     (sendSegments) or UDP datagrams (sendDatagrams), or a plaintext that the
//     pipe splits (SendLarge).
//  3. Header and payload are copied once, into a pipe.Batch, and sealed there.
//  4. Flush hands the batch to the socket: in the caller's goroutine, or for
//     small packets in quick succession in the shim's (coalesce.go).

// flagsAt is where a TCP header has its flags.
const flagsAt = 13

// ecnBits are those of a traffic class that are not its DSCP (RFC 3168 §5). What
// a router says by them of a datagram of the pipe's says nothing of one packet.
const ecnBits = 3

// Packet is an IP packet of the stack, in the pieces in which the stack has
// it. All slices are borrowed for the call of Output and only read.
//
// Its headers are read once, by Header, and not again when the packet has
// changed: a Packet that is used anew is Reset first. It belongs to one
// goroutine.
type Packet struct {
	V6        bool
	IP        []byte   // IP header, for IPv6 with its fragment header
	Transport []byte   // TCP or UDP header; may be empty for others and for fragments
	Payload   [][]byte // the rest
	Size      int      // bytes of Payload
	MSS       int      // > 0: a super packet, to be cut into TCP segments or UDP datagrams of this payload

	state readState
	h     inner.Header
}

// readState says whether the headers of a Packet were read.
type readState uint8

const (
	unread readState = iota
	wellFormed
	malformed
)

// Reset makes pk a Packet without anything, which keeps the room of Payload.
func (pk *Packet) Reset() {
	pk.V6, pk.IP, pk.Transport, pk.Payload, pk.Size, pk.MSS, pk.state = false, nil, nil, pk.Payload[:0], 0, 0, unread
}

// Header returns what the headers of pk say; false if they are malformed.
func (pk *Packet) Header() (*inner.Header, bool) {
	if pk.state == unread {
		pk.state = malformed
		if n, ok := pk.h.ReadIP(pk.IP); ok && n == len(pk.IP) && pk.h.V6 == pk.V6 {
			pk.state = wellFormed
			pk.readTransport()
		}
	}
	return &pk.h, pk.state == wellFormed
}

// readTransport reads the transport header, wherever the stack has it.
func (pk *Packet) readTransport() {
	switch {
	case pk.h.Later:
	case len(pk.Transport) > 0:
		pk.h.ReadTransport(pk.Transport)
	case len(pk.Payload) > 0:
		pk.h.ReadTransport(pk.Payload[0])
	}
}

// Flat copies the packet into one fresh slice.
func (pk *Packet) Flat() []byte {
	b := make([]byte, 0, len(pk.IP)+len(pk.Transport)+pk.Size)
	b = append(append(b, pk.IP...), pk.Transport...)
	for _, p := range pk.Payload {
		b = append(b, p...)
	}
	return b
}

// unflatten is the reverse of Flat; b is aliased.
func unflatten(b []byte, mss int) (pk Packet, ok bool) {
	ok = pk.Parse(b, mss)
	return pk, ok
}

// Parse makes pk the packet that b holds in one piece, IP header first. b is
// aliased. It is false if b is not even a header; Output checks the rest.
func (pk *Packet) Parse(b []byte, mss int) (ok bool) {
	pk.Reset()
	hl, ok := pk.h.Parse(b)
	if !ok {
		return false
	}
	pk.V6, pk.MSS, pk.IP, b = pk.h.V6, mss, b[:hl], b[hl:]
	th := 0
	switch {
	case pk.h.Fragment:
	case pk.h.Protocol == inner.TCP:
		if th = int(pk.h.TCPLen); th == 0 {
			return false
		}
	case pk.h.Protocol == inner.UDP:
		if th = inner.UDPLen; len(b) < th {
			return false
		}
	}
	pk.Transport = b[:th]
	pk.Payload, pk.Size = append(pk.Payload, b[th:]), len(b)-th
	pk.state = wellFormed
	return true
}

// parsed is what the way down needs to know about a Packet.
type parsed struct {
	next   byte  // next header in the plaintext
	class  uint8 // traffic class, without the bits of ECN
	hasExt bool
	ext    [inner.FragmentLen]byte // the fragment header, if hasExt
	addrs  uint16                  // sum of the addresses, if it is a first fragment
}

// len returns the plaintext's length, the next header byte included.
func (in *parsed) len(pk *Packet) int {
	n := 1 + len(pk.Transport) + pk.Size
	if in.hasExt {
		n += inner.FragmentLen
	}
	return n
}

// head writes the plaintext up to the transport header and returns its length.
func (in *parsed) head(dst []byte, pk *Packet) int {
	dst[0] = in.next
	n := 1
	if in.hasExt {
		n += copy(dst[1:], in.ext[:])
	}
	return n + copy(dst[n:], pk.Transport)
}

// write writes the whole plaintext of a packet that is not cut.
func (in *parsed) write(dst []byte, pk *Packet) {
	c := cursor{pieces: pk.Payload}
	c.fill(dst[in.head(dst, pk):])
	if in.addrs != 0 {
		addToChecksum(in.ext[0], dst[1+inner.FragmentLen:], ^in.addrs)
	}
}

// parse checks what the stack wants to send. It allocates nothing.
func (s *Shim) parse(pk *Packet) (in parsed, why Drop, ok bool) {
	h, ok := pk.Header()
	if !ok {
		return in, s.malformed(pk), false
	}
	in.next, in.class = h.Protocol, h.Class&^ecnBits
	switch {
	case h.Fragment && h.V6:
		in.next, in.hasExt = inner.Fragment, true
		copy(in.ext[:], pk.IP[inner.IPv6Len:])
	case h.Fragment:
		in.next, in.hasExt, in.ext = inner.Fragment, true, fragmentOf4(pk.IP)
	}
	if h.Src != s.self4 && h.Src != s.self6 {
		return in, DropOutSource, false
	}
	if h.Dst.IsMulticast() {
		return in, DropOutProtocol, false
	}
	switch in.next {
	case inner.TCP:
		if h.TCPLen == 0 || int(h.TCPLen) != len(pk.Transport) {
			return in, DropOutMalformed, false
		}
	case inner.UDP:
	case inner.Fragment:
		if why, ok := in.parseFragment(pk); !ok {
			return in, why, false
		}
	case inner.ICMP, inner.ICMPv6:
		t, found := pk.firstByte()
		if !found || (in.next == inner.ICMPv6) != pk.V6 || !icmpPasses(pk.V6, t) {
			return in, DropOutProtocol, false
		}
	default:
		return in, DropOutProtocol, false
	}
	return in, 0, true
}

// malformed says why the headers of pk could not be read: IPv6 with extension
// headers is not forbidden, but does not travel.
func (s *Shim) malformed(pk *Packet) Drop {
	if pk.V6 && len(pk.IP) >= inner.IPv6Len && pk.IP[0]>>4 == 6 {
		return DropOutProtocol
	}
	return DropOutMalformed
}

// firstByte returns the first byte after the IP header.
func (pk *Packet) firstByte() (byte, bool) {
	if len(pk.Transport) > 0 {
		return pk.Transport[0], true
	}
	for _, p := range pk.Payload {
		if len(p) > 0 {
			return p[0], true
		}
	}
	return 0, false
}

// Output takes a packet of the stack for a peer. It never waits for the peer:
// without a mapping the packet is held. The error says that the packet was
// dropped (a Drop; ErrNoPeer if nobody has the destination's LSI) and is
// meant for a stack that can tell the sender at once; a pipe that lost it, or
// an establishment that will fail, is not an error here. Where an ICMP error
// is due it is delivered later, from another goroutine, because stacks call
// Output with a connection's lock held.
func (s *Shim) Output(pk *Packet) error {
	in, why, ok := s.parse(pk)
	if !ok {
		return s.count.drop(why)
	}
	if s.outputBare(pk, &in) {
		return nil
	}
	if m := s.byLSI(pk.h.Dst); m != nil {
		if p := m.pipe.Load(); p != nil {
			return s.send(m, p, pk, in)
		}
	}
	return s.miss(pk, in)
}

// send puts pk into p.
func (s *Shim) send(m *mapping, p *pipe.Pipe, pk *Packet, in parsed) error {
	n := in.len(pk)
	limit := p.MaxSegment() + 1
	s.count.out.Add(1)
	switch {
	case in.next == inner.TCP:
		s.sendTCP(m, p, pk, in, n, limit)
	case pk.MSS > 0 && pk.Size > pk.MSS:
		s.sendDatagrams(m, p, pk, in, limit)
	case in.next == inner.UDP && keepsDatagram(p, n) && n <= limit:
		s.keepDatagram(m, p, pk, in, n)
	case n > limit:
		return s.sendLarge(p, pk, in, n)
	default:
		s.sendOne(m, p, pk, in, n)
	}
	return nil
}

// sendOne puts a packet that fits into one datagram into p.
func (s *Shim) sendOne(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, n int) {
	switch {
	case n > coalesceMax:
		s.flushCoalesced(m) // what was sent before stays before
	case m.coalescer.crowded():
		s.coalesce(m, p, pk, in, n)
		return
	}
	b := p.Batch(pk.V6)
	defer b.Free()
	b.SetClass(in.class)
	r := b.Room(n)
	if r == nil {
		s.count.drop(DropOutTooBig)
		return
	}
	in.write(r, pk)
	b.Seal()
	m.tcp.Ride(b, pk.V6)
	s.flush(b)
}

// sendTCP is send for TCP.
func (s *Shim) sendTCP(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, n, limit int) {
	switch {
	case m.tcp.Hold(&pk.h, pk.Transport, pk.Size, in.class):
	case (pk.Size > 0 || pk.h.Flags&(inner.SYN|inner.FIN|inner.RST) != 0) && pk.h.Flags&inner.URG == 0 && p.Repairs():
		m.tcp.MoreSent(&pk.h)
		s.keep(m, p, pk, in, limit)
	case pk.MSS > 0 && pk.Size > pk.MSS || n > limit:
		s.sendSegments(m, p, pk, in.class, limit)
	default:
		s.sendOne(m, p, pk, in, n)
		if pk.Size == 0 && pk.h.Flags == inner.ACK {
			m.tcp.AckSent(&pk.h, pk.Transport, in.class)
		}
	}
}

func (s *Shim) flush(b *pipe.Batch) {
	if b.Flush() != nil {
		s.count.drop(DropOutPipe)
	}
}

// sendLarge hands p a plaintext that needs several datagrams.
func (s *Shim) sendLarge(p *pipe.Pipe, pk *Packet, in parsed, n int) error {
	if n > maxPlain {
		return s.count.drop(DropOutTooBig)
	}
	buf := plainPool.Get().(*[maxPlain]byte)
	defer plainPool.Put(buf)
	r := buf[:n]
	in.write(r, pk)
	if p.SendLarge(pk.V6, r, in.class) != nil {
		s.count.drop(DropOutPipe)
	}
	return nil
}

// sendSegments cuts a TCP packet into segments that fit the pipe and, for a
// super packet, the connection's MSS: RFC 9293 §3.4 for the sequence numbers;
// FIN and PSH belong to the last segment, CWR to the first (RFC 3168 §6.1.2).
// All go out in one batch, as far as one takes them.
func (s *Shim) sendSegments(m *mapping, p *pipe.Pipe, pk *Packet, class uint8, limit int) {
	th := pk.Transport
	hl := 1 + len(th)
	seg := limit - hl
	if pk.MSS > 0 {
		seg = min(seg, pk.MSS)
	}
	if seg <= 0 || pk.h.Flags&(inner.SYN|inner.URG) != 0 {
		s.count.drop(DropOutTooBig)
		return
	}
	s.flushCoalesced(m) // what was sent before stays before
	c := cursor{pieces: pk.Payload}
	b := p.Batch(pk.V6)
	b.SetClass(class)
	for off := 0; off < pk.Size; off += seg {
		n := min(seg, pk.Size-off)
		r := b.Room(hl + n)
		if r == nil {
			s.flush(b)
			if r = b.Room(hl + n); r == nil {
				s.count.drop(DropOutTooBig)
				break
			}
		}
		pk.putSegment(r, th, off, n)
		c.fill(r[hl:])
		b.Seal()
	}
	s.flush(b)
	b.Free()
}

// putSegment writes the next header and the TCP header, th, of the segment with n bytes
// of pk's payload from off on.
func (pk *Packet) putSegment(r, th []byte, off, n int) {
	r[0] = inner.TCP
	copy(r[1:], th)
	binary.BigEndian.PutUint32(r[1+4:], pk.h.Seq+uint32(off))
	if off > 0 {
		r[1+flagsAt] &^= inner.CWR
	}
	if off+n < pk.Size {
		r[1+flagsAt] &^= inner.FIN | inner.PSH
	}
}

// cursor copies successive bytes out of a list of slices.
type cursor struct {
	pieces [][]byte
	i, off int
}

// fill copies len(dst) bytes, fewer only if the pieces end.
func (c *cursor) fill(dst []byte) {
	for len(dst) > 0 && c.i < len(c.pieces) {
		n := copy(dst, c.pieces[c.i][c.off:])
		dst = dst[n:]
		if c.off += n; c.off == len(c.pieces[c.i]) {
			c.i, c.off = c.i+1, 0
		}
	}
}
