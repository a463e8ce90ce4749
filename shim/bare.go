package shim

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
)

// Null encapsulation of UDP (draft §4.3): a 5-tuple that has real sockets of
// its own. What the stack sends on it goes there bare, without a pipe; what
// comes in there is given to the stack as any other datagram.

// BareFlow is a UDP 5-tuple: our own LSI and port, and the peer's.
type BareFlow struct{ Local, Remote netip.AddrPort }

// bareKey is what a packet on its way down is looked up by. Our own LSI
// follows from the peer's.
type bareKey struct {
	port   uint16
	remote netip.AddrPort
}

// bareTable is replaced, never changed.
type bareTable map[bareKey]func([]byte) error

var errBareTaken = errors.New("shim: this 5-tuple has null encapsulation already")

// AddBare sends the datagrams of f through send, which gets payloads, borrowed
// for the call, from any goroutine. receive gives the stack a payload, likewise
// borrowed; remove puts the 5-tuple back to the pipe.
func (s *Shim) AddBare(f BareFlow, send func([]byte) error) (receive func([]byte), remove func(), err error) {
	k := bareKey{f.Local.Port(), f.Remote}
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

func (s *Shim) removeBare(k bareKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.bare.Load())
	if delete(next, k); len(next) == 0 {
		s.bare.Store(nil)
		return
	}
	s.bare.Store(&next)
}

// sendBare sends b if its 5-tuple has null encapsulation.
func (s *Shim) sendBare(src uint16, dst netip.AddrPort, b []byte) bool {
	t := s.bare.Load()
	if t == nil {
		return false
	}
	send := (*t)[bareKey{src, dst}]
	if send == nil {
		return false
	}
	s.count.out.Add(1)
	if send(b) != nil {
		s.count.drop(DropOutBare)
	}
	return true
}

// outputBare is sendBare for a packet of the stack.
func (s *Shim) outputBare(pk *Packet, in *parsed, dst netip.Addr) bool {
	if s.bare.Load() == nil || in.next != protoUDP || in.hasExt || len(pk.Transport) != udpLen {
		return false
	}
	to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(pk.Transport[2:]))
	if t := s.bare.Load(); t == nil || (*t)[bareKey{binary.BigEndian.Uint16(pk.Transport), to}] == nil {
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
		s.sendBare(binary.BigEndian.Uint16(pk.Transport), to, d)
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
	if len(b) > maxTransport-udpLen {
		s.count.drop(DropInProtocol)
		return
	}
	u := *up
	if d, ok := u.(DatagramUpper); ok && d.Datagram(f.Remote, f.Local, b) {
		s.count.in.Add(1)
		return
	}
	v6 := f.Remote.Addr().Is6()
	r := runPool.Get().(*run)
	defer runPool.Put(r)
	k := &r.packets[0]
	k.next, k.isFrag, k.hl, k.pay, k.n, k.seg, k.merged = protoUDP, false, udpLen, 0, len(b), len(b), 0
	binary.BigEndian.PutUint16(k.head[0:], f.Remote.Port())
	binary.BigEndian.PutUint16(k.head[2:], f.Local.Port())
	binary.BigEndian.PutUint16(k.head[4:], uint16(udpLen+len(b)))
	binary.BigEndian.PutUint16(k.head[6:], 0)
	if p, ok := u.(PacketUpper); ok {
		s.lend(p, r, k, v6, f.Remote.Addr(), f.Local.Addr(), b)
		return
	}
	view := buffer.NewViewWithData(b)
	s.deliver(u, nil, 0, k, v6, f.Remote.Addr(), f.Local.Addr(), view)
	view.Release()
}
