package netstack

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
)

// The numbers of a connection's segments are put right here where gVisor makes
// or takes them in a way that loses data or stops a connection:
//
//   - It takes the window of each segment, also of one that others have overtaken,
//     and then sends more than the peer has room for. Here TCP sees the newest
//     window in all of them (RFC 9293 §3.10.7.4).
//   - Its acknowledgements have the sequence number after all that was sent. If
//     that lies beyond the peer's window, which may shrink a little because it is
//     rounded to the units of its scale, the peer throws the segment away without
//     a look at what it acknowledges. Here the number is that of the end of the
//     window then, as Linux has it (tcp_acceptable_seq).
//   - When it has closed it takes an acknowledgement that has overtaken the peer's
//     FIN, and has the number after it, for data that nobody will read: it resets
//     the connection and throws away what was written before. Here such an
//     acknowledgement has the number that is expected.
//
// Without the first two a peer that writes before it reads may wait for ever: what
// we send again is dropped because its buffer is full, our acknowledgements because
// of their sequence number, and it never hears that we have what it wrote.

// window is what the link knows of one connection. Its methods may be used
// concurrently.
type window struct {
	key    inner.Flow
	scale  uint8 // of size; set before anything comes
	scaled bool  // scale is known
	conn   atomic.Pointer[tcpConn]

	closing orphan // of the connection once its conn is closed; orphans' lock guards it

	ending atomic.Bool // our FIN is due or sent
	reset  atomic.Bool // the peer has no connection any more: it has sent a reset, or its process is over

	mu       sync.Mutex // guards what follows
	began    bool       // the three after it are set
	seq, ack uint32     // of the segment that size is from
	size     uint16     // as it was announced
	acked    bool       // next is set
	next     uint32     // what we have acknowledged
}

// take is shown a segment that came, of which only an acknowledgement is to be
// seen if bare is true, and changes what TCP is to see otherwise.
func (w *window) take(h *inner.Header, th header.TCP, bare bool) {
	size := th.WindowSize()
	w.mu.Lock()
	defer w.mu.Unlock()
	ahead, later := int32(h.Ack-w.ack), int32(h.Seq-w.seq)
	if !w.began || ahead > 0 || ahead == 0 && (later > 0 || later == 0 && (size > w.size || size == 0)) {
		w.began, w.seq, w.ack, w.size = true, h.Seq, h.Ack, size
	} else if size != w.size {
		binary.BigEndian.PutUint16(th[14:], w.size)
	}
	if bare && w.acked && w.ending.Load() && int32(h.Seq-w.next) > 0 {
		h.Seq = w.next
		binary.BigEndian.PutUint32(th[4:], h.Seq)
	}
}

// send is shown a segment that goes out, and changes what the peer is to see
// otherwise.
func (w *window) send(h *inner.Header, th header.TCP, bare bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked, w.next = true, h.Ack
	if end := w.ack + uint32(w.size)<<w.scale; bare && w.began && w.scaled && int32(h.Seq-end) > 0 {
		h.Seq = end
		binary.BigEndian.PutUint32(th[4:], h.Seq)
	}
}

// window returns what is known of the connection that a segment of the peer's
// belongs to, nil if there is none.
func (l *link) window(k inner.Flow) *window {
	v, ok := l.windows.Load(k)
	if !ok {
		return nil
	}
	return v.(*window)
}

// track returns what is known of c from now on, until forget.
func (l *link) track(c *tcpConn) *window {
	w := &window{key: c.key()}
	w.scale, w.scaled = l.scales.of(w.key)
	w.conn.Store(c)
	if m := l.muted.of(w.key); m != nil && m.ep == c.ep {
		w.reset.Store(true)
	}
	l.windows.Store(w.key, w)
	return w
}

// ends is told that w's connection will send no more.
func (l *link) ends(w *window) {
	if !w.ending.Swap(true) {
		l.ending.Add(1)
	}
}

func (l *link) forget(w *window) {
	l.windows.CompareAndDelete(w.key, w)
	if w.ending.Swap(false) {
		l.ending.Add(-1)
	}
}

// begins is told of a SYN: what is known of a connection with the same addresses
// and ports does not hold for the one that may follow.
func (l *link) begins(k inner.Flow) {
	w := l.window(k)
	if w == nil {
		return
	}
	if w.conn.Load() == nil {
		l.forget(w)
	}
	w.mu.Lock()
	w.began, w.acked = false, false
	w.mu.Unlock()
}

// comes is shown a segment of a connection that w is of, other than a SYN. It says
// whether it may go up.
func (l *link) comes(w *window, h *inner.Header, b *buffer.Buffer) bool {
	n := int(b.Size()) - ipLen(h.V6) - int(h.TCPLen)
	c := w.conn.Load()
	if h.Flags&inner.RST != 0 {
		w.reset.Store(true)
	} else if h.Flags&inner.ACK != 0 {
		if th := tcpHeader(h, b); th != nil {
			w.take(h, th, n == 0 && h.Flags&inner.FIN == 0)
		}
	}
	return c == nil || n <= 0 || l.withinBudget(c, h.Seq, n)
}

// sends is shown what goes out, and says whether it may.
func (l *link) sends(pk *shim.Packet) bool {
	h, ok := pk.Header()
	if !ok || h.Protocol != inner.TCP || int(h.TCPLen) != len(pk.Transport) {
		return true
	}
	if h.Flags&inner.RST != 0 {
		return l.resets(h)
	}
	if h.Flags&(inner.SYN|inner.ACK) == inner.SYN|inner.ACK && l.closing.Load() {
		l.doubt(h.Dst)
	}
	bare := pk.Size == 0 && h.Flags == inner.ACK
	if !bare && (l.ending.Load() == 0 || h.Flags&(inner.ACK|inner.SYN) != inner.ACK) {
		return true
	}
	if w := l.window(h.Outbound()); w != nil {
		w.send(h, header.TCP(pk.Transport), bare)
	}
	return true
}

// scales remembers the window scales of SYNs until their connections are there:
// each in the slot of its hash, where a newer one takes the place of an older.
type scales [1024]atomic.Uint64

var scaleSeed = maphash.MakeSeed()

func (s *scales) slot(k inner.Flow) (slot *atomic.Uint64, tag uint64) {
	h := maphash.Comparable(scaleSeed, k)
	return &s[h%uint64(len(s))], h &^ 0xff
}

const scaleKnown = 0x80

// note takes the scale of a SYN, of which th is the whole header.
func (s *scales) note(k inner.Flow, th header.TCP) {
	slot, tag := s.slot(k)
	o := header.ParseSynOptions(th[header.TCPMinimumSize:], th.Flags()&header.TCPFlagAck != 0)
	slot.Store(tag | scaleKnown | uint64(max(o.WS, 0))) // -1: no such option
}

// of returns the scale that the peer of a connection has announced.
func (s *scales) of(k inner.Flow) (scale uint8, ok bool) {
	slot, tag := s.slot(k)
	v := slot.Load()
	return uint8(v &^ scaleKnown & 0xff), v&^0xff == tag && v&scaleKnown != 0
}
