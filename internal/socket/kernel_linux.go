package socket

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groSpace holds the control message that GRO adds, and that with the traffic class.
var groSpace = 2 * unix.CmsgSpace(4)

// dontFragment sets the DF bit on all that fd sends and keeps the kernel from
// learning path MTUs from ICMP, which strangers can forge: probes that the
// pipe answers for tell the MTU (RFC 8899 §4.2).
func dontFragment(fd uintptr, v6 bool) {
	if v6 {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		return
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

// forceBuffers goes beyond net.core.[rw]mem_max where the process may.
func forceBuffers(fd uintptr) {
	for _, o := range [...][2]int{{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}, {unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}} {
		// The kernel reports twice what it was asked for.
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, o[0]); err == nil && n < 2*socketBuffer {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// receiveBuffer returns what fits into the receive buffer of fd. The kernel
// reports what its own bookkeeping may take, which is up to twice as much.
func receiveBuffer(fd uintptr) int {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return 0
	}
	return n / 2
}

// enableOffloads turns receive offload on and asks whether there is send
// offload, which is asked for with each send. Old kernels know neither.
func enableOffloads(fd uintptr) (gso, gro bool) {
	_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	gso = err == nil
	gro = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	return gso, gro
}

// readMarks has the kernel tell the traffic class of what comes in.
func readMarks(fd uintptr, v6 bool) bool {
	if v6 {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1) == nil
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) == nil
}

// messages fills in the control messages that make one send call many
// datagrams of seg bytes, unless that is 0, and give each a traffic class,
// unless that is 0.
func (c *control) messages(seg uint16, class uint8, v6 bool) []byte {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&c.b)), unsafe.Sizeof(c.b))
	n := 0
	if seg > 0 {
		*(*uint16)(c.message(0, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = seg
		n = unix.CmsgSpace(2)
	}
	if class > 0 {
		level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if v6 {
			level, kind = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		*(*int32)(c.message(n, level, kind, 4)) = int32(class)
		n += unix.CmsgSpace(4)
	}
	return b[:n]
}

// message begins a control message with size bytes of data, to which it
// points, at byte n of c.
func (c *control) message(n int, level, kind int32, size int) unsafe.Pointer {
	at := unsafe.Add(unsafe.Pointer(&c.b), n)
	h := (*unix.Cmsghdr)(at)
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return unsafe.Add(at, unix.CmsgLen(0))
}

// told returns what the kernel tells of a run in oob: its segment size, 0 if it was one
// datagram, and its traffic class, 0 if nothing is said of it. What has different
// classes is never one run.
func told(oob []byte) (seg int, class uint8) {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return seg, class
		}
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			seg = int(*(*int32)(unsafe.Pointer(&data[0])))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			class = data[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			class = uint8(*(*int32)(unsafe.Pointer(&data[0])))
		}
		oob = rest
	}
	return seg, class
}

func truncated(flags int) bool { return flags&unix.MSG_TRUNC != 0 }

// refusesGSO reports whether err is how Linux says that this route, driver or
// segment size does not go with UDP_SEGMENT.
func refusesGSO(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// refusesClass reports whether err may be how the system says that it sends
// nothing of a traffic class.
func refusesClass(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
}

func isTooLong(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) }
