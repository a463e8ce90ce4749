package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
)

// When the process of a peer is known to be over, because it has said so, has
// been started anew, or was put out, its connections are over too: nobody is
// there who would acknowledge, reset or close them. They end here as if the
// peer had reset each: what has come in order can still be read, then a conn
// whose end has come as well says io.EOF, and any other ECONNRESET. If the peer
// has said that this side has all that was ever written to it, each has the end
// first that is on its way.
//
// The peer's segments for that are made here. They go the way of all others,
// through the queue that each endpoint has, behind what has come before; so
// whatever a call does meanwhile, or one that has not been accepted yet, sees
// what it would of a peer that is alive. A reset must have exactly the number that is
// expected. Each endpoint is asked for it by what it has to answer in every state
// (RFC 5961 §4.2):
//
//	SYN, one byte ──►  ──► acknowledgement with the number
//	(FIN with it  ──►  ──► acknowledgement with the next number)
//	RST with it   ──►
//
// One whose handshake is under way is asked by an acknowledgement of what it has
// not sent. If that is refused by a reset, what had come before has not brought the
// connection about: who listens is told to give it up, and who dials goes on, for that
// is meant for whoever comes.
//
// Nothing of this goes to the peer: no process is there that wants to know, and
// a packet would ask for a pipe.

const (
	goneWithin = 5 * time.Second // beyond, what does not answer is aborted
	goneAgain  = 20              // looks at an endpoint until it is asked again
	goneWindow = 65535
	goneUnsent = 1 << 31 // acknowledged to a handshake, whose own number it is by a chance of 2^-32
)

// muted are the connections of which nothing goes out. It may be used
// concurrently.
type muted struct {
	mu    sync.Mutex // held by the one that mutes
	flows atomic.Pointer[map[inner.Flow]*lastWords]
}

// mutes says whether p is of such a connection, and takes the answer that its
// endpoint is asked for.
func (m *muted) mutes(p *stack.PacketBuffer) bool {
	flows := m.flows.Load()
	if flows == nil || p.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	th := header.TCP(p.TransportHeader().Slice())
	if len(th) < header.TCPMinimumSize || th.Flags()&header.TCPFlagSyn != 0 { // of another connection
		return false
	}
	var dst tcpip.Address
	if p.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		dst = header.IPv6(p.NetworkHeader().Slice()).DestinationAddress()
	} else {
		dst = header.IPv4(p.NetworkHeader().Slice()).DestinationAddress()
	}
	peer, _ := netip.AddrFromSlice(dst.AsSlice())
	w := (*flows)[inner.Flow{Peer: peer, PeerPort: th.DestinationPort(), Port: th.SourcePort()}]
	if w == nil {
		return false
	}
	if th.Flags()&header.TCPFlagAck != 0 {
		w.answer.Store(uint64(th.SequenceNumber())<<32 | uint64(th.AckNumber()))
		w.answered.Store(true)
	} else if th.Flags()&header.TCPFlagRst != 0 {
		w.refused.Store(true)
	}
	return true
}

// lastWords is what an endpoint is told in the name of its peer.
type lastWords struct {
	ep   *tcp.Endpoint
	flow inner.Flow
	self netip.Addr // this node's of the flow's family

	answered atomic.Bool
	answer   atomic.Uint64 // its own number, and the one that it expects
	refused  atomic.Bool   // an acknowledgement

	told  uint64 // the answer that was acted on
	tells bool   // told is set
	looks int    // since then
	waits int    // looks before it was connected
}

// Gone implements shim.PeerUpper.
func (l *link) Gone(v4, v6 netip.Addr, delivered bool) { l.gone(v4, v6, delivered) }

// peerGone ends all connections with the peer that has these addresses, but for
// those that are being opened: they are meant for whoever comes. delivered says
// that what the peer has written on them has come. They have ended when it returns.
func (s *Stack) peerGone(v4, v6 netip.Addr, delivered bool) {
	m := &s.link.muted
	m.mu.Lock()
	defer m.mu.Unlock()
	if id, ok := s.shim.Table().Peer(v4); ok {
		defer s.link.deliveries.forget(id)
	}
	all := make(map[inner.Flow]*lastWords)
	var left []*lastWords
	for ep := range s.endpoints() {
		if w := s.lastWords(ep, v4, v6); w != nil {
			all[w.flow] = w
			left = append(left, w)
		}
	}
	if len(left) == 0 {
		return
	}
	m.flows.Store(&all)
	defer m.flows.Store(nil)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for until := time.Now().Add(goneWithin); len(left) > 0; {
		more := left[:0]
		for _, w := range left {
			if w.look(s.link, delivered) {
				more = append(more, w)
			}
		}
		left = more
		if time.Now().After(until) {
			break
		}
		<-tick.C
	}
	for _, w := range left {
		w.ep.Abort()
	}
	s.orphans.look(time.Now())
}

// remoteOf returns the address of an endpoint's peer.
func remoteOf(ep *tcp.Endpoint) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ep.Info().(*stack.TransportEndpointInfo).ID.RemoteAddress.AsSlice())
	return a.Unmap(), ok
}

// lastWords returns what is to be told to ep, nil if it has no connection with the
// peer that has these addresses.
func (s *Stack) lastWords(ep *tcp.Endpoint, v4, v6 netip.Addr) *lastWords {
	switch ep.EndpointState() {
	case tcp.StateInitial, tcp.StateBound, tcp.StateListen, tcp.StateConnecting,
		tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return nil
	}
	id := ep.Info().(*stack.TransportEndpointInfo).ID
	peer, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	if peer = peer.Unmap(); !peer.IsValid() || peer != v4 && peer != v6 {
		return nil
	}
	self, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return &lastWords{ep: ep, self: self.Unmap(), flow: inner.Flow{Peer: peer, PeerPort: id.RemotePort, Port: id.LocalPort}}
}

// look tells the endpoint what is next, and says whether there may be more.
func (w *lastWords) look(l *link, delivered bool) (more bool) {
	switch state := w.ep.EndpointState(); state {
	case tcp.StateSynSent, tcp.StateSynRecv:
		return w.opens(l, state)
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
		return false
	}
	answer := w.answer.Load()
	if !w.answered.Load() || w.tells && answer == w.told {
		w.ask(l)
		return true
	}
	w.told, w.tells = answer, true
	w.ep.LockUser() // the answer goes out before the state changes
	state := w.ep.EndpointState()
	w.ep.UnlockUser()
	next, flags := uint32(answer), header.TCPFlags(header.TCPFlagRst)
	switch {
	case ended(state):
		// gVisor has states where a reset makes that forgotten, unlike the kernel.
		if known := l.window(w.flow); known != nil {
			if c := known.conn.Load(); c != nil && c.ep == w.ep {
				c.eof.Store(true)
			}
		}
	case delivered:
		flags = header.TCPFlagFin
	}
	w.tell(l, flags|header.TCPFlagAck, next, uint32(answer>>32)-1<<30, 0) // acknowledges nothing
	return true
}

// opens is look at one whose handshake is under way.
func (w *lastWords) opens(l *link, state tcp.EndpointState) (more bool) {
	if w.waits++; w.waits == 1 {
		w.tell(l, header.TCPFlagAck, 0, goneUnsent, 0)
	}
	if !w.refused.Load() && w.waits <= goneAgain {
		return true
	}
	if state == tcp.StateSynRecv {
		w.ep.Abort()
	}
	return false
}

// ask asks for the number, now and again. What has a byte is answered always, but
// does not come in where the receive buffer is full; what has none is answered
// not more often than every 500 ms.
func (w *lastWords) ask(l *link) {
	switch w.looks++; w.looks % goneAgain {
	case 1:
		w.tells = false // what it was told may not have come in
		w.tell(l, header.TCPFlagSyn|header.TCPFlagAck, 0, 0, 1)
	case 2:
		w.tell(l, header.TCPFlagSyn|header.TCPFlagAck, 0, 0, 0)
	}
}

// ended says whether the peer's FIN has come.
func ended(state tcp.EndpointState) bool {
	switch state {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait:
		return true
	}
	return false
}

// tell has a segment come from the peer, with n bytes of payload.
func (w *lastWords) tell(l *link, flags header.TCPFlags, seq, ack uint32, n int) {
	d := l.dispatcher()
	if d == nil {
		return
	}
	v6, proto := w.flow.Peer.Is6(), header.IPv4ProtocolNumber
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	th := make(header.TCP, header.TCPMinimumSize+n)
	th.Encode(&header.TCPFields{
		SrcPort: w.flow.PeerPort, DstPort: w.flow.Port, SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: goneWindow,
	})
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{
		Payload: buffer.MakeWithData(append(ipHeader(v6, inner.TCP, len(th), w.flow.Peer, w.self), th...)),
	})
	d.DeliverNetworkPacket(proto, p)
	p.DecRef()
}
