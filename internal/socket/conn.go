package socket

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// maxRead is the read buffer: the longest that UDP, and so a GRO run, can be.
const maxRead = 65535

// yieldAfter is how many bytes a reader takes before it lets another goroutine
// run. Under load its calls never block, and without that whoever shares its
// processor waits for the scheduler's 10 ms.
const yieldAfter = 512 << 10

// link is one bound socket, of the kernel or of a simulated network.
//
// write may be called by many goroutines at once, read by one.
type link interface {
	// read waits for datagrams from one sender: n bytes in b, each seg bytes
	// long but for the last, which may be shorter. from carries no mapped
	// address. errSkip tells of something that was no datagram.
	read(b []byte) (n, seg int, from netip.AddrPort, err error)
	// write sends b, datagrams of seg bytes back to back, in order, with a
	// traffic class where the system knows how. b is borrowed for the call.
	write(b []byte, seg int, to netip.AddrPort, class uint8) error
	offloads() (gso, gro bool)
	port() (uint16, error) // the number it is bound to
	close() error
}

// Errors of link.read that cost one datagram, not the socket.
var (
	errSkip      = errors.New("socket: transient receive error")
	errTruncated = errors.New("socket: truncated datagram")
)

// A Conn is the port's socket on one local address. It is comparable by
// identity, may be used by any number of goroutines, and is closed by its Port
// alone: when the address went away, or with the Port.
type Conn struct {
	port   *Port
	link   link
	under  *Conn // the socket that it sends by, of one that translates; nil: its own
	local  netip.AddrPort
	net    netip.Prefix              // the subnet that the address is on; a host prefix if unknown
	iface  atomic.Pointer[Interface] // what was known of it at the last scan
	uplink uplinkCache
	id     uint8       // names the Conn in the sources table; 0 if numbers ran out
	extra  bool        // of OpenExtra
	kept   atomic.Bool // an extra one that stays

	// views see the QUIC packets of this socket, those of exactly this
	// address first. The slice is replaced, never changed.
	views atomic.Pointer[[]*view]

	count     counters
	heard     atomic.Int64  // when something last came, in ns of the port
	sentThen  atomic.Uint64 // datagrams sent until then
	closeOnce sync.Once
	closed    chan struct{}
}

// LocalAddr returns the real address and the port that the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// String returns the local address.
func (c *Conn) String() string { return c.local.String() }

// ReceiveBuffer returns how many bytes the socket's receive buffer holds, 0 if
// nothing is known of it.
func (c *Conn) ReceiveBuffer() int {
	if l, ok := c.Under().link.(*kernelLink); ok {
		return l.room
	}
	return 0
}

// Marks says whether the system tells what of the datagrams that come in routers have
// marked (RFC 3168).
func (c *Conn) Marks() bool {
	l, ok := c.link.(*kernelLink)
	return ok && l.marks
}

// ECN returns the lower two bits of the traffic class (RFC 3168 §5) of the run that
// OnPipe was called with; it is for within that call.
func (c *Conn) ECN() uint8 {
	if l, ok := c.link.(*kernelLink); ok {
		return l.class & 3
	}
	return 0
}

// LinkMTU returns how long the IP packets are that the interface of the local
// address takes, in bytes, as of the last scan; 0 if that is unknown.
func (c *Conn) LinkMTU() int {
	if i := c.iface.Load(); i != nil {
		return i.MTU
	}
	return 0
}

// Closed returns a channel that is closed when the Conn is.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// WriteBatch sends b, datagrams of seg bytes back to back of which the last
// may be shorter, to one destination, in as few system calls as there can be.
// b is borrowed for the call. A seg of 0 means that b is one datagram, and so
// does a b that is empty: an empty datagram is one too.
//
// It blocks while the send buffer is full, at most writePatience. Errors:
// ErrMessageTooLong, ErrBusy, ErrFamily, one that wraps net.ErrClosed, or what
// the system said; the datagrams before the one that failed were sent.
func (c *Conn) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	return c.WriteClass(b, seg, to, 0)
}

// WriteClass is WriteBatch of datagrams whose IP headers say class, the traffic
// class of IPv6, which is the type of service of IPv4. What is not Linux sends them with class 0, and so does a
// Linux that refuses others.
func (c *Conn) WriteClass(b []byte, seg int, to netip.AddrPort, class uint8) error {
	if seg <= 0 || seg > len(b) {
		seg = len(b)
	}
	if a := to.Addr(); a.Is4In6() {
		to = netip.AddrPortFrom(a.Unmap(), to.Port())
	}
	if to.Addr().Is4() != c.local.Addr().Is4() {
		c.count.drop(dropSendError)
		return ErrFamily
	}
	if err := c.link.write(b, seg, to, class); err != nil {
		return c.sendError(err)
	}
	n := 1
	if len(b) > seg {
		n = (len(b) + seg - 1) / seg
	}
	c.count.sent.Add(uint64(n))
	c.count.sentBytes.Add(uint64(len(b)))
	return nil
}

// WriteTo sends b, borrowed for the call, as one datagram. See WriteBatch.
func (c *Conn) WriteTo(b []byte, to netip.AddrPort) error {
	return c.WriteBatch(b, len(b), to)
}

// sendError counts err, which a write met.
func (c *Conn) sendError(err error) error {
	switch {
	case errors.Is(err, ErrMessageTooLong):
		c.count.drop(dropSendTooLong)
	case errors.Is(err, ErrBusy):
		c.count.drop(dropSendBusy)
	default:
		c.count.drop(dropSendError)
		if c.isClosed() {
			return &net.OpError{Op: "write", Net: "udp", Source: net.UDPAddrFromAddrPort(c.local), Err: net.ErrClosed}
		}
	}
	return err
}

// read is the Conn's goroutine: it owns the read buffer and runs until the
// socket is closed.
func (c *Conn) read() {
	size := maxRead
	if c.extra {
		size = extraRead
	}
	b := make([]byte, size)
	pause := time.Duration(0)
	taken := 0
	for {
		if len(b) < maxRead && c.kept.Load() {
			b = make([]byte, maxRead)
		}
		n, seg, from, err := c.link.read(b)
		switch {
		case err == nil && c.port.carries(from.Addr()):
			c.count.drop(dropForged)
			continue
		case err == nil:
			pause = 0
			to := c
			if x := c.port.xlat.Load(); x != nil && x.under == c {
				if four, ok := x.plain(from.Addr()); ok {
					to, from = x.conn, netip.AddrPortFrom(four, from.Port())
				}
			}
			to.demux(b[:n], seg, from)
			if taken += n; taken >= yieldAfter {
				taken = 0
				runtime.Gosched()
			}
			continue
		case c.isClosed():
			return
		case err == errTruncated:
			c.count.drop(dropTruncated)
			continue
		case err == errSkip:
			c.count.drop(dropReadError)
			continue
		}
		// The interface may be going down. The scan for addresses decides
		// what becomes of the socket; until then do not spin.
		c.count.drop(dropReadError)
		pause = min(max(2*pause, time.Millisecond), time.Second)
		t := time.NewTimer(pause)
		select {
		case <-c.closed:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// demux hands out the datagrams of one receive call: runs of pipe datagrams
// whole, all else one by one. b is borrowed, and so is what it hands out.
func (c *Conn) demux(b []byte, seg int, from netip.AddrPort) {
	c.count.reads.Add(1)
	c.heard.Store(int64(time.Since(c.port.sources.epoch)))
	c.sentThen.Store(c.count.sent.Load())
	c.count.receivedBytes.Add(uint64(len(b)))
	if seg <= 0 || seg > len(b) {
		seg = len(b)
	}
	if c.port.cfg.OnAny != nil {
		c.port.cfg.OnAny(c, from, b, seg)
		return
	}
	if len(b) == 0 {
		c.count.drop(dropEmpty)
		return
	}
	for len(b) > 0 {
		k := kindOf(b[0])
		run := b[:runOf(b, seg, k)]
		b = b[len(run):]
		n := uint64((len(run) + seg - 1) / seg)
		c.count.received[k].Add(n)
		switch {
		case k == kindPipe && c.port.cfg.OnPipe != nil:
			c.port.cfg.OnPipe(c, from, run, min(seg, len(run)))
		case k == kindSTUN && c.port.cfg.OnSTUN != nil:
			for len(run) > 0 {
				d := run[:min(seg, len(run))]
				run = run[len(d):]
				c.port.cfg.OnSTUN(c, from, d)
			}
		case k == kindQUIC:
			for len(run) > 0 {
				d := run[:min(seg, len(run))]
				run = run[len(d):]
				c.quic(d, from)
			}
		case k == kindOther:
			c.count.dropped[dropUnknownKind].Add(n)
		default:
			c.count.dropped[dropNoHandler].Add(n)
		}
	}
}

func (c *Conn) isClosed() bool { return isDone(c.closed) }

// shut closes the socket; the read goroutine ends on its own.
func (c *Conn) shut() error {
	var err error
	c.closeOnce.Do(func() {
		close(c.closed)
		err = c.link.close()
	})
	return err
}
