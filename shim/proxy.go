package shim

import (
	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim/pep"
)

// Each mapping has a proxy that works for TCP (package pep). Here is what it sends
// and delivers through.

// tcpLink is what the proxy of a mapping's TCP sends and delivers through.
type tcpLink struct {
	s *Shim
	m *mapping
}

var _ pep.Link = (*tcpLink)(nil)

// SendAck implements pep.Link. Without a pipe it is lost: a retransmission will
// be acknowledged.
func (l *tcpLink) SendAck(v6 bool, class uint8, th []byte) {
	p := l.m.pipe.Load()
	if p == nil {
		return
	}
	d := datagramPool.Get().(*datagram)
	d.pk = Packet{V6: v6, Transport: th}
	l.s.sendOne(l.m, p, &d.pk, parsed{next: inner.TCP, class: class}, 1+len(th))
	d.pk.Transport = nil
	datagramPool.Put(d)
}

// SendSure implements pep.Link.
func (l *tcpLink) SendSure(v6 bool, class uint8, th []byte) {
	p := l.m.pipe.Load()
	if p == nil || !p.Repairs() {
		l.SendAck(v6, class, th)
		return
	}
	d := datagramPool.Get().(*datagram)
	d.pk = Packet{V6: v6, Transport: th}
	peer, self := l.s.addrs(l.m, v6)
	d.pk.h.SetIP(self, peer, v6, inner.TCP)
	d.pk.h.ReadTransport(th)
	l.s.keep(l.m, p, &d.pk, parsed{next: inner.TCP, class: class}, p.MaxSegment()+1)
	d.pk.Transport = nil
	datagramPool.Put(d)
}

// Deliver implements pep.Link.
func (l *tcpLink) Deliver(h *inner.Header, packet buffer.Buffer) {
	u := l.s.upper.Load()
	if u == nil {
		l.s.count.drop(DropInNoUpper)
		packet.Release()
		return
	}
	l.s.count.in.Add(1)
	(*u).Deliver(h, packet)
}

// deliverAck gives the stack the acknowledgement that the segment k carries by
// itself. ack is room for it.
func (s *Shim) deliverAck(u Upper, k, ack *packet) {
	*ack = *k
	ack.n, ack.h.Flags, ack.head[flagsAt] = 0, inner.ACK, inner.ACK
	u.Deliver(&ack.h, buffer.MakeWithView(ack.header()))
}
