package shim

import (
	"encoding/binary"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
)

// upper notes what goes up: the flags of each packet, and how much payload.
type upper struct {
	up    []upped
	wrong bool // a header that is not the packet's was said
}

type upped struct {
	seq, ack uint32
	flags    byte
	n        int
}

func (u *upper) Deliver(said *inner.Header, b buffer.Buffer) {
	h := make([]byte, inner.IPv4Len+inner.TCPLen)
	_, _ = b.ReadAt(h, 0)
	th := h[inner.IPv4Len:]
	u.wrong = u.wrong || said.Flags != th[flagsAt]
	u.up = append(u.up, upped{
		binary.BigEndian.Uint32(th[4:]), binary.BigEndian.Uint32(th[8:]), th[13],
		int(binary.BigEndian.Uint16(h[2:])) - inner.IPv4Len - int(th[12]>>4)*4,
	})
	b.Release()
}

// What comes in place of the acknowledgement of a SYN-ACK does not go up
// without one; all else does as it is.
func TestOpened(t *testing.T) {
	const ack, data, fin = byte(inner.ACK), byte(inner.ACK | inner.PSH), byte(inner.ACK | inner.FIN)
	type in struct {
		flags byte
		n     int
		want  []upped
	}
	first := upped{100, 501, ack, 0}
	for what, ins := range map[string][]in{
		"data":               {{data, 10, []upped{first, {100, 501, data, 10}}}, {data, 10, []upped{{100, 501, data, 10}}}},
		"FIN":                {{fin, 0, []upped{first, {100, 501, fin, 0}}}},
		"an acknowledgement": {{ack, 0, []upped{{100, 501, ack, 0}}}, {data, 10, []upped{{100, 501, data, 10}}}},
		"a SYN sent again":   {{inner.SYN, 0, []upped{{100, 501, inner.SYN, 0}}}, {data, 10, []upped{first, {100, 501, data, 10}}}},
		"a reset":            {{ack | inner.RST, 0, []upped{{100, 501, ack | inner.RST, 0}}}},
	} {
		s, m := new(Shim), new(mapping)
		m.tcp.Init(&tcpLink{s, m}, &s.count.tcp)
		answer := tcpSegment(500, 100, inner.SYN|inner.ACK, nil, nil)
		out := inner.Header{Src: self4, Dst: peer4, Protocol: inner.TCP}
		out.ReadTransport(answer)
		out.SrcPort, out.DstPort = out.DstPort, out.SrcPort
		m.tcp.Hold(&out, answer, 0, 0)
		for i, in := range ins {
			u := new(upper)
			s.Attach(u)
			k := new(packet)
			if why, ok := k.parse(append([]byte{inner.TCP}, tcpSegment(100, 501, in.flags, nil, make([]byte, in.n))...), false, peer4, self4); !ok {
				t.Fatal(why)
			}
			view := buffer.NewViewSize(in.n)
			if m.tcp.Opens(&k.h, k.n) {
				s.deliverAck(u, k, new(packet))
			}
			s.deliver(u, nil, 0, k, view)
			view.Release()
			if !slices.Equal(u.up, in.want) || u.wrong {
				t.Errorf("%s, %d: %v went up, want %v", what, i, u.up, in.want)
			}
		}
	}
}

// What a proxy held, and the stack does not wait for any more, is a counted drop.
func TestHeldWithoutStack(t *testing.T) {
	s := new(Shim)
	(&tcpLink{s: s}).Deliver(new(inner.Header), buffer.MakeWithData([]byte("a segment")))
	if n := s.Stats().Drops[DropInNoUpper.String()]; n != 1 {
		t.Errorf("%d dropped", n)
	}
}
