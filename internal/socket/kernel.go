package socket

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// socketBuffer is asked of the kernel for each direction: 30 ms at 1 Gbit/s.
	socketBuffer = 4 << 20
	// writePatience bounds the wait for room in the send buffer.
	writePatience = time.Second
	// maxSegments is UDP_MAX_SEGMENTS of the kernels that introduced GSO.
	maxSegments = 64
	// UDP payloads that fit an IP packet.
	maxPayload4 = 65535 - 20 - 8
	maxPayload6 = 65535 - 8
)

// kernelLink is a UDP socket of the operating system.
type kernelLink struct {
	conn *net.UDPConn
	log  *slog.Logger
	max  int // the longest that one send call may be
	room int // bytes that the receive buffer holds; 0: not known

	// receive and send are package net's, or what the system has that is better
	// (ownCalls). Tests put the faults of network drivers in the place of send.
	receive func(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error)
	send    func(b, oob []byte, to netip.AddrPort) (n, oobn int, err error)

	gso   atomic.Bool // the system splits a batch; cleared once it refused
	plain atomic.Bool // the system sends nothing of a traffic class; set once it refused
	gro   bool        // the system may merge datagrams of one sender
	marks bool        // the system tells what routers have marked
	class uint8       // of what was read last; of the read goroutine
	oob   []byte      // of the read goroutine
	epoch time.Time
	armed atomic.Int64 // until when the write deadline is known to lie ahead, since epoch
}

// listenKernel binds a UDP socket to an address of this host.
func listenKernel(addr netip.AddrPort, log *slog.Logger) (*kernelLink, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { dontFragment(fd, addr.Addr().Is6()) })
	}}
	pc, err := lc.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return nil, err
	}
	return newKernelLink(pc.(*net.UDPConn), log), nil
}

// newKernelLink takes over conn and finds out what the system can do for it.
func newKernelLink(conn *net.UDPConn, log *slog.Logger) *kernelLink {
	l := &kernelLink{conn: conn, log: log, max: maxPayload6, epoch: time.Now()}
	l.receive, l.send = l.netReceive, conn.WriteMsgUDPAddrPort
	if a := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); a.Is4() {
		l.max = maxPayload4
	}
	_ = conn.SetReadBuffer(socketBuffer) // the kernel may give less, and says nothing
	_ = conn.SetWriteBuffer(socketBuffer)
	if rc, err := conn.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			forceBuffers(fd)
			gso, gro := enableOffloads(fd)
			l.gso.Store(gso)
			l.gro = gro
			l.room = receiveBuffer(fd)
			l.marks = readMarks(fd, l.max == maxPayload6)
		})
	}
	if l.gro || l.marks {
		l.oob = make([]byte, groSpace)
	}
	l.ownCalls()
	return l
}

func (l *kernelLink) offloads() (gso, gro bool) { return l.gso.Load(), l.gro }
func (l *kernelLink) port() (uint16, error)     { return portOf(l.conn.LocalAddr()) }
func (l *kernelLink) close() error              { return l.conn.Close() }

// netReceive is package net's receive, which has no use for control messages:
// no system but Linux merges datagrams.
func (l *kernelLink) netReceive(b, _ []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	n, from, err = l.conn.ReadFromUDPAddrPort(b)
	return n, 0, 0, from, err
}

func (l *kernelLink) read(b []byte) (n, seg int, from netip.AddrPort, err error) {
	n, oobn, flags, from, err := l.receive(b, l.oob)
	if err == nil && truncated(flags) {
		err = errTruncated
	}
	if err != nil {
		return 0, 0, from, readError(err)
	}
	seg, l.class = told(l.oob[:oobn])
	if seg <= 0 || seg > n {
		seg = n
	}
	if a := from.Addr(); a.Is4In6() {
		from = netip.AddrPortFrom(a.Unmap(), from.Port())
	}
	return n, seg, from, nil
}

// readError sorts out what costs one datagram only: an ICMP error that some
// systems report on unconnected sockets too, a datagram that was too long.
func readError(err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), isReset(err):
		return errSkip
	case isTooLong(err):
		return errTruncated
	}
	return err
}

func (l *kernelLink) write(b []byte, seg int, to netip.AddrPort, class uint8) error {
	l.arm()
	if class != 0 && l.plain.Load() {
		class = 0
	}
	if len(b) <= seg { // also an empty one
		return l.writeOne(b, to, class)
	}
	perCall := min(maxSegments, l.max/seg) * seg
	for perCall > seg && len(b) > seg && l.gso.Load() {
		chunk := b[:min(perCall, len(b))]
		err := l.writeRun(chunk, seg, to, class)
		if refusesGSO(err) {
			// Either the driver cannot, or seg exceeds the interface's MTU, or
			// it is the class: single datagrams tell which.
			err = l.writeEach(chunk, seg, to, class)
			if err == nil && (class == 0 || !l.plain.Load()) && l.gso.CompareAndSwap(true, false) {
				l.log.Info("socket: no UDP segmentation offload", "local", l.conn.LocalAddr())
			}
		}
		if err != nil {
			return err
		}
		b = b[len(chunk):]
	}
	return l.writeEach(b, seg, to, class)
}

// writeRun is one send call for all of b.
func (l *kernelLink) writeRun(b []byte, seg int, to netip.AddrPort, class uint8) error {
	oob := controlPool.Get().(*control)
	err := l.sendOut(b, oob.messages(uint16(seg), class, to.Addr().Is6()), to)
	controlPool.Put(oob)
	return err
}

// writeEach is one send call for each datagram of b.
func (l *kernelLink) writeEach(b []byte, seg int, to netip.AddrPort, class uint8) error {
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		if err := l.writeOne(d, to, class); err != nil {
			return err
		}
		b = b[len(d):]
	}
	return nil
}

// writeOne sends one datagram. Who may not mark it, in a container or behind a
// packet filter, still gets it through.
func (l *kernelLink) writeOne(d []byte, to netip.AddrPort, class uint8) error {
	if class == 0 || l.plain.Load() {
		return l.sendOut(d, nil, to)
	}
	oob := controlPool.Get().(*control)
	err := l.sendOut(d, oob.messages(0, class, to.Addr().Is6()), to)
	controlPool.Put(oob)
	if !refusesClass(err) {
		return err
	}
	if err = l.sendOut(d, nil, to); err == nil && !l.plain.Swap(true) {
		l.log.Info("socket: traffic classes are refused", "local", l.conn.LocalAddr())
	}
	return err
}

// sendOut is the one place that sends. The runtime's poller waits for room
// when the send buffer is full, until the deadline that arm keeps.
func (l *kernelLink) sendOut(b, oob []byte, to netip.AddrPort) error {
	for try := 0; ; try++ {
		_, _, err := l.send(b, oob, to)
		switch {
		case err == nil:
			return nil
		case isTooLong(err):
			return ErrMessageTooLong
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ErrBusy
		case errors.Is(err, syscall.ECONNREFUSED):
			// The error of an earlier datagram, reported in place of sending
			// this one: ask again. Unconnected sockets have no use for it.
			if try < 4 {
				continue
			}
			return nil
		case errors.Is(err, syscall.ENOBUFS):
			// The interface's queue is full, which no poller reports.
			if try < 4 {
				time.Sleep(time.Millisecond << try)
				continue
			}
			return ErrBusy
		}
		return err
	}
}

// arm keeps the socket's write deadline between one and two writePatience
// ahead, so that a write waits that long at most, at the price of one timer
// change per writePatience rather than one per write.
func (l *kernelLink) arm() {
	now := int64(time.Since(l.epoch))
	armed := l.armed.Load()
	if now < armed {
		return
	}
	if l.armed.CompareAndSwap(armed, now+int64(writePatience)) {
		_ = l.conn.SetWriteDeadline(l.epoch.Add(time.Duration(now) + 2*writePatience))
	}
}

// control is room for the control messages of one call, a segment size and a
// traffic class, with the alignment that they need.
type control struct{ b [6]uint64 }

var controlPool = sync.Pool{New: func() any { return new(control) }}
