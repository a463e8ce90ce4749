package shim_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/shim"
)

// borrower is an upper that is lent packets.
type borrower struct {
	*upper
	udp  bool
	lent chan lent
}

type lent struct {
	v6            bool
	head, payload []byte
	seg           int
}

func (b *borrower) MergesUDP() bool { return b.udp }
func (b *borrower) Packet(h *inner.Header, head, payload []byte, seg int) {
	v6 := h.V6
	b.lent <- lent{v6, bytes.Clone(head), bytes.Clone(payload), seg}
	clear(head)
	clear(payload) // it is ours for the call
}

func (b *borrower) next(t *testing.T) lent {
	t.Helper()
	select {
	case l := <-b.lent:
		return l
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing was lent")
		return lent{}
	}
}

func newBorrower(p *pair, udp bool) *borrower {
	b := &borrower{newUpper(), udp, make(chan lent, 1024)}
	p.b.Shim.Attach(b)
	return b
}

// A super packet arrives as the stream it was, in runs whose segments have the
// size that is said.
func TestLentRuns(t *testing.T) {
	p, _, _ := upPair(t)
	b := newBorrower(p, false)
	data := make([]byte, 40000)
	for i := range data {
		data[i] = byte(i * 3)
	}
	if err := p.a.Shim.Output(tcp(p.src, p.dst, 0x10, data, 1000)); err != nil {
		t.Fatal(err)
	}
	from, _, _ := p.b.Table.Of(p.a.ID)
	self, _ := p.b.Table.Self()
	merged := false
	for got := 0; got < len(data); {
		l := b.next(t)
		ip, th := header.IPv4(l.head), header.TCP(l.head[20:])
		if !ip.IsChecksumValid() || int(ip.TotalLength()) != len(l.head)+len(l.payload) ||
			netip.AddrFrom4(ip.SourceAddress().As4()) != from || netip.AddrFrom4(ip.DestinationAddress().As4()) != self {
			t.Fatalf("IP header %x", l.head)
		}
		if int(th.SequenceNumber()) != 1000+got || !bytes.Equal(l.payload, data[got:got+len(l.payload)]) {
			t.Fatalf("at %d: sequence number %d, %d bytes", got, th.SequenceNumber(), len(l.payload))
		}
		if want := 1000; len(l.payload) > 1000 && l.seg != want || len(l.payload) <= 1000 && l.seg != 0 {
			t.Fatalf("%d bytes in segments of %d", len(l.payload), l.seg)
		}
		merged = merged || l.seg > 0
		got += len(l.payload)
	}
	if !merged {
		t.Error("nothing was merged")
	}
}

// A UDP super packet becomes the datagrams that it stands for; an upper that
// merges UDP gets them in runs that say how to part them, another one by one.
func TestUDPSuperPackets(t *testing.T) {
	for _, merges := range []bool{false, true} {
		p, _, _ := upPair(t)
		b := newBorrower(p, merges)
		for _, mss := range []int{1, 100, 1000, 1100, 3000} {
			data := make([]byte, 20*mss+mss/2)
			for i := range data {
				data[i] = byte(i * 3)
			}
			pk := udp(p.src, p.dst, "")
			pk.Payload, pk.Size, pk.MSS = [][]byte{data[:mss/3], data[mss/3:]}, len(data), mss
			if err := p.a.Shim.Output(pk); err != nil {
				t.Fatal(err)
			}
			runs := 0
			for got := 0; got < len(data); {
				l := b.next(t)
				uh := header.UDP(l.head[20:])
				if int(uh.Length()) != 8+len(l.payload) || uh.SourcePort() != 1 || uh.DestinationPort() != 2 {
					t.Fatalf("UDP header %x before %d bytes", []byte(uh), len(l.payload))
				}
				if !bytes.Equal(l.payload, data[got:got+len(l.payload)]) {
					t.Fatalf("at %d of datagrams of %d: wrong bytes", got, mss)
				}
				switch left := len(data) - got; {
				case l.seg == 0 && len(l.payload) != min(mss, left), l.seg != 0 && l.seg != mss, l.seg != 0 && !merges:
					t.Fatalf("at %d of datagrams of %d: %d bytes in segments of %d", got, mss, len(l.payload), l.seg)
				}
				if l.seg > 0 {
					runs++
				}
				got += len(l.payload)
			}
			if merges && mss < 1100 && runs == 0 {
				t.Errorf("datagrams of %d: none were merged", mss)
			}
		}
	}
}

// What must not be merged is not: other ports, a shorter one before, an empty
// one between.
func TestUDPRunsThatAreNone(t *testing.T) {
	p, _, _ := upPair(t)
	b := newBorrower(p, true)
	sent := []struct {
		port byte
		size int
	}{{1, 100}, {1, 100}, {2, 100}, {1, 50}, {1, 100}, {1, 0}, {1, 100}, {1, 100}, {1, 30}, {1, 30}}
	// They come in one run only if they are sent densely; either way each must
	// come out as it was.
	for i, s := range sent {
		pk := udp(p.src, p.dst, string(bytes.Repeat([]byte{byte('a' + i)}, s.size)))
		pk.Transport[1] = s.port
		if err := p.a.Shim.Output(pk); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(sent); {
		l := b.next(t)
		rest := l.payload
		for {
			want := sent[i]
			if l.head[21] != want.port || len(rest) < want.size || !bytes.Equal(rest[:want.size], bytes.Repeat([]byte{byte('a' + i)}, want.size)) {
				t.Fatalf("datagram %d is not in %q from port %d, segments of %d", i, l.payload, l.head[21], l.seg)
			}
			rest = rest[want.size:]
			i++
			if len(rest) == 0 {
				break
			}
			if want.size != l.seg {
				t.Fatalf("datagram %d of %d bytes was merged in segments of %d", i-1, want.size, l.seg)
			}
		}
	}
}

// fragments cuts a datagram with a right checksum into IP packets, as a
// kernel does.
func fragments(v6 bool, next byte, src, dst netip.Addr, datagram []byte, size int) []*shim.Packet {
	s, d := tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice())
	at := map[byte]int{17: 6, 58: 2}[next]
	c := ^checksum.Checksum(datagram, header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(next), s, d, uint16(len(datagram))))
	binary.BigEndian.PutUint16(datagram[at:], c)
	var all []*shim.Packet
	for off := 0; off < len(datagram); off += size {
		part := datagram[off:min(off+size, len(datagram))]
		more := uint16(0)
		if off+size < len(datagram) {
			more = 1
		}
		pk := &shim.Packet{V6: v6, Payload: [][]byte{part}, Size: len(part)}
		if v6 {
			pk.IP = make([]byte, 48)
			pk.IP[0], pk.IP[6], pk.IP[40] = 0x60, 44, next
			copy(pk.IP[8:], src.AsSlice())
			copy(pk.IP[24:], dst.AsSlice())
			binary.BigEndian.PutUint16(pk.IP[42:], uint16(off)|more)
		} else {
			pk.IP = ip4(next, len(part), src, dst)
			binary.BigEndian.PutUint16(pk.IP[6:], more<<13|uint16(off/8))
		}
		all = append(all, pk)
	}
	return all
}

// The checksum of a fragmented datagram is right for the addresses that the
// receiver has for the two peers, though they are others than the sender's.
func TestFragmentChecksum(t *testing.T) {
	for _, lend := range []bool{false, true} {
		p, _, _ := upPair(t)
		b := newBorrower(p, true)
		if !lend {
			p.b.Shim.Attach(b.upper)
		}
		_, self6 := p.a.Table.Self()
		_, dst6 := p.a.LSI(t, p.b)
		b4, b6 := p.b.Table.Self()
		a4, a6, _ := p.b.Table.Of(p.a.ID)
		for _, tt := range []struct {
			what           string
			v6             bool
			next           byte
			src, dst, s, d netip.Addr
		}{
			{"UDP over IPv4", false, 17, p.src, p.dst, a4, b4},
			{"UDP over IPv6", true, 17, self6, dst6, a6, b6},
			{"ICMPv6 echo", true, 58, self6, dst6, a6, b6},
		} {
			d := make([]byte, 3000)
			for i := range d {
				d[i] = byte(i * 11)
			}
			binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
			clear(d[6:8])
			if tt.next == 58 {
				d[0] = 128
				clear(d[1:4])
			}
			var got []byte
			for _, pk := range fragments(tt.v6, tt.next, tt.src, tt.dst, d, 800) {
				if err := p.a.Shim.Output(pk); err != nil {
					t.Fatal(tt.what, err)
				}
				var part []byte
				if lend {
					l := b.next(t)
					part = append(l.head, l.payload...)
				} else {
					part = b.upper.next(t)
				}
				got = append(got, part[map[bool]int{false: 20, true: 48}[tt.v6]:]...)
			}
			s, dd := tcpip.AddrFromSlice(tt.s.AsSlice()), tcpip.AddrFromSlice(tt.d.AsSlice())
			sum := checksum.Checksum(got, header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(tt.next), s, dd, uint16(len(got))))
			if len(got) != len(d) || sum != 0xffff {
				t.Errorf("%s: %d bytes, sum %#x", tt.what, len(got), sum)
			}
		}
	}
}

// An ICMP error in fragments is stopped at both ends: what it quotes could not
// be translated, and would speak of other peers.
func TestNoErrorsInFragments(t *testing.T) {
	p, _, _ := upPair(t)
	b := newBorrower(p, true)
	msg := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, ip4(17, 1500, p.dst, netip.MustParseAddr("198.18.0.99"))...)
	msg = append(msg, make([]byte, 1500)...)
	before := p.a.Shim.Stats().Drops["out-protocol"]
	for i, pk := range fragments(false, 1, p.src, p.dst, msg, 800) {
		if err := p.a.Shim.Output(pk); (err == nil) != (i > 0) {
			t.Errorf("fragment %d: %v", i, err)
		}
	}
	if n := p.a.Shim.Stats().Drops["out-protocol"] - before; n != 1 {
		t.Errorf("%d dropped", n)
	}
	// The rest can be put together by nobody.
	if l := b.next(t); binary.BigEndian.Uint16(l.head[6:])&0x1fff == 0 {
		t.Errorf("the first fragment arrived: %x", l.head)
	}
}

// lendSink counts and forgets.
type lendSink struct{ sink }

func (*lendSink) MergesUDP() bool                             { return true }
func (s *lendSink) Packet(*inner.Header, []byte, []byte, int) { s.n.Add(1) }

func TestLendNoAllocs(t *testing.T) {
	if shim.RaceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	p, _, _ := upPair(t)
	super := udp(p.src, p.dst, "")
	super.Payload, super.Size, super.MSS = [][]byte{make([]byte, 40000)}, 40000, 1100
	for what, pk := range map[string]*shim.Packet{
		"datagram":         udp(p.src, p.dst, "0123456789"),
		"super packet":     tcp(p.src, p.dst, 0x10, make([]byte, 40000), 1100),
		"UDP super packet": super,
	} {
		s := new(lendSink)
		p.b.Shim.Attach(s)
		if n := inputAllocs(t, p, pk, &s.n); n >= 1 {
			t.Errorf("input of a %s: %v allocations", what, n)
		}
	}
	p.cut()
	if n := yardstick.Allocs(200, func() { _ = p.a.Shim.Output(super) }); n >= 1 {
		t.Errorf("output of a UDP super packet: %v allocations", n)
	}
}

func BenchmarkUDPSuperPacket(b *testing.B) {
	for _, size := range []int{64, 512, 1400} {
		b.Run(fmt.Sprint("40 of ", size), func(b *testing.B) {
			p, _, _ := upPair(b)
			p.cut()
			pk := udp(p.src, p.dst, "")
			pk.Payload, pk.Size, pk.MSS = [][]byte{make([]byte, 40*size)}, 40*size, size
			b.SetBytes(int64(40 * size))
			b.ReportAllocs()
			for b.Loop() {
				_ = p.a.Shim.Output(pk)
			}
		})
	}
}
