package shim

import (
	"encoding/binary"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
)

// upper notes what goes up: the flags of each packet, and how much payload.
type upper struct{ up []upped }

type upped struct {
	seq, ack uint32
	flags    byte
	n        int
}

func (u *upper) Deliver(_ bool, b buffer.Buffer) {
	h := make([]byte, ipv4Len+tcpMinLen)
	_, _ = b.ReadAt(h, 0)
	th := h[ipv4Len:]
	u.up = append(u.up, upped{
		binary.BigEndian.Uint32(th[4:]), binary.BigEndian.Uint32(th[8:]), th[13],
		int(binary.BigEndian.Uint16(h[2:])) - ipv4Len - int(th[12]>>4)*4,
	})
	b.Release()
}

// What comes in place of the acknowledgement of a SYN-ACK does not go up
// without one; all else does as it is.
func TestOpened(t *testing.T) {
	const ack, data, fin = byte(flagACK), byte(flagACK | flagPSH), byte(flagACK | flagFIN)
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
		"a SYN sent again":   {{flagSYN, 0, []upped{{100, 501, flagSYN, 0}}}, {data, 10, []upped{first, {100, 501, data, 10}}}},
		"a reset":            {{ack | flagRST, 0, []upped{{100, 501, ack | flagRST, 0}}}},
	} {
		s, m := new(Shim), new(mapping)
		s.holdAck(m, segment(false, 500, 100, flagSYN|flagACK, 0, 12))
		for i, in := range ins {
			u := new(upper)
			k := &packet{next: protoTCP, hl: tcpMinLen, n: in.n}
			copy(k.head[:], segment(true, 100, 501, in.flags, 0, 0).Transport)
			view := buffer.NewViewSize(in.n)
			s.opened(u, m, k, false, orderSrc, orderDst)
			s.deliver(u, nil, 0, k, false, orderSrc, orderDst, view)
			view.Release()
			if !slices.Equal(u.up, in.want) {
				t.Errorf("%s, %d: %v went up, want %v", what, i, u.up, in.want)
			}
		}
	}
}
