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

// The segments of a peer that is gone (gone.go) are made here. They go the way of
// all others, through the queue that each endpoint has, behind what has come before;
// so whatever a call does meanwhile, or one that has not been accepted yet, sees
// what it would of a peer that is alive. A reset must have exactly the number that is
// expected. Each endpoint is asked for it by what it has to answer in every state
// (RFC 5961 §4.2):
//
//	SYN, one byte ──►  ──► acknowledgement with the number
//	(FIN with it  ──►  ──► acknowledgement with the next number)
//	RST with it   ──►
//
// One whose handshake is under way is asked by an acknowledgement of what it has
// not sent, before anything of the peer's next process can come. If that is refused by
// a reset, what had come before has not brought the connection about: who listens is
// told to give it up, and who dials goes on, for that is meant for whoever comes.

const (
	goneAgain  = 20 // looks at an endpoint until it is asked again
	goneWindow = 65535
	goneUnsent = 1 << 31 // acknowledged to a handshake, whose own number it is by a chance of 2^-32
)

// muted are the connections of which nothing goes out. Its methods may be used
// concurrently.
type muted struct {
	n     atomic.Int32
	flows sync.Map // inner.Flow → *lastWords
}

func (m *muted) of(k inner.Flow) *lastWords {
	if m.n.Load() == 0 {
		return nil
	}
	w, _ := m.flows.Load(k)
	if w == nil {
		return nil
	}
	return w.(*lastWords)
}

// begin is false if the endpoint is muted already.
func (m *muted) begin(w *lastWords) bool {
	for {
		before, loaded := m.flows.LoadOrStore(w.flow, w)
		switch {
		case !loaded:
			m.n.Add(1)
			return true
		case before.(*lastWords).ep == w.ep:
			return false
		case m.flows.CompareAndSwap(w.flow, before, w):
			return true
		}
	}
}

func (m *muted) end(w *lastWords) {
	if m.flows.CompareAndDelete(w.flow, w) {
		m.n.Add(-1)
	}
}

// mutes says whether p is of such a connection, and takes the answer that its
// endpoint is asked for.
func (m *muted) mutes(p *stack.PacketBuffer) bool {
	if m.n.Load() == 0 || p.TransportProtocolNumber != header.TCPProtocolNumber {
		return false
	}
	th := header.TCP(p.TransportHeader().Slice())
	if len(th) < header.TCPMinimumSize {
		return false
	}
	var dst tcpip.Address
	if p.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		dst = header.IPv6(p.NetworkHeader().Slice()).DestinationAddress()
	} else {
		dst = header.IPv4(p.NetworkHeader().Slice()).DestinationAddress()
	}
	peer, _ := netip.AddrFromSlice(dst.AsSlice())
	w := m.of(inner.Flow{Peer: peer, PeerPort: th.DestinationPort(), Port: th.SourcePort()})
	return w != nil && w.hears(m, th)
}

// lastWords is what an endpoint is told in the name of its peer.
type lastWords struct {
	ep        *tcp.Endpoint
	flow      inner.Flow
	self      netip.Addr // this node's of the flow's family
	dials     bool       // it had no answer when the peer ended, or that is queued
	delivered bool
	until     time.Time

	answer  atomic.Pointer[answer]
	refused atomic.Bool // the acknowledgement, while the handshake was under way
	over    atomic.Bool // nothing more is to be told

	told  *answer   // the one that was acted on; nil: it is to be asked
	looks int       // since then
	quiet time.Time // over and since long enough then
}

// answer is what an endpoint has said of itself.
type answer struct {
	seq, next uint32 // its own number, and the one that it expects
	lacks     bool   // what came after that
}

// newLastWords returns what is to be told to ep, nil if it has no connection with the
// peer that has these addresses. It takes no lock: once ep has begun to connect what it
// is connected to does not change.
func newLastWords(ep *tcp.Endpoint, v4, v6 netip.Addr) *lastWords {
	state := ep.EndpointState()
	switch state {
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return nil
	}
	peer, ok := remoteOf(ep)
	if !ok || peer != v4 && peer != v6 {
		return nil
	}
	id := ep.TransportEndpointInfo.ID
	self, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return &lastWords{
		ep: ep, self: self.Unmap(), flow: inner.Flow{Peer: peer, PeerPort: id.RemotePort, Port: id.LocalPort},
		dials: state == tcp.StateSynSent,
	}
}

// remoteOf returns the address of an endpoint's peer, of one that is connected or was.
func remoteOf(ep *tcp.Endpoint) (netip.Addr, bool) {
	switch ep.EndpointState() { // read first: what it is connected to was written before
	case tcp.StateInitial, tcp.StateBound, tcp.StateListen, tcp.StateConnecting:
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ep.TransportEndpointInfo.ID.RemoteAddress.AsSlice())
	return a.Unmap(), ok
}

// mute has nothing go out of w's connection from now on, and asks w if its handshake
// is under way; false: it is being ended already.
func (l *link) mute(w *lastWords) bool {
	if !l.muted.begin(w) {
		return false
	}
	if known := l.window(w.flow); known != nil {
		known.reset.Store(true)
	}
	switch w.ep.EndpointState() {
	case tcp.StateSynSent, tcp.StateSynRecv:
		w.tell(l, header.TCPFlagAck, 0, goneUnsent, 0)
	}
	return true
}

// hears is shown what goes out of w's connection, or of another with its addresses
// and ports, and says whether it may not.
func (w *lastWords) hears(m *muted, th header.TCP) bool {
	flags, state := th.Flags(), w.ep.EndpointState()
	over := state == tcp.StateClose || state == tcp.StateError || state == tcp.StateTimeWait
	switch {
	case flags&header.TCPFlagSyn != 0:
		if over {
			m.end(w) // a new one begins
		}
		return false
	case over && flags&header.TCPFlagRst != 0 && flags&header.TCPFlagAck != 0 && th.SequenceNumber() == 0:
		return false // a new one is refused
	case flags&header.TCPFlagAck != 0:
		w.answer.Store(&answer{
			seq: th.SequenceNumber(), next: th.AckNumber(),
			lacks: selective(th[header.TCPMinimumSize:]),
		})
	case flags&header.TCPFlagRst != 0:
		if state == tcp.StateSynSent || state == tcp.StateSynRecv {
			w.refused.Store(true)
		}
		if w.dials && state == tcp.StateSynSent {
			m.end(w) // what comes from now on is for whoever has come
		}
	}
	return true
}

// conn returns w's, nil if it has not been accepted, or is closed.
func (w *lastWords) conn(l *link) *tcpConn {
	if known := l.window(w.flow); known != nil {
		if c := known.conn.Load(); c != nil && c.ep == w.ep {
			return c
		}
	}
	return nil
}

// look tells the endpoint what is next, and says whether there may be more.
func (w *lastWords) look(l *link) (more bool) {
	state := w.ep.EndpointState()
	switch refused := w.refused.Load(); {
	case refused && w.dials:
		l.muted.end(w)
		return false
	case refused && state == tcp.StateSynRecv:
		w.ep.Abort() // nobody but its peer would bring it about
		return false
	case state == tcp.StateSynSent || state == tcp.StateSynRecv:
		return true
	case state == tcp.StateClose || state == tcp.StateError || state == tcp.StateTimeWait:
		return false
	}
	a := w.answer.Load()
	if a == nil || w.told != nil && *a == *w.told {
		w.ask(l)
		return true
	}
	w.told = a
	w.ep.LockUser() // the answer goes out before the state changes
	state = w.ep.EndpointState()
	w.ep.UnlockUser()
	flags := header.TCPFlags(header.TCPFlagRst)
	switch {
	case ended(state):
		// gVisor has states where a reset makes that forgotten, unlike the kernel.
		if c := w.conn(l); c != nil {
			c.eof.Store(true)
		}
	case w.delivered && !a.lacks:
		flags = header.TCPFlagFin
	}
	w.tell(l, flags|header.TCPFlagAck, a.next, a.seq-1<<30, 0) // acknowledges nothing
	return true
}

// abort ends one that does not answer, unless it waits for whoever comes.
func (w *lastWords) abort(l *link) {
	if w.ep.EndpointState() == tcp.StateSynSent {
		l.muted.end(w)
		return
	}
	if c := w.conn(l); c != nil {
		c.cut.Store(true)
	}
	w.ep.Abort()
}

// ask asks for the number, now and again. What has a byte is answered always, but
// does not come in where the receive buffer is full; what has none is answered
// not more often than every 500 ms.
func (w *lastWords) ask(l *link) {
	switch w.looks++; w.looks % goneAgain {
	case 1:
		w.told = nil // what it was told may not have come in
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

// selective says whether there are selective acknowledgements among TCP options.
func selective(o []byte) bool {
	for len(o) > 0 && o[0] != header.TCPOptionEOL {
		switch {
		case o[0] == header.TCPOptionNOP:
			o = o[1:]
		case o[0] == header.TCPOptionSACK:
			return true
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return false
		default:
			o = o[o[1]:]
		}
	}
	return false
}
