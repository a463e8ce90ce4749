package shim

import (
	"encoding/binary"
	"testing"
	"time"
)

// segment is a TCP segment from port 1 to 2; in says that the peer sent it,
// from 2 to 1.
func segment(in bool, seq, ack uint32, flags byte, n, options int) *Packet {
	th := make([]byte, tcpMinLen+options)
	src, dst := uint16(1), uint16(2)
	if in {
		src, dst = dst, src
	}
	binary.BigEndian.PutUint16(th, src)
	binary.BigEndian.PutUint16(th[2:], dst)
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13] = byte(len(th)/4)<<4, flags
	return &Packet{Transport: th, Size: n}
}

// ackRig is a mapping without a pipe, so that what is released is gone, and
// its slot with the timer off.
func ackRig() (*Shim, *mapping, *ackSlot) {
	s, m := new(Shim), new(mapping)
	all := s.watchAcks(m)
	all.armed.Store(true)
	return s, m, all.slot(ackFlow(false, 1, 2))
}

func TestHoldAck(t *testing.T) {
	const ack, data = byte(flagACK), byte(flagACK | flagPSH)
	out := func(ackNo uint32, flags byte, n int) *Packet { return segment(false, 500, ackNo, flags, n, 12) }
	type step struct {
		in   uint32 // sequence number of 100 bytes that come in; 0: nothing does
		out  *Packet
		held bool // out was kept
		has  bool // something is held after it
	}
	for what, steps := range map[string][]step{
		"a reply carries it":             {{100, out(200, ack, 0), true, true}, {0, out(200, data, 10), false, false}},
		"FIN carries it":                 {{100, out(200, ack, 0), true, true}, {0, out(200, ack|flagFIN, 0), false, false}},
		"the second goes":                {{100, out(200, ack, 0), true, true}, {200, out(300, ack, 0), false, false}},
		"the sequence wraps":             {{1<<32 - 50, out(50, ack, 0), true, true}, {0, out(50, data, 10), false, false}},
		"a duplicate goes":               {{100, out(200, ack, 0), true, true}, {0, out(200, ack, 0), false, false}},
		"a duplicate after the reply":    {{100, out(200, data, 10), false, false}, {0, out(200, ack, 0), false, false}},
		"of something older":             {{100, out(100, ack, 0), false, false}},
		"selective":                      {{100, segment(false, 500, 200, ack, 0, 24), false, false}},
		"nothing came in":                {{0, out(200, ack, 0), false, false}},
		"SYN":                            {{100, out(200, ack|flagSYN, 0), false, false}},
		"reset lets it go":               {{100, out(200, ack, 0), true, true}, {0, out(0, flagRST, 0), false, false}},
		"older data lets it go":          {{100, out(200, ack, 0), true, true}, {0, out(150, data, 10), false, false}},
		"held again after a reply":       {{100, out(200, ack, 0), true, true}, {0, out(200, data, 10), false, false}, {200, out(300, ack, 0), true, true}},
		"a window update is not held":    {{100, out(200, ack, 0), true, true}, {0, out(200, data, 1), false, false}, {0, out(200, ack, 0), false, false}},
		"selective ones let it go first": {{100, out(200, ack, 0), true, true}, {0, segment(false, 500, 300, ack, 0, 24), false, false}},
	} {
		s, m, a := ackRig()
		for i, st := range steps {
			if st.in != 0 {
				s.ackExpect(m, false, segment(true, st.in, 0, data, 0, 0).Transport, 100)
			}
			if held := s.holdAck(m, st.out); held != st.held || a.has != st.has {
				t.Errorf("%s, step %d: kept %v, held after %v", what, i, held, a.has)
			}
		}
	}
}

// Where a connection begins and ends.
func TestHoldAckEnds(t *testing.T) {
	const ack, synack, fin = byte(flagACK), byte(flagSYN | flagACK), byte(flagFIN | flagACK)
	in := func(seq uint32, flags byte, n int) *Packet { return segment(true, seq, 500, flags, n, 12) }
	out := func(ackNo uint32, flags byte, n int) *Packet { return segment(false, 500, ackNo, flags, n, 12) }
	type step struct {
		in   *Packet // nil: nothing comes in
		out  *Packet
		held bool // out was kept
		has  bool // something is held after it
	}
	for what, tt := range map[string]struct {
		steps []step
		paid  int32 // acknowledgements that something else carried
	}{
		"the client's data carry it": {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, ack, 10), false, false}}, 1},
		"the client's FIN does":      {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, fin, 0), false, false}}, 1},
		"a reset does not":           {[]step{{in(99, synack, 0), out(100, ack, 0), true, true}, {nil, out(100, ack|flagRST, 0), false, false}}, 0},
		"the server speaks first": {[]step{{in(99, synack, 0), out(100, ack, 0), true, true},
			{in(100, ack, 100), out(200, ack, 0), false, false}}, 0},
		"our FIN carries it":       {[]step{{in(100, fin, 0), out(101, ack, 0), true, true}, {nil, out(101, fin, 0), false, false}}, 1},
		"with the last data":       {[]step{{in(100, fin, 100), out(201, ack, 0), true, true}, {nil, out(201, fin, 0), false, false}}, 1},
		"the data but not the FIN": {[]step{{in(100, fin, 100), out(200, ack, 0), false, false}}, 0},
		"we have closed":           {[]step{{in(90, ack, 10), out(100, fin, 0), false, false}, {in(100, fin, 0), out(101, ack, 0), true, true}}, 0},
		"and it is sent again":     {[]step{{in(90, ack, 10), out(100, fin, 0), false, false}, {in(100, fin, 0), out(101, ack, 0), true, true}, {nil, out(101, ack, 0), false, false}}, 0},
		"a reset came":             {[]step{{in(100, fin|flagRST, 0), out(101, ack, 0), false, false}}, 0},
	} {
		s, m, a := ackRig()
		for i, st := range tt.steps {
			if st.in != nil {
				s.ackExpect(m, false, st.in.Transport, st.in.Size)
			}
			if held := s.holdAck(m, st.out); held != st.held || a.has != st.has {
				t.Errorf("%s, step %d: kept %v, held after %v", what, i, held, a.has)
			}
		}
		all, port := m.acks.Load(), ackPort(a.flow)
		if paid := all.opens[port].score.Load() + all.closes[port].score.Load(); paid != tt.paid {
			t.Errorf("%s: %d were carried, want %d", what, paid, tt.paid)
		}
	}
}

// A service whose clients wait for it to speak is told of its connections at
// once, whichever flow it is, but for one now and then.
func TestHoldAckOpensTrust(t *testing.T) {
	s, m, _ := ackRig()
	all := m.acks.Load()
	open := func(client, service uint16) (held bool) {
		in, out := segment(true, 99, 500, flagSYN|flagACK, 0, 12), segment(false, 500, 100, flagACK, 0, 12)
		for _, p := range []*Packet{in, out} {
			binary.BigEndian.PutUint16(p.Transport, client)
			binary.BigEndian.PutUint16(p.Transport[2:], service)
		}
		binary.BigEndian.PutUint16(in.Transport, service)
		binary.BigEndian.PutUint16(in.Transport[2:], client)
		a := all.slot(ackFlow(false, client, service))
		s.ackExpect(m, false, in.Transport, 0)
		if held = s.holdAck(m, out); held {
			a.since = time.Since(start) - 2*ackHold
			s.ackTimeout(m, all)
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
	s, m, a := ackRig()
	in := segment(true, 100, 0, flagACK, 0, 0).Transport
	s.ackExpect(m, false, in, ackSmall+1)
	if s.holdAck(m, segment(false, 500, 100+ackSmall+1, flagACK, 0, 0)) {
		t.Error("after a large segment")
	}
	s.ackExpect(m, true, in, 100)
	if a.has || s.holdAck(m, segment(false, 500, 200, flagACK, 0, 0)) {
		t.Error("after one of IPv6 with the same ports")
	}
}

// A flow whose peer gets no replies has its acknowledgements at once, but for
// one now and then that looks whether this has changed.
func TestHoldAckTrust(t *testing.T) {
	s, m, a := ackRig()
	held := 0
	seq := uint32(1)
	for range 10 * ackPenalty {
		s.ackExpect(m, false, segment(true, seq, 0, flagACK, 0, 0).Transport, 100)
		seq += 100
		if s.holdAck(m, segment(false, 500, seq, flagACK, 0, 0)) {
			held++
			a.since = time.Since(start) - 2*ackHold
			s.ackTimeout(m, m.acks.Load())
			if a.has {
				t.Fatal("still held after its time")
			}
			m.acks.Load().armed.Store(true)
		}
	}
	if held < 9 || held > 11 {
		t.Errorf("%d held of %d", held, 10*ackPenalty)
	}
}

func TestHoldAckNoAllocs(t *testing.T) {
	s, m, _ := ackRig()
	seq := uint32(1)
	in, ack, reply := segment(true, 0, 0, flagACK, 0, 12), segment(false, 500, 0, flagACK, 0, 12), segment(false, 500, 0, flagACK, 10, 12)
	if n := testing.AllocsPerRun(100, func() {
		binary.BigEndian.PutUint32(in.Transport[4:], seq)
		seq += 100
		binary.BigEndian.PutUint32(ack.Transport[8:], seq)
		binary.BigEndian.PutUint32(reply.Transport[8:], seq)
		s.ackExpect(m, false, in.Transport, 100)
		if !s.holdAck(m, ack) || s.holdAck(m, reply) {
			t.Fatal("not held")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
