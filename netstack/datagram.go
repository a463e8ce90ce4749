package netstack

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
)

// UDP past gVisor. A conn has its port from gVisor's endpoint, which goes on
// to get everything but the common case:
//
//	out  bypass gives a datagram to the shim, if that has a pipe which takes
//	     it whole. Otherwise (no pipe yet, a large datagram, our own address,
//	     an error waiting to be told) gVisor makes a packet of it.
//	in   Datagram finds the conn by port and queues the datagram there. What
//	     no conn takes gVisor answers; fragments and large datagrams come
//	     from gVisor's queue.
//
// Either way Admit is asked. While a Tap looks on everything is a packet.

// udpQueueDefault is how many bytes of datagrams wait for a reader, unless
// SetReadBuffer says otherwise: 30 ms at 1 Gbit/s.
const udpQueueDefault = 4 << 20

// udpCounters count datagrams that went past gVisor.
type udpCounters struct{ in, out, missed atomic.Uint64 }

// bound says which datagrams a conn takes.
type bound struct {
	local  netip.AddrPort // with an unspecified address: all, of the families below
	remote netip.AddrPort // valid: from there only
	v4, v6 bool
}

func boundTo(laddr, raddr *net.UDPAddr, only6 bool) bound {
	b := bound{local: laddr.AddrPort()}
	a := b.local.Addr()
	b.v4, b.v6 = a.Is4(), a.Is6()
	if a.Is6() && a.IsUnspecified() {
		b.v4 = !only6
	}
	if raddr != nil {
		b.remote = raddr.AddrPort()
	}
	return b
}

// takes says whether a datagram belongs to the conn, given that the port does.
func (b *bound) takes(local netip.Addr, remote netip.AddrPort) bool {
	if b.remote.IsValid() && b.remote != remote {
		return false
	}
	if b.local.Addr().IsUnspecified() {
		return local.Is4() && b.v4 || local.Is6() && b.v6
	}
	return b.local.Addr() == local
}

// udpPorts finds a conn by port, without a lock. The zero value is empty.
type udpPorts struct {
	mu     sync.Mutex // held by writers
	blocks [256]atomic.Pointer[[256]atomic.Pointer[[]*udpConn]]
}

func (t *udpPorts) find(local, remote netip.AddrPort) *udpConn {
	b := t.blocks[local.Port()>>8].Load()
	if b == nil {
		return nil
	}
	conns := b[local.Port()&255].Load()
	if conns == nil {
		return nil
	}
	for _, c := range *conns {
		if c.at.takes(local.Addr(), remote) {
			return c
		}
	}
	return nil
}

func (t *udpPorts) add(c *udpConn) {
	t.change(c, func(conns []*udpConn) []*udpConn {
		if c.at.remote.IsValid() { // before those that take more
			return slices.Insert(conns, 0, c)
		}
		return append(conns, c)
	})
}

func (t *udpPorts) remove(c *udpConn) {
	t.change(c, func(conns []*udpConn) []*udpConn {
		return slices.DeleteFunc(conns, func(d *udpConn) bool { return d == c })
	})
}

// change replaces the conns of c's port by what f makes of a copy.
func (t *udpPorts) change(c *udpConn, f func([]*udpConn) []*udpConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	port := c.at.local.Port()
	block := t.blocks[port>>8].Load()
	if block == nil {
		block = new([256]atomic.Pointer[[]*udpConn])
		t.blocks[port>>8].Store(block)
	}
	var conns []*udpConn
	if p := block[port&255].Load(); p != nil {
		conns = slices.Clone(*p)
	}
	if conns = f(conns); len(conns) == 0 {
		block[port&255].Store(nil)
		return
	}
	block[port&255].Store(&conns)
}

// Datagram implements shim.DatagramUpper.
func (l *link) Datagram(src, dst netip.AddrPort, b []byte) bool {
	if len(b) > bigDatagram || l.tap.Load() != nil {
		return false
	}
	c := l.ports.find(dst, src)
	if c == nil {
		return false
	}
	if l.admit.Asks() && !l.admit.udp(inner.FlowOf(dst.Port(), src), dst.Addr()) {
		return false
	}
	l.udp.in.Add(1)
	switch c.queue.push(src, b) {
	case pushClosed:
		l.udp.in.Add(^uint64(0)) // gVisor counts it
		return false
	case pushFull:
		l.udp.missed.Add(1)
		return true
	case pushFirst:
		nudge(c.readable)
	}
	return true
}

// burst is what a batch of datagrams is put into.
type burst = shim.Burst

// bypass sends b to to, or to the connected address if that is invalid,
// without gVisor. False: gVisor is to do it.
func (c *udpConn) bypass(b []byte, to netip.AddrPort) bool { return c.bypassInto(nil, b, to) }

// bypassInto is bypass as a part of a batch; nil: alone.
func (c *udpConn) bypassInto(all *burst, b []byte, to netip.AddrPort) bool {
	l := c.s.link
	if c.failed.Load() || l.tap.Load() != nil {
		return false
	}
	if !to.IsValid() {
		to = c.at.remote
	}
	a := to.Addr().Unmap()
	src := l.self6
	if a.Is4() {
		src = l.self4
	}
	// The source must be what gVisor would choose, and ours.
	if to.Port() == 0 || a.Zone() != "" || !src.IsValid() ||
		!(a.Is4() && c.at.v4 || a.Is6() && c.at.v6) ||
		!c.at.local.Addr().IsUnspecified() && c.at.local.Addr() != src {
		return false
	}
	to = netip.AddrPortFrom(a, to.Port())
	if l.admit.Asks() {
		l.admit.sent(inner.FlowOf(c.at.local.Port(), to))
	}
	port, class := c.at.local.Port(), uint8(c.class.Load())
	sent := false
	if all != nil {
		sent = all.Send(port, to, b, class)
	} else {
		sent = l.shim.SendDatagram(port, to, b, class)
	}
	if sent {
		l.udp.out.Add(1)
	}
	return sent
}

// Sizes of the buffers in which datagrams wait.
const (
	smallDatagram = 256
	bigDatagram   = 2048
)

var (
	smallPool = sync.Pool{New: func() any { return new([smallDatagram]byte) }}
	bigPool   = sync.Pool{New: func() any { return new([bigDatagram]byte) }}
)

// waiting is a datagram in a buffer of one of the two sizes.
type waiting struct {
	from  netip.AddrPort
	n     int
	small *[smallDatagram]byte
	big   *[bigDatagram]byte
}

func (w *waiting) cost() int {
	if w.small != nil {
		return smallDatagram
	}
	return bigDatagram
}

func (w *waiting) bytes() []byte {
	if w.small != nil {
		return w.small[:w.n]
	}
	return w.big[:w.n]
}

func (w *waiting) free() {
	if w.small != nil {
		smallPool.Put(w.small)
	} else {
		bigPool.Put(w.big)
	}
}

// queue is what waits for a conn's reader: a ring that grows as needed. What
// comes when it is full is dropped, as the kernel does.
type queue struct {
	mu      sync.Mutex // guards what follows
	closed  bool
	limit   int // bytes of buffers
	size    int
	ring    []waiting
	head, n int
}

// What push says.
const (
	pushed     = iota
	pushFirst  // the queue was empty: somebody may be waiting
	pushFull   // dropped
	pushClosed // not taken
)

// push appends a copy of b.
func (q *queue) push(from netip.AddrPort, b []byte) int {
	w := waiting{from: from, n: len(b)}
	if len(b) <= smallDatagram {
		w.small = smallPool.Get().(*[smallDatagram]byte)
	} else {
		w.big = bigPool.Get().(*[bigDatagram]byte)
	}
	copy(w.bytes(), b)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+w.cost() > q.limit {
		w.free()
		if q.closed {
			return pushClosed
		}
		return pushFull
	}
	if q.n == len(q.ring) {
		ring := make([]waiting, max(16, 2*q.n))
		k := copy(ring, q.ring[q.head:])
		copy(ring[k:], q.ring[:q.head])
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = w
	q.n++
	q.size += w.cost()
	if q.n == 1 {
		return pushFirst
	}
	return pushed
}

// pop copies the oldest datagram, of size bytes, to b, as far as it fits.
func (q *queue) pop(b []byte) (n, size int, from netip.AddrPort, ok bool) {
	q.mu.Lock()
	if q.n == 0 {
		q.mu.Unlock()
		return 0, 0, from, false
	}
	w := q.ring[q.head]
	q.ring[q.head] = waiting{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	q.size -= w.cost()
	q.mu.Unlock()
	n = copy(b, w.bytes())
	w.free()
	return n, w.n, w.from, true
}

func (q *queue) setLimit(n int) {
	q.mu.Lock()
	q.limit = n
	q.mu.Unlock()
}

// close drops what waits; push takes nothing from then on.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for ; q.n > 0; q.n-- {
		q.ring[q.head].free()
		q.head = (q.head + 1) & (len(q.ring) - 1)
	}
	q.ring, q.size = nil, 0
}
