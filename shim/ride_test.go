package shim_test

import (
	"encoding/binary"
	"testing"

	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

// ends is a connection of a's that b closes after a.
type ends struct {
	p    *pair
	port uint16 // a's
}

func (e *ends) segment(out bool, seq, ack uint32, flags byte, payload string) *shim.Packet {
	src, dst := e.p.src, e.p.dst
	if !out {
		src, _ = e.p.b.Table.Self()
		dst, _, _ = e.p.b.Table.Of(e.p.a.ID)
	}
	pk := tcp(src, dst, flags, []byte(payload), 0)
	to, from := pk.Transport[2:], pk.Transport
	if !out {
		to, from = from, to
	}
	binary.BigEndian.PutUint16(from, e.port)
	binary.BigEndian.PutUint16(to, 80)
	binary.BigEndian.PutUint32(pk.Transport[4:], seq)
	binary.BigEndian.PutUint32(pk.Transport[8:], ack)
	return pk
}

// close has both ends close, a first, as far as a's last acknowledgement.
func (e *ends) close(t *testing.T) {
	t.Helper()
	const ack, fin = 0x10, 0x11
	for _, step := range []struct {
		out      bool
		seq, ack uint32
		flags    byte
		payload  string
	}{
		{false, 100, 500, ack, "x"}, {true, 500, 101, fin, ""}, {false, 101, 501, fin, ""}, {true, 501, 102, ack, ""},
	} {
		from, up := e.p.b, e.p.ua
		if step.out {
			from, up = e.p.a, e.p.ub
		}
		if err := from.Shim.Output(e.segment(step.out, step.seq, step.ack, step.flags, step.payload)); err != nil {
			t.Fatal(err)
		}
		if step.flags != ack || step.payload != "" {
			up.next(t)
		}
	}
}

// What acknowledges the second FIN goes with the next packet to the peer, in
// one system call, and arrives as it was.
func TestLastAckRidesAlong(t *testing.T) {
	p := newPair(t, nil)
	if err := p.a.Shim.Output(udp(p.src, p.dst, "open")); err != nil {
		t.Fatal(err)
	}
	p.ub.next(t)
	// On a busy machine the acknowledgement's time may be over first.
	for try := range uint16(1000) {
		both := make(chan bool, 100)
		e := &ends{p, 30000 + try}
		e.close(t)
		p.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
			if from == p.a && b[0] == 0x80 {
				both <- len(b) > seg
			}
			return b
		})
		if err := p.a.Shim.Output(udp(p.src, p.dst, "what goes to the peer next")); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for range 2 {
			b := p.ub.next(t)
			if b[9] == 6 && binary.BigEndian.Uint32(b[24:]) == 501 && binary.BigEndian.Uint32(b[28:]) == 102 && b[33] == 0x10 {
				seen++
			}
		}
		if seen != 1 {
			t.Fatalf("%d acknowledgements came up", seen)
		}
		if <-both {
			return
		}
		p.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return b })
	}
	t.Error("it never went with another packet")
}
