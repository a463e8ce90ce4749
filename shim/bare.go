package shim

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
)

// Null encapsulation of UDP (draft §4.3): a 5-tuple that has real sockets of
// its own. What the stack sends on it goes there bare, without a pipe; what
// comes in there is given to the stack as any other datagram.

// BareFlow is a UDP 5-tuple: our own LSI and port, and the peer's.
type BareFlow struct{ Local, Remote netip.AddrPort }

// bareTable is replaced, never changed.
type bareTable map[inner.Flow]func([]byte) error

var errBareTaken = errors.New("this 5-tuple has null encapsulation already")

// AddBare sends the datagrams of f through send, which gets payloads, borrowed
// for the call, from any goroutine. receive gives the stack a payload, likewise
// borrowed; remove puts the 5-tuple back to the pipe.
func (s *Shim) AddBare(f BareFlow, send func([]byte) error) (receive func([]byte), remove func(), err error) {
	k := inner.FlowOf(f.Local.Port(), f.Remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	next := bareTable{}
	if t := s.bare.Load(); t != nil {
		if (*t)[k] != nil {
			return nil, nil, errBareTaken
		}
		maps.Copy(next, *t)
	}
	next[k] = send
	s.bare.Store(&next)
	return func(b []byte) { s.receiveBare(f, b) }, func() { s.removeBare(k) }, nil
}

func (s *Shim) removeBare(k inner.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.bare.Load())
	if delete(next, k); len(next) == 0 {
		s.bare.Store(nil)
		return
	}
	s.bare.Store(&next)
}

// sendBare sends b if its flow has null encapsulation.
func (s *Shim) sendBare(src uint16, dst netip.AddrPort, b []byte) bool {
	t := s.bare.Load()
	if t == nil {
		return false
	}
	send := (*t)[inner.FlowOf(src, dst)]
	if send == nil {
		return false
	}
	s.putBare(send, b)
	return true
}

// putBare sends one datagram.
func (s *Shim) putBare(send func([]byte) error, b []byte) {
	s.count.out.Add(1)
	if send(b) != nil {
		s.count.drop(DropOutBare)
	}
}

// outputBare is sendBare for a packet of the stack.
func (s *Shim) outputBare(pk *Packet, in *parsed) bool {
	t := s.bare.Load()
	if t == nil || in.next != inner.UDP || len(pk.Transport) != inner.UDPLen {
		return false
	}
	send := (*t)[pk.h.Outbound()]
	if send == nil {
		return false
	}
	buf := plainPool.Get().(*[maxPlain]byte)
	defer plainPool.Put(buf)
	b := buf[:min(pk.Size, maxPlain)]
	c := cursor{pieces: pk.Payload}
	c.fill(b)
	seg := len(b)
	if pk.MSS > 0 {
		seg = pk.MSS
	}
	for first := true; first || len(b) > 0; first = false {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		s.putBare(send, d)
	}
	return true
}

// receiveBare gives the stack a datagram.
func (s *Shim) receiveBare(f BareFlow, b []byte) {
	up := s.upper.Load()
	if up == nil {
		s.count.drop(DropInNoUpper)
		return
	}
	if len(b) > maxTransport-inner.UDPLen {
		s.count.drop(DropInProtocol)
		return
	}
	u := *up
	if d, ok := u.(DatagramUpper); ok && d.Datagram(f.Remote, f.Local, b) {
		s.count.in.Add(1)
		return
	}
	r := runPool.Get().(*run)
	defer runPool.Put(r)
	k := &r.packets[0]
	from, to := f.Remote, f.Local
	k.h = inner.Header{Src: from.Addr(), Dst: to.Addr(), V6: from.Addr().Is6(), Protocol: inner.UDP,
		Ports: true, SrcPort: from.Port(), DstPort: to.Port()}
	k.hl, k.pay, k.n, k.seg, k.merged = inner.UDPLen, 0, len(b), len(b), 0
	binary.BigEndian.PutUint16(k.head[0:], f.Remote.Port())
	binary.BigEndian.PutUint16(k.head[2:], f.Local.Port())
	binary.BigEndian.PutUint16(k.head[4:], uint16(inner.UDPLen+len(b)))
	binary.BigEndian.PutUint16(k.head[6:], 0)
	if p, ok := u.(PacketUpper); ok {
		s.show(p, r, k, b)
		return
	}
	view := buffer.NewViewWithData(b)
	s.deliver(u, nil, 0, k, view)
	view.Release()
}
