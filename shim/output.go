package shim

import (
	"encoding/binary"
	"net/netip"

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
//     small packets in quick succession in the shim's (dense.go).

// IANA protocol numbers of what may pass.
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMPv6   = 58
)

const (
	ipv4Len     = 20
	ipv6Len     = 40
	tcpMinLen   = 20
	udpLen      = 8
	fragmentLen = 8
)

// TCP flags, in byte 13 of the header.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
	flagECE = 0x40
	flagCWR = 0x80
)

// Packet is an IP packet of the stack, in the pieces in which the stack has
// it. All slices are borrowed for the call of Output and only read.
type Packet struct {
	V6        bool
	IP        []byte   // IP header, for IPv6 with its fragment header
	Transport []byte   // TCP or UDP header; may be empty for others and for fragments
	Payload   [][]byte // the rest
	Size      int      // bytes of Payload
	MSS       int      // > 0: a super packet, to be cut into TCP segments or UDP datagrams of this payload
}

// flat copies the packet into one fresh slice.
func (pk *Packet) flat() []byte {
	b := make([]byte, 0, len(pk.IP)+len(pk.Transport)+pk.Size)
	b = append(append(b, pk.IP...), pk.Transport...)
	for _, p := range pk.Payload {
		b = append(b, p...)
	}
	return b
}

// unflatten is the reverse of flat; b is aliased.
func unflatten(b []byte, mss int) (pk Packet, ok bool) {
	ok = pk.Parse(b, mss)
	return pk, ok
}

// Parse makes pk the packet that b holds in one piece, IP header first. b is
// aliased. It is false if b is not even a header; Output checks the rest.
func (pk *Packet) Parse(b []byte, mss int) (ok bool) {
	pk.V6, pk.MSS = false, mss
	var next byte
	fragment := false
	hl := 0
	switch {
	case len(b) >= ipv4Len && b[0]>>4 == 4:
		hl = int(b[0]&15) * 4
		next, fragment = b[9], binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	case len(b) >= ipv6Len && b[0]>>4 == 6:
		pk.V6, hl, next = true, ipv6Len, b[6]
		if next == protoFragment {
			hl, fragment = ipv6Len+fragmentLen, true
		}
	default:
		return false
	}
	if hl < ipv4Len || len(b) < hl {
		return false
	}
	pk.IP, b = b[:hl], b[hl:]
	th := 0
	switch {
	case fragment:
	case next == protoTCP && len(b) >= tcpMinLen:
		th = int(b[12]>>4) * 4
	case next == protoUDP:
		th = udpLen
	}
	if len(b) < th {
		return false
	}
	pk.Transport = b[:th]
	pk.Payload, pk.Size = append(pk.Payload[:0], b[th:]), len(b)-th
	return true
}

// parsed is what the way down needs to know about a Packet.
type parsed struct {
	next   byte // next header in the plaintext
	syn    bool // a TCP segment that opens a connection
	hasExt bool
	ext    [fragmentLen]byte // the fragment header, if hasExt
	addrs  uint16            // sum of the addresses, if it is a first fragment
}

// len returns the plaintext's length, the next header byte included.
func (in *parsed) len(pk *Packet) int {
	n := 1 + len(pk.Transport) + pk.Size
	if in.hasExt {
		n += fragmentLen
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
		addToChecksum(in.ext[0], dst[1+fragmentLen:], ^in.addrs)
	}
}

// parse checks what the stack wants to send. It allocates nothing.
func (s *Shim) parse(pk *Packet) (in parsed, dst netip.Addr, why Drop, ok bool) {
	ip := pk.IP
	var src netip.Addr
	if pk.V6 {
		if len(ip) < ipv6Len || ip[0]>>4 != 6 {
			return in, dst, DropOutMalformed, false
		}
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		in.next = ip[6]
		switch {
		case in.next == protoFragment && len(ip) == ipv6Len+fragmentLen:
			in.hasExt = true
			copy(in.ext[:], ip[ipv6Len:])
		case in.next == protoFragment || len(ip) != ipv6Len:
			return in, dst, DropOutProtocol, false
		}
	} else {
		if len(ip) < ipv4Len || ip[0]>>4 != 4 {
			return in, dst, DropOutMalformed, false
		}
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		in.next = ip[9]
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			in.ext, in.hasExt = fragmentOf4(ip), true
			in.next = protoFragment
		}
	}
	if src != s.self4 && src != s.self6 {
		return in, dst, DropOutSource, false
	}
	if dst.IsMulticast() {
		return in, dst, DropOutProtocol, false
	}
	switch in.next {
	case protoTCP:
		th := pk.Transport
		if len(th) < tcpMinLen || int(th[12]>>4)*4 != len(th) {
			return in, dst, DropOutMalformed, false
		}
		in.syn = th[13]&(flagSYN|flagACK) == flagSYN
	case protoUDP:
	case protoFragment:
		if why, ok := in.parseFragment(pk, src, dst); !ok {
			return in, dst, why, false
		}
	case protoICMP, protoICMPv6:
		t, found := pk.firstByte()
		if !found || (in.next == protoICMPv6) != pk.V6 || !icmpPasses(pk.V6, t) {
			return in, dst, DropOutProtocol, false
		}
	default:
		return in, dst, DropOutProtocol, false
	}
	return in, dst, 0, true
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
	in, dst, why, ok := s.parse(pk)
	if !ok {
		return s.count.drop(why)
	}
	if s.outputBare(pk, &in, dst) {
		return nil
	}
	if m := s.byLSI(dst); m != nil {
		if p := m.pipe.Load(); p != nil {
			return s.send(m, p, pk, in)
		}
	}
	return s.miss(dst, pk, in)
}

// send puts pk into p.
func (s *Shim) send(m *mapping, p *pipe.Pipe, pk *Packet, in parsed) error {
	n := in.len(pk)
	limit := p.MaxSegment() + 1
	s.count.out.Add(1)
	switch {
	case in.next == protoTCP:
		s.sendTCP(m, p, pk, in, n, limit)
	case pk.MSS > 0 && pk.Size > pk.MSS:
		s.sendDatagrams(m, p, pk, in, limit)
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
	case n > denseMax:
		s.flushDense(m) // what was sent before stays before
	case m.dense.crowded():
		s.sendDense(m, p, pk, in, n)
		return
	}
	b := p.Batch(pk.V6)
	defer b.Free()
	r := b.Room(n)
	if r == nil {
		s.count.drop(DropOutTooBig)
		return
	}
	in.write(r, pk)
	b.Seal()
	m.rideAlong(b, pk.V6)
	s.flush(b)
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
	if p.SendLarge(pk.V6, r) != nil {
		s.count.drop(DropOutPipe)
	}
	return nil
}

// sendSegments cuts a TCP packet into segments that fit the pipe and, for a
// super packet, the connection's MSS: RFC 9293 §3.4 for the sequence numbers;
// FIN and PSH belong to the last segment, CWR to the first (RFC 3168 §6.1.2).
// All go out in one batch, as far as one takes them.
func (s *Shim) sendSegments(m *mapping, p *pipe.Pipe, pk *Packet, limit int) {
	th := pk.Transport
	hl := 1 + len(th)
	seg := limit - hl
	if pk.MSS > 0 {
		seg = min(seg, pk.MSS)
	}
	if seg <= 0 || th[13]&(flagSYN|flagURG) != 0 {
		s.count.drop(DropOutTooBig)
		return
	}
	s.flushDense(m) // what was sent before stays before
	seq := binary.BigEndian.Uint32(th[4:])
	c := cursor{pieces: pk.Payload}
	b := p.Batch(pk.V6)
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
		r[0] = protoTCP
		copy(r[1:], th)
		binary.BigEndian.PutUint32(r[1+4:], seq+uint32(off))
		if off > 0 {
			r[1+13] &^= flagCWR
		}
		if off+n < pk.Size {
			r[1+13] &^= flagFIN | flagPSH
		}
		c.fill(r[hl:])
		b.Seal()
	}
	s.flush(b)
	b.Free()
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
