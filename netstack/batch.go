package netstack

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/idloc/idloc/internal/netconn"
)

// ReadBatch reads one datagram into each of ms, as many as there are, and says
// how many: it waits for the first only, as ReadFrom does and with its errors.
func (c *udpConn) ReadBatch(ms []netconn.Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	m := &ms[0]
	n, size, from, err := c.read(m.Buf)
	if err != nil {
		return 0, c.opError("read", "recvmmsg", c.opAddr(), err)
	}
	m.N, m.Addr, m.Truncated = n, from, size > n
	k := 1
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for k < len(ms) && !c.stacked.Load() {
		got := c.queue.popInto(ms[k:])
		if got == 0 {
			break
		}
		k += got
	}
	return k, nil
}

// popAtOnce is how many datagrams leave the queue under one lock.
const popAtOnce = 16

// popInto copies the oldest datagrams to ms, as far as each fits, and returns
// how many: not more than popAtOnce.
func (q *queue) popInto(ms []netconn.Message) int {
	var w [popAtOnce]waiting
	n := 0
	q.mu.Lock()
	for ; n < min(len(ms), popAtOnce) && q.n > 0; n++ {
		w[n] = q.ring[q.head]
		q.ring[q.head] = waiting{}
		q.head = (q.head + 1) & (len(q.ring) - 1)
		q.n--
		q.size -= w[n].cost()
	}
	q.mu.Unlock()
	for i := range n {
		m := &ms[i]
		m.N = copy(m.Buf, w[i].bytes())
		m.Addr, m.Truncated = w[i].from, w[i].n > m.N
		w[i].free()
	}
	return n
}

// WriteBatch sends ms, each to its Addr, or all to the connected address if the
// Addrs are zero, and says how many. It stops at one that fails, and returns the
// error if that was the first: the rest may be tried again. Datagrams for one
// peer that follow each other leave by one system call where the system can do
// that.
func (c *udpConn) WriteBatch(ms []netconn.Message) (int, error) {
	b := c.s.link.shim.Burst()
	defer b.Flush()
	for i := range ms {
		m := &ms[i]
		n, err := c.writeNext(&b, m)
		if err != nil {
			if i > 0 {
				return i, nil // the next call meets it
			}
			var to net.Addr
			if m.Addr.IsValid() {
				to = addrPortAddr{m.Addr}
			}
			return 0, c.opError("write", "sendmmsg", to, err)
		}
		m.N = n
	}
	return len(ms), nil
}

// writeNext is write for one of a batch.
func (c *udpConn) writeNext(b *burst, m *netconn.Message) (int, error) {
	to := m.Addr
	switch {
	case c.raddr != nil && to.IsValid():
		return 0, net.ErrWriteToConnected
	case c.raddr == nil && !to.IsValid():
		return 0, errMissingAddress
	case len(m.Buf) > maxDatagram:
		return 0, syscall.EMSGSIZE
	case isClosed(c.closed):
		return 0, net.ErrClosed
	}
	direct := netip.AddrPort{}
	if to.IsValid() {
		var err error
		if direct, err = c.target(to); err != nil {
			return 0, err
		}
	}
	if !c.writeDeadline.passed() && c.bypassInto(b, m.Buf, direct) {
		return len(m.Buf), nil
	}
	b.Flush() // what was before stays before
	return c.write(m.Buf, to)
}
