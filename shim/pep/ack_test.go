package pep

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/yardstick"
)

// packet is a TCP segment with n bytes of payload.
type packet struct {
	h  inner.Header
	th []byte
	n  int
}

var self4, peer4, peer6 = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("2001:20::2")

// segment is a TCP segment from port 1 to 2; in says that the peer sent it,
// from 2 to 1.
func segment(in bool, seq, ack uint32, flags byte, n, options int) *packet {
	th := make([]byte, inner.TCPLen+options)
	src, dst := uint16(1), uint16(2)
	if in {
		src, dst = dst, src
	}
	binary.BigEndian.PutUint16(th, src)
	binary.BigEndian.PutUint16(th[2:], dst)
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13] = byte(len(th)/4)<<4, flags
	if options >= 12 {
		binary.BigEndian.PutUint32(th[inner.TCPLen:], 0x0101080a) // a timestamp
	}
	pk := &packet{h: inner.Header{Src: self4, Dst: peer4, Protocol: inner.TCP}, th: th, n: n}
	pk.h.ReadTransport(th)
	return pk
}

// word is how the flow between two ports is known.
func word(own, peers uint16) uint64 {
	return inner.Flow{Peer: peer4, Port: own, PeerPort: peers}.Word()
}

// came is the header of a segment that came in.
func came(pk *packet) *inner.Header {
	pk.h.Src, pk.h.Dst = pk.h.Dst, pk.h.Src
	return &pk.h
}

// nowhere is a Link that loses everything.
type nowhere struct{}

func (nowhere) SendAck(bool, uint8, []byte)              {}
func (nowhere) SendSure(bool, uint8, []byte)             {}
func (nowhere) Deliver(_ *inner.Header, b buffer.Buffer) { b.Release() }

// ackRig is a Proxy whose released acknowledgements are gone, and its slot with
// the timer off.
func ackRig() (*Proxy, *ackSlot) {
	p := new(Proxy)
	p.Init(nowhere{}, new(Counters))
	all := p.watchAcks()
	all.armed.Store(true)
	return p, all.slot(word(1, 2))
}

// holds says whether p keeps a segment that goes out.
func holds(p *Proxy, pk *packet) bool { return p.Hold(&pk.h, pk.th, pk.n, 0) }

func TestHoldAck(t *testing.T) {
	const ack, data = byte(inner.ACK), byte(inner.ACK | inner.PSH)
	out := func(ackNo uint32, flags byte, n int) *packet { return segment(false, 500, ackNo, flags, n, 12) }
	type step struct {
		in   uint32 // sequence number of 100 bytes that come in; 0: nothing does
		out  *packet
		held bool // out was kept
		has  bool // something is held after it
	}
	for what, steps := range map[string][]step{
		"a reply carries it":             {{100, out(200, ack, 0), true, true}, {0, out(200, data, 10), false, false}},
		"FIN carries it":                 {{100, out(200, ack, 0), true, true}, {0, out(200, ack|inner.FIN, 0), false, false}},
		"the second goes":                {{100, out(200, ack, 0), true, true}, {200, out(300, ack, 0), false, false}},
		"the sequence wraps":             {{1<<32 - 50, out(50, ack, 0), true, true}, {0, out(50, data, 10), false, false}},
		"a duplicate goes":               {{100, out(200, ack, 0), true, true}, {0, out(200, ack, 0), false, false}},
		"a duplicate after the reply":    {{100, out(200, data, 10), false, false}, {0, out(200, ack, 0), false, false}},
		"of something older":             {{100, out(100, ack, 0), false, false}},
		"selective":                      {{100, segment(false, 500, 200, ack, 0, 24), false, false}},
		"nothing came in":                {{0, out(200, ack, 0), false, false}},
		"SYN":                            {{100, out(200, ack|inner.SYN, 0), false, false}},
		"reset lets it go":               {{100, out(200, ack, 0), true, true}, {0, out(0, inner.RST, 0), false, false}},
		"older data lets it go":          {{100, out(200, ack, 0), true, true}, {0, out(150, data, 10), false, false}},
		"held again after a reply":       {{100, out(200, ack, 0), true, true}, {0, out(200, data, 10), false, false}, {200, out(300, ack, 0), true, true}},
		"a window update is not held":    {{100, out(200, ack, 0), true, true}, {0, out(200, data, 1), false, false}, {0, out(200, ack, 0), false, false}},
		"selective ones let it go first": {{100, out(200, ack, 0), true, true}, {0, segment(false, 500, 300, ack, 0, 24), false, false}},
	} {
		p, a := ackRig()
		for i, st := range steps {
			if st.in != 0 {
				p.Expect(came(segment(true, st.in, 0, data, 0, 0)), 100)
			}
			if held := holds(p, st.out); held != st.held || a.has != st.has {
				t.Errorf("%s, step %d: kept %v, held after %v", what, i, held, a.has)
			}
		}
	}
}

// Where a connection begins and ends.
func TestHoldAckEnds(t *testing.T) {
	const ack, synack, fin = byte(inner.ACK), byte(inner.SYN | inner.ACK), byte(inner.FIN | inner.ACK)
	in := func(seq uint32, flags byte, n int) *packet { return segment(true, seq, 500, flags, n, 12) }
	out := func(ackNo uint32, flags byte, n int) *packet { return segment(false, 500, ackNo, flags, n, 12) }
	type step struct {
		in   *packet // nil: nothing comes in
		out  *packet
		held bool // out was kept
		has  bool // something is held after it
	}
	for what, tt := range map[string]struct {
		steps []step
		paid  int32 // acknowledgements that something else carried
	}{
		"the client's data carry it": {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, ack, 10), false, false}}, 1},
		"the client's FIN does":      {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, fin, 0), false, false}}, 1},
		"a reset does not":           {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, ack|inner.RST, 0), false, false}}, 0},
		"the server speaks first": {[]step{{in(99, synack, 0), out(100, ack, 0), true, true},
			{in(100, ack, 100), out(200, ack, 0), false, false}}, 0},
		"our FIN carries it":       {[]step{{in(100, fin, 0), out(101, ack, 0), true, true}, {nil, out(101, fin, 0), false, false}}, 1},
		"with the last data":       {[]step{{in(100, fin, 100), out(201, ack, 0), true, true}, {nil, out(201, fin, 0), false, false}}, 1},
		"the data but not the FIN": {[]step{{in(100, fin, 100), out(200, ack, 0), false, false}}, 0},
		"we have closed":           {[]step{{in(90, ack, 10), out(100, fin, 0), false, false}, {in(100, fin, 0), out(101, ack, 0), true, true}}, 0},
		"and it is sent again":     {[]step{{in(90, ack, 10), out(100, fin, 0), false, false}, {in(100, fin, 0), out(101, ack, 0), true, true}, {nil, out(101, ack, 0), false, false}}, 0},
		"a reset came":             {[]step{{in(100, fin|inner.RST, 0), out(101, ack, 0), false, false}}, 0},
	} {
		p, a := ackRig()
		for i, st := range tt.steps {
			if st.in != nil {
				p.Expect(came(st.in), st.in.n)
			}
			if held := holds(p, st.out); held != st.held || a.has != st.has {
				t.Errorf("%s, step %d: kept %v, held after %v", what, i, held, a.has)
			}
		}
		all, port := p.acks.Load(), ackPort(a.flow)
		if paid := all.opens[port].score.Load() + all.closes[port].score.Load(); paid != tt.paid {
			t.Errorf("%s: %d were carried, want %d", what, paid, tt.paid)
		}
	}
}

// A service whose clients wait for it to speak is told of its connections at
// once, whichever flow it is, but for one now and then.
func TestHoldAckOpensTrust(t *testing.T) {
	p, _ := ackRig()
	all := p.acks.Load()
	open := func(client, service uint16) (held bool) {
		in, out := segment(true, 99, 500, inner.SYN|inner.ACK, 0, 12), segment(false, 500, 100, inner.ACK, 0, 12)
		out.h.SrcPort, out.h.DstPort = client, service
		in.h.SrcPort, in.h.DstPort = service, client
		a := all.slot(word(client, service))
		p.Expect(came(in), 0)
		if held = holds(p, out); held {
			a.since = time.Since(start) - 2*ackHold
			p.ackTimeout(all)
			all.armed.Store(true)
		}
		return held
	}
	held := 0
	for i := range uint16(10 * ackPenalty) {
		if open(30000+i, 22) {
			held++
		}
	}
	if held < 9 || held > 11 {
		t.Errorf("%d held of %d", held, 10*ackPenalty)
	}
	if !open(40000, 80) {
		t.Error("another service has to suffer for it")
	}
}

// Large segments are not requests, and another flow's are not this one's.
func TestHoldAckNot(t *testing.T) {
	p, a := ackRig()
	in := came(segment(true, 100, 0, inner.ACK, 0, 0))
	p.Expect(in, ackSmall+1)
	if holds(p, segment(false, 500, 100+ackSmall+1, inner.ACK, 0, 0)) {
		t.Error("after a large segment")
	}
	in.Src = peer6
	p.Expect(in, 100)
	if a.has || holds(p, segment(false, 500, 200, inner.ACK, 0, 0)) {
		t.Error("after one of IPv6 with the same ports")
	}
	p.Expect(came(segment(true, 100, 0, inner.ACK, 0, 0)), 100)
	selective := segment(false, 500, 200, inner.ACK, 0, 12)
	binary.BigEndian.PutUint32(selective.th[inner.TCPLen:], 0x0101050a)
	if a.has || holds(p, selective) {
		t.Error("a selective one, without a timestamp")
	}
	if !holds(p, segment(false, 500, 200, inner.ACK, 0, 0)) {
		t.Error("one that may be held is not")
	}
}

// A flow whose peer gets no replies has its acknowledgements at once, but for
// one now and then that looks whether this has changed.
func TestHoldAckTrust(t *testing.T) {
	p, a := ackRig()
	held := 0
	seq := uint32(1)
	for range 10 * ackPenalty {
		p.Expect(came(segment(true, seq, 0, inner.ACK, 0, 0)), 100)
		seq += 100
		if holds(p, segment(false, 500, seq, inner.ACK, 0, 0)) {
			held++
			a.since = time.Since(start) - 2*ackHold
			p.ackTimeout(p.acks.Load())
			if a.has {
				t.Fatal("still held after its time")
			}
			p.acks.Load().armed.Store(true)
		}
	}
	if held < 9 || held > 11 {
		t.Errorf("%d held of %d", held, 10*ackPenalty)
	}
}

func TestHoldAckNoAllocs(t *testing.T) {
	p, _ := ackRig()
	seq := uint32(1)
	in, ack, reply := came(segment(true, 0, 0, inner.ACK, 0, 12)), segment(false, 500, 0, inner.ACK, 0, 12), segment(false, 500, 0, inner.ACK, 10, 12)
	if n := yardstick.Allocs(100, func() {
		in.Seq = seq
		seq += 100
		ack.h.Ack, reply.h.Ack = seq, seq
		p.Expect(in, 100)
		if !holds(p, ack) || holds(p, reply) {
			t.Fatal("not held")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What comes in place of the acknowledgement of a SYN-ACK is told apart, once.
func TestOpens(t *testing.T) {
	const ack, data, fin = byte(inner.ACK), byte(inner.ACK | inner.PSH), byte(inner.ACK | inner.FIN)
	type in struct {
		flags byte
		n     int
		want  bool
	}
	for what, ins := range map[string][]in{
		"data":               {{data, 10, true}, {data, 10, false}},
		"FIN":                {{fin, 0, true}},
		"an acknowledgement": {{ack, 0, false}, {data, 10, false}},
		"a SYN sent again":   {{inner.SYN, 0, false}, {data, 10, true}},
		"a reset":            {{ack | inner.RST, 0, false}, {data, 10, false}},
	} {
		p, _ := ackRig()
		holds(p, segment(false, 500, 100, inner.SYN|inner.ACK, 0, 12))
		for i, in := range ins {
			if got := p.Opens(came(segment(true, 100, 501, in.flags, 0, 0)), in.n); got != in.want {
				t.Errorf("%s, %d: %v", what, i, got)
			}
		}
	}
	p := new(Proxy)
	p.Init(nowhere{}, new(Counters))
	if p.Opens(came(segment(true, 100, 501, data, 0, 0)), 10) {
		t.Error("without a SYN-ACK")
	}
}

// What is held goes when it is asked for, or with another packet, once.
func TestRelease(t *testing.T) {
	sent := new(sentAcks)
	p := new(Proxy)
	p.Init(sent, new(Counters))
	p.Release()
	p.watchAcks().armed.Store(true)
	p.Expect(came(segment(true, 100, 0, inner.ACK, 0, 0)), 100)
	out := segment(false, 500, 200, inner.ACK, 0, 12)
	if !holds(p, out) {
		t.Fatal("not held")
	}
	p.Release()
	p.Release()
	if len(sent.ths) != 1 || !bytes.Equal(sent.ths[0], out.th) {
		t.Errorf("sent %x", sent.ths)
	}
	// The last of a connection rides with any packet of its family.
	holds(p, segment(false, 500, 200, inner.ACK|inner.FIN, 0, 0))
	p.Expect(came(segment(true, 200, 501, inner.ACK|inner.FIN, 0, 0)), 0)
	last := segment(false, 501, 201, inner.ACK, 0, 12)
	if !holds(p, last) {
		t.Fatal("the last one is not held")
	}
	b := new(batch)
	p.Ride(b, true)
	if b.sealed != 0 {
		t.Error("it rides with a packet of another family")
	}
	p.Ride(b, false)
	p.Ride(b, false)
	if b.sealed != 1 || b.room[0] != inner.TCP || !bytes.Equal(b.room[1:], last.th) {
		t.Errorf("%d rode along: %x", b.sealed, b.room)
	}
	if p.Release(); len(sent.ths) != 1 {
		t.Error("and went by itself, too")
	}
}

type sentAcks struct {
	nowhere
	ths [][]byte
}

func (s *sentAcks) SendAck(_ bool, _ uint8, th []byte) { s.ths = append(s.ths, bytes.Clone(th)) }

type batch struct {
	room   []byte
	sealed int
}

func (b *batch) Room(n int) []byte { b.room = make([]byte, n); return b.room }
func (b *batch) Seal()             { b.sealed++ }
