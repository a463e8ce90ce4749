package socket

import (
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the data path are made here and not by package net, for
// two reasons. A reader that finds its socket empty can let others run before it
// waits (receive). And the calls are raw: on a socket that does not block they
// take some ten microseconds at most, and never sleep. The Go scheduler would
// have to be told of each, and where one takes longer than 20 µs, which a batch
// of 64 KiB does, it hands the processor to another thread, of which the machine
// then has more than processors.

// message is the arguments of recvmsg and sendmsg, which the kernel reads and
// writes where they are.
type message struct {
	hdr   unix.Msghdr
	iov   unix.Iovec
	name  unix.RawSockaddrInet6 // or a RawSockaddrInet4
	n     int                   // what the call returned
	errno syscall.Errno
	try   func(fd uintptr) bool // for a syscall.RawConn; false: wait for the socket
}

func (m *message) init() {
	m.hdr.Name = (*byte)(unsafe.Pointer(&m.name))
	m.hdr.Iov = &m.iov
	m.hdr.SetIovlen(1)
}

// point makes b the data of the next call, and oob its control messages.
func (m *message) point(b, oob []byte) {
	m.iov.Base = unsafe.SliceData(b)
	m.iov.SetLen(len(b))
	m.hdr.Control = unsafe.SliceData(oob)
	m.hdr.SetControllen(len(oob))
}

// call makes the system call, and says whether that has settled it.
func (m *message) call(nr, fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(nr, fd, uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT)
		if errno == syscall.EINTR {
			continue
		}
		m.n, m.errno = int(n), errno
		return errno != syscall.EAGAIN
	}
}

// from returns the address in name.
func (m *message) from() netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&m.name.Port)) // big-endian
	n := uint16(port[0])<<8 | uint16(port[1])
	if m.name.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name)).Addr), n)
	}
	a := netip.AddrFrom16(m.name.Addr)
	if m.name.Scope_id != 0 {
		a = a.WithZone(strconv.FormatUint(uint64(m.name.Scope_id), 10))
	}
	return netip.AddrPortFrom(a, n)
}

// to puts an address into name.
func (m *message) to(ap netip.AddrPort) {
	a := ap.Addr()
	if a.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
		m.hdr.Namelen = unix.SizeofSockaddrInet4
	} else {
		m.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}
		if zone := a.Zone(); zone != "" {
			m.name.Scope_id = zoneIndex(zone)
		}
		m.hdr.Namelen = unix.SizeofSockaddrInet6
	}
	port := (*[2]byte)(unsafe.Pointer(&m.name.Port))
	port[0], port[1] = byte(ap.Port()>>8), byte(ap.Port())
}

// zoneIndex returns the interface that a zone names, by number or name; 0 if it
// names none.
func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// yieldFrom is how many bytes a reader takes before it lets others run when it
// finds nothing more.
const yieldFrom = 4 << 10

// receiver reads from one socket, for one goroutine.
type receiver struct {
	message
	conn syscall.RawConn
	took int // bytes since the socket was last found empty
}

// ownCalls makes l use the calls of this file; without effect if its socket does
// not give itself up for that.
func (l *kernelLink) ownCalls() {
	rc, err := l.conn.SyscallConn()
	if err != nil {
		return
	}
	r := &receiver{conn: rc}
	r.init()
	r.try = r.receive
	l.receive = r.read
	l.send = func(b, oob []byte, to netip.AddrPort) (int, int, error) {
		return sendOn(rc, b, oob, to)
	}
}

// receive takes what there is. A reader that has been busy and finds nothing
// lets the goroutines that wait for its processor run first, and looks once more.
// Those are the ones that it has given work, and who sends to it. If it waited at
// once, and its processor did not fall idle, nobody would ask the poller for its
// socket before the scheduler's watchdog does, after 10 ms.
func (r *receiver) receive(fd uintptr) bool {
	for yielded := false; ; yielded = true {
		if r.call(unix.SYS_RECVMSG, fd) {
			r.took += r.n
			return true
		}
		if yielded || r.took < yieldFrom {
			r.took = 0
			return false
		}
		runtime.Gosched()
	}
}

// read is kernelLink.receive.
func (r *receiver) read(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	r.point(b, oob)
	r.hdr.Namelen = unix.SizeofSockaddrInet6
	r.hdr.Flags = 0
	err = r.conn.Read(r.try)
	if err == nil && r.errno != 0 {
		err = r.errno
	}
	if err != nil {
		return 0, 0, 0, from, err
	}
	return r.n, int(r.hdr.Controllen), int(r.hdr.Flags), r.from(), nil
}

// sender is what one call of sendOn works with.
type sender struct {
	message
	settled bool
	once    func(fd uintptr) // try, for those who do not wait
}

var senderPool = sync.Pool{New: func() any {
	s := new(sender)
	s.init()
	s.try = func(fd uintptr) bool { return s.call(unix.SYS_SENDMSG, fd) }
	s.once = func(fd uintptr) { s.settled = s.try(fd) }
	return s
}}

// sendOn is kernelLink.send. Those who send at once do not wait for each other:
// a datagram or a batch goes out whole. Only who finds the send buffer full takes
// the descriptor's lock, and waits for room or the write deadline.
func sendOn(rc syscall.RawConn, b, oob []byte, to netip.AddrPort) (n, oobn int, err error) {
	s := senderPool.Get().(*sender)
	s.point(b, oob)
	s.to(to)
	if err = rc.Control(s.once); err == nil && !s.settled {
		err = rc.Write(s.try)
	}
	if err == nil && s.errno != 0 {
		err = s.errno
	}
	n = s.n
	s.point(nil, nil)
	senderPool.Put(s)
	if err != nil {
		return 0, 0, err
	}
	return n, len(oob), nil
}
