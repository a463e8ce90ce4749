package shim

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim/pep"
)

// A run's way up (DESIGN §13):
//
//  1. Data gets datagrams that the socket received together and takes one
//     View that holds all their plaintexts.
//  2. They are opened back to front, the last to the View's end. Once a
//     plaintext is checked its header is copied aside, and the datagram
//     before it is opened so that its payload ends where this payload
//     begins: over the header, which is no longer needed there.
//  3. So the payloads of segments that belong together lie together, and
//     merging (join) only takes the first one's sequence number. A datagram
//     that fails to open, or that is malformed, costs only itself.
//  4. Front to back, each packet gets a View with new headers and one on its
//     payload, and goes to the stack. A PacketUpper is lent the pieces instead.

const (
	maxRun   = 64 // datagrams opened into one View
	maxHead  = 60 // TCP header with all options
	maxPlain = 1 + 65535
	// maxTransport keeps a merged packet within what IPv4's total length
	// says; IPv6's payload length has room for more.
	maxTransport = 65535 - inner.IPv4Len
)

var plainPool = sync.Pool{New: func() any { return new([maxPlain]byte) }}

// packet is one packet of a run, in the making: its transport header, and
// where in the run's View the rest is.
type packet struct {
	h        inner.Header
	counter  uint32   // the pipe's, of the first datagram
	hl       int      // bytes of head in use
	pay, n   int      // offset and length of the payload
	seg      int      // the largest payload of those that were merged into it
	merged   int      // how many were merged into it
	wanted   bool     // the pipe acknowledges it, and repairs it if it is TCP
	again    bool     // and has sent it before; of merged ones, all
	fragment fragment // if h.Fragment
	head     [maxHead]byte
}

// run is the scratch space of one Data call.
type run struct {
	packets [maxRun]packet // in reverse order
	n       int
	ack     packet                        // see deliverAck
	head    [inner.IPv6Len + maxHead]byte // of the one that a PacketUpper is lent
}

var runPool = sync.Pool{New: func() any { return new(run) }}

// Data implements pipe.Handler.
func (s *Shim) Data(p *pipe.Pipe, b []byte, seg int) {
	u := s.upper.Load()
	m := s.byPeer(p.Peer())
	if m == nil {
		m, _ = s.adopt(p.Peer())
	}
	v6 := len(b) > 0 && b[0] == wire.TypeData6
	if u == nil || m == nil || seg <= 0 || v6 && (!m.v6.IsValid() || !s.self6.IsValid()) {
		why := DropInNoMapping
		if u == nil {
			why = DropInNoUpper
		}
		s.count.drop(why)
		return
	}
	r := runPool.Get().(*run)
	for len(b) > 0 {
		n := min(len(b), maxRun*seg)
		s.run(*u, r, m, p, v6, b[:n], seg)
		b = b[n:]
	}
	runPool.Put(r)
}

// addrs returns source and destination of what comes in through m.
func (s *Shim) addrs(m *mapping, v6 bool) (src, dst netip.Addr) {
	if v6 {
		return m.v6, s.self6
	}
	return m.v4, s.self4
}

func (s *Shim) run(u Upper, r *run, m *mapping, p *pipe.Pipe, v6 bool, b []byte, seg int) {
	const cover = wire.HeaderLen + wire.TagLen
	count := (len(b) + seg - 1) / seg
	size := 0
	for i := range count {
		size += max(min(seg, len(b)-i*seg)-cover, 0)
	}
	view := buffer.NewViewSize(size)
	o := view.AsSlice()
	src, dst := s.addrs(m, v6)
	packets, _ := u.(PacketUpper)
	mergeUDP := packets != nil && packets.MergesUDP()

	r.n = 0
	end := size
	for i := count - 1; i >= 0; i-- {
		d := b[i*seg : min(len(b), (i+1)*seg)]
		at := max(end-max(len(d)-cover, 0), 0)
		plain, err := p.Open(o[at:at:end], d)
		if err != nil || len(plain) > end-at {
			continue // counted by the pipe
		}
		k := &r.packets[r.n]
		k.counter = binary.BigEndian.Uint32(d[4:])
		if why, ok := k.parse(plain, v6, src, dst); !ok {
			s.count.drop(why)
			continue
		}
		k.pay = at + len(plain) - k.n
		end = k.pay
		if k.seg, k.merged = k.n, 0; r.n > 0 && (r.packets[r.n-1].join(k) || mergeUDP && r.packets[r.n-1].joinUDP(k)) {
			s.count.merged.Add(1)
			continue
		}
		r.n++
	}
	r.repaired(m, p)
	index := binary.BigEndian.Uint32(b) & wire.MaxIndex
	datagrams, _ := u.(DatagramUpper)
	for i := r.n - 1; i >= 0; i-- {
		k := &r.packets[i]
		if s.deliverDatagram(datagrams, k, o) {
			continue
		}
		if k.isTCP() {
			m.tcp.Expect(&k.h, k.n)
		}
		if packets != nil {
			s.show(packets, r, k, o)
			continue
		}
		if k.isTCP() && m.tcp.Opens(&k.h, k.n) {
			s.deliverAck(u, k, &r.ack)
		}
		s.deliver(u, m, index, k, view)
	}
	view.Release()
}

// repaired tells m's proxy whether the pipe repairs the segments of a run, as the last
// one with payload says.
func (r *run) repaired(m *mapping, p *pipe.Pipe) {
	for i := range r.n {
		switch k := &r.packets[i]; {
		case !k.isTCP() || k.n == 0:
			continue
		case k.wanted:
			m.tcp.Repaired(p.Awaits())
		default:
			m.tcp.Repaired(0)
		}
		return
	}
}

// parse checks one plaintext and takes its header. Only k.pay is left to the
// caller: the payload is the last k.n bytes of plain.
func (k *packet) parse(plain []byte, v6 bool, src, dst netip.Addr) (Drop, bool) {
	if len(plain) == 0 {
		return DropInShort, false
	}
	b := plain[1:]
	next := plain[0]
	if k.wanted = next&pipe.Wanted != 0; k.wanted {
		if next &^= pipe.Wanted | pipe.Again; !mayBeWanted(next) {
			return DropInProtocol, false
		}
	}
	k.again = k.wanted && plain[0]&pipe.Again != 0
	k.h.SetIP(src, dst, v6, next)
	k.h.ReadTransport(b)
	switch k.h.Protocol {
	case inner.TCP:
		if len(b) < inner.TCPLen {
			return DropInShort, false
		}
		if k.hl = int(k.h.TCPLen); k.hl == 0 {
			return DropInTCPOffset, false
		}
	case inner.UDP:
		if len(b) < inner.UDPLen {
			return DropInShort, false
		}
		if int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			return DropInUDPLength, false
		}
		k.hl = inner.UDPLen
	case inner.ICMP, inner.ICMPv6:
		if (k.h.Protocol == inner.ICMPv6) != v6 {
			return DropInProtocol, false
		}
		if why, ok := translate(b, v6, dst, src); !ok {
			return why, false
		}
		k.hl = inner.ICMPLen
	case inner.Fragment:
		f, rest, ok := parseFragment(b, v6)
		if !ok {
			return DropInFragment, false
		}
		if f.off == 0 && f.next != inner.ICMP {
			addToChecksum(f.next, rest, sumAddrs(src, dst))
		}
		k.h.Protocol, k.h.Fragment, k.h.Later = f.next, true, f.off != 0
		if !k.h.Later {
			k.h.ReadTransport(rest)
		}
		k.fragment, k.hl, k.n = f, 0, len(rest)
		if v6 {
			k.hl = copy(k.head[:], b[:inner.FragmentLen])
			k.head[1], k.head[3] = 0, k.head[3]&^6 // reserved
		}
		return 0, true
	default:
		return DropInProtocol, false
	}
	copy(k.head[:k.hl], b)
	k.n = len(b) - k.hl
	return 0, true
}

// mayBeWanted says whether packets of a protocol may want to be acknowledged.
func mayBeWanted(proto uint8) bool { return proto == inner.TCP || proto == inner.UDP }

func (k *packet) isTCP() bool { return k.h.Protocol == inner.TCP && !k.h.Fragment }
func (k *packet) isUDP() bool { return k.h.Protocol == inner.UDP && !k.h.Fragment }

// join puts the TCP segment a before k, if a receiver could have got both as
// one: same flow and header layout, contiguous, no flag between them that
// means something at its place. k's acknowledgement, window and timestamps
// are the newer ones and stay.
func (k *packet) join(a *packet) bool {
	if !k.isTCP() || !a.isTCP() || k.hl != a.hl || a.n == 0 || k.n == 0 {
		return false
	}
	x, y := &a.h, &k.h
	const middle = inner.ACK | inner.PSH | inner.ECE
	switch {
	case x.SrcPort != y.SrcPort || x.DstPort != y.DstPort:
		return false
	case x.Seq+uint32(a.n) != y.Seq:
		return false
	case x.Flags&^(middle|inner.CWR) != 0 || y.Flags&^(middle|inner.FIN) != 0:
		return false
	case (x.Flags^y.Flags)&(inner.ACK|inner.ECE) != 0:
		return false
	case int32(y.Ack-x.Ack) < 0:
		return false
	case k.hl+k.n+a.n > maxTransport:
		return false
	case !sameOptions(a.head[inner.TCPLen:a.hl], k.head[inner.TCPLen:k.hl]):
		return false
	}
	y.Seq = x.Seq
	y.Flags |= x.Flags & (inner.PSH | inner.CWR)
	copy(k.head[4:8], a.head[4:8])
	k.head[flagsAt] = y.Flags
	k.prepend(a)
	return true
}

// joinUDP puts the datagram a before k, as a stack does that knows UDP_GRO:
// same ports, and all of one size but the last, which may be shorter.
func (k *packet) joinUDP(a *packet) bool {
	switch {
	case !k.isUDP() || !a.isUDP() || k.n == 0:
		return false
	case k.h.SrcPort != a.h.SrcPort || k.h.DstPort != a.h.DstPort:
		return false
	case a.n < k.seg || k.merged > 0 && a.n != k.seg:
		return false
	case k.hl+k.n+a.n > maxTransport:
		return false
	}
	k.prepend(a)
	binary.BigEndian.PutUint16(k.head[4:], uint16(inner.UDPLen+k.n))
	return true
}

// prepend makes a's payload, which lies before k's, a part of it.
func (k *packet) prepend(a *packet) {
	k.pay, k.n, k.counter = a.pay, a.n+k.n, a.counter
	k.seg = max(k.seg, a.n)
	k.again = k.again && a.again
	k.merged++
}

// sameOptions says whether the TCP options of a segment, x, and of the one
// after it, y, let them be merged: equal, or nothing but a timestamp laid out
// as RFC 7323 appendix A recommends, with a value that does not go back.
func sameOptions(x, y []byte) bool {
	if bytes.Equal(x, y) {
		return true
	}
	const layout = 0x0101080a // NOP NOP timestamp length 10
	return len(x) == 12 && len(y) == 12 &&
		binary.BigEndian.Uint32(x) == layout && binary.BigEndian.Uint32(y) == layout &&
		int32(binary.BigEndian.Uint32(y[4:])-binary.BigEndian.Uint32(x[4:])) >= 0
}

// deliver gives the stack one packet whose payload lies in view, which stays
// the caller's. A TCP segment waits for those before it, if m is given.
func (s *Shim) deliver(u Upper, m *mapping, index uint32, k *packet, view *buffer.View) {
	hv := k.header()
	b := buffer.MakeWithView(hv)
	if k.n > 0 {
		var pv *buffer.View
		if 2*k.n >= view.Capacity() {
			pv = view.Clone()
			pv.TrimFront(k.pay)
			pv.CapLength(k.n)
		} else { // a small packet must not keep a large chunk alive
			pv = buffer.NewViewWithData(view.AsSlice()[k.pay : k.pay+k.n])
		}
		b.Append(pv)
	}
	if m != nil && k.isTCP() {
		m.tcp.Deliver(&k.h, k.n, pep.Datagram{Index: index, Counter: k.counter, Again: k.again}, b)
		return
	}
	s.count.in.Add(1)
	u.Deliver(&k.h, b)
}

// header returns a View of its own with the IP and transport headers: the
// stack clones the chunk that holds the network header, and would copy all of
// it with the payload inside.
func (k *packet) header() *buffer.View {
	n := inner.IPv4Len + k.hl
	if k.h.V6 {
		n = inner.IPv6Len + k.hl
	}
	hv := buffer.NewViewSize(n)
	k.putHeader(hv.AsSlice())
	return hv
}

// putHeader writes the IP and transport headers to h and returns their length.
func (k *packet) putHeader(h []byte) int {
	n, next := k.hl+k.n, k.h.Protocol
	if k.h.V6 {
		if k.h.Fragment {
			next = inner.Fragment
		}
		putIPv6(h, next, n, k.h.Src, k.h.Dst)
		return inner.IPv6Len + copy(h[inner.IPv6Len:], k.head[:k.hl])
	}
	var f *fragment
	if k.h.Fragment {
		f = &k.fragment
	}
	putIPv4(h, next, n, k.h.Src, k.h.Dst, f)
	return inner.IPv4Len + copy(h[inner.IPv4Len:], k.head[:k.hl])
}

// Large implements pipe.Handler: a plaintext that the pipe put together.
func (s *Shim) Large(p *pipe.Pipe, v6 bool, plain []byte) {
	u := s.upper.Load()
	m := s.byPeer(p.Peer())
	if u == nil {
		s.count.drop(DropInNoUpper)
		return
	}
	if m == nil || v6 && (!m.v6.IsValid() || !s.self6.IsValid()) {
		s.count.drop(DropInNoMapping)
		return
	}
	if len(plain)-1 > maxTransport {
		s.count.drop(DropInProtocol)
		return
	}
	view := buffer.NewViewWithData(plain)
	src, dst := s.addrs(m, v6)
	r := runPool.Get().(*run)
	k := &r.packets[0]
	if why, ok := k.parse(view.AsSlice(), v6, src, dst); ok {
		k.pay, k.merged = len(plain)-k.n, 0
		if packets, _ := (*u).(PacketUpper); packets != nil {
			s.show(packets, r, k, view.AsSlice())
		} else {
			s.deliver(*u, nil, 0, k, view)
		}
	} else {
		s.count.drop(why)
	}
	runPool.Put(r)
	view.Release()
}
