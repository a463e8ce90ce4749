package shim

import (
	"encoding/binary"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/pipe"
)

// keep gives a pipe that repairs TCP a segment, cut as sendSegments cuts: the pipe
// keeps each piece until the peer has acknowledged it, and sends it when the path has
// room. What acknowledges and carries nothing else does not come here.
func (s *Shim) keep(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, limit int) {
	th := pk.Transport
	hl := 1 + len(th)
	seg := min(limit, pipe.MaxKept+1) - hl
	if pk.MSS > 0 {
		seg = min(seg, pk.MSS)
	}
	if seg <= 0 || pk.Size > seg && pk.h.Flags&inner.SYN != 0 {
		s.count.drop(DropOutTooBig)
		return
	}
	s.flushCoalesced(m) // what was sent before stays before
	c := cursor{pieces: pk.Payload}
	k := p.Keep(pk.h.Outbound().Word(), pk.V6, in.class)
	for off := 0; off == 0 || off < pk.Size; off += seg {
		n := min(seg, pk.Size-off)
		r := k.Room(hl + n)
		if r == nil {
			s.count.drop(DropOutPipe)
			break
		}
		pk.putSegment(r, th, off, n)
		c.fill(r[hl:])
	}
	k.Done()
}

// keepsDatagram says whether p is to be given a UDP datagram, whose plaintext has n
// bytes, by keepDatagram.
func keepsDatagram(p *pipe.Pipe, n int) bool { return n <= pipe.MaxKept+1 && p.KeepsDatagrams() }

// portsOf is how the flow of a UDP datagram to a peer is known.
func portsOf(th []byte) uint64 { return uint64(binary.BigEndian.Uint32(th)) }

// keepDatagram gives a pipe that paces what it sends a UDP datagram.
func (s *Shim) keepDatagram(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, n int) {
	s.flushCoalesced(m) // what was sent before stays before
	k := p.KeepOnce(portsOf(pk.Transport), pk.V6, in.class)
	if r := k.Room(n); r != nil {
		in.write(r, pk)
	} else {
		s.count.drop(DropOutPipe)
	}
	k.Done()
}
